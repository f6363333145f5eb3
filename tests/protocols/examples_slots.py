"""Programs that disclose flags and compute on the blocks that they name."""

from examples import Collection, full

from comet_jax.protocols.bilinear import Bilinear
from comet_jax.protocols.comparison import BIT
from comet_jax.protocols.disclosure import Disclose
from comet_jax.protocols.opening import Lift, Open
from comet_jax.protocols.shuffle import Shuffle
from comet_jax.protocols.slots import IntoSlots, OpenSlots, OutOfSlots, Slots, TakeSlots
from comet_jax.protocols.sparse_opening import OpenSparse, Spread
from comet_jax.protocols.stash import Joined, Touched
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Opened, Shared

BLOCKS, SIZE, WIDTH = 3, 2, 4
DENSE = (((1, 2), (0, 1)), ((), ()))


def _flags(tokens: int):
    return Shared((tokens, BLOCKS), BIT), (0, 1)


def _slots(t: Collection, k: int, tokens: int, count: int) -> None:
    ring = Group(k)
    shared = lambda *shape: (Shared(shape, ring), full(ring))
    weight = lambda *shape: (Opened(shape, ring, static=True), full(ring))
    slots = lambda b, flags: b.emit(Slots(count), b.emit(Disclose("site"), flags))
    tag = f"{k}, {tokens} tokens, {count} slots"
    flags, blocks = _flags(tokens), (count, SIZE)

    def into(b, x, w, bias, f):
        return b.emit(IntoSlots(), b.emit(Open(k), x), w, bias, slots(b, f))

    up = [shared(tokens, WIDTH), weight(BLOCKS, SIZE, WIDTH), shared(BLOCKS, SIZE), flags]
    t.add(f"into {tag}", IntoSlots, up, into, rounds=1, dealt=k * tokens * BLOCKS * SIZE)

    def out(b, h, w, f):
        s = slots(b, f)
        return b.emit(OutOfSlots(tokens), b.emit(OpenSlots(k), h, s), w, s)

    down = [shared(*blocks), weight(BLOCKS, SIZE, WIDTH), flags]
    t.add(f"out of {tag}", OutOfSlots, down, out, rounds=2, dealt=k * tokens * BLOCKS * WIDTH)
    take = lambda b, v, f: b.emit(TakeSlots(tokens), v, slots(b, f))
    t.add(f"take {tag}", TakeSlots, [shared(BLOCKS, SIZE), flags], take, rounds=1, dealt=0)

    def whole(b, h, w, f):  # what it opens, and a product of it
        opened = b.emit(OpenSparse(k, (tokens, BLOCKS)), h, slots(b, f))
        return b.emit(Bilinear(DENSE), opened, w), b.emit(Lift(k), opened)

    t.add(f"open whole {tag}", OpenSparse, down, whole, rounds=2, dealt=0)
    spread = lambda b, h, f: b.emit(Spread((tokens, BLOCKS)), h, slots(b, f))
    t.add(f"spread {tag}", Spread, [down[0], flags], spread, rounds=1, dealt=0)
    for use in (Disclose, Slots, OpenSlots):
        bits = tokens * BLOCKS if use is Disclose else 0
        t.add(f"{use.__name__} {tag}", use, down, out, rounds=2, dealt=bits)


def _low_bits(t: Collection, k: int) -> None:
    """A wire that is opened whole at fewer bits than its ring has, which no seed fills evenly."""

    def opened(b, h, f):
        slots = b.emit(Slots(2), b.emit(Disclose("site"), f))
        return b.emit(Lift(k - 5), b.emit(OpenSparse(k - 5, (2, BLOCKS)), h, slots))

    given = [(Shared((2, SIZE), Group(k)), full(Group(k))), _flags(2)]
    t.add(f"open whole low bits {k}", OpenSparse, given, opened, rounds=2, dealt=0)


def _stash(t: Collection, k: int) -> None:
    """Flags that were disclosed one after the other, and the blocks at their places in an order that is a weight."""
    one, both = (Shared((1, BLOCKS), BIT), (0, 1)), (Opened((BLOCKS, BLOCKS), Group(k), static=True), full(Group(k)))

    def touched(b, m, first, second):
        before, new = (b.emit(Disclose("site"), f) for f in (first, second))
        return b.emit(Touched(), m, b.emit(Joined("site"), before, new))

    for use in (Touched, Joined):
        t.add(f"{use.__name__} {k}", use, [both, one, one], touched, rounds=1, dealt=0)


def _shuffle(t: Collection, k: int) -> None:
    """Weights whose blocks are on other axes, of one layer and of two in a stack."""
    weight = lambda *shape: (Opened(shape, Group(k), static=True), full(Group(k)))
    for name, steps in (("", ()), (" of two steps", (2,))):
        given = [weight(*steps, BLOCKS, SIZE, 2), weight(*steps, BLOCKS), weight(*steps, 2, BLOCKS)]
        axes = tuple(len(steps) + axis for axis in (0, 0, 1))
        mix = lambda b, *ws, axes=axes: b.emit(Shuffle(axes), *ws)
        dealt = (7 * k + 64) * BLOCKS * (2 if steps else 1)
        t.add(f"shuffle {k}{name}", Shuffle, given, mix, rounds=1, dealt=dealt)


def slots(t: Collection) -> None:
    """One token and several, with room for some, for all, and for more blocks than there are."""
    for k, tokens, count in ((32, 1, 2), (32, 1, 5), (32, 2, 3), (64, 2, 4)):
        _slots(t, k, tokens, count)
    for k in (32, 64):
        _stash(t, k)
        _shuffle(t, k)
        _low_bits(t, k)

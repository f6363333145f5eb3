"""Work on a few active blocks of many: a public number of slots, one block of neurons each.

Both parties know flags, one for each block of each token; nobody else does. ``Slots`` gives every active block a slot,
for all tokens together, and fills those that are left with dummies. Shapes depend on the number of slots alone, and so
does what is dealt: the dealer, who must not learn the flags, deals for every block.

With T tokens, G blocks of g neurons and C slots, a slot's number is that of its block, ``token * G + block``, or from
T G on for a dummy. A dummy holds zeros.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from comet_jax.protocols.protocol import Coins, Dealer, Material, Opening, Party, Protocol
from comet_jax.sharing.contraction import dot_general, of_rows
from comet_jax.sharing.groups import Group, signed
from comet_jax.sharing.packing import Item
from comet_jax.sharing.wires import Disclosed, Mask, Opened, OpenedPlain, OpenedShare, Plain, Seen, Share, Shared, Wire

NUMBERS = Group(32)
_LAST = (((1,), (1,)), ((), ()))  # rows by rows
_FIRST = (((1,), (0,)), ((), ()))


@dataclass(frozen=True)
class Slots(Protocol):
    """flags (T, G) -> numbers of ``count`` slots, no two alike: the active blocks, one of each token in turn, dummies.

    ``repeats``: that many tokens have the same flags. Where there are more active blocks than slots, the tokens with
    most give way (``turns``). Ideal functionality: that function. Argument: it is a function of what both parties know.
    Nothing is dealt or sent.
    """

    count: int
    repeats: int = 1

    def outputs(self, flags: Disclosed):
        if self.count < 1 or self.repeats < 1 or flags.group.bits != 1:
            raise ValueError(f"{self.count} slots for flags of {flags.group}, {self.repeats} times")
        blocks = self.repeats * int(np.prod(flags.shape))
        return (Disclosed((self.count,), NUMBERS, below=blocks + self.count),)

    def deal(self, dealer: Dealer, flags: Disclosed):
        return self.outputs(flags)

    def _numbers(self, flags: jax.Array) -> jax.Array:
        once = flags.reshape(-1, flags.shape[-1]) == 1
        active = jnp.broadcast_to(once, (self.repeats, *once.shape)).reshape(-1, once.shape[-1])
        slot = jnp.where(active, turns(active), self.count).reshape(-1)
        dummies = jnp.arange(self.count, dtype=jnp.uint32) + np.uint32(active.size)
        return dummies.at[slot].set(jnp.arange(active.size, dtype=jnp.uint32), mode="drop")

    def online(self, party: Party, material: Material, flags: Seen):
        return (self._numbers(flags.v),)

    def ideal(self, coins: Coins, flags: Seen):
        return (self._numbers(flags.v),)


def turns(active: jax.Array) -> jax.Array:
    """When each active block's turn is, int32[T, G], the first being 0: every token has its first one, then its second.

    So a limit on their number is a limit on what a token has, and those with few keep all. ``active``: bool[T, G].
    """
    mine = jnp.cumsum(active, 1, dtype=jnp.int32) - 1  # how many of its token come before it
    there = jnp.arange(active.shape[1]) < active.sum(1, keepdims=True)  # (T, G): the tokens that have so many
    rounds = there.sum(0, dtype=jnp.int32)
    turn = jnp.cumsum(there, 0, dtype=jnp.int32) - 1 + jnp.cumsum(rounds) - rounds
    return jnp.take_along_axis(turn, jnp.maximum(mine, 0), 1)


def _rows(array: jax.Array, numbers: jax.Array) -> jax.Array:
    """Rows of ``array`` by number; zeros beyond its end."""
    return array.at[numbers].get(mode="fill", fill_value=0)


@dataclass(frozen=True)
class TakeSlots(Protocol):
    """[v] of shape (G, g), slots -> [v in the slots' blocks] (C, g), whatever their tokens; zero for dummies.

    Ideal functionality: that. Argument: each party takes rows of its share by numbers that both know. Nothing is dealt
    or sent. ``tokens``: as many as have G slots each.
    """

    tokens: int

    def outputs(self, v: Shared, slots: Disclosed):
        if len(v.shape) != 2 or slots.below != self.tokens * v.shape[0] + slots.shape[0]:
            raise ValueError(f"no rows of {v} for slots {slots} of {self.tokens} tokens")
        return (Shared((*slots.shape, v.shape[1]), v.group),)

    def narrowed(self, bits: int, *inputs: Wire):
        return self, (bits, NUMBERS.bits)

    def deal(self, dealer: Dealer, v: Shared, slots: Disclosed):
        return self.outputs(v, slots)

    def _taken(self, v: jax.Array, slots: Seen) -> jax.Array:
        blocks = np.uint32(len(v))
        return _rows(v, jnp.where(slots.v < self.tokens * blocks, slots.v % blocks, blocks))

    def online(self, party: Party, material: Material, v: Share, slots: Seen):
        return (self._taken(v.x, slots),)

    def ideal(self, coins: Coins, v: Plain, slots: Seen):
        return (self._taken(v.v, slots),)


@dataclass(frozen=True)
class OpenSlots(Opening, Protocol):
    """[x] of shape (C, g), slots -> <y> of shape (n, g): x in the rows that the slots number, zero in the others.

    Slot s is opened under row ``slots[s]`` of a mask with a row for every block and every dummy. Whole, at the low
    ``width`` bits. Ideal functionality: y, with a uniform c in the rows that were opened. Argument: no two slots have
    one number, so each row of the mask is used once or never; which ones is known from the flags. Rows that were not
    opened have no c: they read as zero, and whoever uses this wire reads the slots' rows alone.
    Cost: one round, ``width`` bits an element of x. Nothing is dealt.
    """

    width: int

    def outputs(self, x: Shared, slots: Disclosed):
        if slots.below is None or x.shape[:1] != slots.shape or x.group.xor or self.width > x.group.bits:
            raise ValueError(f"cannot open {x} in slots {slots}")
        return (Opened((slots.below, *x.shape[1:]), Group(self.width)),)

    def item(self, x: Shared, slots: Disclosed) -> Item:
        return Item(x.shape, Group(self.width))

    def narrowed(self, bits: int, *inputs: Wire):
        return OpenSlots(bits), (bits, NUMBERS.bits)

    def deal(self, dealer: Dealer, x: Shared, slots: Disclosed):
        (wire,) = self.outputs(x, slots)
        return (Mask(wire, dealer.mask("r", wire.item)),)

    def chosen(self, material: Material, slots: Seen) -> jax.Array:
        """The rows of the mask that cover this opening."""
        return material["r"].at[slots.v].get(mode="promise_in_bounds")

    def send(self, party: Party, material: Material, x: Share, slots: Seen) -> jax.Array:
        group = Group(self.width)
        return group.add(group.cast(x.x), self.chosen(material, slots))

    def receive(self, material: Material, x: Share, slots: Seen, c: jax.Array) -> OpenedShare:
        (wire,) = self.outputs(x.wire, slots.wire)
        return OpenedShare(wire, self._spread(wire, slots, c), material["r"])

    def _spread(self, wire: Opened, slots: Seen, rows: jax.Array) -> jax.Array:
        return jnp.zeros(wire.shape, rows.dtype).at[slots.v].set(rows)

    def coins(self, party: Party, x: Share, slots: Seen) -> Material:
        return {}

    def ideal(self, coins: Coins, x: Plain, slots: Seen):
        (wire,) = self.outputs(x.wire, slots.wire)
        y = signed(wire.group.cast(x.v), wire.group.bits)
        return (self._spread(wire, slots, y), coins.opened(wire))


@dataclass(frozen=True)
class IntoSlots(Protocol):
    """<x> (T, d), <W> (G, g, d) static, [b] (G, g), slots -> [x W + b] (C, g), for the slots' tokens and blocks.

    Beaver's product with masks that belong to wires (bilinear.py), of which only the slots' elements are taken. For
    one token only the active blocks of W are read; for more, whose blocks differ, the product is computed whole, which
    is local, and the slots are taken from it.
    Ideal functionality: that product, zero for dummies. Argument: local, from values that are public already and dealt
    arrays that were shared afresh, one for every token and neuron, active or not.
    Dealt: r_x r_W, one ring element for each token and neuron. Online: nothing.
    """

    def outputs(self, x: Opened, w: Opened, b: Shared, slots: Disclosed):
        plain = not x.static and not x.headroom and x.where is None and w.static and slots.below is not None
        if not plain or len({x.group, w.group, b.group}) != 1 or w.shape[2:] != x.shape[1:] or b.shape != w.shape[:2]:
            raise ValueError(f"no product of {x} and {w} with {b} into slots {slots}")
        return (Shared((*slots.shape, w.shape[1]), x.group),)

    def narrowed(self, bits: int, *inputs: Wire):
        return self, (bits, bits, bits, NUMBERS.bits)

    def products(self, *inputs: Wire) -> int:
        x, w, _, slots = inputs
        blocks = slots.shape[0] if x.shape[0] == 1 else x.shape[0] * w.shape[0]
        return blocks * w.shape[1] * w.shape[2]

    def deal(self, dealer: Dealer, x: Mask, w: Mask, b: Shared, slots: Disclosed):
        dealer.give("rr", _whole(x.r, w.r), x.wire.group)
        return self.outputs(x.wire, w.wire, b, slots)

    def offline(self, party: Party, material: Material, x: OpenedShare, w: OpenedShare, b, slots):
        return {"ready": x.wire.group.sub(material["rr"], _whole(x.mask, w.value))}

    def online(self, party: Party, material: Material, x: OpenedShare, w: OpenedShare, b: Share, slots: Seen):
        assert w.x is not None
        return (self._product(x.value, w.x, b.x, material["ready"], slots, x.wire.group),)

    def _product(self, x, w, b, ready, slots: Seen, group: Group):
        blocks = len(w)
        if len(x) == 1:
            z = _times_row(_rows(w, slots.v), x) + _rows(b, slots.v) + _rows(ready[0], slots.v)
            return group.reduce(z)
        whole = _whole(x, w) + ready + b
        return group.reduce(_rows(whole.reshape(len(x) * blocks, -1), slots.v))

    def ideal(self, coins: Coins, x: OpenedPlain, w: OpenedPlain, b: Plain, slots: Seen):
        group = x.wire.group
        ready = jnp.zeros((x.y.shape[0], *w.y.shape[:2]), group.dtype)
        return (self._product(_words(x.y, group), _words(w.y, group), b.v, ready, slots, group),)


def _whole(x: jax.Array, w: jax.Array) -> jax.Array:
    """x (T, d) and w (G, g, d) -> (T, G, g)."""
    return dot_general(x, w.reshape(-1, w.shape[-1]), _LAST).reshape(len(x), *w.shape[:2])


def _times_row(w: jax.Array, x: jax.Array) -> jax.Array:
    """w (C, g, d) and x (1, d) -> (C, g)."""
    return dot_general(w.reshape(-1, w.shape[-1]), x, _LAST).reshape(w.shape[:2])


@dataclass(frozen=True)
class OutOfSlots(Protocol):
    """<h> (n, g) opened in slots, <W> (G, g, d) static, slots -> [the sum of h W over each token's slots] (T, d).

    ``h W = c_h [W] - [r_h] c_W + [r_h r_W]``, summed over the active blocks of a token. Which those are the dealer
    must not know, so it deals the last term for every token and block.
    Ideal functionality: that sum. Argument: local, from values that are public already and dealt arrays that were
    shared afresh; a block's is used if the block is active, and otherwise never.
    Dealt: r_h r_W, d ring elements for each token and block: 1/g of them a neuron. Online: nothing.
    """

    tokens: int

    def outputs(self, h: Opened, w: Opened, slots: Disclosed):
        rows = self.tokens * w.shape[0]
        plain = not h.static and not h.headroom and h.where is None and w.static and slots.below == h.shape[0]
        if not plain or h.group != w.group or h.shape[1:] != w.shape[1:2] or rows + slots.shape[0] != slots.below:
            raise ValueError(f"no product of {h} and {w} out of slots {slots}")
        return (Shared((self.tokens, w.shape[2]), h.group),)

    def narrowed(self, bits: int, *inputs: Wire):
        return self, (bits, bits, NUMBERS.bits)

    def products(self, *inputs: Wire) -> int:
        _, w, slots = inputs
        blocks = slots.shape[0] if self.tokens == 1 else self.tokens * w.shape[0]
        return blocks * w.shape[1] * w.shape[2]

    def deal(self, dealer: Dealer, h: Mask, w: Mask, slots: Disclosed):
        dealer.give("rr", self._each(h.r, w.r), h.wire.group)
        return self.outputs(h.wire, w.wire, slots)

    def _each(self, h, w):
        """h (n, g) and w (G, g, d) -> every token's and block's own product, (T, G, d)."""
        h = h[: self.tokens * len(w)].reshape(self.tokens, *w.shape[:2])
        by_block = dot_general(h, w, (((2,), (1,)), ((1,), (0,))))
        return by_block.transpose(1, 0, 2)

    def offline(self, party: Party, material: Material, h: OpenedShare, w: OpenedShare, slots):
        return {"ready": h.wire.group.sub(material["rr"], self._each(h.mask, w.value))}

    def online(self, party: Party, material: Material, h: OpenedShare, w: OpenedShare, slots: Seen):
        assert w.x is not None
        group, ready = h.wire.group, material["ready"]
        rows = _rows(ready.reshape(-1, ready.shape[-1]), slots.v)
        return (group.reduce(self._product(h.value, w.x, slots) + self._by_token(rows, slots, len(w.x))),)

    def _by_token(self, rows, slots: Seen, blocks: int):
        """The sum of each token's rows."""
        if self.tokens == 1:
            return rows.sum(0, keepdims=True, dtype=rows.dtype)
        token = slots.v // np.uint32(blocks)  # beyond the last for dummies
        return jnp.zeros((self.tokens, rows.shape[-1]), rows.dtype).at[token].add(rows, mode="drop")

    def _product(self, h, w, slots: Seen):
        if self.tokens == 1:
            return of_rows(_rows(h, slots.v), w, slots.v)[None]
        dense = h[: self.tokens * len(w)].reshape(self.tokens, -1)
        return dot_general(dense, w.reshape(-1, w.shape[-1]), _FIRST)

    def ideal(self, coins: Coins, h: OpenedPlain, w: OpenedPlain, slots: Seen):
        group = h.wire.group
        return (group.reduce(self._product(_words(h.y, group), _words(w.y, group), slots)),)


def _words(y: jax.Array, group: Group) -> jax.Array:
    """Signed values as elements of ``group``."""
    return group.cast(jax.lax.bitcast_convert_type(y, jnp.uint64))

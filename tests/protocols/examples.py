"""One or more small programs for every protocol, with the values that it is meant for and what it should cost."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from comet_jax.gadgets.bits import at_least, compare, open_truncated
from comet_jax.ir.program import Builder, Op, Program, Var
from comet_jax.ir.variant import Variant
from comet_jax.protocols.bilinear import Bilinear, Product, RowSquares
from comet_jax.protocols.booleans import And, Xor
from comet_jax.protocols.comparison import BIT, Borrow, DigitLookup
from comet_jax.protocols.fourier import Fourier, fit
from comet_jax.protocols.linear import Combine, Rearrange, Resize, RunningSum, Scale, Sum, Table
from comet_jax.protocols.opening import HighBits, Lift, Open, Reveal
from comet_jax.protocols.public import Constant, PublicProduct
from comet_jax.protocols.selection import Gate, LookupGate, Parity, ToArithmetic
from comet_jax.protocols.softmax import ExpTable, LevelCounts
from comet_jax.sharing.groups import Group
from comet_jax.sharing.packing import Where
from comet_jax.sharing.wires import Opened, Shared

Range = tuple[int, int]


@dataclass(frozen=True)
class Example:
    """``program`` on values in ``ranges``, one (lowest, highest) an input.

    ``rounds``: of the program. ``dealt``: bits that the protocol named by ``protocol`` deals, all its uses together.
    """

    name: str
    protocol: type
    program: Program
    ranges: tuple[Range, ...]
    rounds: int
    dealt: int

    @property
    def uses(self) -> list[tuple[int, Op]]:
        """The operations of the protocol that the example is for."""
        return [(i, op) for i, op in enumerate(self.program.ops) if isinstance(op.protocol, self.protocol)]

    def values(self, rng: np.random.Generator, runs: int) -> list[np.ndarray]:
        """Values in range, of every magnitude, with the limits among them."""
        return [_values(rng, r, (runs, *v.shape)) for r, v in zip(self.ranges, self.program.inputs)]

    def constant(self, seed: int, runs: int) -> list[np.ndarray]:
        """The same values in every run."""
        once = self.values(np.random.default_rng(seed), 1)
        return [np.repeat(x, runs, 0) for x in once]


def _values(rng: np.random.Generator, limits: Range, shape) -> np.ndarray:
    low, high = limits
    even = rng.integers(low, high, shape, endpoint=True)
    small = even >> rng.integers(0, 64, shape)
    edges = rng.choice(np.clip([low, low + 1, -1, 0, 1, high - 1, high], low, high), shape)
    return np.choose(rng.integers(0, 3, shape), [even, np.clip(small, low, high), edges])


@dataclass
class Collection:
    """Collects examples."""

    found: list[Example] = field(default_factory=list)

    def add(
        self, name: str, protocol: type, inputs, build: Callable[..., Var | tuple[Var, ...]], *, rounds: int, dealt: int
    ) -> None:
        """``inputs``: wire and range of each; ``build(b, *vars)`` emits the program and returns its outputs."""
        b = Builder()
        variables = [b.input(wire) for wire, _ in inputs]
        out = build(b, *variables)
        program = b.finish(*(out if isinstance(out, tuple) else (out,)))
        self.found.append(Example(name, protocol, program, tuple(r for _, r in inputs), rounds, dealt))


def full(group: Group) -> Range:
    """Every element of a group."""
    return -(1 << (group.bits - 1)), (1 << (group.bits - 1)) - 1


def room(bits: int, shift: int = 0) -> Range:
    """What a wire with headroom holds, before ``shift`` bits are dropped."""
    return -(1 << (bits - 2 + shift)) + (1 << shift), (1 << (bits - 2 + shift)) - (1 << shift)


MASK = Where(np.array([[True, False, True], [False, False, True]]))
NOTHING = Where(np.zeros((2, 3), bool))


def _opening(t: Collection, k: int, shape, size: int) -> None:
    ring = Group(k)
    x = Shared(shape, ring)
    tag = f"{k} {'x'.join(map(str, shape)) or 'scalar'}"
    lift_all = lambda b, w: b.emit(Lift(w.bits), w)
    t.add(f"open {tag}", Open, [(x, full(ring))], lambda b, v: lift_all(b, b.emit(Open(k), v)), rounds=1, dealt=0)
    m, s = k // 2 + 3, k // 3
    lift = lambda b, v: b.emit(Lift(k), open_truncated(b, v, shift=s, width=m))
    t.add(f"truncate {tag}", Open, [(x, room(m, s))], lift, rounds=1, dealt=0)
    t.add(f"lift {tag}", Lift, [(x, room(m, s))], lift, rounds=1, dealt=(2 * k - m) * size)
    low = lambda b, v: b.emit(Lift(9), b.emit(Open(9, s), v))
    t.add(f"open low bits {tag}", Open, [(x, full(ring))], low, rounds=1, dealt=0)
    t.add(f"high bits {tag}", HighBits, [(x, full(ring))], lambda b, v: b.emit(HighBits(s), v), rounds=0, dealt=0)
    t.add(f"reveal {tag}", Reveal, [(x, full(ring))], lambda b, v: b.emit(Reveal(), v), rounds=0, dealt=k * size)


def _where(t: Collection, k: int) -> None:
    ring, x = Group(k), Shared((2, 3), Group(k))
    m, s = k // 2 + 3, k // 3
    for name, where in (("some", MASK), ("none", NOTHING)):
        lift = lambda b, v, where=where: b.emit(Lift(k), open_truncated(b, v, shift=s, width=m, where=where))
        t.add(f"lift {k} of {name}", Lift, [(x, room(m, s))], lift, rounds=1, dealt=(2 * k - m) * where.count)
    whole = lambda b, v: b.emit(Lift(k), b.emit(Open(k, where=MASK), v))
    t.add(f"open {k} of some", Open, [(x, full(ring))], whole, rounds=1, dealt=0)


def _local(t: Collection, k: int) -> None:
    ring = Group(k)
    x, y = Shared((2, 3), ring), Shared((2, 3), ring)
    each = [(x, full(ring)), (y, full(ring))]
    table = Table(np.arange(-3, 3, dtype=np.int64).reshape(2, 3))
    local = {"rounds": 0, "dealt": 0}
    t.add(f"combine {k}", Combine, each, lambda b, v, w: b.emit(Combine((3, -1), table), v, w), **local)
    t.add(f"scale {k}", Scale, each[:1], lambda b, v: b.emit(Scale(table), v), **local)
    t.add(f"resize {k}", Resize, each[:1], lambda b, v: b.emit(Resize(k - 7), v), **local)
    t.add(f"sum {k}", Sum, each[:1], lambda b, v: b.emit(Sum((1,)), v), **local)
    for reverse in (False, True):
        run = RunningSum(1, reverse)
        t.add(f"running sum {k} {reverse}", RunningSum, each[:1], lambda b, v, p=run: b.emit(p, v), **local)
    plus = lambda b, v: b.emit(Combine((1, 1)), v, b.emit(Constant(table, k)))
    t.add(f"constant {k}", Constant, each[:1], plus, **local)
    opened = lambda b, v: b.emit(ToArithmetic(5), b.emit(Open(1), b.emit(Parity(), v)))
    t.add(f"parity {k}", Parity, each[:1], opened, rounds=1, dealt=0)
    for first in (False, True):
        dims = (((1,), (1,)), ((), ()))
        step = PublicProduct.of(table.values, dims, table_first=first)
        t.add(f"public product {k} {first}", PublicProduct, each[:1], lambda b, v, p=step: b.emit(p, v), **local)

    def moved(b, v, w):
        a, c = b.emit(Open(k), v), b.emit(Open(k), w)
        both = b.emit(Rearrange("concatenate", (0,)), a, c)
        turned = b.emit(Rearrange("transpose", ((1, 0),)), both)
        padded = b.emit(Rearrange("pad", (((0, 1, 0), (1, 0, 1)),)), turned)
        shares = b.emit(Rearrange("slice", ((0, 1), (2, 3), (1, 2))), v)
        return b.emit(Lift(k), padded), b.emit(Rearrange("broadcast", ((4, 2, 1), (1, 2))), shares)

    t.add(f"rearrange {k}", Rearrange, each, moved, rounds=1, dealt=0)

    def repeated(b, v):
        w = open_truncated(b, v, shift=0, width=20, where=MASK)
        return b.emit(Lift(k), b.emit(Rearrange("broadcast", ((3, 2, 3), (1, 2))), w))

    t.add(f"rearrange {k} a choice", Rearrange, [(x, room(20))], repeated, rounds=1, dealt=0)


def _products(t: Collection, k: int) -> None:
    ring = Group(k)
    x, y = (Shared((2, 3), ring), full(ring)), (Shared((4, 3), ring), full(ring))
    weight = (Opened((4, 3), ring, static=True), full(ring))
    rows = (((1,), (1,)), ((), ()))
    product = lambda dims, where=None: (
        lambda b, v, w: b.emit(
            Bilinear(dims, where), *(b.emit(Open(k), u) if isinstance(u.wire, Shared) else u for u in (v, w))
        )
    )
    t.add(f"product {k} by weights", Bilinear, [x, weight], product(rows), rounds=1, dealt=8 * k)
    if k == 32:  # the digits of 64 bits take long to compile; these differ in the party's step only
        t.add("product 32", Bilinear, [x, y], product(rows), rounds=1, dealt=8 * k)
        t.add("product 32 of weights", Bilinear, [weight, x], product(rows), rounds=1, dealt=8 * k)
        chosen = Where(np.arange(8).reshape(2, 4) % 3 == 0)
        t.add("product 32 of some", Bilinear, [x, y], product(rows, chosen), rounds=1, dealt=3 * k)
    t.add(f"elements {k}", Bilinear, [x, x], product(None), rounds=1, dealt=6 * k)
    square = lambda b, v: b.emit(Bilinear(), *[b.emit(Open(k), v)] * 2)
    t.add(f"square {k}", Bilinear, [x], square, rounds=1, dealt=6 * k)
    nothing = [(Shared((2, 0), ring), full(ring)), (Shared((3, 0), ring), full(ring))]
    t.add(f"product {k} of nothing", Bilinear, nothing, product(rows), rounds=1, dealt=6 * k)


def _wide(t: Collection) -> None:
    """Products of wires opened at fewer bits, in Z_2^64."""
    ring = Group(64)
    y, per_row, per_element = (Shared(s, ring) for s in ((2, 3), (2,), (2, 3)))

    def product(my, mi, where=None):
        def build(b, v, w):
            yw = open_truncated(b, v, shift=5, width=my, where=where)
            iw = open_truncated(b, w, shift=3, width=mi)
            return b.emit(Product(), yw, b.emit(Lift(64), yw), iw, b.emit(Lift(64), iw))

        return build

    limits = lambda my, mi: (room(my, 5), room(mi, 3))
    for name, i, my, mi, where in (
        ("rows", per_row, 20, 17, None),
        ("elements", per_element, 20, 17, None),
        ("some", per_row, 20, 17, MASK),
        ("most bits", per_row, 40, 30, None),
    ):
        bits = 64 + (64 - my) + (64 - mi) + max(0, 64 - my - mi)
        a, c = limits(my, mi)
        count = 6 if where is None else where.count
        t.add(f"{name} 64", Product, [(y, a), (i, c)], product(my, mi, where), rounds=1, dealt=bits * count)

    def squares(b, v):
        w = open_truncated(b, v, shift=5, width=19)
        return b.emit(RowSquares(), w, b.emit(Lift(64), w))

    t.add("row squares 64", RowSquares, [(y, room(19, 5))], squares, rounds=1, dealt=2 * 64 + 6 * (63 - 19))


def _bits(t: Collection, k: int) -> None:
    ring, m, s = Group(k), 20, 5
    x = (Shared((2, 3), ring), room(m, s))
    whole = ((1 << 2) - 1, (1 << 4) - 1)  # tables of digits of 2 and 4 bits

    def flags(thresholds, low=0, width=m, where=None):
        def build(b, v):
            w = open_truncated(b, v, shift=s, width=width, where=where)
            return b.emit(ToArithmetic(k), at_least(b, w, thresholds, low=low))

        return build

    digits = 4 * whole[1] + whole[0] + 1
    one = lambda bits: (Shared((2, 3), ring), room(bits - 1, s))
    t.add(f"compare {k}", DigitLookup, [x], flags((0,)), rounds=3, dealt=6 * digits)
    t.add(f"compare {k} with three", DigitLookup, [one(m)], flags((-9000, 1, 9000)), rounds=3, dealt=6 * digits)
    t.add(f"compare {k} of some", DigitLookup, [x], flags((0,), where=MASK), rounds=3, dealt=3 * digits)
    t.add(f"compare {k} roughly", DigitLookup, [x], flags((0,), low=14), rounds=2, dealt=6 * 16)
    t.add(f"compare {k} two digits", Borrow, [(x[0], room(10, s))], flags((0,), width=10), rounds=3, dealt=6)
    t.add(f"as integers {k}", ToArithmetic, [x], flags((0,)), rounds=3, dealt=6 * k)

    def looked_up(low, digit, thresholds=(0,), where=None, width=m):
        def build(b, v):
            b.variant = Variant(digit, word=5)
            w = open_truncated(b, v, shift=s, width=width, where=where)
            return compare(b, w, thresholds, low=low).number(k)

        return build

    # Digits of 8 and 7 bits in words of 64 entries, and of 6 in one.
    wide = 256 + 256 + 3 + 1
    t.add(f"compare {k} by wide digits", DigitLookup, [x], looked_up(0, 8), rounds=2, dealt=6 * wide)
    t.add(
        f"compare {k} by wide digits of some", DigitLookup, [x], looked_up(0, 8, (0,), MASK), rounds=2, dealt=3 * wide
    )
    three = looked_up(1, 6, (-5000, 1, 5000))
    t.add(f"look up {k} with three", DigitLookup, [one(m)], three, rounds=2, dealt=6 * (63 + 63 + 31 + 1))
    t.add(f"compare {k} seven bits", DigitLookup, [x], looked_up(3, 7), rounds=2, dealt=6 * (2 * 128 + 3 + 1 - 2))

    def inverted(b, v):
        z = at_least(b, open_truncated(b, v, shift=s, width=m), (0,), low=14)
        return b.emit(ToArithmetic(k), b.emit(Xor(flip=Table(np.array(1))), z)), b.emit(ToArithmetic(k), z)

    t.add(f"not {k}", Xor, [x], inverted, rounds=2, dealt=0)

    def gated(width, coefficients, where=None, variant=None):
        def build(b, v):
            b.variant = variant or b.variant
            w = open_truncated(b, v, shift=s if width < k else 0, width=width, where=where)
            low = width - (12 if variant else 6)
            z = compare(b, w, tuple(1000 * i for i in range(len(coefficients))), low=low)
            return z.gate(coefficients, w, b.emit(Lift(k), w))

        return build

    t.add(f"gate {k}", Gate, [one(m)], gated(m, (1, -3)), rounds=2, dealt=12 * (3 * k - m))
    t.add(f"gate {k} of some", Gate, [one(m)], gated(m, (1,), MASK), rounds=2, dealt=6 * (3 * k - m))
    t.add(f"gate {k} whole", Gate, [(x[0], room(k - 1))], gated(k, (1,)), rounds=2, dealt=6 * 2 * k)
    by_table = lambda width, coefficients, where=None: gated(width, coefficients, where, Variant(5, 3))
    entries = 8 * (3 * k - m)
    t.add(f"look-up gate {k}", LookupGate, [one(m)], by_table(m, (1, -3)), rounds=2, dealt=12 * entries)
    t.add(f"look-up gate {k} of some", LookupGate, [one(m)], by_table(m, (1,), MASK), rounds=2, dealt=6 * entries)
    whole_wire = [(x[0], room(k - 1))]
    t.add(f"look-up gate {k} whole", LookupGate, whole_wire, by_table(k, (1,)), rounds=2, dealt=6 * 8 * 2 * k)


def _tables(t: Collection, k: int) -> None:
    ring, low = Group(k), 6
    x = (Shared((2, 3), ring), (0, (28 << low + 3) - 1))
    for name, where in (("", None), (" of some", MASK)):
        count = 6 if where is None else where.count
        levels = lambda b, v, where=where: b.emit(LevelCounts(low), b.emit(Open(low + 5, 3, where=where), v))
        t.add(f"levels {k}{name}", LevelCounts, [x], levels, rounds=1, dealt=count * 32 * 2)
        power = ExpTable(low, 4 / (1 << low), 27, k, 10, 12)
        exp = lambda b, v, where=where, power=power: b.emit(power, b.emit(Open(low + 5, 3, where=where), v))
        t.add(f"exp {k}{name}", ExpTable, [x], exp, rounds=1, dealt=count * 32 * k)
    series, _ = fit(np.cos, -3.0, 3.0, unit=2.0**-8, period=11, terms=5, scale=10)
    wave = lambda b, v: b.emit(Fourier(series, 11, k), open_truncated(b, v, shift=4, width=11))
    y = (Shared((2, 3), ring), room(11, 4))
    t.add(f"series {k}", Fourier, [y], wave, rounds=1, dealt=6 * 10 * k)


def _words(t: Collection) -> None:
    base = (Shared((2, 3), BIT), (0, 1))
    for bits in (2, 4, 8):
        pairs = bits // 2
        products = 3 * (1 << pairs) - 2 * pairs - 3
        borrow = lambda b, u, v, bits=bits: b.emit(Borrow(), u, b.emit(Open(bits), v))
        word = (Shared((2, 3), Group(bits, xor=True)), (0, (1 << bits) - 1))
        t.add(f"borrow {bits}", Borrow, [base, word], borrow, rounds=1, dealt=6 * products)
    chosen = lambda b, u, v: b.emit(Borrow(), u, b.emit(Open(4, where=MASK), v))
    t.add("borrow of some", Borrow, [base, (Shared((2, 3), Group(4, xor=True)), (0, 15))], chosen, rounds=1, dealt=30)


def _logic(t: Collection) -> None:
    """Bits of every value, and gates of gates."""
    bits = [(Shared((2, 3), BIT), (0, 1))] * 2
    keep, flip = Table(np.array([[1, 0, 1]])), Table(np.array([[0, 1, 1], [1, 1, 0]]))
    opened = lambda b, u, v: (b.emit(Open(1), u), b.emit(Open(1), v))

    def sums(b, u, v):
        p, q = opened(b, u, v)
        each = b.emit(Xor(), p, q), b.emit(Xor(keep, flip), p, q), b.emit(Xor(keep), p)
        return tuple(b.emit(ToArithmetic(5), z) for z in (*each, p))

    t.add("xor", Xor, bits, sums, rounds=1, dealt=0)
    t.add("and", And, bits, lambda b, u, v: b.emit(And(), *opened(b, u, v)), rounds=1, dealt=6)

    def related(b, u, v):
        p, q = opened(b, u, v)
        both = b.emit(Open(1), b.emit(And(), p, b.emit(Xor(flip=flip), p, q)))
        return b.emit(And(), both, b.emit(Xor(), both, q))

    t.add("and of what is related", And, bits, related, rounds=2, dealt=12)


def examples() -> list[Example]:
    """All of them."""
    from examples_lookup import lookups
    from examples_slots import slots

    t = Collection()
    for k in (32, 64):
        for shape, size in (((), 1), ((5,), 5), ((2, 0, 3), 0)):
            _opening(t, k, shape, size)
        _where(t, k)
        _local(t, k)
        _products(t, k)
        _bits(t, k)
        _tables(t, k)
    _wide(t)
    _words(t)
    _logic(t)
    lookups(t)
    slots(t)
    return t.found

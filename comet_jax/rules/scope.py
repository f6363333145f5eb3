"""The context that rules are written against: emitting operations, encoding inputs, changing scales."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from comet_jax.gadgets.bits import requantise
from comet_jax.ir.jaxprs import Node, Value
from comet_jax.ir.program import Builder, Var
from comet_jax.policy import Numbers, Range
from comet_jax.protocols.linear import Combine, Rearrange, Scale, Table
from comet_jax.protocols.opening import Open
from comet_jax.protocols.public import Constant
from comet_jax.protocols.selection import Parity
from comet_jax.rules.terms import PUBLIC, Env, Joint, Known, Owned, Scaled, Term, VaryingError
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Opened, Shared

# Fraction bits of a factor below which a product says nothing.
LEAST_FRACTION = 4


@dataclass(frozen=True)
class Order:
    """Of an input with blocks in a secret order: ``layer`` tells the order from others; the blocks are on ``axis``."""

    layer: object
    axis: int


@dataclass(frozen=True, eq=False)
class Encoding:
    """An input of a program: whose value it is, how it is computed, and the integers that it becomes.

    A ``static`` input is a weight, opened once under a mask; others are only shared. One in a secret ``order`` is
    permuted afresh for each epoch of runs: it is shared, and opened if static, once an epoch.
    """

    source: Owned
    static: bool
    scale: float
    group: Group
    order: Order | None = None

    @property
    def renewed(self) -> bool:
        """Whether it is shared afresh for each epoch."""
        return self.order is not None

    @property
    def owner(self) -> str:
        """Whose value it is."""
        return self.source.owner

    @property
    def name(self) -> str:
        """Its path, for messages."""
        return self.source.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.source.shape

    def compute(self, env: Env) -> np.ndarray:
        """The value, in its owner's environment."""
        return self.source.at(env)


@dataclass(frozen=True)
class Place:
    """The result of one operation at one place: its fraction bits, and the bits that the ring has to spare."""

    fraction: float
    headroom: float | None


@dataclass(eq=False)
class Scope:
    """One level of a program under construction: the outermost, or the body of a scan in ``outer``.

    ``call``: which call of an epoch the program is for. ``carried``: for each gate with an epoch the flags that it
    takes from the call before and those that it hands to the next; None where there is no such call.
    """

    numbers: Numbers
    b: Builder = field(default_factory=Builder)
    encodings: dict[tuple, tuple[Var, Encoding]] = field(default_factory=dict)
    consumers: dict[Value, list[Node]] = field(default_factory=dict)
    ranges: dict[Value, Range] = field(default_factory=dict)
    places: dict[tuple[str, str], "Place"] = field(default_factory=dict)
    outer: "Scope | None" = None
    call: int = 0
    carried: list[tuple[Var | None, Var | None]] = field(default_factory=list)

    def __post_init__(self):
        if self.outer:
            self.b.variant, self.call = self.outer.b.variant, self.outer.call

    @property
    def depth(self) -> int:
        """How many loops this level is in."""
        return 0 if self.outer is None else self.outer.depth + 1

    @property
    def ring(self) -> Group:
        """The ring of shares."""
        return Group(self.numbers.ring)

    @property
    def raw_scale(self) -> float:
        """Scale of linear results."""
        return 2.0**self.numbers.raw

    def calibrated(self, x: Joint | Owned | Value) -> Range | None:
        """Magnitudes of a term, or of a result (``node.outputs[0]``), where calibration has found them."""
        return self.ranges.get(x) if isinstance(x, Value) else x.range

    def note(self, site: str, operation: str, made: Scaled, found: Range | None) -> None:
        """Keep what is known of a result for people: for several of one place, the least."""
        fraction = math.log2(made.scale)
        room = made.var.bits - 2 - fraction - math.log2(found.largest) if found else None
        before = self.places.get((site, operation))
        if before:
            fraction = min(fraction, before.fraction)
            room = before.headroom if room is None else room if before.headroom is None else min(room, before.headroom)
        self.places[site, operation] = Place(fraction, room)

    def range_of(self, x: Joint | Owned | Value) -> Range:
        """Magnitudes of a term or a result: calibrated, or the policy's for all."""
        return self.calibrated(x) or self.numbers.range

    def scale_of(self, x: Joint | Owned | Value) -> float:
        """Scale of a linear result: the raw scale, or less where large values need the room."""
        n, room = self.numbers, self.range_of(x).room
        finest = n.raw if n.finest is None else n.finest
        return min(2.0**finest, 2.0 ** (n.ring - 2) / room) if room else self.raw_scale

    def factors(self, x: Joint, y: Joint, v: Value) -> tuple[Scaled, Scaled]:
        """Two factors, opened at scales at which the calibrated values of their product ``v`` fit the ring.

        Raises ``ValueError`` where that would leave them fewer than ``LEAST_FRACTION`` bits.
        """
        a, b = x.operand, y.operand
        found = self.calibrated(v)
        excess = math.log2(found.largest * a.scale * b.scale) - (self.numbers.ring - 2) if found else 0.0
        if excess <= 0:
            return a, b
        cut = math.ceil(excess / 2)
        if min(math.log2(f.scale) for f in (a, b)) - cut < LEAST_FRACTION:
            raise ValueError(
                f"its values reach {found.largest:g}, margin included, which leaves its factors fewer than "  # type: ignore[union-attr]
                f"{LEAST_FRACTION} fraction bits in {self.numbers.ring}: use the 64-bit ring"
            )
        coarser = lambda j, f: self.open(
            self.small(j.raw, fraction=math.floor(math.log2(f.scale)) - cut, bound=self.range_of(j).largest, slack=0)
        )
        return coarser(x, a), coarser(y, b)

    @property
    def table_bits(self) -> int:
        """Fraction bits of public factors: a little finer than the operands that they multiply."""
        return self.numbers.operand + 2

    def encode(self, owned: Owned, scale: float, *, static: bool = False, order: Order | None = None) -> Var:
        """A program input that holds ``owned`` at ``scale``; see ``Encoding``."""
        if owned.owner == PUBLIC:
            raise VaryingError("a public value that differs from step to step of a loop meets a secret")
        key = (id(owned), scale, static)
        if key not in self.encodings:
            wire = Opened(owned.shape, self.ring, static=True) if static else Shared(owned.shape, self.ring)
            self.encodings[key] = (self.b.input(wire), Encoding(owned, static, scale, self.ring, order))
        return self.encodings[key][0]

    def joint(self, term: Term) -> Joint:
        """A term as shares. An owner shares a value at any scale and centred or not, as consumers ask."""
        if isinstance(term, Joint):
            return term
        if isinstance(term, Known):
            return self._constant(term)
        if term.dtype.kind == "b":
            return self.boolean(term.shape, lambda: Scaled(self.encode(term, 1.0), 1.0))
        integer = term.dtype.kind in "iub"
        scale = 1.0 if integer else self.scale_of(term)
        factor = 1.0 if integer else 2.0**self.numbers.operand

        def operand(_):
            var = self.encode(term, factor)
            return Scaled(self.b.emit(Open(self.numbers.ring), var), factor)

        centred = None if integer else lambda: Scaled(self.encode(centre(term), scale), scale)
        return Joint(term.shape, lambda: Scaled(self.encode(term, scale), scale), operand, centred, range=term.range)

    def _constant(self, known: Known) -> Joint:
        """A public value as shares. Rules that can take it as it is do better."""
        value = np.asarray(known.value)
        integer, largest = value.dtype.kind in "iub", float(np.abs(value.astype(np.float64)).max(initial=0.0))
        limit = 2.0 ** (self.numbers.ring - 2)
        if not np.isfinite(largest) or (integer and largest > limit):
            raise ValueError("a public value among secrets is no number in fixed point")
        scale = 1.0 if integer else min(self.raw_scale, limit / max(largest, 1.0))

        def at(v: np.ndarray) -> Scaled:
            return Scaled(self.constant(v, scale), scale)

        if value.dtype.kind == "b":
            return self.boolean(value.shape, lambda: at(value))
        centred = lambda: at(value - value.mean(-1, keepdims=True))
        has_mean = value.ndim > 0 and value.size > 0 and not integer
        return self.result(value.shape, lambda: at(value), make_centred=centred if has_mean else None)

    def constant(self, value: np.ndarray, scale: float) -> Var:
        """Shares of public numbers."""
        integers = np.rint(np.asarray(value, np.float64) * scale).astype(np.int64)
        return self.b.emit(Constant(Table(integers), self.numbers.ring))

    def boolean(self, shape: tuple[int, ...], make_raw: Callable[[], Scaled]) -> Joint:
        """A boolean from shares of zero or one: its flag is the low bit, opened."""
        flag = lambda: self.b.emit(Open(1), self.b.emit(Parity(), make_raw().var))
        return self.result(shape, make_raw, flag=flag)

    def result(self, shape: tuple[int, ...], make_raw: Callable[[], Scaled], **extra) -> Joint:
        """A joint value whose operand form is its raw form, truncated if it must be, and opened."""
        small = lambda j: self.small(j.raw, bound=self.range_of(j).largest)
        return Joint(tuple(shape), make_raw, lambda j: self.open(small(j)), **extra)

    def open(self, x: Scaled) -> Scaled:
        """x opened at the full ring."""
        return Scaled(self.b.emit(Open(self.numbers.ring, where=x.where), x.var), x.scale, x.where)

    def low_bits(self, x: Scaled, fraction: int) -> int:
        """The low bits of x beyond ``fraction``, of which three stay where a constant has made it very small."""
        return min(max(0, math.floor(math.log2(x.scale)) - fraction), x.var.bits - 3)

    def small(self, x: Scaled, *, fraction: int | None = None, bound: float | None = None, slack: int = 4) -> Scaled:
        """x at the operands' scale, or at ``fraction`` bits: truncated, unless it is within ``slack`` bits already."""
        fraction = self.numbers.operand if fraction is None else fraction
        shift = self.low_bits(x, fraction)
        if shift <= slack:
            return x
        scale = x.scale / 2.0**shift
        width = self.numbers.width(math.log2(scale), bound or self.numbers.bound)
        var = requantise(self.b, x.var, shift=shift, width=width, ring=self.numbers.ring, where=x.where)
        return Scaled(var, scale, x.where)

    def is_whole(self, factor: float) -> bool:
        """Whether an integer is as close to a factor of shares as a public table's entries are to theirs."""
        return abs(factor - round(factor)) <= factor * 2.0**-self.table_bits

    def rescale(self, x: Scaled, scale: float) -> Scaled:
        """x at ``scale``: times an integer, after truncation where no integer is close to the factor."""
        factor = scale / x.scale
        if abs(factor - 1) < 1e-9:
            return x
        if not self.is_whole(factor):
            x = self.small(x, fraction=min(self.numbers.operand, math.floor(math.log2(scale)) - self.table_bits))
            factor = scale / x.scale
        return Scaled(self.scale_by(x.var, np.array(round(factor))), scale, x.where)

    def with_room(self, x: Scaled, largest: float) -> Scaled:
        """x at a scale that leaves room for ``largest``: its own, or truncated to a coarser one."""
        shift = math.ceil(math.log2(largest * x.scale) - 1e-9) - (self.numbers.ring - 2) if largest else 0
        if shift <= 0:
            return x
        scale = x.scale / 2.0**shift
        width = self.numbers.width(math.log2(scale), largest)
        var = requantise(self.b, x.var, shift=shift, width=width, ring=self.numbers.ring, where=x.where)
        return Scaled(var, scale, x.where)

    def fitted(self, x: Scaled, largest: float) -> Scaled:
        """x with room for ``largest``, and times an integer where its scale is far coarser than the raw one."""
        x = self.with_room(x, largest)
        finest = min(self.raw_scale, 2.0 ** (self.numbers.ring - 2) / largest)
        factor = math.floor(finest / x.scale + 1e-9)
        return x if factor < 2 else Scaled(self.scale_by(x.var, np.array(factor)), x.scale * factor, x.where)

    def fine(self, x: Scaled, *, largest: float = 0.0) -> Scaled:
        """x with an operand's fraction bits, or as many as ``largest`` leaves: an integer, as a real number."""
        lacking = math.ceil(self.numbers.operand - math.log2(x.scale))
        if largest:
            lacking = min(lacking, math.floor(self.numbers.ring - 2 - math.log2(largest * x.scale)))
        return self.rescale(x, x.scale * 2.0**lacking) if lacking > 0 else x

    def scale_by(self, var: Var, integers: np.ndarray) -> Var:
        """var times public integers."""
        return self.b.emit(Scale(Table(np.asarray(integers, np.int64))), var)

    def add_public(self, x: Scaled, value: np.ndarray) -> Scaled:
        """x plus public real numbers."""
        if not np.any(value):
            return x
        largest = float(np.abs(np.asarray(value, np.float64)).max())
        # Beyond the raw scale is what a constant has made small, which may take half of the room.
        limit = 2.0 ** (self.numbers.ring - (3 if x.scale > self.raw_scale else 2))
        x = x if largest * x.scale <= limit else self.small(x)
        if largest * x.scale > limit:
            raise ValueError(f"a public addend of {largest:g} does not fit a ring of {self.numbers.ring} bits")
        if np.any(np.asarray(value) != np.rint(value)):
            x = self.fine(x)
        integers = np.rint(np.asarray(value, np.float64) * x.scale).astype(np.int64)
        return Scaled(self.b.emit(Combine((1,), Table(integers)), x.var), x.scale)

    def add(self, x: Scaled, y: Scaled, *, largest: float = 0.0) -> Scaled:
        """x + y; ``largest``: what is known of the sum's magnitude."""
        scale = self.common_scale(x, y, largest=largest)
        if min(x.scale, y.scale) < scale * (1 - 1e-9) or max(x.scale, y.scale) > scale * (1 + 1e-9):
            x, y = self.rescale(x, scale), self.rescale(y, scale)
        return Scaled(self.b.emit(Combine((1, 1)), x.var, y.var), x.scale)

    def common_scale(self, *xs: Scaled, largest: float = 0.0) -> float:
        """The largest of their scales, or less where values up to ``largest`` need the room."""
        scale, coarsest = max(x.scale for x in xs), min(x.scale for x in xs)
        if scale > self.raw_scale:  # of a number that was made small by a constant: the others may not fit at it
            scale = max(self.raw_scale, coarsest)
        elif not all(self.is_whole(scale / x.scale) for x in xs):  # a fraction of an integer is added to an integer
            scale *= 2.0 ** max(0, math.ceil(math.log2(coarsest / scale)) + self.table_bits)
            scale = min(scale, max(self.raw_scale, coarsest))
        limit = 2.0 ** (self.numbers.ring - 2)
        return limit / largest if largest * scale > limit else scale

    def broadcast(self, var: Var, shape: tuple[int, ...]) -> Var:
        """var repeated along leading axes to ``shape``."""
        if var.shape == tuple(shape):
            return var
        dims = tuple(range(len(shape) - len(var.shape), len(shape)))
        return self.b.emit(Rearrange("broadcast", (tuple(shape), dims)), var)


def centre(owned: Owned) -> Owned:
    """An owner's value minus its mean over the last axis."""
    return owned.map(lambda a: a - a.mean(-1, keepdims=True), owned.shape, dtype=np.float64)

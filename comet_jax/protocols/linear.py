"""Linear and structural steps: local at each party, no material, no rounds.

Ideal functionality of each: the same map over the ring. Argument: nothing is sent, and nothing is opened. A rearranged
opened wire repeats or drops elements of c together with those of r: what was public stays so, nothing is added to it,
and every function of the mask that is dealt later is shared afresh, element by element, repeated or not.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import jax
import jax.numpy as jnp
import numpy as np

from comet_jax.protocols.protocol import Dealer, Protocol
from comet_jax.sharing.groups import Group, signed
from comet_jax.sharing.packing import Where
from comet_jax.sharing.wires import Disclosed, Mask, Opened, OpenedPlain, OpenedShare, Plain, Share, Shared, Wire


@dataclass(frozen=True, eq=False)
class Table:
    """A public array of integers inside a program, equal and hashable by content."""

    values: np.ndarray

    @cached_property
    def key(self) -> tuple:
        """Shape, dtype and bytes."""
        return (self.values.shape, str(self.values.dtype), self.values.tobytes())

    def __eq__(self, other):
        return isinstance(other, Table) and self.key == other.key

    def __hash__(self):
        return hash(self.key)

    def __repr__(self):
        from hashlib import sha256

        return f"Table({self.values.dtype}{self.values.shape}, {sha256(self.values.tobytes()).hexdigest()[:16]})"


@dataclass(frozen=True)
class Combine(Protocol):
    """[x1], .. -> [sum a_i x_i + b]: a sum with public integer coefficients and an optional public addend."""

    coefficients: tuple[int, ...]
    addend: Table | None = None

    def outputs(self, *xs: Shared):
        if len({(x.shape, x.group) for x in xs}) != 1 or len(xs) != len(self.coefficients):
            raise ValueError(f"a sum needs equal wires, one a coefficient; it got {xs}")
        return (xs[0],)

    def deal(self, dealer: Dealer, *xs: Shared):
        return self.outputs(*xs)

    def narrowed(self, bits: int, *xs: Wire):
        return None if xs[0].group.xor else (self, (bits,) * len(xs))

    def _sum(self, group: Group, arrays):
        terms = [x if a == 1 or group.xor else x * group.constant(a) for a, x in zip(self.coefficients, arrays)]
        return group.reduce(reduce(group.add, terms))

    def _addend(self, group: Group, shape):
        assert self.addend is not None
        return jnp.broadcast_to(group.encode(self.addend.values), shape)

    def online(self, party, material, *xs: Share):
        group = xs[0].wire.group
        total = self._sum(group, [x.x for x in xs])
        if self.addend is not None:
            total = group.add(total, party.first(self._addend(group, total.shape)))
        return (total,)

    def ideal(self, coins, *xs: Plain):
        group = xs[0].wire.group
        total = self._sum(group, [x.v for x in xs])
        return (total if self.addend is None else group.add(total, self._addend(group, total.shape)),)


class _Local(Protocol):
    """[x] -> a map of x over its ring, which each party applies to its own share."""

    def outputs(self, x: Shared):
        return (x,)

    def deal(self, dealer: Dealer, x: Shared):
        return self.outputs(x)

    def narrowed(self, bits: int, *xs: Wire):
        return None if xs[0].group.xor else (self, (bits,) * len(xs))

    @abstractmethod
    def _apply(self, group: Group, x: jax.Array) -> jax.Array:
        """The map, of a share or of a value."""

    def online(self, party, material, x: Share):
        return (self._apply(x.wire.group, x.x),)

    def ideal(self, coins, x: Plain):
        return (self._apply(x.wire.group, x.v),)


@dataclass(frozen=True)
class Scale(_Local):
    """[x] -> [t x] for a public integer array t that broadcasts to x's shape."""

    table: Table

    def _apply(self, group: Group, x):
        return group.reduce(x * jnp.asarray(group.encode(self.table.values)))


@dataclass(frozen=True)
class Resize(Protocol):
    """[x] in Z_2^k -> [x mod 2^bits] in a smaller ring; of a wire opened without headroom, c and r alike.

    The low bits of c are masked by those of r, which are as uniform and as fresh, and were public already.
    """

    bits: int

    def outputs(self, x: Wire):
        if self.bits > x.group.bits or x.group.xor or (isinstance(x, Opened) and x.headroom):
            raise ValueError(f"of {x} no {self.bits} bits can be kept")
        return (replace(x, group=Group(self.bits)),)

    def narrowed(self, bits: int, *xs: Wire):
        return Resize(bits), (bits,)

    def deal(self, dealer: Dealer, x):
        if isinstance(x, Mask):
            (wire,) = self.outputs(x.wire)
            return (Mask(wire, wire.group.cast(x.r)),)  # type: ignore[arg-type]
        return self.outputs(x)

    def online(self, party, material, x):
        group = Group(self.bits)
        if isinstance(x, Share):
            return (group.cast(x.x),)
        (wire,) = self.outputs(x.wire)
        part = lambda a: None if a is None else group.cast(a)
        return (OpenedShare(wire, part(x.c), part(x.r), part(x.x)),)  # type: ignore[arg-type]

    def ideal(self, coins, x):
        group = Group(self.bits)
        if isinstance(x, Plain):
            return (group.cast(x.v),)
        (wire,) = self.outputs(x.wire)
        y = signed(group.cast(jax.lax.bitcast_convert_type(x.y, jnp.uint64)), self.bits)
        return (OpenedPlain(wire, y, group.cast(x.c)),)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Sum(_Local):
    """[x] -> the sum of x over ``axes``."""

    axes: tuple[int, ...]

    def outputs(self, x: Shared):
        shape = tuple(n for i, n in enumerate(x.shape) if i not in self.axes)
        return (Shared(shape, x.group),)

    def _apply(self, group: Group, x):
        return group.reduce(x.sum(self.axes, dtype=group.dtype))


@dataclass(frozen=True)
class RunningSum(_Local):
    """[x] -> the sums of x up to each place of ``axis``, or from it on with ``reverse``."""

    axis: int
    reverse: bool = False

    def _apply(self, group: Group, x):
        return group.reduce(jax.lax.cumsum(x, self.axis, self.reverse))


@dataclass(frozen=True)
class Rearrange(Protocol):
    """Wires of one kind -> a wire whose elements are theirs, elsewhere: reshape, transpose, slice, concatenate...

    Works on shared wires and, so that a wire is opened once and used in many shapes, on opened ones.
    """

    kind: str
    parameters: tuple

    def apply(self, *arrays):
        """The rearrangement of plain arrays."""
        return _REARRANGE[self.kind](*arrays, *self.parameters)

    def outputs(self, *xs: Wire):
        first = xs[0]
        shape = jax.eval_shape(self.apply, *(jax.ShapeDtypeStruct(x.shape, np.uint32) for x in xs)).shape
        if isinstance(first, Shared):
            return (Shared(shape, first.group),)
        if isinstance(first, Disclosed):
            raise ValueError(f"{first} is nobody's secret: it is not rearranged as one")
        if self.kind == "pad" and first.headroom:
            # Zeros in c and r stand for the value zero only where nothing was added before masking.
            raise ValueError("a wire opened with headroom cannot be padded: pad its shares")
        if len({(x.group, x.headroom, x.static, x.where is None) for x in xs}) != 1:  # type: ignore[union-attr]
            raise ValueError(f"opened wires of different kinds cannot be joined: {xs}")
        where = first.where
        if where is not None:
            masks = [x.where.mask.astype(np.uint32) for x in xs]  # type: ignore[union-attr]
            with jax.ensure_compile_time_eval():
                where = Where(np.asarray(self.apply(*map(jnp.asarray, masks))).astype(bool))
        return (replace(first, shape=shape, where=where),)

    def narrowed(self, bits: int, *xs: Wire):
        whole = any(x.group.xor or (isinstance(x, Opened) and x.headroom) for x in xs)
        return None if whole else (self, (bits,) * len(xs))

    def _opened(self, *xs: Mask | OpenedShare | OpenedPlain) -> Opened:
        (wire,) = self.outputs(*(x.wire for x in xs))
        assert isinstance(wire, Opened)
        return wire

    def deal(self, dealer: Dealer, *xs):
        if isinstance(xs[0], Mask):
            wire = self._opened(*xs)
            return (Mask(wire, self.apply(*(x.r for x in xs))),)
        return self.outputs(*xs)

    def online(self, party, material, *xs):
        if isinstance(xs[0], Share):
            return (self.apply(*(x.x for x in xs)),)
        wire = self._opened(*xs)
        part = lambda name: None if getattr(xs[0], name) is None else self.apply(*(getattr(x, name) for x in xs))
        return (OpenedShare(wire, part("c"), part("r"), part("x")),)

    def ideal(self, coins, *xs):
        if isinstance(xs[0], Plain):
            return (self.apply(*(x.v for x in xs)),)
        wire = self._opened(*xs)
        y, c = (self.apply(*(getattr(x, name) for x in xs)) for name in ("y", "c"))
        return (OpenedPlain(wire, y, c),)


_REARRANGE = {
    "reshape": lambda x, shape: x.reshape(shape),
    "transpose": lambda x, axes: x.transpose(axes),
    "broadcast": lambda x, shape, dims: jax.lax.broadcast_in_dim(x, shape, dims),
    "slice": lambda x, start, stop, strides: jax.lax.slice(x, start, stop, strides),
    "concatenate": lambda *a: jax.lax.concatenate(a[:-1], a[-1]),
    "reverse": lambda x, axes: jax.lax.rev(x, axes),
    "take": lambda x, table, axis: jnp.take(x, jnp.asarray(table.values), axis=axis, mode="clip"),
    "pad": lambda x, config: jax.lax.pad(x, x.dtype.type(0), config),
}

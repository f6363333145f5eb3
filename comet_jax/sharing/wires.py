"""Wires: the forms of a secret inside a program, and the values that each interpreter puts on them.

``Shared``: the value is the sum (or xor) of one share at each party.
``Opened``: both parties know ``c = y + offset + r``; r is uniform in the wire's group and known to the dealer only,
each party holding a share of it. A wire may be opened in a narrower group than its value's ring: then y is known to
fit (``headroom``) and ``y = c - offset - r + 2^m (1 - msb c) msb r`` over the integers, m being the group's bits.

A ``static`` opened wire is a weight: it was opened once, when it was loaded, and serves every later run.

A third form is no secret any more. ``Disclosed``: both parties know the value, and the dealer does not. It is what a
policy lets a gate show, or was computed from that alone.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from comet_jax.sharing.groups import Group
from comet_jax.sharing.packing import Item, Where


@dataclass(frozen=True)
class Shared:
    """Type of a shared wire: array ``shape``, elements of ``group``."""

    shape: tuple[int, ...]
    group: Group


@dataclass(frozen=True)
class Opened:
    """Type of an opened wire.

    ``headroom``: the value fits, ``|y| < 2^(bits-2)``, and ``offset`` is 2^(bits-2); otherwise y is meant mod
    2^bits. ``where``: the elements that were opened; the others are zero in c and r.
    """

    shape: tuple[int, ...]
    group: Group
    headroom: bool = False
    where: Where | None = None
    static: bool = False

    @property
    def offset(self) -> int:
        """What was added to the value before it was masked."""
        return 1 << (self.group.bits - 2) if self.headroom else 0

    @property
    def item(self) -> Item:
        """How c travels."""
        return Item(self.shape, self.group, self.where)


@dataclass(frozen=True)
class Disclosed:
    """Type of a value that the parties know.

    ``below``: set where its elements are numbers of which no two are equal, each less than this. Masks may be chosen
    by such numbers.
    """

    shape: tuple[int, ...]
    group: Group
    below: int | None = None


Wire = Shared | Opened | Disclosed


@dataclass(frozen=True)
class Share:
    """A shared wire at one party: its share."""

    wire: Shared
    x: jax.Array


@dataclass(frozen=True)
class OpenedShare:
    """An opened wire at one party: the public c and this party's share of the mask r.

    For a static wire c is absent online: x is this party's share of the value itself.
    """

    wire: Opened
    c: jax.Array | None
    r: jax.Array | None
    x: jax.Array | None = None

    @property
    def value(self) -> jax.Array:
        """c for arithmetic with an opened value."""
        assert self.c is not None
        return self.c

    @property
    def mask(self) -> jax.Array:
        """This party's share of r."""
        assert self.r is not None
        return self.r

    def public(self, ring: Group) -> jax.Array:
        """c - offset in ``ring``: the public part of the value."""
        return ring.sub(ring.cast(self.value), ring.constant(self.wire.offset))

    def wrapped(self, ring: Group) -> jax.Array:
        """1 - msb c in ``ring``: whether a mask with its top bit set has wrapped around."""
        return ring.dtype.type(1) - self.wire.group.msb(self.value).astype(ring.dtype)


@dataclass(frozen=True)
class Seen:
    """A disclosed wire at a party, and in the ideal world: the value."""

    wire: Disclosed
    v: jax.Array

    @property
    def x(self) -> jax.Array:
        """What a party holds of it: all."""
        return self.v


@dataclass(frozen=True)
class Mask:
    """An opened wire at the dealer: the mask itself."""

    wire: Opened
    r: jax.Array

    def top(self, dtype) -> jax.Array:
        """msb r, as 0 or 1."""
        return self.wire.group.msb(self.r).astype(dtype)


@dataclass(frozen=True)
class Plain:
    """A shared wire in the ideal world: its value, reduced into its group."""

    wire: Shared
    v: jax.Array


@dataclass(frozen=True)
class OpenedPlain:
    """An opened wire in the ideal world: the value y (signed int64; words for an xor group) and the public coin c."""

    wire: Opened
    y: jax.Array
    c: jax.Array

    @property
    def r(self) -> jax.Array:
        """The mask that value and coin imply."""
        group = self.wire.group
        if group.xor:
            return group.sub(self.c, self.y.astype(group.dtype))
        y = jax.lax.bitcast_convert_type(self.y, jnp.uint64)
        r = group.cast(self.c.astype(jnp.uint64) - y - jnp.uint64(self.wire.offset))
        where = self.wire.where
        return r if where is None else r * where.mask.astype(group.dtype)

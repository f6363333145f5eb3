"""Look-ups in a table that is secret as well: opened once, and read by any number of opened values.

A value is y = c - r, its place in the table; an entry is t = c_t - r_t. With a one-hot vector of the place, the public
part of the entry is a public sum. Its mask is a function of the place and of masks, so the dealer turns the table of
masks by r, as it does with a public table (lookup.py).

Both steps may be given a bit <z> for each value as well: where it is set, they give zeros. The dealer knows the mask of
z, so it deals each array for both bits that z may be opened as, one of them zeros, and the parties take their shares at
the one that it is.
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from comet_jax.protocols.protocol import Coins, Dealer, Material, Party, Protocol
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Mask, Opened, OpenedPlain, OpenedShare, Plain, Share, Shared, Wire

BITS = 12  # of a place: tables are dealt for each of them


def _check(y: Opened) -> None:
    plain = not (y.group.xor or y.headroom or y.static) and y.where is None
    if not plain or y.group.bits > BITS:
        raise ValueError(f"a place in a table is opened whole, at {BITS} bits at most, not as {y}")


def _check_bits(y: Opened, bits: tuple[Opened, ...]) -> None:
    if any(z != Opened(y.shape, Group(1)) for z in bits) or len(bits) > 1:
        raise ValueError(f"one opened bit for each value says where to give zeros, not {bits}")


def _by_bit(array, bits: tuple[Mask, ...]):
    """At the dealer: ``array``, or for each z with a mask what is to be taken at c = 0 and at c = 1."""
    for z in bits:
        array = array[..., None, :] * (jnp.arange(2, dtype=jnp.uint32) == z.r[..., None])[..., None].astype(array.dtype)
    return array


def _at_bit(array, bits: tuple[OpenedShare, ...]):
    """At a party: what of an array that was dealt so is its own."""
    for z in bits:
        array = jnp.take_along_axis(array, z.value[..., None, None].astype(jnp.int32), -2)[..., 0, :]
    return array


def _kept(array, bits: tuple[OpenedPlain, ...]):
    """In the ideal world: ``array``, zero where z is set."""
    for z in bits:
        unset = (z.c == z.r).astype(array.dtype)
        array = array * unset.reshape(*unset.shape, *(1,) * (array.ndim - unset.ndim))
    return array


@dataclass(frozen=True)
class OneHot(Protocol):
    """<y>, opened mod 2^b -> [y == v] for every v from 0 to 2^b - 1, on a new last axis, in ``group``; zeros by <z>.

    Ideal functionality: that vector. Argument: local; the one-hot vector of -r is shared afresh, and turned by the
    public c. Dealt: 2^b entries of ``group`` an element, twice as many with z. Online: nothing.
    """

    group: Group

    def outputs(self, y: Opened, *bits: Opened):
        _check(y)
        _check_bits(y, bits)
        return (Shared((*y.shape, 1 << y.group.bits), self.group),)

    def narrowed(self, bits: int, *inputs: Wire):
        step = self if self.group.xor else replace(self, group=Group(bits))
        return step, tuple(w.group.bits for w in inputs)

    def _at(self, place, bits: int):
        return (jnp.arange(1 << bits, dtype=jnp.uint32) == place[..., None]).astype(self.group.dtype)

    def deal(self, dealer: Dealer, y: Mask, *bits: Mask):
        ring = y.wire.group
        one_hot = self._at(ring.sub(jnp.zeros_like(y.r), y.r), ring.bits)
        dealer.give("one_hot", _by_bit(one_hot, bits), self.group)
        return self.outputs(y.wire, *(z.wire for z in bits))

    def online(self, party: Party, material: Material, y: OpenedShare, *bits: OpenedShare):
        ring = y.wire.group
        places = ring.sub(jnp.arange(1 << ring.bits, dtype=jnp.uint32), y.value[..., None])
        return (jnp.take_along_axis(_at_bit(material["one_hot"], bits), places.astype(jnp.int32), -1),)

    def ideal(self, coins: Coins, y: OpenedPlain, *bits: OpenedPlain):
        ring = y.wire.group
        return (_kept(self._at(ring.sub(y.c, y.r), ring.bits), bits),)


@dataclass(frozen=True)
class SecretTable(Protocol):
    """<y>, opened mod 2^b, [its one-hot vector], <t> of n entries -> [t_y] and [t_(y+1)]; zeros by <z>.

    <t> has the entries from ``start`` on, 1 or more and at most 2^b - n; those before are ``first``, those beyond
    ``last``.
    Ideal functionality: the two entries. Argument: local, ``t_y = sum of [y == v] c_t at v - [r_t at y]``; the second
    term is dealt for every c that y may be opened as, shared afresh, and taken at two neighbouring places. Public
    entries have no mask, so that the one beyond the end and the one at 0 agree. With z the one-hot vector is zero by z.
    Dealt: 2^b entries of t's group an element of y, twice as many with z. Online: nothing.
    """

    first: int
    last: int
    start: int = 1

    def outputs(self, y: Opened, one_hot: Shared, t: Opened, *bits: Opened):
        _check(y)
        _check_bits(y, bits)
        plain = not (t.group.xor or t.headroom or t.static) and t.where is None and len(t.shape) == 1
        fits = plain and self.start >= 1 and self.start + t.shape[0] <= 1 << y.group.bits
        if not fits or one_hot != Shared((*y.shape, 1 << y.group.bits), t.group):
            raise ValueError(f"cannot look {y}, with {one_hot}, up in {t} from entry {self.start} on")
        return (Shared(y.shape, t.group), Shared(y.shape, t.group))

    def products(self, *inputs: Wire) -> int:
        return 2 * int(np.prod(inputs[1].shape))

    def _entries(self, inner, places: int, first, last):
        """Entries 0 to ``places``, of the table or of its masks."""
        beyond = places + 1 - self.start - len(inner)
        ends = [jnp.full(n, v, inner.dtype) for n, v in ((self.start, first), (beyond, last))]
        return jnp.concatenate([ends[0], inner, ends[1]])

    def deal(self, dealer: Dealer, y: Mask, one_hot: Shared, t: Mask, *bits: Mask):
        ring = y.wire.group
        masks = self._entries(t.r, 1 << ring.bits, 0, 0)
        places = ring.sub(jnp.arange(1 << ring.bits, dtype=jnp.uint32), y.r[..., None])
        dealer.give("masks", _by_bit(masks[places], bits), t.wire.group)
        return self.outputs(y.wire, one_hot, t.wire, *(z.wire for z in bits))

    def online(
        self, party: Party, material: Material, y: OpenedShare, one_hot: Share, t: OpenedShare, *bits: OpenedShare
    ):
        ring, group, masks = y.wire.group, t.wire.group, _at_bit(material["masks"], bits)
        first, last = map(group.constant, (self.first, self.last))
        public = self._entries(t.value, 1 << ring.bits, first, last)
        entry = lambda k: group.sub(
            (one_hot.x * public[k : k + (1 << ring.bits)]).sum(-1, dtype=group.dtype),
            jnp.take_along_axis(masks, ring.add(y.value, ring.constant(k))[..., None].astype(jnp.int32), -1)[..., 0],
        )
        return entry(0), entry(1)

    def ideal(self, coins: Coins, y: OpenedPlain, one_hot: Plain, t: OpenedPlain, *bits: OpenedPlain):
        ring, group = y.wire.group, t.wire.group
        first, last = map(group.constant, (self.first, self.last))
        entries = self._entries(group.sub(t.c, t.r), 1 << ring.bits, first, last)
        place = ring.sub(y.c, y.r)
        return _kept(entries[place], bits), _kept(entries[place + np.uint32(1)], bits)

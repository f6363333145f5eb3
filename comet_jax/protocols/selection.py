"""Using a shared bit: as an integer, and as a gate on a value.

A bit z is opened under a mask bit mu (``Open`` of one bit): e = z ^ mu is public, so ``z = e + (1 - 2 e) mu`` over
the integers, linear in what the dealer knows. Source: daBits and edaBits (Escudero et al., CRYPTO 2020), in the form
of masked bits with dealt products as in Function Secret Sharing's truth-table gates.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from comet_jax.protocols.protocol import Coins, Dealer, Material, Party, Protocol
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Mask, Opened, OpenedPlain, OpenedShare, Plain, Share, Shared, Wire


def _sign(e: jax.Array, ring: Group):
    """1 - 2 e in ``ring``."""
    return ring.reduce(ring.dtype.type(1) - ring.dtype.type(2) * e)


@dataclass(frozen=True)
class ToArithmetic(Protocol):
    """<z>, a bit -> [z] in Z_2^bits.

    Ideal functionality: the bit as an integer. Argument: local; mu, the mask bit of z, is shared afresh in the ring.
    Dealt: mu, ``bits`` bits an element. Online: nothing.
    """

    bits: int

    def outputs(self, z: Opened):
        if not z.group.xor or z.group.bits != 1:
            raise ValueError(f"only an opened bit becomes an integer, not {z.group}")
        return (Shared(z.shape, Group(self.bits)),)

    def narrowed(self, bits: int, *inputs: Wire):
        return ToArithmetic(bits), (1,)

    def deal(self, dealer: Dealer, z: Mask):
        dealer.give("mu", z.r, Group(self.bits))
        return self.outputs(z.wire)

    def online(self, party: Party, material: Material, z: OpenedShare):
        ring = Group(self.bits)
        e = ring.cast(z.value)
        return (ring.add(party.first(e), _sign(e, ring) * material["mu"]),)

    def ideal(self, coins: Coins, z: OpenedPlain):
        return (Group(self.bits).cast(z.y),)


@dataclass(frozen=True)
class Parity(Protocol):
    """[x] in Z_2^k -> [x mod 2], a bit under xor: the low bits of two shares add up without a carry.

    Ideal functionality: the low bit. Argument: local. Nothing is dealt or sent.
    """

    def outputs(self, x: Shared):
        if x.group.xor:
            raise ValueError(f"the low bit of {x.group} is taken as it is")
        return (Shared(x.shape, Group(1, xor=True)),)

    def narrowed(self, bits: int, *inputs: Wire):
        return self, (1,)

    def deal(self, dealer: Dealer, x: Shared):
        return self.outputs(x)

    def online(self, party: Party, material: Material, x: Share):
        return (Group(1, xor=True).cast(x.x),)

    def ideal(self, coins: Coins, x: Plain):
        return (Group(1, xor=True).cast(x.v),)


@dataclass(frozen=True)
class Gate(Protocol):
    """<z1 .. zn>, <y>, [y] -> [sum_t a_t z_t y] in y's ring, with public integers a_t.

    The bits are on the last axis of z. ``z y = e y + (1 - 2 e) (P mu - mu r + (1 - msb c) 2^m mu msb r)`` with
    P = c - offset. Outside the wire's ``where`` the result is zero. Ideal functionality: that sum. Argument: local,
    on dealt arrays that were shared afresh; y's mask and the bits' masks are independent, and their products are
    never opened. Dealt per bit: mu, mu r and mu msb r, 3 k - m bits (2 k where m = k). Online: nothing.
    """

    coefficients: tuple[int, ...]

    def outputs(self, z: Opened, w: Opened, y: Shared):
        if z.shape != (*w.shape, len(self.coefficients)) or not w.headroom or w.shape != y.shape:
            raise ValueError(f"gates of shape {z.shape} on a wire of shape {w.shape}")
        return (y,)

    def narrowed(self, bits: int, *inputs: Wire):
        z, w, _ = inputs
        return self, (z.group.bits, w.group.bits, bits)

    def deal(self, dealer: Dealer, z: Mask, w: Mask, y: Shared):
        ring, m = y.group, w.wire.group.bits
        mu, r, top = z.r.astype(ring.dtype), w.r.astype(ring.dtype), w.top(ring.dtype)
        dealer.give("mu", mu, ring)
        dealer.give("mu_r", mu * r[..., None], ring)
        if m < ring.bits:
            dealer.give("mu_top", mu * top[..., None], Group(ring.bits - m))
        return (y,)

    def online(self, party: Party, material: Material, z: OpenedShare, w: OpenedShare, y: Share):
        ring, m = y.wire.group, w.wire.group.bits
        e = ring.cast(z.value)
        masked = w.public(ring)[..., None] * material["mu"] - material["mu_r"]
        if m < ring.bits:
            top = material["mu_top"].astype(ring.dtype) << ring.dtype.type(m)
            masked = masked + w.wrapped(ring)[..., None] * top
        each = e * y.x[..., None] + _sign(e, ring) * masked
        return (_keep(w.wire, _weighed(ring, self.coefficients, each)),)

    def ideal(self, coins: Coins, z: OpenedPlain, w: OpenedPlain, y):
        ring = y.wire.group
        return (_keep(w.wire, _weighed(ring, self.coefficients, z.y.astype(ring.dtype) * y.v[..., None])),)


@dataclass(frozen=True)
class LookupGate(Protocol):
    """<word1 .. wordn>, <y>, [y] -> [sum_t a_t f(word_t) y] in y's ring, public integers a_t and a table of bits f.

    The words, opened under xor, are on the last axis of the first wire. As ``Gate``, with dealt f, f r and f msb r at
    every value that a word may be opened to, of which the parties take their shares at the one that it is: the bit f
    itself is opened nowhere. Outside the wire's ``where`` the result is zero. Ideal functionality: that sum. Argument:
    local, on dealt arrays that were shared afresh and are used at one public place each. Dealt per word of b bits:
    2^b (3 k - m) bits (2^(b + 1) k where m = k). Online: nothing.
    Source: one-time truth tables (Ishai et al., TCC 2013).
    """

    coefficients: tuple[int, ...]
    table: tuple[int, ...]

    def outputs(self, z: Opened, w: Opened, y: Shared):
        whole = z.group.xor and z.where is None and len(self.table) == 1 << z.group.bits
        if not whole or z.shape != (*w.shape, len(self.coefficients)) or not w.headroom or w.shape != y.shape:
            raise ValueError(f"gates by a table of {len(self.table)} bits and {z} on {w}")
        return (y,)

    def narrowed(self, bits: int, *inputs: Wire):
        z, w, _ = inputs
        return self, (z.group.bits, w.group.bits, bits)

    def deal(self, dealer: Dealer, z: Mask, w: Mask, y: Shared):
        ring, m = y.group, w.wire.group.bits
        opened = np.arange(len(self.table), dtype=z.r.dtype)
        bits = jnp.asarray(np.array(self.table, ring.dtype))[opened ^ z.r[..., None]]
        r, top = (a.astype(ring.dtype)[..., None, None] for a in (w.r, w.top(ring.dtype)))
        dealer.give("f", bits, ring)
        dealer.give("f_r", bits * r, ring)
        if m < ring.bits:
            dealer.give("f_top", bits * top, Group(ring.bits - m))
        return (y,)

    def online(self, party: Party, material: Material, z: OpenedShare, w: OpenedShare, y: Share):
        ring, m = y.wire.group, w.wire.group.bits
        here = z.value[..., None] == np.arange(len(self.table), dtype=z.value.dtype)
        taken = lambda table: jnp.where(here, table, jnp.zeros_like(table)).sum(-1, dtype=table.dtype)
        each = w.public(ring)[..., None] * taken(material["f"]) - taken(material["f_r"])
        if m < ring.bits:
            top = taken(material["f_top"]).astype(ring.dtype) << ring.dtype.type(m)
            each = each + w.wrapped(ring)[..., None] * top
        return (_keep(w.wire, _weighed(ring, self.coefficients, each)),)

    def ideal(self, coins: Coins, z: OpenedPlain, w: OpenedPlain, y: Plain):
        ring = y.wire.group
        bits = jnp.asarray(np.array(self.table, ring.dtype))[z.y.astype(jnp.uint32)]
        return (_keep(w.wire, _weighed(ring, self.coefficients, bits * y.v[..., None])),)


def _weighed(ring: Group, coefficients: tuple[int, ...], each):
    a = np.array([ring.constant(a) for a in coefficients], ring.dtype)
    return ring.reduce((each * a).sum(-1, dtype=ring.dtype))


def _keep(wire: Opened, out):
    return out if wire.where is None else out * wire.where.mask.astype(out.dtype)

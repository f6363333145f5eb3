"""Opening a wire: the step at which the parties communicate.

Truncate, then open. To open x in Z_2^k at m bits after dropping s low bits (m <= k - s):

1. Party 0 adds ``(offset << s) + 2^s - 1`` to its share.
2. Each party shifts its own share right by s and keeps m bits.
3. Each adds its share of a mask r, uniform in Z_2^m, and sends the m-bit sum; the two sums add up to c.

Ideal functionality: publish a coin u uniform in [0, 2^s) and c uniform in Z_2^m; the wire's value becomes
``y = floor((x + 2^s - 1 - u) / 2^s)``, which is x / 2^s rounded up or down at random.
Argument: u is the low s bits of party 0's share (with its public addend): a function of one party's view, uniform as
that share is; dropping both parties' low bits leaves exactly y mod 2^(k-s). c is uniform, and independent of all else
that either party sees, because r is uniform, known to no party and masks this opening alone. Each message is masked by
its sender's share of r, so both messages are uniform too. Wires that share a linear relation (x and 2 x) have related
coins u, in the run as in the ideal world; their openings have masks of their own.
With ``where`` the other elements have neither a mask nor a message: c and r are zero there, and so is the value.
Cost: one round, m bits a party and element. Nothing is dealt: both parties draw their shares of r from seeds.

Source: the truncation of faithful fixed point with the wrap bit from the mask, as in Escudero et al. (CRYPTO 2020)
and SIGMA (PoPETs 2024), with the shift moved before the opening so that only m bits travel.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from comet_jax.protocols.protocol import Coins, Dealer, Material, Opening, Party, Protocol
from comet_jax.sharing.groups import Group, signed
from comet_jax.sharing.packing import Item, Where
from comet_jax.sharing.wires import Mask, Opened, OpenedShare, Plain, Share, Shared, Wire


@dataclass(frozen=True)
class Open(Opening, Protocol):
    """[x] -> <y>, y = x / 2^shift, opened at ``width`` bits. See the module docstring.

    ``headroom``: the caller promises ``|y| < 2^(width-2)``. ``where``: open these elements only.
    """

    width: int
    shift: int = 0
    headroom: bool = False
    where: Where | None = None

    def outputs(self, x: Shared):
        group = x.group
        if group.xor and (self.shift or self.headroom or self.width != group.bits):
            raise ValueError(f"words under xor are opened whole, not as {self}")
        if self.shift < 0 or self.width < (3 if self.headroom else 1):
            raise ValueError(f"{self} drops fewer than no bits, or opens fewer than it needs")
        if self.width > group.bits - self.shift:
            raise ValueError(
                f"opening {self.width} bits after dropping {self.shift} needs a ring of "
                f"{self.width + self.shift} bits, and the wire has {group.bits}"
            )
        return (Opened(x.shape, Group(self.width, group.xor), self.headroom, self.where),)

    def narrowed(self, bits: int, *inputs: Wire):
        if inputs[0].group.xor:
            return None
        step = self if self.headroom else replace(self, width=bits)
        return step, (self.shift + step.width,)

    def deal(self, dealer: Dealer, x: Shared):
        (wire,) = self.outputs(x)
        return (Mask(wire, dealer.mask("r", wire.item)),)

    def item(self, x: Shared) -> Item:
        (wire,) = self.outputs(x)
        return wire.item

    def send(self, party: Party, material: Material, x: Share) -> jax.Array:
        (wire,) = self.outputs(x.wire)
        z = self._raised(party, x) >> x.x.dtype.type(self.shift)
        return wire.group.add(wire.group.cast(z), material["r"])

    def _raised(self, party: Party, x: Share) -> jax.Array:
        if not (self.shift or self.headroom):
            return x.x
        (wire,) = self.outputs(x.wire)
        return _raise(party, x, (wire.offset << self.shift) + (1 << self.shift) - 1)

    def coins(self, party: Party, x: Share) -> Material:
        return {"low": _low(self._raised(party, x), self.shift)} if self.shift else {}

    def receive(self, material: Material, x: Share, c: jax.Array) -> OpenedShare:
        (wire,) = self.outputs(x.wire)
        if self.where is not None:
            c = c * self.where.mask.astype(c.dtype)
        return OpenedShare(wire, c, material["r"])

    def ideal(self, coins: Coins, x: Plain):
        (wire,) = self.outputs(x.wire)
        v = x.v if x.wire.group.xor else signed(x.v, x.wire.group.bits)
        if self.shift:
            u = coins.low(v.shape, self.shift).astype(jnp.int64)
            v = (v + ((1 << self.shift) - 1) - u) >> self.shift
        if self.where is not None:
            v = v * self.where.mask.astype(v.dtype)
        return (v, coins.opened(wire))


def _raise(party: Party, x: Share, addend: int) -> jax.Array:
    """x's share, with a public addend."""
    ring = x.wire.group
    return ring.add(x.x, party.first(jnp.asarray(ring.constant(addend))))


def _low(share: jax.Array, bits: int) -> jax.Array:
    """What dropping ``bits`` bits takes off a share, uint64."""
    return share.astype(jnp.uint64) & jnp.uint64((1 << bits) - 1)


@dataclass(frozen=True)
class HighBits(Protocol):
    """[x] in Z_2^k -> [y] in Z_2^(k-shift), y = x / 2^shift, with no communication.

    Each party drops the low bits of its own share. Ideal functionality: as for ``Open``, with the coin u; the result
    lives in the smaller ring, where the lost carry has no place to go wrong. Cost: nothing.
    """

    shift: int

    def outputs(self, x: Shared):
        if x.group.xor or not 0 < self.shift < x.group.bits:
            raise ValueError(f"no {self.shift} bits of {x.group} can be dropped so that a ring is left")
        return (Shared(x.shape, Group(x.group.bits - self.shift)),)

    def narrowed(self, bits: int, *inputs: Wire):
        return self, (bits + self.shift,)

    def deal(self, dealer: Dealer, x: Shared):
        return self.outputs(x)

    def online(self, party: Party, material: Material, x: Share):
        (wire,) = self.outputs(x.wire)
        z = _raise(party, x, (1 << self.shift) - 1)
        return (wire.group.cast(z >> z.dtype.type(self.shift)),)

    def coins(self, party: Party, x: Share) -> Material:
        return {"low": _low(_raise(party, x, (1 << self.shift) - 1), self.shift)}

    def ideal(self, coins: Coins, x: Plain):
        (wire,) = self.outputs(x.wire)
        v = signed(x.v, x.wire.group.bits)
        u = coins.low(v.shape, self.shift).astype(jnp.int64)
        v = (v + ((1 << self.shift) - 1) - u) >> self.shift
        return (wire.group.cast(jax.lax.bitcast_convert_type(v, jnp.uint64)),)


@dataclass(frozen=True)
class Lift(Protocol):
    """<y> -> [y] in Z_2^bits, with no communication: ``[y] = c - offset - [r] + (1 - msb c) 2^m [msb r]``.

    Needs headroom, or a wire opened at the full ring. Outside the wire's ``where`` the result is zero. Ideal
    functionality: y in the larger ring. Argument: local; r and its top bit are shared afresh in that ring.
    Dealt: r in Z_2^bits and msb r in Z_2^(bits-m), so 2 bits - m bits an element; nothing where bits = m, since the
    parties' own shares of r serve. Online: nothing.
    """

    bits: int

    def outputs(self, w: Opened):
        if self.bits < w.group.bits or w.group.xor:
            raise ValueError(f"cannot lift a wire of {w.group} to {self.bits} bits")
        if self.bits > w.group.bits and not w.headroom:
            raise ValueError(f"a wire opened mod 2^{w.group.bits} without headroom cannot be lifted")
        return (Shared(w.shape, Group(self.bits)),)

    def narrowed(self, bits: int, *inputs: Wire):
        (w,) = inputs
        whole = isinstance(w, Opened) and w.headroom
        return Lift(max(bits, w.group.bits) if whole else bits), (w.group.bits if whole else bits,)

    def deal(self, dealer: Dealer, w: Mask):
        m = w.wire.group.bits
        if self.bits > m:
            dealer.give("r", w.r, Group(self.bits), w.wire.where)
            dealer.give("top", w.top(w.r.dtype), Group(self.bits - m), w.wire.where)
        return self.outputs(w.wire)

    def online(self, party: Party, material: Material, w: OpenedShare):
        ring, m = Group(self.bits), w.wire.group.bits
        public = party.first(w.public(ring))
        if self.bits == m:
            y = ring.sub(public, w.r)
        else:
            wrap = w.wrapped(ring) * (material["top"].astype(ring.dtype) << ring.dtype.type(m))
            y = ring.sub(public + wrap, material["r"])
        where = w.wire.where
        return (y if where is None else y * where.mask.astype(y.dtype),)

    def ideal(self, coins: Coins, w):
        return (Group(self.bits).cast(jax.lax.bitcast_convert_type(w.y, jnp.uint64)),)


@dataclass(frozen=True)
class Reveal(Protocol):
    """[x] -> [x] shared afresh, for an output that leaves the parties.

    A dealt sharing of zero is added, so that the two shares that the receiver sees say nothing but their sum: without
    it they would also show low bits of the parties' own shares. Ideal functionality: the value. Argument: the share
    of either party is uniform given the value, whatever it was computed from. Dealt: one ring element an element.
    Online: nothing.
    """

    def outputs(self, x: Shared):
        return (x,)

    def deal(self, dealer: Dealer, x: Shared):
        dealer.share("zero", jnp.zeros(x.shape, x.group.dtype), Item(x.shape, x.group))
        return (x,)

    def online(self, party: Party, material: Material, x: Share):
        return (x.wire.group.add(x.x, material["zero"]),)

    def ideal(self, coins: Coins, x: Plain):
        return (x.v,)

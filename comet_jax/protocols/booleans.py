"""Logic on opened bits: sums under xor are local, a product needs one dealt bit.

A bit z is opened under a mask bit mu (``Open`` of one bit): e = z ^ mu is public. Both maps below are those of masked
bits in Goldreich, Micali and Wigderson (STOC 1987) with dealt products (Beaver, CRYPTO 1991), with masks that belong
to wires, so that a bit is opened once however many gates read it.
"""

from dataclasses import dataclass
from functools import reduce
from operator import xor

import numpy as np

from comet_jax.protocols.comparison import BIT
from comet_jax.protocols.linear import Table
from comet_jax.protocols.protocol import Coins, Dealer, Material, Party, Protocol
from comet_jax.sharing.wires import Mask, Opened, OpenedPlain, OpenedShare, Shared


def _check(zs: tuple[Opened, ...]) -> None:
    plain = all(z.group == BIT and z.where is None and not z.static and z.shape == zs[0].shape for z in zs)
    if not zs or not plain:
        raise ValueError(f"logic needs whole opened bits of one shape, not {zs}")


@dataclass(frozen=True)
class Xor(Protocol):
    """<z1>, .. -> <keep (z1 ^ ..) ^ flip>, bits, with public bits ``keep`` (1 if None) and ``flip`` (0 if None).

    The result is opened already: its e is the same map of the inputs' e, its mask ``keep (mu1 ^ ..)``.
    Ideal functionality: that bit. Argument: nothing is opened, as anybody can compute the new e from public values. Its
    mask is related to those of the inputs, but it is used in no opening: what is dealt for this wire and for others are
    functions of masks, each under a sharing of its own. Nothing is dealt or sent.
    """

    keep: Table | None = None
    flip: Table | None = None

    def outputs(self, *zs: Opened):
        _check(zs)
        for table in (self.keep, self.flip):
            if table is not None and np.broadcast_shapes(table.values.shape, zs[0].shape) != zs[0].shape:
                raise ValueError(f"public bits of shape {table.values.shape} on a wire of shape {zs[0].shape}")
        return (zs[0],)

    def _linear(self, words):
        out = reduce(xor, words)
        return out if self.keep is None else out & self.keep.values.astype(np.uint32)

    def _whole(self, words):
        out = self._linear(words)
        return out if self.flip is None else out ^ self.flip.values.astype(np.uint32)

    def deal(self, dealer: Dealer, *zs: Mask):
        return (Mask(zs[0].wire, self._linear([z.r for z in zs])),)

    def online(self, party: Party, material: Material, *zs: OpenedShare):
        c = None if zs[0].c is None else self._whole([z.value for z in zs])
        r = None if zs[0].r is None else self._linear([z.mask for z in zs])
        return (OpenedShare(zs[0].wire, c, r),)

    def ideal(self, coins: Coins, *zs: OpenedPlain):
        return (OpenedPlain(zs[0].wire, self._whole([z.y for z in zs]), self._whole([z.c for z in zs])),)


@dataclass(frozen=True)
class And(Protocol):
    """<a>, <b>, bits -> [a b], a bit: ``a b = e_a e_b ^ e_a mu_b ^ e_b mu_a ^ mu_a mu_b``.

    Ideal functionality: the product. Argument: local; the product of the mask bits is shared afresh and never opened.
    Dealt: that product, one bit an element. Online: nothing.
    """

    def outputs(self, a: Opened, b: Opened):
        _check((a, b))
        return (Shared(a.shape, BIT),)

    def deal(self, dealer: Dealer, a: Mask, b: Mask):
        dealer.give("products", a.r & b.r, BIT)
        return self.outputs(a.wire, b.wire)

    def online(self, party: Party, material: Material, a: OpenedShare, b: OpenedShare):
        crossed = (a.value & b.mask) ^ (b.value & a.mask)
        return (party.first(a.value & b.value) ^ crossed ^ material["products"],)

    def ideal(self, coins: Coins, a: OpenedPlain, b: OpenedPlain):
        return (a.y & b.y,)

"""The difference of two opened wires, which is opened as well: no round, nothing dealt."""

from dataclasses import dataclass

import jax.numpy as jnp

from comet_jax.protocols.protocol import Dealer, Protocol
from comet_jax.sharing.groups import signed
from comet_jax.sharing.wires import Mask, Opened, OpenedPlain, OpenedShare


@dataclass(frozen=True)
class Subtract(Protocol):
    """<x> mod 2^m, <y> mod 2^(m - shift) -> <x - 2^shift y + addend>, where y has one element a row of x.

    c and r are the differences of the two wires' c and r, so no new value is opened: what is known of y, and of all
    differences, was known from the two openings, under their two masks. Outside x's ``where`` the result is zero.
    """

    shift: int
    addend: int = 0

    def outputs(self, x: Opened, y: Opened):
        plain = not (x.headroom or y.headroom or x.group.xor or y.group.xor or x.static or y.static)
        if not plain or y.where is not None or y.group.bits != x.group.bits - self.shift or y.shape != x.shape[:-1]:
            raise ValueError(f"cannot take 2^{self.shift} {y} from {x}")
        return (x,)

    def _apply(self, wire: Opened, x, y, addend: int):
        group = wire.group
        out = group.sub(x + group.constant(addend), y.astype(group.dtype)[..., None] << group.dtype.type(self.shift))
        return out if wire.where is None else out * wire.where.mask.astype(out.dtype)

    def deal(self, dealer: Dealer, x: Mask, y: Mask):
        return (Mask(x.wire, self._apply(x.wire, x.r, y.r, 0)),)

    def online(self, party, material, x: OpenedShare, y: OpenedShare):
        c = None if x.c is None or y.c is None else self._apply(x.wire, x.c, y.c, self.addend)
        return (OpenedShare(x.wire, c, self._apply(x.wire, x.r, y.r, 0)),)

    def ideal(self, coins, x: OpenedPlain, y: OpenedPlain):
        c = self._apply(x.wire, x.c, y.c, self.addend)
        v = x.y + self.addend - (y.y[..., None] << self.shift)
        v = v if x.wire.where is None else v * x.wire.where.mask
        bits = x.wire.group.bits
        return (OpenedPlain(x.wire, signed(x.wire.group.cast(v.view(jnp.uint64)), bits), c),)

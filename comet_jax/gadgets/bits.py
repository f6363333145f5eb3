"""Comparison of a wire with thresholds, and truncation to another ring."""

import math

from comet_jax.ir.program import Builder, Var
from comet_jax.protocols.comparison import Borrow, DigitLookup
from comet_jax.protocols.opening import Lift, Open
from comet_jax.sharing.packing import Where


def open_truncated(b: Builder, x: Var, *, shift: int, width: int, where: Where | None = None) -> Var:
    """<x / 2^shift> at ``width`` bits, or as many as the ring has left; one round."""
    return b.emit(Open(min(width, x.bits - shift), shift, headroom=True, where=where), x)


def requantise(b: Builder, x: Var, *, shift: int, width: int, ring: int, where: Where | None = None) -> Var:
    """[x / 2^shift] in Z_2^ring; one round."""
    return b.emit(Lift(ring), open_truncated(b, x, shift=shift, width=width, where=where))


def open_to_compare(b: Builder, x: Var, *, shift: int, largest: float) -> Var:
    """<x / 2^shift> with room for differences from a threshold, the two together up to ``largest``.

    One round, and one more where x fits its ring but the differences do not: then x is taken to a larger one first.
    """
    width = math.floor(math.log2(largest)) + 3
    if width > x.bits - shift:
        x, shift = b.emit(Lift(64), open_truncated(b, x, shift=shift, width=width)), 0
    return open_truncated(b, x, shift=shift, width=width)


def at_least(b: Builder, w: Var, thresholds: tuple[int, ...], *, low: int = 0) -> Var:
    """<[y >= t]> for each threshold, as opened bits on a new last axis; two rounds.

    ``low`` bits of y may be ignored; then y - t must be below 2^(bits-2) - 2^low. Digits are as narrow as five of
    them allow: tables grow as 2^digit.
    """
    span = w.bits - 2 - low
    width = min(6, max(4, -(-span // 5)))
    found = b.emit_all(DigitLookup(thresholds, low, width), w)
    bit = found[0]
    if len(found) == 2:
        bit = b.emit(Borrow(), bit, b.emit(Open(found[1].bits), found[1]))
    return b.emit(Open(1), bit)

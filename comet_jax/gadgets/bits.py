"""Comparison of a wire with thresholds, and truncation to another ring."""

import math
from dataclasses import dataclass, replace

import numpy as np

from comet_jax.ir.program import Builder, Var
from comet_jax.protocols.comparison import Borrow, DigitLookup, truth
from comet_jax.protocols.linear import Rearrange, Table
from comet_jax.protocols.lookup import Lookup
from comet_jax.protocols.opening import Lift, Open
from comet_jax.protocols.selection import Gate, LookupGate, ToArithmetic
from comet_jax.sharing.groups import Group
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

    ``low`` bits of y may be ignored; then y - t must be below 2^(bits-2) - 2^low.
    """
    found = b.emit_all(DigitLookup(thresholds, low, b.variant.width(w.bits - 2 - low)), w)
    bit = found[0]
    if len(found) == 2:
        bit = b.emit(Borrow(), bit, b.emit(Open(found[1].bits), found[1]))
    return b.emit(Open(1), bit)


@dataclass(frozen=True)
class Compared:
    """[y >= t] for each threshold, on a last axis: opened bits, or opened words that say as much by ``truth``."""

    b: Builder
    var: Var
    truth: tuple[int, ...] | None = None

    def gate(self, coefficients: tuple[int, ...], w: Var, y: Var) -> Var:
        """[sum of coefficient_t [y >= t] x] in x's ring, given <x> with headroom and [x]; no round."""
        step = LookupGate(coefficients, self.truth) if self.truth else Gate(coefficients)
        return self.b.emit(step, self.var, w, y)

    def number(self, bits: int) -> Var:
        """The bits as integers in Z_2^bits; no round."""
        if self.truth:
            return self.b.emit(Lookup(Table(np.array(self.truth, np.int64)), Group(bits)), self.var)
        return self.b.emit(ToArithmetic(bits), self.var)

    def moved(self, step: Rearrange) -> "Compared":
        """The same with its elements elsewhere."""
        return replace(self, var=self.b.emit(step, self.var))


def compare(b: Builder, w: Var, thresholds: tuple[int, ...], *, low: int = 0) -> Compared:
    """As ``at_least``, for what needs no opened bits: one round where the program's variant looks words up."""
    span = w.bits - 2 - low
    if not b.variant.looks_up(span):
        return Compared(b, at_least(b, w, thresholds, low=low))
    word = b.emit(DigitLookup(thresholds, low, b.variant.width(span), whole=True), w)
    return Compared(b, b.emit(Open(word.bits), word), truth(word.bits))

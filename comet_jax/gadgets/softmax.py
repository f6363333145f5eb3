"""Softmax over the last axis, and the logarithm of the sum of exponentials: what is common to both, and their ends.

1. Open the scores mod 32 levels of 4 to 8 nats each (a power of two times the wire's unit), and count each row's
   elements at or above every level.
2. Open the counts, look up whether they are zero: the number of non-empty levels is a coarse maximum, at most one
   level high.
3. Open it, one small number a row, and take it from the opened scores; exponentiate by table.

Softmax, six rounds: open the exponentials and, in the same round, start on 1 / their sum; multiply.
The logarithm, five rounds: that of the sum, and the level that was taken away.

Scores must lie between -16 and 15 levels (-61 to 58 nats at least), and a row's spread within 28 levels. Beyond, they
alias. Where 32 levels of 4 nats are more than the whole ring (of scores that a constant has made small), they are the
ring: half of it, which is what scores may fill, is 16 levels.
"""

import math
from dataclasses import dataclass

import numpy as np

from comet_jax.gadgets.bits import open_truncated, requantise
from comet_jax.gadgets.inverse import inverse
from comet_jax.gadgets.logarithm import logarithm_of_positive
from comet_jax.ir.program import Builder, Var
from comet_jax.protocols.bilinear import Product
from comet_jax.protocols.difference import Subtract
from comet_jax.protocols.linear import Combine, Scale, Sum, Table
from comet_jax.protocols.lookup import Lookup, non_zero
from comet_jax.protocols.opening import HighBits, Lift, Open
from comet_jax.protocols.softmax import LEVELS, ExpTable, LevelCounts
from comet_jax.sharing.groups import Group
from comet_jax.sharing.packing import Where

LEVEL_BITS = 5  # bits that number the levels
TOP = 27  # the level where the maximum is put
LOW = 12  # bits of a level, for softmax
DEALT, PUBLIC = 22, 14  # scales of its exponential's two factors
# The same for the logarithm of the sum, by ring: an error of the sum is one of the result.
FINE_LOW = {32: 14, 64: 16}
FINE_DEALT, FINE_PUBLIC = {32: 26, 64: 30}, {32: 16, 64: 18}
READ = 20  # bits that the logarithm reads of the least sum


@dataclass(frozen=True)
class Levels:
    """Scores in levels of 2^low steps: opened mod 32 levels, and <each row's highest>, which may be one level high."""

    scores: Var
    highest: Var
    low: int
    nats: float  # of a level

    @property
    def octaves(self) -> float:
        """What a level is worth, as a power of two."""
        return self.nats * math.log2(math.e)


def levels_of(b: Builder, s: Var, *, scale: float, where: Where | None, low: int) -> Levels:
    """Steps 1 and 2, and 3's opening; three rounds. ``scale``: of s. Elements outside ``where`` count for nothing."""
    # A touch less than the ceiling: a scale that misses a power of two by rounding stays at four nats.
    level_bits = min(math.ceil(math.log2(4 * scale) - 0.06), s.bits - LEVEL_BITS)
    if level_bits < low:
        s = b.emit(Scale(Table(np.array(1 << low - level_bits, np.int64))), s)
        scale, level_bits = scale * 2.0 ** (low - level_bits), low
    shift = level_bits - low
    half = Table(np.array(LEVELS // 2 << low + shift, np.int64))
    scores = b.emit(Open(low + LEVEL_BITS, shift, where=where), b.emit(Combine((1,), half), s))
    counts = b.emit(LevelCounts(low), scores)
    filled = b.emit(non_zero(counts.bits, Group(LEVEL_BITS)), b.emit(Open(counts.bits), counts))
    highest = b.emit(Open(LEVEL_BITS), b.emit(Sum((len(filled.shape) - 1,)), filled))
    return Levels(scores, highest, low, 2.0**level_bits / scale)


def exponentials(b: Builder, levels: Levels, *, bits: int, dealt: int, public: int) -> Var:
    """[exp(s - m)] in Z_2^bits at dealt + public fraction bits, m the highest level's beginning; no round."""
    d = b.emit(Subtract(levels.low, TOP << levels.low), levels.scores, levels.highest)
    return b.emit(ExpTable(levels.low, levels.nats / (1 << levels.low), TOP, bits, dealt, public), d)


def softmax(b: Builder, s: Var, *, scale: float, where: Where | None, ring: int, fraction: int) -> tuple[Var, float]:
    """[softmax(s)] in Z_2^ring and its scale, 2^fraction. Elements outside ``where`` get zero and cost nothing."""
    t = s.shape[-1]
    levels = levels_of(b, s, scale=scale, where=where, low=LOW)
    octaves = math.ceil(levels.octaves)

    width = LOW + octaves  # bits of an exponential after truncation: 2^-12 of the least possible maximum
    cut = DEALT + PUBLIC - width
    keep = 2  # the sum keeps two bits more than its terms
    # The largest element is within one level of one, and there are t.
    least, largest = (width + keep + x for x in (-levels.octaves, levels.octaves + math.log2(t)))
    bits = min(64, max(cut - keep + math.ceil(largest) + 1, cut + width + octaves + 3))
    e = exponentials(b, levels, bits=bits, dealt=DEALT, public=PUBLIC)
    ew = open_truncated(b, e, shift=cut, width=width + octaves + 3, where=where)
    total = b.emit(Sum((len(e.shape) - 1,)), e)

    i = inverse(
        b,
        total,
        shift=cut - keep,
        low=least,
        octaves=largest - least,
        numerator=2.0 ** (32 + fraction + keep),
        root=False,
    )
    out = b.emit(Product(), ew, b.emit(Lift(64), ew), i, b.emit(Lift(64), i))
    if ring == 32:
        return b.emit(HighBits(32), out), 2.0**fraction
    return requantise(b, out, shift=32, width=fraction + 4, ring=ring, where=where), 2.0**fraction


def log_sum_exp(b: Builder, s: Var, *, scale: float, where: Where | None, ring: int, unit: float) -> Var:
    """[log of the sum of exp(s) over the last axis] in Z_2^ring, at scale ``unit``. ``scale``: of s.

    Error: a step of the opened scores, 2^-12 nats (2^-14 at 64 bits), and 1e-4.
    """
    levels = levels_of(b, s, scale=scale, where=where, low=FINE_LOW[ring])
    least, largest = -levels.octaves, levels.octaves + math.log2(s.shape[-1])
    public, room = FINE_PUBLIC[ring], math.ceil(largest + math.log2(4 / 3))
    dealt = min(FINE_DEALT[ring], 64 - public - room)
    e = exponentials(b, levels, bits=dealt + public + room, dealt=dealt, public=public)
    total = b.emit(Sum((len(e.shape) - 1,)), e)

    shift = max(0, math.floor(dealt + public + least) - READ)
    log = logarithm_of_positive(
        b,
        total,
        shift=shift,
        low=dealt + public + least - shift,
        octaves=largest - least,
        scale=2.0 ** (dealt + public - shift),
        unit=unit,
        ring=ring,
    )
    taken = np.rint((np.arange(LEVELS) - LEVELS // 2) * levels.nats * unit).astype(np.int64)
    return b.emit(Combine((1, 1)), log, b.emit(Lookup(Table(taken), Group(ring)), levels.highest))

"""Softmax over the last axis; six rounds, and one to open the result.

1. Open the scores mod 32 levels of 4 to 8 nats each (a power of two times the wire's unit), and count each row's
   elements at or above every level.
2. Open the counts, look up whether they are zero: the number of non-empty levels is a coarse maximum, at most one
   level high.
3. Open it, one small number a row, and take it from the opened scores; exponentiate by table; open the exponentials
   and, in the same round, start on 1 / their sum.
4. Multiply.

Scores must lie between -16 and 15 levels (-61 to 58 nats at least), and a row's spread within 28 levels. Beyond, they
alias. Where 32 levels of 4 nats are more than the whole ring (of scores that a constant has made small), they are the
ring: half of it, which is what scores may fill, is 16 levels.
"""

import math

import numpy as np

from comet_jax.gadgets.bits import open_truncated, requantise
from comet_jax.gadgets.inverse import inverse
from comet_jax.ir.program import Builder, Var
from comet_jax.protocols.bilinear import Product
from comet_jax.protocols.difference import Subtract
from comet_jax.protocols.linear import Combine, Scale, Sum, Table
from comet_jax.protocols.lookup import non_zero
from comet_jax.protocols.opening import HighBits, Lift, Open
from comet_jax.protocols.softmax import LEVELS, ExpTable, LevelCounts
from comet_jax.sharing.groups import Group
from comet_jax.sharing.packing import Where

LOW = 12  # bits of a level
LEVEL_BITS = 5  # bits that number the levels
TOP = 27  # the level where the maximum is put
DEALT, PUBLIC = 22, 14  # scales of the exponential's two factors


def _level_bits(scale: float, ring: int) -> int:
    # A touch less than the ceiling: a scale that misses a power of two by rounding stays at four nats.
    return min(math.ceil(math.log2(4 * scale) - 0.06), ring - LEVEL_BITS)


def softmax(b: Builder, s: Var, *, scale: float, where: Where | None, ring: int, fraction: int) -> tuple[Var, float]:
    """[softmax(s)] in Z_2^ring and its scale, 2^fraction. Elements outside ``where`` get zero and cost nothing."""
    t = s.shape[-1]
    level_bits = _level_bits(scale, s.bits)
    if level_bits < LOW:
        s = b.emit(Scale(Table(np.array(1 << LOW - level_bits, np.int64))), s)
        scale, level_bits = scale * 2.0 ** (LOW - level_bits), LOW
    shift = level_bits - LOW
    nats = 2.0**level_bits / scale
    level_octaves = nats * math.log2(math.e)
    octaves = math.ceil(level_octaves)

    half = Table(np.array(LEVELS // 2 << LOW + shift, np.int64))
    scores = b.emit(Open(LOW + LEVEL_BITS, shift, where=where), b.emit(Combine((1,), half), s))
    counts = b.emit(LevelCounts(LOW), scores)
    filled = b.emit(non_zero(counts.bits, Group(LEVEL_BITS)), b.emit(Open(counts.bits), counts))
    level = b.emit(Open(LEVEL_BITS), b.emit(Sum((len(filled.shape) - 1,)), filled))
    d = b.emit(Subtract(LOW, TOP << LOW), scores, level)

    width = LOW + octaves  # bits of an exponential after truncation: 2^-12 of the least possible maximum
    cut = DEALT + PUBLIC - width
    keep = 2  # the sum keeps two bits more than its terms
    # The largest element is within one level of one, and there are t.
    least, largest = (width + keep + x for x in (-level_octaves, level_octaves + math.log2(t)))
    ring_bits = min(64, max(cut - keep + math.ceil(largest) + 1, cut + width + octaves + 3))
    table = ExpTable(LOW, nats / (1 << LOW), TOP, ring_bits, DEALT, PUBLIC)
    e = b.emit(table, d)
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

"""Softmax over the last axis; six rounds, and one to open the result.

1. Open the scores mod 32 levels of 4 to 8 nats each (a power of two times the wire's unit), and count each row's
   elements at or above every level.
2. Open the counts, look up whether they are zero: the number of non-empty levels is a coarse maximum, at most one
   level high.
3. Open it, one small number a row, and take it from the opened scores; exponentiate by table; open the exponentials
   and, in the same round, start on 1 / their sum.
4. Multiply.

Scores must lie between -16 and 15 levels (-61 to 58 nats at least), and a row's spread within 28 levels. Beyond, they
alias.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

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


def _level_bits(scale: float) -> int:
    # A touch less than the ceiling: a scale that misses a power of two by rounding stays at four nats.
    return math.ceil(math.log2(4 * scale) - 0.06)


@dataclass(frozen=True)
class Exponentials:
    """Of each row x: e = exp(x - M) and its sum, both in units of 2^-(DEALT + PUBLIC).

    M = (level - LEVELS / 2) nats is the row's maximum, or up to a level more or less: the largest e is between
    exp(-nats) and exp(nats). ``level`` is opened mod LEVELS. ``octaves``: nats as a power of two.
    """

    e: Var
    total: Var
    level: Var
    nats: float

    @property
    def octaves(self) -> float:
        """How many octaves a level is."""
        return self.nats * math.log2(math.e)


def exponentials(
    b: Builder, s: Var, *, scale: float, where: Where | None, ring_bits: Callable[[float], int]
) -> Exponentials:
    """The scores' exponentials, in a ring of as many bits as ``ring_bits`` says for a level's octaves; three rounds."""
    level_bits = _level_bits(scale)
    if level_bits < LOW:
        s = b.emit(Scale(Table(np.array(1 << LOW - level_bits, np.int64))), s)
        scale, level_bits = scale * 2.0 ** (LOW - level_bits), LOW
    shift = level_bits - LOW
    nats = 2.0**level_bits / scale

    half = Table(np.array(LEVELS // 2 << LOW + shift, np.int64))
    scores = b.emit(Open(LOW + LEVEL_BITS, shift, where=where), b.emit(Combine((1,), half), s))
    counts = b.emit(LevelCounts(LOW), scores)
    filled = b.emit(non_zero(counts.bits, Group(LEVEL_BITS)), b.emit(Open(counts.bits), counts))
    level = b.emit(Open(LEVEL_BITS), b.emit(Sum((len(filled.shape) - 1,)), filled))
    d = b.emit(Subtract(LOW, TOP << LOW), scores, level)
    bits = ring_bits(nats * math.log2(math.e))
    e = b.emit(ExpTable(LOW, nats / (1 << LOW), TOP, bits, DEALT, PUBLIC), d)
    return Exponentials(e, b.emit(Sum((len(e.shape) - 1,)), e), level, nats)


def softmax(b: Builder, s: Var, *, scale: float, where: Where | None, ring: int, fraction: int) -> tuple[Var, float]:
    """[softmax(s)] in Z_2^ring and its scale, 2^fraction. Elements outside ``where`` get zero and cost nothing."""
    keep = 2  # the sum keeps two bits more than its terms
    # Bits of an exponential after truncation: 2^-12 of the least possible maximum.
    width_of = lambda octaves: LOW + math.ceil(octaves)
    # The largest element is within one level of one, and there are t.
    largest_of = lambda octaves: width_of(octaves) + keep + octaves + math.log2(s.shape[-1])

    def ring_bits(octaves: float) -> int:
        width = width_of(octaves)
        cut = DEALT + PUBLIC - width
        return min(64, max(cut - keep + math.ceil(largest_of(octaves)) + 1, cut + width + math.ceil(octaves) + 3))

    x = exponentials(b, s, scale=scale, where=where, ring_bits=ring_bits)
    width, largest = width_of(x.octaves), largest_of(x.octaves)
    cut, least = DEALT + PUBLIC - width, width + keep - x.octaves
    ew = open_truncated(b, x.e, shift=cut, width=width + math.ceil(x.octaves) + 3, where=where)

    i = inverse(
        b,
        x.total,
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

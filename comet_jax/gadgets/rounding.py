"""floor and round: a truncation at random, put right by a comparison of what it left; four rounds."""

import numpy as np

from comet_jax.gadgets.bits import compare, open_truncated
from comet_jax.ir.program import Builder, Var
from comet_jax.protocols.linear import Combine, Sum, Table
from comet_jax.protocols.opening import Lift


def floor(b: Builder, x: Var, *, fraction: int, width: int) -> Var:
    """[floor(x / 2^fraction)] in x's ring, exact. |x| < 2^(width - 2)."""
    return _stairs(b, x, fraction=fraction, width=width, period=0, steps=(0,))


def round_to_even(b: Builder, x: Var, *, fraction: int, width: int) -> Var:
    """[x / 2^fraction], rounded to the nearest integer, halves to the even one, in x's ring; exact."""
    half = 1 << fraction >> 1
    return _stairs(b, x, fraction=fraction, width=width, period=1, steps=(-3 * half + 1, -half, half + 1, 3 * half))


def _stairs(b: Builder, x: Var, *, fraction: int, width: int, period: int, steps: tuple[int, ...]) -> Var:
    """A staircase in x that repeats, one higher, every 2^(fraction + period).

    t = x / 2^(fraction + period), rounded up or down at random; the rest d = x - t 2^(..) is less than one period
    either way, and the number of ``steps``, of the two periods around zero, that are at most d is what t lacks.
    """
    shift = fraction + period
    w = open_truncated(b, x, shift=shift, width=max(3, width - shift + 1))
    t = b.emit(Lift(x.bits), w)
    d = b.emit(Combine((1, -(1 << shift))), x, t)
    z = compare(b, open_truncated(b, d, shift=0, width=shift + 2 + period), steps)
    reached = b.emit(Sum((len(x.shape),)), z.number(x.bits))
    lowest = Table(np.array(-(1 << period), np.int64))
    return b.emit(Combine((1 << period, 1), lowest), t, reached)

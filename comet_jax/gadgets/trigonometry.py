"""sin and cos: one term of a Fourier series, on a wire whose period is the functions' own."""

import math

import numpy as np

from comet_jax.gadgets.bits import requantise
from comet_jax.gadgets.series import FRACTION, coefficient_bits, evaluate
from comet_jax.ir.program import Builder, Var
from comet_jax.protocols.fourier import Series
from comet_jax.protocols.linear import Scale, Table
from comet_jax.protocols.opening import Open

PERIOD = 16


def wave(b: Builder, x: Var, *, scale: float, width: int, ring: int, sine: bool) -> tuple[Var, float]:
    """[cos x], or [sin x], in Z_2^ring and its scale; one round, and one more in a 32-bit ring.

    ``scale``: of x, which ``width`` bits hold with headroom. x is multiplied by 2^64 / (2 pi scale), so that a turn is
    the whole of Z_2^64, and its top 16 bits are opened: no argument is too large for that. Error: a step of the opened
    angle, 2 pi / 2^16, and 2^-64 pi times scale and argument.
    """
    if x.bits < 64:
        x = requantise(b, x, shift=0, width=width, ring=64)
    turn = Table(np.array(round(2.0**64 / (2 * math.pi * scale)) % (1 << 64), np.uint64).view(np.int64))
    angle = b.emit(Open(PERIOD, 64 - PERIOD), b.emit(Scale(turn), x))
    bits = coefficient_bits(ring)
    one, zero = (1 << bits,), (0,)
    series = Series(PERIOD, bits, 0, zero if sine else one, one if sine else zero)
    return evaluate(b, angle, series, ring), 2.0 ** FRACTION[ring]

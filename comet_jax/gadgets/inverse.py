"""1/v and 1/sqrt(v) for v over many octaves: normalise by comparisons, then one Fourier series; five rounds."""

import math

import numpy as np

from comet_jax.gadgets.bits import at_least, open_truncated
from comet_jax.ir.program import Builder, Var
from comet_jax.protocols.fourier import Fourier, fit
from comet_jax.protocols.linear import Combine, Scale, Table
from comet_jax.protocols.opening import Lift, Open
from comet_jax.protocols.selection import Gate, ToArithmetic

FRACTION = 14  # bits of the normalised value
GAIN = 26  # bits of the power of two that undoes the normalisation
SERIES, DEALT = 18, 17  # scales of the series' public and dealt factors; with GAIN they fill 62 bits


def inverse(b: Builder, v: Var, *, shift: int, low: int, octaves: int, numerator: float, root: bool) -> Var:
    """<numerator / y>, or <numerator / sqrt(y)> with ``root``, for y = v / 2^shift in [2^low, 2^(low + octaves)).

    v is in Z_2^k, k >= shift + low + octaves + 3. The result is opened with headroom; relative error below 1e-4 in
    the lower octaves, 2^-GAIN times 2^octaves in the highest (2^(octaves / 2) with ``root``).

    With y = u 2^(low + k), 1 <= u < 2: k is found by comparing y with every power of two; u = y 2^-k and
    n = numerator 2^-k are sums over the comparisons' bits; the result is n f(u).
    """
    w = open_truncated(b, v, shift=shift, width=low + octaves + 3)
    y = b.emit(Lift(64), w)
    z = at_least(b, w, tuple(1 << (low + k) for k in range(1, octaves)), low=max(0, low - 6))
    steps = lambda values: tuple(n - m for m, n in zip(values, values[1:]))
    spare = max(0, FRACTION + 1 - low - octaves)  # a narrow range is scaled up to the series' fraction bits
    grow = [1 << (octaves - 1 - k + spare) for k in range(octaves)]
    u = b.emit(Combine((grow[0], 1)), y, b.emit(Gate(steps(grow)), z, w, y))

    fraction, whole = math.modf(math.log2(numerator) - (low / 2 if root else low))
    fraction, whole = fraction % 1.0, math.floor(whole + min(fraction, 0))
    power = [round(2.0 ** (GAIN + fraction - (k / 2 if root else k))) for k in range(octaves)]
    weights = Table(np.array(steps(power), np.int64))
    from comet_jax.protocols.linear import Sum

    bits = b.emit(Scale(weights), b.emit(ToArithmetic(64), z))
    n = b.emit(Sum((len(bits.shape) - 1,)), bits)
    n = b.emit(Combine((1,), Table(np.array(power[0], np.int64))), n)

    function = (lambda t: 1 / np.sqrt(t)) if root else (lambda t: 1 / t)
    series, _ = fit(function, 0.975, 2.03, unit=2.0**-FRACTION, period=FRACTION + 2, terms=7, scale=SERIES)
    uw = b.emit(Open(FRACTION + 2, low + octaves - 1 + spare - FRACTION), u)
    nw = b.emit(Open(64), n)
    out = b.emit(Fourier(series, DEALT, 64), uw, nw)
    return open_truncated(b, out, shift=SERIES + DEALT + GAIN - whole, width=whole + 3)

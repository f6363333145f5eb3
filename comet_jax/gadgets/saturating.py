"""tanh and erf: odd functions that are constant but for an interval around zero, a Fourier series there."""

import math
from collections.abc import Callable

import numpy as np

from comet_jax.gadgets.bits import compare, open_to_compare, open_truncated
from comet_jax.gadgets.series import EXTRA, FRACTION, coefficient_bits, evaluate, smallest_fit, wide_series
from comet_jax.ir.program import Builder, Var
from comet_jax.protocols.linear import Combine, Scale, Sum, Table
from comet_jax.protocols.opening import Lift, Open

PERIOD = 16  # bits that the series reads: the finest that its table of cosines has
COMPARED = 6  # fraction bits of the argument that its comparison with the limits looks at
RESULT = {32: 13, 64: 21}  # fraction bits where the curve is gated: within 4 of an operand's, so it is one
TOLERANCE = 1e-4


def saturating(
    b: Builder,
    x: Var,
    *,
    scale: float,
    bound: float,
    ring: int,
    function: Callable[[np.ndarray], np.ndarray],
    limit: float,
) -> tuple[Var, float]:
    """[f(x)] in Z_2^ring and its scale, for f odd, and 1 (to within 1e-4) from ``limit`` on; three rounds.

    ``scale``: of x, |x| <= ``bound``. With p = [x >= -limit], q = [x >= limit] and the series h:
    ``f = p + q - 1 + (p - q) h``. Where the bound is within the limit f is h: one round.
    Error: 2e-4, and one step of the series' argument, 2^-12 (2^-13 for erf), at most.
    """
    bits = math.floor(math.log2(scale))
    gated = bound > limit
    # A comparison may be off by a step of its own argument, and the series has to hold there too.
    reach = limit + 2.0 ** (1 - COMPARED) if gated else bound
    dropped = max(0, math.ceil(math.log2(2.9 * reach * scale)) - PERIOD)
    unit = 2.0**dropped / scale
    period = max(4, math.ceil(math.log2(2.9 * reach / unit)))
    series = smallest_fit(
        function,
        -reach,
        reach,
        unit=unit,
        period=period,
        scale=coefficient_bits(ring),
        parity="odd",
        tolerance=TOLERANCE,
    )
    v = b.emit(Open(period, dropped), x)
    if not gated:
        return evaluate(b, v, series, ring), 2.0 ** FRACTION[ring]

    h = wide_series(b, v, series, ring)
    result = RESULT[ring]
    hw = open_truncated(b, h, shift=FRACTION[ring] + EXTRA[ring] - result, width=result + 3)
    shift = max(0, bits - COMPARED)
    compared = scale / 2.0**shift
    edge = math.floor(limit * compared)
    z = compare(b, open_to_compare(b, x, shift=shift, largest=bound * compared + edge), (-edge, edge))
    curve = z.gate((1, -1), hw, b.emit(Lift(ring), hw))
    ones = b.emit(Scale(Table(np.array(1 << result, np.int64))), z.number(ring))
    total = b.emit(Sum((len(x.shape),)), ones)
    return b.emit(Combine((1, 1), Table(np.array(-(1 << result), np.int64))), total, curve), 2.0**result


def erf(x: np.ndarray) -> np.ndarray:
    """The error function, float64."""
    return np.vectorize(math.erf)(x)


# Where each function is 1 to within 1e-4.
SATURATING = {"tanh": (np.tanh, 5.0), "erf": (erf, 2.75)}

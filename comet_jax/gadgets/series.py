"""A smooth function of an opened wire, as a Fourier series at the precision that a ring has room for."""

from collections.abc import Callable

import numpy as np

from comet_jax.ir.program import Builder, Var
from comet_jax.protocols.fourier import Fourier, Series, fit
from comet_jax.protocols.opening import HighBits

# Fraction bits of a result, and those beyond that a ring of 32 bits has no room for: they are computed and dropped.
FRACTION = {32: 24, 64: 36}
EXTRA = {32: 10, 64: 0}


def coefficient_bits(ring: int) -> int:
    """Scale of a series' public factors, and of its dealt ones."""
    return (FRACTION[ring] + EXTRA[ring]) // 2


def smallest_fit(
    function: Callable[[np.ndarray], np.ndarray],
    reach: float,
    *,
    unit: float,
    period: int,
    scale: int,
    parity: str,
    tolerance: float,
    most: int = 24,
) -> Series:
    """The series with the fewest terms that is within ``tolerance`` of ``function`` on [-reach, reach].

    With ``most`` terms or more it is taken as it is.
    """
    for terms in range(4, most):
        series, error = fit(function, -reach, reach, unit=unit, period=period, terms=terms, scale=scale, parity=parity)
        if error < tolerance:
            return series
    return fit(function, -reach, reach, unit=unit, period=period, terms=most, scale=scale, parity=parity)[0]


def evaluate(b: Builder, v: Var, series: Series, ring: int) -> Var:
    """[f(v)] at FRACTION[ring] bits in Z_2^ring, for a series whose scale is ``coefficient_bits``; no round."""
    wide = wide_series(b, v, series, ring)
    return b.emit(HighBits(EXTRA[ring]), wide) if EXTRA[ring] else wide


def wide_series(b: Builder, v: Var, series: Series, ring: int) -> Var:
    """[f(v)] with the EXTRA[ring] bits that ``evaluate`` drops; no round."""
    return b.emit(Fourier(series, coefficient_bits(ring), ring + EXTRA[ring]), v)

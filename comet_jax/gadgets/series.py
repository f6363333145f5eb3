"""A smooth function of an opened wire, as a Fourier series at the precision that a ring has room for."""

from collections.abc import Callable
from typing import Any

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
    low: float,
    high: float,
    *,
    tolerance: float,
    fewest: int = 4,
    most: int = 24,
    **how: Any,
) -> Series:
    """The series with the fewest terms that is within ``tolerance`` of ``function`` on [low, high].

    With ``most`` terms it is taken as it is. ``how``: as ``fit`` takes it.
    """
    for terms in range(fewest, most):
        series, error = fit(function, low, high, terms=terms, **how)
        if error < tolerance:
            return series
    return fit(function, low, high, terms=most, **how)[0]


def evaluate(b: Builder, v: Var, series: Series, ring: int) -> Var:
    """[f(v)] at FRACTION[ring] bits in Z_2^ring, for a series whose scale is ``coefficient_bits``; no round."""
    wide = wide_series(b, v, series, ring)
    return b.emit(HighBits(EXTRA[ring]), wide) if EXTRA[ring] else wide


def wide_series(b: Builder, v: Var, series: Series, ring: int) -> Var:
    """[f(v)] with the EXTRA[ring] bits that ``evaluate`` drops; no round."""
    return b.emit(Fourier(series, coefficient_bits(ring), ring + EXTRA[ring]), v)

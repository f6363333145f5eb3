"""The natural logarithm, of any number, limited from below, and of a number that is known to be in a range."""

import math

import numpy as np

from comet_jax.gadgets.octaves import FRACTION, LEAST, MOST, octaves_of
from comet_jax.gadgets.ranges import PRECISION, choose, in_each, ranges_of
from comet_jax.gadgets.series import FRACTION as RESULT
from comet_jax.gadgets.series import coefficient_bits, evaluate
from comet_jax.ir.program import Builder, Var
from comet_jax.protocols.fourier import fit
from comet_jax.protocols.linear import Combine, Scale, Sum, Table

TERMS = 9


def logarithm(b: Builder, v: Var, *, shift: int, low: int, octaves: int, scale: float, ring: int) -> tuple[Var, float]:
    """[log x] in Z_2^ring and its scale, for x = v / (2^shift scale) from 2^low / scale on; log of that below.

    log(2^k u) = k log 2 + log u, with a Fourier series on [1, 2); four rounds. v / 2^shift < 2^(low + octaves).
    Error: 1e-4, and that of v's own steps relative to v.
    """
    z, u = octaves_of(b, v, shift=shift, low=low, octaves=octaves)
    unit = 2.0 ** RESULT[ring]
    series, _ = fit(
        np.log, LEAST, MOST, unit=2.0**-FRACTION, period=FRACTION + 2, terms=TERMS, scale=coefficient_bits(ring)
    )
    # The first bit says only that there is an octave: it counts for nothing.
    weights = np.array([0] + [round(math.log(2) * unit)] * (octaves - 1), np.int64)
    whole = b.emit(Sum((len(v.shape),)), b.emit(Scale(Table(weights)), z.number(ring)))
    start = Table(np.array(round((low * math.log(2) - math.log(scale)) * unit), np.int64))
    return b.emit(Combine((1, 1), start), evaluate(b, u, series, ring), whole), unit


def logarithm_of_positive(
    b: Builder, v: Var, *, shift: int, low: float, octaves: float, scale: float, unit: float, ring: int
) -> Var:
    """[log x] in Z_2^ring at scale ``unit``, for x = v / (2^shift scale) in [2^low, 2^(low + octaves)) / scale.

    By ranges (ranges.py); two rounds. v is in Z_2^k, k >= shift + low + octaves + 1. Error: 7e-5, and that of v's own
    steps relative to v.
    """
    r = ranges_of(b, v, shift=shift, low=low, octaves=octaves)
    bits = math.floor(math.log2(unit))
    fraction = min(PRECISION, bits)
    part = unit / 2.0**bits
    # Just beyond both ends, as far as the outermost ranges' series hold.
    reach = max(abs(low - 1 - math.log2(scale)), abs(low + octaves + 1 - math.log2(scale))) * math.log(2) * part
    addends = tuple((e * math.log(2) - math.log(scale)) * part for e in r.exponents)
    width = fraction + math.ceil(math.log2(reach)) + 2
    each = in_each(b, r, lambda t: part * np.log(t), fraction=fraction, bits=width, tolerance=2e-5, addends=addends)
    return choose(b, r, each, weights=(1 << (bits - fraction),) * r.count, bits=ring)

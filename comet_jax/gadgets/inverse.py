"""1/v and 1/sqrt(v) for v over many octaves, by ranges (ranges.py); three rounds."""

import math

from comet_jax.gadgets.bits import open_truncated
from comet_jax.gadgets.ranges import PRECISION, choose, in_each, ranges_of
from comet_jax.ir.program import Builder, Var


def inverse(b: Builder, v: Var, *, shift: int, low: float, octaves: float, numerator: float, root: bool) -> Var:
    """<numerator / y>, or <numerator / sqrt(y)> with ``root``, for y = v / 2^shift in [2^low, 2^(low + octaves)).

    v is in Z_2^k, k >= shift + low + octaves + 1. The result is opened with headroom, in units of one; its relative
    error is below 1e-4.
    """
    r = ranges_of(b, v, shift=shift, low=low, octaves=octaves)
    # In the range j the result is 2^(factor + step j) f(t).
    power, step = (0.5, 1) if root else (1, 2)
    factor = math.log2(numerator) - r.exponents[0] * power
    whole = math.floor(factor)
    part = 2.0 ** (factor - whole)
    bits = PRECISION + 5  # part f(t) is below 4, and there is headroom
    each = in_each(b, r, lambda t: part / t**power, fraction=PRECISION, bits=bits, tolerance=4e-5, relative=True)

    finer = max(0, PRECISION - whole)  # fraction bits of the chosen result
    width = math.floor(math.log2(numerator) - low * power) + 3
    weights = tuple(1 << (step * j + max(0, whole - PRECISION)) for j in range(r.count))
    chosen = choose(b, r, each, weights=weights, bits=max(width + finer, bits))
    return open_truncated(b, chosen, shift=finer, width=width)

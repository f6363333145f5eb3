"""1/v and 1/sqrt(v) for v over many octaves: a Fourier series in every range, then the choice of one; three rounds.

The whole of y lies in [2^low, 2^(low + octaves)), which is cut into ranges, each reaching four times as far as the
next lower one. In the round after y's opening, two things are opened:

- each range's own result, from a series in y scaled to that range (elsewhere it is some other number);
- where y is, coarsely: y is cut into digits of 8 bits, six apart, and a digit's range is looked up: one of three, or
  that the digit is too small to tell and the next one has to. A digit is read without an exact carry, so it may be one
  too high; it tells from three on, and each range reaches below its limit as far as that error does.

The result is the chosen one. Nothing depends on the boundaries of ranges, where two neighbours are both right.
"""

import math

import numpy as np

from comet_jax.gadgets.bits import open_truncated
from comet_jax.gadgets.series import smallest_fit
from comet_jax.ir.program import Builder, Var
from comet_jax.protocols.fourier import Fourier
from comet_jax.protocols.linear import Rearrange, Table
from comet_jax.protocols.lookup import Lookup, Select
from comet_jax.protocols.opening import Open
from comet_jax.sharing.groups import Group

DIGIT, APART = 8, 6  # bits of a digit, and from one digit to the next
LIMITS = (48, 12, 3)  # where a digit's three ranges begin
PERIOD = 18  # bits of y that a range's series reads
LEAST, MOST = 0.48, 3.05  # where a series holds, of a period of 4: y is scaled into 0.5 to 3
PRECISION = 18  # bits of each range's result
SCALE = 18  # of a series' public factors and of its dealt ones
BELOW = len(LIMITS)  # place of the bit that says that a digit is too small


def inverse(b: Builder, v: Var, *, shift: int, low: float, octaves: float, numerator: float, root: bool) -> Var:
    """<numerator / y>, or <numerator / sqrt(y)> with ``root``, for y = v / 2^shift in [2^low, 2^(low + octaves)).

    v is in Z_2^k, k >= shift + low + octaves + 1. The result is opened with headroom, in units of one; its relative
    error is below 1e-4.
    """
    # y is opened mod 2^top, which is the period of the highest range's series and the end of the highest digit.
    top = math.ceil(low + octaves + math.log2(4 / 3))
    y = b.emit(Open(top, shift), v)
    ranges = max(2, math.ceil((top - 1 - low) / 2))

    # In the range j, y = t 2^(top - 2 - 2 j), t from 0.5 to 3, and the result is 2^(factor + step j) f(t).
    power, step = (0.5, 1) if root else (1, 2)
    factor = math.log2(numerator) - (top - 2) * power
    whole = math.floor(factor)
    part = 2.0 ** (factor - whole)
    shifts = tuple(top - 2 * j - PERIOD for j in range(ranges))
    drop, bits = 2 * SCALE - PRECISION, PRECISION + 5  # part f(t) is below 4, and there is headroom
    series = smallest_fit(
        lambda t: part / t**power,
        LEAST,
        MOST,
        tolerance=4e-5,
        fewest=6,
        most=15,
        unit=2.0 ** (2 - PERIOD),
        period=PERIOD,
        scale=SCALE,
        relative=True,
    )
    results = b.emit(Fourier(series, SCALE, bits + drop, shifts), y)
    results = open_truncated(b, results, shift=drop, width=bits)
    word = b.emit(Open(BELOW + 1), _places(b, y, top, ranges))

    finer = max(0, PRECISION - whole)  # fraction bits of the chosen result
    width = math.floor(math.log2(numerator) - low * power) + 3
    weights = tuple(1 << (step * j + max(0, whole - PRECISION)) for j in range(ranges))
    chosen = b.emit(Select(_cases(ranges), weights, width + finer), word, results)
    return open_truncated(b, chosen, shift=finer, width=width)


def _digits(ranges: int) -> int:
    """How many digits there are. The lowest has two ranges to four, as it leaves nothing to a next one."""
    return math.ceil((ranges - 1) / BELOW)


def _places(b: Builder, y: Var, top: int, ranges: int) -> Var:
    """[each digit's range], a word with one bit set, highest digit first, on a new last axis."""
    last = _digits(ranges) - 1
    shifts = [top - DIGIT - APART * i for i in range(last + 1)]

    def look(limits, shifts):
        one_of = [1 << sum(d < limit for limit in limits) for d in range(1 << DIGIT)]
        return b.emit(Lookup(Table(np.array(one_of, np.int64)), Group(BELOW + 1, xor=True), tuple(shifts)), y)

    lowest = look(LIMITS[: ranges - BELOW * last - 1], shifts[last:])
    if not last:
        return lowest
    return b.emit(Rearrange("concatenate", (len(y.shape),)), look(LIMITS, shifts[:last]), lowest)


def _cases(ranges: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """For each range, highest first, the bits that say that y is there: every higher digit is too small."""
    digit = lambda j: min(j // BELOW, _digits(ranges) - 1)
    return tuple((*((i, BELOW) for i in range(digit(j))), (digit(j), j - BELOW * digit(j))) for j in range(ranges))

"""Functions of a positive number over many octaves: a Fourier series in every range, then a choice; two rounds.

The whole of y lies in [2^low, 2^(low + octaves)), which is cut into ranges, each reaching four times as far as the
next lower one. In the round after y's opening, two things are opened:

- each range's own result, from a series in y scaled to that range (elsewhere it is some other number);
- where y is, coarsely: y is cut into digits of 8 bits, six apart, and a digit's range is looked up: one of three, or
  that the digit is too small to tell and the next one has to. A digit is read without an exact carry, so it may be one
  too high; it tells from three on, and each range reaches below its limit as far as that error does.

The result is the chosen one. Nothing depends on the boundaries of ranges, where two neighbours are both right.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from comet_jax.gadgets.bits import open_truncated
from comet_jax.gadgets.series import smallest_fit
from comet_jax.ir.program import Builder, Var
from comet_jax.protocols.fourier import Fourier
from comet_jax.protocols.linear import Combine, Rearrange, Table
from comet_jax.protocols.lookup import Lookup, Select
from comet_jax.protocols.opening import Open
from comet_jax.sharing.groups import Group

DIGIT, APART = 8, 6  # bits of a digit, and from one digit to the next
LIMITS = (48, 12, 3)  # where a digit's three ranges begin
PERIOD = 18  # bits of y that a range's series reads
LEAST, MOST = 0.48, 3.05  # where a series holds, of a period of 4: y is scaled into 0.5 to 3
SCALE = 18  # of a series' public factors and of its dealt ones
PRECISION = 18  # fraction bits of each range's result, at most
BELOW = len(LIMITS)  # place of the bit that says that a digit is too small


@dataclass(frozen=True)
class Ranges:
    """<y> mod 2^top and its ranges, the highest first: in range j, y = t 2^(top - 2 - 2 j), t from 0.5 to 3."""

    y: Var
    top: int
    count: int

    @property
    def exponents(self) -> tuple[int, ...]:
        """y / t in each range, as a power of two."""
        return tuple(self.top - 2 - 2 * j for j in range(self.count))


def ranges_of(b: Builder, v: Var, *, shift: int, low: float, octaves: float) -> Ranges:
    """The ranges of y = v / 2^shift in [2^low, 2^(low + octaves)); one round.

    v is in Z_2^k, k >= shift + low + octaves + 1.
    """
    # y is opened mod 2^top, which is the period of the highest range's series and the end of the highest digit.
    top = math.ceil(low + octaves + math.log2(4 / 3))
    return Ranges(b.emit(Open(top, shift), v), top, max(2, math.ceil((top - 1 - low) / 2)))


def in_each(
    b: Builder,
    r: Ranges,
    function: Callable[[np.ndarray], np.ndarray],
    *,
    fraction: int,
    bits: int,
    tolerance: float,
    relative: bool = False,
    addends: tuple[float, ...] = (),
) -> Var:
    """<f(t)> of every range, plus its public addend, on a new last axis, at ``fraction`` bits of ``bits``; one round.

    The sum is less than 2^(bits - fraction - 2) where t is y's own.
    """
    series = smallest_fit(
        function,
        LEAST,
        MOST,
        tolerance=tolerance,
        fewest=6,
        most=15,
        unit=2.0 ** (2 - PERIOD),
        period=PERIOD,
        scale=SCALE,
        relative=relative,
    )
    drop = 2 * SCALE - fraction
    results = b.emit(Fourier(series, SCALE, bits + drop, tuple(e + 2 - PERIOD for e in r.exponents)), r.y)
    if addends:
        integers = np.rint(np.array(addends) * 2.0 ** (2 * SCALE)).astype(np.int64)
        results = b.emit(Combine((1,), Table(integers)), results)
    return open_truncated(b, results, shift=drop, width=bits)


def choose(b: Builder, r: Ranges, results: Var, *, weights: tuple[int, ...], bits: int) -> Var:
    """[y's own result times its weight] in Z_2^bits; its opening shares a round with that of the results."""
    word = b.emit(Open(BELOW + 1), _places(b, r))
    return b.emit(Select(_cases(r.count), weights, bits), word, results)


def _digits(ranges: int) -> int:
    """How many digits there are. The lowest has two ranges to four, as it leaves nothing to a next one."""
    return math.ceil((ranges - 1) / BELOW)


def _places(b: Builder, r: Ranges) -> Var:
    """[each digit's range], a word with one bit set, highest digit first, on a new last axis."""
    last = _digits(r.count) - 1
    shifts = [r.top - DIGIT - APART * i for i in range(last + 1)]

    def look(limits, shifts):
        one_of = [1 << sum(d < limit for limit in limits) for d in range(1 << DIGIT)]
        return b.emit(Lookup(Table(np.array(one_of, np.int64)), Group(BELOW + 1, xor=True), tuple(shifts)), r.y)

    lowest = look(LIMITS[: r.count - BELOW * last - 1], shifts[last:])
    if not last:
        return lowest
    return b.emit(Rearrange("concatenate", (len(r.y.shape),)), look(LIMITS, shifts[:last]), lowest)


def _cases(ranges: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """For each range, highest first, the bits that say that y is there: every higher digit is too small."""
    digit = lambda j: min(j // BELOW, _digits(ranges) - 1)
    return tuple((*((i, BELOW) for i in range(digit(j))), (digit(j), j - BELOW * digit(j))) for j in range(ranges))

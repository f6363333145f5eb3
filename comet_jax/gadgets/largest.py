"""Which of G small numbers are the ``room`` largest: always that many, or at most that many.

``largest`` gives exactly ``room``, of equal ones the first:

1. Count the numbers at or above every level, from their one-hot vectors. Open the counts.
2. Look up which are more than ``room``: a thermometer, whose top is the level at which the room ends. Open it.
3. Every number is looked up in it: it is below that level, at it, or above. Those at it are numbered in order, from how
   many are above. Open the numbers, and look up which are less than ``room``.

Argument that exactly ``room`` are chosen, whatever the numbers: let n_l count those at or above level l, and ``top`` be
the highest level with n_l > room, or 0. Those above it are at most ``room``, being the next count. With those at it
they are at least ``room``: n_top is more, or it is G. So the chosen ones are all above the level and as many at it as
fit.

Some numbers may be left out, by a secret bit each: they count at no level, and are taken to be below the one where the
room ends. The argument is that of the others alone, n_0 being how many they are; whatever the numbers are, none that is
left out is chosen.

``at_most`` gives those that fit among the numbers from a ``least`` level on, without the third step. Let the cut be the
lowest level from ``least`` on that no more than ``room`` numbers reach, as step 2 finds it. What is at the cut or above
is chosen: at most ``room`` by its definition, and none below ``least``. All of the next level are left out, for they
are too many together: equal numbers fare alike, and part of the room may stay empty. Where all from ``least`` on fit,
all of them are chosen.
"""

import numpy as np

from comet_jax.ir.program import Builder, Var
from comet_jax.protocols.linear import Combine, Rearrange, Resize, RunningSum, Sum, Table
from comet_jax.protocols.lookup import Lookup
from comet_jax.protocols.opening import Open
from comet_jax.protocols.secret_tables import OneHot, SecretTable
from comet_jax.sharing.groups import Group

MOST = 2048  # numbers among which one is chosen: their places have to be looked up
MOST_COUNTED = 1 << 16  # and where only how many reach a level has to be


def largest(b: Builder, x: Var, room: int, levels: int, without: Var | None = None) -> Var:
    """[whether each of x is among the ``room`` largest] in Z_2, (G,). Three rounds.

    ``x``: opened whole, (G,), with values from 0 to ``levels``. ``room``: 1 to G. ``without``: [one where a number is
    left out], (G,), in a ring that G fits in; at least ``room`` others are left.
    Costs, with k bits for the numbers 0 to G and m for 0 to 2 G - 1: levels (k + m) + G m bits to open; dealt are, with
    2^q places of x, 2^(q + 1) G m + 2^k levels m + 2^m G bits. ``without`` costs G bits more, which are opened while x
    is, and twice the first of these terms. Raises ValueError for more than ``MOST`` numbers.
    """
    (count,) = x.shape
    if count > MOST:
        raise ValueError(f"the largest of {MOST} numbers at most are chosen, not of {count}: gate larger blocks")
    beyond = 1 << (count - 1).bit_length()
    bits, group = beyond.bit_length(), Group(beyond.bit_length())
    low = lambda v, k: v if v.bits == k else b.emit(Resize(k), v)
    out = () if without is None else (b.emit(Open(1), low(without, 1)),)
    spots = b.emit(OneHot(group), x, *out)
    counts = _counts(b, spots, 1, levels)
    # 2. Level by level, whether that is too many.
    too_many = Table((np.arange(1 << counts.bits) > room).astype(np.int64))
    thermometer = b.emit(Open(bits), b.emit(Lookup(too_many, group), counts))
    # 3. Not above the level where the room ends, and below it.
    upto, below = b.emit_all(SecretTable(1, 0), x, spots, thermometer, *out)
    if without is not None:
        upto, below = (b.emit(Combine((1, 1)), v, low(without, bits)) for v in (upto, below))
    at = b.emit(Combine((1, -1)), upto, below)
    # A number at the level has its place among these, after the G - sum(upto) above; others are beyond any room.
    others = b.emit(Rearrange("broadcast", ((count,), ())), b.emit(Sum((0,)), upto))
    places = b.emit(
        Combine((1, -1, -beyond), Table(np.array(count - 1 + beyond))), b.emit(RunningSum(0), at), others, at
    )
    fits = Table((np.arange(1 << bits) < room).astype(np.int64))
    fitting = b.emit(Lookup(fits, Group(1)), b.emit(Open(bits), places))
    return b.emit(Combine((1, -1), Table(np.array(1))), fitting, low(upto, 1))


def at_most(b: Builder, x: Var, room: int, least: int) -> Var:
    """[whether each of x is ``least`` or more, and of a level that at most ``room`` reach] in Z_2, (G,). Two rounds.

    ``x``: opened whole, (G,), with q bits. ``room``: 0 to G. ``least``: 1 to 2^q - 1.
    Costs, with k bits for the numbers 0 to G and l = 2^q - ``least`` levels: l (k + 1) bits to open; dealt are
    2^q G (k + 1) + 2^k l bits. Raises ValueError for more than ``MOST_COUNTED`` numbers.
    """
    (count,) = x.shape
    if count > MOST_COUNTED:
        raise ValueError(f"those that fit are found of {MOST_COUNTED} numbers at most, not of {count}")
    spots = b.emit(OneHot(Group(count.bit_length())), x)
    counts = _counts(b, spots, least, (1 << x.bits) - 1)
    few = Table((np.arange(1 << counts.bits) <= room).astype(np.int64))
    thermometer = b.emit(Open(1), b.emit(Lookup(few, Group(1)), counts))
    chosen, _ = b.emit_all(SecretTable(0, 0, least), x, b.emit(Resize(1), spots), thermometer)
    return chosen


def _counts(b: Builder, spots: Var, first: int, last: int) -> Var:
    """<how many numbers are at a level or above> for the levels ``first`` to ``last``, of their one-hot vectors."""
    at_least = b.emit(RunningSum(0, reverse=True), b.emit(Sum((0,)), spots))
    bits = spots.shape[0].bit_length()
    return b.emit(Open(bits), b.emit(Rearrange("slice", ((first,), (last + 1,), (1,))), at_least))

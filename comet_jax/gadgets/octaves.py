"""A positive number as 2^k u, 1 <= u < 2: k by comparisons with every power of two, u opened; three rounds."""

import numpy as np

from comet_jax.gadgets.bits import Compared, compare, open_truncated
from comet_jax.ir.program import Builder, Var
from comet_jax.protocols.linear import Combine, Rearrange, Scale, Table
from comet_jax.protocols.opening import Lift, Open

FRACTION = 14  # bits of u
# What u can be: the comparisons ignore bits that are less than 2^-5 of the number.
LEAST, MOST = 0.96, 2.07


def octaves_of(b: Builder, v: Var, *, shift: int, low: int, octaves: int) -> tuple[Compared, Var]:
    """[y >= 2^(low + k)] for k = 0 .. octaves - 1, on a last axis, and <u> at FRACTION bits, mod 4.

    y = v / 2^shift < 2^(low + octaves). Where y < 2^low, or negative, no bit is set and u is 1.
    v is in Z_2^k, k >= shift + low + octaves + 2.
    """
    w = open_truncated(b, v, shift=shift, width=low + octaves + 3)
    z = compare(b, w, tuple(1 << (low + k) for k in range(octaves)), low=max(0, low - 6))
    spare = max(0, FRACTION + 1 - low - octaves)  # a narrow range is scaled up to the fraction bits of u
    grow = [1 << (octaves - 1 - k + spare) for k in range(octaves)]
    steps = (grow[0], *(n - m for m, n in zip(grow, grow[1:])))
    u = z.gate(steps, w, b.emit(Lift(64), w))
    one = 1 << (low + octaves - 1 + spare)
    axes = len(v.shape) + 1
    first = z.moved(Rearrange("slice", ((0,) * axes, (*v.shape, 1), (1,) * axes))).number(64)
    first = b.emit(Rearrange("reshape", (v.shape,)), first)
    none = b.emit(Combine((1,), Table(np.array(one, np.int64))), b.emit(Scale(Table(np.array(-one, np.int64))), first))
    u = b.emit(Combine((1, 1)), u, none)
    return z, b.emit(Open(FRACTION + 2, low + octaves - 1 + spare - FRACTION), u)

"""exp by one table look-up, limited from above by what its result may be; two rounds, or three with the limit.

The argument is opened mod 32 levels of a few nats each (protocols/softmax.py has the table). At the top level the
result is ``largest``; whatever is 30 levels lower is zero at any precision. Comparisons keep arguments beyond either
end, if the argument's bound allows them, from coming around.
"""

import math

import numpy as np

from comet_jax.gadgets.bits import compare, open_to_compare, open_truncated
from comet_jax.ir.program import Builder, Var
from comet_jax.protocols.linear import Combine, Scale, Sum, Table
from comet_jax.protocols.opening import Lift, Open
from comet_jax.protocols.softmax import ExpTable

TOP = 30  # levels below the largest result
MOST_NATS = 2.0  # of half a level: the dealt factor loses as many nats of precision
SPARE = 0.125  # nats between the largest result and the top level
LOW = {32: 14, 64: 16}  # bits of a level
DEALT, PUBLIC = {32: 22, 64: 30}, {32: 16, 64: 18}  # scales of the exponential's two factors
COMPARED = 6  # fraction bits of the argument that its comparison with the limits looks at


def exponential(
    b: Builder, x: Var, *, scale: float, bound: float, ring: int, largest: float, fraction: int
) -> tuple[Var, float]:
    """[min(exp(x), largest)] in Z_2^ring, and its scale: 2^fraction, or less where ``largest`` needs the room.

    ``scale``: of x, |x| <= ``bound``. Error: relative, one step of the opened argument (2^-12 nats or finer at 32
    bits, 2^-14 at 64, where x is that fine); absolute, 2^-21 of ``largest`` and one step of the result. Up to 3% more
    than ``largest`` before the limit takes hold.
    """
    end = min(math.log(largest), bound)
    largest = math.exp(end)
    nats = min(MOST_NATS, max(end + bound, bound / 8) / (TOP - 1))
    level_bits, low = math.ceil(math.log2(nats * scale)), LOW[ring]
    if level_bits < low:  # a coarse argument: the missing bits are zero
        missing = max(0, min(low - level_bits, x.bits - 2 - math.ceil(math.log2(bound * scale))))
        x = b.emit(Scale(Table(np.array(1 << missing, np.int64))), x)
        scale, level_bits = scale * 2.0**missing, level_bits + missing
        low = min(low, level_bits)
    shift = level_bits - low
    nats = 2.0**level_bits / scale
    too_low, too_high = end - nats * (TOP - 1) > -bound, end < bound

    addend = (TOP << level_bits) - round((end + SPARE) * scale)
    u = b.emit(Open(low + 5, shift), b.emit(Combine((1,), Table(np.array(addend, np.int64))), x))
    table = ExpTable(low, nats / (1 << low), TOP - 1, 64, DEALT[ring], PUBLIC[ring])
    e = b.emit(table, u)
    # At TOP levels the table is exp(nats); beyond them, where the limit takes hold, it is up to that squared.
    e_scale = 2.0 ** (DEALT[ring] + PUBLIC[ring]) * math.exp(nats - SPARE) / largest
    most = largest * math.exp(SPARE + nats * too_high)
    cut = max(0, math.ceil(math.log2(e_scale) - min(fraction, ring - 2 - math.log2(most))))
    out_scale = e_scale / 2.0**cut
    ew = open_truncated(b, e, shift=cut, width=math.ceil(math.log2(most * out_scale)) + 2)
    out = b.emit(Lift(ring), ew)
    if not (too_low or too_high):
        return out, out_scale

    shift = max(0, math.floor(math.log2(scale)) - COMPARED)
    compared = scale / 2.0**shift
    # A limit is two steps of the comparison beyond the end, so that nothing in range is cut.
    low_end, high_end = math.floor((end - nats * (TOP - 1)) * compared) + 2, math.ceil(end * compared) + 2
    limits = ((low_end, 1),) * too_low + ((high_end, -1),) * too_high
    furthest = bound * compared + max(abs(t) for t, _ in limits)
    z = compare(b, open_to_compare(b, x, shift=shift, largest=furthest), tuple(t for t, _ in limits))
    gated = z.gate(tuple(sign for _, sign in limits), ew, out)
    out = gated if too_low else b.emit(Combine((1, 1)), out, gated)
    if too_high:
        values = np.array([0] * too_low + [round(largest * out_scale)], np.int64)
        ends = b.emit(Scale(Table(values)), z.number(ring))
        out = b.emit(Combine((1, 1)), out, b.emit(Sum((len(x.shape),)), ends))
    return out, out_scale

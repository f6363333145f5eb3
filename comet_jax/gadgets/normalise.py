"""Layer norm and RMS norm, without scale and bias: y / sqrt(mean y^2 + eps)."""

import math

import numpy as np

from comet_jax.gadgets.bits import open_truncated, requantise
from comet_jax.gadgets.inverse import inverse
from comet_jax.ir.program import Builder, Var
from comet_jax.protocols.bilinear import Product, RowSquares
from comet_jax.protocols.linear import Combine, Rearrange, Sum, Table
from comet_jax.protocols.opening import HighBits, Lift

DROP = 12  # bits of the sum of squares that its inverse square root does not need


def normalise(
    b: Builder,
    x: Var,
    *,
    scale: float,
    shift: int,
    width: int,
    eps: float,
    centre: bool,
    ring: int,
    fraction: int,
) -> tuple[Var, float]:
    """[(x - mean) / sqrt(variance + eps)] over the last axis, or [x / sqrt(mean x^2 + eps)] without ``centre``.

    ``scale``: of x. x is opened once, after ``shift`` bits, at ``width``. Returns the wire in Z_2^ring and its scale,
    about 2^fraction. Four rounds; with ``centre`` and for a 64-bit ring one more each.
    """
    d = x.shape[-1]
    w = open_truncated(b, x, shift=shift, width=width)
    y = b.emit(Lift(64), w)
    unit = scale / 2.0**shift
    squares = b.emit(RowSquares(), w, y)
    # Everything is n^2 times the mean square, where n^2 is d, or d^2 where the mean has to be taken away.
    weight = 1.0 * d
    if centre:
        total = b.emit(Sum((len(y.shape) - 1,)), y)
        column = b.emit(Rearrange("reshape", ((*total.shape, 1),)), total)
        mw = open_truncated(b, column, shift=0, width=w.bits + math.ceil(math.log2(d)))
        m = b.emit(Lift(64), mw)
        squares = b.emit(Combine((d, -1)), squares, b.emit(RowSquares(), mw, m))
        weight = 1.0 * d * d
    noise = Table(np.array(max(1, round(eps * weight * unit * unit)), np.int64))
    v = b.emit(Combine((1,), noise), squares)

    largest = weight * 2.0 ** (2 * (w.bits - 2))
    smallest = max(eps, 2.0**-17) * weight * unit * unit
    drop = max(0, min(DROP, math.floor(math.log2(smallest)) - 8))
    low = math.floor(math.log2(smallest)) - drop
    octaves = math.ceil(math.log2(largest)) - drop - low + 1
    # Room for d^1.5 times the result's scale, or sqrt(d) without the mean, below 2^62.
    product_bits = 32 + fraction - (math.floor(math.log2(d)) if centre else 0)
    numerator = 2.0**product_bits * math.sqrt(weight / 2.0**drop)
    i = inverse(b, v, shift=drop, low=low, octaves=octaves, numerator=numerator, root=True)
    i64 = b.emit(Lift(64), i)
    out, out_scale = b.emit(Product(), w, y, i, i64), 2.0**product_bits
    if centre:
        share = b.emit(Product(), mw, m, i, i64)
        share = b.emit(Rearrange("broadcast", (out.shape, tuple(range(len(out.shape))))), share)
        out, out_scale = b.emit(Combine((d, -1)), out, share), out_scale * d
    if ring == 32:
        return b.emit(HighBits(32), out), out_scale / 2.0**32
    height = fraction + math.ceil(math.log2(d) / 2) + 4
    return requantise(b, out, shift=32, width=height, ring=ring), out_scale / 2.0**32

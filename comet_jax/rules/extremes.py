"""Maxima, minima and their places over axes, by tournaments of comparisons."""

import math

import numpy as np

from comet_jax.gadgets.bits import Compared, compare, open_truncated
from comet_jax.ir.program import Var
from comet_jax.protocols.linear import Combine, Rearrange, Table
from comet_jax.rules.arithmetic import negate, rearranged, up_to
from comet_jax.rules.comparison import largest
from comet_jax.rules.registry import rule
from comet_jax.rules.scope import Scope
from comet_jax.rules.terms import Joint, Scaled


def axes_last(s: Scope, x: Joint, axes: tuple[int, ...]) -> Joint:
    """x with ``axes`` moved to the end and made one: where tournaments are played and networks laid."""
    kept = tuple(i for i in range(len(x.shape)) if i not in axes)
    order = (*kept, *axes)
    if order != tuple(range(len(x.shape))):
        shape = tuple(x.shape[i] for i in order)
        x = rearranged(s, x, "transpose", (order,), shape, once=True, last=False)
    if len(axes) == 1:
        return x
    shape = (*x.shape[: len(kept)], math.prod(x.shape[len(kept) :]))
    return rearranged(s, x, "reshape", (shape,), shape, once=True, last=False)


def lowered_infinities(s: Scope, x: Joint) -> Joint:
    """x with the least number that it can hold for minus infinity: a maximum stays the same."""
    if x.masked is None:
        return x
    base, where = x.masked.base, x.masked.where.mask
    if not where.any(-1).all():
        raise ValueError("the largest of nothing but minus infinity is no number in fixed point")

    def make():
        kept = s.scale_by(base.raw.var, where.astype(np.int64))
        low = np.where(where, 0.0, -largest(s, base, base.raw.scale))
        return s.add_public(Scaled(kept, base.raw.scale), low)

    return s.result(x.shape, make, range=base.range)


def _rows(s: Scope, node, x: Joint) -> Joint:
    x = axes_last(s, x, tuple(node.params["axes"]))
    if x.shape[-1] == 0:
        raise ValueError("the largest or smallest of no elements has no value")
    return lowered_infinities(s, x)


def fixed(s: Scope, x: Joint) -> tuple[Scaled, int]:
    """x at the operands' scale, and the bits of a wire that holds the difference of two elements."""
    bound = largest(s, x, x.raw.scale)
    small = s.small(x.raw, bound=bound)
    return small, s.numbers.width(math.log2(small.scale), bound) + 1


@rule("argmax")
def argmax(s: Scope, node, x: Joint):
    """The first place of the largest element over one axis, by a tournament of comparisons.

    Values that differ by less than a step of the operands' scale count as equal.
    """
    x = _rows(s, node, x)

    def make():
        small, width = fixed(s, x)
        values = small.var
        places: Var | np.ndarray = np.broadcast_to(np.arange(x.shape[-1]), x.shape)
        place_bits = max(1, x.shape[-1].bit_length()) + 3
        while (count := values.shape[-1]) > 1:
            z, values = _winners(s, values, width)
            where = _better_place(s, z, places, count // 2, place_bits)
            places = _append_place(s, where, places, count - 1) if count % 2 else where
        if isinstance(places, np.ndarray):  # a single column: the first place, as shares of a constant
            places = s.constant(places, 1.0)
        return Scaled(s.b.emit(Rearrange("reshape", (x.shape[:-1],)), places), 1.0)

    return s.result(x.shape[:-1], make, range=up_to(x.shape[-1] - 1))


def columns(s: Scope, x: Var, start: int, size: int, stride: int = 1) -> Var:
    """``size`` elements of each row of the last axis."""
    begin = (0,) * (len(x.shape) - 1) + (start,)
    end = (*x.shape[:-1], start + (size - 1) * stride + 1)
    return s.b.emit(Rearrange("slice", (begin, end, (1,) * (len(end) - 1) + (stride,))), x)


def _every_other(s: Scope, x: Var, k: int, half: int) -> Var:
    # Neighbours meet, so that an earlier place always sits on the left and wins a tie.
    return columns(s, x, k, half, 2)


def _winners(s: Scope, values: Var, width: int) -> tuple[Compared, Var]:
    """One round of a tournament: whether the first of each pair is at least the second, and those that go on."""
    count, axis = values.shape[-1], len(values.shape) - 1
    first, second = (_every_other(s, values, k, count // 2) for k in (0, 1))
    d = s.b.emit(Combine((1, -1)), first, second)
    w = open_truncated(s.b, d, shift=0, width=width)
    z = compare(s.b, w, (0,))
    best = s.b.emit(Combine((1, 1)), second, z.gate((1,), w, d))
    if count % 2:  # the last has no partner
        best = s.b.emit(Rearrange("concatenate", (axis,)), best, columns(s, values, count - 1, 1))
    return z, best


def _better_place(s: Scope, z: Compared, places: "Var | np.ndarray", half: int, bits: int) -> Var:
    if isinstance(places, np.ndarray):
        first, second = places[..., : 2 * half : 2], places[..., 1 : 2 * half : 2]
        bit = s.b.emit(Rearrange("reshape", (z.var.shape[:-1],)), z.number(s.numbers.ring))
        return s.b.emit(Combine((1,), Table(second.astype(np.int64))), s.scale_by(bit, first - second))
    first, second = (_every_other(s, places, k, half) for k in (0, 1))
    d = s.b.emit(Combine((1, -1)), first, second)
    w = open_truncated(s.b, d, shift=0, width=bits)
    return s.b.emit(Combine((1, 1)), second, z.gate((1,), w, d))


def _append_place(s: Scope, where: Var, places: "Var | np.ndarray", last: int) -> Var:
    rest = (
        s.constant(places[..., last : last + 1], 1.0) if isinstance(places, np.ndarray) else columns(s, places, last, 1)
    )
    return s.b.emit(Rearrange("concatenate", (len(where.shape) - 1,)), where, rest)


@rule("reduce_max")
def reduce_max(s: Scope, node, x: Joint):
    """The largest element over axes, by a tournament of comparisons, to a step of the operands' scale."""
    x = _rows(s, node, x)
    return largest_of_rows(s, x)


def largest_of_rows(s: Scope, x: Joint) -> Joint:
    """The largest element of each row of the last axis."""

    def make():
        small, width = fixed(s, x)
        values = small.var
        while values.shape[-1] > 1:
            _, values = _winners(s, values, width)
        return Scaled(s.b.emit(Rearrange("reshape", (x.shape[:-1],)), values), small.scale)

    return s.result(x.shape[:-1], make, range=x.range)


@rule("argmin")
def argmin(s: Scope, node, x: Joint):
    """The first place of the smallest element over one axis; ties as for argmax."""
    return argmax(s, node, negate(s, node, x))


@rule("reduce_min")
def reduce_min(s: Scope, node, x: Joint):
    """The smallest element over axes, to a step of the operands' scale."""
    return negate(s, node, reduce_max(s, node, negate(s, node, x)))

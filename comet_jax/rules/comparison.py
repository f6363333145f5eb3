"""Comparisons, choices by a secret, maxima, argmax."""

import math

import numpy as np

from comet_jax.gadgets.bits import at_least, open_truncated
from comet_jax.ir.program import Var
from comet_jax.protocols.linear import Combine, Rearrange, Table
from comet_jax.protocols.opening import Lift
from comet_jax.protocols.selection import Gate, Not, ToArithmetic
from comet_jax.rules.arithmetic import _add_public, add, multiply_by_public, negate, rearranged, sub
from comet_jax.rules.registry import rule
from comet_jax.rules.scope import Scope
from comet_jax.rules.terms import Joint, Known, Scaled, Term


def _difference(s: Scope, node, x: Term, y: Term) -> Joint:
    if isinstance(x, Known):
        return _add_public(s, negate(s, node, s.joint(y)), x.value)
    return sub(s, node, s.joint(x), y)


def _opened(s: Scope, x: Joint, spare: int = 1) -> tuple[Var, Var, float]:
    """x truncated to the operands' scale: opened, as shares, and its scale. ``spare`` bits more than the bound."""
    raw, n = x.raw, s.numbers
    shift = max(0, math.floor(math.log2(raw.scale)) - n.operand)
    scale = raw.scale / 2.0**shift
    w = open_truncated(s.b, raw.var, shift=shift, width=n.width(math.log2(scale), s.range_of(x).largest) + spare)
    return w, s.b.emit(Lift(n.ring), w), scale


def _boolean(s: Scope, shape, flag) -> Joint:
    make = lambda: Scaled(s.b.emit(ToArithmetic(s.numbers.ring), flag()), 1.0)
    return s.result(shape, make, flag=flag)


def nonnegative(s: Scope, d: Joint) -> Joint:
    """Whether each element is at least zero."""

    def flag():
        w, _, _ = _opened(s, d)
        z = at_least(s.b, w, (0,))
        return s.b.emit(Rearrange("reshape", (d.shape,)), z)

    return _boolean(s, d.shape, flag)


@rule("ge", "le", "gt", "lt", elementwise=True)
def compare(s: Scope, node, x: Term, y: Term):
    """>= and <= as such; > is the opposite of <=, so that ties fall on the right side."""
    at_most = node.op in ("le", "gt")
    reached = nonnegative(s, _difference(s, node, *((y, x) if at_most else (x, y))))
    return reached if node.op in ("ge", "le") else invert(s, node, reached)


@rule("not")
def invert(s: Scope, node, x: Joint):
    if x.flag is None:
        raise ValueError("`not` of a secret integer has no private rule")
    flag = x.flag
    return _boolean(s, x.shape, lambda: s.b.emit(Not(), flag()))


def select_by_secret(s: Scope, which: Joint, no: Term, yes: Term) -> Joint:
    """no + z (yes - no)."""
    if which.flag is None:
        raise ValueError("a choice needs a secret boolean")
    flag = which.flag
    d = _difference(s, None, yes, no)

    def make():
        w, y, scale = _opened(s, d)
        z = s.b.emit(Rearrange("reshape", ((*d.shape, 1),)), flag())
        return Scaled(s.b.emit(Gate((1,)), z, w, y), scale)

    return add(s, None, s.result(d.shape, make), no)  # type: ignore[return-value]


@rule("max", elementwise=True)
def maximum(s: Scope, node, x: Term, y: Term):
    if isinstance(x, Known):
        x, y = y, x
    return add(s, node, _relu_of(s, _difference(s, node, x, y)), y)


@rule("min", elementwise=True)
def minimum(s: Scope, node, x: Term, y: Term):
    if isinstance(x, Known):
        x, y = y, x
    return _difference(s, node, x, _relu_of(s, _difference(s, node, x, y)))


def _relu_of(s: Scope, d: Joint) -> Joint:
    def make():
        w, y, scale = _opened(s, d)
        return Scaled(s.b.emit(Gate((1,)), at_least(s.b, w, (0,)), w, y), scale)

    return s.result(d.shape, make)


@rule("abs")
def absolute(s: Scope, node, x: Joint):
    twice = multiply_by_public(s, _relu_of(s, x), np.array(2.0))
    return sub(s, node, twice, x)


@rule("clamp")
def clamp(s: Scope, node, low: Term, x: Term, high: Term):
    return minimum(s, node, maximum(s, node, x, low), high)


def _axis_last(s: Scope, node, x: Joint) -> Joint:
    """x with the axis that ``node`` reduces moved to the end, where tournaments are played."""
    axes = tuple(node.params["axes"])
    if len(axes) != 1:
        raise ValueError("a maximum or minimum has a private rule over one axis at a time: reshape to one axis first")
    order = (*(i for i in range(len(x.shape)) if i not in axes), *axes)
    if order == tuple(range(len(x.shape))):
        return x
    shape = tuple(x.shape[i] for i in order)
    return rearranged(s, x, "transpose", (order,), shape, once=True, last=False)


@rule("argmax")
def argmax(s: Scope, node, x: Joint):
    """The first place of the largest element over one axis, by a tournament of comparisons.

    Values that differ by less than a step of the operands' scale count as equal.
    """
    x = _axis_last(s, node, x)

    def make():
        small = s.small(x.raw, bound=s.range_of(x).largest)
        values = small.var
        width = s.numbers.width(math.log2(small.scale), s.range_of(x).largest) + 1
        count = x.shape[-1]
        places: Var | np.ndarray = np.broadcast_to(np.arange(count), x.shape)
        place_bits = max(1, count.bit_length()) + 3
        while count > 1:
            half = count // 2
            first, second = (_every_other(s, values, k, half) for k in (0, 1))
            d = s.b.emit(Combine((1, -1)), first, second)
            w = open_truncated(s.b, d, shift=0, width=width)
            z = at_least(s.b, w, (0,))
            best = s.b.emit(Combine((1, 1)), second, s.b.emit(Gate((1,)), z, w, d))
            where = _better_place(s, z, places, half, place_bits)
            if count % 2:
                rest = _part(s, values, count - 1, 1)
                best = s.b.emit(Rearrange("concatenate", (len(x.shape) - 1,)), best, rest)
                where = _append_place(s, where, places, count - 1)
            values, places, count = best, where, half + count % 2
        if isinstance(places, np.ndarray):  # a single column: the first place, as shares of a constant
            places = s.b.emit(Combine((1,), Table(places.astype(np.int64))), s.scale_by(values, np.array(0)))
        return Scaled(s.b.emit(Rearrange("reshape", (x.shape[:-1],)), places), 1.0)

    return s.result(x.shape[:-1], make)


def _part(s: Scope, x: Var, start: int, size: int, stride: int = 1) -> Var:
    begin = (0,) * (len(x.shape) - 1) + (start,)
    end = (*x.shape[:-1], start + (size - 1) * stride + 1)
    return s.b.emit(Rearrange("slice", (begin, end, (1,) * (len(end) - 1) + (stride,))), x)


def _every_other(s: Scope, x: Var, k: int, half: int) -> Var:
    # Neighbours meet, so that an earlier place always sits on the left and wins a tie.
    return _part(s, x, k, half, 2)


def _better_place(s: Scope, z: Var, places: "Var | np.ndarray", half: int, bits: int) -> Var:
    if isinstance(places, np.ndarray):
        first, second = places[..., : 2 * half : 2], places[..., 1 : 2 * half : 2]
        bit = s.b.emit(Rearrange("reshape", (z.shape[:-1],)), s.b.emit(ToArithmetic(s.numbers.ring), z))
        return s.b.emit(Combine((1,), Table(second.astype(np.int64))), s.scale_by(bit, first - second))
    first, second = (_every_other(s, places, k, half) for k in (0, 1))
    d = s.b.emit(Combine((1, -1)), first, second)
    w = open_truncated(s.b, d, shift=0, width=bits)
    return s.b.emit(Combine((1, 1)), second, s.b.emit(Gate((1,)), z, w, d))


def _append_place(s: Scope, where: Var, places: "Var | np.ndarray", last: int) -> Var:
    if isinstance(places, np.ndarray):
        zero = s.scale_by(_part(s, where, 0, 1), np.array(0))
        rest = s.b.emit(Combine((1,), Table(places[..., last : last + 1].astype(np.int64))), zero)
    else:
        rest = _part(s, places, last, 1)
    return s.b.emit(Rearrange("concatenate", (len(where.shape) - 1,)), where, rest)


@rule("reduce_max")
def reduce_max(s: Scope, node, x: Joint):
    """The largest element over one axis, by a tournament of comparisons, to a step of the operands' scale."""
    x = _axis_last(s, node, x)

    def make():
        small = s.small(x.raw, bound=s.range_of(x).largest)
        values, count = small.var, x.shape[-1]
        width = s.numbers.width(math.log2(small.scale), s.range_of(x).largest) + 1
        while count > 1:
            half = count // 2
            first, second = (_every_other(s, values, k, half) for k in (0, 1))
            d = s.b.emit(Combine((1, -1)), first, second)
            w = open_truncated(s.b, d, shift=0, width=width)
            best = s.b.emit(Combine((1, 1)), second, s.b.emit(Gate((1,)), at_least(s.b, w, (0,)), w, d))
            if count % 2:
                best = s.b.emit(Rearrange("concatenate", (len(x.shape) - 1,)), best, _part(s, values, count - 1, 1))
            values, count = best, half + count % 2
        return Scaled(s.b.emit(Rearrange("reshape", (x.shape[:-1],)), values), small.scale)

    return s.result(x.shape[:-1], make)


@rule("argmin")
def argmin(s: Scope, node, x: Joint):
    """The first place of the smallest element over one axis; ties as for argmax."""
    return argmax(s, node, negate(s, node, x))


@rule("reduce_min")
def reduce_min(s: Scope, node, x: Joint):
    """The smallest element over one axis, to a step of the operands' scale."""
    return negate(s, node, reduce_max(s, node, negate(s, node, x)))

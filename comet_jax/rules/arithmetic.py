"""Element-wise arithmetic. Constants cost nothing: they change a wire's scale, which is any real number."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from comet_jax.policy import Range
from comet_jax.protocols.bilinear import Bilinear
from comet_jax.protocols.linear import Combine, Rearrange
from comet_jax.rules.registry import rule
from comet_jax.rules.scope import Scope, centre
from comet_jax.rules.terms import Affine, Joint, Known, Linear, Masked, Owned, Scaled, Term, centring
from comet_jax.sharing.packing import Where

# A public addend at or below this, or a fill value, stands for minus infinity (-1e9, finfo.min, -inf are in use).
MINUS_INFINITY = -1e4


@rule("add", "add_any", elementwise=True)
def add(s: Scope, node, x: Term, y: Term):
    if isinstance(x, Known) or (isinstance(x, Owned) and isinstance(y, Joint)):
        x, y = y, x
    x = s.joint(x)
    if isinstance(y, Known):
        return _add_public(s, x, y.value)
    if isinstance(y, Owned):
        return _add_owned(s, x, y)
    found = s.calibrated(node.outputs[0]) if node else None
    plus = partial(s.add, largest=found.largest if found else 0.0)
    return s.result(x.shape, lambda: plus(x.raw, y.raw), make_centred=centring(plus, x, y), range=_sum_range(x, y))


def _sum_range(*xs: Joint) -> Range | None:
    """What is known of a sum or difference of calibrated values."""
    found = [x.range for x in xs if x.range]
    if len(found) < len(xs):
        return None
    largest = sum(r.largest for r in found)
    return Range(min(r.smallest for r in found), largest, max(largest, *(r.room for r in found)))


@rule("sub", elementwise=True)
def sub(s: Scope, node, x: Term, y: Term):
    if isinstance(y, Known):
        return _add_public(s, s.joint(x), -y.value)
    if isinstance(y, Owned):
        minus = lambda v: v.map(np.negative, v.shape)
        return _add_owned(s, s.joint(x), replace(minus(y), vector=None if y.vector is None else minus(y.vector)))
    return add(s, node, x, negate(s, node, y))


@rule("neg")
def negate(s: Scope, node, x: Joint):
    return multiply_by_public(s, x, np.array(-1.0))


def up_to(largest: float) -> Range:
    """What is known of integers of magnitude ``largest`` at most."""
    size = 2.0 ** math.ceil(math.log2(max(largest, 1.0)))
    return Range(1.0, size, size)


def hull(*terms: Term) -> Range | None:
    """What is known of a value that is one of ``terms`` at each place."""
    public = lambda v: up_to(float(np.abs(np.asarray(v, np.float64)).max(initial=0.0)))
    found = [public(t.value) if isinstance(t, Known) else t.range for t in terms]
    known = [r for r in found if r]
    if len(known) < len(terms):
        return None
    return Range(min(r.smallest for r in known), max(r.largest for r in known), max(r.room for r in known))


def is_finite(value: np.ndarray) -> np.ndarray:
    """Where public numbers do not stand for minus infinity. Integers never do."""
    value = np.asarray(value)
    return value > MINUS_INFINITY if value.dtype.kind not in "iub" else np.ones(value.shape, bool)


def _add_public(s: Scope, x: Joint, value: np.ndarray):
    if np.any(np.isnan(value)) or np.any(np.asarray(value) == np.inf):
        raise ValueError("a public addend is NaN or infinity")
    given, finite = value, is_finite(value)
    keep = np.broadcast_to(finite, x.shape)
    value = np.broadcast_to(np.where(finite, value, 0), x.shape)
    middle = centring(lambda c: s.add_public(c, value - value.mean(-1, keepdims=True)), x)
    found = x.range and Range(x.range.smallest, size := x.range.largest + np.abs(value).max(initial=0.0), size)
    out = s.result(x.shape, lambda: s.add_public(x.raw, value), make_centred=middle, range=found)
    # From -1e9 on, float32 keeps nothing of the score that it is added to.
    low = np.unique(np.asarray(given)[~finite])
    return out if keep.all() else masked(s, out, keep, even=low.size == 1 and -np.inf < low[0] <= -1e9)


def _add_owned(s: Scope, x: Joint, y: Owned):
    real = y.dtype.kind not in "iub"
    if not real:
        y = y.map(lambda a: a.astype(np.float64), y.shape, dtype=np.float64)
    # A repeated vector (a bias) is encoded once and repeated as shares.
    source = y.vector or y

    def plus(base: Scaled, value: Owned) -> Scaled:
        base = s.fine(base) if real else base
        var = s.broadcast(s.encode(value, base.scale), x.shape)
        return Scaled(s.b.emit(Combine((1, 1)), base.var, var), base.scale)

    extra: dict[str, Any] = {"make_centred": centring(lambda c: plus(c, centre(source)), x)}
    if x.affine and y.vector and y.owner == x.affine.gain.owner:
        shift = y.vector if x.affine.shift is None else x.affine.shift.map(np.add, y.vector.shape, y.vector)
        extra["affine"] = Affine(x.affine.base, x.affine.gain, shift)
    if x.linear and y.vector and y.owner == x.linear.owner:
        linear, vector = x.linear, y.vector
        times = lambda gain, found: _add_vector(
            s, linear.times(gain, found), vector.map(np.multiply, vector.shape, gain)
        )
        extra["linear"] = Linear(y.owner, times)
    return s.result(x.shape, lambda: plus(x.raw, source), **extra)


def _add_vector(s: Scope, x: Joint, vector: Owned) -> Joint:
    repeat = lambda env: np.broadcast_to(vector.at(env), x.shape)
    return _add_owned(s, x, replace(vector, shape=x.shape, compute=repeat, vector=vector))


@rule("mul", elementwise=True)
def multiply(s: Scope, node, x: Term, y: Term):
    if isinstance(x, Known) or (isinstance(x, Owned) and isinstance(y, Joint)):
        x, y = y, x
    x = s.joint(x)
    if isinstance(y, Known):
        return multiply_by_public(s, x, y.value)
    if isinstance(y, Owned):
        return _multiply_by_owned(s, node, x, y)

    def make():
        a, b = s.factors(x, y, node.outputs[0])
        return Scaled(s.b.emit(Bilinear(), a.var, b.var), a.scale * b.scale)

    return s.result(x.shape, make)


def _multiply_by_owned(s: Scope, node, x: Joint, y: Owned):
    if x.linear and y.vector and y.owner == x.linear.owner:
        return x.linear.times(y.vector, s.calibrated(node.outputs[0]))
    source = y.vector or y

    def make():
        a = x.operand
        scale = s.scale_of(node.outputs[0])
        w = s.broadcast(s.encode(source, scale / a.scale, static=True), x.shape)
        return Scaled(s.b.emit(Bilinear(), a.var, w), scale)

    if y.vector is None:
        return s.result(x.shape, make)
    affine = Affine(x, y.vector, None)
    if x.affine and x.affine.gain.owner == y.owner:
        times = lambda v: None if v is None else v.map(np.multiply, v.shape, y.vector)
        affine = Affine(x.affine.base, times(x.affine.gain), times(x.affine.shift))  # type: ignore[arg-type]
    return s.result(x.shape, make, affine=affine)


def multiply_by_public(s: Scope, x: Joint, value: np.ndarray) -> Joint:
    """x times public numbers: free for one number, an integer product for several."""
    if not np.all(np.isfinite(value)):
        raise ValueError("a public factor is not finite")
    largest = float(np.abs(value).max(initial=0.0))
    if largest == 0:
        zero = np.zeros(x.shape)
        return s.result(x.shape, lambda: Scaled(s.scale_by(x.raw.var, zero), x.raw.scale))
    ratios = np.asarray(value, np.float64) / largest
    small_integers = bool(np.all(np.abs(ratios - np.rint(ratios)) < 1e-12))
    same = small_integers and ratios.size and bool(np.all(ratios == ratios.flat[0]))

    whole = bool(np.all(value == np.rint(value)))

    def times(base: Scaled) -> Scaled:
        if whole and base.scale == 1.0:  # integers stay integers
            return Scaled(s.scale_by(base.var, np.broadcast_to(value, x.shape)), 1.0, base.where)
        if small_integers:  # every factor is 0 or plus or minus the largest
            var = base.var
            if not same or ratios.flat[0] < 0:
                table = ratios.flat[0] if same else np.broadcast_to(ratios, x.shape)
                var = s.scale_by(var, np.rint(table))
            return Scaled(var, base.scale / largest, base.where)
        bound = s.range_of(x).largest
        base = s.small(base, bound=bound)
        # The product with a table takes as many fraction bits of it as the ring has left.
        bits = min(s.table_bits, math.floor(s.numbers.ring - 2 - math.log2(bound * base.scale)))
        table = np.rint(np.broadcast_to(ratios, x.shape) * 2.0**bits)
        return Scaled(s.scale_by(base.var, table), base.scale * 2.0**bits / largest, base.where)

    extra: dict[str, Any] = {}
    if x.range:
        extra["range"] = Range(*(v * largest for v in (x.range.smallest, x.range.largest, x.range.room)))
    if same:
        extra["make_centred"] = centring(times, x)
        if x.masked and ratios.flat[0] > 0:
            extra["masked"] = replace(x.masked, base=multiply_by_public(s, x.masked.base, value))
        if x.inverse:
            extra["inverse"] = multiply_by_public(s, x.inverse, 1 / np.asarray(value, np.float64))
    out = s.result(x.shape, lambda: times(x.raw), **extra)
    if same and ratios.flat[0] > 0:
        # The operand is the same integers at another scale: opened once.
        def rescaled(j: Joint) -> Scaled:
            if whole and x.operand.scale == 1.0:
                return out.make_operand(j)
            return Scaled(x.operand.var, x.operand.scale / largest, x.operand.where)

        return Joint(x.shape, out.make_raw, rescaled, **extra)
    return out


@rule("div", elementwise=True)
def divide(s: Scope, node, x: Term, y: Term):
    if node.outputs[0].dtype.kind in "iu":
        from comet_jax.rules.integers import quotient

        return quotient(s, x, y)
    if isinstance(y, Known):
        with np.errstate(divide="ignore"):
            return multiply_by_public(s, s.joint(x), 1.0 / np.asarray(y.value, np.float64))
    if isinstance(y, Owned):
        inverse = y.map(lambda a: 1.0 / a, y.shape, dtype=np.float64)
        if y.vector is not None:
            vector = y.vector.map(lambda a: 1.0 / a, y.vector.shape, dtype=np.float64)
            inverse = replace(inverse, vector=vector)
        return multiply(s, node, x, inverse)
    from comet_jax.rules.fused import reciprocal

    inverse = y.inverse or reciprocal(s, y)
    if isinstance(x, Known):
        return multiply_by_public(s, inverse, x.value)
    return multiply(s, node, x, inverse)


@rule("integer_pow")
def integer_pow(s: Scope, node, x: Joint):
    power = node.params["y"]
    if power < 0:
        return divide(s, node, Known(np.ones(x.shape)), _power(s, node, x, -power))
    return _power(s, node, x, power)


@rule("square")
def square(s: Scope, node, x: Joint):
    return multiply(s, node, x, x)


def _power(s: Scope, node, x: Joint, power: int):
    if power == 0:
        return Known(np.ones(x.shape, np.float32))
    out = x
    for _ in range(power - 1):
        out = multiply(s, node, out, x)
    return out


@rule("copy", "optimization_barrier", "reduce_precision")
def identity(s: Scope, node, *xs: Term):
    return [s.joint(x) for x in xs]


@rule("convert_element_type")
def convert(s: Scope, node, x: Joint):
    kind = np.dtype(node.params["new_dtype"]).kind
    if kind == "c":
        raise ValueError("complex numbers have no private form: compute on real and imaginary parts")
    if kind == "b" and node.inputs[0].dtype.kind != "b":
        from comet_jax.rules.comparison import equal

        return equal(s, replace(node, op="ne"), x, Known(np.zeros((), node.inputs[0].dtype)))
    if kind in "iu" and not x.flag and x.raw.scale != 1.0:
        raise ValueError("rounding a secret number to an integer has no private rule")
    return x


def masked(s: Scope, x: Joint, keep: np.ndarray, *, even: bool = False) -> Joint:
    """x where ``keep`` and minus infinity elsewhere. Only softmax can take it. ``even``: see ``Masked``."""

    def refuse(*_):
        raise ValueError(
            "minus infinity is no number in fixed point: scores masked by it can only go to a softmax over "
            "the last axis"
        )

    where = Where(np.ascontiguousarray(np.broadcast_to(keep, x.shape)))
    base = x
    if x.masked:
        base, where, even = x.masked.base, Where(where.mask & x.masked.where.mask), False
    return Joint(x.shape, refuse, refuse, masked=Masked(base, where, even))


def rearranged(s: Scope, x: Joint, kind: str, parameters: tuple, shape, *, once: bool, last: bool) -> Joint:
    """x with its elements elsewhere.

    ``once``: no element is lost, so that an operand may be opened before it is rearranged and serve both shapes.
    ``last``: every row of the last axis stays whole.
    """
    step = Rearrange(kind, parameters)

    def move(f: Scaled) -> Scaled:
        where = f.where
        if where is not None:
            where = Where(np.asarray(step.apply(where.mask.astype(np.uint32))).astype(bool))
        return Scaled(s.b.emit(step, f.var), f.scale, where)

    extra: dict[str, Any] = {"make_centred": centring(move, x) if last else None, "range": x.range}
    if x.masked:
        base = rearranged(s, x.masked.base, kind, parameters, shape, once=once, last=last)
        keep = np.asarray(step.apply(x.masked.where.mask.astype(np.uint32))).astype(bool)
        extra["masked"] = replace(x.masked, base=base, where=Where(keep))
    if x.inverse:
        extra["inverse"] = rearranged(s, x.inverse, kind, parameters, shape, once=once, last=last)
    if x.linear and last:
        linear, move_all = x.linear, lambda j: rearranged(s, j, kind, parameters, shape, once=once, last=last)
        extra["linear"] = Linear(linear.owner, lambda gain, found: move_all(linear.times(gain, found)))
    if x.flag:
        flag = x.flag
        extra["flag"] = lambda: s.b.emit(step, flag())
    make_raw = lambda: move(x.raw)
    if once:
        return Joint(tuple(shape), make_raw, lambda _: move(x.operand), **extra)
    return s.result(shape, make_raw, **extra)

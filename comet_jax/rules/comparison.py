"""Comparisons, and choices by a secret."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from comet_jax.gadgets.bits import at_least, open_to_compare, open_truncated
from comet_jax.gadgets.bits import compare as compare_wire
from comet_jax.ir.program import Var
from comet_jax.protocols.booleans import Xor
from comet_jax.protocols.linear import Rearrange, Table
from comet_jax.protocols.opening import Lift
from comet_jax.protocols.selection import Gate
from comet_jax.rules.arithmetic import _add_public, add, hull, is_finite, multiply_by_public, negate, sub
from comet_jax.rules.booleans import bit_of, boolean, choose_bits, exclusive, invert
from comet_jax.rules.registry import rule
from comet_jax.rules.scope import Scope
from comet_jax.rules.terms import Joint, Known, Owned, Scaled, Term

# Secret integers of unknown range are compared as numbers of this magnitude, whatever the policy's bound is.
LARGEST_INTEGER = 2.0**29


def largest(s: Scope, x: Joint | Owned, scale: float) -> float:
    """The largest magnitude of x, which is on a wire at ``scale``: integers are as they are, at scale 1."""
    found = s.calibrated(x)
    return found.largest if found else LARGEST_INTEGER if scale == 1.0 else s.numbers.bound


def _reach(s: Scope, terms: tuple[Term, ...]) -> float:
    """The largest magnitudes of the terms of a difference, added. What a constant has made small kept its integers."""
    scales = {id(t): _scale(s, t) for t in terms if not isinstance(t, Known)}
    # Next to a real number, an integer of unknown range is within the bound as well.
    unknown = LARGEST_INTEGER if set(scales.values()) == {1.0} else s.numbers.bound

    def of(t: Term) -> float:
        if isinstance(t, Known):
            return float(np.abs(np.asarray(t.value, np.float64)).max(initial=0.0))
        found = s.calibrated(t)
        return found.largest if found else unknown * min(1.0, s.raw_scale / scales[id(t)])

    return sum(map(of, terms))


def _scale(s: Scope, t: Joint | Owned) -> float:
    return t.raw.scale if isinstance(t, Joint) else 1.0 if t.dtype.kind in "iub" else s.raw_scale


def difference(s: Scope, node, x: Term, y: Term) -> Joint:
    """x - y, with room for it where x and y fill the ring; booleans count as zero and one."""
    x, y = (
        Known(t.value.astype(np.int32)) if isinstance(t, Known) and t.value.dtype.kind == "b" else t for t in (x, y)
    )
    terms = (x, y)
    roomy = lambda t: replace(t, make_raw=lambda: s.with_room(t.raw, _reach(s, terms))) if isinstance(t, Joint) else t
    x, y = map(roomy, terms)
    if isinstance(x, Known):
        return _add_public(s, negate(s, node, s.joint(y)), x.value)
    return sub(s, node, s.joint(x), y)


def within(s: Scope, x: Term, y: Term) -> Term:
    """y, of which a public number beyond what x can be is moved to the limit: what compares with x stays the same."""
    if not isinstance(y, Known) or isinstance(x, Known):
        return y
    if np.any(np.isnan(y.value)):
        raise ValueError("a secret is compared with NaN")
    integer = np.asarray(y.value).dtype.kind in "iub"
    joint = s.joint(x)
    found = s.calibrated(joint)
    limit = found.largest if found else LARGEST_INTEGER if integer else s.numbers.bound
    return Known(np.clip(y.value, -limit, limit).astype(y.value.dtype))


def opened(s: Scope, x: Joint) -> tuple[Var, Var, float]:
    """x, a difference of two values, truncated to the operands' scale: opened, as shares, and its scale."""
    raw, n = x.raw, s.numbers
    shift = s.low_bits(raw, n.operand)
    scale = raw.scale / 2.0**shift
    width = n.width(math.log2(scale), largest(s, x, raw.scale)) + 1
    w = open_truncated(s.b, raw.var, shift=shift, width=width)
    return w, s.b.emit(Lift(n.ring), w), scale


def reached(s: Scope, x: Joint, thresholds: np.ndarray) -> Var:
    """Opened bits, on a new last axis: whether x is at or above each public threshold. x is opened once."""
    raw = x.raw
    shift = s.low_bits(raw, s.numbers.operand)
    scale = raw.scale / 2.0**shift
    integers = np.rint(np.asarray(thresholds, np.float64) * scale).astype(np.int64)
    places, inverse = np.unique(integers, return_inverse=True)
    furthest = largest(s, x, raw.scale) * scale + float(np.abs(places).max(initial=0)) + 1
    w = open_to_compare(s.b, raw.var, shift=shift, largest=furthest)
    z = at_least(s.b, w, tuple(int(t) for t in places))
    if np.array_equal(inverse, np.arange(len(places))):
        return z
    return s.b.emit(Rearrange("take", (Table(inverse.astype(np.int32)), len(x.shape))), z)


def nonnegative(s: Scope, d: Joint) -> Joint:
    """Whether each element is at least zero."""

    def flag():
        z = at_least(s.b, opened(s, d)[0], (0,))
        return s.b.emit(Rearrange("reshape", (d.shape,)), z)

    return boolean(s, d.shape, flag)


@rule("ge", "le", "gt", "lt", elementwise=True)
def compare(s: Scope, node, x: Term, y: Term):
    """>= and <= as such; > is the opposite of <=, so that ties fall on the right side."""
    x, y = within(s, y, x), within(s, x, y)
    at_most = node.op in ("le", "gt")
    found = nonnegative(s, difference(s, node, *((y, x) if at_most else (x, y))))
    return found if node.op in ("ge", "le") else invert(s, None, found)


@rule("eq", "ne", elementwise=True)
def equal(s: Scope, node, x: Term, y: Term):
    """Exact for integers and booleans. Reals that differ by less than a step of the operands' scale may be equal."""
    shape, kind = node.outputs[0].shape, node.inputs[0].dtype.kind
    if x is y:  # a secret is never NaN
        return Known(np.full(shape, node.op == "eq"))
    if kind == "b":
        found = exclusive(s, node, x, y)
        return found if node.op == "ne" else invert(s, None, found)
    if isinstance(x, Known):
        x, y = y, x
    if isinstance(y, Known) and y.value.size and np.isinf(y.value).all() and not (isinstance(x, Joint) and x.masked):
        return Known(np.full(shape, node.op == "ne"))  # nor infinity
    same = _at_places(s, x, y, shape) if isinstance(x, Joint) and isinstance(y, Known) else None
    if same is None:
        same = _is_zero(s, difference(s, node, x, within(s, x, y)))
        if isinstance(y, Known):  # what x cannot be it is not
            reach = np.broadcast_to(within(s, x, y).value == y.value, shape)  # type: ignore[union-attr]
            if not reach.all():
                inside, keep = same, Xor(keep=Table(reach.astype(np.int64)))
                same = boolean(s, shape, lambda: s.b.emit(keep, bit_of(s, inside)))
    return same if node.op == "eq" else invert(s, None, same)


def _is_zero(s: Scope, d: Joint) -> Joint:
    """d >= 0 and not d >= 1, in the wire's integers."""

    def flag():
        z = at_least(s.b, opened(s, d)[0], (0, 1))
        return _both_differ(s, z)

    return boolean(s, d.shape, flag)


def _both_differ(s: Scope, z: Var) -> Var:
    n = len(z.shape) - 1
    one = lambda k: s.b.emit(Rearrange("take", (Table(np.array(k, np.int32)), n)), z)
    return s.b.emit(Xor(), one(0), one(1))


def _at_places(s: Scope, x: Joint, y: Known, shape: tuple[int, ...]) -> Joint | None:
    """x == y where x repeats a smaller integer array along the axes in which y differs (a one-hot vector), or None.

    The small array is opened once, and compared with every place.
    """
    if x.spread is None or y.value.dtype.kind not in "iu":
        return None
    small, dims = x.spread
    rest = tuple(i for i in range(len(shape)) if i not in dims)
    table = np.broadcast_to(y.value, shape).transpose((*dims, *rest)).reshape(*(shape[i] for i in dims), -1)
    places = table.reshape(-1, table.shape[-1])[0] if table.size else table.reshape(-1)
    if not table.size or not (table == places).all() or np.abs(places).max() > LARGEST_INTEGER:
        return None

    def flag():
        z = reached(s, small, np.concatenate([places, places + 1]).astype(np.float64))
        z = s.b.emit(Rearrange("reshape", ((*small.shape, 2, len(places)),)), z)
        z = s.b.emit(Rearrange("transpose", ((*range(len(small.shape)), len(small.shape) + 1, len(small.shape)),)), z)
        bits = s.b.emit(Rearrange("reshape", ((*small.shape, *(shape[i] for i in rest)),)), _both_differ(s, z))
        order = tuple(int(i) for i in np.argsort((*dims, *rest)))
        return bits if order == tuple(range(len(shape))) else s.b.emit(Rearrange("transpose", (order,)), bits)

    return boolean(s, shape, flag)


def select_by_secret(s: Scope, which: Joint, no: Term, yes: Term) -> Joint:
    """no + z (yes - no)."""
    out = add(s, None, _step(s, which, no, yes), no)
    return replace(out, range=hull(no, yes))  # type: ignore[type-var]


def select_by_index(s: Scope, node, which: Term, cases: Sequence[Term]) -> Term:
    """case 0 + the sum over k of [which >= k] (case k - case k - 1)."""
    shape, last, index = node.outputs[0].shape, len(cases) - 1, s.joint(which)
    bits = lambda: reached(s, index, np.arange(1, len(cases)))
    place = lambda k: s.b.emit(Rearrange("take", (Table(np.array(k - 1, np.int32)), len(index.shape))), bits())
    at_least_k = [boolean(s, index.shape, lambda k=k: place(k)) for k in range(1, last + 1)]
    out = cases[0]
    for k, z in enumerate(at_least_k, 1):
        if node.outputs[0].dtype.kind == "b":
            out = choose_bits(s, z, out, cases[k], shape)
        else:
            out = add(s, None, _step(s, z, cases[k - 1], cases[k]), out)
    return out if node.outputs[0].dtype.kind == "b" else replace(out, range=hull(*cases))  # type: ignore[type-var]


def _step(s: Scope, which: Joint, no: Term, yes: Term) -> Joint:
    """z (yes - no)."""
    for t in (no, yes):
        if isinstance(t, Known) and not (is_finite(t.value) & np.isfinite(t.value)).all():
            raise ValueError(
                "a secret chooses minus infinity, or what is not finite: choose a finite number within the bound"
            )
    if isinstance(no, Known) and isinstance(yes, Known):
        step = np.asarray(yes.value, np.float64) - np.asarray(no.value, np.float64)
        return multiply_by_public(s, which, step)
    d = difference(s, None, yes, no)

    def make():
        w, y, scale = opened(s, d)
        z = s.b.emit(Rearrange("reshape", ((*d.shape, 1),)), bit_of(s, which))
        return Scaled(s.b.emit(Gate((1,)), z, w, y), scale)

    return s.result(d.shape, make)


@rule("max", elementwise=True)
def maximum(s: Scope, node, x: Term, y: Term):
    if isinstance(x, Known):
        x, y = y, x
    a = within(s, x, y)
    # A public number above all that x can be is the maximum itself.
    end = Known(np.where(y.value > a.value, y.value, a.value)) if isinstance(y, Known) else y  # type: ignore[union-attr]
    return add(s, node, _relu_of(s, difference(s, node, x, a)), end)


@rule("min", elementwise=True)
def minimum(s: Scope, node, x: Term, y: Term):
    if isinstance(x, Known):
        x, y = y, x
    a = within(s, x, y)
    out = difference(s, node, x, _relu_of(s, difference(s, node, x, a)))
    if isinstance(y, Known) and np.any(y.value < a.value):  # type: ignore[union-attr]
        low = np.where(y.value < a.value, np.asarray(y.value, np.float64) - a.value, 0.0)  # type: ignore[union-attr]
        return _add_public(s, out, low)
    return out


def _relu_of(s: Scope, d: Joint) -> Joint:
    def make():
        w, y, scale = opened(s, d)
        return Scaled(compare_wire(s.b, w, (0,)).gate((1,), w, y), scale)

    return s.result(d.shape, make)


@rule("abs")
def absolute(s: Scope, node, x: Joint):
    twice = multiply_by_public(s, _relu_of(s, x), np.array(2.0))
    return sub(s, node, twice, x)


@rule("clamp")
def clamp(s: Scope, node, low: Term, x: Term, high: Term):
    return minimum(s, node, maximum(s, node, x, low), high)

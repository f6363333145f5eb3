"""The functions that have a protocol of their own: activations, softmax, normalisation, inverses."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from comet_jax.gadgets.activations import PARITY, SMOOTH, relu, smooth
from comet_jax.gadgets.bits import compare, open_truncated, requantise
from comet_jax.gadgets.inverse import inverse
from comet_jax.gadgets.normalise import normalise
from comet_jax.gadgets.softmax import log_sum_exp, softmax
from comet_jax.ir.program import Var
from comet_jax.protocols.bilinear import Product
from comet_jax.protocols.linear import Combine, Rearrange
from comet_jax.protocols.opening import Lift
from comet_jax.rules.arithmetic import masked, rearranged
from comet_jax.rules.registry import rule
from comet_jax.rules.scope import Scope
from comet_jax.rules.terms import Joint, Known, Scaled, Term
from comet_jax.sharing.packing import Where

SMALLEST = 2.0**-8  # of the arguments of 1/x; its square is for 1/sqrt(x)


@rule("relu")
def relu_rule(s: Scope, node, x: Joint):
    n = s.numbers

    def make():
        raw = x.raw
        shift = s.low_bits(raw, n.operand)
        scale = raw.scale / 2.0**shift
        width = n.width(math.log2(scale), s.range_of(x).largest)
        return Scaled(relu(s.b, raw.var, shift=shift, width=width, ring=n.ring), scale)

    return s.result(x.shape, make)


@rule(*SMOOTH)
def smooth_rule(s: Scope, node, x: Joint):
    n = s.numbers
    function, limit = SMOOTH[node.op]

    def make():
        raw = s.fine(x.raw)  # the result has one bit more than x, and of an integer it is a real number
        shift = s.low_bits(raw, n.operand)
        scale = raw.scale / 2.0**shift
        var, out = smooth(
            s.b,
            raw.var,
            shift=shift,
            width=n.width(math.log2(scale), s.range_of(x).largest),
            ring=n.ring,
            scale=scale,
            function=function,
            limit=limit,
            tolerance=5e-4,
            parity=PARITY.get(node.op, "even"),
        )
        return Scaled(var, out)

    return s.result(x.shape, make)


@rule("softmax")
def softmax_rule(s: Scope, node, x: Term, *keep: Term):
    """Over one axis; of the elements that ``keep`` names, a public mask, if it is given."""
    return _along(s, node.params.get("axis", -1), _scores(s, node, x, keep), _softmax)


@rule("log_softmax")
def log_softmax_rule(s: Scope, node, x: Term, *keep: Term):
    """As softmax. Error: 1e-4, and a step of the opened scores, 2^-12 (2^-14 at 64 bits)."""
    of_rows = lambda s, x: _log_softmax(s, x, s.range_of(node.outputs[0]).largest)
    return _along(s, node.params.get("axis", -1), _scores(s, node, x, keep), of_rows)


@rule("logsumexp")
def log_sum_exp_rule(s: Scope, node, x: Term, *keep: Term):
    """Over one axis, which goes; otherwise as log_softmax."""
    x = _scores(s, node, x, keep)
    axis = node.params.get("axis", -1)
    if axis != -1:
        rest = [i for i in range(len(x.shape)) if i != len(x.shape) + axis]
        x = _turned(s, x, (*rest, len(x.shape) + axis))
    base, where = _chosen(x)
    if where is not None and not where.mask.any(-1).all():
        raise ValueError("a row whose every score is masked has no sum of exponentials")
    unit = s.scale_of(node.outputs[0])
    return s.result(x.shape[:-1], lambda: Scaled(_log_of_sums(s, base, where, unit), unit))


def _scores(s: Scope, node, x: Term, keep: tuple[Term, ...]) -> Joint:
    """x, of which only the elements that ``keep`` names count."""
    x = s.joint(x)
    for mask in keep:
        if not isinstance(mask, Known):
            raise ValueError(f"a {node.op} over a secret choice of elements has no private rule")
        x = masked(s, x, mask.value)
    return x


def _chosen(x: Joint) -> tuple[Joint, Where | None]:
    return (x.masked.base, x.masked.where) if x.masked else (x, None)


def _turned(s: Scope, x: Joint, order: tuple[int, ...]) -> Joint:
    return rearranged(s, x, "transpose", (order,), tuple(x.shape[i] for i in order), once=True, last=False)


def _along(s: Scope, axis: int, x: Joint, f: Callable[[Scope, Joint], Joint]) -> Joint:
    """f along an axis, counted from the end: it takes the place of the last one meanwhile."""
    if axis == -1:
        return f(s, x)
    order = list(range(len(x.shape)))
    order[axis], order[-1] = order[-1], order[axis]
    return _turned(s, f(s, _turned(s, x, tuple(order))), tuple(order))


def _softmax(s: Scope, x: Joint) -> Joint:
    base, where = _chosen(x)
    # Of a row whose every score is masked by one finite number, the scores are alike, whatever lies under the mask.
    alike = np.zeros((*x.shape[:-1], 1), bool) if where is None else ~where.mask.any(-1, keepdims=True)
    if where is not None and alike.any():
        if x.masked is None or not x.masked.even:
            raise ValueError("a softmax over a row whose every score is masked has no value")
        where = Where(where.mask | alike)

    def make():
        raw = base.raw
        var, scale = softmax(
            s.b, raw.var, scale=raw.scale, where=where, ring=s.numbers.ring, fraction=s.numbers.probability
        )
        if not alike.any():
            return Scaled(var, scale, where)
        var = s.scale_by(var, np.broadcast_to(~alike, x.shape))
        return s.add_public(Scaled(var, scale), np.where(np.broadcast_to(alike, x.shape), 1 / x.shape[-1], 0.0))

    # Probabilities are opened at their own scale: no truncation between softmax and the product with the values.
    return Joint(x.shape, make, lambda j: s.open(j.raw))


def _log_of_sums(s: Scope, x: Joint, where: Where | None, unit: float) -> Var:
    raw = x.raw
    return log_sum_exp(s.b, raw.var, scale=raw.scale, where=where, ring=s.numbers.ring, unit=unit)


def _log_softmax(s: Scope, x: Joint, largest: float) -> Joint:
    """x minus the logarithm, which is made at x's own scale; ``largest``: of the result."""
    base, where = _chosen(x)
    if where is not None and not where.mask.any(-1).all():
        raise ValueError("a log_softmax over a row whose every score is masked has no value")

    def make():
        scores = s.fitted(base.raw, max(largest, s.range_of(base).largest))
        log = _log_of_sums(s, base, where, scores.scale)
        rows = tuple(range(len(x.shape) - 1))
        log = s.b.emit(Rearrange("broadcast", (x.shape, rows)), log)
        return Scaled(s.b.emit(Combine((1, -1)), scores.var, log), scores.scale)

    out = s.result(x.shape, make)
    return out if where is None else masked(s, out, where.mask)


@rule("layer_norm_core", "rms_norm_core")
def norm_rule(s: Scope, node, x: Joint):
    n = s.numbers
    takes_mean = node.op == "layer_norm_core"

    def make():
        form = x.centred if takes_mean else None
        raw = s.fine(form or x.raw)
        shift = s.low_bits(raw, n.norm)
        found = s.calibrated(x)
        width = n.width(math.log2(raw.scale) - shift, found.largest if found else n.norm_bound)
        var, scale = normalise(
            s.b,
            raw.var,
            scale=raw.scale,
            shift=shift,
            width=width,
            eps=float(node.params["eps"]),
            centre=takes_mean and form is None,
            ring=n.ring,
            fraction=n.operand,
        )
        return Scaled(var, scale)

    return s.result(x.shape, make)


@dataclass(frozen=True)
class _Argument:
    """The argument of 1/x or 1/sqrt(x): v / 2^shift at ``scale``, from 2^low on, over so many octaves."""

    v: Var
    shift: int
    scale: float
    low: int
    octaves: int

    @property
    def width(self) -> int:
        return min(self.low + self.octaves + 2, self.v.bits - self.shift)


def _argument(s: Scope, x: Joint, *, root: bool) -> _Argument:
    """In its calibrated range, with 14 bits for the least; or, of sums of squares, further than other values reach."""
    n, found = s.numbers, s.calibrated(x)
    raw = s.fine(x.raw, largest=found.largest if found else 0.0)
    if found:
        smallest, largest, room = found.smallest, found.largest, n.ring - 2
        fraction = math.ceil(14 - math.log2(smallest))
    else:
        smallest, largest, room = (
            (SMALLEST**2, n.norm_bound**2, n.ring - 3) if root else (SMALLEST, n.norm_bound, n.ring - 2)
        )
        fraction = 20 if root else 18
    v, shift = raw.var, s.low_bits(raw, fraction)
    scale = raw.scale / 2.0**shift
    low = max(1, math.floor(math.log2(smallest * scale)))
    octaves = max(2, math.ceil(math.log2(min(largest, 2.0**room / raw.scale) * scale)) - low)
    if v.bits < shift + low + octaves + 3:  # there is no room to compare it
        v, shift = requantise(s.b, v, shift=shift, width=low + octaves + 2, ring=64), 0
    return _Argument(v, shift, scale, low, octaves)


def _inverse(s: Scope, x: Joint, *, root: bool) -> Joint:
    # Within four bits of an operand's scale: it is opened as it is.
    fraction = s.numbers.operand + 4

    def make():
        a = _argument(s, x, root=root)
        v, shift, sign = a.v, a.shift, None
        if not root:
            w = open_truncated(s.b, v, shift=shift, width=a.width)
            y = s.b.emit(Lift(64), w)
            sign = compare(s.b, w, (0,))
            v, shift = s.b.emit(Combine((1, -1)), sign.gate((2,), w, y), y), 0
        numerator = 2.0**fraction * (math.sqrt(a.scale) if root else a.scale)
        i = inverse(s.b, v, shift=shift, low=a.low, octaves=a.octaves, numerator=numerator, root=root)
        out = s.b.emit(Lift(s.numbers.ring), i)
        if sign is not None:
            out = s.b.emit(Combine((1, -1)), sign.gate((2,), i, out), out)
        return Scaled(out, 2.0**fraction)

    return s.result(x.shape, make)


def reciprocal(s: Scope, x: Joint) -> Joint:
    """1 / x for x in its calibrated range, or 2^-8 <= |x| <= the bound of normalisations; a step of 2^-14 (2^-22)."""
    return _inverse(s, x, root=False)


@rule("rsqrt")
def rsqrt(s: Scope, node, x: Joint):
    """1 / sqrt(x) for x in its calibrated range, or x >= 2^-16; to 1e-4 of it, and a step of 2^-14 (2^-22)."""
    return _inverse(s, x, root=True)


@rule("sqrt")
def sqrt(s: Scope, node, x: Joint):
    """x / sqrt(x), for x as in rsqrt, and 0: to 1e-4 of it where x has steps that fine."""
    n = s.numbers

    def make():
        a = _argument(s, x, root=True)
        w = open_truncated(s.b, a.v, shift=a.shift, width=a.width)
        # The inverse root has 30 bits at the least argument.
        fraction = 30 + math.floor((a.low - math.log2(a.scale)) / 2)
        numerator = 2.0**fraction * math.sqrt(a.scale)
        i = inverse(s.b, a.v, shift=a.shift, low=a.low, octaves=a.octaves, numerator=numerator, root=True)
        out = s.b.emit(Product(), w, s.b.emit(Lift(64), w), i, s.b.emit(Lift(64), i))
        scale, largest = a.scale * 2.0**fraction, math.sqrt(2.0 ** (a.low + a.octaves) / a.scale)
        shift = math.ceil(math.log2(scale) - min(n.raw, n.ring - 3 - math.log2(largest)))
        scale /= 2.0**shift
        return Scaled(requantise(s.b, out, shift=shift, width=n.width(math.log2(scale), largest), ring=n.ring), scale)

    return s.result(x.shape, make, inverse=rsqrt(s, node, x))

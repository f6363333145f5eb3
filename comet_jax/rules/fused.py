"""The functions that have a protocol of their own: activations, softmax, normalisation, inverses."""

import math

from comet_jax.gadgets.activations import PARITY, SMOOTH, relu, smooth
from comet_jax.gadgets.bits import at_least, open_truncated
from comet_jax.gadgets.inverse import inverse
from comet_jax.gadgets.normalise import normalise
from comet_jax.gadgets.softmax import softmax
from comet_jax.protocols.linear import Combine
from comet_jax.protocols.opening import Lift
from comet_jax.protocols.selection import Gate
from comet_jax.rules.arithmetic import multiply
from comet_jax.rules.registry import rule
from comet_jax.rules.scope import Scope
from comet_jax.rules.terms import Joint, Scaled

INVERSE_FRACTION = 14  # fraction bits of 1/x and 1/sqrt(x)
SMALLEST = 2.0**-8  # of the arguments of 1/x; its square is for 1/sqrt(x)


def _shift(scale: float, fraction: int) -> int:
    return max(0, math.floor(math.log2(scale)) - fraction)


@rule("relu")
def relu_rule(s: Scope, node, x: Joint):
    n = s.numbers

    def make():
        raw = x.raw
        shift = _shift(raw.scale, n.operand)
        scale = raw.scale / 2.0**shift
        width = n.width(math.log2(scale), s.range_of(x).largest)
        return Scaled(relu(s.b, raw.var, shift=shift, width=width, ring=n.ring), scale)

    return s.result(x.shape, make)


@rule(*SMOOTH)
def smooth_rule(s: Scope, node, x: Joint):
    n = s.numbers
    function, limit = SMOOTH[node.op]

    def make():
        raw = x.raw
        shift = _shift(raw.scale, n.operand)
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
def softmax_rule(s: Scope, node, x: Joint):
    base, where = (x.masked.base, x.masked.where) if x.masked else (x, None)
    if where is not None and not where.mask.any(-1).all():
        raise ValueError("a softmax over a row whose every score is masked has no value")

    def make():
        raw = base.raw
        var, scale = softmax(
            s.b, raw.var, scale=raw.scale, where=where, ring=s.numbers.ring, fraction=s.numbers.probability
        )
        return Scaled(var, scale, where)

    # Probabilities are opened at their own scale: no truncation between softmax and the product with the values.
    return Joint(x.shape, make, lambda j: s.open(j.raw))


@rule("layer_norm_core", "rms_norm_core")
def norm_rule(s: Scope, node, x: Joint):
    n = s.numbers
    takes_mean = node.op == "layer_norm_core"

    def make():
        form = x.centred if takes_mean else None
        raw = form or x.raw
        shift = _shift(raw.scale, n.norm)
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


def _inverse(s: Scope, x: Joint, *, root: bool) -> Joint:
    n = s.numbers

    def make():
        raw = x.raw
        fraction = 20 if root else 12
        shift = _shift(raw.scale, fraction)
        scale = raw.scale / 2.0**shift
        # 1/sqrt(x) is of sums of squares, which reach further than other values.
        largest = n.norm_bound**2 if root else n.norm_bound
        width = min(n.width(math.log2(scale), largest), raw.var.bits - shift)
        smallest = SMALLEST**2 if root else SMALLEST
        low = max(1, math.floor(math.log2(smallest * scale)))
        octaves = width - 2 - low
        if root:
            magnitude, sign = raw.var, None
            if raw.var.bits - shift < low + octaves + 3:
                octaves = raw.var.bits - shift - low - 3
        else:
            w = open_truncated(s.b, raw.var, shift=shift, width=width)
            y = s.b.emit(Lift(64), w)
            sign = at_least(s.b, w, (0,))
            magnitude = s.b.emit(Combine((1, -1)), s.b.emit(Gate((2,)), sign, w, y), y)
            shift = 0
        numerator = 2.0**INVERSE_FRACTION * (math.sqrt(scale) if root else scale)
        i = inverse(s.b, magnitude, shift=shift, low=low, octaves=octaves, numerator=numerator, root=root)
        out = s.b.emit(Lift(n.ring), i)
        if sign is not None:
            out = s.b.emit(Combine((1, -1)), s.b.emit(Gate((2,)), sign, i, out), out)
        return Scaled(out, 2.0**INVERSE_FRACTION)

    return s.result(x.shape, make)


def reciprocal(s: Scope, x: Joint) -> Joint:
    """1 / x for 2^-8 <= |x| <= the bound of normalisations."""
    return _inverse(s, x, root=False)


@rule("rsqrt")
def rsqrt(s: Scope, node, x: Joint):
    """1 / sqrt(x) for x >= 2^-16."""
    return _inverse(s, x, root=True)


@rule("sqrt")
def sqrt(s: Scope, node, x: Joint):
    inverse = rsqrt(s, node, x)
    root = multiply(s, node, x, inverse)
    return Joint(x.shape, root.make_raw, root.make_operand, inverse=inverse)

"""Functions of single elements: exponentials, logarithms and powers, saturating ones, waves, rounding."""

import math

import numpy as np

from comet_jax.gadgets.bits import compare, open_to_compare
from comet_jax.gadgets.exponential import exponential
from comet_jax.gadgets.logarithm import logarithm
from comet_jax.gadgets.rounding import floor, round_to_even
from comet_jax.gadgets.saturating import SATURATING, saturating
from comet_jax.gadgets.trigonometry import wave
from comet_jax.policy import Range
from comet_jax.protocols.linear import Combine, Sum, Table
from comet_jax.rules.arithmetic import _power, add, divide, multiply, multiply_by_public, negate
from comet_jax.rules.comparison import absolute
from comet_jax.rules.fused import rsqrt, sqrt
from comet_jax.rules.registry import rule
from comet_jax.rules.scope import Scope
from comet_jax.rules.terms import Joint, Known, Owned, Scaled, Term

SMALLEST = 2.0**-16  # argument of a logarithm, where none is calibrated


def _bound(s: Scope, x: Joint, scale: float) -> float:
    """The largest magnitude of x: what is known of it, and what its ring has room for."""
    return min(s.range_of(x).largest, 2.0 ** (s.numbers.ring - 2) / scale)


def _times(s: Scope, x: Joint, factor: float) -> Joint:
    return multiply_by_public(s, x, np.array(factor))


def _plus(s: Scope, node, x: Joint, addend: float) -> Joint:
    return add(s, node, x, Known(np.array(addend)))  # type: ignore[return-value]


def _saturating(s: Scope, x: Joint, name: str) -> Joint:
    function, limit = SATURATING[name]

    def make():
        raw = x.raw
        bound = _bound(s, x, raw.scale)
        how = {"scale": raw.scale, "bound": bound, "ring": s.numbers.ring}
        return Scaled(*saturating(s.b, raw.var, **how, function=function, limit=limit))

    return s.result(x.shape, make, range=Range(2.0**-8, 1.0, 0.0))


@rule(*SATURATING)
def saturate(s: Scope, node, x: Joint):
    """tanh and erf, of any argument, to 4e-4 (2e-4 at 64 bits)."""
    return _saturating(s, x, node.op)


@rule("logistic")
def logistic(s: Scope, node, x: Joint):
    """1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2, of any argument, to half of tanh's error."""
    return _times(s, _plus(s, node, _saturating(s, _times(s, x, 0.5), "tanh"), 1.0), 0.5)


@rule("erfc")
def erfc(s: Scope, node, x: Joint):
    """1 - erf(x), to erf's absolute error."""
    return _plus(s, node, negate(s, node, _saturating(s, x, "erf")), 1.0)


def _exp(s: Scope, x: Joint, largest: float) -> Joint:
    if x.masked:  # minus infinity
        return multiply_by_public(s, _exp(s, x.masked.base, largest), x.masked.where.mask.astype(np.float64))

    def make():
        raw = x.raw
        how = {"bound": _bound(s, x, raw.scale), "ring": s.numbers.ring, "fraction": s.numbers.raw}
        return Scaled(*exponential(s.b, raw.var, scale=raw.scale, largest=largest, **how))

    return s.result(x.shape, make, range=Range(2.0**-8, largest, 0.0))


@rule("exp")
def exp(s: Scope, node, x: Joint):
    """exp(x), and no more than the largest result there may be (calibrated, or the policy's bound).

    Error: relative, 2^-12; absolute, 2^-21 of the largest result.
    """
    return _exp(s, x, s.range_of(node.outputs[0]).largest)


@rule("exp2")
def exp2(s: Scope, node, x: Joint):
    """2^x, as exp."""
    return _exp(s, _times(s, x, math.log(2)), s.range_of(node.outputs[0]).largest)


@rule("expm1")
def expm1(s: Scope, node, x: Joint):
    """exp(x) - 1, with exp's absolute error, for small x too."""
    return _plus(s, node, _exp(s, x, s.range_of(node.outputs[0]).largest + 1), -1.0)


@rule("sinh", "cosh")
def hyperbolic(s: Scope, node, x: Joint):
    """(exp(x) -+ exp(-x)) / 2, each half no more than the largest result there may be."""
    largest = 2 * s.range_of(node.outputs[0]).largest
    up, down = _exp(s, x, largest), _exp(s, negate(s, node, x), largest)
    return _times(s, add(s, node, up, negate(s, node, down) if node.op == "sinh" else down), 0.5)  # type: ignore[arg-type]


def _log(s: Scope, x: Joint, smallest: float) -> Joint:
    largest = s.range_of(x).largest

    def make():
        raw = x.raw
        least = max(0, math.floor(math.log2(smallest * raw.scale)))
        shift = max(0, least - 16)
        low = least - shift
        octaves = max(1, math.ceil(math.log2(_bound(s, x, raw.scale) * raw.scale)) - least)
        scale = raw.scale / 2.0**shift
        how = {"shift": shift, "low": low, "octaves": octaves, "scale": scale}
        return Scaled(*logarithm(s.b, raw.var, **how, ring=s.numbers.ring))

    reach = max(abs(math.log(smallest)), abs(math.log(largest)), 1.0)
    return s.result(x.shape, make, range=Range(2.0**-8, reach, 0.0))


def _least(s: Scope, x: Joint) -> float:
    found = s.calibrated(x)
    return found.smallest if found else SMALLEST


@rule("log")
def log(s: Scope, node, x: Joint):
    """log(x), and log of the least argument there may be (calibrated, or 2^-16) for anything less, even negative.

    Error: 1e-4, and a step of x relative to x.
    """
    return _log(s, x, _least(s, x))


@rule("log2")
def log2(s: Scope, node, x: Joint):
    """log(x) / log(2), as log."""
    return _times(s, _log(s, x, _least(s, x)), 1 / math.log(2))


@rule("log1p")
def log1p(s: Scope, node, x: Joint):
    """log(1 + x), with log's absolute error, for small x too; 1 + x counts as 2^-16 at least."""
    return _log(s, _plus(s, node, x, 1.0), SMALLEST)


@rule("pow", elementwise=True)
def power(s: Scope, node, x: Term, y: Term):
    """x^y as exp(y log x) for positive x; by products for one whole public y, by 1/sqrt for 1/2 and -1/2.

    Error: that of exp, and that of log times y, relative.
    """
    largest = s.range_of(node.outputs[0]).largest
    if isinstance(x, Known):
        if not np.all(x.value > 0):
            raise ValueError("a power of a public number that is not positive, with a secret exponent, is not defined")
        return _exp(s, multiply_by_public(s, s.joint(y), np.log(np.asarray(x.value, np.float64))), largest)
    if isinstance(y, Known) and y.value.size and np.all(y.value == y.value.flat[0]):
        exponent = float(y.value.flat[0])
        if abs(exponent) <= 8 and exponent == round(exponent):
            whole = _power(s, node, s.joint(x), abs(round(exponent)))
            return divide(s, node, Known(np.ones(x.shape)), whole) if exponent < 0 else whole
        if abs(exponent) == 0.5:
            return (sqrt if exponent > 0 else rsqrt)(s, node, s.joint(x))
    if isinstance(x, Owned):
        logarithm_of_x: Term = x.map(np.log, x.shape, dtype=np.float64)
    else:
        logarithm_of_x = _log(s, x, _least(s, x))
    return _exp(s, multiply(s, node, logarithm_of_x, y), largest)  # type: ignore[arg-type]


@rule("polynomial", elementwise=True)
def polynomial(s: Scope, node, x: Term, *coefficients: Term):
    """Horner's rule; the constant comes first."""
    *lower, out = coefficients
    for c in reversed(lower):
        product = multiply(s, node, out, x)
        out = add(s, node, product, c)
    return out


@rule("cbrt")
def cbrt(s: Scope, node, x: Joint):
    """sign(x) exp(log|x| / 3): to 2e-4 of the result where |x| is a step of the operands or more."""
    size = absolute(s, node, x)
    root = _exp(s, _times(s, _log(s, size, _least(s, x)), 1 / 3), s.range_of(x).largest ** (1 / 3) + 1)
    return multiply(s, node, sign(s, node, x), root)


@rule("sin", "cos")
def sin_cos(s: Scope, node, x: Joint):
    """sin and cos of any argument, to 1e-4."""
    return _wave(s, x, sine=node.op == "sin")


def _wave(s: Scope, x: Joint, *, sine: bool) -> Joint:
    def make():
        raw = x.raw
        width = s.numbers.width(math.log2(raw.scale), _bound(s, x, raw.scale))
        return Scaled(*wave(s.b, raw.var, scale=raw.scale, width=width, ring=s.numbers.ring, sine=sine))

    return s.result(x.shape, make, range=Range(2.0**-8, 1.0, 0.0))


@rule("tan")
def tan(s: Scope, node, x: Joint):
    """sin / cos, where |cos| is 2^-8 at least and the result within the bound."""
    return divide(s, node, _wave(s, x, sine=True), _wave(s, x, sine=False))


@rule("sign")
def sign(s: Scope, node, x: Joint):
    """-1, 0 or 1; of what is less than a step of the operands, possibly 0."""
    n = s.numbers

    def make():
        raw = x.raw
        shift = s.low_bits(raw, n.operand)
        largest = _bound(s, x, raw.scale) * raw.scale / 2.0**shift + 1
        z = compare(s.b, open_to_compare(s.b, raw.var, shift=shift, largest=largest), (0, 1))
        both = s.b.emit(Sum((len(x.shape),)), z.number(n.ring))
        return Scaled(s.b.emit(Combine((1,), Table(np.array(-1, np.int64))), both), 1.0)

    return s.result(x.shape, make, range=Range(1.0, 1.0, 0.0))


def _whole(s: Scope, x: Joint, gadget) -> Joint:
    """Rounded by ``gadget``, which needs a scale that is a power of two."""

    def make():
        raw = x.raw
        fraction = round(math.log2(raw.scale))
        if abs(raw.scale / 2.0**fraction - 1) > 1e-9:
            room = math.floor(s.numbers.ring - 2 - math.log2(_bound(s, x, raw.scale)))
            fraction = min(s.numbers.operand + 12, room)
            raw = s.rescale(raw, 2.0**fraction)
        if fraction <= 0:
            return raw
        width = s.numbers.width(fraction, _bound(s, x, raw.scale))
        return Scaled(gadget(s.b, raw.var, fraction=fraction, width=width), 1.0)

    return s.result(x.shape, make, range=x.range)


@rule("floor")
def floor_rule(s: Scope, node, x: Joint):
    """Exact for the number on the wire; what was computed to lie within an error of an integer may fall below it."""
    return _whole(s, x, floor)


@rule("ceil")
def ceil(s: Scope, node, x: Joint):
    """-floor(-x)."""
    return negate(s, node, _whole(s, negate(s, node, x), floor))


@rule("round")
def round_rule(s: Scope, node, x: Joint):
    """To the nearest integer, halves to the even one; exact as floor is."""
    if int(node.params["rounding_method"]) != 1:
        raise ValueError("halves are rounded to even numbers only: use `jnp.round`, or `jnp.floor(x + 0.5)`")
    return _whole(s, x, round_to_even)


@rule("is_finite")
def is_finite(s: Scope, node, x: Joint):
    """True: fixed point holds nothing else."""
    return Known(np.ones(x.shape, bool))


@rule("stop_gradient")
def stop_gradient(s: Scope, node, x: Joint):
    return x

"""Small operations as people write them, one a line: what is computed, on what, and how far off it may be.

``OPERATIONS`` run privately, on sealed inputs, under the default policy of the 32-bit ring. ``REFUSED`` have no private
form; a refusal says so by the name given here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from cases import real
from jax import lax

STEP = 2.0**-10  # of an operand


@dataclass(frozen=True)
class Operation:
    """``error``: the most that a result may differ from float32's."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[np.ndarray, ...]
    error: float = 2 * STEP


@dataclass(frozen=True)
class Refused:
    """``says``: a regular expression that the error matches."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[np.ndarray, ...]
    says: str


X, Y = real(3, 5, scale=1.5), real(3, 5, seed=1, scale=1.5)
EDGES = np.float32([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -2.5, 7.25, -7.75])
POSITIVE = np.float32([0.0625, 0.25, 0.5, 1.0, 1.75, 3.0, 9.0])
DIVISORS = np.float32([0.5, -0.75, 1.0, -1.5, 3.0])
TIES = np.float32([[1, 3, 3, -2, 3], [0, 0, 0, 0, 0], [-5, -5, -6, -7, -5]])
UNIT = np.float32([-1, -0.75, -0.25, 0, 0.25, 0.75, 1])
WIDE = np.float32([-28, -9, -3, -1, -0.125, 0, 0.125, 1, 3, 9, 28])
SMALL = np.float32([-6, -2, -1, -0.125, 0, 0.125, 1, 2, 3])
SQUARE = real(4, 4)
IMAGE = real(1, 5, 5, 2, scale=1.0)
KERNEL = real(3, 3, 2, 3, scale=0.3)
PRODUCT = 16 * STEP
FUNCTION = 4 * STEP
PLACES = np.array([2, 0, 2])


def _integers(x):
    """Places of maxima: integers that nobody knows."""
    return x.argmax(-1)


def one(name: str, function: Callable[..., Any], *inputs: np.ndarray, error: float = 2 * STEP) -> Operation:
    return Operation(name, function, inputs or (X,), error)


ARITHMETIC = [
    one("add", jnp.add, X, Y),
    one("add a number", lambda x: x + 2.5),
    one("subtract", jnp.subtract, X, Y),
    one("multiply", jnp.multiply, X, Y, error=PRODUCT),
    one("divide", jnp.divide, X, DIVISORS, error=PRODUCT),
    one("negative", jnp.negative),
    one("square", jnp.square, error=PRODUCT),
    one("cube", lambda x: x**3, X / 2, error=PRODUCT),
    one("power", lambda x: jnp.power(x, 1.5), POSITIVE, error=PRODUCT),
    one("power of a secret", jnp.power, POSITIVE[:5], real(5, scale=1.0), error=PRODUCT),
    one("sqrt", jnp.sqrt, POSITIVE, error=PRODUCT),
    one("rsqrt", lax.rsqrt, POSITIVE, error=FUNCTION),
    one("reciprocal", jnp.reciprocal, DIVISORS, error=FUNCTION),
    one("cbrt", jnp.cbrt, EDGES, error=PRODUCT),
    one("abs", jnp.abs, EDGES),
    one("sign", jnp.sign, EDGES, error=0.0),
    one("floor_divide", lambda x: (_integers(x) - 3) // 2, error=0.0),
    one("mod", lambda x: (_integers(x) - 3) % 3, error=0.0),
    one("hypot", jnp.hypot, X, Y, error=PRODUCT),
    one("small and large", lambda x, y: (x * 1e-5 + y, x / 8 + y, jnp.stack([x * 1e-4, y])), X, 12 * Y),
    one("polyval", lambda x, c: jnp.polyval(c, x), X, np.float32([0.5, -1, 2]), error=PRODUCT),
    one("average", lambda x: jnp.average(x, axis=1, weights=jnp.arange(1.0, 6))),
    one("cross", jnp.cross, X[:, :3], Y[:, :3], error=PRODUCT),
]

ROUNDING = [
    one("floor", jnp.floor, EDGES, error=0.0),
    one("ceil", jnp.ceil, EDGES, error=0.0),
    one("round", jnp.round, EDGES, error=0.0),
    one("rint", jnp.rint, EDGES, error=0.0),
    one("trunc", jnp.trunc, EDGES, error=0.0),
    one("round to tenths", lambda x: jnp.round(x, 1), np.float32([0.12, -0.38, 2.61])),
    one("isfinite", jnp.isfinite),
    one("nan_to_num", jnp.nan_to_num),
]

LOGIC = [
    one("less", jnp.less, TIES, TIES[::-1].copy(), error=0.0),
    one("less_equal", jnp.less_equal, TIES, TIES[::-1].copy(), error=0.0),
    one("greater", jnp.greater, X, Y, error=0.0),
    one("greater_equal", lambda x: x >= 0, EDGES, error=0.0),
    one("equal", jnp.equal, TIES, TIES[:, ::-1].copy(), error=0.0),
    one("not_equal", lambda x: x != 3, TIES, error=0.0),
    one("isclose", lambda x, y: jnp.isclose(x, y, atol=0.1), TIES, TIES[:, ::-1].copy(), error=0.0),
    one("logical_and", lambda x, y: jnp.logical_and(x > 0, y > 0), X, Y, error=0.0),
    one("logical_or", lambda x, y: jnp.logical_or(x > 0, y > 0), X, Y, error=0.0),
    one("logical_xor", lambda x, y: jnp.logical_xor(x > 0, y > 0), X, Y, error=0.0),
    one("logical_not", lambda x: jnp.logical_not(x > 0), error=0.0),
    one("any", lambda x: jnp.any(x > 1, axis=1), error=0.0),
    one("all", lambda x: jnp.all(x > -1, axis=1), error=0.0),
    one("count_nonzero", lambda x: jnp.count_nonzero(x > 0, axis=1), error=0.0),
    one("where", lambda x, y: jnp.where(x > y, x, y), X, Y),
    one("select", lambda x: jnp.select([x > 1, x < -1], [x, -x], 0.5)),
    one("clip", lambda x: jnp.clip(x, -1, 1), EDGES),
    one("maximum", jnp.maximum, X, Y),
    one("minimum", jnp.minimum, X, Y),
    one("heaviside", lambda x: jnp.heaviside(x, 0.5), EDGES, error=0.0),
]

REDUCTIONS = [
    one("sum", lambda x: (x.sum(), x.sum(0), x.sum(1, keepdims=True))),
    one("mean", lambda x: (x.mean(), x.mean(0))),
    one("var", lambda x: x.var(1), error=PRODUCT),
    one("std", lambda x: x.std(1), error=PRODUCT),
    one("max", lambda x: (x.max(), x.max(0))),
    one("min", lambda x: (x.min(), x.min(1))),
    one("ptp", lambda x: jnp.ptp(x, axis=1)),
    one("prod", lambda x: x.prod(1), X / 2, error=PRODUCT),
    one("argmax", lambda x: x.argmax(1), TIES, error=0.0),
    one("argmin", lambda x: x.argmin(0), TIES, error=0.0),
    one("median", lambda x: jnp.median(x, axis=1)),
    one("logsumexp", jax.nn.logsumexp, error=FUNCTION),
    one("norm", lambda x: jnp.linalg.norm(x, axis=1), error=PRODUCT),
    one("norm of one kind", lambda x: jnp.linalg.norm(x, ord=1, axis=1), error=PRODUCT),
    one("cumsum", lambda x: jnp.cumsum(x, axis=1)),
    one("cumprod", lambda x: jnp.cumprod(x, axis=1), X / 2, error=PRODUCT),
    one("cummax", lambda x: lax.cummax(x, 1)),
    one("diff", lambda x: jnp.diff(x, axis=1)),
    one("trapezoid", lambda x: jnp.trapezoid(x, axis=1)),
    one("segment_sum", lambda x: jax.ops.segment_sum(x, jnp.array([0, 1, 0]), 2)),
]

ORDER = [
    one("sort", lambda x: jnp.sort(x, axis=1)),
    one("sort down", lambda x: jnp.sort(x, axis=0, descending=True)),
    one("argsort", lambda x: jnp.argsort(x, axis=1), TIES, error=0.0),
    one("top_k", lambda x: lax.top_k(x, 2)),
    one("partition", lambda x: jnp.sort(jnp.partition(x, 2, axis=1)[:, :2], axis=1)),
]

PLACED = [
    one("take", lambda x: jnp.take(x, PLACES, axis=1)),
    one("take_along_axis", lambda x: jnp.take_along_axis(x, jnp.array([[1], [0], [4]]), axis=1)),
    one("take at a secret place", lambda x: x[0][_integers(x)]),
    one("take_along_axis at secret places", lambda x: jnp.take_along_axis(x, x.argmax(1, keepdims=True), axis=1)),
    one("one_hot", lambda x: jax.nn.one_hot(_integers(x), 5), error=0.0),
    one(".at.set", lambda x: x.at[1].set(0.5)),
    one(".at.add", lambda x, y: x.at[PLACES].add(y), X, Y),
    one(".at.max", lambda x: x.at[0].max(0.0)),
    one("dynamic_slice", lambda x: lax.dynamic_slice(x, (_integers(x)[0], 1), (1, 2))),
    one("dynamic_update_slice", lambda x: lax.dynamic_update_slice(x, x[:1, :2], (1, 1))),
    one("roll", lambda x: jnp.roll(x, 2, axis=1)),
    one("tile", lambda x: jnp.tile(x, (2, 1))),
    one("repeat", lambda x: jnp.repeat(x, 2, axis=1)),
    one("pad", lambda x: (jnp.pad(x, 1), jnp.pad(x, 1, constant_values=2.0), jnp.pad(x, 1, mode="reflect"))),
    one("stack", lambda x, y: jnp.stack([x, y], axis=1), X, Y),
    one("concatenate", lambda x, y: jnp.concatenate([x, y], axis=1), X, Y),
    one("split", lambda x: jnp.split(x, [2], axis=1)),
    one("reshape", lambda x: (x.reshape(5, 3), x.ravel())),
    one("transpose", lambda x: (x.T, jnp.moveaxis(x[None], 0, -1))),
    one("flip", jnp.flip),
    one("broadcast_to", lambda x: jnp.broadcast_to(x, (2, 3, 5))),
    one("squeeze", lambda x: (x[:1].squeeze(0), jnp.expand_dims(x, 1))),
    one("triu and tril", lambda x: (jnp.triu(x), jnp.tril(x, -1))),
    one("diag", lambda x: (jnp.diag(x), jnp.diag(x[0]))),
    one("meshgrid", lambda x: jnp.meshgrid(x[0], x[1, :3])),
]

ALGEBRA = [
    one("dot", jnp.dot, X, Y.T.copy(), error=PRODUCT),
    one("matmul", jnp.matmul, real(2, 3, 4), real(2, 4, 2), error=PRODUCT),
    one("vdot", jnp.vdot, X, Y, error=PRODUCT),
    one("inner", jnp.inner, X, Y, error=PRODUCT),
    one("outer", lambda x, y: jnp.outer(x[0], y[0]), X, Y, error=PRODUCT),
    one("kron", lambda x, y: jnp.kron(x[:2, :2], y[:2, :2]), X, Y, error=PRODUCT),
    one("tensordot", lambda x, y: jnp.tensordot(x, y, axes=((0, 1), (0, 1))), X, Y, error=PRODUCT),
    one("einsum", lambda x, y: jnp.einsum("ij,kj->ki", x, y), X, Y, error=PRODUCT),
    one("trace", jnp.trace, SQUARE),
    one("matrix_power", lambda x: jnp.linalg.matrix_power(x, 3), SQUARE / 4, error=PRODUCT),
    one(
        "convolution",
        lambda x, k: nn.Conv(3, (3, 3), use_bias=False).apply({"params": {"kernel": k}}, x),
        IMAGE,
        KERNEL,
        error=PRODUCT,
    ),
    one("convolve", lambda x, y: jnp.convolve(x[0], y[0, :3]), X, Y, error=PRODUCT),
    one("avg_pool", lambda x: nn.avg_pool(x, (2, 2), (2, 2)), IMAGE),
    one("max_pool", lambda x: nn.max_pool(x, (2, 2), (2, 2)), IMAGE),
]

FUNCTIONS = [
    one("exp", jnp.exp, SMALL, error=PRODUCT),
    one("exp2", jnp.exp2, SMALL, error=PRODUCT),
    one("expm1", jnp.expm1, SMALL, error=PRODUCT),
    one("log", jnp.log, POSITIVE, error=FUNCTION),
    one("log2", jnp.log2, POSITIVE, error=FUNCTION),
    one("log1p", jnp.log1p, POSITIVE, error=FUNCTION),
    one("log10", jnp.log10, POSITIVE, error=FUNCTION),
    one("tanh", jnp.tanh, WIDE),
    one("sinh", jnp.sinh, SMALL[1:], error=PRODUCT),
    one("cosh", jnp.cosh, SMALL[1:], error=PRODUCT),
    one("sin", jnp.sin, WIDE),
    one("cos", jnp.cos, WIDE),
    one("tan", jnp.tan, UNIT, error=PRODUCT),
    one("sinc", jnp.sinc, np.float32([-2.5, -1, -0.25, 0.25, 3.5]), error=FUNCTION),
    one("erf", jax.scipy.special.erf, WIDE),
    one("erfc", jax.scipy.special.erfc, WIDE),
    one("logaddexp", jnp.logaddexp, X, Y, error=FUNCTION),
]

NETWORKS = [
    one("sigmoid", jax.nn.sigmoid, WIDE),
    one("softplus", jax.nn.softplus, WIDE, error=FUNCTION),
    one("log_sigmoid", jax.nn.log_sigmoid, WIDE, error=FUNCTION),
    one("relu", jax.nn.relu, EDGES),
    one("relu6", jax.nn.relu6, WIDE),
    one("leaky_relu", jax.nn.leaky_relu, WIDE),
    one("elu", jax.nn.elu, WIDE, error=2 * FUNCTION),
    one("selu", jax.nn.selu, WIDE, error=PRODUCT),
    one("celu", jax.nn.celu, WIDE, error=2 * FUNCTION),
    one("gelu", jax.nn.gelu, WIDE, error=FUNCTION),
    one("exact gelu", lambda x: jax.nn.gelu(x, approximate=False), WIDE, error=FUNCTION),
    one("silu", jax.nn.silu, WIDE, error=FUNCTION),
    one("mish", jax.nn.mish, WIDE, error=PRODUCT),
    one("hard_tanh", jax.nn.hard_tanh, WIDE),
    one("hard_sigmoid", jax.nn.hard_sigmoid, WIDE),
    one("hard_swish", jax.nn.hard_silu, WIDE, error=PRODUCT),
    one("soft_sign", jax.nn.soft_sign, WIDE, error=PRODUCT),
    one("glu", lambda x: jax.nn.glu(x, axis=0), real(4, 3), error=FUNCTION),
    one("softmax", jax.nn.softmax),
    one("softmax over the first axis", lambda x: jax.nn.softmax(x, axis=0)),
    one("log_softmax", jax.nn.log_softmax, error=FUNCTION),
    one("standardize", jax.nn.standardize, error=PRODUCT),
    one("layer norm", lambda x: nn.LayerNorm(use_bias=False, use_scale=False).apply({}, x), error=PRODUCT),
    one("RMS norm", lambda x: nn.RMSNorm(use_scale=False).apply({}, x), error=PRODUCT),
    one("division by the norm", lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True), error=PRODUCT),
    # Two scores that are nearly alike: what rounding does to one of them, the softmax passes on.
    one(
        "attention", lambda x, y: nn.dot_product_attention(x[:, None], y[:, None], y[:, None]), X, Y, error=3 * PRODUCT
    ),
]

CONTROL = [
    one("scan", lambda x: lax.scan(lambda c, r: (0.5 * c + r, c.sum()), x[0], x)),
    one("fori_loop", lambda x: lax.fori_loop(0, 3, lambda _, c: c * 0.5 + 1, x)),
    one("cond", lambda x: lax.cond(x.sum() > 0, lambda x: x + 1, lambda x: -x, x)),
    one("switch", lambda x: lax.switch(_integers(x)[0], [lambda v: v, lambda v: -v, lambda v: 2 * v], x)),
    one("map", lambda x: lax.map(lambda r: r - r.mean(), x)),
    one("vmap", jax.vmap(lambda r: r * r[0]), error=PRODUCT),
    one("gradient", jax.grad(lambda x: (x**2).sum()), error=PRODUCT),
]

OPERATIONS = {
    "arithmetic": ARITHMETIC,
    "rounding": ROUNDING,
    "logic": LOGIC,
    "reductions": REDUCTIONS,
    "order": ORDER,
    "places": PLACED,
    "linear algebra": ALGEBRA,
    "functions": FUNCTIONS,
    "networks": NETWORKS,
    "control": CONTROL,
}


def no(name: str, function: Callable[..., Any], says: str, *inputs: np.ndarray) -> Refused:
    return Refused(name, function, inputs or (SQUARE,), says)


def _python_if(x):
    return x if x.sum() > 0 else -x


REFUSED = [
    no("fft", jnp.fft.rfft, "`fft` has no private rule"),
    no("inv", jnp.linalg.inv, "`lu` has no private rule"),
    no("cholesky", jnp.linalg.cholesky, "`cholesky` has no private rule"),
    no("eigh", lambda x: jnp.linalg.eigh(x)[0], "`eigh` has no private rule"),
    no("svd", lambda x: jnp.linalg.svd(x)[1], "`svd` has no private rule"),
    no("while by a secret", lambda x: lax.while_loop(lambda v: v.sum() > 1, lambda v: v / 2, x), "`while`"),
    no("Python if", _python_if, "Python `if`"),
    no("numpy", lambda x: jnp.asarray(np.sort(x)), "NumPy"),
    no("arcsin", jnp.arcsin, "`asin` has no private rule"),
    no("arctan2", jnp.arctan2, "`atan2` has no private rule", X, Y),
    no("erfinv", jax.scipy.special.erfinv, "`erf_inv` has no private rule"),
    no("lgamma", jax.scipy.special.gammaln, "`lgamma` has no private rule"),
    no("bits of a float", lambda x: lax.bitcast_convert_type(x, jnp.int32), "`bitcast_convert_type` has no private"),
    no("remainder of reals", jnp.fmod, "a remainder of secret real numbers", X, Y),
    no("complex", lambda x: jnp.real(x * 1j), "complex numbers have no private form"),
    no("callback", lambda x: jax.pure_callback(lambda a: a, x, x), "`pure_callback`"),
    no("infinity", lambda x: jnp.where(x > 0, x, jnp.inf), "infinity|not finite|`select_n`"),
]


def table() -> list[tuple[str, str, str]]:
    """Kind, operation, and how it is held to: the error allowed, or that it is refused."""
    held = [(kind, o.name, f"within {o.error:.2g}") for kind, every in OPERATIONS.items() for o in every]
    return [*held, *(("refused", r.name, r.says) for r in REFUSED)]

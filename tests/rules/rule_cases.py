"""The table of rules' cases: what is computed, on what, and how far from float32 it may be."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from cases import Case, real
from cases_control import CONTROL
from cases_elementwise import ELEMENTWISE
from cases_structure import STRUCTURE
from jax import lax

FLOOR = float(np.finfo(np.float32).min)


X, Y = real(3, 5), real(3, 5, seed=1)
# Each factor of a product is off by less than a step, times the other factor.
PRODUCT = 2 * float(max(np.abs(X).max(), np.abs(Y).max())) + 1
SCALAR, EMPTY = np.float32(1.25).reshape(()), np.zeros((0, 4), np.float32)
EDGES = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 7.5, -7.5, 2.0**-9, -(2.0**-9)], np.float32)
TIES = np.array([[1, 3, 3, -2, 3], [0, 0, 0, 0, 0], [-5, -5, -6, -7, -5]], np.float32)
CAUSAL = np.tril(np.ones((5, 5), bool))


def _grad(f):
    return jax.grad(lambda x: f(x).sum())


LINEAR = [
    Case("add", lambda x, y: (x + y, x + 2.5, 1.0 + x, x + x[0], jnp.ones((3, 1)) + x), (X, Y)),
    Case("add scalars", lambda x: x + x, (SCALAR,)),
    Case("add nothing", lambda x: x + x, (EMPTY,)),
    Case("add owned", lambda x, b, m: (x + b, b + x, x + m), (X,), (real(5), real(3, 5, seed=2))),
    Case("sub", lambda x, y: (x - y, x - 2.0, 2.0 - x, x - x), (X, Y)),
    Case("sub owned", lambda x, b: (x - b, b - x), (X,), (real(5),)),
    Case("neg", lambda x: -x, (X,)),
    Case("mul by numbers", lambda x: (x * 3.7, x * 0.0, -0.25 * x, x * (jnp.arange(5) - 2)), (X,)),
    Case(
        "mul by a table",
        lambda x: (x * jnp.arange(1.0, 16).reshape(3, 5) / 7, x * jnp.sign(jnp.arange(3) - 1.0)[:, None]),
        (X,),
        steps=3,
    ),
    Case("div by numbers", lambda x: (x / 8.0, x / 3.0, x / jnp.full(5, -2.0)), (X,)),
    Case("reshape", lambda x: (x.reshape(5, 3), x.reshape(-1), x[:, None].reshape(15, 1)), (X,)),
    Case("reshape scalar", lambda x: x.reshape(1, 1), (SCALAR,)),
    Case("squeeze", lambda x: (x[:, :1].squeeze(1), jnp.expand_dims(x, (0, 3))), (X,)),
    Case("transpose", lambda x: (x.T, x[None].transpose(1, 0, 2)), (X,)),
    Case("broadcast_in_dim", lambda x: (jnp.broadcast_to(x, (2, 3, 5)), jnp.broadcast_to(x[:, :1], (3, 4))), (X,)),
    Case("broadcast scalar", lambda x: jnp.broadcast_to(x, (2, 3)), (SCALAR,)),
    Case("slice", lambda x: (x[1:, ::2], x[2], x[:, 1:1], x[..., -1]), (X,)),
    Case("split", lambda x: (*jnp.split(x, [2], axis=1), *jnp.split(x, 3)), (X,)),
    Case("rev", lambda x: (x[::-1], jnp.flip(x), x[:, ::-1]), (X,)),
    Case("pad", lambda x: (jnp.pad(x, ((1, 0), (0, 2))), lax.pad(x, 0.0, ((0, 0, 1), (-1, 0, 0)))), (X,)),
    Case("concatenate", lambda x, y: (jnp.concatenate([x, y]), jnp.concatenate([x, y[:, :2]], 1)), (X, Y)),
    Case("concatenate owned", lambda x, w: jnp.concatenate([w, x]), (X,), (real(2, 5),)),
    Case("concatenate nothing", lambda x, y: jnp.concatenate([x, y[:0]]), (X, Y)),
    Case("stack", lambda x, y: (jnp.stack([x, y]), jnp.stack([x[0], y[0], x[1]], axis=-1)), (X, Y)),
    Case("stack owned", lambda x, w: jnp.stack([w, x], axis=1), (X,), (Y,)),
    Case("unstack", lambda x: (*jnp.unstack(x), *jnp.unstack(x, axis=-1), *x[0]), (X,)),
    Case("dynamic_slice", lambda x: (lax.dynamic_slice(x, (1, 9), (2, 3)), lax.dynamic_index_in_dim(x, 2)), (X,)),
    Case("reduce_sum", lambda x: (x.sum(), x.sum(0), x.sum(-1), x.mean(-1), x.sum((0, 1), keepdims=True)), (X,)),
    Case("reduce_sum scalar", lambda x: x.sum(), (SCALAR,)),
    Case("reduce_sum of nothing", lambda x: (x.sum(0), x.sum(-1)), (EMPTY,)),
    Case("convert_element_type", lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), (EDGES,)),
    Case("copy", jnp.copy, (X,)),
    Case("optimization_barrier", lambda x, y: lax.optimization_barrier((x, y)), (X, Y)),
    Case("reduce_precision", lambda x: lax.reduce_precision(x, 8, 23), (X,)),
    Case("gather public rows", lambda x: (x[np.array([2, 0, 0])], jnp.take(x, np.array([1]), axis=0)), (X,)),
    Case("select_n public", lambda x, y: (jnp.where(X > 0, x, y), jnp.where(X > 0, x, 1.5)), (X, Y)),
    Case("select_n public owned", lambda x, w: jnp.where(X > 0, w, x), (X,), (Y,)),
]

PRODUCTS = [
    Case("add_any", _grad(lambda x: x * x), (X,)),
    Case("mul", lambda x, y: (x * y, x * x, x * y[:1]), (X, Y), steps=PRODUCT),
    Case("mul scalars", lambda x: x * x, (SCALAR,)),
    Case("mul nothing", lambda x: x * x, (EMPTY,)),
    Case("mul owned", lambda x, g, m: (x * g, g * x + g, x * m), (X,), (real(5), Y), steps=PRODUCT),
    Case("div owned", lambda x, g: x / g, (X,), (np.float32([0.5, 1, 2, 3, -4]),), steps=4),
    Case("square", lambda x: jnp.square(x), (X,), steps=PRODUCT),
    Case("integer_pow", lambda x: (x**3, x**2), (X / 2,), steps=24),
    Case("dot_general", lambda x, y: (x @ y.T, jnp.einsum("ab,cb->ca", x, y), x @ y[0]), (X, Y), steps=24),
    Case("dot_general batched", lambda x, y: x @ y, (real(2, 3, 4), real(2, 4, 1)), steps=16),
    Case("dot_general owned", lambda x, w, v: (x @ w, v @ x, x @ w[:, 0]), (X,), (real(5, 2), real(2, 3)), steps=16),
    Case(
        "dot_general owned batched",
        lambda x, w: jnp.einsum("bij,bjk->bik", x, w),
        (real(2, 3, 4),),
        (real(2, 4, 2),),
        steps=16,
    ),
    Case("dot_general public", lambda x: (x @ np.tri(5, dtype=np.float32), jnp.full((2, 3), 0.3) @ x), (X,), steps=16),
    Case("dot_general empty", lambda x, y: x.T @ y, (EMPTY, EMPTY)),
    Case("gather", lambda x, w: w[jnp.argsort(jnp.arange(3))] + x[:, :2], (X,), (real(4, 2),), steps=4),
]

COMPARISONS = [
    Case(
        "compare",
        lambda x, y: tuple(f(x, y).astype(np.float32) for f in (jnp.less, jnp.greater_equal)),
        (EDGES, EDGES[::-1].copy()),
        steps=0,
    ),
    Case(
        "compare the other way",
        lambda x, y: tuple(f(x, y) * 1.0 for f in (jnp.greater, jnp.less_equal)),
        (X, Y),
        steps=0,
        rings=(32,),
    ),
    Case("compare scalars", lambda x: (x > 1.0, x <= 2.0, ~(x > 1.0)), (SCALAR,), steps=0),
    Case("compare owned", lambda x, b: x > b, (X,), (real(5),), steps=0, rings=(32,)),
    Case("select_n", lambda x, y: (jnp.where(x > y, x, y), jnp.where(x > 0, 1.0, x)), (X, Y)),
    Case(
        "max and min",
        lambda x, y: (jnp.maximum(x, y), jnp.minimum(1.0, x)),
        (X, Y),
    ),
    Case("max owned", lambda x, w: (jnp.maximum(x, w), jnp.minimum(w, x)), (X,), (real(5),), rings=(32,)),
    Case("abs", jnp.abs, (EDGES,)),
    Case("clamp", lambda x: lax.clamp(-0.5, x, 2.0), (EDGES,)),
    Case("reduce_max", lambda x: (x.max(-1), x[:, :1].max(1, keepdims=True)), (TIES,)),
    Case("argmax", lambda x: (x.argmax(-1), x[:, :1].argmax(-1)), (TIES,), steps=0),
    Case(
        "extremes over any axis",
        lambda x: (x.max(0), x.min(-1), x.reshape(3, 5, 1).min(1)),
        (TIES,),
        rings=(32,),
    ),
    Case(
        "places over any axis",
        lambda x: (x.argmax(0), x.argmin(-1), x.reshape(1, 3, 5).argmin(1)),
        (TIES,),
        steps=0,
        rings=(64,),
    ),
    Case("relu", jax.nn.relu, (EDGES,)),
    Case("relu of little", lambda x: (jax.nn.relu(x[:0]), nn.relu(x[0])), (EDGES,), rings=(32,)),
]

SMOOTH = np.concatenate([np.linspace(-14, 14, 57, dtype=np.float32), EDGES])
ACTIVATIONS = [
    Case("gelu_tanh", jax.nn.gelu, (SMOOTH,), approximation=1e-3),
    Case("gelu_erf", lambda x: jax.nn.gelu(x, approximate=False), (SMOOTH,), approximation=1e-3),
    Case("silu", jax.nn.silu, (SMOOTH,), approximation=1e-3),
]

NORMS = [
    Case(
        "layer_norm_core",
        lambda x: nn.LayerNorm(use_bias=False, use_scale=False).apply({}, x),
        (real(3, 16),),
        steps=8,
        approximation=1e-3,
    ),
    Case(
        "rms_norm_core", lambda x: nn.RMSNorm(use_scale=False).apply({}, x), (real(3, 16),), steps=8, approximation=1e-3
    ),
]

INVERSES = [
    Case("div", lambda x, y: x / y, (X, np.abs(Y) + np.float32(0.5)), steps=16, approximation=2e-3),
    Case("integer_pow -1", lambda x: (1 / x, x**-2), (np.float32([0.75, -1.5, 3, 6]),), steps=8, approximation=1e-3),
    Case("rsqrt", lax.rsqrt, (np.float32([0.1, 1, 2, 9]),), steps=8, approximation=1e-3),
    Case("sqrt", jnp.sqrt, (np.float32([0.1, 1, 2, 9]),), steps=16, approximation=1e-3),
]

SCORES = real(5, 5, scale=3.0)
SOFTMAX = [
    Case("softmax", jax.nn.softmax, (SCORES,), approximation=1e-3),
    Case("softmax of one", lambda x: jax.nn.softmax(x[:, :1]), (SCORES,), approximation=1e-3, rings=(32,)),
    *(
        Case(
            f"softmax masked by {low}",
            lambda x, low=low: jax.nn.softmax(jnp.where(CAUSAL, x, low)),
            (SCORES,),
            approximation=1e-3,
            rings=(64,) if low == -1e9 else (32,),
        )
        for low in (-np.inf, FLOOR, -1e9)
    ),
    Case(
        "softmax masked by adding",
        lambda x: jax.nn.softmax(x + jnp.where(CAUSAL, 0.0, -1e9)),
        (SCORES,),
        approximation=1e-3,
        rings=(32,),
    ),
]

W = real(3, 4, 4, scale=0.4)


def _stack(x, w, b):
    return lax.scan(lambda x, layer: (x + layer[0] @ x + layer[1], None), x, (w, b))[0]


LOOPS = [
    Case("scan", _stack, (real(4),), (W, real(3, 4)), steps=64),
    Case(
        "scan in reverse",
        lambda x, w: lax.scan(lambda x, w: (jax.nn.relu(x @ w), None), x, w, reverse=True)[0],
        (real(2, 4),),
        (W,),
        steps=64,
    ),
]

GROUPS = {
    "linear": LINEAR,
    "products": PRODUCTS,
    "comparisons": COMPARISONS,
    "activations": ACTIVATIONS,
    "norms": NORMS,
    "inverses": INVERSES,
    "softmax": SOFTMAX,
    "loops": LOOPS,
    **CONTROL,
    **ELEMENTWISE,
    **STRUCTURE,
}

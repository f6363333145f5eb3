"""Functions that are recognised whole, however they are written, and near misses that are not."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from comet_jax.ir.jaxprs import Graph, flatten
from comet_jax.passes.fuse import fuse, patterns

X = jax.ShapeDtypeStruct((3, 8), jnp.float32)
D = jax.ShapeDtypeStruct((8,), jnp.float32)


def fused(fn, *avals) -> Graph:
    return fuse(flatten(lambda *a: [fn(*a)], *(avals or (X,))))


def found(fn, *avals) -> list[str]:
    return [n.op for n in fused(fn, *avals).nodes]


def mean(x):
    return x.mean(-1, keepdims=True)


def linen_norm(cls, **options):
    return lambda x, scale: cls(use_bias=False, **options).apply({"params": {"scale": scale}}, x)


def nnx_norm(cls, **options):
    graphdef, state = nnx.split(cls(8, rngs=nnx.Rngs(0), **options))
    bias = {k: jnp.zeros(8) for k in nnx.to_pure_dict(state) if k != "scale"}
    return lambda x, scale: nnx.merge(graphdef, {"scale": scale, **bias})(x)


ROOT = np.sqrt(2 / np.pi)
WAYS = {
    "softmax": [
        jax.nn.softmax,
        nn.softmax,
        nnx.softmax,
        lambda x: jax.nn.softmax(x, axis=1),
        lambda x: jnp.exp(x - x.max(-1, keepdims=True)) / jnp.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True),
        lambda x: jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True),
    ],
    "log_softmax": [
        jax.nn.log_softmax,
        nn.log_softmax,
        nnx.log_softmax,
        lambda x: jax.nn.log_softmax(x, axis=1),
        lambda x: jnp.log(nn.softmax(x)),
        lambda x: x - x.max(-1, keepdims=True) - jnp.log(jnp.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)),
    ],
    "gelu_tanh": [
        nn.gelu,
        nnx.gelu,
        lambda x: 0.5 * x * (1 + jnp.tanh(float(ROOT) * (x + 0.044715 * x**3))),
        lambda x: x * 0.5 * (1.0 + jnp.tanh(float(ROOT) * (x + 0.044715 * x**3))),
    ],
    "gelu_erf": [
        lambda x: nn.gelu(x, approximate=False),
        lambda x: nnx.gelu(x, approximate=False),
        lambda x: 0.5 * x * (1 + lax.erf(x / np.sqrt(2))),
    ],
    "silu": [nn.silu, nnx.silu, jax.nn.swish, lambda x: x * nn.sigmoid(x), lambda x: x / (1 + jnp.exp(-x))],
    "relu": [nn.relu, nnx.relu, jax.nn.relu, jax.jit(jax.nn.relu)],
}


SUMS = [
    lambda x: jax.nn.logsumexp(x, axis=-1),
    lambda x: jax.nn.logsumexp(x, axis=0),
    lambda x: jax.nn.logsumexp(x, axis=1, keepdims=True),
    lambda x: jax.nn.logsumexp(x, axis=0, keepdims=True),
    lambda x: jax.scipy.special.logsumexp(x, axis=-1),
    lambda x: nnx.logsumexp(x, axis=-1),
    lambda x: nn.logsumexp(x[0]),
    lambda x: jnp.log(jnp.exp(x).sum(-1)),
    lambda x: x.max(-1) + jnp.log(jnp.exp(x - x.max(-1, keepdims=True)).sum(-1)),
    lambda x: jnp.squeeze(x.max(-1, keepdims=True), -1) + jnp.log(jnp.exp(x - x.max(-1, keepdims=True)).sum(-1)),
    lambda x: jnp.log(jnp.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) + x.max(-1, keepdims=True),
]


@pytest.mark.parametrize("way", range(len(SUMS)))
def test_functions_that_lose_an_axis(way):
    graph = fused(SUMS[way])
    assert [n.op for n in graph.nodes if n.reference] == ["logsumexp"]
    assert {n.op for n in graph.nodes} <= {
        "logsumexp",
        "broadcast_in_dim",
        "reshape",
        "slice",
        "squeeze",
        "stop_gradient",
    }
    x = np.random.default_rng(0).normal(size=X.shape).astype(X.dtype)
    np.testing.assert_allclose(graph.evaluate(x)[0], SUMS[way](x), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("name", "way"), [(n, i) for n, ways in WAYS.items() for i in range(len(ways))])
def test_activations_and_softmax(name, way):
    assert found(WAYS[name][way]) == [name]


@pytest.mark.parametrize("index", range(len(patterns())))
def test_every_pattern_finds_itself_and_its_node_computes_the_same(index):
    """The table of patterns is complete by being the parameters. Epsilon is the placeholder's value."""
    pattern = patterns()[index]
    x, keep = (jax.ShapeDtypeStruct((2, 3, 2, 8), dtype) for dtype in (jnp.float32, bool))
    avals = (x, *[keep] * pattern.masks, *[D] * pattern.vectors)
    graph = fused(pattern.reference, *avals)
    assert [n.op for n in graph.nodes if n.reference] == [pattern.name]
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=a.shape).astype(a.dtype) for a in avals]
    (got,) = graph.evaluate(*arrays)
    np.testing.assert_allclose(got, pattern.reference(*arrays), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("eps", [1e-6, 1e-5, 1e-12, 0.5])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("layer_norm_core", lambda e: linen_norm(nn.LayerNorm, epsilon=e)),
        ("layer_norm_core", lambda e: linen_norm(nn.LayerNorm, epsilon=e, use_fast_variance=False)),
        ("layer_norm_core", lambda e: nnx_norm(nnx.LayerNorm, epsilon=e)),
        ("layer_norm_core", lambda e: lambda x, s: (x - mean(x)) / jnp.sqrt(x.var(-1, keepdims=True) + e) * s),
        ("layer_norm_core", lambda e: lambda x, s: (x - mean(x)) * lax.rsqrt(mean((x - mean(x)) ** 2) + e) * s),
        ("rms_norm_core", lambda e: lambda x, s: nn.RMSNorm(epsilon=e).apply({"params": {"scale": s}}, x)),
        ("rms_norm_core", lambda e: nnx_norm(nnx.RMSNorm, epsilon=e)),
        ("rms_norm_core", lambda e: lambda x, s: x * lax.rsqrt(mean(x * x) + e) * s),
    ],
)
def test_norms_with_any_epsilon(name, make, eps):
    graph = fused(make(eps), X, D)
    (core,) = (n for n in graph.nodes if n.reference)
    assert core.op == name
    assert core.params["eps"] == pytest.approx(eps, rel=1e-6)
    assert {n.op for n in graph.nodes} <= {name, "mul", "add", "broadcast_in_dim", "reshape"}


@pytest.mark.parametrize("function", [jax.nn.gelu, jax.nn.silu, jax.nn.softmax, jax.nn.softplus])
def test_of_a_number_whose_type_is_weak(function):
    """As a boolean times 1.0 is."""
    name = {"gelu": "gelu_tanh"}.get(function.__name__, function.__name__)
    assert name in [node.op for node in fuse(flatten(lambda x: [function((x <= 0.3) * 1.0)], X)).nodes]


def test_inside_a_scan():
    body = lambda c, w: (c + nn.gelu(nn.LayerNorm(use_bias=False, use_scale=False).apply({}, c)) * w, None)
    graph = fused(lambda x, w: lax.scan(body, x, w)[0], X, jax.ShapeDtypeStruct((4, 8), jnp.float32))
    (scan,) = graph.nodes
    assert [n.op for n in scan.params["body"].nodes if n.reference] == ["layer_norm_core", "gelu_tanh"]


@pytest.mark.parametrize(
    "miss",
    [
        lambda x: jax.nn.softmax(x, axis=(0, 1)),
        lambda x: jnp.exp(x - x.max()) / jnp.exp(x - x.max()).sum(),
        lambda x: jnp.exp(x) / jnp.exp(x + 1).sum(-1, keepdims=True),
        lambda x: jnp.log(jnp.exp(x).sum(-1) + 1),
        lambda x: jnp.log(jnp.exp(x).sum()),
        lambda x: jnp.log(jnp.exp2(x).sum(-1)),
        lambda x: jnp.exp(x) / (jnp.exp(x).sum(-1, keepdims=True) + 1),
        lambda x: 0.5 * x * (1 + jnp.tanh(float(ROOT) * (x + 0.05 * x**3))),
        lambda x: 0.4 * x * (1 + lax.erf(x / np.sqrt(2))),
        lambda x: 0.5 * x * (1 + lax.erf(x / 2)),
        lambda x: x * nn.sigmoid(2 * x),
        lambda x: x / (2 + jnp.exp(-x)),
        lambda x: jnp.maximum(x, 0.1),
        lambda x: (x - mean(x)) / jnp.sqrt(x.var(0, keepdims=True) + 1e-5),
        lambda x: (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5),
        lambda x: (x - mean(x)) / (jnp.sqrt(x.var(-1, keepdims=True)) + 1e-5),
        lambda x: (x - mean(x)) / jnp.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-5),
        lambda x: x * lax.rsqrt((x * x).sum(-1, keepdims=True) + 1e-5),
        lambda x: x * lax.rsqrt(mean(x * x * x) + 1e-5),
    ],
)
def test_near_misses(miss):
    assert not [n.op for n in fused(miss).nodes if n.reference]


def test_what_is_used_elsewhere_stays():
    graph = fused(lambda x: jax.nn.softmax(x) + jnp.exp(x - x.max(-1, keepdims=True)))
    assert "softmax" in [n.op for n in graph.nodes]
    assert "exp" in [n.op for n in graph.nodes]

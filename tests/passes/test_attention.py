"""Attention is found however it is written, and what only looks like it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import comet_jax as cj
from comet_jax.passes.attention import Attention

WIDTH = 16
float32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)


def found(fn, weights, *inputs):
    lowered = cj.private(fn).trace({name: float32(*shape) for name, shape in weights.items()}, *inputs).lower()
    return [layer for layer in lowered.layers if isinstance(layer, Attention)]


def of_jax(heads, key_heads):
    def attention(p, x):
        split = lambda name, n: (x @ p[name]).reshape(2, 8, n, 4)
        q, k, v = split("q", heads), split("k", key_heads), split("v", key_heads)
        return jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(2, 8, WIDTH) @ p["o"]

    return attention


def capped(p, x):
    q, k, v = x @ p["q"], x @ p["k"], x @ p["v"]
    scores = 30 * jnp.tanh(jnp.einsum("bqd,bkd->bqk", q, k) / 30)
    return jnp.einsum("bqk,bkd->bqd", jax.nn.softmax(scores + jnp.triu(jnp.full((8, 8), -1e9), 1)), v) @ p["o"]


def of_one_projection(p, x):
    q, k, v = jnp.split((x @ p["qkv"]).reshape(2, 8, 3 * 4, 4), 3, axis=2)
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(2, 8, WIDTH) @ p["o"]


EACH = {name: (WIDTH, WIDTH) for name in "qkvo"}


@pytest.mark.parametrize(
    ("fn", "weights", "heads", "site"),
    [
        (of_jax(4, 4), EACH, 4, "q"),
        (of_jax(4, 2), EACH | {"k": (WIDTH, 8), "v": (WIDTH, 8)}, 4, "q"),
        (capped, EACH, 1, "q"),
        (of_one_projection, {"qkv": (WIDTH, 48), "o": (WIDTH, WIDTH)}, 4, "qkv"),
    ],
)
def test_ways_of_writing(fn, weights, heads, site):
    (layer,) = found(fn, weights, float32(2, 8, WIDTH))
    assert (layer.site, layer.heads, layer.width) == (site, heads, WIDTH // heads)
    assert (layer.queries, layer.keys) == (16, 8)
    assert layer.out is not None


def crossed(p, x, y):
    return jax.nn.softmax((x @ p["q"]) @ (y @ p["k"]).T / 4) @ (y @ p["v"])


def crossed_the_other_way(p, x, y):
    return jax.nn.softmax(((y @ p["k"]) @ (x @ p["q"]).T / 4).T) @ (y @ p["v"])


@pytest.mark.parametrize("fn", [crossed, crossed_the_other_way])
def test_queries_and_keys_are_told_apart(fn):
    (layer,) = found(fn, EACH, float32(8, WIDTH), float32(5, WIDTH))
    assert (layer.site, layer.queries, layer.keys, layer.out) == ("q", 8, 5, None)


def scanned(p, x):
    return jax.lax.scan(lambda x, w: (x + of_jax(4, 4)(w, x), None), x, p)[0]


def test_a_scanned_layer_is_one_that_runs_often():
    (layer,) = found(scanned, {name: (3, WIDTH, WIDTH) for name in "qkvo"}, float32(2, 8, WIDTH))
    assert layer.steps == (3,)
    assert str(layer) == "attention q: 4 heads of 4, 16 queries on 8 keys, 3 times"


def mixture(p, x):
    """A choice among learnt vectors: its values are weights."""
    return jax.nn.softmax(x @ p["q"] @ x.T) @ p["v"]


def weighted(p, x):
    """A gate: its scores are no product of two activations."""
    return jax.nn.softmax(x @ p["q"]) @ (x @ p["k"]).T


@pytest.mark.parametrize("fn", [mixture, weighted])
def test_what_is_not_attention(fn):
    assert not found(fn, {name: (WIDTH, WIDTH) for name in "qkv"}, float32(WIDTH, WIDTH))


def polynomial(p, x):
    """Scores that are a deep function of the product, in which every step is used twice: 2^40 ways lead back."""
    scores = (x @ p["q"]) @ (x @ p["k"]).T
    for _ in range(40):
        scores = scores * 0.5 + scores * 0.25
    return jax.nn.softmax(scores) @ (x @ p["v"])


def test_long_ways_back_are_walked_once():
    (layer,) = found(polynomial, EACH, float32(8, WIDTH))
    assert (layer.site, layer.queries) == ("q", 8)


def test_explain_names_the_layers():
    p = {name: float32(WIDTH, WIDTH) for name in "qkvo"}
    told = cj.explain(of_jax(4, 4), p, float32(2, 8, WIDTH))
    assert told.layers == ("attention q: 4 heads of 4, 16 queries on 8 keys",)
    assert told.layers[0] in str(told)


def test_an_example_with_numbers():
    """The layers are only named: what is computed stays what it was."""
    r = np.random.default_rng(0)
    p = {name: r.normal(0, 0.25, (WIDTH, WIDTH)).astype(np.float32) for name in "qkvo"}
    x = r.normal(0, 1, (2, 8, WIDTH)).astype(np.float32)
    with cj.Session.ideal():
        got = cj.reveal(cj.private(of_jax(4, 4))(cj.share(p, "model"), cj.share(x, "client")))
    np.testing.assert_allclose(got, of_jax(4, 4)(p, x), atol=0.01)

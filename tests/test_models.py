"""Whole small models, as people write them, against float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import comet_jax as cj

X = np.random.default_rng(0).normal(0, 1, (5, 8)).astype(np.float32)


class MLP(nn.Module):
    """A block of a network, with an activation of the user's choice."""

    activation: str

    @nn.compact
    def __call__(self, x):
        h = nn.LayerNorm()(nn.Dense(16)(x))
        return nn.Dense(3)(getattr(nn, self.activation)(h))


class Block(nn.Module):
    """A pre-norm transformer block out of Flax's own parts."""

    hidden: int = 16

    @nn.compact
    def __call__(self, x, mask=None):
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(h, mask=mask)
        h = nn.LayerNorm()(x)
        return x + nn.Dense(x.shape[-1])(nn.relu(nn.Dense(self.hidden)(h)))


class NnxMLP(nnx.Module):
    """The same in nnx."""

    def __init__(self, rngs):
        self.up, self.down = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 3, rngs=rngs)
        self.norm, self.dropout = nnx.LayerNorm(16, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        return self.down(self.dropout(nnx.relu(self.norm(self.up(x)))))


class Stack(nn.Module):
    """A stack of dense layers, scanned or unrolled, on the same weights."""

    scanned: bool

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.normal(0.3), (2, 8, 8))
        b = self.param("b", nn.initializers.normal(0.3), (2, 8))
        layer = lambda x, p: (x + nn.relu(x @ p[0] + p[1]), None)
        if self.scanned:
            return jax.lax.scan(layer, x, (w, b))[0]
        for i in range(2):
            x, _ = layer(x, (w[i], b[i]))
        return x


def started(model, *args):
    """Parameters in which nothing is zero, as after training."""
    params = model.init(jax.random.key(0), *args)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda p: np.float32(p + 0.1 * rng.normal(size=p.shape)), params)


@pytest.mark.parametrize(("ring", "activations"), [(32, ["relu", "gelu"]), (64, ["gelu"])])
def test_linen_mlps(ring, activations):
    models = [MLP(name) for name in activations]
    params = [started(m, X) for m in models]

    @cj.private(policy=cj.Policy(ring=ring))
    def every(params, x):
        return [m.apply(p, x) for m, p in zip(models, params)]

    with cj.Session.simulated():
        got = cj.reveal(every(cj.share(params, owner="model"), cj.share(X, owner="client")))
    for y, wanted in zip(got, every(params, X), strict=True):
        np.testing.assert_allclose(y, wanted, atol=0.02 if ring == 32 else 3e-3)


def test_a_transformer_block_with_a_causal_mask():
    model, causal = Block(), nn.make_causal_mask(np.ones(5))
    params = started(model, X)
    with cj.Session.simulated():
        weights, x = cj.share(params, owner="model"), cj.share(X, owner="client")
        got = cj.reveal(cj.private(model).apply(weights, x, causal))
    np.testing.assert_allclose(got, model.apply(params, X, causal), atol=0.02)


def test_an_nnx_mlp_whose_state_is_shared():
    model = NnxMLP(nnx.Rngs(0))
    model.eval()
    with cj.Session.simulated():
        shared = cj.share(model, owner="model")
        assert all(isinstance(x, cj.Secret) for x in jax.tree.leaves(nnx.state(shared, nnx.Param)))
        got = cj.reveal(cj.private(shared)(cj.share(X, owner="client")))
    np.testing.assert_allclose(got, model(X), atol=0.02)


def test_a_scanned_stack_equals_the_unrolled_one():
    params = started(Stack(True), X)
    got = []
    with cj.Session.simulated():
        weights, x = cj.share(params, owner="model"), cj.share(X, owner="client")
        for scanned in (True, False):
            got.append(cj.reveal(cj.private(Stack(scanned)).apply(weights, x)))
    np.testing.assert_allclose(got[0], got[1], atol=0.01)
    np.testing.assert_allclose(got[0], Stack(True).apply(params, X), atol=0.01)


def test_a_table_of_tokens_and_a_head():
    @cj.private
    def model(p, tokens):
        return nn.relu(p["embed"][tokens]) @ p["head"]

    rng = np.random.default_rng(2)
    p = {"embed": np.float32(rng.normal(size=(11, 8))), "head": np.float32(rng.normal(size=(8, 4)))}
    tokens = np.array([0, 10, 3, 3, -1], np.int32)  # -1 is the last row, as in JAX
    with cj.Session.simulated():
        got = cj.reveal(model(cj.share(p, owner="model"), cj.share(tokens, owner="client")))
    np.testing.assert_allclose(got, model(jax.tree.map(jnp.asarray, p), tokens), atol=0.02)

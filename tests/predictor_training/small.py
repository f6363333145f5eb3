"""Models of a few neurons, each as ``fn, weights, examples``: every way in which a feed-forward layer is written."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

WIDTH, NEURONS, TOKENS = 8, 32, 4


def inputs(seed=0):
    draw = np.random.default_rng(seed)
    while True:
        yield (draw.normal(size=(TOKENS, WIDTH)).astype(np.float32),)


def square(output, x):
    """A loss: how far the output is from the input, turned around."""
    return ((output - x[:, ::-1]) ** 2).mean()


def matrices(seed, *shapes):
    draw = np.random.default_rng(seed)
    return [draw.normal(size=s).astype(np.float32) / np.sqrt(s[-2]) for s in shapes]


def plain():
    """A function. Its first weight is of rank 2, so a predictor of rank 2 can be perfect."""
    left, right, down = matrices(1, (WIDTH, 2), (2, NEURONS), (NEURONS, WIDTH))
    weights = {"up": left @ right, "bias": np.full(NEURONS, -0.3, np.float32), "down": down}
    return lambda w, x: x + jax.nn.relu(x @ w["up"] + w["bias"]) @ w["down"], weights, inputs(), square


def gated_silu():
    up, linear, down = matrices(2, (WIDTH, NEURONS), (WIDTH, NEURONS), (NEURONS, WIDTH))
    function = lambda w, x: x + (jax.nn.silu(x @ w["up"]) * (x @ w["linear"])) @ w["down"]
    return function, {"up": up, "linear": linear, "down": down}, inputs(), square


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        h = nn.relu(nn.Dense(NEURONS, name="up")(nn.LayerNorm()(x)))
        return x + nn.Dense(WIDTH, name="down")(h), None


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
        blocks = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return blocks(name="blocks")(x)[0]


def scanned():
    weights = jax.jit(Stack().init)(jax.random.key(0), jnp.zeros((TOKENS, WIDTH)))
    return Stack().apply, jax.tree.map(np.asarray, weights), inputs(), square


class Layer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.up, self.down = nnx.Linear(WIDTH, NEURONS, rngs=rngs), nnx.Linear(NEURONS, WIDTH, rngs=rngs)

    def __call__(self, x):
        return x + self.down(jax.nn.gelu(self.up(x)))


class Two(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.first, self.second = Layer(rngs), Layer(rngs)

    def __call__(self, x):
        return self.second(self.first(x))


def of_nnx():
    graph, state = nnx.split(Two(nnx.Rngs(0)))
    return lambda weights, x: nnx.merge(graph, weights)(x), jax.tree.map(np.asarray, state), inputs(), square


def nested():
    """A scan in a scan: two times three layers."""
    up, down = matrices(3, (2, 3, WIDTH, NEURONS), (2, 3, NEURONS, WIDTH))

    def function(w, x):
        layer = lambda x, w: (x + jax.nn.relu(x @ w["up"]) @ w["down"] / 4, None)
        return jax.lax.scan(lambda x, w: (jax.lax.scan(layer, x, w)[0], None), x, w)[0]

    return function, {"up": up, "down": down}, inputs(), square


def attending():
    """Attention of one head, without norms: the layer's input is linear in what attention has opened."""
    up, down, q, k, v, out = matrices(4, (WIDTH, NEURONS), (NEURONS, WIDTH), *[(WIDTH, WIDTH)] * 4)

    def function(w, x):
        x = x + jax.nn.softmax((x @ w["q"]) @ (x @ w["k"]).T / np.sqrt(WIDTH)) @ (x @ w["v"]) @ w["out"]
        return x + jax.nn.relu(x @ w["up"]) @ w["down"]

    return function, {"up": up, "down": down, "q": q, "k": k, "v": v, "out": out}, inputs(), square


EVERY = {f.__name__: f for f in (plain, gated_silu, scanned, of_nnx, nested, attending)}

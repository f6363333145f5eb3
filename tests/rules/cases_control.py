"""Cases of loops and choices: what is threaded, stacked, shared by all steps, and chosen, by whoever knows it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from cases import Case, real
from flax import nnx
from jax import lax

SEQUENCE, START = real(5, 2, 3, scale=1.0), real(2, 4, scale=1.0)
IN, ACROSS, BIAS = real(3, 4, scale=0.5), real(4, 4, scale=0.4), real(4, scale=0.5)
LAYERS = real(3, 4, 4, scale=0.4)
ROWS = real(3, 4, scale=1.0)


def recurrent(x, w, u, b):
    """Starts public; weights serve all steps; outputs are stacked."""

    @jax.checkpoint
    def step(h, x_t):
        h = jax.nn.relu(x_t @ w + h @ u + b)
        return h, (h * 2, h[:, :1] + x_t)

    return lax.scan(step, jnp.zeros((2, 4)), x)


def backwards(x, h, w, u):
    return lax.scan(lambda h, x_t: (jax.nn.relu(x_t @ w + h @ u), h), h, x, reverse=True)


def normalised(x, w):
    """A pre-norm stack whose sum is handed on with and without its mean."""
    norm = nn.LayerNorm(use_bias=False, use_scale=False)
    return norm.apply({}, lax.scan(lambda x, w: (x + norm.apply({}, x) @ w, None), x, w)[0])


def secret_for_all_steps(x, m, k):
    """A secret that every step multiplies by, a secret choice, and one that is handed on as it is."""
    step = lambda c, x_t: ((c[0] @ m + jnp.where(k > 0, x_t, 0.0), c[1]), x_t @ c[1])
    return lax.scan(step, (x[0], m), x)


def owners_own(x, w):
    """What the owner of the weights carries and stacks never meets the parties until it meets a secret."""
    step = lambda c, x_t: ((c[0] * 0.5 + w, c[1] + c[0] * x_t, c[2] + 1), (x_t + c[0], c[2]))
    (_, total, count), (rows, counts) = lax.scan(step, (w, x[0], 0), x)
    return total, rows, count * jnp.ones(2), counts + 0.0


def counted(x, w):
    """A counter that only the weights' owner needs, and one that meets the secret: its steps are written out."""
    rolled = lax.fori_loop(0, 3, lambda i, h: jax.nn.relu(h @ w[i]), x)
    return rolled, lax.fori_loop(0, 3, lambda i, h: h * (i + 1.0) + x[i % 2] + w[i, 0] * w[0, 1], x)


def of_flags(x):
    """Booleans are threaded and stacked, and integers counted."""

    def step(c, row):
        positive, count = c
        return (row > 0, count + jnp.where(positive, 1, 0)), (positive, jnp.where(positive, row, -row))

    return lax.scan(step, (x[0] > 1, jnp.zeros(4, jnp.int32)), x)


def nested(x, w):
    inner = lambda c, x_t: lax.scan(lambda d, v: (jax.nn.relu(d @ v) + x_t, d[0] * x_t[0]), c, w)
    return lax.scan(inner, x[0], x)


def public_while(x, w):
    return lax.while_loop(lambda c: c[0] < 4, lambda c: (c[0] + 1, c[1] * 0.5 + w), (1, x))


def linen_rnn(x, w, u, b):
    cell = nn.SimpleCell(4, activation_fn=nn.relu, carry_init=nn.initializers.zeros)
    params = {"cell": {"i": {"kernel": w, "bias": b}, "h": {"kernel": u}}}
    return nn.RNN(cell, reverse=True, keep_order=True).apply({"params": params}, x.transpose(1, 0, 2))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.relu(nn.Dense(4, use_bias=False)(x)) + x, x.sum()


def linen_stack(x, w):
    stack = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
    return stack().apply({"params": {"Dense_0": {"kernel": w}}}, x, None)


def nnx_rnn(x, w, u, b):
    cell = nnx.SimpleCell(3, 4, activation_fn=nnx.relu, rngs=nnx.Rngs(0))
    graphdef, state, rest = nnx.split(cell, nnx.Param, ...)
    pure = nnx.to_pure_dict(state)
    pure["dense_i"]["kernel"], pure["dense_i"]["bias"], pure["dense_h"]["kernel"] = w, b, u
    nnx.replace_by_pure_dict(state, pure)
    return nnx.RNN(nnx.merge(graphdef, state, rest), time_major=True)(x)


LOOPS = [
    Case("scan with stacked outputs", recurrent, (SEQUENCE,), (IN, ACROSS, BIAS), steps=64, rings=(32,)),
    Case("scan backwards", backwards, (SEQUENCE, START), (IN, ACROSS), steps=64, rings=(64,)),
    Case("scan of normalised layers", normalised, (ROWS,), (LAYERS,), approximation=4e-3, rings=(64,)),
    Case(
        "scan with a secret for all steps",
        secret_for_all_steps,
        (ROWS[:, :3], real(3, 3), real(3)),
        steps=64,
        rings=(32,),
    ),
    Case("scan of what an owner knows", owners_own, (ROWS,), (real(4),), steps=32, rings=(32,)),
    Case("fori_loop", counted, (real(2, 4),), (LAYERS,), steps=64, rings=(64,)),
    Case("scan of flags", of_flags, (ROWS,), steps=2, rings=(32,)),
    Case("nested scans", nested, (ROWS,), (LAYERS[:2],), steps=128, rings=(32,)),
    Case("while", public_while, (BIAS,), (real(4),), steps=4, rings=(64,)),
    Case(
        "scan of nothing and of one step",
        lambda x: [lax.scan(lambda c, r: (c + r, c * r), x[0], x[:n]) for n in (0, 1)],
        (ROWS,),
        steps=16,
        rings=(32,),
    ),
    Case("map", lambda x, w: lax.map(lambda row: row @ w, x), (ROWS,), (ACROSS,), steps=32, rings=(32,)),
    Case("associative_scan", lambda x: lax.associative_scan(jnp.add, x), (ROWS,), steps=4, rings=(64,)),
]

RECURRENT = [
    Case("linen RNN", linen_rnn, (SEQUENCE,), (IN, ACROSS, BIAS), steps=64, rings=(32,)),
    Case("linen scan over layers", linen_stack, (START,), (LAYERS,), steps=64, rings=(64,)),
    Case("nnx RNN", nnx_rnn, (SEQUENCE,), (IN, ACROSS, BIAS), steps=64, rings=(64,)),
]


def by_sign(x, w):
    """Branches of different forms: a product, shares, the same operand, public numbers, a boolean."""
    one = lambda v: (v @ w, v.sum(), v, 1.0, v > 0, jnp.ones(3))
    other = lambda v: (v - 1, v[0], v, 2.0, v < 0, jnp.ones(3))
    return lax.cond(x.sum() > 0, one, other, x), lax.cond(x.sum() < 0, one, other, x)


SWITCHED = [lambda v: v * 2, lambda v: v + 1, lambda v: -v]


def chosen_each_step(x):
    step = lambda c, row: (lax.cond(row[0] > c[0], SWITCHED[0], SWITCHED[2], row), row)
    return lax.scan(step, x[0], x)


def reduced(x):
    backwards, largest = (lambda a, b: b + a), (lambda a, b: jnp.maximum(a, b))
    return lax.reduce(x, 0.0, backwards, (0,)), lax.reduce(x, -jnp.inf, largest, (1,))


def drawn(x):
    keep = jax.random.bernoulli(jax.random.PRNGKey(1), 0.5, x.shape)
    return x + jax.random.normal(jax.random.key(7), x.shape) * keep


PUBLIC = jnp.arange(3)
CHOICES = [
    Case("cond", by_sign, (BIAS,), (ACROSS,), steps=32, rings=(32,)),
    Case("cond in a scan", chosen_each_step, (ROWS,), steps=16, rings=(32,)),
    Case(
        "cond of a public value", lambda x: lax.cond(PUBLIC.sum() > 2, SWITCHED[0], lax.lgamma, x), (BIAS,), rings=(64,)
    ),
    Case(
        "switch",
        lambda x: [lax.switch((x[:, i] > 0).sum(), SWITCHED, x[i]) for i in range(2)],
        (ROWS,),
        steps=8,
        rings=(32,),
    ),
    Case(
        "switch by an owner",
        lambda x, k: lax.switch(k, SWITCHED, x),
        (BIAS,),
        (np.int32(1).reshape(()),),
        steps=8,
        rings=(64,),
    ),
    Case("reduce", reduced, (ROWS,), steps=4, rings=(32,)),
    Case("reduce from a start", lambda x: lax.reduce(x, x[0, 0], jnp.add, (1,)), (ROWS,), steps=4, rings=(64,)),
    Case("public randomness", drawn, (BIAS,), rings=(64,)),
]

CONTROL = {"steps": LOOPS, "recurrent": RECURRENT, "choices": CHOICES}

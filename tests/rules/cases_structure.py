"""Cases of structure, windows, look-ups, logic and order."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from cases import Case, real
from jax import lax

X, Y = real(3, 5), real(3, 5, seed=1)
IMAGE = real(2, 5, 6, 4, scale=1.0)
TIES = np.array([[1, 3, 3, -2, 3], [0, 0, 0, 0, 0], [-5, -5, -6, -7, -5]], np.float32)
BITS = X > 0
COUNTS = np.array([[0, 1, 4, -3, 70000], [5, 5, 2, -1, 0], [9, 8, 7, 6, 5]], np.int32)
PLACES = np.array([2, 0, -9, 1, 7], np.int32)
LOWEST = -np.inf


def joint(i, x):
    """An owner's integers as nobody's."""
    return i + (x.reshape(-1)[0] > 99)


def _conv(x, w, padding="SAME", strides=(1, 1), spec=("NHWC", "HWIO", "NHWC"), **options):
    return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=spec, **options)


def kernel(*shape, seed=0):
    return real(*shape, seed=seed, scale=0.3)


CONVOLUTIONS = [
    Case("convolution", _conv, (IMAGE,), (kernel(3, 2, 4, 3),), steps=24),
    Case(
        "convolution with strides and holes",
        lambda x, w: (
            _conv(x, w, ((2, 0), (-1, 3)), (2, 1), rhs_dilation=(1, 2)),
            _conv(x, w, ((1, 2), (0, 1)), (1, 2), lhs_dilation=(2, 3)),
        ),
        (IMAGE[:1, :4, :4, :2],),
        (kernel(3, 2, 2, 3),),
        steps=24,
        rings=(32,),
    ),
    Case(
        "convolution of groups",
        lambda x, w, v: (_conv(x, w, feature_group_count=4), _conv(x, v, feature_group_count=2, strides=(2, 2))),
        (IMAGE[:1],),
        (kernel(3, 3, 1, 8), kernel(2, 2, 2, 6)),
        steps=24,
        rings=(32,),
    ),
    Case(
        "convolution of groups of the batch",
        lambda x, w: _conv(x, w, "VALID", batch_group_count=2),
        (IMAGE[:, :3, :3],),
        (kernel(2, 2, 4, 6),),
        steps=24,
        rings=(32,),
    ),
    Case(
        "convolution along one and three axes",
        lambda x, y, w, v: (_conv(x, w, "VALID", (1,), ("NCH", "OIH", "NHC")), _conv(y, v, "SAME", (1, 2, 1), None)),
        (real(2, 3, 6), real(1, 2, 3, 4, 3)),
        (kernel(4, 3, 2), kernel(3, 2, 2, 1, 3)),
        steps=24,
        rings=(64,),
    ),
    Case(
        "convolution of secrets",
        lambda x, y: _conv(x, y, "VALID"),
        (IMAGE[:1, :3, :4], kernel(2, 2, 4, 2)),
        steps=40,
        rings=(64,),
    ),
    Case(
        "convolution by a public kernel",
        lambda x: _conv(x, jnp.full((2, 2, 4, 1), 0.25)),
        (IMAGE[:1],),
        steps=16,
        rings=(32,),
    ),
    Case(
        "convolution of an owner's image",
        lambda y, x: _conv(x, y, "VALID"),
        (kernel(2, 2, 4, 2),),
        (IMAGE[:1, :3, :4],),
        steps=40,
        rings=(32,),
    ),
    Case(
        "convolutions of Flax",
        lambda x, w, v: (
            nn.Conv(2, (2,), padding="CAUSAL", use_bias=False).apply({"params": {"kernel": w}}, x),
            nn.ConvTranspose(3, (3,), strides=(2,), use_bias=False).apply({"params": {"kernel": v}}, x),
            nn.Conv(2, (2,), padding="CIRCULAR", use_bias=False).apply({"params": {"kernel": w}}, x),
        ),
        (IMAGE[:1, 0],),
        (kernel(2, 4, 2), kernel(3, 4, 3)),
        steps=24,
        rings=(32,),
    ),
]

POOLING = [
    Case(
        "pooling",
        lambda x: (
            nn.avg_pool(x, (2, 2), (2, 2)),
            nn.avg_pool(x, (3, 2), (1, 2), "SAME", count_include_pad=False),
            nn.max_pool(x, (2, 3), (2, 2), "SAME"),
            nn.pooling.min_pool(x, (2, 2), (2, 2)),
        ),
        (IMAGE[:1, :, :, :2],),
        steps=4,
        rings=(64,),
    ),
    Case(
        "windows under a function",
        lambda x: (
            lax.reduce_window(x, 0.25, lambda a, b: lax.max(a, b), (2, 2), (1, 2), "VALID"),
            lax.reduce_window(x, 1.0, lambda a, b: lax.add(b, a), (2, 2), (1, 1), "SAME", (2, 1), (1, 2)),
            lax.reduce_window(x, 9.0, lax.min, (1, 5), (1, 1), "VALID"),
        ),
        (X,),
        steps=4,
        rings=(32,),
    ),
    Case(
        "the largest of what was padded with minus infinity",
        lambda x: (
            jnp.pad(x, ((0, 1), (1, 0)), constant_values=LOWEST)[:3].max(1),
            jnp.concatenate([x, jnp.full((3, 1), LOWEST)], 1).argmax(1),
            jnp.where(jnp.arange(5) < 3, x, LOWEST).max((0, 1)),
        ),
        (X,),
        rings=(32,),
    ),
]

MOVES = [
    Case(
        "pad with numbers",
        lambda x, y: (jnp.pad(x, ((1, 0), (0, 2)), constant_values=1.5), lax.pad(x, y, ((0, 0, 1), (-1, 1, 0)))),
        (X, np.float32(2.25)),
    ),
    Case(
        "join public and secret",
        lambda x, w: (
            jnp.concatenate([jnp.ones((2, 5)), x, w]),
            jnp.stack([x, jnp.zeros((3, 5))], 1),
            jnp.concatenate([jnp.ones((3, 1)) > 0, x > 0], 1),
            jnp.concatenate([x < 0, x > 0]),
        ),
        (X,),
        (Y,),
    ),
    Case(
        "roll and tile",
        lambda x: (jnp.roll(x, 2, 1), jnp.tile(x, (1, 2)), jnp.repeat(x, 2, 0), jnp.tril(x)),
        (X,),
        rings=(32,),
    ),
    Case(
        "gather at public places",
        lambda x: (
            x[:, np.array([4, 0, 0])],
            x[np.array([[0], [2]]), np.array([1, 3])],
            jnp.take(x, np.array([7, 1]), axis=1, mode="clip"),
            jnp.take(x, np.array([7, 1]), axis=0, mode="fill", fill_value=0.5),
            jnp.take_along_axis(x, np.array([[1], [0], [4]]), 1),
            jnp.diagonal(x),
            x @ x[np.array([0, 1, 2, 2, 1])],
        ),
        (X,),
        steps=40,
        rings=(32,),
    ),
    Case(
        "scatter at public places",
        lambda x, y: (
            x.at[1, 2:4].set(y[0, :2]),
            x.at[np.array([0, 2])].add(y[:2]),
            x.at[:, np.array([1, 1, 3])].add(y[:, :3]),
            x.at[np.array([0, 9])].set(1.5, mode="drop"),
            x.at[np.array([2, 2])].subtract(y[:2]),
            jax.ops.segment_sum(x, np.array([1, 1, 0]), num_segments=3),
        ),
        (X, Y),
        steps=4,
    ),
    Case(
        "scatter by other folds",
        lambda x, y: (
            x.at[:, np.array([1, 1])].max(y[:, :2]),
            x.at[np.array([0, 1])].min(0.5),
            x.at[:, np.array([1, 1, 3])].multiply(y[:, :3]),
            jax.ops.segment_max(x, np.array([1, 1, 0]), num_segments=2),
        ),
        (X, Y),
        steps=48,
        rings=(32,),
    ),
    Case(
        "dynamic_update_slice",
        lambda x, y: (
            lax.dynamic_update_slice(x, y[:2, :2], (1, 9)),
            lax.dynamic_update_slice(jnp.zeros((4, 5)), y, (1, 0)),
        ),
        (X, Y),
        rings=(64,),
    ),
]

SECRET_PLACES = [
    Case(
        "slices at secret places",
        lambda x, own: (
            lax.dynamic_slice(x, ((i := joint(own, x))[0], 1), (1, 3)),
            lax.dynamic_slice(x, (i[4], i[2]), (2, 2)),
            lax.dynamic_update_slice(x, x[:1, :2] + 1, (i[3], 2)),
            x[i[1]],
        ),
        (X,),
        (PLACES,),
        steps=48,
        rings=(32,),
    ),
    Case(
        "look-ups at secret places",
        lambda x, own, w: (
            w[(i := joint(own, x))],
            jnp.take(x, i, axis=1),
            jnp.take_along_axis(x, x.argmax(-1, keepdims=True), 1),
            jnp.take(w, jnp.maximum(i, 0), axis=0, mode="clip"),
            jnp.arange(5)[i],
            (own * 1000)[i],
        ),
        (X,),
        (np.array([2, 0, 1], np.int32), real(4, 2)),
        steps=24,
        rings=(64,),
    ),
    Case(
        "places that an owner knows",
        lambda x, i: (x[:, i], lax.dynamic_slice(x, (i[0], i[1]), (2, 2)), x[i[1:]]),
        (X,),
        (np.array([2, 0, 1], np.int32),),
        steps=24,
        rings=(32,),
    ),
    Case(
        "one_hot",
        lambda x, i: (
            jax.nn.one_hot(x.argmax(-1), 5),
            jax.nn.one_hot(joint(i, x), 4),
            jax.nn.one_hot(joint(i[:4].reshape(2, 2), x), 3, axis=0),
        ),
        (X,),
        (PLACES,),
        steps=0,
        rings=(32,),
    ),
]

LOGIC = [
    Case(
        "booleans",
        lambda x, y: (
            (x > 0) & (y > 0),
            (x > 0) | (y > 0),
            (x > 0) ^ (y > 0),
            (x > 0) == (y > 0),
            ((x > 0) & BITS[::-1]) ^ BITS | ~(y > 0),
            jnp.where(x > 0, y > 0, x < -1),
            jnp.where(x > 0, y > 0, BITS),
            jnp.where(BITS, y > 0, x > 1),
            (x > 0) < (y > 0),
        ),
        (X, Y),
        steps=0,
        rings=(32,),
    ),
    Case(
        "booleans of owners",
        lambda x, b: ((x > 0) & b, jnp.where(b, x > 0, b), jnp.where(b, x, 0.5), (x > 0) != b),
        (X,),
        (BITS,),
        rings=(32,),
    ),
    Case(
        "folds of booleans",
        lambda x, y: (
            (x > y).all(-1),
            (x > y).any(0),
            lax.reduce_xor(x > y, (0, 1)),
            (x > 0).any(),
            (x[:, :0] > 0).all(-1),
            jnp.max(x > y, 0),
            jnp.argmax(x > y, -1),
            jnp.count_nonzero(x > y),
        ),
        (X, Y),
        steps=0,
        rings=(64,),
    ),
    Case(
        "more than a table counts",
        lambda x: (jnp.tile(x > 0, 300).any(), jnp.tile(x > 99, 300).any()),
        (X,),
        steps=0,
        rings=(32,),
    ),
    Case(
        "equality",
        lambda x, y, i, j: (
            x == y,
            x != 3.0,
            (i := joint(i, x)) == j,
            i != 5,
            i == 2**30 + 5,
            x != x,
            x.astype(bool),
            i.astype(bool),
        ),
        (TIES, TIES[:, ::-1].copy()),
        (COUNTS, COUNTS[::-1].copy()),
        steps=0,
    ),
    Case(
        "integers",
        lambda x, i, j: (
            (i := joint(i, x)) * 3 + (j := joint(j, x)),
            i * jnp.arange(5),
            jnp.minimum(i, j) * 2,
            i > j,
            i.max(-1),
            i.argmin(-1),
            jnp.clip(i, -1, 9),
            jnp.sum(i, 0),
            i * j,
            i[:, 1:] << 3,
        ),
        (X,),
        (COUNTS[:, ::-1].copy(), np.minimum(COUNTS, 9)),
        steps=0,
        rings=(64,),
    ),
    Case(
        "division of integers",
        lambda x: (
            lax.div(x.argmax(-1), 2),
            lax.div(x.argmax(-1) - 2, 2),
            (x.argmax(-1) - 3) % 3,
            lax.div(x.argmax(-1) - 3, -2),
            (x.argmin(-1) - 3) >> 1,
            x.argmax(-1).astype(jnp.uint32) >> 1,
        ),
        (TIES,),
        steps=0,
        rings=(32,),
    ),
    Case(
        "choices among several",
        lambda x, y, w: (
            jnp.select([x > 1, y > 0], [x, y], 0.25),
            lax.select_n(x.argmax(-1), *(y[:, k] for k in range(4)), 1.5 * y[:, 4]),
            lax.select_n(np.array([2, 0, 1, 1, 2], np.int32), x[0], y[0], x[1]),
            lax.select_n(w, x[0], y[0], x[1]),
            lax.select_n(x.argmax(-1), *(y[:, k] > 0 for k in range(5))),
        ),
        (X, Y),
        (np.array([0, 1, 2, 1, 0], np.int32),),
        rings=(32,),
    ),
    Case(
        "beyond the bound",
        lambda x: (x > 1e6, x < 300, jnp.maximum(x, 1e3), jnp.minimum(x, -1e3), jnp.maximum(x, LOWEST), x == 77.0),
        (X,),
        rings=(32,),
    ),
]

CUMULATIVE = [
    Case("cumsum", lambda x: (jnp.cumsum(x, 0), lax.cumsum(x, 1, reverse=True), jnp.cumsum(x > 0, 1)), (X,), steps=4),
    Case(
        "running extremes",
        lambda x: (lax.cummax(x[:, :3], 1), lax.cummin(x[:2], 0, reverse=True)),
        (X,),
        rings=(32,),
    ),
    Case("running products", lambda x: (jnp.cumprod(x, 1), lax.cumprod(x, 0, reverse=True)), (X / 3,), steps=24),
    Case(
        "products",
        lambda x: (x.prod((0, 1)), x[:0].prod(0), x[:1].prod(0)),
        (X / 2,),
        steps=40,
        rings=(64,),
    ),
    Case(
        "extremes over several axes",
        lambda x: (x[..., :2].max((0, 2)), x.max(()), x[:2, :, :2].argmax(), x[:, :, :3].min(2, keepdims=True)),
        (TIES.reshape(3, 1, 5),),
        rings=(64,),
    ),
]

ORDER = [
    Case("sort", lambda x: (jnp.sort(x, 0), jnp.sort(x[:, :1])), (X,)),
    Case("argsort", lambda x: jnp.argsort(x[:, :4], 1), (TIES,), steps=0, rings=(64,)),
    Case(
        "sort with others",
        lambda x, y, i: lax.sort((x, y, joint(i, x), x > y), dimension=0, num_keys=1),
        (TIES, Y),
        (COUNTS,),
        rings=(32,),
    ),
    Case("sort by public keys", lambda x: lax.sort((jnp.arange(5) % 3, x[0]), num_keys=1), (X,), rings=(32,)),
    Case("top_k", lambda x: (*lax.top_k(x[:, :4], 2), lax.top_k(x[0, :1], 1)[1]), (TIES,), rings=(32,)),
    Case(
        "sort integers",
        lambda x, i: (jnp.sort(joint(i, x)[:, 2:], 1), jnp.median(x[:, :3], 1)),
        (X,),
        (COUNTS,),
        rings=(64,),
    ),
]

STRUCTURE = {
    "convolutions": CONVOLUTIONS,
    "pooling": POOLING,
    "moves": MOVES,
    "secret places": SECRET_PLACES,
    "logic": LOGIC,
    "cumulative": CUMULATIVE,
    "order": ORDER,
}

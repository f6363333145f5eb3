"""Whole small models, as people write them in Flax: what a private call must take unchanged."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

WIDTH, HEADS, TOKENS, VOCABULARY = 8, 2, 5, 11


@dataclass(frozen=True)
class Example:
    """A model on an example: ``model.apply(weights, *inputs, *public)`` (linen) or ``model(*inputs, *public)`` (nnx).

    ``weights`` are the model owner's (nnx: the module's state), ``inputs`` the client's, ``public`` everybody's.
    """

    model: Any
    weights: Any
    inputs: tuple[np.ndarray, ...]
    public: tuple[np.ndarray, ...] = ()

    def plain(self) -> np.ndarray:
        arrays = (*self.inputs, *self.public)
        if self.weights is None:
            return np.asarray(nnx.jit(lambda model, *xs: model(*xs))(self.model, *arrays))
        return np.asarray(jax.jit(self.model.apply)(self.weights, *arrays))


def real(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).normal(0, 1, shape).astype(np.float32)


def tokens(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, VOCABULARY, count).astype(np.int32)


def _drawn(path: Any, x: Any, rng: np.random.Generator) -> np.ndarray:
    """A parameter as after some training: by its name and shape alone, so that nothing is compiled for it."""
    name = jax.tree_util.keystr(path)
    if "scale" in name or "var" in name:
        return np.float32(rng.uniform(0.5, 1.5, x.shape))
    if "bias" in name or "mean" in name:
        return np.float32(rng.normal(0, 0.1, x.shape))
    fan_in = x.size / x.shape[-1] if "kernel" in name else 4
    return np.float32(rng.normal(0, fan_in**-0.5, x.shape))


def linen(model: nn.Module, *inputs: np.ndarray, public: tuple[np.ndarray, ...] = ()) -> Example:
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs, *public)
    return Example(model, jax.tree_util.tree_map_with_path(lambda p, x: _drawn(p, x, rng), shapes), inputs, public)


def of_nnx(make: Callable[[nnx.Rngs], nnx.Module], *inputs: np.ndarray) -> Example:
    rng = np.random.default_rng(1)
    model = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    model.eval()
    graphdef, state = nnx.split(model)
    key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    draw = lambda p, x: jnp.zeros((), x.dtype) if key(x) else jnp.asarray(_drawn(p, x, rng))
    return Example(nnx.merge(graphdef, jax.tree_util.tree_map_with_path(draw, state)), None, inputs)


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.log_softmax(nn.Dense(4)(nn.gelu(nn.Dense(16)(x))))


class NnxMLP(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.up, self.down = nnx.Linear(WIDTH, 16, rngs=rngs), nnx.Linear(16, 3, rngs=rngs)
        self.norm, self.dropout = nnx.LayerNorm(16, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.down(self.dropout(nnx.silu(self.norm(self.up(x)))))


class LeNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.avg_pool(nn.tanh(nn.Conv(4, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.max_pool(nn.relu(nn.Conv(6, (3, 3), padding="VALID")(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(12)(x.reshape(x.shape[0], -1)))
        return nn.Dense(5)(x)


class ResidualBlock(nn.Module):
    features: int
    strides: int = 1

    @nn.compact
    def __call__(self, x):
        norm = lambda: nn.BatchNorm(use_running_average=True)
        y = nn.Conv(self.features, (3, 3), strides=self.strides, use_bias=False)(x)
        y = nn.Conv(self.features, (3, 3), use_bias=False)(nn.relu(norm()(y)))
        y = norm()(y)
        if y.shape != x.shape:
            x = norm()(nn.Conv(self.features, (1, 1), strides=self.strides, use_bias=False)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3), use_bias=False)(x)))
        x = ResidualBlock(6, strides=2)(ResidualBlock(4)(x))
        return nn.Dense(3)(x.mean((1, 2)))


class NnxConvNet(nnx.Module):
    """Batch norm with statistics of its own, and channels that are mixed apart from places."""

    def __init__(self, rngs: nnx.Rngs):
        self.depthwise = nnx.Conv(3, 6, (3, 3), feature_group_count=3, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.pointwise = nnx.Conv(6, 4, (1, 1), rngs=rngs)

    def __call__(self, x):
        return self.pointwise(nnx.relu6(self.norm(self.depthwise(x)))).mean((1, 2))


class Recurrent(nn.Module):
    """A recurrent layer over a sequence, and a head on its last state."""

    cell: Callable[[], nn.RNNCellBase]

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.RNN(self.cell())(x)[:, -1])


class NnxRecurrent(nnx.Module):
    """Its layer asks for a random key to start from zeros."""

    def __init__(self, cell: Callable[..., Any], rngs: nnx.Rngs):
        self.layer = nnx.RNN(cell(4, 6, rngs=rngs))
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.layer(x))


class FeedForward(nn.Module):
    activation: Callable = nn.gelu

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        return nn.Dense(width)(self.activation(nn.Dense(2 * width)(x)))


class EncoderLayer(nn.Module):
    """Post-norm, as in BERT."""

    @nn.compact
    def __call__(self, x, mask=None):
        x = nn.LayerNorm()(x + nn.MultiHeadDotProductAttention(HEADS)(x, mask=mask))
        return nn.LayerNorm()(x + FeedForward()(x))


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, ids, real_tokens):
        x = nn.Embed(VOCABULARY, WIDTH)(ids)
        mask = nn.make_attention_mask(real_tokens, real_tokens)
        x = EncoderLayer()(x, mask)
        return nn.tanh(nn.Dense(3)(x[0]))


class ViT(nn.Module):
    @nn.compact
    def __call__(self, image):
        x = nn.Conv(WIDTH, (3, 3), strides=3, padding="VALID")(image)
        x = x.reshape(x.shape[0], -1, WIDTH)
        first = self.param("class", nn.initializers.normal(0.5), (1, 1, WIDTH))
        x = jnp.concatenate([jnp.tile(first, (x.shape[0], 1, 1)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(0.5), x.shape[1:])
        x = x + nn.SelfAttention(HEADS)(nn.LayerNorm()(x))
        x = x + FeedForward()(nn.LayerNorm()(x))
        return nn.Dense(3)(nn.LayerNorm()(x)[:, 0])


class MixerBlock(nn.Module):
    """Mixes tokens, then channels."""

    @nn.compact
    def __call__(self, x):
        y = FeedForward()(nn.LayerNorm()(x).swapaxes(-1, -2))
        x = x + y.swapaxes(-1, -2)
        return x + FeedForward()(nn.LayerNorm()(x))


class DecoderLayer(nn.Module):
    """Pre-norm, as in GPT-2."""

    @nn.compact
    def __call__(self, x, mask):
        x = x + nn.SelfAttention(HEADS)(nn.LayerNorm()(x), mask=mask)
        return x + FeedForward()(nn.LayerNorm()(x)), None


class GPT2(nn.Module):
    """A scanned stack of layers, and the embedding again as the head."""

    @nn.compact
    def __call__(self, ids):
        embed = nn.Embed(VOCABULARY, WIDTH)
        x = embed(ids) + self.param("positions", nn.initializers.normal(0.5), (TOKENS, WIDTH))
        stack = nn.scan(
            DecoderLayer, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=nn.broadcast, length=2
        )
        x, _ = stack()(x, nn.make_causal_mask(ids))
        return embed.attend(nn.LayerNorm()(x))


class NnxDecoder(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(WIDTH, 16, rngs=rngs), nnx.Linear(16, WIDTH, rngs=rngs)

    def __call__(self, x):
        mask = nnx.make_causal_mask(jnp.ones(x.shape[:-1]))
        x = x + self.attention(self.norms[0](x), mask=mask)
        return x + self.down(nnx.relu(self.up(self.norms[1](x))))


def rotated(x, base: float = 100.0):
    """Rotary positions: pairs of features turn with the position. x: (tokens, heads, features)."""
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[0])[:, None] / base ** (jnp.arange(half) / half)
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class Llama(nn.Module):
    """One block: RMS norm, rotary positions, two heads of queries to each of keys and values, gated SiLU."""

    queries: int = 4
    keys: int = 2
    features: int = 4

    @nn.compact
    def __call__(self, x):
        dense = lambda width, **more: nn.DenseGeneral(width, use_bias=False, **more)
        h = nn.RMSNorm()(x)
        q = rotated(dense((self.queries, self.features))(h))
        k = rotated(dense((self.keys, self.features))(h))
        v = dense((self.keys, self.features))(h)
        k, v = (jnp.repeat(a, self.queries // self.keys, axis=1) for a in (k, v))
        scores = jnp.einsum("qhd,khd->hqk", q, k) / np.sqrt(self.features)
        causal = jnp.tril(jnp.ones((x.shape[0], x.shape[0]), bool))
        weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf))
        x = x + dense(x.shape[-1], axis=(-2, -1))(jnp.einsum("hqk,khd->qhd", weights, v))
        h = nn.RMSNorm()(x)
        return x + dense(x.shape[-1])(nn.silu(dense(12)(h)) * dense(12)(h))


IMAGE, SEQUENCE, ROWS = real(1, 8, 8, 2), real(2, 3, 4), real(TOKENS, WIDTH)
PADDED = np.array([1, 1, 1, 1, 0], np.float32)

ZOO: dict[str, Callable[[], Example]] = {
    "MLP": lambda: linen(MLP(), ROWS),
    "MLP in nnx": lambda: of_nnx(NnxMLP, ROWS),
    "LeNet": lambda: linen(LeNet(), IMAGE),
    "ResNet": lambda: linen(ResNet(), IMAGE[:, :6, :6]),
    "separable convolutions in nnx": lambda: of_nnx(NnxConvNet, real(1, 5, 5, 3)),
    "LSTM": lambda: linen(Recurrent(lambda: nn.OptimizedLSTMCell(6)), SEQUENCE),
    "GRU": lambda: linen(Recurrent(lambda: nn.GRUCell(6)), SEQUENCE),
    "LSTM in nnx": lambda: of_nnx(lambda r: NnxRecurrent(nnx.LSTMCell, r), SEQUENCE),
    "GRU in nnx": lambda: of_nnx(lambda r: NnxRecurrent(nnx.GRUCell, r), SEQUENCE),
    "encoder": lambda: linen(Encoder(), tokens(TOKENS), public=(PADDED,)),
    "decoder in nnx": lambda: of_nnx(NnxDecoder, ROWS),
    "vision transformer": lambda: linen(ViT(), real(1, 6, 6, 2)),
    "mixer": lambda: linen(MixerBlock(), ROWS),
    "GPT-2": lambda: linen(GPT2(), tokens(TOKENS)),
    "Llama": lambda: linen(Llama(), ROWS),
}

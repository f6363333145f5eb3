"""A BERT encoder and the sentence embedding on top of it, in plain Flax: nothing private about them.

Post-norm layers as in the paper (Devlin et al., 2019), stacked by ``nn.scan``: every weight of a layer has a first
axis of ``layers``, and programs do not grow with depth. Tokens are int32[..., T]; sentences of several lengths are a
batch with a ``mask``, bool[..., T], that is false at padding. Lengths are public, so the mask is an ordinary array.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class BertConfig:
    """Sizes of the model; ``eps`` of its layer norms."""

    vocabulary: int
    positions: int
    types: int
    width: int
    layers: int
    heads: int
    hidden: int
    eps: float = 1e-12


class Attention(nn.Module):
    """Multi-head self-attention of every token to every token that is not padding, with its output layer."""

    config: BertConfig

    @nn.compact
    def __call__(self, x, mask=None):
        """x: float[..., T, width] -> the same shape."""
        c, width = self.config, x.shape[-1]
        heads = lambda name: nn.Dense(width, name=name)(x).reshape(*x.shape[:-1], c.heads, -1).swapaxes(-3, -2)
        q, k, v = heads("query"), heads("key"), heads("value")
        scores = q @ k.swapaxes(-2, -1) / np.sqrt(width // c.heads)
        if mask is not None:
            scores = jnp.where(mask[..., None, None, :], scores, jnp.finfo(scores.dtype).min)
        mixed = (jax.nn.softmax(scores) @ v).swapaxes(-3, -2).reshape(x.shape)
        return nn.Dense(width, name="out")(mixed)


class Layer(nn.Module):
    """Attention and a GELU feed-forward layer, each followed by its residual and a layer norm."""

    config: BertConfig

    @nn.compact
    def __call__(self, x, mask=None):
        """x: float[..., T, width] -> (the same shape, None), as a scan's body."""
        c = self.config
        x = nn.LayerNorm(c.eps, name="attention_norm")(x + Attention(c, name="attention")(x, mask))
        h = jax.nn.gelu(nn.Dense(c.hidden, name="up")(x), approximate=False)
        return nn.LayerNorm(c.eps, name="norm")(x + nn.Dense(c.width, name="down")(h)), None


class Bert(nn.Module):
    """The encoder: ``Bert(config).apply(params, tokens)``."""

    config: BertConfig

    @nn.compact
    def __call__(self, tokens, mask=None):
        """tokens: int32[..., T], T at most ``positions`` -> hidden states float32[..., T, width]. All of type 0."""
        c = self.config
        table = lambda name, rows: nn.Embed(rows, c.width, embedding_init=nn.initializers.normal(0.02), name=name)
        places = jnp.arange(tokens.shape[-1])
        x = table("words", c.vocabulary)(tokens) + table("places", c.positions)(places)
        x = x + table("types", c.types)(jnp.zeros_like(places))
        x = nn.LayerNorm(c.eps, name="embedding_norm")(x)
        whole: Any = nn.broadcast  # every layer sees the whole mask
        layers = nn.scan(
            Layer, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=whole, length=c.layers
        )
        return layers(c, name="layers")(x, mask)[0]


class SentenceEncoder(nn.Module):
    """The mean of BERT's hidden states, at length one: embeddings whose inner product is their likeness."""

    config: BertConfig

    @nn.compact
    def __call__(self, tokens, mask=None):
        """tokens: int32[..., T] -> float32[..., width]."""
        x = Bert(self.config, name="bert")(tokens, mask)
        mean = x.mean(axis=-2, where=None if mask is None else mask[..., None])
        return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)

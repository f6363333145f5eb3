"""What a gate is worth: how much its neurons put into the layer's result, and losses that teach it.

The contribution of a neuron is |hidden| times the norm of its row of the second weight; of a block, the root of the sum
of squares. ReLU's neurons are on or off, which a gate learns to tell (as in Deja Vu, Liu et al. 2023: cross-entropy,
with negatives weighted by how rare positives are). Smooth activations are never off and blocks are often on for little,
so their gates learn the logarithm of the contribution, and whatever is above a threshold counts as on.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

Kind = Literal["occurrence", "magnitude"]
FLOOR = 0.05  # contributions well below this part of the layer's root mean square are all alike


def kind(activation: str, block: int) -> Kind:
    """What the gates of a layer learn."""
    return "occurrence" if activation == "relu" and block == 1 else "magnitude"


def by_neuron(gates, order, block: int):
    """Of gates [..., gates], what each neuron's own is: [..., neurons], in the model's order."""
    return jnp.repeat(gates, block, -1)[..., jnp.argsort(order)]


def contributions(hidden, down, order, block: int):
    """hidden [..., neurons], down [neurons], order int[neurons] -> [..., gates]."""
    ordered = (jnp.abs(hidden) * down)[..., order]
    return jnp.sqrt((ordered.reshape(*ordered.shape[:-1], -1, block) ** 2).sum(-1))


def log_magnitude(contribution, scale):
    """What a score learns where contributions are graded."""
    return jnp.log(contribution / scale + FLOOR)


def occurrence_loss(scores: jax.Array, contribution: jax.Array, density) -> jax.Array:
    """Cross-entropy with negatives weighted by about the density of positives."""
    on = (contribution > 0).astype(scores.dtype)
    weight = jnp.where(on > 0, 1.0, density + 0.005)
    return (weight * optax.sigmoid_binary_cross_entropy(scores, on)).mean() / (2 * density + 0.005)


def magnitude_loss(scores: jax.Array, contribution: jax.Array, scale) -> jax.Array:
    """Squared error of the logarithm."""
    return ((scores - log_magnitude(contribution, scale)) ** 2).mean()


def threshold(activation: str, contribution: np.ndarray, energy: float = 0.99) -> float:
    """Contributions above it count as on: any for ReLU, else the largest that together hold most of the energy."""
    if activation == "relu":
        return 0.0
    values = np.sort(contribution, axis=None)[::-1]
    held = np.cumsum(values.astype(np.float64) ** 2)
    return float(values[min(np.searchsorted(held, energy * held[-1]) + 1, len(values) - 1)])

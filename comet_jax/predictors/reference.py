"""What gates compute, in the clear: flags from what is read, and the neurons that they stand for."""

import jax
import jax.numpy as jnp

from comet_jax.predictors.artifact import Layer


def scores(layer: Layer, x: jax.Array) -> jax.Array:
    """What is read [..., :] -> [..., gates]; a gate is open where its score is not negative."""
    return (x @ layer.a) @ layer.b + layer.bias


def neurons(layer: Layer, flags: jax.Array) -> jax.Array:
    """Flags of gates [..., gates] -> of neurons [..., neurons], in the model's own order."""
    ordered = jnp.repeat(flags, layer.order.size // flags.shape[-1], axis=-1)
    return jnp.zeros_like(ordered).at[..., layer.order].set(ordered)


def fitting(scores: jax.Array, room: int) -> jax.Array:
    """Scores of all blocks of a call -> bool, which are computed where scores decide what at most ``room`` slots hold.

    Those that are not negative and above the first that does not fit, so of equal ones all or none.
    """
    beyond = scores.size - 1 - room
    if beyond < 0:
        return scores >= 0
    return (scores >= 0) & (scores > jnp.sort(scores.ravel())[beyond])

"""Scores as the private program computes them: in fixed point of few bits."""

import jax
import jax.numpy as jnp

INPUT_BITS, INNER_BITS, SCORE_BITS = 10, 12, 8  # of the fraction of x; of x a; of a score


def scores(x: jax.Array, a: jax.Array, b: jax.Array, bias: jax.Array) -> jax.Array:
    """x [..., width] -> integers [..., gates] from -128 to 127; a gate is open where its score is not negative.

    x a and the scores are between -1 and 1, which is scaled to the whole range of their bits; what is beyond wraps.
    """
    x = jnp.round(x * 2**INPUT_BITS) / 2**INPUT_BITS
    inner = _wrapped((x @ a) * (2 ** (INNER_BITS - 1) - 1), INNER_BITS) / (2 ** (INNER_BITS - 1) - 1)
    return _wrapped((inner @ b + bias) * (2 ** (SCORE_BITS - 1) - 1), SCORE_BITS)


def _wrapped(x: jax.Array, bits: int) -> jax.Array:
    half = 2 ** (bits - 1)
    return (jnp.round(x) + half) % (2 * half) - half

"""Scores as the private program computes them: in fixed point of few bits."""

import jax
import jax.numpy as jnp

# Fraction bits: of a layer's input, of x A with columns of A at length one, of B for those, of a score.
INPUT, INNER, SECOND, SCORE = 10, 10, 12, 7
HALF = 2.0 ** -(SCORE + 1)  # a score is rounded, so it counts as not negative from here below zero on


def scores(x: jax.Array, a: jax.Array, b: jax.Array, bias: jax.Array) -> jax.Array:
    """x [..., width] -> integers [..., gates] from -128 to 127; a gate is open where its score is not negative.

    Scores have to be between -1 and 1: they have eight bits, and what is beyond wraps. Rounding is to the nearest; the
    parties' own is up or down at random, with the same mean.
    """
    length = jnp.maximum(jnp.linalg.norm(a, axis=0), 1e-30)
    inner = _rounded(_rounded(x, INPUT) @ (a / length), INNER)
    found = jnp.round((inner @ _rounded(b * length[:, None], SECOND) + bias) * 2**SCORE)
    half = 2**SCORE
    return (found + half) % (2 * half) - half


def _rounded(x: jax.Array, bits: int) -> jax.Array:
    return jnp.round(x * 2**bits) / 2**bits

"""The leak check passes what the compiler makes, scans included, and says what it has checked."""

import jax
import jax.numpy as jnp

import comet_jax as cj

X = jax.ShapeDtypeStruct((2, 4), jnp.float32)


def stack(p, x):
    return jax.lax.scan(lambda x, w: (jax.nn.softmax(x @ w), None), x, p)[0]


def test_a_scan_counts_at_each_step():
    lowered = lambda n: cj.private(stack).trace(jax.ShapeDtypeStruct((n, 4, 4), jnp.float32), X).lower()
    two, three, four = (lowered(n).proof for n in (2, 3, 4))
    assert four.openings - three.openings == three.openings - two.openings > 0
    assert (two.weights, two.outputs) == (1, 1)


def test_explain_says_what_was_checked():
    told = cj.explain(jax.nn.relu, cj.seal(X))
    assert any(line.startswith("Checked: ") and "1 outputs" in line for line in told.reveals)

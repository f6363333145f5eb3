"""Real functions of secret integers: booleans as numbers, counts and rounded values have no fraction bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ideal_world import Ideal

import comet_jax as cj

X = np.linspace(-2, 2, 8, dtype=np.float32)

WHOLE = {
    "boolean": lambda x: (x <= 0.5).astype(jnp.float32),
    "count": lambda x: (x <= 0.5).astype(jnp.float32).sum(-1, keepdims=True),
    "rounded": jnp.round,
}

FUNCTIONS = {
    **{name: getattr(jax.nn, name) for name in ("relu", "gelu", "silu", "softplus", "mish", "leaky_relu", "selu")},
    **{name: getattr(jnp, name) for name in ("tanh", "sin", "cos", "sqrt", "square", "sign", "floor")},
    "gelu of a choice": lambda x: jax.nn.gelu(jnp.where(x > 0, x * 0.3, x)),
    "standardised": lambda x: jax.nn.standardize(x, epsilon=1e-2),
    "rsqrt": lambda x: jax.lax.rsqrt(x * x + 1),
    "inverse": lambda x: 1 / (x * x + 1),
    "dot": lambda x: x @ np.full((x.shape[-1], 2), 0.1, np.float32),
    "a fraction of itself": lambda x: x + 0.0447 * x,
    "the larger fraction": lambda x: jnp.maximum(x, 0.01 * x),
}


@pytest.mark.parametrize("ring", [32, 64])
@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_real_functions_of_integers(function, whole, ring):
    if function == "sqrt" and whole == "rounded":
        pytest.skip("of negative numbers")
    f = lambda x: FUNCTIONS[function](WHOLE[whole](x))
    (got,) = Ideal(f, (X,), ("sealed",), cj.Policy(ring=ring)).results()
    np.testing.assert_allclose(got, f(X), atol=6e-3, rtol=2e-3)


def test_an_inverse_root_in_a_narrow_range():
    """Two octaves, which is what calibration finds of a variance that hardly varies."""
    f = lambda x: jax.lax.rsqrt((x <= 0.5).astype(jnp.float32) + 1)
    (got,) = Ideal(f, (X,), ("sealed",), cj.Policy()).results()
    np.testing.assert_allclose(got, f(X), atol=2e-3)

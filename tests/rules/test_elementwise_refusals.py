"""Functions of elements that cannot be computed privately are refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import comet_jax as cj

X = jax.ShapeDtypeStruct((3,), np.float32)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (jnp.arcsin, "`asin`|`atan2`"),
        (lambda x: jnp.arctan2(x, x + 1), "`atan2`"),
        (jnp.arctan, "`atan`"),
        (lax.erf_inv, "`erf_inv`"),
        (lax.lgamma, "`lgamma`"),
        (lambda x: lax.nextafter(x, x + 1), "`nextafter`"),
        (lambda x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO), "halves are rounded to even numbers only"),
        (lambda x: jnp.power(-2.0, x), "a power of a public number that is not positive"),
        (lambda x: jax.nn.softmax(x, where=x > 0), "a softmax over a secret choice"),
    ],
)
def test_refused_by_name(function, told):
    with pytest.raises(cj.UnsupportedOperationError, match=told):
        cj.private(function).trace(cj.seal(X)).lower()

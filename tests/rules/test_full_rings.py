"""Comparisons and choices of values that leave no bit of their ring to spare: differences need one more."""

import jax.numpy as jnp
import numpy as np
import pytest

import comet_jax as cj

X = np.array([60, -60, 63.9, -63.9, 0.5, -0.5, 63.9, -63.9], np.float32)
Y = np.array([-60, 60, -63.9, 63.9, 0.5, -0.25, 63.8, -63.8], np.float32)


def _private(function, policy, *secrets):
    with cj.Session.simulated():
        given = [cj.seal(cj.share(x, owner="client"), policy) for x in secrets]
        return cj.reveal(cj.private(function, policy=policy)(*given))


@pytest.mark.parametrize("ring", [32, 64])
def test_reals_at_the_limit(ring):
    def function(x, y):
        flags = (x >= y, x == y, x >= -50.0)
        return [*(f * 1.0 for f in flags), jnp.maximum(x, y), jnp.where(x > y, x, y)]

    fraction, operand = {32: (24, 10), 64: (56, 18)}[ring]
    policy = cj.Policy(ring=ring, numbers=cj.Numbers(ring=ring, raw=fraction, operand=operand, bound=64.0))
    for found, exact in zip(_private(function, policy, X, Y), function(X, Y), strict=True):
        assert np.abs(np.float64(found) - np.float64(exact)).max() < 2.0 ** (2 - operand)


def test_integers_at_the_limit():
    """Calibration knows that they are, and that they are compared with places as far on the other side."""
    places = np.array([-(2**29), 0, 2**29], np.int32)
    a, b = np.array([2**29, -(2**29), 2, 0], np.int32), np.array([2**29 - 1, -(2**29) + 1, -2, 2**29], np.int32)

    def function(a, b):
        return ((a + b)[:, None] == places) * 1.0

    policy = cj.calibrate(function, (a, b), margin=1.0).policy
    assert policy.ring == 32
    with cj.Session.simulated():
        given = cj.share(a, owner="model"), cj.share(b, owner="client")
        found = cj.reveal(cj.private(function, policy=policy)(*given))
    np.testing.assert_array_equal(found, function(a, b))


def test_calibration_leaves_room_for_differences():
    """So that they cost no round: values at the limit, and no margin."""
    w, xy = np.float32([1, -1, 0.5, 1]), np.stack([X[:4], Y[:4]])

    def compared(w, xy):
        x, y = xy * w
        return jnp.where(x > y, x, y) * 0.5

    policy = cj.calibrate(compared, (w, xy), margin=1.0).policy
    assert policy.ring == 32
    with cj.Session.simulated():
        given = cj.share(w, owner="model"), cj.share(xy, owner="client")
        assert cj.explain(compared, *given, policy=policy).rounds == 4  # one is the product's
        found = cj.reveal(cj.private(compared, policy=policy)(*given))
    np.testing.assert_allclose(found, compared(w, xy), atol=0.1)

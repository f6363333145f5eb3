"""Public tables of reals multiply shares, so both parties must compute the same bits, whatever their machines are.

A sine or an exponential differs between machines in its last place. A table is safe if no entry lies so close to the
middle between two integers that this could round it the other way.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from comet_jax.gadgets.softmax import FINE_LOW, FINE_PUBLIC, LOW, PUBLIC
from comet_jax.protocols.fourier import LONGEST, TABLE_BITS, WHOLE_TABLE, Series, _cos_sin, _cosine, _fine_tables
from comet_jax.protocols.linear import Rearrange
from comet_jax.protocols.opening import HighBits, Lift, Open
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Opened, Shared

PLACES = 16  # of units in the last place, several times what any library is off


def _distance_from_rounding(values: np.ndarray) -> np.ndarray:
    return np.abs(np.abs(values - np.floor(values)) - 0.5) / (PLACES * np.spacing(np.abs(values)))


@pytest.mark.parametrize("period", range(2, 17))
def test_the_cosine_is_the_same_everywhere(period):
    angle = 2 * np.pi * np.arange(1 << period) / (1 << period)
    exact = np.cos(angle) * (1 << TABLE_BITS)
    # The angle's own rounding moves a cosine by a few units of the largest one's last place.
    assert np.all(np.abs(np.abs(exact - np.floor(exact)) - 0.5) > PLACES * np.spacing(float(1 << TABLE_BITS)))
    np.testing.assert_array_equal(_cosine(period), np.rint(exact))


@pytest.mark.parametrize("period", range(WHOLE_TABLE + 1, LONGEST + 1))
def test_a_longer_period_is_the_same_everywhere(period):
    low = period - period // 2
    angle = 2 * np.pi * np.arange(1 << low) / (1 << period)
    for found, f in zip(_fine_tables(period, low), (np.cos, np.sin)):
        exact = f(angle) * (1 << TABLE_BITS)
        assert np.all(np.abs(np.abs(exact - np.floor(exact)) - 0.5) > PLACES * np.spacing(float(1 << TABLE_BITS)))
        np.testing.assert_array_equal(found, np.rint(exact))
    places = np.random.default_rng(period).integers(0, 1 << period, 1000)
    with jax.enable_x64(True):
        found = _cos_sin(jnp.asarray(places, jnp.uint32), Series(period, 0, 0, (0, 0, 0), (0, 0, 0)))
    for got, f in zip(found, (np.cos, np.sin)):
        exact = f(np.outer([1, 2, 3], places) * (2 * np.pi / (1 << period)))
        np.testing.assert_allclose(got, exact * (1 << TABLE_BITS), atol=3)


@pytest.mark.parametrize(("low", "public"), [(LOW, PUBLIC), *((FINE_LOW[k], FINE_PUBLIC[k]) for k in (32, 64))])
def test_the_exponential_is_the_same_everywhere(low, public):
    """For scores at a power of two's scale, where a level is four nats."""
    steps = np.arange(1 << low) * (4 / (1 << low))
    assert np.all(_distance_from_rounding(np.exp(steps) * 2.0**public) > 1)


@pytest.mark.parametrize(
    ("protocol", "wire", "message"),
    [
        (Open(8, 25), Shared((2,), Group(32)), "needs a ring of 33 bits"),
        (Open(8, -1), Shared((2,), Group(32)), "drops fewer"),
        (Open(2, 1, headroom=True), Shared((2,), Group(32)), "opens fewer than it needs"),
        (Open(3), Shared((2,), Group(5, xor=True)), "opened whole"),
        (HighBits(0), Shared((2,), Group(32)), "can be dropped"),
        (HighBits(32), Shared((2,), Group(32)), "can be dropped"),
        (Lift(32), Opened((2,), Group(20)), "without headroom"),
        (Lift(16), Opened((2,), Group(20), headroom=True), "cannot lift"),
        (Rearrange("pad", (((0, 1, 0),),)), Opened((2,), Group(20), headroom=True), "cannot be padded"),
    ],
)
def test_what_would_go_wrong_is_refused(protocol, wire, message):
    with pytest.raises(ValueError, match=message):
        protocol.outputs(wire)

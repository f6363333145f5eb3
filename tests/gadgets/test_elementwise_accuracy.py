"""How far functions of single elements are from their values, at the stated bounds: whole ranges and edge values."""

import math

import numpy as np
import pytest
from numbers_at_scale import Gadget

from comet_jax.gadgets.exponential import exponential
from comet_jax.gadgets.logarithm import logarithm
from comet_jax.gadgets.rounding import floor, round_to_even
from comet_jax.gadgets.saturating import SATURATING, saturating
from comet_jax.gadgets.trigonometry import wave
from comet_jax.policy import NUMBERS

RINGS = (32, 64)


def _grid(limit: float, *edges: float) -> np.ndarray:
    near = [c + np.arange(-20, 21) / 2.0**10 for c in (0.0, *edges)]
    return np.concatenate([np.linspace(-limit, limit, 20001), *near])


def _of(gadget, x: np.ndarray, ring: int, scale: float | None = None, **how) -> np.ndarray:
    scale = scale or 2.0 ** NUMBERS[ring].raw
    return Gadget(lambda b, v: gadget(b, v, scale=scale, ring=ring, **how), x.shape, ring, scale)(x)


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("name", SATURATING)
def test_saturating(name, ring):
    function, limit = SATURATING[name]
    bound = NUMBERS[ring].bound
    x = _grid(bound - 2.0**-8, limit, -limit)
    error = np.abs(_of(saturating, x, ring, bound=bound, function=function, limit=limit) - function(x))
    assert error.max() < (5e-4 if ring == 32 else 3e-4)
    assert error.mean() < 5e-5


@pytest.mark.parametrize("scale", [2.0**27, 3.3 * 2.0**20])
def test_saturating_where_the_ring_has_no_room(scale):
    """Its bound fills the ring, so that a difference from a limit does not fit; or the bound is within the limit."""
    bound = 2.0**30 / scale if scale == 2.0**27 else 4.0
    x = _grid(bound * 0.999, 5.0, -5.0)
    x = x[np.abs(x) < bound]
    error = np.abs(_of(saturating, x, 32, scale, bound=bound, function=np.tanh, limit=5.0) - np.tanh(x))
    assert error.max() < 5e-4


@pytest.mark.parametrize("ring", RINGS)
def test_exponential(ring):
    """Relative, a step of the argument; absolute, 2^-21 of the largest. Beyond that it stays there."""
    bound = largest = NUMBERS[ring].bound
    x = _grid(bound - 2.0**-8, math.log(largest), -17.0)
    y = _of(exponential, x, ring, bound=bound, largest=largest, fraction=NUMBERS[ring].raw)
    exact = np.exp(np.minimum(x, math.log(largest)))
    over = x > math.log(largest)
    assert np.all(np.abs(y - exact)[~over] < 2.0**-12 * exact[~over] + 2.0**-20 * largest)
    assert np.all(np.abs(y[over] - largest) < 0.04 * largest)
    assert np.all(np.abs(y[x > math.log(largest) + 0.1] - largest) < 1e-6 * largest)


@pytest.mark.parametrize(
    ("scale", "bound", "largest"), [(2.0**24, 64.0, 2.0**-3), (2.0**10, 100.0, 1.0), (1.0, 9.0, 2e3)]
)
def test_exponential_elsewhere(scale, bound, largest):
    """Other bounds and scales: arguments too low, and limits on both sides, for a look-up alone."""
    x = np.rint(_grid(bound * 0.99, math.log(largest)) * scale) / scale
    y = _of(exponential, x, 32, scale, bound=bound, largest=largest, fraction=24)
    exact = np.minimum(np.exp(x), largest)
    over = np.abs(x - math.log(largest)) < 0.1
    error = np.abs(y - exact)
    assert np.all(error[~over] < 2.0**-12 * exact[~over] + 2.0**-20 * largest + 2.0**-24)
    assert np.all(error[over] < 0.04 * largest)


@pytest.mark.parametrize("ring", RINGS)
def test_logarithm(ring):
    """Every octave from 2^-16 on. Less counts as 2^-16, zero and negative numbers too."""
    raw, bound = NUMBERS[ring].raw, int(math.log2(NUMBERS[ring].bound))
    unit = 2.0**raw
    x = np.concatenate(
        [
            np.geomspace(2.0**-16, 2.0**bound * 0.999, 20001),
            *(2.0 ** np.arange(-16, bound) + d / unit for d in (-1, 0, 1)),
        ]
    )
    x = np.rint(x[x >= 2.0**-16] * unit) / unit
    shift = raw - 24
    low = 8
    make = lambda b, v: logarithm(b, v, shift=shift, low=low, octaves=16 + bound, scale=2.0**24, ring=ring)
    gadget = Gadget(make, x.shape, ring, unit)
    assert np.all(np.abs(gadget(x) - np.log(x)) < 1e-4 + 2.0**-24 / x * (shift > 0))
    below = np.resize([0.0, 2.0**-17, -1.0, -(2.0**bound) * 0.9, 2.0**-24], x.shape)
    assert np.all(np.abs(gadget(below) - math.log(2.0**-16)) < 1e-4)


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize(("gadget", "function"), [(floor, np.floor), (round_to_even, np.round)])
def test_rounding_is_exact(gadget, function, ring):
    n = NUMBERS[ring]
    step = 2.0**-n.raw
    halves = np.arange(-40, 41) / 2
    x = np.concatenate([np.linspace(-n.bound + 1, n.bound - 1, 20001), halves, halves + step, halves - step])
    x = np.rint(x / step) * step
    make = lambda b, v: (gadget(b, v, fraction=n.raw, width=n.width(n.raw, n.bound)), 1.0)
    np.testing.assert_array_equal(Gadget(make, x.shape, ring, 1 / step)(x), function(x))


@pytest.mark.parametrize("sine", [False, True])
@pytest.mark.parametrize(("ring", "scale"), [(32, None), (64, None), (32, 1.0), (32, 1.7 * 2.0**19)])
def test_waves(ring, scale, sine):
    bound = NUMBERS[ring].bound if scale is None else 500.0
    x = _grid(bound * 0.999, math.pi, 100 * math.pi / 32)
    if scale == 1.0:
        x = np.rint(x)
    width = NUMBERS[ring].width(math.log2(scale) if scale else NUMBERS[ring].raw, bound)
    error = np.abs(_of(wave, x, ring, scale, width=width, sine=sine) - (np.sin if sine else np.cos)(x))
    assert error.max() < 1.1e-4

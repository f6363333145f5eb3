"""How far each gadget is from the function it stands for, over its whole range. Bounds are the stated ones."""

import math

import numpy as np
import pytest
from numbers_at_scale import Gadget, log_sum_exp_gadget, norm_gadget, relu_gadget, smooth_gadget, softmax_gadget

from comet_jax.gadgets.activations import SMOOTH
from comet_jax.gadgets.inverse import inverse
from comet_jax.policy import NUMBERS
from comet_jax.protocols.opening import Lift
from comet_jax.sharing.packing import Where

RINGS = (32, 64)


def _grid(ring: int) -> np.ndarray:
    """The whole range of an activation's input, and every step around zero and the limits of its linear parts."""
    n = NUMBERS[ring]
    step = 2.0**-n.operand
    near = [c + step * np.arange(-64, 65) / 8 for c in (0.0, -4.0, 4.0, -11.0, 11.0)]
    edge = [n.bound - step * np.arange(2, 66), step * np.arange(2, 66) - n.bound]
    return np.concatenate([np.linspace(-n.bound + step * 2, n.bound - step * 2, 40001), *near, *edge])


@pytest.mark.parametrize("ring", RINGS)
def test_relu_is_exact_to_a_step(ring):
    x = _grid(ring)
    y = relu_gadget(x.shape, ring)(x)
    step = 2.0 ** -NUMBERS[ring].operand
    assert np.abs(y - np.maximum(x, 0)).max() < step
    # The truncation rounds a negative number to zero at most.
    assert np.all(y[x <= 0] == 0)
    assert np.all(y >= 0)


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_activations(name, ring):
    x = _grid(ring)
    y = smooth_gadget(name, x.shape, ring)(x)
    error = np.abs(y - SMOOTH[name][0](x))
    # The series' tolerance and, at 32 bits, a few steps of 2^-10.
    assert error.max() < (4e-3 if ring == 32 else 7e-4)
    assert error.mean() < (1e-3 if ring == 32 else 1e-4)


def _rows(t: int) -> np.ndarray:
    """Rows of scores: usual ones, equal ones, single peaks and holes, and those at the limits, -64 and 60."""
    r = np.random.default_rng(0)
    usual = [r.normal(m, s, t) for s in (0.1, 1.0, 5.0, 14.0) for m in (-8.0, 0.0, 8.0)]
    peak = np.eye(t)[:3]
    special = [np.full(t, v) for v in (0.0, 59.9, -63.0)]
    rows = np.stack([*usual, *special, *(59.9 * peak), *(-50 * peak), *(59.9 - 110 * peak), np.linspace(-50, 60, t)])
    return np.clip(rows, -63, 59.9)


def _softmax(x: np.ndarray, keep: np.ndarray | bool = True) -> np.ndarray:
    e = np.where(keep, np.exp(x - np.where(keep, x, -np.inf).max(-1, keepdims=True)), 0)
    return e / e.sum(-1, keepdims=True)


def _check_softmax(found: np.ndarray, exact: np.ndarray, ring: int) -> None:
    """One step of the result; and an exponential has steps of 2^-12 of the row's maximum, at worst."""
    assert np.all(np.abs(found - exact) < 2.0 ** -NUMBERS[ring].probability + 2.0**-12 * (1 + exact))


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("t", [1, 7, 64])
def test_softmax(t, ring):
    x = _rows(t) if t > 2 else np.linspace(-63, 59.9, 40)[:, None]
    y = softmax_gadget(x.shape, ring)(x)
    _check_softmax(y, _softmax(x), ring)
    assert np.abs(y.sum(-1) - 1).max() < (2e-2 if ring == 32 else 4e-3)


@pytest.mark.parametrize("ring", RINGS)
def test_softmax_of_some(ring):
    """Scores outside the choice may be anything: they get zero and are no part of the maximum or the sum."""
    x = np.random.default_rng(0).normal(0, 3, (9, 9))
    keep = np.tril(np.ones((9, 9), bool))
    x[~keep] = 60.0
    y = softmax_gadget(x.shape, ring, Where(keep))(x)
    assert np.all(y[~keep] == 0)
    _check_softmax(y, _softmax(x, keep), ring)


def test_softmax_of_coarse_scores():
    """A scale with fewer bits than a level needs: the scores are scaled up first."""
    x = np.rint(_rows(7) * 2.0**9) / 2.0**9
    y = softmax_gadget(x.shape, 32, scale=2.0**9)(x)
    _check_softmax(y, _softmax(x), 32)


@pytest.mark.parametrize("scale", [2.0**26, 2.0**27, 100 * 2.0**24])
def test_softmax_of_scores_that_a_constant_has_made_small(scale):
    """Their scale leaves no ring for levels of four nats; they may fill half of it."""
    x = _rows(7) * (2.0**24 / scale)
    y = softmax_gadget(x.shape, 32, scale=scale)(x)
    _check_softmax(y, _softmax(x), 32)


def _log_sum_exp(x: np.ndarray) -> np.ndarray:
    most = x.max(-1, keepdims=True)
    return (np.log(np.exp(x - most).sum(-1, keepdims=True)) + most)[..., 0]


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("t", [1, 7, 64])
def test_log_sum_exp(t, ring):
    """A step of the opened scores, and the logarithm's own error. Several masks a row: they round differently."""
    x = np.tile(_rows(t) if t > 2 else np.linspace(-63, 59.9, 40)[:, None], (8, 1))
    error = np.abs(log_sum_exp_gadget(x.shape, ring)(x) - _log_sum_exp(x))
    assert error.max() < (2.0**-12 if ring == 32 else 2.0**-14) + 1e-4
    assert error.mean() < (1e-4 if ring == 32 else 4e-5)


@pytest.mark.parametrize(
    ("ring", "scale"), [(32, 2.0**9), (32, 2.0**27), (32, 100 * 2.0**24), (32, 3 * 2.0**22), (64, 3 * 2.0**34)]
)
def test_log_sum_exp_at_other_scales(ring, scale):
    """Coarse scores, those that a constant has made small, and levels of six nats."""
    x = np.rint(_rows(7) * min(1.0, 2.0**24 / scale if ring == 32 else 1.0) * scale) / scale
    error = np.abs(log_sum_exp_gadget(x.shape, ring, scale=scale)(x) - _log_sum_exp(x))
    assert error.max() < (1.5 * 2.0**-12 if ring == 32 else 1.5 * 2.0**-14) + 1e-4


@pytest.mark.parametrize("ring", RINGS)
def test_log_sum_exp_of_some(ring):
    x = np.random.default_rng(0).normal(0, 3, (9, 9))
    keep = np.tril(np.ones((9, 9), bool))
    exact = _log_sum_exp(np.where(keep, x, -np.inf))
    x[~keep] = 60.0
    assert np.abs(log_sum_exp_gadget(x.shape, ring, Where(keep))(x) - exact).max() < 2.0**-12 + 1e-4


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize(("centre", "d"), [(True, 64), (False, 64), (True, 5), (False, 768)])
def test_normalise(centre, d, ring):
    """The error is that of the input's steps, divided as the row is, and a step or two of the result."""
    n, r, eps = NUMBERS[ring], np.random.default_rng(0), 1e-5
    limit = n.norm_bound * 0.98
    rows = [r.normal(m, s, d) for s in (1e-3, 0.1, 1.0, 10.0) for m in (0.0, 3.0)]
    rows += [np.zeros(d), np.full(d, limit), np.full(d, -limit), limit * np.eye(d)[0], limit * (-1.0) ** np.arange(d)]
    x = np.clip(np.stack(rows), -limit, limit)
    y = norm_gadget(x.shape, ring, centre=centre, eps=eps)(x)
    c = x - x.mean(-1, keepdims=True) if centre else x
    root = np.sqrt((c * c).mean(-1, keepdims=True) + eps)
    exact = c / root
    bound = (
        1.01 * 2.0**-n.norm / root * (1 + np.abs(exact) / np.sqrt(d)) + 2.0 ** (1 - n.operand) + 3e-4 * np.abs(exact)
    )
    assert np.all(np.abs(y - exact) < bound)


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize(("low", "octaves"), [(6, 20), (10, 8), (1, 3)])
def test_inverse(low, octaves, root):
    """Every octave of the range, its limits, and the powers of two at which the normalisation changes."""
    powers = 2.0 ** np.arange(low, low + octaves)
    v = np.concatenate([np.geomspace(2.0**low, 2.0 ** (low + octaves) - 1, 5001), powers, powers + 1, powers[1:] - 1])
    # Around a digit's limits its masks decide which of two ranges is taken: several for each value.
    limits = np.outer(3 * 2.0 ** np.arange(low - 6, low + octaves), [0.66, 0.99, 1, 1.01, 1.33]).repeat(20)
    v = np.concatenate([np.rint(v), np.rint(limits[(limits >= 2.0**low) & (limits < 2.0 ** (low + octaves) - 1)])])
    numerator = 2.0 ** (low + 28 if not root else low / 2 + 28)

    def make(b, x):
        return b.emit(Lift(64), inverse(b, x, shift=0, low=low, octaves=octaves, numerator=numerator, root=root)), 1.0

    y = Gadget(make, v.shape, 64, 1.0)(v)
    exact = numerator / (np.sqrt(v) if root else v)
    assert np.all(np.abs(y - exact) < 1.5 + 1e-4 * exact)
    assert math.isfinite(y.sum())

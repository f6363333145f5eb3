"""Every value, every share and every mask of small rings."""

import jax
import numpy as np
import pytest
from two_parties import TwoParties

from comet_jax.gadgets.bits import at_least, open_truncated
from comet_jax.ir.program import Builder
from comet_jax.protocols.opening import HighBits, Lift
from comet_jax.protocols.selection import Gate, ToArithmetic
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Shared

K = 8  # bits of the ring of shares


def _worlds(build, values: np.ndarray, first: np.ndarray, masks: np.ndarray, mask_bits: int):
    """One run over vectors: signed values, party 0's shares of them, and the mask of the first opening."""
    ring, size = Group(K), values.size
    b = Builder()
    x = b.input(Shared((size,), ring))
    world = TwoParties(b.finish(*build(b, x)))
    rng = np.random.default_rng(0)
    shares = np.stack([first, ring.sub(ring.encode(values), first)])[None].astype(np.uint32)
    words, dealt = world.draw(rng, 1)
    layout = world.program.supply.mask_layout
    with jax.enable_x64(True):
        for party in (0, 1):
            arrays = layout.unpack(words[0, party])
            if mask_bits:  # party 0's share of the mask stays random; party 1's completes it to ``masks``
                if party == 0:
                    mine = np.asarray(arrays[0])
                else:
                    arrays[0] = jax.numpy.asarray(Group(mask_bits).sub(masks, mine))
            words[0, party] = np.asarray(layout.pack(arrays))
    run = world.run_with([shares], [], words, dealt)
    for got, expected in zip(run.outputs, run.ideal):
        np.testing.assert_array_equal(got, expected)
    return run


def _grid(*axes):
    return [g.reshape(-1) for g in np.meshgrid(*axes, indexing="ij")]


@pytest.mark.parametrize(("shift", "width"), [(3, 5), (3, 4), (1, 7), (0, 8)])
def test_truncating_opening(shift, width):
    """y is x / 2^shift, rounded down or up, and lifts to any ring, whatever shares and masks are."""
    half = 1 << (width - 2)
    inside = np.arange(-(half << shift) + (1 << shift) - 1, (half << shift) - (1 << shift) + 1)
    values, first, masks = _grid(inside, np.arange(1 << K), np.arange(1 << width))
    lift = lambda b, x: [b.emit(Lift(20), open_truncated(b, x, shift=shift, width=width))]
    run = _worlds(lift, values, first.astype(np.uint32), masks.astype(np.uint32), width)
    y = Group(20).decode(run.outputs[0][0])
    exact = values / 2**shift
    assert np.all((np.floor(exact) <= y) & (y <= np.ceil(exact)))
    # Unbiased: over all of party 0's shares, the mean is the quotient itself.
    np.testing.assert_allclose(y.reshape(inside.size, -1).mean(1), inside / 2**shift, atol=1e-9)
    # The opened value is uniform for every value: each c as often as every other.
    opened = run.coins[0]["opened"][0].reshape(inside.size, -1)
    assert all(set(np.bincount(row, minlength=1 << width)) == {1 << K} for row in opened)


@pytest.mark.parametrize("shift", [1, 3, 7])
def test_high_bits(shift):
    values, first = _grid(np.arange(-128, 128), np.arange(1 << K))
    run = _worlds(lambda b, x: [b.emit(HighBits(shift), x)], values, first.astype(np.uint32), first, 0)
    small = Group(K - shift)
    y, exact = run.outputs[0][0], values / 2**shift
    down, up = (small.encode(f(exact).astype(np.int64)) for f in (np.floor, np.ceil))
    assert np.all((y == down) | (y == up))


def test_comparison_and_gate():
    """[y >= t] and [y >= t] y for every y and every mask, with digits of every kind."""
    width = 8
    values, masks = _grid(np.arange(-64, 64), np.arange(1 << width))
    first = np.random.default_rng(0).integers(0, 1 << K, values.size).astype(np.uint32)

    def build(b, x):
        w = open_truncated(b, x, shift=0, width=width)
        bits, one = at_least(b, w, (0,)), at_least(b, w, (0,), low=4)
        return [b.emit(ToArithmetic(K), z) for z in (bits, one)] + [b.emit(Gate((1,)), bits, w, b.emit(Lift(K), w))]

    run = _worlds(build, values, first, masks.astype(np.uint32), width)
    bit, rough, gated = (o[0].reshape(values.size) for o in run.outputs)
    np.testing.assert_array_equal(bit, values >= 0)
    np.testing.assert_array_equal(Group(K).decode(gated), np.maximum(values, 0))
    clear = (np.abs(values) >= 16) & (values < 64 - 16)
    np.testing.assert_array_equal(rough[clear], (values >= 0)[clear])


@pytest.mark.parametrize("threshold", [-32, -5, 0, 1, 31])
def test_comparison_with_thresholds(threshold):
    """A threshold needs room: the difference has to stay within the wire's limits."""
    width = 8
    values, masks = _grid(np.arange(-32, 32), np.arange(1 << width))
    first = np.random.default_rng(0).integers(0, 1 << K, values.size).astype(np.uint32)
    build = lambda b, x: [
        b.emit(ToArithmetic(K), at_least(b, open_truncated(b, x, shift=0, width=width), (threshold,)))
    ]
    run = _worlds(build, values, first, masks.astype(np.uint32), width)
    np.testing.assert_array_equal(run.outputs[0][0].reshape(-1), values >= threshold)

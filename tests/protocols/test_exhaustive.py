"""Every value, every share and every mask of small rings."""

import jax
import numpy as np
import pytest
from two_parties import TwoParties

from comet_jax.gadgets.bits import at_least, compare, open_truncated
from comet_jax.ir.program import Builder
from comet_jax.ir.variant import Variant
from comet_jax.protocols.difference import Subtract
from comet_jax.protocols.linear import Rearrange, Table
from comet_jax.protocols.lookup import Lookup, Select
from comet_jax.protocols.opening import HighBits, Lift, Open
from comet_jax.protocols.secret_tables import OneHot, SecretTable
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


@pytest.mark.parametrize(("width", "variant"), [(8, Variant(4, 3)), (10, Variant(7, 3))])
def test_comparison_and_gate_by_look_up(width, variant):
    """As above, with the comparison's bit in a word that nobody opens, and digits of more than one table's word."""
    half = 1 << min(width, K) - 2
    values, masks = _grid(np.arange(3 - half, half), np.arange(1 << width))
    first = np.random.default_rng(0).integers(0, 1 << K, values.size).astype(np.uint32)

    def build(b, x):
        b.variant = variant
        if width > K:  # in a larger ring, whose values are all of the smaller one's
            x = b.emit(Lift(width + 2), open_truncated(b, x, shift=0, width=K))
        w = open_truncated(b, x, shift=0, width=width)
        z = compare(b, w, (0, 3))
        assert z.truth
        return [z.number(K), z.gate((1, 2), w, b.emit(Lift(12), w))]

    run = _worlds(build, values, first, masks.astype(np.uint32), width)
    bits, gated = (o[0] for o in run.outputs)
    reached = np.stack([values >= 0, values >= 3], -1)
    np.testing.assert_array_equal(bits.reshape(reached.shape), reached)
    exact = Group(12).encode((reached * np.array([1, 2])).sum(-1) * values)
    np.testing.assert_array_equal(gated.reshape(values.size), exact)


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


def test_look_ups():
    """At the wire itself, and at windows of it: floor(y / 2^s) mod 2^b or one more, as the mask says."""
    values, masks = _grid(np.arange(-64, 64), np.arange(1 << K))
    first = np.random.default_rng(0).integers(0, 1 << K, values.size).astype(np.uint32)
    square, same = Table(np.arange(1 << K) ** 2), Table(np.arange(1 << 5))

    def build(b, x):
        w = b.emit(Open(K), x)
        return [b.emit(Lookup(square, Group(13)), w), b.emit(Lookup(same, Group(5), (3, 0, -2)), w)]

    whole, windows = (o[0] for o in _worlds(build, values, first, masks.astype(np.uint32), K).outputs)
    np.testing.assert_array_equal(whole, (values % 256) ** 2 % (1 << 13))
    above = windows[:, 0] - (values >> 3) & 31
    carried = (values + masks) % 8 < masks % 8
    np.testing.assert_array_equal(above, carried)
    np.testing.assert_array_equal(windows[:, 1], values % 32)
    np.testing.assert_array_equal(windows[:, 2], values * 4 % 32)


@pytest.mark.parametrize("start", [1, 3, 5])
def test_secret_tables(start):
    """Every place under every mask, in a table of values that are secret too, with public ones at both ends."""
    bits, entries = 4, 11
    values, masks = _grid(np.arange(1 << bits), np.arange(1 << bits))
    first = np.random.default_rng(0).integers(0, 1 << K, values.size).astype(np.uint32)

    def build(b, x):
        y = b.emit(Open(bits), x)
        table = b.emit(Open(K), b.emit(Rearrange("slice", ((5,), (5 + 17 * entries,), (17,))), x))
        return b.emit_all(SecretTable(77, 99, start), y, b.emit(OneHot(Group(K)), y), table)

    here, following = (o[0] for o in _worlds(build, values, first, masks.astype(np.uint32), bits).outputs)
    table = np.concatenate([[77] * start, values[5 : 5 + 17 * entries : 17], [99] * (17 - start - entries)])
    np.testing.assert_array_equal(here, table[values])
    np.testing.assert_array_equal(following, table[values + 1])


@pytest.mark.parametrize("bits", [8, 12])
def test_select(bits):
    """Every value and every mask, under random words, in the wire's ring and beyond it."""
    values, masks = _grid(np.arange(-62, 62), np.arange(1 << K))
    rng = np.random.default_rng(0)
    first, words = rng.integers(0, 1 << K, values.size).astype(np.uint32), rng.integers(0, 4, (1 << K, 2))
    cases, weights = (((0, 0),), ((0, 1), (1, 0)), ((1, 1),)), (3, -5, 8)

    def build(b, x):
        w = open_truncated(b, x, shift=0, width=K)
        # The words are looked up in a public table at the wire, so that they are opened under masks of their own.
        parts = [b.emit(Lookup(Table(words[:, i]), Group(2, xor=True), (0,)), w) for i in (0, 1)]
        word = b.emit(Open(2), b.emit(Rearrange("concatenate", (1,)), *parts))
        y = b.emit(Rearrange("broadcast", ((values.size, 3), (0,))), w)
        return [b.emit(Select(cases, weights, bits), word, y)]

    run = _worlds(build, values, first, masks.astype(np.uint32), K)
    word = words[values % 256]
    holds = lambda i, bit: word[:, i] >> bit & 1
    factor = 3 * holds(0, 0) - 5 * holds(0, 1) * holds(1, 0) + 8 * holds(1, 1)
    np.testing.assert_array_equal(run.outputs[0][0], Group(bits).encode(factor * values))


def test_subtract():
    """A row's number, times four, from each of its elements."""
    values, first = _grid(np.arange(-128, 128), np.arange(1 << K))

    def build(b, x):
        w = b.emit(Open(K), x)
        column = b.emit(Rearrange("reshape", ((values.size, 1),)), w)
        small = b.emit(Open(6), b.emit(HighBits(2), x))
        return [b.emit(Lift(K), b.emit(Subtract(2, 7), column, small)), b.emit(Lift(6), small)]

    run = _worlds(build, values, first.astype(np.uint32), first, 0)
    out, small = run.outputs[0][0][:, 0], run.outputs[1][0].astype(np.int64)
    np.testing.assert_array_equal(out, (values - 4 * small + 7) % 256)

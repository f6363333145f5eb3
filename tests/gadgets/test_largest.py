"""The largest of a few numbers are chosen, always as many as there is room for, and of equal ones the first."""

import numpy as np
import pytest
from two_parties import TwoParties

from comet_jax.gadgets.largest import MOST, MOST_COUNTED, at_most, largest
from comet_jax.ir.program import Builder, Program
from comet_jax.protocols.opening import Open
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Shared


def program(count: int, room: int, bits: int, levels: int) -> Program:
    b = Builder()
    x = b.input(Shared((count,), Group(bits)))
    return b.finish(largest(b, b.emit(Open(bits), x), room, levels))


def expected(values: np.ndarray, room: int) -> np.ndarray:
    chosen = np.zeros(values.shape, bool)
    np.put_along_axis(chosen, np.argsort(-values, axis=-1, kind="stable")[..., :room], True, -1)
    return chosen


def check(values: np.ndarray, room: int, bits: int, levels: int):
    """``values``: (runs, G)."""
    run = TwoParties(program(values.shape[-1], room, bits, levels)).run([values], seed=3)
    np.testing.assert_array_equal(run.outputs[0], run.ideal[0])
    np.testing.assert_array_equal(run.outputs[0], expected(values, room))
    assert (run.outputs[0].sum(-1) == room).all()


@pytest.mark.parametrize("room", [1, 2, 3, 4])
def test_of_all_choices_of_four_small_numbers(room):
    every = np.stack(np.meshgrid(*[np.arange(4)] * 4, indexing="ij"), -1).reshape(-1, 4)
    check(every, room, bits=2, levels=3)


@pytest.mark.parametrize(("count", "room"), [(1, 1), (2, 1), (9, 4), (16, 1), (16, 15), (16, 16), (33, 32)])
def test_of_numbers_of_eight_bits(count, room):
    """Spread out, close together, and all alike: the least, the largest, and those between."""
    r = np.random.default_rng(count)
    spread, close = r.integers(0, 256, (20, count)), r.integers(126, 130, (20, count))
    alike = np.broadcast_to(np.array([[0], [1], [128], [254], [255]]), (5, count))
    ends = r.choice([0, 255], (10, count))
    check(np.concatenate([spread, close, alike, ends]), room, bits=8, levels=255)


def test_of_numbers_that_do_not_fill_their_bits():
    check(np.random.default_rng(0).integers(0, 6, (100, 7)), 3, bits=3, levels=5)


@pytest.mark.parametrize("room", [1, 2])
def test_what_is_left_out_is_not_chosen_whatever_the_numbers_are(room):
    """All choices of four small numbers, with none, one or two of them left out."""
    count, bits = 4, 2
    every = np.stack(np.meshgrid(*[np.arange(4)] * count, indexing="ij"), -1).reshape(-1, count)
    out = np.array([[(n >> i) & 1 for i in range(count)] for n in range(1 << count) if n.bit_count() <= count - room])
    values, without = np.repeat(every, len(out), 0), np.tile(out, (len(every), 1))
    b = Builder()
    x, z = b.input(Shared((count,), Group(bits))), b.input(Shared((count,), Group(8)))
    run = TwoParties(b.finish(largest(b, b.emit(Open(bits), x), room, 3, z))).run([values, without], seed=4)
    np.testing.assert_array_equal(run.outputs[0], run.ideal[0])
    np.testing.assert_array_equal(run.outputs[0], expected(np.where(without == 1, -1, values), room))


def test_costs_are_as_stated():
    found, k, m = program(192, 24, 8, 255), 8, 9
    assert found.round_count == 1 + 3
    sent = sum(item.bits for r in found.rounds for item in found.message(r).items)
    assert sent == 192 * 8 + 255 * (k + m) + 192 * m
    dealt = lambda p: sum(item.bits for item in p.supply.dealt.values())
    assert dealt(found) == 2 * 192 * m * 256 + 255 * m * 2**k + 192 * 2**m
    b = Builder()
    x, z = b.input(Shared((192,), Group(8))), b.input(Shared((192,), Group(m)))
    less = b.finish(largest(b, b.emit(Open(8), x), 24, 255, z))
    assert less.round_count == found.round_count
    assert sum(item.bits for r in less.rounds for item in less.message(r).items) == sent + 192
    assert dealt(less) == dealt(found) + 2 * 192 * m * 256


def test_of_too_many_numbers_none_are_chosen():
    with pytest.raises(ValueError, match="larger blocks"):
        program(MOST + 1, 5, 8, 255)
    assert program(MOST, 5, 2, 3).outputs[0].shape == (MOST,)


def fitting(values: np.ndarray, room: int, least: int) -> np.ndarray:
    """Those of ``least`` or more of which, with all that are as large, there are at most ``room``."""
    reached = (values[..., None, :] >= values[..., None]).sum(-1)
    return (values >= least) & (reached <= room)


def limited(count: int, room: int, bits: int, least: int) -> Program:
    b = Builder()
    x = b.input(Shared((count,), Group(bits)))
    return b.finish(at_most(b, b.emit(Open(bits), x), room, least))


def check_limited(values: np.ndarray, room: int, bits: int, least: int) -> np.ndarray:
    run = TwoParties(limited(values.shape[-1], room, bits, least)).run([values], seed=5)
    np.testing.assert_array_equal(run.outputs[0], run.ideal[0])
    np.testing.assert_array_equal(run.outputs[0], fitting(values, room, least))
    assert (run.outputs[0].sum(-1) <= room).all()
    return run.outputs[0]


@pytest.mark.parametrize("least", [1, 2, 3])
@pytest.mark.parametrize("room", [0, 1, 2, 3, 4])
def test_of_all_choices_of_four_small_numbers_those_that_fit(room, least):
    every = np.stack(np.meshgrid(*[np.arange(4)] * 4, indexing="ij"), -1).reshape(-1, 4)
    check_limited(every, room, bits=2, least=least)


@pytest.mark.parametrize(("count", "room"), [(1, 1), (2, 1), (9, 4), (16, 1), (16, 15), (16, 16), (33, 20)])
def test_of_scores_those_that_fit(count, room):
    """Spread out, close to the least level, and all alike; more than there is room for, fewer, and none."""
    r = np.random.default_rng(count)
    spread, close = r.integers(0, 256, (20, count)), r.integers(126, 132, (20, count))
    alike = np.broadcast_to(np.array([[0], [127], [128], [255]]), (4, count))
    apart = np.array([r.permutation(np.arange(count) + 128 - k) for k in (0, 1, count - room, count)])
    found = check_limited(np.concatenate([spread, close, alike, apart]), room, bits=8, least=128)
    # Where no two are alike, there are as many as fit; where all are, all of them or none.
    assert list(found[-4:].sum(-1)) == [min(room, count - k) for k in (0, 1, count - room, count)]
    assert list(found[-8:-4].sum(-1)) == [0, 0, *[count if room == count else 0] * 2]


def test_costs_of_those_that_fit_are_as_stated():
    found, k, levels = limited(192, 24, 8, 128), 8, 128
    assert found.round_count == 1 + 2
    assert sum(item.bits for r in found.rounds for item in found.message(r).items) == 192 * 8 + levels * (k + 1)
    dealt = sum(item.bits for item in found.supply.dealt.values())
    assert dealt == 256 * 192 * (k + 1) + 2**k * levels


def test_of_more_numbers_than_can_be_counted_none_fit():
    with pytest.raises(ValueError, match=f"{MOST_COUNTED} numbers at most"):
        limited(MOST_COUNTED + 1, 5, 2, 1)
    assert limited(MOST_COUNTED, 5, 2, 1).outputs[0].shape == (MOST_COUNTED,)


def test_of_thousands_those_that_fit():
    values = np.random.default_rng(1).integers(0, 256, (1, 5000))
    found = check_limited(values, 600, bits=8, least=128)
    assert 500 < found.sum() <= 600

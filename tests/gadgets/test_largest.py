"""The largest of a few numbers are chosen, always as many as there is room for, and of equal ones the first."""

import numpy as np
import pytest
from two_parties import TwoParties

from comet_jax.gadgets.largest import MOST, largest
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

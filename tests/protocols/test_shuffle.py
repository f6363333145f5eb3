"""Shuffles: one order for all arrays, another for each step, uniform, and none that a party knows of."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import chisquare
from two_parties import TwoParties
from uniformity import UNLIKELY, bits, looks_uniform

from comet_jax.ir.program import Builder
from comet_jax.protocols.shuffle import Shuffle
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Opened, Shared

RING, STEPS, BLOCKS, RUNS = Group(32), 2, 3, 3000
ORDERS = np.array(list(permutations(range(BLOCKS))))


@pytest.fixture(scope="module")
def world() -> TwoParties:
    """Three elements a block, in two arrays: blocks are on the second axis of one and on the last of the other."""
    b = Builder()
    given = [b.input(Opened(shape, RING, static=True)) for shape in ((STEPS, BLOCKS, 1), (STEPS, 2, BLOCKS))]
    return TwoParties(b.finish(b.emit(Shuffle((1, 2)), *given)))


@pytest.fixture(scope="module")
def run(world):
    """The same weights in every run, in the same public form."""
    rng = np.random.default_rng(5)
    weights = [np.repeat(x[None], RUNS, 0) for x in arrays()]
    shares = [np.repeat(x[:1], RUNS, 0) for x in world.split(rng, weights)]
    masks = [np.repeat(x[:1], RUNS, 0) for x in world.weight_masks(rng, RUNS)]
    return world.run_with(shares, masks, *world.draw(rng, RUNS))


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Numbers that tell steps, blocks and elements."""
    number = np.arange(STEPS)[:, None] * 100 + np.arange(BLOCKS) * 10
    return number[..., None] + 1, np.stack([number + 2, number + 3], 1)


def numbered(orders: np.ndarray) -> np.ndarray:
    """Which of ``ORDERS`` each is."""
    return (orders[..., None, :] == ORDERS).all(-1).argmax(-1)


def made(run) -> np.ndarray:
    """The orders in which the blocks are afterwards, (runs, steps, blocks), as the first array tells them."""
    return run.outputs[0][..., 0] % 100 // 10


def even(*numbers: np.ndarray, of: int = len(ORDERS)) -> float:
    """How likely it is that numbers below ``of``, together, are as uneven as this by chance."""
    together = np.ravel_multi_index(numbers, (of,) * len(numbers))
    return chisquare(np.bincount(together, minlength=of ** len(numbers))).pvalue


def test_all_arrays_are_in_one_order(run):
    rows = np.concatenate([arrays()[0], np.moveaxis(arrays()[1], -1, 1)], -1)
    expected = np.take_along_axis(rows[None], made(run)[..., None], 2)
    np.testing.assert_array_equal(run.outputs[0], expected)
    np.testing.assert_array_equal(run.ideal[0], expected)


def test_every_step_has_a_uniform_order_of_its_own(run):
    assert even(*numbered(made(run)).T) > UNLIKELY


def test_neither_party_knows_anything_of_the_order_and_both_know_it_all(run):
    orders = run.coins[0]["orders"]  # runs, parties, steps, first and then
    sigma = numbered(made(run))[:, 0]
    first, then = (numbered(orders[:, :, 0, k]) for k in (0, 1))
    for party in (0, 1):
        assert even(first[:, party], then[:, party], sigma) > UNLIKELY
    assert even(first[:, 1], then[:, 0], sigma) < UNLIKELY
    assert even(first[:, 0], then[:, 1], sigma) < UNLIKELY
    for one, other in ((0, 1), (1, 0)):
        both = np.take_along_axis(orders[:, one, :, 0], orders[:, other, :, 1], -1)
        np.testing.assert_array_equal(both, made(run))


def test_what_a_party_receives_is_uniform_given_the_weights_public_forms(run):
    for party in (0, 1):
        view = np.concatenate([run.transcript[0][:, 1 - party], run.dealt[:, party]], -1)
        assert looks_uniform(bits(RING, view))


def test_each_party_sends_half_and_as_much_as_all_is_dealt(world):
    """Of three elements a block two are one half, and the other is filled up."""
    program = world.program
    assert program.online_bytes == 4 * STEPS * BLOCKS * 2
    assert program.offline_bytes == 4 * STEPS * BLOCKS * 3 + 8 * STEPS * BLOCKS
    assert program.round_count == 1


def test_what_cannot_be_shuffled():
    weight = lambda *shape, ring=RING: Opened(shape, ring, static=True)
    for wires, axes in (
        ([weight(3, 2), weight(4, 2)], (0, 0)),  # other numbers of blocks
        ([weight(2, 3), weight(3, 3)], (1, 1)),  # other steps
        ([weight(3, 2), weight(3, 2, ring=Group(64))], (0, 0)),
        ([weight(3, 2)], (0, 0)),
        ([Opened((3, 2), RING)], (0,)),
    ):
        with pytest.raises(ValueError, match=r"shuffled|not alike"):
            Shuffle(axes).outputs(*wires)
    assert Shuffle((0, 1)).outputs(weight(3, 2, 2), weight(5, 3)) == (Shared((3, 9), RING),)

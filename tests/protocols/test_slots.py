"""Slots of blocks: every choice of flags, and what is refused."""

from itertools import product

import jax.numpy as jnp
import pytest

from comet_jax.protocols.comparison import BIT
from comet_jax.protocols.slots import OpenSlots, OutOfSlots, Slots
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Disclosed, Opened, Seen, Shared

RING = Group(32)


@pytest.mark.parametrize("count", [1, 3, 6, 8])
def test_numbers_are_the_active_blocks_and_never_repeat(count):
    step = Slots(count)
    wire = Disclosed((2, 3), BIT)
    (out,) = step.outputs(wire)
    for flags in product((0, 1), repeat=6):
        (numbers,) = step.ideal(None, Seen(wire, jnp.array(flags, jnp.uint32).reshape(2, 3)))  # type: ignore[arg-type]
        tokens = [[3 * t + g for g in range(3) if flags[3 * t + g]] for t in range(2)]
        active = [blocks[k] for k in range(3) for blocks in tokens if k < len(blocks)][:count]
        assert numbers[: len(active)].tolist() == active
        assert all(6 <= n < out.below for n in numbers[len(active) :].tolist())  # type: ignore[operator]
        assert len(set(numbers.tolist())) == count


def test_only_numbered_slots_are_opened():
    x, numbers = Shared((2, 4), RING), Disclosed((2,), RING)
    with pytest.raises(ValueError, match="cannot open"):
        OpenSlots(32).outputs(x, numbers)
    with pytest.raises(ValueError, match="cannot open"):
        OpenSlots(32).outputs(Shared((3, 4), RING), Disclosed((2,), RING, below=9))


def test_a_product_belongs_to_the_slots_that_its_wire_was_opened_in():
    h, w = Opened((8, 4), RING), Opened((3, 4, 5), RING, static=True)
    assert OutOfSlots(2).outputs(h, w, Disclosed((2,), RING, below=8)) == (Shared((2, 5), RING),)
    with pytest.raises(ValueError, match="out of slots"):
        OutOfSlots(2).outputs(h, w, Disclosed((2,), RING, below=7))
    with pytest.raises(ValueError, match="out of slots"):
        OutOfSlots(1).outputs(h, w, Disclosed((2,), RING, below=8))


def test_no_slots_are_refused():
    with pytest.raises(ValueError, match="0 slots"):
        Slots(0).outputs(Disclosed((2, 3), BIT))

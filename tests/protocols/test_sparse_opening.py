"""What a party sends to open a wire whole: uniform, and of its tree nothing that has an active leaf."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_parties import TwoParties
from uniformity import bits, looks_uniform

from comet_jax.ir.program import Builder
from comet_jax.protocols.comparison import BIT
from comet_jax.protocols.disclosure import Disclose
from comet_jax.protocols.opening import Lift
from comet_jax.protocols.protocol import Party
from comet_jax.protocols.slots import NUMBERS, Slots
from comet_jax.protocols.sparse_opening import OpenSparse, Spread
from comet_jax.sharing.ggm import SEED, Tree
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Disclosed, Seen, Share, Shared

RING, BLOCKS, COUNT, SIZE = Group(32), (2, 4), 3, 2
X, SLOTS = Shared((COUNT, SIZE), RING), Disclosed((COUNT,), NUMBERS, below=8 + COUNT)


@pytest.mark.parametrize("flags", [[], [0], [0, 5], [1, 4, 6]])
def test_messages_are_uniform(flags):
    """With everything fixed but the randomness: masked rows, those of dummies too, and seeds; then zeros."""
    runs, b = 1500, Builder()
    h, f = b.input(X), b.input(Shared(BLOCKS, BIT))
    slots = b.emit(Slots(COUNT), b.emit(Disclose("ffn"), f))
    world = TwoParties(b.finish(b.emit(Lift(32), b.emit(OpenSparse(32, BLOCKS), h, slots))))
    active = np.isin(np.arange(8), flags)
    once = np.arange(6).reshape(1, COUNT, SIZE), active.reshape(1, *BLOCKS).astype(int)
    run = world.run([np.repeat(v, runs, 0) for v in once], seed=3)
    tree, most = Tree(8), Tree(8).most(COUNT)
    words = run.transcript[1]
    seeds = int((np.asarray(tree._places(jnp.asarray(active), most)) < most).sum())
    filled = COUNT * SIZE + seeds * SEED // 32
    assert words.shape == (runs, 2, COUNT * SIZE + most * SEED // 32)
    for party in (0, 1):
        assert looks_uniform(bits(RING, words[:, party, :filled]))
        assert not words[:, party, filled:].any()


def test_nothing_above_an_active_leaf_is_sent():
    """Whatever the seeds of such nodes are, the message is the same."""
    step, tree = OpenSparse(32, BLOCKS), Tree(8)
    r = np.random.default_rng(0)
    words = lambda *shape: r.integers(0, 1 << 32, shape, dtype=np.uint32)
    x, material = words(COUNT, SIZE), {"rows": words(8 + COUNT, SIZE), "seeds": words(tree.nodes, 4)}
    other = words(tree.nodes, 4)

    @jax.jit
    def send(numbers, seeds):
        given = {"rows": material["rows"], "seeds": seeds}
        given = {name: jnp.asarray(v) for name, v in given.items()}
        return step.send(Party(jnp.uint32(0)), given, Share(X, jnp.asarray(x)), Seen(SLOTS, numbers))

    for flags in product((0, 1), repeat=8):
        active = np.flatnonzero(flags)[:COUNT]
        numbers = np.concatenate([active, 8 + np.arange(COUNT - len(active))]).astype(np.uint32)
        above = [(1 << level) - 1 + (i >> (3 - level)) for i in active for level in range(4)]
        changed = material["seeds"].copy()
        changed[above] = other[above]
        sent = send(numbers, material["seeds"])
        np.testing.assert_array_equal(sent, send(numbers, changed))
        clean = changed.copy()
        clean[-8:] = np.where(np.isin(np.arange(8), active)[:, None], changed[-8:], other[-8:])
        # While those of other leaves that are in the co-path do appear.
        alone = any(i not in active and i ^ 1 in active for i in range(8))
        assert np.array_equal(sent, send(numbers, clean)) != alone


def test_wires_and_slots_that_do_not_fit():
    assert OpenSparse(30, BLOCKS).outputs(X, SLOTS)[0].shape == (2, 4, SIZE)
    for step in (OpenSparse(32, BLOCKS), Spread(BLOCKS)):
        for x, slots in (
            (Shared((COUNT + 1, SIZE), RING), SLOTS),
            (Shared((COUNT, SIZE, 1), RING), SLOTS),
            (X, Disclosed((COUNT,), NUMBERS)),
            (X, Disclosed((COUNT,), NUMBERS, below=8)),
        ):
            with pytest.raises(ValueError, match="no rows for slots"):
                step.outputs(x, slots)
    for x, width in ((Shared((COUNT, SIZE), Group(8, xor=True)), 8), (X, 33)):
        with pytest.raises(ValueError, match="bits can be opened"):
            OpenSparse(width, BLOCKS).outputs(x, SLOTS)

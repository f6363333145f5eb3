"""Transcripts of a whole model say nothing of its inputs, and the statistic that says so sees a planted leak."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_parties import Caught, TwoParties
from uniformity import UNLIKELY, balance, bits, independence, looks_uniform, same

import comet_jax as cj
from comet_jax.protocols.opening import Open
from comet_jax.sharing.packing import Layout

RUNS = 2000


def model(p, x):
    return jax.nn.softmax(jax.nn.relu(x @ p["w1"] + p["b1"]) @ p["w2"])


SMALL = np.full((1, 3), 0.001, np.float32)
LARGE = np.array([[31.0, -31.0, 17.5]], np.float32)


class Model:
    """A small model whose weights are loaded once, for all runs, as in a session."""

    def __init__(self):
        r = np.random.default_rng(0)
        n = lambda *shape: r.normal(0, 0.3, shape).astype(np.float32)
        self.weights = {"w1": n(3, 2), "b1": n(2), "w2": n(2, 2)}
        with Caught() as session:
            cj.private(model)(cj.share(self.weights, owner="model"), cj.share(SMALL, owner="client"))
        self.session = session
        self.world = TwoParties(session.plan.program)
        self.program = session.plan.program

    def run(self, x: np.ndarray, seed: int, tamper=lambda masks: masks):
        rng, loaded = np.random.default_rng(seed), np.random.default_rng(99)
        with self.session as session:
            cj.private(model)(cj.share(self.weights, owner="model"), cj.share(x, owner="client"))
            values = session.values()
        fresh = self.world.split(rng, [np.repeat(v[None], RUNS, 0) for v in values])
        once = self.world.split(loaded, [v[None] for v in values])
        static = self.world.static
        shares = [np.repeat(once[i], RUNS, 0) if i in static else s for i, s in enumerate(fresh)]
        weight_masks = [np.repeat(m, RUNS, 0) for m in self.world.weight_masks(loaded, 1)]
        masks, dealt = self.world.draw(rng, RUNS)
        run = self.world.run_with(shares, weight_masks, tamper(masks), dealt)
        for got, expected in zip(run.outputs, run.ideal):
            np.testing.assert_array_equal(got, expected)
        return run

    def messages(self, run, party: int) -> np.ndarray:
        """The bits that a party sent, without padding: runs by bits."""
        columns = []
        for round_, message in zip([r for r in self.program.rounds if r.opened], run.transcript, strict=True):
            layout = self.program.message(round_)
            with jax.enable_x64(True):
                arrays = jax.vmap(layout.unpack)(message[:, party])
            columns += [bits(i.group, np.asarray(a).reshape(RUNS, -1)) for i, a in zip(layout.items, arrays)]
        return np.concatenate(columns, 1)

    def opened(self, run) -> np.ndarray:
        """The bits of all opened values: runs by bits."""
        return np.concatenate([bits(*pair) for pair in self.world.opened(run)], 1)

    def tampered(self, change):
        """Masks with ``change`` made to both parties' arrays by (operation, name)."""
        supply = self.program.supply
        layout: Layout = supply.mask_layout
        keys = list(supply.masks)

        def one(words):
            return layout.pack(list(change(dict(zip(keys, layout.unpack(words)))).values()))

        def tamper(masks):
            with jax.enable_x64(True):
                return np.asarray(jax.jit(jax.vmap(jax.vmap(one)))(masks))

        return tamper

    def openings(self) -> list[tuple[int, str]]:
        """Masks of the openings, in order: the input's is the first."""
        return [(i, "r") for i, op in enumerate(self.program.ops) if isinstance(op.protocol, Open)]


@pytest.fixture(scope="module")
def subject() -> Model:
    return Model()


@pytest.fixture(scope="module")
def honest(subject):
    return subject.run(SMALL, 1), subject.run(LARGE, 2)


def test_transcripts_are_uniform_and_cannot_be_told_apart(subject, honest):
    for party in (0, 1):
        first, second = (subject.messages(run, party) for run in honest)
        assert looks_uniform(first)
        assert looks_uniform(second)
        assert same(first, second) > UNLIKELY


def test_opened_values_are_uniform_and_cannot_be_told_apart(subject, honest):
    first, second = (subject.opened(run) for run in honest)
    assert looks_uniform(first)
    assert looks_uniform(second)
    assert same(first, second) > UNLIKELY


def test_outputs_do_differ(honest):
    """What cannot be told apart belongs to results that can."""
    assert not np.array_equal(honest[0].outputs[0].mean(0).round(), honest[1].outputs[0].mean(0).round())


def test_a_mask_of_zero_is_caught(subject):
    key = subject.openings()[0]
    zero = subject.tampered(lambda masks: {k: jnp.zeros_like(m) if k == key else m for k, m in masks.items()})
    first, second = (subject.opened(subject.run(x, seed, zero)) for x, seed in ((SMALL, 1), (LARGE, 2)))
    assert balance(first) < UNLIKELY
    assert same(first, second) < UNLIKELY


def test_a_mask_used_twice_is_caught(subject):
    """Each opened value alone is still uniform: their joint distribution gives the leak away."""
    items = subject.program.supply.masks
    keys = subject.openings()
    a, b = next((a, b) for i, a in enumerate(keys) for b in keys[i + 1 :] if items[a] == items[b])
    twice = subject.tampered(lambda masks: {**masks, b: masks[a]})
    opened = subject.opened(subject.run(SMALL, 1, twice))
    assert balance(opened) > UNLIKELY
    assert independence(opened) < UNLIKELY

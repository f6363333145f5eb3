"""The contract of every registered protocol: ideal = online, costs are what is sent, and views are uniform."""

import jax
import numpy as np
import pytest
from examples import Example, examples
from two_parties import Run, TwoParties
from uniformity import bits, looks_uniform

from comet_jax.interpreters.material import unpack
from comet_jax.interpreters.online import AXIS, offline, online, party_index
from comet_jax.protocols.protocol import Party, Protocol

EXAMPLES = {e.name: e for e in examples()}
RUNS = 1500


@pytest.fixture(scope="module")
def parties():
    """Compiled programs by example."""
    found: dict[str, TwoParties] = {}
    return lambda e: found.setdefault(e.name, TwoParties(e.program))


def test_every_protocol_has_an_example():
    registered = {name for name, c in Protocol.registry.items() if c.__module__.startswith("comet_jax.")}
    assert registered == {e.protocol.__name__ for e in EXAMPLES.values()}
    assert all(e.uses for e in EXAMPLES.values())


@pytest.mark.parametrize("name", EXAMPLES)
def test_online_equals_ideal_and_costs_are_what_is_sent(parties, name):
    example = EXAMPLES[name]
    run = parties(example).run(example.values(np.random.default_rng(1), RUNS), seed=2)
    for got, expected, v in zip(run.outputs, run.ideal, example.program.outputs):
        assert got.shape == (RUNS, *v.shape)
        np.testing.assert_array_equal(got, expected)
    _check_costs(example, run)


def _check_costs(example: Example, run: Run) -> None:
    program = example.program
    sent = [m.shape[-1] for m in run.transcript]
    assert all(m.shape == (RUNS, 2, words) for m, words in zip(run.transcript, sent))
    assert len(sent) == program.round_count == example.rounds
    assert 4 * sum(sent) == program.online_bytes
    bits_sent = sum(item.bits for r in program.rounds for item in program.message(r).items)
    assert bits_sent <= 32 * sum(sent) <= bits_sent + len(sent) * 5 * 31
    uses = {i for i, _ in example.uses}
    assert sum(item.bits for (i, _), item in program.supply.dealt.items() if i in uses) == example.dealt
    assert run.dealt.shape == (RUNS, 2, program.supply.dealt_words)
    assert program.offline_bytes == 4 * program.supply.dealt_words


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_a_party_sees_is_uniform(parties, name):
    """With everything secret fixed: opened values, dealt shares and own shares are independent fair coins."""
    example = EXAMPLES[name]
    world = parties(example)
    for party, columns in enumerate(views(world, example)):
        assert looks_uniform(columns), f"party {party} of {name} sees something that is not uniform"


def views(world: TwoParties, example: Example):
    rng = np.random.default_rng(3)
    shares = world.split(rng, example.constant(4, RUNS))
    randomness = world.weight_masks(rng, RUNS), *world.draw(rng, RUNS)
    run = world.run_with(shares, *randomness)
    opened = [bits(*pair) for pair in world.opened(run)]
    layout = world.program.supply.dealt_layout
    for party in (0, 1):
        own = [bits(v.wire.group, x[:, party].reshape(RUNS, -1)) for v, x in zip(world.program.inputs, shares)]
        with jax.enable_x64(True):
            dealt = jax.vmap(layout.unpack)(run.dealt[:, party])
        arrays = [
            bits(item.group, np.asarray(a)[(slice(None), *kept(item))].reshape(RUNS, -1))
            for item, a in zip(layout.items, dealt)
        ]
        # Correlations are counted between all pairs: a hundred columns of each kind are enough.
        yield np.concatenate([c[:, :: max(1, c.shape[1] // 100)] for c in (*opened, *own, *arrays)] or [empty()], 1)


def kept(item):
    return () if item.where is None else (item.where.mask,)


def empty():
    return np.zeros((RUNS, 0), np.int8)


@pytest.mark.parametrize("name", ["compare 32", "out of 32, 2 tokens, 3 slots"])
def test_messages_of_either_party_are_uniform(parties, name):
    """Those of a disclosure too: only their sum says something."""
    example = EXAMPLES[name]
    world = parties(example)
    run = world.run(example.constant(4, RUNS), seed=5)
    program = world.program
    for party in (0, 1):
        columns = []
        for round_, message in zip([r for r in program.rounds if r.opened], run.transcript):
            layout = program.message(round_)
            with jax.enable_x64(True):
                arrays = jax.vmap(layout.unpack)(message[:, party])
            columns += [bits(i.group, np.asarray(a).reshape(RUNS, -1)) for i, a in zip(layout.items, arrays)]
        assert looks_uniform(np.concatenate(columns, 1))


def test_uniformity_is_told_from_its_opposite():
    rng = np.random.default_rng(0)
    fair = rng.integers(0, 2, (RUNS, 200), dtype=np.int8)
    assert looks_uniform(fair)
    biased, repeated = fair.copy(), fair.copy()
    biased[:, 7] |= rng.random(RUNS) < 0.3
    repeated[:, 9] = repeated[:, 150] ^ 1
    assert not looks_uniform(biased)
    assert not looks_uniform(repeated)


def test_nothing_but_rounds_communicates(parties):
    """The collectives in the traced program are those of the rounds."""
    world = parties(EXAMPLES["compare 32 with three"])
    run_shapes = world.run(EXAMPLES["compare 32 with three"].constant(1, RUNS), seed=1)
    program = world.program
    supply = program.supply

    def party(masks, dealt, x):
        me = Party(party_index())
        trees = unpack(supply, "masks", masks), unpack(supply, "dealt", dealt)
        material = offline(program, me, *trees, [None])
        return online(program, me, material, [x])

    words = lambda n: jax.ShapeDtypeStruct((n,), np.uint32)
    x = jax.ShapeDtypeStruct(program.inputs[0].shape, program.inputs[0].wire.group.dtype)
    with jax.enable_x64(True):
        traced = jax.make_jaxpr(party, axis_env=[(AXIS, 2)])(words(supply.mask_words), words(supply.dealt_words), x)
    text = str(traced)
    assert text.count("ppermute[") == len(run_shapes.transcript) == 3
    assert not any(f"{name}[" in text for name in ("all_gather", "psum", "all_to_all", "io_callback"))

"""What opened gates give away, by attack: everything as flags, nothing where nothing is to be revealed."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import attacks
from comet_jax.errors import CometError
from comet_jax.models import byte_lm
from comet_jax.predictors import Layer

ATTACKED = 4


@pytest.fixture(scope="module")
def model():
    """The adversary's model and windows, and windows to attack; flags by policy and seed."""
    config, params = byte_lm.load()
    cut = attacks.windows()
    own = [attacks.look(params, w, candidates=False) for w in cut[:-ATTACKED]]
    victims = [attacks.look(params, w) for w in cut[-ATTACKED:]]
    return SimpleNamespace(config=config, params=params, own=own, victims=victims)


def flags(of, policy, seed, **options):
    return [attacks.opened(w.active, policy, 100 * seed + i, **options) for i, w in enumerate(of)]


def learnt(model, policy, **options):
    return attacks.fit(model.own, flags(model.own, policy, 1, **options), overlaps=policy in ("overlaps", "nothing"))


def test_the_adversary_computes_what_the_model_does(model):
    window = model.victims[0]
    plain = byte_lm.ByteLM(model.config).apply(model.params, window.tokens)
    np.testing.assert_allclose(window.logits, plain, atol=1e-3)


def test_candidates_show_what_they_would_in_the_place_of_the_text(model):
    window, place, byte = model.victims[1], 9, ord("q")
    tokens = window.tokens.copy()
    tokens[place] = byte
    other = attacks.look(model.params, tokens, candidates=False)
    shown = attacks.shows(other.active, len(tokens))[:, place]
    np.testing.assert_allclose(window.shown[:, place, byte], shown, atol=1)  # a neuron at zero may round either way
    own = window.shown[:, np.arange(len(tokens)), window.tokens]
    np.testing.assert_allclose(own, attacks.shows(window.active, len(tokens)), atol=1)


@pytest.mark.parametrize("policy", attacks.POLICIES)
def test_what_is_opened_is_what_the_policy_says(model, policy):
    active = model.victims[0].active
    found = attacks.opened(active, policy, seed=0)
    layers, length, gates = active.shape
    if policy == "dense":
        assert found.shape == (layers, length, 0)
    elif policy == "nothing":
        assert found.shape == (layers, length, gates)
        assert (found.sum(-1) == gates // 4).all()
    else:
        assert (found.sum(-1) == active.sum(-1)).all()
        kept = attacks.shows(found, length) == attacks.shows(active, length)
        assert kept.all() == (policy == "overlaps")


def test_too_small_a_room_cuts_and_shows_no_more(model):
    found = attacks.opened(model.victims[0].active, "nothing", seed=0, room=5)
    assert (found.sum(-1) == 5).all()


@pytest.mark.parametrize("policy", ["counts", "overlaps"])
def test_flags_give_away_every_byte(model, policy):
    seen, template = flags(model.victims, policy, 2), learnt(model, policy)
    found = attacks.guess(model.victims, seen, template)
    assert found.gates / found.count > 0.98
    assert found.p_model() < 1e-6
    by_chance = max(g.gates for g in attacks.blind(model.victims, seen, template, rounds=3))
    assert by_chance / found.count < 0.3


def test_a_few_wrong_flags_do_not_hide_it(model):
    """As of a private run, whose numbers are not quite the adversary's."""
    random = np.random.default_rng(5)
    noisy = lambda of, seed: [f ^ (random.random(f.shape) < 2e-3) for f in flags(of, "overlaps", seed)]
    template = attacks.fit(model.own, noisy(model.own, 1), overlaps=True)
    found = attacks.guess(model.victims, noisy(model.victims, 2), template)
    assert found.both / found.count > 0.9


def test_sizes_from_a_ladder_say_something(model):
    """The same test sees a leak that is small: sets filled up to the next of six sizes, instead of to one."""

    def laddered(of):
        steps = np.array([64, 128, 192, 256, 512, 1024])
        sizes = [steps[np.searchsorted(steps, w.active.sum(-1))] for w in of]
        return [np.arange(1024) < size[..., None] for size in sizes]

    template = attacks.fit(model.own, laddered(model.own), overlaps=False)
    found = attacks.guess(model.victims, laddered(model.victims), template)
    assert found.p_model() < 0.01
    assert found.model < found.both < found.count


EPOCHS = {"room": 64, "epoch": 6}


def test_an_epoch_opens_other_gates_for_each_token(model):
    found = attacks.opened(model.victims[0].active, "nothing", seed=0, **EPOCHS)
    layers, length, gates = found.shape
    assert (found.sum(-1) == 64).all()
    by_epoch = found.reshape(layers, length // 6, 6, gates).sum(2)
    assert by_epoch.max() == 1
    common = [(a & b).sum(-1).mean() for a, b in zip(found[:, :-6].swapaxes(0, 1), found[:, 6:].swapaxes(0, 1))]
    assert np.mean(common) == pytest.approx(64 * 64 / gates, rel=0.3)  # of two epochs as many as chance has


@pytest.mark.parametrize(("policy", "options"), [("nothing", {}), ("nothing", EPOCHS), ("dense", {})])
def test_nothing_gives_away_no_byte(model, policy, options):
    seen, template, rounds = flags(model.victims, policy, 2, **options), learnt(model, policy, **options), 49
    found = attacks.guess(model.victims, seen, template)
    as_good = sum(g.gates >= found.gates for g in attacks.blind(model.victims, seen, template, rounds))
    assert (1 + as_good) / (1 + rounds) > 0.02
    assert found.p_model() > 0.02


def test_flags_link_prompts_and_places(model):
    first, second = (flags(model.victims, "counts", seed) for seed in (2, 3))
    assert attacks.same_prompt(first, second) == 1
    assert attacks.which_prompt(model.victims, first, learnt(model, "counts")) == 1
    assert attacks.same_byte(model.victims, first, overlaps=False)[1] < 1e-4
    share, p = attacks.same_byte(model.victims, flags(model.victims, "overlaps", 2), overlaps=True)
    assert share > 0.85
    assert p < 1e-6


@pytest.mark.parametrize("policy", ["nothing", "dense"])
def test_nothing_links_no_prompts_and_no_places(model, policy):
    template, overlaps = learnt(model, policy), policy == "nothing"
    sessions = [flags(model.victims, policy, seed) for seed in range(2, 12)]
    assert attacks.same_prompt(*sessions[:2]) == 0.5
    told = [attacks.which_prompt(model.victims, seen, template) for seen in sessions]
    assert abs(np.mean(told) - 0.5) < 0.1
    assert attacks.same_byte(model.victims, sessions[0], overlaps)[1] > 0.02


def test_a_set_that_all_tokens_of_a_call_share_says_no_more(model):
    together = lambda of, seed: [
        attacks.opened(w.active.any(1, keepdims=True), "nothing", seed + i, room=300) for i, w in enumerate(of)
    ]
    template, seen = attacks.fit(model.own, together(model.own, 100), overlaps=True), together(model.victims, 200)
    found = attacks.guess(model.victims, seen, template)
    assert found.p_model() > 0.02
    assert found.both == found.model
    assert attacks.same_prompt(seen, seen[::-1]) == 0.5


def test_gates_of_a_predictor_are_attacked_the_same_way(model):
    blocks, layers = model.params["params"]["blocks"], []
    for kernel, bias in zip(blocks["up"]["kernel"], blocks["up"]["bias"]):
        u, s, v = np.linalg.svd(kernel, full_matrices=False)
        layers.append(Layer("", np.arange(len(bias)), u[:, :32] * s[:32], v[:32], bias))
    victim = attacks.look(model.params, model.victims[0].tokens, layers)
    assert 0.8 < (victim.active == model.victims[0].active).mean() < 1  # 32 of 256 ranks
    seen = flags([victim], "counts", 2)
    found = attacks.guess([victim], seen, learnt(model, "counts"))
    assert found.gates / found.count > 0.9


def test_the_gates_that_are_looked_at_are_those_of_a_private_run(model):
    """Of the bundled predictors, which read what attention has opened."""
    predictor = byte_lm.predictor(1)
    looked = attacks.look(model.params, model.victims[0].tokens, predictor.layers[predictor.sites[0].site])
    assert (looked.active == model.victims[0].active).mean() > 0.96
    found = attacks.guess([looked], flags([looked], "counts", 2), learnt(model, "counts"))
    assert found.gates / found.count > 0.8


def test_windows_without_candidates_cannot_be_guessed(model):
    with pytest.raises(CometError, match="candidates=True"):
        attacks.guess(
            [replace(model.victims[0], shown=None)], flags(model.victims[:1], "counts", 0), learnt(model, "counts")
        )


def test_the_table_has_a_row_a_policy():
    found = attacks.table(attacked=2, policies=("dense", "counts"))
    assert list(found) == ["dense", "flags: counts"]
    assert all(row.keys() == attacks.COLUMNS.keys() for row in found.values())
    with pytest.raises(CometError, match="others to learn from"):
        attacks.table("too short")

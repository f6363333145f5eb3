"""Losses with gates, against the same computed by hand, and figures that add up."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from comet_jax.errors import CometError
from comet_jax.policy import OVERFLOWS
from comet_jax.predictors.artifact import Layer
from comet_jax.predictors.reference import neurons, scores
from predictor_training import calibrate, evaluate, fixed_point
from predictor_training.calibrate import Target
from predictor_training.evaluate import NOTED


@pytest.fixture(scope="module")
def gates(worked, quiet):
    """Of a name and a block: what was worked on, and its predictor."""

    def of(name, block=1):
        w = worked(name, block=block)
        return w, calibrate.calibrate(w.model, w.calibration, w.fits, Target(recall=0.8, overflow=0.0), quiet)

    return of


def by_hand(weights, predictor, x):
    """The nested model with its gates, a layer at a time: the result, and how many flags are open by layer."""
    (site,), opened = predictor.sites, []

    @jax.jit
    def step(x, up, down, numbers):
        layer = Layer("", **numbers)
        flags = scores(layer, x) >= 0
        return x + jax.nn.relu(x @ up) * neurons(layer, flags) @ down / 4, flags.sum()

    for up, down in zip(
        weights["up"].reshape(-1, *weights["up"].shape[2:]), weights["down"].reshape(6, small.NEURONS, -1)
    ):
        layer = predictor.layer(site.site, up)
        x, count = step(x, up, down, {n: getattr(layer, n) for n in ("order", "a", "b", "bias")})
        opened.append(int(count))
    return x, opened


@pytest.mark.parametrize("block", [1, 4])
def test_the_loss_with_gates_is_the_models_by_hand(block, gates):
    w, predictor = gates("nested", block)
    examples = list(w.task.held_out())[:3]
    chosen = evaluate.predicted(w.model, predictor, fixed=False, cut=False)
    loss, notes = evaluate.run(w.model, w.task.loss, chosen, examples, batch=2)
    by = [by_hand(w.task.weights, predictor, *e) for e in examples]
    expected = np.mean([w.task.loss(y, *e) for (y, _), e in zip(by, examples)])
    assert loss == pytest.approx(float(expected), rel=1e-4)
    (noted,) = notes.values()
    assert noted.shape == (6, len(NOTED))
    np.testing.assert_allclose(noted[:, 0], np.sum([o for _, o in by], 0), atol=1)


@pytest.mark.parametrize("name", ["scanned", "gated_silu"])
def test_open_gates_change_nothing_and_closed_ones_leave_the_layers_out(name, gates):
    w, predictor = gates(name)
    examples = list(w.task.held_out())[:3]
    dense, none = evaluate.run(w.model, w.task.loss, {}, examples)
    assert none == {}
    assert dense == pytest.approx(
        float(np.mean([w.task.loss(w.task.fn(w.task.weights, *e), *e) for e in examples])), rel=1e-5
    )
    every = {s.site: np.ones(s.layers) for s in predictor.sites}
    chosen = evaluate.oracle(w.model, predictor, every)
    assert evaluate.run(w.model, w.task.loss, chosen, examples)[0] == pytest.approx(dense, rel=1e-5)
    for bias, expected in ((9.0, dense), (-9.0, float(np.mean([w.task.loss(*e, *e) for e in examples])))):
        fixed = {
            s.site: tuple(replace(x, bias=np.full_like(x.bias, bias), fill=None) for x in predictor.layers[s.site])
            for s in predictor.sites
        }
        sites = tuple(replace(s, fills=False) for s in predictor.sites)
        constant = replace(predictor, sites=sites, layers=fixed)
        chosen = evaluate.predicted(w.model, constant, fixed=False, cut=False)
        loss, notes = evaluate.run(w.model, w.task.loss, chosen, examples)
        assert loss == pytest.approx(expected, rel=1e-5)
        assert all((n[:, 0] == (n[:, -1] if bias > 0 else 0)).all() for n in notes.values())


def test_results_of_each_example_are_in_order_and_their_mean_is_what_a_run_says(gates):
    w, predictor = gates("plain")
    examples = list(w.task.held_out())[:5]
    outputs, none = evaluate.each(w.model, lambda y, *_: y, {}, examples, batch=2)
    assert none == {}
    np.testing.assert_allclose(outputs, [w.task.fn(w.task.weights, *e) for e in examples], rtol=1e-5, atol=1e-5)
    chosen = evaluate.predicted(w.model, predictor)
    losses, notes = evaluate.each(w.model, w.task.loss, chosen, examples, batch=2)
    mean, same = evaluate.run(w.model, w.task.loss, chosen, examples)
    assert losses.shape == (5,)
    assert losses.mean() == pytest.approx(mean, rel=1e-5)
    np.testing.assert_array_equal(notes["up"], same["up"])


def test_what_is_beyond_the_capacity_is_cut(gates):
    w, predictor = gates("plain")
    small_site = replace(predictor.sites[0], capacity=0.05)
    tight = replace(predictor, sites=(small_site,))
    examples = list(w.task.held_out())
    loss, notes = evaluate.run(w.model, w.task.loss, evaluate.predicted(w.model, tight), examples)
    room = np.ceil(0.05 * small.TOKENS * small.NEURONS)
    figures = evaluate.summary(notes["up"][0], len(examples))
    assert notes["up"][0, 0] <= room * len(examples)
    assert figures["overflow"] > 0.5
    assert figures["kept"] < 0.06
    whole, _ = evaluate.run(w.model, w.task.loss, evaluate.predicted(w.model, predictor), examples)
    assert loss != whole


def test_by_scores_the_largest_of_each_call_are_kept():
    """Of calls of some tokens each: what is kept of random scores, against the definition."""
    r = np.random.default_rng(0)
    scores = r.integers(-20, 20, (8, 16))
    for tokens in (1, 4, None):
        calls = scores.reshape(-1, 16 * (tokens or 8))
        room = calls.shape[1] // 4
        reached = (calls[:, None, :] >= calls[..., None]).sum(-1)
        expected = ((calls >= 0) & (reached <= room)).reshape(scores.shape)
        kept, part = evaluate._cut(jnp.asarray(scores >= 0), jnp.asarray(scores), 0.25, tokens)
        np.testing.assert_array_equal(kept, expected)
        assert part == ((calls >= 0).sum(1) > room).mean()
    with pytest.raises(CometError, match="divisor"):
        evaluate._cut(jnp.asarray(scores >= 0), None, 0.25, 3)


def test_by_scores_more_of_the_energy_is_kept(gates):
    w, predictor = gates("plain")
    tight = replace(predictor, sites=(replace(predictor.sites[0], capacity=0.1),))
    found = {by: evaluate.evaluate(w.model, w.task, tight, overflow=by, tokens=1) for by in OVERFLOWS}
    assert found["scores"]["overflow"] == found["turns"]["overflow"] > 0.5
    assert found["scores"]["kept"] <= found["turns"]["kept"]
    assert found["scores"]["energy_recall"] > found["turns"]["energy_recall"]


def test_the_oracle_keeps_the_most_energy_and_a_static_choice_its_own_gates(gates):
    w, predictor = gates("scanned")
    examples = list(w.task.held_out())
    kept = {s.site: np.full(s.layers, 0.25) for s in predictor.sites}
    energy = {s.site: np.arange(s.layers * s.gates, dtype=float).reshape(s.layers, s.gates) for s in predictor.sites}
    figures = {}
    for name, chosen in (
        ("oracle", evaluate.oracle(w.model, predictor, kept)),
        ("static", evaluate.static(w.model, predictor, kept, energy)),
        ("predicted", evaluate.predicted(w.model, predictor)),
    ):
        (noted,) = evaluate.run(w.model, w.task.loss, chosen, examples)[1].values()
        figures[name] = [evaluate.summary(n, len(examples)) for n in noted]
    for o, s in zip(figures["oracle"], figures["static"]):
        assert o["kept"] == pytest.approx(0.25, abs=0.01)
        assert s["kept"] == 0.25
        assert o["energy_recall"] > s["energy_recall"]
    assert all(p["count_recall"] > 0.6 for p in figures["predicted"])


def test_fixed_point_opens_nearly_the_gates_that_floating_point_does(gates):
    for name in ("scanned", "gated_silu"):
        w, predictor = gates(name)
        found = evaluate.evaluate(w.model, w.task, predictor)
        assert found["kept"] == pytest.approx(found["float"]["kept"], abs=0.05)
        assert found["loss_gated"] == pytest.approx(found["loss_gated_float"], rel=0.05)


def test_figures_add_up(gates):
    w, predictor = gates("nested", 4)
    found = evaluate.evaluate(w.model, w.task, predictor)
    (site,) = found["sites"].values()
    assert len(site["layers"]) == len(site["layers_float"]) == 6
    assert found["kept"] == pytest.approx(np.mean([x["kept"] for x in site["layers"]]), abs=1e-4)
    assert found["loss_increase"] == found["loss_gated"] / found["loss_dense"] - 1
    assert found["overflow"] <= 0.2
    for layer in (*site["layers"], found, found["float"]):
        assert 0 <= layer["count_recall"] <= 1
        assert layer["precision"] * layer["kept"] == pytest.approx(layer["count_recall"] * layer["density"], abs=1e-3)
    assert evaluate.table(found).row_count == 6 + 2


def test_layers_are_observed_behind_gates(gates):
    w, predictor = gates("scanned")
    examples = [np.stack([x for (x,) in w.task.calibration()][:3])]
    (plain,) = w.model.observe(examples)
    (open_,) = evaluate.observe(w.model, {})(examples)
    np.testing.assert_allclose(open_, plain, rtol=1e-5, atol=1e-6)
    (found,) = evaluate.observe(w.model, evaluate.predicted(w.model, predictor))(examples)
    np.testing.assert_allclose(found[:, 0], plain[:, 0], rtol=1e-5, atol=1e-6)  # no gate is before the first layer
    assert np.abs(found[:, 2] - plain[:, 2]).max() > 1e-3


def test_scores_beyond_their_bits_wrap():
    a, b = jnp.ones((1, 1)), jnp.ones((1, 1))
    found = fixed_point.scores(jnp.array([[0.5], [-0.006], [-0.003], [1.25], [-1.25]]), a, b, jnp.zeros(1))
    np.testing.assert_array_equal(found[:, 0], [64, -1, 0, -96, 96])

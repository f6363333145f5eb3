"""Clustering, fits and thresholds: planted structure is found, targets are met, stopped runs go on."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import small

from comet_jax.errors import CometError
from comet_jax.predictors.reference import scores
from predictor_training import calibrate, cluster, evaluate, fixed_point, targets, train
from predictor_training.calibrate import Target
from predictor_training.layers import hidden, layers, read


def test_planted_blocks_are_found():
    draw = np.random.default_rng(0)
    planted = draw.permutation(np.repeat(np.arange(6), 4))
    hidden = (draw.random((500, 6)) < 0.2)[:, planted] * draw.random((500, 24))
    down = np.ones(24)
    order = cluster.order(cluster.gram(hidden, down), 4)
    assert sorted(order) == list(range(24))
    assert all(len(set(planted[block])) == 1 for block in order.reshape(6, 4))
    neurons, before, after = cluster.report(hidden, down, "relu", 4)
    assert neurons == pytest.approx(0.2, abs=0.03)
    assert after == pytest.approx(neurons)
    assert before > 1.5 * after


def test_single_neurons_keep_their_order():
    np.testing.assert_array_equal(cluster.order(np.eye(5), 1), np.arange(5))
    with pytest.raises(CometError, match="5 neurons cannot be split into blocks of 2"):
        cluster.order(np.eye(5), 2)


def test_a_map_of_full_rank_is_found_exactly_and_of_lower_rank_as_well_as_can_be():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(4000, 6)) @ draw.normal(size=(6, 6)) + 2
    matrix, shift = draw.normal(size=(6, 9)), draw.normal(size=9)
    target = x @ matrix + shift
    for known in (matrix, None):
        a, b, bias, residual = train.low_rank(x, target, 6, known)
        np.testing.assert_allclose(x @ a @ b + bias, target, atol=1e-3 * target.std())
        assert residual.max() < 1e-3 * target.std()
        a, b, bias, residual = train.low_rank(x, target, 2, known)
        np.testing.assert_allclose((x @ a).std(0), 1, rtol=1e-2)
        # No map of this rank does better than the leading directions of the target itself.
        best = np.linalg.svd(target - target.mean(0), compute_uv=False)[2:]
        assert (residual**2).sum() == pytest.approx((best**2).sum() / len(x), rel=1e-3)


def test_what_counts_as_on():
    worth = np.array([[3.0, 4.0, 0.0, 0.1]])
    assert targets.threshold("relu", worth) == 0
    on = worth > targets.threshold("silu", worth)
    np.testing.assert_array_equal(on, [[True, True, False, False]])
    assert targets.kind("relu", 1) == "occurrence"
    assert targets.kind("relu", 16) == targets.kind("gelu_erf", 1) == "magnitude"


def test_contributions_of_blocks():
    hidden, down = np.array([[1.0, -2.0, 0.0, 3.0]]), np.array([1.0, 2.0, 5.0, 1.0])
    np.testing.assert_allclose(targets.contributions(hidden, down, np.arange(4), 1), [[1, 4, 0, 3]])
    np.testing.assert_allclose(targets.contributions(hidden, down, np.array([0, 3, 2, 1]), 2), [[np.sqrt(10), 4]])


def deployed(layer, x):
    return np.asarray(fixed_point.scores(*map(jax.numpy.asarray, (x, layer.a, layer.b, layer.bias))) >= 0)


def test_a_first_weight_of_low_rank_is_predicted_almost_perfectly(worked, quiet):
    w = worked("plain", rank=2)
    found = calibrate.calibrate(w.model, w.calibration, w.fits, Target(recall=0.98), quiet)
    (site,), (ffn,) = found.sites, w.model.ffns
    x = w.calibration.inputs(0, 0, range(32))
    weights = w.model.weights[ffn.site]
    on = x @ weights.up[0] - 0.3 > 0
    opened = deployed(found.layer(site.site, weights.up[0]), x)
    assert (opened & on).sum() >= 0.97 * on.sum()
    assert (opened & on).sum() >= 0.9 * opened.sum()
    assert (site.rank, site.block, site.layers, site.activation) == (2, 1, 1, "relu")


@pytest.mark.parametrize("name", small.EVERY)
def test_scores_fit_their_bits_and_targets_are_met(name, worked, quiet):
    w = worked(name)
    found = calibrate.calibrate(w.model, w.calibration, w.fits, Target(recall=0.9, tokens=2), quiet)
    for k, ffn in enumerate(w.model.ffns):
        site, weights = found.site(ffn.site), w.model.weights[ffn.site]
        assert site.layers == layers(ffn) == len(found.layers[ffn.site])
        for i in range(layers(ffn)):
            fit, layer = w.fits[ffn.site][i], found.layer(ffn.site, weights.up[i])
            np.testing.assert_allclose(np.linalg.norm(layer.a, axis=0), 1, rtol=2e-3)
            c = calibrate.curves(ffn, w.model, w.calibration, k, i, fit)
            x = w.calibration.inputs(k, i, range(32))
            x = read(ffn, x)
            s = np.asarray(scores(layer, x))
            assert 0.8 < np.abs(s).max() <= 1
            opened = deployed(layer, x)
            chosen = c.above(c.every)[np.searchsorted(c.above(c.on), 0.9)]
            assert opened.mean() == pytest.approx(chosen, abs=0.03)
            assert found.facts["calibration"][ffn.site]["kept"][i] == pytest.approx(opened.mean(), abs=1e-4)
        (every,) = {f.bias.shape for f in w.fits[ffn.site]}
        assert every == (small.NEURONS,)


def test_a_budget_is_kept_over_all_layers(worked, quiet):
    w = worked("scanned")
    found = calibrate.calibrate(w.model, w.calibration, w.fits, Target(kept=0.3), quiet)
    (site,) = found.sites
    kept = found.facts["calibration"][site.site]["kept"]
    assert np.mean(kept) == pytest.approx(0.3, abs=0.02)
    assert site.capacity >= max(kept)


def test_a_capacity_is_filled_by_every_layer(worked, quiet):
    w = worked("scanned")
    found = calibrate.calibrate(w.model, w.calibration, w.fits, Target(capacity=0.5, tokens=4), quiet)
    (site,) = found.sites
    assert site.capacity == 0.5
    for i, layer in enumerate(found.layers[site.site]):
        counts = calibrate.counts(w.model.ffns[0], w.calibration, 0, i, layer)
        assert 0.4 < calibrate.room([counts], site.gates, 4, 0.01) <= 0.53


@pytest.mark.parametrize("name", ["of_nnx", "gated_silu"])
def test_what_closed_gates_leave_out_has_its_mean(name, worked, quiet):
    w = worked(name)
    found = calibrate.calibrate(w.model, w.calibration, w.fits, Target(kept=0.3), quiet)
    for k, ffn in enumerate(w.model.ffns):
        weights = w.model.weights[ffn.site]
        layer = found.layer(ffn.site, weights.up[0])
        x = w.calibration.inputs(k, 0, range(32))
        h = np.asarray(hidden(ffn)(x, [v[0] for v in weights.inputs]))
        closed = ~deployed(layer, read(ffn, x))[..., np.argsort(layer.order)]
        expected = np.where(closed, h, 0).sum((0, 1)) / np.maximum(closed.sum((0, 1)), 1)
        np.testing.assert_allclose(layer.fill, expected, rtol=2e-3, atol=1e-4)
        assert (layer.fill != 0).any()
    zero = replace(found, layers={s: tuple(replace(x, fill=0 * x.fill) for x in v) for s, v in found.layers.items()})
    examples = list(w.task.held_out())
    results = lambda gates: evaluate.each(w.model, lambda out, *_: out, gates, examples)[0]
    dense = results({})
    off = lambda made: ((results(evaluate.predicted(w.model, made)) - dense) ** 2).mean()
    assert off(found) < off(zero)


def test_a_loss_is_met_with_as_few_gates_as_it_takes(worked, quiet):
    w = worked("plain", rank=2)
    asked = []

    def increase(predictor):
        asked.append(predictor.facts["calibration"]["up"]["kept"][0])
        return 0.0 if asked[-1] > 0.2 else 1.0

    found = calibrate.calibrate(w.model, w.calibration, w.fits, Target(loss=0.01), quiet, increase)
    assert found.facts["calibration"]["up"]["kept"][0] == pytest.approx(0.2, abs=0.03)
    assert len(asked) > 3
    measured = evaluate.increase(w.model, w.task.loss, list(w.task.calibration()))
    assert abs(measured(found)) < 0.5
    assert measured(calibrate.calibrate(w.model, w.calibration, w.fits, Target(kept=0.99), quiet)) == pytest.approx(
        0, abs=1e-3
    )


def test_room_is_for_the_fullest_layer_and_for_all_but_a_few_calls():
    few, many = np.ones((50, 8), int), np.full((50, 8), 2)
    many[0] = 10
    assert calibrate.room([few], 20, 4, 0.01) == 1 / 20
    assert calibrate.room([few, many], 20, 4, 0.0) == 10 / 20
    assert calibrate.room([few, many], 20, 4, 0.05) == 2 / 20
    assert calibrate.room([np.zeros((3, 1), int)], 20, 4, 0.0) == 1 / 80


@pytest.mark.parametrize("wrong", [{}, {"recall": 0.9, "kept": 0.1}, {"recall": 0.0}, {"loss": 1.0}])
def test_targets_that_are_none(wrong):
    with pytest.raises(CometError, match="give one of --recall, --kept, --loss and --capacity"):
        Target(**wrong)


def test_a_stopped_fit_goes_on(worked, quiet, monkeypatch, tmp_path):
    w = worked("gated_silu", block=4)
    (ffn,) = w.model.ffns
    whole = train.train(w.model, w.data, tmp_path / "whole", w.settings, quiet)[ffn.site][0]
    monkeypatch.setattr(train, "EVERY", 10)

    class Stopped(Exception):
        pass

    inputs = type(w.data).inputs

    def stop(data, site, layer, calls):
        stop.calls += len(calls) == 64  # a step's
        if stop.calls == 16:
            raise Stopped
        return inputs(data, site, layer, calls)

    stop.calls = 0
    monkeypatch.setattr(type(w.data), "inputs", stop)
    with pytest.raises(Stopped):
        train.train(w.model, w.data, tmp_path / "part", w.settings, quiet)
    monkeypatch.undo()
    rest = train.train(w.model, w.data, tmp_path / "part", w.settings, quiet)[ffn.site][0]
    for name in ("order", "a", "b", "bias", "on"):
        np.testing.assert_allclose(getattr(rest, name), getattr(whole, name), rtol=1e-5, atol=1e-6)
    assert whole.bias.shape == (small.NEURONS // 4,)


def test_blocks_are_kept_for_weights_that_were_trained_with_them(worked, quiet, tmp_path):
    w = worked("nested", block=4)
    found = calibrate.calibrate(w.model, w.calibration, w.fits, Target(kept=0.5), quiet)
    order = np.random.default_rng(1).permutation(small.NEURONS).astype(np.int32)
    (site,) = found.sites
    own = {site.site: tuple(replace(x, order=order) for x in found.layers[site.site])}
    replace(found, layers=own).save(path := tmp_path / "gates.safetensors")
    settings = replace(w.settings, blocks_of=path, steps=2)
    fits = train.train(w.model, w.data, tmp_path / "fits", settings, quiet)[site.site]
    assert all((f.order == order).all() for f in fits)
    assert settings.told()["blocks_of"] == "gates.safetensors"
    with pytest.raises(CometError, match="has other blocks of up than these, of 8"):
        train.train(w.model, w.data, tmp_path / "fits", replace(settings, block=8), quiet)


def test_blocks_that_do_not_divide_the_neurons(worked, quiet, tmp_path):
    w = worked("plain", rank=2)
    with pytest.raises(CometError, match="up: 32 neurons cannot be split into blocks of 5"):
        train.train(w.model, w.data, tmp_path, replace(w.settings, block=5), quiet)

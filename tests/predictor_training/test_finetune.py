"""Further training: blocks go quiet, the gate is learned with, and a stopped run goes on."""

import jax
import numpy as np
import pytest

from predictor_training import calibrate, evaluate, finetune
from predictor_training.calibrate import Target
from predictor_training.finetune import Settings, highest
from predictor_training.layers import Model, hidden


@pytest.fixture(scope="module")
def work(worked, quiet):
    def of(name):
        w = worked(name, block=4)
        return w, calibrate.calibrate(w.model, w.calibration, w.fits, Target(kept=0.25), quiet)

    return of


def tuned(w, predictor, state, quiet, **settings):
    weights, gates = finetune.finetune(w.task, w.model, predictor, state, Settings(**settings), quiet)
    return Model.of(w.task.fn, weights, w.task.example), gates


def test_a_group_lasso_makes_blocks_quiet(work, quiet, tmp_path):
    w, predictor = work("plain")
    seen = []
    for lasso in (0.0, 0.5):
        model, _ = tuned(w, predictor, tmp_path / str(lasso), quiet, lasso=lasso, steps=30, rate=2e-2)
        x = w.calibration.inputs(0, 0, range(32))
        run, weights = hidden(model.ffns[0]), model.weights[model.ffns[0].site]
        seen.append(float(np.abs(run(x, [v[0] for v in weights.inputs])).mean()))
    assert seen[1] < 0.8 * seen[0]


def test_with_the_gate_in_the_loop_the_gated_loss_falls(work, quiet, tmp_path):
    w, predictor = work("scanned")
    (site,) = predictor.sites
    examples = list(w.task.held_out())
    before = evaluate.run(w.model, w.task.loss, evaluate.predicted(w.model, predictor, False, False), examples)[0]
    model, gates = tuned(w, predictor, tmp_path / "state", quiet, kept=0.25, steps=40, rate=5e-3)
    assert [len(g) for g in gates.values()] == [3]
    moved = [np.abs(g.a - p.a).max() for g, p in zip(gates[site.site], predictor.layers[site.site])]
    assert min(moved) > 1e-3
    cut = finetune.moved(model, predictor, gates)
    after = evaluate.run(model, w.task.loss, evaluate.predicted(model, cut, False, False), examples)[0]
    assert after < before


def test_a_stopped_run_goes_on(work, quiet, tmp_path):
    w, predictor = work("plain")
    whole, _ = tuned(w, predictor, tmp_path / "whole", quiet, kept=0.5, lasso=1e-3, steps=4, batch=4)
    kept = finetune._optimiser

    def first_half(params, settings):
        return kept(params, Settings(kept=0.5, lasso=1e-3, steps=4, batch=4))

    finetune._optimiser = first_half
    try:
        tuned(w, predictor, tmp_path / "part", quiet, kept=0.5, lasso=1e-3, steps=2, batch=4)
    finally:
        finetune._optimiser = kept
    rest, _ = tuned(w, predictor, tmp_path / "part", quiet, kept=0.5, lasso=1e-3, steps=4, batch=4)
    for a, b in zip(whole.arrays, rest.arrays):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_threshold_by_bisection():
    scores = jax.random.normal(jax.random.key(0), (40, 50))
    for part in (0.05, 0.5, 1.0):
        assert float((scores >= highest(scores, part)).mean()) == pytest.approx(part, abs=2e-3)

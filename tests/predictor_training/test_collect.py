"""Activations on disk: as the model makes them, in shards, gone on with after a stop."""

import json

import numpy as np
import pytest
import small

from comet_jax.errors import CometError
from predictor_training import collect as module
from predictor_training import tasks
from predictor_training.collect import Activations, collect, enough
from predictor_training.layers import Model


@pytest.fixture
def work(monkeypatch):
    monkeypatch.setattr(module, "SHARD", 4)
    task = tasks.of(small.scanned, held_out=4)
    return task, Model.of(task.fn, task.weights, task.example)


def test_what_is_read_is_what_the_model_makes(work, tmp_path, quiet):
    task, model = work
    found = collect(model, task.train(), 10, tmp_path / "new", quiet, batch=3)
    stream = task.train()
    examples = np.stack([next(stream)[0] for _ in range(10)])
    (x,) = model.observe([examples])
    chosen = [9, 0, 4, 4]
    np.testing.assert_allclose(found.inputs(0, 2, chosen), x[np.array(chosen), 2], rtol=1e-3, atol=1e-3)
    assert np.concatenate(list(found.chunks(0, 1, size=4))).shape == (10, small.TOKENS, small.WIDTH)
    assert found.tokens(0) == small.TOKENS
    again = Activations.open(tmp_path / "new", model)
    assert (again.calls, again.digest) == (10, found.digest)


def test_a_stopped_run_goes_on(work, tmp_path, quiet, monkeypatch):
    task, model = work
    whole = collect(model, task.train(), 10, tmp_path / "whole", quiet)
    collect(model, task.train(), 8, tmp_path / "part", quiet)
    (tmp_path / "part" / "00001.0.npy").unlink()
    written = []
    write = module._write
    monkeypatch.setattr(module, "_write", lambda *args: written.append(args[3][0].name) or write(*args))
    rest = collect(model, task.train(), 10, tmp_path / "part", quiet)
    assert written == ["00001.0.npy", "00002.0.npy"]
    assert rest.digest == whole.digest
    np.testing.assert_array_equal(rest.inputs(0, 0, range(10)), whole.inputs(0, 0, range(10)))


def test_examples_that_end_early(work, tmp_path, quiet):
    task, model = work
    found = collect(model, task.calibration(), 100, tmp_path, quiet)
    assert found.calls == 4
    assert len(list(found.chunks(0, 0))) == 1


def test_a_folder_of_another_model(work, tmp_path, quiet):
    task, model = work
    collect(model, task.train(), 4, tmp_path, quiet)
    task = tasks.of(small.plain, held_out=4)
    other = Model.of(task.fn, task.weights, task.example)
    with pytest.raises(CometError, match="activations of another model, or with other gates: give another --folder"):
        collect(other, task.train(), 4, tmp_path, quiet)
    with pytest.raises(CometError, match="another model"):
        Activations.open(tmp_path, other)


def test_an_empty_folder(work, tmp_path):
    with pytest.raises(CometError, match="run `collect` first"):
        Activations.open(tmp_path, work[1])


def test_inputs_that_half_precision_cannot_hold(tmp_path, quiet):
    task = tasks.of(small.plain, held_out=4)
    model = Model.of(task.fn, task.weights, task.example)
    with pytest.raises(CometError, match="up: an input of the layer is not finite, or beyond 65504"):
        collect(model, (tuple(1e6 * x for x in e) for e in task.train()), 4, tmp_path, quiet)


def test_too_little_data(tmp_path, quiet):
    task = tasks.of(small.plain, held_out=4)
    model = Model.of(task.fn, task.weights, task.example)
    found = collect(model, task.train(), 255, tmp_path, quiet)
    with pytest.raises(
        CometError, match=r"1,020 tokens are too few for 32 gates of 8 inputs: at least 1,024 .*256 calls"
    ):
        enough(found, 0, small.NEURONS, small.WIDTH)
    enough(found, 0, small.NEURONS // 2, small.WIDTH)
    assert json.loads((tmp_path / "data.json").read_text())["calls"] == 255

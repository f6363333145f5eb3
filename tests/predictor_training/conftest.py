"""Small models, traced, with activations on disk: made once."""

from types import SimpleNamespace

import pytest
import small
from rich.progress import Progress

from predictor_training import tasks, train
from predictor_training.collect import collect
from predictor_training.layers import Model

CALLS = 320


@pytest.fixture(scope="session")
def quiet():
    return Progress(disable=True)


@pytest.fixture(scope="session")
def worked(tmp_path_factory, quiet):
    """By name: a small model with its task, collected activations, and predictors of few steps."""
    made = {}

    def of(name, block=1, rank=4):
        if name not in made:
            task = tasks.of(small.EVERY[name], held_out=32)
            model = Model.of(task.fn, task.weights, task.example)
            folder = tmp_path_factory.mktemp(name)
            data = collect(model, task.train(), CALLS, folder / "train", quiet)
            calibration = collect(model, task.calibration(), 32, folder / "calibration", quiet)
            made[name] = SimpleNamespace(task=task, model=model, folder=folder, data=data, calibration=calibration)
        found = made[name]
        settings = train.Settings(block=block, rank=rank, steps=30, batch=256)
        fits = train.train(found.model, found.data, found.folder / "fits", settings, quiet)
        return SimpleNamespace(**vars(found), fits=fits, settings=settings)

    return of

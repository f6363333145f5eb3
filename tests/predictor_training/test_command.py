"""The command, from a model of one's own to an artifact."""

import json

import numpy as np
import pytest
import small

from comet_jax.errors import CometError
from comet_jax.predictors.artifact import Predictor
from predictor_training import __main__ as command
from predictor_training import tasks
from predictor_training.tasks import next_token_loss

FAST = ["--model", "small:scanned", "--held-out", "16"]


def test_from_a_model_to_an_artifact(tmp_path, capsys):
    common, out = [*FAST, "--folder", str(tmp_path)], tmp_path / "gates.safetensors"
    fit = ["--block", "4", "--rank", "3", "--steps", "10", "--batch", "64"]
    command.main(["collect", *common, "--calls", "80"])
    command.main(["cluster", *common, "--block", "4"])
    assert "params/blocks/up/kernel 2" in capsys.readouterr().out
    command.main(["train", *common, *fit])
    command.main(["calibrate", *common, *fit, "--kept", "0.5"])
    capsys.readouterr()
    command.main(["evaluate", *common, "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert {"loss_dense", "loss_gated", "count_recall", "energy_recall", "kept", "overflow", "sites"} <= figures.keys()
    command.main(["export", *common, "--output", str(out)])
    owner, other = Predictor.load(out), Predictor.load(out.with_suffix(".json"))
    assert owner.digest == other.digest
    assert other.layers is None
    assert owner.facts["evaluation"] == figures
    assert owner.facts["settings"]["rank"] == 3
    assert {"model", "data", "target"} <= owner.facts.keys()
    site = owner.site("params/blocks/up/kernel")
    assert (site.block, site.rank, site.layers, site.gates) == (4, 3, 3, 8)
    _, weights, _, _ = small.scanned()
    up = weights["params"]["blocks"]["up"]["kernel"][1]
    assert owner.layer(site.site, up).a.shape == (small.WIDTH, 3)


def test_errors_are_told_without_a_traceback(tmp_path, capsys):
    for args in (
        ["train", *FAST, "--folder", str(tmp_path)],
        ["collect", "--model", "nowhere:f"],
        ["collect", "--model", "small:nothing"],
    ):
        with pytest.raises(SystemExit, match="1"):
            command.main(args)
    said = capsys.readouterr().err
    assert "run `collect` first" in said
    assert "--model nowhere:f: No module named 'nowhere'" in said


def test_streams_share_no_example():
    task = tasks.of(small.plain, held_out=3)
    first = lambda stream, n: [x.tobytes() for (x,), _ in zip(stream(), range(n))]
    parts = first(task.calibration, 9), first(task.held_out, 9), first(task.train, 9)
    assert [len(p) for p in parts] == [3, 3, 9]
    assert len(set().union(*parts)) == 15
    assert parts[2] == first(task.train, 9)


def test_text_held_out_is_in_no_other_part(tmp_path):
    for i in range(40):
        (tmp_path / f"{i:02}.txt").write_bytes(bytes([100 + i]) * 60_000)
    task = tasks.byte_lm_task((tmp_path,), "*.txt", 20)
    seen = [
        {int(b) for (x,), _ in zip(s(), range(200)) for b in x} for s in (task.train, task.calibration, task.held_out)
    ]
    seen = [found - set(b"\n") for found in seen]
    assert not seen[0] & (seen[1] | seen[2])
    assert seen[1:] == [{107}, {127}]


def test_the_loss_of_the_next_token():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [1, 1, 1]]))
    assert float(next_token_loss(logits, np.array([2, 0, 1]))) == pytest.approx(-np.log(0.5 * 0.8) / 2)
    with pytest.raises(CometError, match="no prediction of next tokens: give a loss"):
        next_token_loss(np.zeros((4, 3)), np.zeros((4, 3)))

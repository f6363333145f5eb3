"""The command ``python -m predictor_training``: from a model to the predictors of its feed-forward layers."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from comet_jax.errors import CometError
from comet_jax.models import byte_lm
from comet_jax.policy import Overflow
from comet_jax.predictors.artifact import Predictor
from predictor_training import calibrate as calibration
from predictor_training import cluster as clusters
from predictor_training import collect as collection
from predictor_training import evaluate as evaluation
from predictor_training import export as exports
from predictor_training import finetune as tuning
from predictor_training import tasks
from predictor_training import train as training
from predictor_training.calibrate import Target
from predictor_training.collect import Activations
from predictor_training.layers import Model, layers
from predictor_training.train import Settings


@dataclass(frozen=True, kw_only=True)
class Source:
    """What predictors are for, and where the work is kept.

    ``model``: byte_lm, or the module:function of your own (see tasks.py). ``weights``: another checkpoint of byte_lm.
    ``text``, ``pattern``: what byte_lm was trained on. ``held_out``: calls for calibration, and as many for evaluation.
    ``ahead``: predictors read what attention has opened, where it leads to a layer, so that private runs wait for none
    of their rounds; with --no-ahead they read the layer's input. ``folder``: activations, states and results.
    """

    model: str = "byte_lm"
    weights: Path | None = None
    text: tuple[Path, ...] = (tasks.PYTHON_DOCUMENTATION,)
    pattern: str = "*.txt"
    held_out: int = 256
    ahead: bool = True
    folder: Path = Path("predictors")

    def open(self) -> tuple[tasks.Task, Model]:
        """The task and its layers."""
        task = tasks.load(self.model, self.held_out, self.text, self.pattern, self.weights)
        return task, Model.of(task.fn, task.weights, task.example, ahead=self.ahead)

    @property
    def predictor(self) -> Path:
        """Where ``calibrate`` leaves its result."""
        return self.folder / "predictor.safetensors"


Common = Annotated[Source, tyro.conf.arg(name="")]


def collect(source: Common, calls: int = 4096, gates: Path | None = None) -> None:
    """Stream the inputs of all feed-forward layers to disk, for training and for calibration.

    Args:
        source: what it is for.
        calls: how many calls to train on.
        gates: an artifact that gates the model meanwhile, as a model that was trained with its gates needs it.
    """
    task, model = source.open()
    with _progress() as progress:
        keep = partial(collection.collect, model, progress=progress, gates=gates and _observed(model, gates))
        keep(task.train(), calls, source.folder / "train")
        keep(task.calibration(), source.held_out, source.folder / "calibration")


def cluster(source: Common, block: int = 16) -> None:
    """Tell how often blocks of neurons are on, in the model's own order and clustered by co-activation."""
    _, model = source.open()
    data = Activations.open(source.folder / "train", model)
    table = Table("layer", "neurons on", f"blocks of {block} on", "clustered", box=None)
    with _progress() as progress:
        bar = progress.add_task("cluster", total=sum(map(layers, model.ffns)))
        for k, ffn in enumerate(model.ffns):
            for i, down in enumerate(model.weights[ffn.site].down):
                _, hidden = training.sample(ffn, model.weights[ffn.site], data, k, i)
                table.add_row(
                    f"{ffn.site} {i}", *(f"{x:.1%}" for x in clusters.report(hidden, down, ffn.activation, block))
                )
                progress.advance(bar)
    Console().print(table)


def train(source: Common, settings: Annotated[Settings, tyro.conf.arg(name="")]) -> None:
    """Cluster neurons and fit predictors, a layer at a time. Started again it goes on where it was."""
    _, model = source.open()
    with _progress() as progress:
        training.train(
            model, Activations.open(source.folder / "train", model), source.folder / "fits", settings, progress
        )


def calibrate(
    source: Common,
    settings: Annotated[Settings, tyro.conf.arg(name="")],
    target: Annotated[Target, tyro.conf.arg(name="")],
) -> None:
    """Choose thresholds and capacities for predictors that ``train`` fitted with the same settings."""
    task, model = source.open()
    fitted, held = (Activations.open(source.folder / part, model) for part in ("train", "calibration"))
    with _progress() as progress:
        fits = training.train(model, fitted, source.folder / "fits", settings, progress)
        increase = evaluation.increase(model, task.loss, list(task.calibration())) if target.loss else None
        found = calibration.calibrate(model, held, fits, target, progress, increase)
    facts = {"model": model.digest, "data": fitted.digest, "settings": settings.told()}
    replace(found, facts={**found.facts, **facts}).save(source.predictor)
    print(f"{source.predictor} written")


def evaluate(
    source: Common,
    predictor: Path | None = None,
    capacity: float | None = None,
    tokens: int | None = None,
    overflow: Overflow = "turns",
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Loss with all layers gated, and what the gates catch, on held-out examples.

    Args:
        source: what it is for.
        predictor: an artifact; by default what ``calibrate`` left.
        capacity: the part of a call's gates that there is room for, instead of the predictor's own.
        tokens: of a call; by default an example is one.
        overflow: what is left out beyond the capacity: by turns of the tokens, or by scores.
        as_json: print one JSON object.
    """
    task, model = source.open()
    with Console(stderr=True).status("evaluating"):
        loaded = Predictor.load(predictor or source.predictor)
        if capacity is not None:
            loaded = replace(loaded, sites=tuple(replace(s, capacity=capacity) for s in loaded.sites))
        found = evaluation.evaluate(model, task, loaded, overflow=overflow, tokens=tokens)
    source.folder.mkdir(parents=True, exist_ok=True)
    (source.folder / "evaluation.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found)) if as_json else Console().print(evaluation.table(found))


def finetune(
    source: Common,
    settings: Annotated[tuning.Settings, tyro.conf.arg(name="")],
    output: Path,
    predictor: Path | None = None,
) -> None:
    """Train byte_lm's weights on, for quiet blocks or with the gate in the loop, and write them to OUTPUT.

    Then collect (for a gate in the loop with --gates), train and calibrate again for the new weights (--weights), with
    --blocks-of the predictor.

    Args:
        source: what it is for.
        settings: how.
        output: the new checkpoint.
        predictor: an artifact with the blocks; by default what ``calibrate`` left.
    """
    if source.model != "byte_lm":
        raise CometError(
            "a checkpoint is written for byte_lm alone: call predictor_training.finetune for your own model"
        )
    task, model = source.open()
    with _progress() as progress:
        found = Predictor.load(predictor or source.predictor)
        weights, gates = tuning.finetune(task, model, found, source.folder / "finetune.state", settings, progress)
    facts = {k: str(v) for k, v in asdict(settings).items()}
    byte_lm.save(output, byte_lm.load(source.weights or byte_lm.CHECKPOINT)[0], weights, **facts)
    # The file has rounded the weights, and gates are found by their hash.
    _, saved = replace(source, weights=output).open()
    tuning.moved(saved, found, gates).save(gated := output.with_suffix(".gates.safetensors"))
    print(f"{output} written, and {gated.name}: its gates as they learned along")


def export(source: Common, output: Path) -> None:
    """Write the calibrated predictor with its last evaluation to OUTPUT, and its public manifest (.json) beside it."""
    figures = source.folder / "evaluation.json"
    exports.export(
        Predictor.load(source.predictor), json.loads(figures.read_text()) if figures.exists() else {}, output
    )
    print(f"{output} written, with {output.with_suffix('.json').name} for the other roles")


def every(
    source: Common,
    settings: Annotated[Settings, tyro.conf.arg(name="")],
    target: Annotated[Target, tyro.conf.arg(name="")],
    output: Path,
    calls: int = 4096,
) -> None:
    """All of it: collect, train, calibrate, evaluate, export."""
    collect(source, calls)
    train(source, settings)
    calibrate(source, settings, target)
    evaluate(source)
    export(source, output)


COMMANDS: dict[str, Any] = {
    "collect": collect,
    "cluster": cluster,
    "train": train,
    "calibrate": calibrate,
    "evaluate": evaluate,
    "export": export,
    "finetune": finetune,
    "all": every,
}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; errors that the user can mend come without a traceback."""
    try:
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="predictor_training", description=__doc__, args=args)
    except CometError as error:
        print(f"predictor_training: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _observed(model: Model, gates: Path) -> tuple[str, collection.Observe]:
    predictor = Predictor.load(gates)
    return predictor.digest, evaluation.observe(model, evaluation.predicted(model, predictor))


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


if __name__ == "__main__":
    main()

"""What gates cost in loss: by the part of neurons that is kept, for a predictor, an oracle and a static choice.

    python benchmarks/gating.py --label NAME --folder FOLDER [--weights CHECKPOINT] [--block 1]

FOLDER is where `python -m predictor_training collect` and `train`, with the same options, left their work. Losses are
of held-out text with all layers gated. Writes benchmarks/gating.json, and gating.png with the curves of everything in
it: a later run with another label adds to both.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import matplotlib.ticker
import numpy as np
import tyro
from rich.progress import Progress

from predictor_training import calibrate, evaluate, train
from predictor_training.__main__ import Source
from predictor_training.calibrate import Target
from predictor_training.collect import Activations
from predictor_training.layers import Model
from predictor_training.tasks import Task
from predictor_training.train import Settings

LEAST = 1e-4
STYLES = {"oracle": ":", "predicted": "-", "predicted, floating point": "--", "static": "-."}


def main(
    source: Annotated[Source, tyro.conf.arg(name="")],
    settings: Annotated[Settings, tyro.conf.arg(name="")],
    label: str,
    kept: tuple[float, ...] = (0.02, 0.035, 0.06, 0.09, 0.125, 0.25),
    output: Path = Path("benchmarks/gating"),
) -> None:
    task, model = source.open()
    fitted, held = (Activations.open(source.folder / part, model) for part in ("train", "calibration"))
    with Progress() as progress:
        fits = train.train(model, fitted, source.folder / "fits", settings, progress)
        found = calibrate.measure(model, held, fits, progress)
        energy = {f.site: np.stack([c.by_gate for c in found[f.site]]) for f in model.ffns}
        bar = progress.add_task("losses", total=len(kept))
        dense, points = evaluate.run(model, task.loss, {}, task.held_out())[0], []
        for part in kept:
            every = [c for f in model.ffns for c in found[f.site]]
            thresholds = calibrate.thresholds_for_kept(every, part, [1.0] * len(every))
            made = calibrate.assemble(model, held, fits, found, thresholds, Target(kept=part))
            points.append(_losses(task, model, made, energy))
            progress.advance(bar)
    data = json.loads(output.with_suffix(".json").read_text()) if output.with_suffix(".json").exists() else {}
    data[label] = {"dense": dense, "block": settings.block, "examples": source.held_out, "points": points}
    output.with_suffix(".json").write_text(json.dumps(data, indent=1))
    plot(data, output.with_suffix(".png"))


def _losses(task: Task, model: Model, predictor: Any, energy: dict[str, np.ndarray]) -> dict[str, Any]:
    """By kind of gate: the part kept and the loss. Oracle and static choice keep what the predictor keeps, by layer."""
    run = lambda gates: evaluate.run(model, task.loss, gates, task.held_out())
    part = lambda notes: float(np.concatenate([n[:, 0] / n[:, -1] for n in notes.values()]).mean())
    loss, notes = run(evaluate.predicted(model, predictor, cut=False))
    floating, float_notes = run(evaluate.predicted(model, predictor, fixed=False, cut=False))
    kept = {site: n[:, 0] / n[:, -1] for site, n in notes.items()}
    same = {
        "oracle": evaluate.oracle(model, predictor, kept),
        "static": evaluate.static(model, predictor, kept, energy),
    }
    return {
        "predicted": (part(notes), loss),
        "predicted, floating point": (part(float_notes), floating),
        **{name: (part(notes), run(gates)[0]) for name, gates in same.items()},
    }


def plot(data: dict[str, Any], path: Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    for k, (label, found) in enumerate(data.items()):
        for name, style in STYLES.items():
            kept, losses = zip(*(p[name] for p in found["points"]))
            # A curve ends where gates cost less than what two losses can be told apart by.
            growth = [max(x / found["dense"] - 1, LEAST) for x in losses]
            shown = f"{label} (dense {found['dense']:.4f}): " if name == "oracle" else ""
            axes.plot(
                kept, growth, style, color=f"C{k}", label=shown + name, marker="." if name == "predicted" else None
            )
    ticks = (0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5)
    axes.set(xscale="log", yscale="log", ylim=(LEAST, None))
    axes.set(xlabel="part of neurons kept, mean over layers", ylabel="growth of the loss, all layers gated")
    axes.set_xticks(ticks, [f"{t:.0%}" for t in ticks])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:g}%")
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    tyro.cli(main)

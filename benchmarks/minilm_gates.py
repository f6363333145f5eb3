"""What gates cost a pretrained encoder with GELU: cosines of gated sentence embeddings to those of the dense model.

    python benchmarks/minilm_gates.py --label NAME [--block 16] [--folder FOLDER]

Collects, trains, calibrates and measures all-MiniLM-L6-v2 (its weights are a package: comet_jax/models/minilm.py) on
sentences of Python's documentation; work that FOLDER already holds is not done again. Writes
benchmarks/minilm_gates.json, and minilm_gates.png with the curves of everything in it: a later run with another label
adds to both.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import matplotlib
import matplotlib.ticker
import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from comet_jax.models import minilm
from comet_jax.models.bert import SentenceEncoder
from predictor_training import calibrate, evaluate, tasks, train
from predictor_training.calibrate import Target
from predictor_training.collect import collect
from predictor_training.layers import Model
from predictor_training.train import Settings

TOKENS = 24  # of a sentence, with the marks of its ends: longer ones are cut, shorter ones left out
OF_A_FILE = 24  # sentences at most, so that a few hundred held out are of many files
SETTINGS = Settings(rank=64, steps=150)
STYLES = {"oracle": ":", "predicted": "-", "predicted, floating point": "--", "static": "-."}


def sentences(folder: Path = tasks.PYTHON_DOCUMENTATION) -> Iterator[tuple[int, str]]:
    """File and sentence, of prose in reStructuredText, without markup. Files are shuffled, each stays in one piece."""
    files = sorted(folder.rglob("*.txt"))
    for k in np.random.default_rng(0).permutation(len(files)):
        for paragraph in re.split(r"\n\s*\n", files[k].read_text(errors="replace")):
            if not re.match(r"\w", paragraph) or re.search(r"::|\n[=\-*~^]{3}", paragraph):
                continue  # indented (code, bodies of directives), marked, or a title
            text = re.sub(r":[\w:+-]+:`[!~]?([^`<]*?)(\s*<[^`]*>)?`", r"\1", " ".join(paragraph.split()))
            for found in re.split(r"(?<=[.?!]) (?=[A-Z])", re.sub(r"[`*|]|__?\b", "", text)):
                if re.fullmatch(r"[A-Z].*[.?!]", found):
                    yield int(k), found


def encoder():
    """The task as ``predictor_training.tasks.load`` takes it: function, weights, examples (int32[TOKENS],)."""
    config, params = minilm.load()
    read = minilm.tokenizer()

    def examples():
        taken: dict[int, int] = {}
        seen: set[bytes] = set()
        for file, text in sentences():
            ids = np.array(read.encode(text).ids, np.int32)
            if len(ids) < TOKENS or taken.get(file, 0) == OF_A_FILE or ids.tobytes() in seen:
                continue
            seen.add(ids.tobytes())
            taken[file] = taken.get(file, 0) + 1
            yield (np.append(ids[: TOKENS - 1], ids[-1]),)

    return SentenceEncoder(config).apply, params, examples()


def main(
    label: str,
    settings: Annotated[Settings, tyro.conf.arg(name="")] = SETTINGS,
    kept: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7),
    calls: int = 4096,
    held_out: int = 128,
    folder: Path = Path("minilm_gates"),
    output: Path = Path("benchmarks/minilm_gates"),
) -> None:
    """Measure, and add the curves to OUTPUT.

    Args:
        label: what the curves are called.
        settings: how predictors are fitted.
        kept: parts of neurons, of each layer.
        calls: sentences to train on, or as many as there are.
        held_out: sentences to choose thresholds on, and as many others to measure.
        folder: activations and fits.
        output: of the figures, without an ending.
    """
    task = tasks.of(encoder, held_out)
    model = Model.of(task.fn, task.weights, task.example, ahead=False)
    examples = list(task.held_out())
    with Progress() as progress:
        fitted = collect(model, task.train(), calls, folder / "train", progress)
        held = collect(model, task.calibration(), held_out, folder / "calibration", progress)
        fits = train.train(model, fitted, folder / "fits", settings, progress)
        found = calibrate.measure(model, held, fits, progress)
        energy = {f.site: np.stack([c.by_gate for c in found[f.site]]) for f in model.ffns}
        bar = progress.add_task("cosines", total=len(kept))
        embed = lambda gates: evaluate.each(model, lambda e, *_: e, gates, examples)
        dense, points = embed({})[0], []
        for part in kept:
            # The same part in every layer. Divided by energy, half of all would be a twentieth of the first layer;
            # cosines are then a little higher below an eighth, and lower from a quarter on, where they come near one.
            every = [c for f in model.ffns for c in found[f.site]]
            thresholds = [c.lower(int(np.searchsorted(c.above(c.every), part))) for c in every]
            made = calibrate.assemble(model, held, fits, found, thresholds, Target(kept=part))
            points.append(_cosines(embed, dense, model, made, energy))
            progress.advance(bar)
    data = json.loads(output.with_suffix(".json").read_text()) if output.with_suffix(".json").exists() else {}
    data[label] = {"settings": settings.told(), "calls": fitted.calls, "examples": len(examples), "points": points}
    output.with_suffix(".json").write_text(json.dumps(data, indent=1))
    plot(data, output.with_suffix(".png"))
    Console().print(table(label, points))


def by_token(x, contributions, kept):
    """Gates of an oracle: those with the largest contributions of each token, as many for every token."""
    ranked = jnp.sort(contributions, -1)
    count = jnp.round(kept * contributions.shape[-1]).astype(int)
    last = jnp.take(ranked, jnp.clip(contributions.shape[-1] - count, 0, contributions.shape[-1] - 1), -1)
    return (contributions >= last[..., None]) & (count > 0)


def _cosines(embed: Any, dense: np.ndarray, model: Model, made: Any, energy: dict[str, np.ndarray]) -> dict[str, Any]:
    """By kind of gate. Oracle and static choice keep what the predictor keeps, by layer."""
    exact, notes = embed(evaluate.predicted(model, made, cut=False))
    floating, float_notes = embed(evaluate.predicted(model, made, fixed=False, cut=False))
    kept = {site: n[:, 0] / n[:, -1] for site, n in notes.items()}
    oracle = {s: replace(g, flags=by_token) for s, g in evaluate.oracle(model, made, kept).items()}
    return {
        "predicted": _figures(dense, exact, notes),
        "predicted, floating point": _figures(dense, floating, float_notes),
        "oracle": _figures(dense, *embed(oracle)),
        "static": _figures(dense, *embed(evaluate.static(model, made, kept, energy))),
    }


def _figures(dense: np.ndarray, gated: np.ndarray, notes: dict[str, np.ndarray]) -> dict[str, Any]:
    """``neighbours``: the part of sentences whose nearest other sentence is the one that it is without gates."""
    length = np.linalg.norm(dense, axis=-1) * np.linalg.norm(gated, axis=-1)
    cosines = (dense * gated).sum(-1) / length
    nearest = lambda e: np.argmax(e @ e.T - 2 * np.eye(len(e)), 1)
    layers = np.concatenate([n[:, 0] / n[:, -1] for n in notes.values()])
    return {
        "kept": float(layers.mean()),
        "layers": [round(float(x), 4) for x in layers],
        "mean": float(cosines.mean()),
        "worst": float(cosines.min()),
        "neighbours": float((nearest(dense) == nearest(gated)).mean()),
    }


def table(label: str, points: list[dict[str, Any]]) -> Table:
    """Mean and worst cosine, and agreement on nearest neighbours, by the part kept."""
    out = Table("kept", *STYLES, box=None, title=label)
    cell = lambda p: f"{p['mean']:.4f} {p['worst']:.3f} {p['neighbours']:.0%}"
    for p in points:
        out.add_row(f"{p['predicted']['kept']:.1%}", *(cell(p[name]) for name in STYLES))
    return out


def plot(data: dict[str, Any], path: Path) -> None:
    """One minus the cosine, of the mean and of the worst sentence."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, both = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    ticks = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
    for axes, kind in zip(both, ("mean", "worst")):
        for k, (label, found) in enumerate(data.items()):
            for name, style in STYLES.items():
                xs, ys = zip(*((p[name]["kept"], 1 - p[name][kind]) for p in found["points"]))
                axes.plot(xs, ys, style, color=f"C{k}", label=f"{label}: {name}", marker="." if style == "-" else None)
        axes.set(xscale="log", yscale="log", xlabel="part of neurons kept, mean over layers", title=f"{kind} sentence")
        axes.set_xticks(ticks, [f"{t:.0%}" for t in ticks])
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axes.grid(alpha=0.3)
    both[0].set_ylabel("one minus the cosine to the dense embedding")
    both[1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    tyro.cli(main)

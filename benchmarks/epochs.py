"""What an epoch costs and spares: a gated layer of one token that reveals nothing, counted over all calls of an epoch.

    python -m benchmarks.epochs [--losses]

Two rows of figures for each length of an epoch: with as many new blocks a call as without one, and with as many
computed blocks a call on average. Exact counts of programs; nothing is run. Prints the table of benchmarks/README.md
and writes epochs.png.

``--losses``: what such epochs lose, of the bundled sparser model with its blocks of 16. A call is one token of a text,
in all layers; it computes the blocks that its epoch has chosen so far, in the clear, with scores as they are deployed.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import tyro

import comet_jax as cj
from comet_jax import cases
from comet_jax.commands.jobs import shapes
from comet_jax.models import byte_lm
from comet_jax.passes.explain import size
from comet_jax.predictors import Predictor
from predictor_training import evaluate, fixed_point, tasks
from predictor_training.layers import Model

EPOCHS = (1, 2, 4, 8)
SPARSE = byte_lm.CHECKPOINT.with_name("byte_lm.sparse.safetensors")


@dataclass(frozen=True)
class Point:
    """A mean over the calls of one epoch. ``new``, ``computed``: blocks a call, of ``blocks``; bytes are one party's,
    the dealer's, and those that sharing the layer afresh takes."""

    epoch: int
    new: int
    computed: float
    blocks: int
    rounds: float
    online_bytes: float
    offline_bytes: float
    renewal_bytes: float


def counted(epoch: int, new: int, case: str = "ffn", block: int = 16) -> Point:
    """The figures of ``case`` with one token, of which each call discloses ``new`` blocks."""
    made = cases.make(case, 1)
    blocks = made.weights["w1"].shape[-1] // block
    gated = cases.gated(made, cases.Gating(gate=new / blocks, block=block, reveals="nothing", epoch=epoch))
    policy = gated.policy(32)
    x = cj.seal(shapes(gated.x), policy) if gated.sealed else shapes(gated.x)
    found = cj.explain(gated.function, shapes(gated.weights), x, policy=policy)
    figures = ("rounds", "online_bytes", "offline_bytes", "renewal_bytes")
    mean = {name: getattr(found.average or found, name) for name in figures}
    return Point(epoch, new, new * (epoch + 1) / 2, blocks, **mean)


def points(blocks: int = 24) -> Iterator[tuple[str, Point]]:
    """Epochs whose calls each choose ``blocks`` new blocks, and such that compute as many on average."""
    for epoch in EPOCHS:
        yield "new", counted(epoch, blocks)
    for epoch in EPOCHS[1:]:
        yield "computed", counted(epoch, round(2 * blocks / (epoch + 1)))


def chosen(scores: jax.Array, epoch: int, new: int) -> jax.Array:
    """Which blocks each call computes, bool[T, G]: scores [T, G], one call a token."""

    def call(touched, given):
        number, mine = given
        touched = touched & (number % epoch > 0)
        _, best = jax.lax.top_k(jnp.where(touched, -jnp.inf, mine), new)
        touched = touched.at[best].set(True)
        return touched, touched

    return jax.lax.scan(call, jnp.zeros(scores.shape[1], bool), (jnp.arange(len(scores)), scores))[1]


def lost(windows: int, part: float) -> Iterator[tuple[int, int, float, float]]:
    """Epoch, new blocks a call, part computed, growth of the loss: ``part`` of blocks new a call, or on average."""
    task = tasks.byte_lm_task((tasks.PYTHON_DOCUMENTATION,), "*.txt", windows, SPARSE)
    model = Model.of(task.fn, task.weights, task.example)
    predictor = Predictor.load(SPARSE.with_name("byte_lm.sparse.blocks.safetensors"))
    (site,), examples = predictor.sites, list(task.held_out())
    dense, _ = evaluate.run(model, task.loss, {}, examples)
    blocks = round(part * site.gates)
    lengths = [(epoch, blocks) for epoch in EPOCHS] + [(e, round(2 * blocks / (e + 1))) for e in EPOCHS[1:]]
    for epoch, new in lengths:
        if epoch * new > site.gates:
            continue
        flags = lambda x, worth, a, b, bias, epoch=epoch, new=new: chosen(fixed_point.scores(x, a, b, bias), epoch, new)
        gates = {s: replace(g, flags=flags) for s, g in evaluate.predicted(model, predictor, cut=False).items()}
        loss, notes = evaluate.run(model, task.loss, gates, examples)
        computed = evaluate.summary(notes[site.site].sum(0), len(examples))["kept"]
        yield epoch, new, computed, loss / dense - 1


def main(output: Path = Path("benchmarks/epochs.png"), losses: bool = False, windows: int = 64) -> None:
    """Count, or measure losses.

    Args:
        output: of the plot.
        losses: what epochs lose, instead of what they cost.
        windows: of text, to measure losses on.
    """
    if losses:
        print("| epoch | new blocks a call, of 64 | computed, mean | loss |\n|---|---|---|---|")
        for part in (1 / 8, 1 / 4):
            for epoch, new, computed, growth in lost(windows, part):
                print(f"| {epoch} | {new} | {computed:.1%} | {growth:+.2%} |", flush=True)
        return
    every = list(points())
    print("| epoch | new blocks a call | computed, mean | rounds | online | dealt | to share afresh |")
    print("|---|---|---|---|---|---|---|")
    for _, p in every:
        sizes = (size(x) for x in (p.online_bytes, p.offline_bytes, p.renewal_bytes))
        print(f"| {p.epoch} | {p.new} of {p.blocks} | {p.computed:g} | {p.rounds:g} | {' | '.join(sizes)} |")
    plot(every, output)


def plot(every: list[tuple[str, Point]], output: Path) -> None:
    """Bytes a call by the length of the epoch, three kinds of them, for both kinds of epochs."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = {"renewal_bytes": "to share afresh", "offline_bytes": "dealt", "online_bytes": "online, one party"}
    labels = {"new": "as many new blocks a call", "computed": "as many computed a call, on average"}
    first = every[0][1]
    figure, ax = pyplot.subplots(figsize=(6, 4))
    for colour, (name, what) in enumerate(names.items()):
        for style, (kind, label) in zip("-:", labels.items()):
            line = [first, *(p for k, p in every if k == kind and p is not first)]
            told = f"{what}; {label}" if name == "renewal_bytes" else what if kind == "new" else None
            figures = [asdict(p)[name] for p in line]
            ax.loglog([p.epoch for p in line], figures, style, color=f"C{colour}", marker="o", label=told)
    ax.set_xticks(EPOCHS, [str(e) for e in EPOCHS])
    ax.minorticks_off()
    ax.set_xlabel("calls in an epoch")
    ax.set_ylabel("bytes a call")
    ax.legend(fontsize=8, loc=(0.3, 0.22))
    figure.tight_layout()
    figure.savefig(output, dpi=120)


if __name__ == "__main__":
    tyro.cli(main)

"""Thresholds, budgets and capacities, from calibration data; scores scaled to what fixed point holds.

Scores of all tokens are counted in histograms, beside those of gates that are on and the energy (squared contribution)
at stake, so any target is read off without holding a score. A threshold is one number a layer, folded into the bias.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

from comet_jax.errors import CometError
from comet_jax.passes.attention import widths
from comet_jax.passes.sites import FFN
from comet_jax.predictors.artifact import Layer, Predictor, Site
from predictor_training import fixed_point, targets
from predictor_training.collect import Activations
from predictor_training.layers import Model, hidden, layers, read
from predictor_training.train import Fit

BINS = 8192
MARGIN = 1.1


@dataclass(frozen=True, kw_only=True)
class Target:
    """What thresholds are chosen for: one of the four.

    ``recall``: of the gates that are on, the same in each layer. ``kept``: the mean part of gates that is open, or less
    where more would save nothing, with budgets that lose the least energy over all layers together. ``loss``: the part
    by which the loss may grow, with all layers gated. ``capacity``: the part of gates that there is room for, in each
    layer of a site; a scan has room for as many in each of its steps, so that none is left over. ``tokens``: of the
    calls that capacity is for, where they have fewer tokens than those collected. ``overflow``: the part of calls that
    may want more gates than there is room for.
    """

    recall: float | None = None
    kept: float | None = None
    loss: float | None = None
    capacity: float | None = None
    tokens: int = 32
    overflow: float = 0.01

    def __post_init__(self):
        given = [x for x in (self.recall, self.kept, self.loss, self.capacity) if x is not None]
        if len(given) != 1 or not 0 < given[0] < 1:
            raise CometError("give one of --recall, --kept, --loss and --capacity, between 0 and 1")


@dataclass(frozen=True, eq=False)
class Curves:
    """Histograms of one layer's scores: of all gates, of those on, and of energy. ``by_gate``: mean energy [gates]."""

    edges: np.ndarray
    every: np.ndarray
    on: np.ndarray
    energy: np.ndarray
    by_gate: np.ndarray

    def above(self, counts: np.ndarray) -> np.ndarray:
        """The part of ``counts`` at or above each bin's lower edge, [bins], from the highest bin down."""
        held = np.cumsum(counts[::-1].astype(np.float64))
        return held / max(held[-1], 1e-30)

    def lower(self, i: int) -> float:
        """The lower edge of bin ``i``, counted from the highest."""
        return float(self.edges[len(self.every) - 1 - i])


def curves(ffn: FFN, model: Model, data: Activations, site: int, layer: int, fit: Fit) -> Curves:
    """The histograms of one layer over all its data."""
    weights = model.weights[ffn.site]
    inputs, down = [w[layer] for w in weights.inputs], weights.down[layer]
    lows, highs = zip(*(_extremes(read(ffn, x), fit.a, fit.b, fit.bias) for x in data.chunks(site, layer)))
    low, high = float(min(lows)), float(max(highs))
    width = max((high - low) / BINS, 1e-9)
    count = _histograms(ffn)
    found, gates = zip(*(count(x, inputs, down, vars(fit), low, width) for x in data.chunks(site, layer)))
    every, on, energy = np.asarray(found, np.float64).sum(0)
    return Curves(low + width * np.arange(BINS + 1), every, on, energy, np.mean(gates, 0))


@jax.jit
def _extremes(x, a, b, bias):
    scores = (x @ a) @ b + bias
    return scores.min(), scores.max()


@cache
def _histograms(ffn: FFN):
    """One compiled function for all layers of a site."""
    run = hidden(ffn)

    @jax.jit
    def count(x, inputs, down, fit, low, width):
        scores = ((read(ffn, x) @ fit["a"]) @ fit["b"] + fit["bias"]).ravel()
        block = ffn.neurons // fit["bias"].size
        worth = targets.contributions(run(x, inputs), down, fit["order"], block)
        by_gate = (worth**2).reshape(-1, worth.shape[-1]).mean(0)
        worth = worth.ravel()
        bins = jnp.clip(((scores - low) / width).astype(jnp.int32), 0, BINS - 1)
        add = lambda values: jnp.zeros(BINS, jnp.float32).at[bins].add(values)
        sums = [add(jnp.ones_like(worth)), add((worth > fit["on"]).astype(jnp.float32)), add(worth**2)]
        return jnp.stack(sums), by_gate

    return count


def measure(
    model: Model, data: Activations, fits: Mapping[str, Sequence[Fit]], progress: Progress
) -> dict[str, list[Curves]]:
    """The histograms of all layers, by site."""
    task = progress.add_task("calibrate", total=sum(map(layers, model.ffns)))
    found: dict[str, list[Curves]] = {}
    for k, ffn in enumerate(model.ffns):
        found[ffn.site] = []
        for i, fit in enumerate(fits[ffn.site]):
            found[ffn.site].append(curves(ffn, model, data, k, i, fit))
            progress.advance(task)
    return found


def thresholds_for_recall(found: Sequence[Curves], recall: float) -> list[float]:
    """The highest thresholds that keep ``recall`` of what is on, in each layer."""
    return [c.lower(int(np.searchsorted(c.above(c.on), recall))) for c in found]


def thresholds_for_kept(found: Sequence[Curves], kept: float, importance: Sequence[float]) -> list[float]:
    """Thresholds with a mean of ``kept`` open, that lose the least of each layer's energy, weighted and summed.

    At the best division one more gate saves as much in every layer.
    """
    parts = np.concatenate([[0.0], np.geomspace(1e-4, 1.0, 400)])
    from_zero = lambda part: np.concatenate([[0.0], part])
    curve = lambda c: np.interp(parts, from_zero(c.above(c.every)), from_zero(c.above(c.energy)))
    saved = [weight * curve(c) for c, weight in zip(found, importance)]
    rates = [np.minimum.accumulate(np.diff(s) / np.diff(parts)) for s in saved]
    budgets = lambda rate: [parts[(mine >= rate).sum()] for mine in rates]
    low, high = 0.0, max(r[0] for r in rates)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if np.mean(budgets(middle)) < kept else (middle, high)
    return [c.lower(int(np.searchsorted(c.above(c.every), k))) for c, k in zip(found, budgets(high))]


def threshold_for_capacity(
    ffn: FFN, data: Activations, site: int, layer: int, fit: Fit, found: Curves, target: Target, capacity: float
) -> float:
    """The lowest threshold for which ``capacity`` is room enough in a layer."""
    parts = capacity * np.geomspace(0.1, 1.0, 32)
    levels = np.array([found.lower(int(np.searchsorted(found.above(found.every), k))) for k in parts])
    chunks = data.chunks(site, layer)
    counts = np.concatenate([_counts_at(read(ffn, x), fit.a, fit.b, fit.bias, levels) for x in chunks], 1)
    needed = [room([c.reshape(len(c), -1)], fit.bias.size, target.tokens, target.overflow) for c in counts]
    return float(levels[max(0, int(np.searchsorted(needed, capacity, "right")) - 1)])


@jax.jit
def _counts_at(x, a, b, bias, levels):
    scores = (x @ a) @ b + bias
    return jax.lax.map(lambda level: (scores >= level).sum(-1), levels)


def folded(fingerprint: str, fit: Fit, found: Curves, threshold: float) -> Layer:
    """The deployed form: open where the score is not negative, scores between -1 and 1, columns of A at length one."""
    length = np.maximum(np.linalg.norm(fit.a, axis=0), 1e-30)
    size = MARGIN * max(abs(found.edges[0] - threshold), abs(found.edges[-1] - threshold), 1e-6)
    half = lambda x: np.asarray(x, np.float16).astype(np.float32)
    a, b = half(fit.a / length), half(fit.b * length[:, None] / size)
    # Scores will be rounded, which opens gates from half a unit below zero on: the threshold is for that.
    bias = (fit.bias - threshold) / size - fixed_point.HALF
    return Layer(fingerprint, fit.order.astype(np.int32), a, b, half(bias))


def counts(ffn: FFN, data: Activations, site: int, index: int, layer: Layer) -> np.ndarray:
    """Open gates by token, in fixed point: int[calls, tokens]."""
    chunks = (read(ffn, x) for x in data.chunks(site, index))
    return np.concatenate([np.asarray(_open(x, layer.a, layer.b, layer.bias)).reshape(len(x), -1) for x in chunks])


def fill(ffn: FFN, model: Model, data: Activations, site: int, index: int, layer: Layer) -> np.ndarray:
    """Each neuron's mean activation where its gate is closed, float32[neurons]; zero where it never is."""
    weights = [w[index] for w in model.weights[ffn.site].inputs]
    run, total, closed = _closed(ffn, ffn.neurons // layer.bias.size), 0.0, 0.0
    for x in data.chunks(site, index):
        mine, count = run(x, weights, layer.order, layer.a, layer.b, layer.bias)
        total, closed = total + np.asarray(mine, np.float64), closed + np.asarray(count, np.float64)
    return np.asarray(np.asarray(total / np.maximum(closed, 1), np.float16), np.float32)


@cache
def _closed(ffn: FFN, block: int):
    run = hidden(ffn)

    @jax.jit
    def sums(x, weights, order, a, b, bias):
        out = targets.by_neuron(fixed_point.scores(read(ffn, x), a, b, bias) < 0, order, block)
        axes = tuple(range(out.ndim - 1))
        return jnp.where(out, run(x, weights), 0).sum(axes), out.sum(axes)

    return sums


@jax.jit
def _open(x, a, b, bias):
    return (fixed_point.scores(x, a, b, bias) >= 0).sum(-1)


def room(open_gates: Sequence[np.ndarray], gates: int, tokens: int, overflow: float) -> float:
    """The least part of gates that is room enough for all but ``overflow`` of calls of ``tokens``, in every layer."""
    needed = 0.0
    for found in open_gates:
        length = min(tokens, found.shape[1])
        whole = found[:, : found.shape[1] // length * length].reshape(-1, length)
        needed = max(needed, float(np.quantile(whole.mean(1), 1 - overflow, method="higher")) / gates)
    return min(1.0, max(needed, 1 / (gates * tokens)))


def assemble(
    model: Model,
    data: Activations,
    fits: Mapping[str, Sequence[Fit]],
    found: Mapping[str, Sequence[Curves]],
    thresholds: Sequence[float],
    target: Target,
) -> Predictor:
    """The predictor with these thresholds, one a layer."""
    out, held, facts, left = [], {}, {}, list(thresholds)
    for k, ffn in enumerate(model.ffns):
        marks = model.weights[ffn.site].fingerprints
        each = zip(marks, fits[ffn.site], found[ffn.site], strict=True)
        mine = [folded(mark, fit, c, left.pop(0)) for mark, fit, c in each]
        gates, rank = mine[0].bias.size, mine[0].a.shape[1]
        fills = ffn.activation != "relu"  # whose closed neurons are zero, nearly
        if fills:
            mine = [replace(x, fill=fill(ffn, model, data, k, i, x)) for i, x in enumerate(mine)]
        open_gates = [counts(ffn, data, k, i, layer) for i, layer in enumerate(mine)]
        by_tokens = {t: room(open_gates, gates, t, target.overflow) for t in (1, 8, 32, 128) if t <= data.tokens(k)}
        chosen = target.capacity or room(open_gates, gates, target.tokens, target.overflow)
        block = ffn.neurons // gates
        ahead = widths(ffn, model.read_ahead(ffn))
        sizes = (ffn.width, ffn.neurons, layers(ffn), block, rank)
        out.append(Site(ffn.site, ffn.activation, *sizes, chosen, ahead, fills))
        held[ffn.site] = tuple(mine)
        facts[ffn.site] = {
            "on": [float(f.on) for f in fits[ffn.site]],
            "kept": [round(float(c.mean()) / gates, 5) for c in open_gates],
            "capacity_by_tokens": {str(t): round(c, 5) for t, c in by_tokens.items()},
        }
    return Predictor(tuple(out), held, {"calibration": facts, "target": asdict(target)})


def calibrate(
    model: Model,
    data: Activations,
    fits: Mapping[str, Sequence[Fit]],
    target: Target,
    progress: Progress,
    increase: Callable[[Predictor], float] | None = None,
) -> Predictor:
    """Thresholds that meet ``target`` on ``data``, folded, and capacities.

    ``increase(predictor)``: the part by which the loss grows, with all layers gated; needed for a target of loss.
    """
    found = measure(model, data, fits, progress)
    every = [c for f in model.ffns for c in found[f.site]]

    made = lambda thresholds: assemble(model, data, fits, found, thresholds, target)
    if target.recall is not None:
        return made(thresholds_for_recall(every, target.recall))
    if target.capacity is not None:
        places = [(f, k, i) for k, f in enumerate(model.ffns) for i in range(layers(f))]
        return made(
            [
                threshold_for_capacity(f, data, k, i, fits[f.site][i], found[f.site][i], target, target.capacity)
                for f, k, i in places
            ]
        )
    importance = [1.0] * len(every)
    if target.kept is not None:
        return made(thresholds_for_kept(every, target.kept, importance))
    if increase is None or target.loss is None:
        raise CometError("a target of loss needs a way to measure the loss")
    low, high = 0.0, 1.0
    for _ in range(8):
        middle = (low + high) / 2
        tried = made(thresholds_for_kept(every, middle, importance))
        low, high = (low, middle) if increase(tried) <= target.loss else (middle, high)
    return made(thresholds_for_kept(every, high, importance))

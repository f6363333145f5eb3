"""The loss with all layers gated, and what gates catch and miss: on held-out examples, in the clear.

The model's own graph is run with a gate before each second weight, so nothing of it is written twice. Beside the
predictor in fixed point, as deployed, and in floating point: an oracle that opens the gates that matter most in a call,
and a static choice.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from comet_jax.errors import CometError
from comet_jax.ir.jaxprs import Graph
from comet_jax.passes.sites import FFN
from comet_jax.policy import Overflow
from comet_jax.predictors.artifact import Layer as PredictedLayer
from comet_jax.predictors.artifact import Predictor, Site
from comet_jax.predictors.reference import fitting
from comet_jax.protocols.slots import turns
from predictor_training import fixed_point, targets
from predictor_training.graphs import gated
from predictor_training.layers import Example, Model
from predictor_training.tasks import Task, batches

NOTED = ("kept", "on", "hits", "energy", "energy_kept", "overflow", "gates")


@dataclass(frozen=True, eq=False)
class Gates:
    """How one site's gates are chosen: ``flags(x, contributions, *arrays)`` -> bool[..., gates].

    ``ahead``: x is what attention has opened, not the layer's input. ``arrays``: of each layer, first axis layers.
    ``order`` [layers, neurons], ``on`` [layers] as trained; ``fill`` [layers, neurons]: what a neuron counts as that is
    left out; ``capacity``: beyond it gates are cut, None for no cut; ``tokens``: in calls of so many, None for an
    example as one call. Cut are gates of the tokens with most, or those of the smallest ``scores``, a function as
    ``flags`` is.
    """

    flags: Callable[..., jax.Array]
    ahead: bool
    arrays: tuple[np.ndarray, ...]
    order: np.ndarray
    on: np.ndarray
    fill: np.ndarray
    block: int
    capacity: float | None = None
    tokens: int | None = None
    scores: Callable[..., jax.Array] | None = None


def predicted(
    model: Model,
    predictor: Predictor,
    fixed: bool = True,
    cut: bool = True,
    overflow: Overflow = "turns",
    tokens: int | None = None,
) -> dict[str, Gates]:
    """Gates by a predictor, in fixed point or in floating point; ``cut`` to its capacity, in calls of ``tokens``."""

    def scores(x, contributions, a, b, bias):
        return fixed_point.scores(x, a, b, bias) if fixed else (x @ a) @ b + bias

    def flags(*given):
        return scores(*given) >= 0

    def arrays(site: Site, layers: Sequence[PredictedLayer]):
        return tuple(np.stack([getattr(layer, n) for layer in layers]) for n in ("a", "b", "bias"))

    found = _gates(model, predictor, lambda site, layers: (flags, arrays(site, layers)), cut)
    by = scores if overflow == "scores" else None
    return {site: replace(gates, tokens=tokens, scores=by) for site, gates in found.items()}


def oracle(model: Model, predictor: Predictor, kept: Mapping[str, np.ndarray]) -> dict[str, Gates]:
    """The gates with the largest contributions of a call, as many as ``kept`` says, by site and layer."""

    def flags(x, contributions, kept):
        values = jnp.sort(contributions.ravel())
        last = jnp.clip(values.size - jnp.round(kept * values.size).astype(int), 0, values.size - 1)
        return contributions >= values[last]

    return _gates(model, predictor, lambda site, _: (flags, (np.asarray(kept[site.site], np.float32),)), False)


def static(
    model: Model, predictor: Predictor, kept: Mapping[str, np.ndarray], energy: Mapping[str, np.ndarray]
) -> dict[str, Gates]:
    """Always the same gates: those with the most ``energy`` [layers, gates]."""

    def arrays(site: Site):
        ranks = np.argsort(np.argsort(-energy[site.site], 1), 1)
        return (ranks < np.round(np.asarray(kept[site.site])[:, None] * site.gates),)

    flags = lambda x, contributions, fixed: jnp.broadcast_to(fixed, contributions.shape)
    return _gates(model, predictor, lambda site, _: (flags, arrays(site)), False)


def _gates(model: Model, predictor: Predictor, make: Callable, cut: bool) -> dict[str, Gates]:
    out = {}
    for site in predictor.sites:
        w = model.weights[site.site]
        layers = [predictor.layer(site.site, up) for up in w.up]
        order = np.stack([layer.order for layer in layers])
        on = np.asarray(predictor.facts.get("calibration", {}).get(site.site, {}).get("on", [0.0] * len(layers)))
        fill = np.stack([np.zeros(site.neurons) if x.fill is None else x.fill for x in layers])
        flags, arrays = make(site, layers)
        out[site.site] = Gates(
            flags, bool(site.ahead), arrays, order, on, fill, site.block, site.capacity if cut else None
        )
    return out


def run(
    model: Model, loss: Callable, gates: Mapping[str, Gates], examples: Iterable[Example], batch: int = 16
) -> tuple[float, dict[str, np.ndarray]]:
    """Mean loss, and by site the sums of ``NOTED``, float64[layers, NOTED]. Sites that have no gates are left dense."""
    losses, notes = each(model, loss, gates, examples, batch)
    return float(losses.mean()), notes


def each(
    model: Model, result: Callable, gates: Mapping[str, Gates], examples: Iterable[Example], batch: int = 16
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """``result(output, *example)`` of every example, float64[examples, ...], and sums as ``run`` has them."""
    graph, more = _with(model, gates)
    ffns = [f for f in model.ffns if f.site in gates]
    outputs = len(model.graph.outputs)

    @jax.jit
    def one_batch(weights, more, stacked):
        def one(leaves):
            out = graph.evaluate(*weights, *leaves, *more)
            output = jax.tree.unflatten(model.out_tree, out[:outputs])
            return result(output, *jax.tree.unflatten(model.in_tree, leaves)), [
                n.reshape(-1, len(NOTED)) for n in out[outputs:]
            ]

        return jax.vmap(one)(stacked)

    results: list[np.ndarray] = []
    notes = [np.zeros((1, len(NOTED)))] * len(ffns)
    for stacked in batches(examples, batch):
        found, noted = one_batch(model.arrays, more, stacked)
        results.append(np.asarray(found, np.float64))
        notes = [n + np.asarray(m, np.float64).sum(0) for n, m in zip(notes, noted)]
    return np.concatenate(results), {f.site: n for f, n in zip(ffns, notes)}


def observe(model: Model, gates: Mapping[str, Gates]) -> Callable[[Sequence[Any]], list[jax.Array]]:
    """As ``Model.observe``, of the model with its gates: what the layers of a model that was trained with them see."""
    graph, more = _with(model, gates)
    one = model.watched(graph)
    run = jax.jit(lambda arrays, more, examples: jax.vmap(lambda e: one((*arrays, *e, *more)))(examples))
    return lambda examples: run(model.arrays, more, examples)


def _with(model: Model, gates: Mapping[str, Gates]) -> tuple[Graph, list[np.ndarray]]:
    """The model's graph with gates, and its further inputs."""
    ffns = [f for f in model.ffns if f.site in gates]
    arrays = {f: _arrays(model, f, gates[f.site]) for f in ffns}
    rules = {f: _rule(gates[f.site]) for f in ffns}
    read = {f: model.read(f, gates[f.site].ahead) for f in ffns}
    graph = gated(model.graph, rules, read, {f: [a[0] for a in arrays[f]] for f in ffns}, len(NOTED))
    return graph, [a.reshape((*f.steps, *a.shape[1:])) for f in ffns for a in arrays[f]]


def _arrays(model: Model, ffn: FFN, gates: Gates) -> list[np.ndarray]:
    on, fill = gates.on.astype(np.float32), gates.fill.astype(np.float32)
    own = (gates.order.astype(np.int32), model.weights[ffn.site].down, on, fill)
    return [*own, *(a if a.dtype == bool else a.astype(np.float32) for a in gates.arrays)]


def _rule(gates: Gates):
    def rule(x, hidden, order, down, on, fill, *arrays):
        worth = targets.contributions(hidden, down, order, gates.block)
        flags = wanted = gates.flags(x, worth, *arrays)
        overflow = False
        if gates.capacity is not None:
            scores = None if gates.scores is None else gates.scores(x, worth, *arrays)
            flags, overflow = _cut(wanted, scores, gates.capacity, gates.tokens)
        active, energy = worth > on, worth**2
        noted = (
            flags.sum(),
            active.sum(),
            (flags & active).sum(),
            energy.sum(),
            (energy * flags).sum(),
            overflow,
            worth.size,
        )
        neurons = targets.by_neuron(flags, order, gates.block)
        return jnp.where(neurons, hidden, fill), jnp.stack([jnp.asarray(n, jnp.float32) for n in noted])

    return rule


def _cut(wanted: jax.Array, scores: jax.Array | None, capacity: float, tokens: int | None):
    """What is computed of the gates that an example wants, bool[..., gates]; the part of its calls that want more."""
    rows = wanted.size // wanted.shape[-1]
    if rows % (tokens or rows):
        raise CometError(f"examples of {rows} tokens have no calls of {tokens}: give --tokens a divisor")
    calls = wanted.reshape(-1, tokens or rows, wanted.shape[-1])
    room = max(1, int(np.ceil(capacity * calls[0].size - 1e-6)))
    if scores is None:
        kept = jax.vmap(lambda call: call & (turns(call) < room))(calls)
    else:
        kept = jax.vmap(lambda call: fitting(call, room))(scores.reshape(calls.shape))
    return kept.reshape(wanted.shape), (calls.sum((1, 2)) > room).mean()


def summary(notes: np.ndarray, calls: int) -> dict[str, Any]:
    """Figures of sums of ``NOTED``, over the layers that they are of."""
    of = dict(zip(NOTED, notes))
    part = lambda a, b: round(float(of[a] / max(of[b], 1e-30)), 5)
    return {
        "count_recall": part("hits", "on"),
        "energy_recall": part("energy_kept", "energy"),
        "precision": part("hits", "kept"),
        "kept": part("kept", "gates"),
        "density": part("on", "gates"),
        "overflow": round(float(of["overflow"]) / calls, 5),
    }


def evaluate(
    model: Model,
    task: Task,
    predictor: Predictor,
    energy: Mapping[str, np.ndarray] | None = None,
    overflow: Overflow = "turns",
    tokens: int | None = None,
) -> dict[str, Any]:
    """All figures, as ``evaluate --json`` prints them. ``overflow``, ``tokens``: as ``predicted`` has them."""
    examples = list(task.held_out())
    measure = lambda gates: run(model, task.loss, gates, examples)
    dense, _ = measure({})
    gated_loss, notes = measure(predicted(model, predictor, overflow=overflow, tokens=tokens))
    float_loss, float_notes = measure(predicted(model, predictor, fixed=False, cut=False))
    kept = {site: n[:, 0] / n[:, -1] for site, n in notes.items()}
    out: dict[str, Any] = {
        "examples": len(examples),
        "call_tokens": tokens,
        "overflow_by": overflow,
        "loss_dense": dense,
        "loss_gated": gated_loss,
        "loss_gated_float": float_loss,
        "loss_oracle": measure(oracle(model, predictor, kept))[0],
    }
    if energy is not None:
        out["loss_static"] = measure(static(model, predictor, kept, energy))[0]
    out["loss_increase"] = gated_loss / dense - 1 if dense else None
    out |= _overall(predictor, notes, len(examples)) | {"float": _overall(predictor, float_notes, len(examples))}
    out["sites"] = {
        s.site: {
            "block": s.block,
            "rank": s.rank,
            "capacity": s.capacity,
            "layers": [summary(n, len(examples)) for n in notes[s.site]],
            "layers_float": [summary(n, len(examples)) for n in float_notes[s.site]],
        }
        for s in predictor.sites
    }
    return out


def _overall(predictor: Predictor, notes: Mapping[str, np.ndarray], calls: int) -> dict[str, Any]:
    layers = sum(s.layers for s in predictor.sites)
    return summary(np.concatenate(list(notes.values())).sum(0), calls * layers)


def increase(model: Model, loss: Callable, examples: Sequence[Example]) -> Callable[[Predictor], float]:
    """A function: the part by which the loss on ``examples`` grows with a predictor's gates, as deployed."""
    dense, _ = run(model, loss, {}, examples)
    return lambda predictor: run(model, loss, predicted(model, predictor), examples)[0] / dense - 1


def table(found: Mapping[str, Any]) -> Table:
    """``evaluate``'s figures for people."""
    names = ("count_recall", "energy_recall", "precision", "kept", "density", "overflow")
    out = Table("layer", *(n.replace("_", " ") for n in names), box=None)
    for site, s in found["sites"].items():
        for i, layer in enumerate(s["layers"]):
            out.add_row(f"{site} {i}", *(f"{layer[n]:.2%}" for n in names))
    out.add_row("all", *(f"{found[n]:.2%}" for n in names))
    out.add_row("all, in floating point", *(f"{found['float'][n]:.2%}" for n in names))
    losses = ", ".join(f"{k[5:]} {found[k]:.4f}" for k in found if k.startswith("loss_") and k != "loss_increase")
    out.caption = f"nats: {losses}; increase {found['loss_increase']:+.2%}; {found['examples']} examples"
    return out

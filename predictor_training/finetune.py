"""Making a model sparser, or used to its gates: further training of all weights, with two optional terms.

``lasso``: a group lasso on activations (Yuan and Lin 2006), the sum over blocks of sqrt(block) times the norm of the
block's activations: whole blocks learn to stay off. ``kept``: the gate in the loop. Every layer computes only that
part of its blocks which the predictor scores highest in a call, so the weights learn with what will be cut. The
predictor learns along, on inputs that the gate has changed, which blocks contribute most to the call (cross-entropy).
No gradient passes through the choice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization
from rich.progress import Progress

from comet_jax.predictors.artifact import Layer, Predictor
from predictor_training import targets
from predictor_training.graphs import gated
from predictor_training.layers import Model
from predictor_training.tasks import Task, batches

ALONG = 0.1  # weight of the predictor's own loss
SHARPNESS = 16.0  # logits for a score of one, which is as high as scores get


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How weights are trained on: AdamW, a rate that falls linearly, ``batch`` examples a step.

    ``skip``: examples that are left out first, as those that an earlier fine-tuning has seen.
    """

    lasso: float = 0.0
    kept: float | None = None
    steps: int = 400
    batch: int = 16
    rate: float = 1e-3
    skip: int = 0
    save_every: int = 50


def finetune(
    task: Task, model: Model, predictor: Predictor, state: Path, settings: Settings, progress: Progress
) -> tuple[Any, dict[str, tuple[Layer, ...]]]:
    """New weights, and by site the predictors that learned along (before thresholds). Resumes from ``state``.

    ``predictor``: gives each layer's blocks and, for a gate in the loop, what it starts from.
    """
    layers = {f.site: [predictor.layer(f.site, up) for up in model.weights[f.site].up] for f in model.ffns}
    params: dict[str, Any] = {
        "model": [jnp.asarray(w) for w in model.arrays],
        "gates": {
            s: {n: jnp.stack([getattr(x, n) for x in mine]) for n in ("a", "b", "bias")} for s, mine in layers.items()
        },
    }
    loss = _loss(task, model, predictor, layers, settings)
    optimiser = _optimiser(params, settings)
    opt: Any = optimiser.init(params)
    first = 0
    if state.exists():
        saved: Any = serialization.from_bytes((first, params, opt), state.read_bytes())
        first, params, opt = saved

    @jax.jit
    def step(params, opt, stacked):
        (_, seen), gradient = jax.value_and_grad(loss, has_aux=True)(params, stacked)
        updates, opt = optimiser.update(gradient, opt, params)
        return optax.apply_updates(params, updates), opt, seen

    bar = progress.add_task("finetune", total=settings.steps, completed=first)
    for i, stacked in enumerate(batches(islice(task.train(), settings.skip, None), settings.batch)):
        if i == settings.steps:
            break
        if i < first:
            continue
        params, opt, seen = step(params, opt, stacked)
        told = ", ".join(f"{k} {float(v):.4g}" for k, v in seen.items())
        progress.update(bar, advance=1, description=told)
        if (i + 1) % settings.save_every == 0 or i + 1 == settings.steps:
            progress.console.print(f"step {i + 1}: {told}")
            (part := state.with_suffix(".part")).write_bytes(serialization.to_bytes((i + 1, params, opt)))
            part.rename(state)
    weights = jax.tree.unflatten(jax.tree.structure(task.weights), [np.asarray(w) for w in params["model"]])
    return weights, {s: _learned(layers[s], params["gates"][s]) for s in layers}


def moved(model: Model, predictor: Predictor, layers: Mapping[str, Sequence[Layer]]) -> Predictor:
    """``predictor`` with the layers that learned along with a model's weights, for the model with those."""
    mine = {s: zip(model.weights[s].fingerprints, found) for s, found in layers.items()}
    sites = tuple(replace(s, fills=False) for s in predictor.sites)  # they learned with zeros for what is left out
    held = {s: tuple(replace(x, fingerprint=m) for m, x in each) for s, each in mine.items()}
    return replace(predictor, sites=sites, layers=held)


def _learned(layers: list[Layer], gates: dict[str, jax.Array]) -> tuple[Layer, ...]:
    numbers = zip(*(np.asarray(gates[n]) for n in ("a", "b", "bias")))
    return tuple(Layer("", layer.order, *each) for layer, each in zip(layers, numbers))


def _optimiser(params: dict[str, Any], settings: Settings) -> optax.GradientTransformation:
    rate = optax.linear_schedule(settings.rate, 0.02 * settings.rate, settings.steps)
    matrices = lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
    of_model = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.95, weight_decay=0.1, mask=matrices))
    names = {k: jax.tree.map(lambda _, k=k: k, v) for k, v in params.items()}
    return optax.multi_transform({"model": of_model, "gates": optax.adam(rate)}, names)


def _loss(
    task: Task, model: Model, predictor: Predictor, layers: dict[str, list[Layer]], settings: Settings
) -> Callable:
    """(params, stacked examples) -> the loss, and its terms and the part of gates that is on, for people."""
    orders = {s: np.stack([x.order for x in mine]) for s, mine in layers.items()}
    downs = {s: w.down for s, w in model.weights.items()}
    arrays = {f: _arrays(orders[f.site], downs[f.site], layers[f.site]) for f in model.ffns}
    rules = {f: _rule(predictor.site(f.site).block, settings) for f in model.ffns}
    read = {f: model.read(f, bool(predictor.site(f.site).ahead)) for f in model.ffns}
    graph = gated(model.graph, rules, read, {f: [a[0] for a in arrays[f]] for f in model.ffns}, 3)
    outputs = len(model.graph.outputs)

    def loss(params, stacked):
        more = []
        for f in model.ffns:
            gates = params["gates"][f.site]
            mine = (orders[f.site], downs[f.site], gates["a"], gates["b"], gates["bias"])
            more += [jnp.asarray(a).reshape((*f.steps, *a.shape[1:])) for a in mine]

        def one(leaves):
            out = graph.evaluate(*params["model"], *leaves, *more)
            result = jax.tree.unflatten(model.out_tree, out[:outputs])
            value = task.loss(result, *jax.tree.unflatten(model.in_tree, leaves))
            return value, jnp.concatenate([n.reshape(-1, 3) for n in out[outputs:]])

        values, noted = jax.vmap(one)(stacked)
        penalty, along, on = noted.mean(0).T
        seen = {"loss": values.mean(), "penalty": penalty.sum(), "predictor": along.mean(), "on": on.mean()}
        return seen["loss"] + settings.lasso * seen["penalty"] + ALONG * along.sum(), seen

    return loss


def _arrays(order: np.ndarray, down: np.ndarray, layers: list[Layer]) -> list[np.ndarray]:
    return [order, down, *(np.stack([getattr(x, n) for x in layers]) for n in ("a", "b", "bias"))]


def _rule(block: int, settings: Settings):
    stop = jax.lax.stop_gradient

    def rule(x, hidden, order, down, a, b, bias):
        scores = (stop(x) @ a) @ b + bias
        ordered = hidden[..., order].reshape(*hidden.shape[:-1], -1, block)
        norms = jnp.sqrt((ordered**2).sum(-1) + 1e-8)
        worth = stop(targets.contributions(hidden, down, order, block))
        along = jnp.zeros(())
        if settings.kept:
            wanted = (worth >= highest(worth, settings.kept)).astype(scores.dtype)
            along = optax.sigmoid_binary_cross_entropy(SHARPNESS * scores, wanted).mean()
            flags = stop(scores) >= highest(stop(scores), settings.kept)
            hidden = hidden * targets.by_neuron(flags, order, block)
        tokens = hidden.size // hidden.shape[-1]
        penalty = norms.sum() / tokens * block**0.5
        return hidden, jnp.stack([penalty, along, (worth > 0).mean()])

    return rule


def highest(scores: jax.Array, part: float) -> jax.Array:
    """A threshold that about ``part`` of the scores reach: by bisection, which costs less than sorting."""

    def halved(_, between):
        low, high = between
        middle = (low + high) / 2
        many = (scores >= middle).mean() > part
        return jnp.where(many, middle, low), jnp.where(many, high, middle)

    return jax.lax.fori_loop(0, 20, halved, (scores.min(), scores.max()))[1]

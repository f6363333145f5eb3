"""Fitting predictors: a low-rank start in closed form, then optax, a layer at a time.

The start is the best rank-r map in the metric of the inputs: an SVD of the target's linear map after whitening by the
inputs' covariance. For neurons that are on or off, of the layer's own input, the map is the layer's first weight;
otherwise it is the least squares fit of the target.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization
from rich.progress import Progress

from comet_jax.errors import CometError
from comet_jax.passes.sites import FFN
from comet_jax.predictors.artifact import Predictor
from predictor_training import cluster, targets
from predictor_training.collect import Activations, enough
from predictor_training.graphs import between
from predictor_training.layers import Model, Weights, hidden, layers, read

SAMPLE = 32_768  # tokens that statistics and starts are computed from
EVERY = 250  # steps between two states on disk


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How predictors are fitted.

    ``block``: neurons a gate. ``rank``: of the predictor, by default a quarter of the width. ``batch``: tokens a step.
    ``blocks_of``: an artifact whose blocks are kept, for weights that were trained on with them; others are clustered.
    """

    block: int = 1
    rank: int | None = None
    steps: int = 1000
    batch: int = 2048
    rate: float = 2e-3
    seed: int = 0
    blocks_of: Path | None = None

    def rank_of(self, width: int) -> int:
        """The rank for inputs of ``width``."""
        return self.rank or max(1, width // 4)

    def told(self) -> dict[str, Any]:
        """What an artifact says of them."""
        return {**asdict(self), "blocks_of": self.blocks_of and self.blocks_of.name}


@dataclass(frozen=True, eq=False)
class Fit:
    """One layer's predictor before its threshold: scores (x a) b + bias. Contributions above ``on`` count as on."""

    order: np.ndarray
    a: np.ndarray
    b: np.ndarray
    bias: np.ndarray
    on: np.ndarray


def train(
    model: Model, data: Activations, folder: Path, settings: Settings, progress: Progress
) -> dict[str, list[Fit]]:
    """Predictors of every layer, by site. Finished layers and states on the way are kept in ``folder``.

    Raises ``CometError`` for too little data, and for blocks that do not divide the neurons.
    """
    for k, ffn in enumerate(model.ffns):
        if ffn.neurons % settings.block:
            raise CometError(f"{ffn.site}: {ffn.neurons} neurons cannot be split into blocks of {settings.block}")
        enough(data, k, ffn.neurons // settings.block, ffn.width)
    mark = sha256(f"{settings}{model.digest}{data.digest}".encode()).hexdigest()[:12]
    total = sum(map(layers, model.ffns)) * settings.steps
    task, out = progress.add_task(f"train {settings.block}", total=total), {}
    for k, ffn in enumerate(model.ffns):
        weights = model.weights[ffn.site]
        out[ffn.site] = [
            _layer(
                ffn, weights, data, k, i, folder / f"{mark}.{k}.{i}.fit", settings, lambda n: progress.advance(task, n)
            )
            for i in range(layers(ffn))
        ]
    return out


def sample(ffn: FFN, weights: Weights, data: Activations, site: int, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Some tokens of a layer: what was collected [n, :], activations [n, neurons]."""
    calls = max(1, SAMPLE // data.tokens(site))
    chosen = np.linspace(0, data.calls - 1, min(calls, data.calls)).astype(int)
    run, mine, xs, hs = _hidden(ffn), [w[layer] for w in weights.inputs], [], []
    for first in range(0, len(chosen), 16):
        x = data.inputs(site, layer, chosen[first : first + 16])
        xs.append(x.reshape(-1, x.shape[-1]))
        hs.append(np.asarray(run(x, mine)).reshape(-1, ffn.neurons))
    return np.concatenate(xs), np.concatenate(hs)


@cache
def _hidden(ffn: FFN):
    return jax.jit(hidden(ffn))


def _layer(
    ffn: FFN,
    weights: Weights,
    data: Activations,
    site: int,
    layer: int,
    path: Path,
    settings: Settings,
    done: Callable[[int], Any],
) -> Fit:
    empty: dict[str, Any] = {"step": 0, "fit": None, "state": None, "scale": 0.0}
    saved: Any = serialization.msgpack_restore(path.read_bytes()) if path.exists() else empty
    done(saved["step"])
    if saved["step"] >= settings.steps:
        return Fit(**saved["fit"])
    down, rank = weights.down[layer], settings.rank_of(ffn.width)
    if saved["fit"] is None:
        x, h = sample(ffn, weights, data, site, layer)
        order = _order(ffn, layer, h, down, settings)
        worth = np.asarray(targets.contributions(h, down, order, settings.block))
        on = targets.threshold(ffn.activation, worth)
        saved["fit"], saved["scale"] = start(ffn, weights, layer, x, worth, order, on, rank, settings.block)
    fixed = {k: saved["fit"][k] for k in ("order", "on")}
    params = {k: jnp.asarray(saved["fit"][k]) for k in ("a", "b", "bias")}
    state: Any = _optimiser(settings).init(params)
    if saved["state"] is not None:
        state = serialization.from_state_dict(state, saved["state"])
    step, mine, scale = _step(ffn, settings), [w[layer] for w in weights.inputs], saved["scale"]
    calls = max(1, settings.batch // data.tokens(site))
    for i in range(saved["step"], settings.steps):
        # Calls depend on the step alone, so a resumed run sees what an unbroken one would.
        chosen = np.random.default_rng((settings.seed, layer, i)).integers(0, data.calls, calls)
        x = data.inputs(site, layer, chosen)
        params, state = step(params, state, x, mine, down, fixed["order"], scale)
        done(1)
        if (i + 1) % EVERY == 0 or i + 1 == settings.steps:
            fit = fixed | {k: np.asarray(v) for k, v in params.items()}
            whole = {"step": i + 1, "fit": fit, "state": serialization.to_state_dict(state), "scale": scale}
            path.parent.mkdir(parents=True, exist_ok=True)
            (part := path.with_suffix(".part")).write_bytes(serialization.msgpack_serialize(jax.device_get(whole)))
            part.rename(path)
    return Fit(**fixed, **{k: np.asarray(v) for k, v in params.items()})


def _order(ffn: FFN, layer: int, activations: np.ndarray, down: np.ndarray, settings: Settings) -> np.ndarray:
    if settings.blocks_of is None:
        return cluster.order(cluster.gram(activations, down), settings.block, settings.seed)
    kept = Predictor.load(settings.blocks_of)
    if (kept.site(ffn.site).block, kept.site(ffn.site).layers) != (settings.block, layers(ffn)) or kept.layers is None:
        raise CometError(f"{settings.blocks_of} has other blocks of {ffn.site} than these, of {settings.block}")
    return kept.layers[ffn.site][layer].order


def _optimiser(settings: Settings) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(settings.rate, settings.steps))


@cache
def _step(ffn: FFN, settings: Settings):
    """One compiled step for all layers of a site."""
    run, optimiser = hidden(ffn), _optimiser(settings)
    occurrence = targets.kind(ffn.activation, settings.block) == "occurrence"
    loss = targets.occurrence_loss if occurrence else targets.magnitude_loss

    @jax.jit
    def step(params, state, x, inputs, down, order, scale):
        worth = targets.contributions(run(x, inputs), down, order, settings.block)
        scores = lambda p: (read(ffn, x) @ p["a"]) @ p["b"] + p["bias"]
        gradient = jax.grad(lambda p: loss(scores(p), worth, scale))(params)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return step


def start(
    ffn: FFN,
    weights: Weights,
    layer: int,
    x: np.ndarray,
    worth: np.ndarray,
    order: np.ndarray,
    on: float,
    rank: int,
    block: int,
) -> tuple[dict[str, np.ndarray], float]:
    """The first predictor, and what the loss is scaled by: the density of positives, or the contributions' size.

    A pre-activation u is known up to its residual of deviation d, so that it is positive with a probability of about
    sigmoid(1.7 u / d): that makes scores of it. Negatives of weight w shift the best score by -log w.
    """
    seen = read(ffn, x)
    if targets.kind(ffn.activation, block) == "occurrence":
        density = float((worth > on).mean())
        target = _pre_activation(ffn, x, [w[layer] for w in weights.inputs])
        a, b, bias, residual = low_rank(seen, target, rank, weights.up[layer] if seen is x else None)
        slope = 1.7 / np.maximum(residual, 0.05 * target.std(0) + 1e-6)
        b, bias, scale = b * slope, bias * slope - np.log(density + 0.005), density
    else:
        scale = float(np.sqrt((worth.astype(np.float64) ** 2).mean())) or 1.0
        a, b, bias, _ = low_rank(seen, np.asarray(targets.log_magnitude(worth, scale)), rank)
    one = lambda array: np.asarray(array, np.float32)
    return {"order": order, "a": one(a), "b": one(b), "bias": one(bias), "on": one(on)}, scale


def low_rank(
    x: np.ndarray, target: np.ndarray, rank: int, matrix: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """``target`` [n, m] from ``x`` [n, w] by a map of ``rank``: a [w, rank], b, bias, and the residual's deviation [m].

    x a has unit variance. ``matrix``: the full map [w, m], where it is known.
    """
    rank = min(rank, *x.shape[1:], target.shape[1])
    centred, mean = x - x.mean(0), target.mean(0)
    covariance = (centred.T @ centred / len(x)).astype(np.float64)
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 1e-4 * values.mean() + 1e-12)
    root, inverse = (vectors * np.sqrt(values)) @ vectors.T, (vectors / np.sqrt(values)) @ vectors.T
    if matrix is None:
        matrix = inverse @ inverse @ (centred.T @ (target - mean) / len(x))
    u, s, v = np.linalg.svd(root @ matrix, full_matrices=False)
    a, b = inverse @ u[:, :rank], s[:rank, None] * v[:rank]
    bias = mean - x.mean(0) @ a @ b
    return a, b, bias, (x @ a @ b + bias - target).std(0)


def _pre_activation(ffn: FFN, x: np.ndarray, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """What the activation is applied to: [n, neurons]."""
    values = [v for v in (ffn.up.weight, ffn.up.bias) if v is not None]
    graph = between(ffn.graph, (ffn.up.x, *values), ffn.up.out)
    whole = x[:, : ffn.width].reshape(-1, *ffn.up.x.shape)
    run = jax.vmap(lambda x: graph.evaluate(x, *inputs[: len(values)])[0])
    return np.concatenate(
        [np.asarray(run(part)).reshape(-1, ffn.neurons) for part in np.array_split(whole, -(-len(whole) // 16))]
    )

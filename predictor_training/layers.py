"""A model's feed-forward layers as training sees them: their inputs, their weights, what each makes of its input."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import comet_jax as cj
from comet_jax.errors import CometError
from comet_jax.ir.jaxprs import Graph, Value
from comet_jax.passes import attention, sites
from comet_jax.passes.attention import Attention
from comet_jax.passes.lower import OwnedInput
from comet_jax.passes.sites import FFN
from comet_jax.predictors.artifact import fingerprint
from predictor_training.graphs import between, tap

Example = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of one site's layers. ``inputs``: what ``hidden`` takes, first axis layers.

    ``up``: float32[layers, width, neurons]. ``down``: norms of the rows of the second weight, [layers, neurons]: how
    much a neuron's activation matters.
    """

    inputs: tuple[np.ndarray, ...]
    up: np.ndarray
    down: np.ndarray
    fingerprints: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Model:
    """A traced function, its weights (flat), and the layers that were found in it.

    ``ahead``: predictors are trained on what attention has opened before a layer, where attention leads to it, so that
    they run beside the layer's own norm; otherwise on the layer's input.
    """

    graph: Graph
    ffns: tuple[FFN, ...]
    attention: tuple[Attention, ...]
    arrays: tuple[Any, ...]
    in_tree: Any
    out_tree: Any
    ahead: bool = True

    @classmethod
    def of(cls, fn: Callable[..., Any], weights: Any, example: Example, *, ahead: bool = True) -> "Model":
        """``fn(weights, *example)``, traced. Raises ``CometError`` where no layer is found or two have one name."""
        shape = lambda x: jax.ShapeDtypeStruct(np.shape(x), jax.dtypes.canonicalize_dtype(np.asarray(x).dtype))
        private: Any = fn if hasattr(fn, "trace") else cj.private(fn)
        traced = private.trace(jax.tree.map(shape, weights), *jax.tree.map(shape, example))
        owned = zip(traced.graph.inputs, traced.inputs)
        names = {v: i.name for v, i in owned if isinstance(i, OwnedInput) and i.owner == "model"}
        found = sites.find(traced.graph, names)
        if not found:
            raise CometError(
                "no feed-forward layer was found: predictors are for act(x W + b) W2, plain or gated, with one of the "
                f"activations {', '.join(sorted(sites.ACTIVATIONS))}"
            )
        several = {f.site for f in found if sum(f.site == g.site for g in found) > 1}
        if several:
            raise CometError(f"several layers have the weight {', '.join(sorted(several))}: a site has to be one layer")
        before = tuple(attention.find(traced.graph, names))
        arrays, in_tree = tuple(jax.tree.leaves(weights)), jax.tree.structure(example)
        return cls(traced.graph, tuple(found), before, arrays, in_tree, traced.out_tree, ahead)

    def read(self, ffn: FFN, ahead: bool) -> tuple[Value, ...]:
        """What a predictor reads: what attention has opened, if ``ahead`` and there is any, or the layer's input."""
        return (attention.ahead(ffn, self.attention) if ahead else ()) or (ffn.up.x,)

    def read_ahead(self, ffn: FFN) -> tuple[Value, ...]:
        """What this model's predictors read beside the layer's input, if anything."""
        return attention.ahead(ffn, self.attention) if self.ahead else ()

    @cached_property
    def weights(self) -> dict[str, Weights]:
        """By site, as the graph makes them from the model's weights."""
        wanted = [v for f in self.ffns for v in (*_inputs(f), f.down.weight)]
        graph = tap(self.graph, wanted)
        rest = self.graph.inputs[len(self.arrays) :]
        zeros = [jnp.zeros(v.shape, v.dtype) for v in rest]
        found = jax.jit(lambda arrays: graph.evaluate(*arrays, *zeros)[len(self.graph.outputs) :])(self.arrays)
        found, out = [np.asarray(x, np.float32) for x in found], {}
        for ffn in self.ffns:
            *mine, down = (found.pop(0) for _ in range(len(_inputs(ffn)) + 1))
            out[ffn.site] = _weights(ffn, [by_layer(ffn, x) for x in mine], by_layer(ffn, down))
        return out

    @cached_property
    def observe(self) -> Callable[..., list[jax.Array]]:
        """Examples stacked, leaf by leaf -> by site, inputs and what is read ahead: float32[calls, layers, ..., :]."""
        one = self.watched(self.graph)
        run = jax.jit(lambda arrays, examples: jax.vmap(lambda e: one((*arrays, *e)))(examples))
        return lambda examples: run(self.arrays, examples)

    def watched(self, graph: Graph) -> Callable[[Sequence[Any]], list[jax.Array]]:
        """The inputs of ``graph``, this one's or one made of it -> by site, what ``observe`` gives of one call."""
        wanted = {f: (f.up.x, *self.read_ahead(f)) for f in self.ffns}
        tapped, skip = tap(graph, [v for values in wanted.values() for v in values]), len(graph.outputs)

        def run(inputs):
            found = iter(tapped.evaluate(*inputs)[skip:])
            return [joined(f, [next(found) for _ in values]) for f, values in wanted.items()]

        return run

    @property
    def digest(self) -> str:
        """SHA-256 of the weights of its feed-forward layers, and of where their predictors read."""
        marks = [mark for w in self.weights.values() for mark in w.fingerprints]
        read = "".join(f" {f.site} ahead" for f in self.ffns if self.read_ahead(f))
        return sha256(("".join(marks) + read).encode()).hexdigest()


def layers(ffn: FFN) -> int:
    """How many layers a site stands for."""
    return prod(ffn.steps)


def hidden(ffn: FFN) -> Callable[[jax.Array, Sequence[jax.Array]], jax.Array]:
    """(what was collected [calls, ..., :], one layer of ``Weights.inputs``) -> activations [calls, ..., neurons]."""
    graph = between(ffn.graph, (ffn.up.x, *_inputs(ffn)), ffn.hidden)
    return lambda x, weights: jax.vmap(lambda x: graph.evaluate(x, *weights)[0])(x[..., : ffn.width])


def read(ffn: FFN, x: Any) -> Any:
    """Of what was collected [..., :], what predictors read: all that follows the layer's input, or that."""
    return x[..., ffn.width :] if x.shape[-1] > ffn.width else x


def _inputs(ffn: FFN):
    projections = (ffn.up,) if ffn.linear is None else (ffn.up, ffn.linear)
    return [v for p in projections for v in (p.weight, p.bias) if v is not None]


def joined(ffn: FFN, values: Sequence[Any]) -> Any:
    """Values of a call, the axes of scans in front -> [layers, ..., :], one row a token."""
    shape = (layers(ffn), *ffn.up.x.shape[:-1], -1)
    return jnp.concatenate([jnp.reshape(v, shape) for v in values], -1)


def by_layer(ffn: FFN, x: Any) -> Any:
    """The axes of scans, in front, as one axis of layers."""
    return x.reshape(layers(ffn), *x.shape[len(ffn.steps) :])


def _weights(ffn: FFN, inputs: list[np.ndarray], down: np.ndarray) -> Weights:
    up = np.ascontiguousarray(inputs[0] if ffn.up.axis == 0 else inputs[0].swapaxes(1, 2))
    marks = tuple(map(fingerprint, up))
    if len(set(marks)) < len(marks):
        raise CometError(
            f"{ffn.site}: steps of its loop share their weights, or have equal ones. A predictor is found by its "
            "layer's weights, so that layers with equal ones cannot have different predictors"
        )
    return Weights(tuple(inputs), up, np.linalg.norm(down, axis=2 - ffn.down.axis), marks)

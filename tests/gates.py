"""Gates for tests: predictors of small layers that know exactly which neurons are active."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from comet_jax.predictors import Layer, Predictor, Site
from comet_jax.predictors.artifact import fingerprint


def exact(
    site: str,
    weights: Sequence[np.ndarray],
    biases: Sequence[np.ndarray] | None = None,
    *,
    activation: str = "relu",
    block: int = 1,
    capacity: float = 1.0,
    margin: float = 2 / 128,
    fill: np.ndarray | None = None,
) -> Predictor:
    """A predictor whose scores are the layers' own pre-activations, scaled: of the first neuron in each block.

    ``weights``: [d, h] for each layer; of blocks all neurons should be alike. ``margin``: what is added to scores, by
    default two of their steps, so that none that is active is rounded away. ``fill``: [h], of all layers.
    """
    d, h = weights[0].shape
    biases = [np.zeros(h)] * len(weights) if biases is None else biases
    size = 8 * max(np.linalg.norm(w, axis=0).max() + np.abs(b).max() for w, b in zip(weights, biases))
    layers = tuple(
        Layer(fingerprint(w), np.arange(h), np.eye(d), w[:, ::block] / size, b[::block] / size + margin, fill)
        for w, b in zip(weights, biases)
    )
    made = Site(site, activation, d, h, len(weights), block, d, capacity, fills=fill is not None)
    return Predictor((made,), {site: layers})


def scoring(predictor: Predictor, scores: np.ndarray) -> Predictor:
    """The same, with these scores for the blocks, (G,) or all alike, whatever the layer's input is."""
    layers = {
        name: tuple(replace(x, b=np.zeros_like(x.b), bias=np.broadcast_to(scores, x.bias.shape)) for x in found)
        for name, found in (predictor.layers or {}).items()
    }
    return Predictor(predictor.sites, layers)


def always(predictor: Predictor, bias: float) -> Predictor:
    """The same, with gates that are always open (``bias`` 0.5) or never (-0.5)."""
    return scoring(predictor, np.array(bias))

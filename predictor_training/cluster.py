"""Neurons brought together in blocks, so that those of a block are active for the same tokens.

Each neuron is described by the leading eigenvectors of the co-activation Gram matrix, and neurons are assigned to as
many centres as there are blocks, all of one size: k-means with an optimal balanced assignment.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment

from comet_jax.errors import CometError
from predictor_training import targets

DIMENSIONS = 48


def order(gram: np.ndarray, block: int, seed: int = 0) -> np.ndarray:
    """int32[neurons]: the neurons of block k at k * block and after. ``gram``: float[neurons, neurons], symmetric."""
    neurons = len(gram)
    if neurons % block:
        raise CometError(f"{neurons} neurons cannot be split into blocks of {block}")
    if block == 1:
        return np.arange(neurons, dtype=np.int32)
    values, vectors = np.linalg.eigh(gram.astype(np.float64))
    features = vectors[:, -DIMENSIONS:] * np.sqrt(np.maximum(values[-DIMENSIONS:], 0))
    assigned = _balanced(features, block, np.random.default_rng(seed))
    return np.argsort(assigned, kind="stable").astype(np.int32)


def _balanced(points: np.ndarray, size: int, draw: np.random.Generator, rounds: int = 4) -> np.ndarray:
    """int[points]: clusters of ``size`` points each."""
    count = len(points) // size
    centres = points[draw.choice(len(points), count, replace=False)]
    for _ in range(8):  # free assignment first: it is cheap and finds where the points are
        nearest = np.argmin(_distances(points, centres), 1)
        empty = lambda k: points[draw.integers(len(points))]
        centres = np.stack([points[nearest == k].mean(0) if (nearest == k).any() else empty(k) for k in range(count)])
    assigned = np.zeros(len(points), int)
    for _ in range(rounds):
        rows, columns = linear_sum_assignment(np.repeat(_distances(points, centres), size, 1))
        assigned[rows] = columns // size
        centres = np.stack([points[assigned == k].mean(0) for k in range(count)])
    return assigned


def _distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return (centres**2).sum(1) - 2 * points @ centres.T


def gram(hidden: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Co-activation of neurons: of the roots of contributions, so how often and how much two matter together."""
    root = np.sqrt(np.abs(hidden) * down)
    return root.T @ root / len(root)


def report(hidden: np.ndarray, down: np.ndarray, activation: str, block: int) -> tuple[float, float, float]:
    """The part that is on: of neurons, of blocks in the model's order, of clustered blocks."""
    worth = np.abs(hidden) * down
    on = worth > targets.threshold(activation, worth)
    blocks = lambda places: float(on[:, places].reshape(len(on), -1, block).any(-1).mean())
    return float(on.mean()), blocks(np.arange(on.shape[1])), blocks(order(gram(hidden, down), block))

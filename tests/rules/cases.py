"""What a case is."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

import comet_jax as cj


@dataclass(frozen=True)
class Case:
    """``function`` of ``inputs``, sealed, and of ``weights``, the model owner's, if any.

    The error allowed is ``steps`` of an operand's last bit, and ``approximation`` for series and tables. Where a
    variant differs from another case before any protocol only, one of the ``rings`` is enough.
    """

    name: str
    function: Callable
    inputs: tuple[np.ndarray, ...]
    weights: tuple[np.ndarray, ...] = ()
    steps: float = 2.0
    approximation: float = 0.0
    rings: tuple[int, ...] = (32, 64)

    def plain(self) -> list[np.ndarray]:
        return [np.asarray(y) for y in jax.tree.leaves(self.function(*map(jnp.asarray, self.inputs + self.weights)))]

    def bound(self, numbers: cj.Numbers) -> float:
        return self.steps * 2.0**-numbers.operand + self.approximation


def real(*shape: int, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).normal(0, scale, shape).astype(np.float32)

"""A seed that forgets: each run's keystreams come from a key that is overwritten when the run is dealt.

Dealer and party hold the same seed and step together. Whoever gets hold of a later state, at a dealer that was broken
into or in a dump of its memory, cannot tell earlier masks, as the cipher does not run backwards.
"""

import numpy as np

from comet_jax.runtime.session import random_elements
from comet_jax.sharing import chacha
from comet_jax.sharing.groups import Group

# Purposes of a keystream, the first word of its nonce.
NEXT, MASKS, DEALT, STATIC = range(4)


class Seed:
    """A key that serves one step after the other. It takes over ``key``, uint32[8], and overwrites it."""

    def __init__(self, key: np.ndarray) -> None:
        self._key = key

    def masks(self, words: int):
        """This party's shares of the masks of a run."""
        return chacha.draw(self._key, chacha.nonce(MASKS), words)

    def dealt(self, words: int):
        """Party 0's shares of what is dealt for a run."""
        return chacha.draw(self._key, chacha.nonce(DEALT), words)

    def static(self, index: int, shape: tuple[int, ...], group: Group) -> np.ndarray:
        """This party's share of the mask of weight number ``index``."""
        return random_elements(self._key, chacha.nonce(STATIC, index), shape, group)

    def step(self) -> None:
        """Forget everything drawn so far: later draws come from a new key."""
        self._key[:] = np.asarray(chacha.draw(self._key, chacha.nonce(NEXT), 8))

"""The pretrained sentence encoder, where it is installed."""

import numpy as np
import pytest

from comet_jax import CometError
from comet_jax.models import minilm


@pytest.fixture(scope="session")
def encoder():
    """The configuration and the weights of all-MiniLM-L6-v2."""
    try:
        return minilm.load()
    except CometError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tokenize(encoder):
    """text -> int32[T]."""
    tokenizer = minilm.tokenizer()
    return lambda text: np.array(tokenizer.encode(text).ids, np.int32)


@pytest.fixture(scope="session")
def padded(tokenize):
    """texts -> tokens and mask of a batch."""

    def batch(texts):
        rows = [tokenize(text) for text in texts]
        tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
        for row, ids in zip(tokens, rows):
            row[: len(ids)] = ids
        return tokens, np.arange(tokens.shape[1]) < np.array([[len(ids)] for ids in rows])

    return batch

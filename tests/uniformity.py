"""Is what somebody sees uniform, and are its parts independent? Answers are probabilities of seeing worse by chance."""

import numpy as np
from scipy import stats

from comet_jax.sharing.groups import Group

# A test fails below this. There are some hundred, so a false alarm has a probability below 1e-6 in all.
UNLIKELY = 1e-9


def bits(group: Group, words: np.ndarray) -> np.ndarray:
    """(runs, elements) of ``group`` -> (runs, elements * group.bits) of 0 and 1."""
    places = np.arange(group.bits).astype(words.dtype)
    return ((words[..., None] >> places) & words.dtype.type(1)).reshape(len(words), -1).astype(np.int8)


def balance(columns: np.ndarray) -> float:
    """Whether each column of bits is one half of the time, over the rows: all together, and the worst alone."""
    n, width = columns.shape
    if not width:
        return 1.0
    z = (columns.sum(0, dtype=np.int64) - n / 2) / np.sqrt(n / 4)
    return float(min(stats.chi2.sf(np.sum(z * z), width), width * 2 * stats.norm.sf(np.abs(z).max())))


def independence(columns: np.ndarray) -> float:
    """Whether no two columns of bits are equal, or different, more often than half of the time."""
    n, width = columns.shape
    if width < 2:
        return 1.0
    signs = 1.0 - 2.0 * columns
    z = np.abs((signs.T @ signs) / np.sqrt(n))[np.triu_indices(width, 1)]
    return float(min(1.0, len(z) * 2 * stats.norm.sf(z.max())))


def same(a: np.ndarray, b: np.ndarray) -> float:
    """Whether two samples of columns of bits have the same frequencies."""
    n, m = len(a), len(b)
    z = (a.mean(0) - b.mean(0)) / np.sqrt(0.25 / n + 0.25 / m)
    return float(stats.chi2.sf(np.sum(z * z), a.shape[1]))


def looks_uniform(columns: np.ndarray) -> bool:
    """Whether columns of bits pass for independent fair coins."""
    return min(balance(columns), independence(columns)) > UNLIKELY

"""Fixed point: real numbers as ring elements at a scale, and back. Bad numbers are refused by name."""

import numpy as np

from comet_jax.errors import CometError
from comet_jax.sharing.groups import Group


class RangeError(CometError):
    """A number that fixed point cannot hold: NaN, infinite or too large."""


def encode(values: np.ndarray, scale: float, group: Group, *, name: str) -> np.ndarray:
    """round(values * scale) in ``group``, with two bits of headroom.

    Raises ``RangeError`` naming ``name`` and the place for NaN, an infinity, or a magnitude that does not fit.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "iub":
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            place = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise RangeError(f"{name} holds a value that is not finite, at {place}: it cannot be shared")
    limit = 2.0 ** (group.bits - 2) / scale
    # In float64, as the least number of an integer type has no absolute value there.
    sizes = np.abs(values.astype(np.float64))
    if sizes.size and sizes.max() >= limit:
        place = tuple(int(i) for i in np.unravel_index(int(sizes.argmax()), values.shape))
        raise RangeError(
            f"{name} holds a value out of range, at {place}: {group.bits} bits at a scale of {scale:g} hold magnitudes "
            f"below {limit:g}. Scale it down, choose fewer fraction bits in the policy, or use the 64-bit ring."
        )
    if values.dtype.kind in "iub" and scale == 1.0:
        return group.encode(values.astype(np.int64))  # exact beyond the 53 bits of float64
    return group.encode(np.rint(values.astype(np.float64) * scale).astype(np.int64))


def decode(elements: np.ndarray, scale: float, group: Group, dtype: np.dtype) -> np.ndarray:
    """The numbers that ``elements`` stand for, in ``dtype``."""
    values = group.decode(elements)
    if np.dtype(dtype).kind in "iub" and scale == 1.0:
        return values.astype(dtype)
    return (values / scale).astype(dtype)

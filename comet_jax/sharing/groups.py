"""The groups that secrets are shared in: integers mod 2^k, and k-bit words under xor.

A secret ``v`` in a group is two shares with ``add(s0, s1) == v``, one at each party. Both groups are held in
unsigned words (uint32 up to 32 bits, uint64 above), always reduced, so unsigned overflow does the arithmetic.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Group:
    """Z_2^bits under addition, or bits-bit words under xor.

    ``bits`` is 1 to 64. Arrays are unsigned, of ``dtype``, with every unused high bit zero.
    """

    bits: int
    xor: bool = False

    def __post_init__(self):
        if not 1 <= self.bits <= 64:
            raise ValueError(f"a group has 1 to 64 bits, not {self.bits}")

    def __str__(self) -> str:
        return f"{'x' if self.xor else 'z'}{self.bits}"

    @property
    def dtype(self) -> np.dtype:
        """The word that holds an element: uint32 or uint64."""
        return np.dtype(np.uint32 if self.bits <= 32 else np.uint64)

    def constant(self, value: int) -> np.generic:
        """A Python integer (any sign) as an element."""
        return self.dtype.type(value % (1 << self.bits))

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Signed int64 values as elements."""
        return self.reduce(np.asarray(values, np.int64).view(np.uint64).astype(self.dtype))

    def decode(self, elements: np.ndarray) -> np.ndarray:
        """Elements as signed int64 values, in [-2^(bits-1), 2^(bits-1))."""
        shift = np.int64(64 - self.bits)
        wide = np.asarray(elements).astype(np.uint64) << np.uint64(shift)
        return wide.view(np.int64) >> shift

    def reduce(self, x):
        """Clear the bits that a word has and the group has not."""
        if self.bits == 8 * self.dtype.itemsize:
            return x
        return x & self.dtype.type((1 << self.bits) - 1)

    def cast(self, x: jax.Array) -> jax.Array:
        """Unsigned words of any width, taken into the group (mod 2^bits)."""
        return self.reduce(x.astype(self.dtype))

    def add(self, a, b):
        """a + b, or a ^ b."""
        return a ^ b if self.xor else self.reduce(a + b)

    def sub(self, a, b):
        """a - b, or a ^ b."""
        return a ^ b if self.xor else self.reduce(a - b)

    def msb(self, x):
        """The top bit of each element, as 0 or 1 in the same dtype."""
        return (x >> self.dtype.type(self.bits - 1)) & self.dtype.type(1)


def bit(x: jax.Array, i: int) -> jax.Array:
    """Bit ``i`` of each word, as 0 or 1 in the same dtype."""
    return (x >> x.dtype.type(i)) & x.dtype.type(1)


def signed(x: jax.Array, bits: int) -> jax.Array:
    """Elements of Z_2^bits as int64, two's complement."""
    shift = jnp.int64(64 - bits)
    return jax.lax.bitcast_convert_type(x.astype(jnp.uint64) << shift.astype(jnp.uint64), jnp.int64) >> shift

"""Products of ring matrices, exact mod 2^32 and 2^64, for every backend. The one file that knows how.

XLA multiplies signed 32-bit and 8-bit matrices well and unsigned or 64-bit ones by a naive loop. Two's complement
makes signedness a matter of reading, so on CPU Z_2^32 is one int32 ``dot_general``. Elsewhere, and for Z_2^64, an
element is split into signed base-256 digits, whose products are int8 matrices with exact int32 sums (tensor cores
on GPU): 10 digit products for 32 bits, 36 for 64.
"""

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# |digit| <= 128, so a sum of n digit products is below 2^31 for n < 2^17.
MAX_TERMS = 1 << 16


def dot_general(a: jax.Array, b: jax.Array, dimension_numbers) -> jax.Array:
    """``lax.dot_general`` of two uint32 or two uint64 arrays, mod 2^32 or 2^64."""
    if a.dtype != b.dtype or a.dtype not in (np.uint32, np.uint64):
        raise TypeError(f"ring matrices are both uint32 or both uint64, not {a.dtype} and {b.dtype}")
    if a.dtype == np.uint64:
        return _by_digits(a, b, dimension_numbers)
    return lax.platform_dependent(
        a,
        b,
        cpu=lambda a, b: _as_int32(a, b, dimension_numbers),
        default=lambda a, b: _by_digits(a, b, dimension_numbers),
    )


def of_rows(a: jax.Array, b: jax.Array, numbers: jax.Array) -> jax.Array:
    """The sum of ``a[i] @ b[numbers[i]]`` mod 2^32 or 2^64, without terms whose number is beyond the end of b.

    ``a``: (n, g). ``b``: (m, g, d). ``numbers``: unsigned (n,). Returns (d,). On CPU rows are read where they are: to
    gather them first takes three times as long.
    """
    a = jnp.where((numbers < len(b))[:, None], a, jnp.zeros_like(a))
    return lax.platform_dependent(a, b, numbers, cpu=_in_place, default=_gathered)


def _in_place(a, b, numbers):
    def add(total, term):
        row, number = term
        return total + (lax.dynamic_index_in_dim(b, number, keepdims=False) * row[:, None]).sum(0, dtype=b.dtype), None

    return lax.scan(add, jnp.zeros(b.shape[2:], b.dtype), (a, numbers))[0]


def _gathered(a, b, numbers):
    taken = b.at[numbers].get(mode="clip").reshape(-1, b.shape[-1])
    return dot_general(a.reshape(1, -1), taken, (((1,), (0,)), ((), ())))[0]


def _as_int32(a, b, dimension_numbers):
    a, b = (lax.bitcast_convert_type(x, jnp.int32) for x in (a, b))
    out = lax.dot_general(a, b, dimension_numbers, preferred_element_type=jnp.int32)
    return lax.bitcast_convert_type(out, jnp.uint32)


def _by_digits(a, b, dimension_numbers):
    (contract_a, contract_b), _ = dimension_numbers
    if not contract_a:  # an outer product is element-wise: plain multiplication is exact
        return lax.dot_general(a, b, dimension_numbers, preferred_element_type=a.dtype)
    terms = int(np.prod([a.shape[i] for i in contract_a]))
    if terms > MAX_TERMS:
        return _in_halves(a, b, dimension_numbers)
    n = a.dtype.itemsize
    da, db = _digits(a), _digits(b)
    parts = []
    for s in range(n):
        # Digit sums of equal weight are one longer contraction: [d0 .. ds] against [es .. e0].
        pairs = [(da[i], db[s - i]) for i in range(s + 1)]
        group = max(1, MAX_TERMS // max(terms, 1))
        for k in range(0, len(pairs), group):
            xs, ys = zip(*pairs[k : k + group])
            x = jnp.concatenate(xs, axis=contract_a[0])
            y = jnp.concatenate(ys, axis=contract_b[0])
            part = lax.dot_general(x, y, dimension_numbers, preferred_element_type=jnp.int32)
            parts.append(part.astype(jnp.int64 if n == 8 else jnp.int32).astype(a.dtype) << a.dtype.type(8 * s))
    return reduce(jnp.add, parts)


def _in_halves(a, b, dimension_numbers):
    """The product as the sum of two, of half the terms each."""
    (contract_a, contract_b), _ = dimension_numbers
    i, j = max(zip(contract_a, contract_b), key=lambda axes: a.shape[axes[0]])
    n = a.shape[i]
    part = lambda x, axis, lo, hi: lax.slice_in_dim(x, lo, hi, axis=axis)
    first, second = (
        _by_digits(part(a, i, lo, hi), part(b, j, lo, hi), dimension_numbers) for lo, hi in ((0, n // 2), (n // 2, n))
    )
    return first + second


def _digits(x):
    """Base-256 digits in [-128, 127], lowest first; the carry out of the top is lost, as the ring wants."""
    digits = []
    wide = jnp.int64 if x.dtype == np.uint64 else jnp.int32
    for _ in range(x.dtype.itemsize):
        d = x.astype(jnp.int8)
        digits.append(d)
        x = (x - d.astype(wide).astype(x.dtype)) >> x.dtype.type(8)
    return digits

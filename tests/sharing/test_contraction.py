"""Ring products against Python's integers, by both paths."""

from functools import partial
from unittest import mock

import jax
import numpy as np
import pytest
from jax import lax

from comet_jax.sharing import contraction

MATRIX = (((1,), (0,)), ((), ()))
CASES = {
    "matrix": ((3, 5), (5, 4), MATRIX),
    "vector": ((5,), (5,), (((0,), (0,)), ((), ()))),
    "batched": ((2, 3, 4), (2, 4, 3), (((2,), (1,)), ((0,), (0,)))),
    "batch last": ((3, 4, 2), (4, 2, 5), (((1,), (0,)), ((2,), (1,)))),
    "two axes": ((2, 3, 4), (4, 5, 2), (((0, 2), (2, 0)), ((), ()))),
    "outer": ((3,), (4,), (((), ()), ((), ()))),
    "no rows": ((0, 5), (5, 4), MATRIX),
    "no terms": ((3, 0), (0, 4), MATRIX),
}
EXTREMES = (0, 1, 127, 128, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, 0x8080808080808080)


def _values(rng, shape, dtype):
    wide = rng.integers(0, 1 << 64, shape, dtype=np.uint64)
    return np.where(rng.random(shape) < 0.5, wide, rng.choice(np.array(EXTREMES, np.uint64), shape)).astype(dtype)


def _exact(a, b, dims):
    """By Python's integers, which do not overflow."""
    (ca, cb), (ba, bb) = dims
    letters = iter("abcdefghij")
    left, right = [next(letters) for _ in a.shape], [""] * b.ndim
    for i, j in (*zip(ca, cb), *zip(ba, bb)):
        right[j] = left[i]
    right = [r or next(letters) for r in right]
    out = [left[i] for i in ba]
    out += [x for i, x in enumerate(left) if i not in (*ca, *ba)]
    out += [x for j, x in enumerate(right) if j not in (*cb, *bb)]
    formula = f"{''.join(left)},{''.join(right)}->{''.join(out)}"
    exact = np.einsum(formula, a.astype(object), b.astype(object))
    return np.array(np.asarray(exact, object) % (1 << (8 * a.dtype.itemsize)), a.dtype)


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize("path", [contraction.dot_general, contraction._by_digits])
@pytest.mark.parametrize("case", CASES)
def test_products_are_exact(case, path, dtype):
    shape_a, shape_b, dims = CASES[case]
    rng = np.random.default_rng(0)
    a, b = _values(rng, shape_a, dtype), _values(rng, shape_b, dtype)
    with jax.enable_x64(True):
        found = np.asarray(jax.jit(partial(path, dimension_numbers=dims))(a, b))
    expected = _exact(a, b, dims)
    assert (found.dtype, found.shape) == (a.dtype, lax_shape(a, b, dims))
    np.testing.assert_array_equal(found, expected.reshape(found.shape))


def lax_shape(a, b, dims):
    return jax.eval_shape(lambda x, y: lax.dot_general(x, y, dims), a.astype(np.int32), b.astype(np.int32)).shape


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_more_terms_than_a_digit_product_sums(dtype):
    """Groups of digit products are cut so that int32 sums never wrap: tried with the worst digits there are."""
    rng = np.random.default_rng(0)
    a = np.full((1, 70), 0x8080808080808080, np.uint64).astype(dtype)
    b = np.where(rng.random((70, 2)) < 0.5, a[0, 0], rng.integers(0, 1 << 32, (70, 2))).astype(dtype)
    for most in (100, 30):
        with jax.enable_x64(True), mock.patch.object(contraction, "MAX_TERMS", most):
            found = np.asarray(contraction._by_digits(a, b, MATRIX))
        np.testing.assert_array_equal(found, _exact(a, b, MATRIX))


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize("terms", [contraction.MAX_TERMS, contraction.MAX_TERMS + 1, 3 * contraction.MAX_TERMS])
def test_long_sums_of_the_worst_digits(dtype, terms):
    worst = np.uint64(0x8080808080808080).astype(dtype)
    a, b = np.full((1, terms), worst), np.full((terms, 1), worst)
    with jax.enable_x64(True):
        found = int(np.asarray(jax.jit(partial(contraction._by_digits, dimension_numbers=MATRIX))(a, b))[0, 0])
    assert found == int(worst) ** 2 * terms % (1 << (8 * a.dtype.itemsize))


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize("path", [contraction.of_rows, contraction._in_place, contraction._gathered])
def test_rows_are_taken_where_they_are(path, dtype):
    m, g, d, numbers = 5, 3, 4, np.array([4, 0, 2], np.uint32)
    rng = np.random.default_rng(2)
    a, b = _values(rng, (3, g), dtype), _values(rng, (m, g, d), dtype)
    with jax.enable_x64(True):
        found = jax.jit(path)(a, b, numbers)
        np.testing.assert_array_equal(found, (a[..., None] * b[numbers]).sum((0, 1), dtype=dtype))
        if path is contraction.of_rows:  # a dummy's row counts for nothing, whatever it is
            more = jax.jit(path)(np.concatenate([a, a[:2]]), b, np.append(numbers, np.array([m, 2**31], np.uint32)))
            np.testing.assert_array_equal(more, found)


def test_digits_stand_for_their_number():
    x = np.array(EXTREMES, np.uint64)
    with jax.enable_x64(True):
        digits = [np.asarray(d).astype(object) for d in contraction._digits(jax.numpy.asarray(x))]
    assert [sum(int(d[j]) << 8 * i for i, d in enumerate(digits)) % 2**64 for j in range(x.size)] == x.tolist()


def test_only_rings_are_multiplied():
    with pytest.raises(TypeError, match="both uint32 or both uint64"):
        contraction.dot_general(jax.numpy.zeros((2, 2), np.uint32), jax.numpy.zeros((2, 2), np.int32), MATRIX)

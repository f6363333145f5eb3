"""Groups against Python's integers."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comet_jax.sharing.groups import Group, bit, signed

groups = st.builds(Group, st.integers(1, 64), st.booleans())
words = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8)


def _elements(group: Group, values) -> np.ndarray:
    return np.array([v % (1 << group.bits) for v in values], group.dtype)


@given(groups, words, words)
def test_add_and_sub(group, a, b):
    n = min(len(a), len(b))
    x, y = _elements(group, a[:n]), _elements(group, b[:n])
    plus = (lambda p, q: p ^ q) if group.xor else (lambda p, q: (p + q) % (1 << group.bits))
    assert group.add(x, y).tolist() == [plus(int(p), int(q)) for p, q in zip(x, y)]
    np.testing.assert_array_equal(group.sub(group.add(x, y), y), x)
    np.testing.assert_array_equal(group.add(group.sub(x, y), y), x)
    assert group.add(x, y).dtype == group.sub(x, y).dtype == group.dtype


@given(groups, words)
def test_top_bit_and_reduction(group, values):
    x = _elements(group, values)
    assert group.msb(x).tolist() == [int(v) >> (group.bits - 1) for v in x]
    raw = np.array(values, np.uint64).astype(group.dtype)
    assert group.reduce(raw).tolist() == [int(v) % (1 << group.bits) for v in raw]
    np.testing.assert_array_equal(group.reduce(x), x)


@given(groups, st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8))
def test_encode_and_decode(group, values):
    x = group.encode(np.array(values))
    assert x.dtype == group.dtype
    assert x.tolist() == [v % (1 << group.bits) for v in values]
    assert [int(group.constant(v)) for v in values] == x.tolist()
    half = 1 << (group.bits - 1)
    centred = [(v + half) % (2 * half) - half for v in values]
    assert group.decode(x).tolist() == centred
    with jax.enable_x64(True):
        assert signed(jax.numpy.asarray(x), group.bits).tolist() == centred


@given(groups, groups, words)
def test_cast(source, target, values):
    x = _elements(source, values)
    with jax.enable_x64(True):
        out = np.asarray(target.cast(jax.numpy.asarray(x)))
    assert out.dtype == target.dtype
    assert out.tolist() == [int(v) % (1 << target.bits) for v in x]


def test_single_bits():
    x = jax.numpy.array([0b1010, 0b0111], np.uint32)
    assert [bit(x, i).tolist() for i in range(4)] == [[0, 1], [1, 1], [0, 1], [1, 0]]


@pytest.mark.parametrize("bits", [0, 65, -1])
def test_sizes_without_a_word_are_refused(bits):
    with pytest.raises(ValueError, match="1 to 64 bits"):
        Group(bits)


def test_names():
    assert (str(Group(32)), str(Group(5, xor=True))) == ("z32", "x5")

"""Packing: what comes out is what went in, in exactly as many words as the bits need."""

import math
from collections import Counter

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comet_jax.sharing.groups import Group
from comet_jax.sharing.packing import Item, Layout, Where


@st.composite
def items(draw):
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    size = math.prod(shape)
    group = Group(draw(st.integers(1, 64)), draw(st.booleans()))
    if not draw(st.booleans()):
        return Item(shape, group)
    mask = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    return Item(shape, group, Where(np.array(mask, bool).reshape(shape)))


def _arrays(layout: Layout, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    words = lambda i: i.group.reduce(rng.integers(0, 1 << 64, i.shape, dtype=np.uint64).astype(i.group.dtype))
    return [np.asarray(words(i)) for i in layout.items]


def _round_trip(layout: Layout, arrays):
    with jax.enable_x64(True):
        packed = layout.pack([jax.numpy.asarray(a) for a in arrays])
        return np.asarray(packed), [np.asarray(a) for a in layout.unpack(packed)]


@settings(max_examples=12)
@given(st.lists(items(), max_size=4), st.integers(0, 1000))
def test_round_trip_and_size(found, seed):
    layout = Layout(tuple(found))
    arrays = _arrays(layout, seed)
    packed, back = _round_trip(layout, arrays)
    assert packed.shape == (layout.words,) == (layout.bytes // 4,)
    for item, a, b in zip(layout.items, arrays, back):
        assert b.dtype == a.dtype
        np.testing.assert_array_equal(b, a if item.where is None else a * item.where.mask)
    # A width is a sum of powers of two, and the pieces of one size, of all items, fill words together.
    pieces: Counter[int] = Counter()
    for item in layout.items:
        pieces[32] += item.count * (item.group.bits // 32)
        pieces.update({size: item.count for size in (16, 8, 4, 2, 1) if item.group.bits % 32 & size})
    assert layout.words == sum(-(-size * count // 32) for size, count in pieces.items())
    total = sum(item.bits for item in layout.items)
    assert total <= 32 * layout.words <= total + 5 * 31


@pytest.mark.parametrize("bits", range(1, 65))
def test_every_width(bits):
    layout = Layout((Item((7,), Group(bits)),))
    arrays = [np.full(7, Group(bits).constant(-1))]
    packed, back = _round_trip(layout, arrays)
    np.testing.assert_array_equal(back[0], arrays[0])
    assert sum(int(w).bit_count() for w in packed) == 7 * bits


def test_every_bit_of_a_keystream_is_used_once():
    """Masks are unpacked from keystreams: two masks never share a bit."""
    layout = Layout(tuple(Item((3,), Group(bits)) for bits in (1, 5, 17, 31, 32, 33, 64)))
    owners = np.zeros((layout.words, 32), int)
    for word in range(layout.words):
        for place in range(32):
            words = np.zeros(layout.words, np.uint32)
            words[word] = np.uint32(1) << np.uint32(place)
            with jax.enable_x64(True):
                arrays = layout.unpack(words)  # type: ignore[arg-type]
            owners[word, place] = sum(int(v).bit_count() for a in arrays for v in np.asarray(a).reshape(-1))
    assert set(np.unique(owners)) <= {0, 1}
    assert owners.sum() == sum(item.bits for item in layout.items)


def test_wrong_arrays_are_refused():
    layout = Layout((Item((2,), Group(8)),))
    with pytest.raises(ValueError, match="was expected"):
        layout.pack([np.zeros(3, np.uint32)])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="were expected"):
        layout.unpack(np.zeros(2, np.uint32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mask of shape"):
        Item((2, 2), Group(8), Where(np.ones(4, bool)))


def test_choices_are_equal_by_content():
    a, b = Where(np.eye(3, dtype=bool)), Where(np.eye(3, dtype=bool))
    assert a == b
    assert hash(a) == hash(b)
    assert a != Where(~np.eye(3, dtype=bool))
    assert a.count == 3
    assert a.slots.tolist() == [0, 3, 3, 3, 1, 3, 3, 3, 2]

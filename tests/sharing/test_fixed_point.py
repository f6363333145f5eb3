"""Fixed point: how far off a number comes back, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comet_jax.sharing.fixed_point import RangeError, decode, encode
from comet_jax.sharing.groups import Group

rings = st.sampled_from([Group(32), Group(64), Group(20)])


@given(rings, st.integers(0, 16), st.lists(st.floats(-1, 1), min_size=1, max_size=8))
def test_round_trip(group, fraction, unit):
    scale = 2.0**fraction
    values = np.array(unit) * (2.0 ** (group.bits - 2) / scale) * (1 - 2.0**-10)
    back = decode(encode(values, scale, group, name="x"), scale, group, np.dtype(np.float64))
    # Half a step, and what float64 itself cannot hold of 62 bits.
    assert np.abs(back - values).max() <= 0.5 / scale + np.abs(values).max() * 2.0**-51


@given(rings, st.lists(st.integers(-1000, 1000), max_size=8))
def test_integers_come_back_as_they_were(group, values):
    x = np.array(values, np.int32)
    back = decode(encode(x, 1.0, group, name="x"), 1.0, group, x.dtype)
    assert back.dtype == x.dtype
    np.testing.assert_array_equal(back, x)


def test_scales_need_not_be_powers_of_two():
    x = np.linspace(-3, 3, 101)
    back = decode(encode(x, 1234.5, Group(32), name="x"), 1234.5, Group(32), np.dtype(np.float32))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, x, atol=0.51 / 1234.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_name_and_place(bad):
    x = np.zeros((2, 3), np.float32)
    x[1, 2] = bad
    with pytest.raises(RangeError, match=r"layer/kernel holds a value that is not finite, at \(1, 2\)"):
        encode(x, 256.0, Group(32), name="layer/kernel")


@pytest.mark.parametrize(("group", "scale"), [(Group(32), 2.0**24), (Group(64), 2.0**36), (Group(32), 1.0)])
@pytest.mark.parametrize("sign", [1, -1])
def test_what_does_not_fit_is_refused_without_its_value(group, scale, sign):
    limit = 2.0 ** (group.bits - 2) / scale
    x = np.zeros((2, 3))
    x[0, 1] = sign * limit * (1 - 2.0**-12)
    encode(x, scale, group, name="w")
    x[0, 1] = sign * limit
    with pytest.raises(RangeError, match=r"w holds a value out of range, at \(0, 1\)"):
        encode(x, scale, group, name="w")
    x[0, 1] = sign * (limit * 1.2345678)
    with pytest.raises(RangeError) as caught:
        encode(x, scale, group, name="w")
    assert "2345678" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint64])
@pytest.mark.parametrize("which", ["min", "max"])
def test_the_limits_of_integer_types(dtype, which):
    value = getattr(np.iinfo(dtype), which)
    x = np.array([0, value], dtype)
    if abs(int(value)) >= 1 << 30:
        with pytest.raises(RangeError, match=r"out of range, at \(1,\)"):
            encode(x, 1.0, Group(32), name="ids")
    else:
        assert decode(encode(x, 1.0, Group(32), name="ids"), 1.0, Group(32), np.dtype(dtype)).tolist() == x.tolist()


def test_large_integers_are_exact():
    x = np.array([2**61 + 1, -(2**61) - 1], np.int64)
    assert decode(encode(x, 1.0, Group(64), name="x"), 1.0, Group(64), x.dtype).tolist() == x.tolist()


def test_nothing_and_booleans():
    assert encode(np.zeros((0, 3)), 4.0, Group(32), name="x").shape == (0, 3)
    assert encode(np.array([True, False]), 4.0, Group(32), name="x").tolist() == [4, 0]

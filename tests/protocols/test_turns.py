"""Who gets a slot where there are too few: tokens take turns."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from comet_jax.protocols.slots import turns


@given(arrays(bool, st.tuples(st.integers(1, 5), st.integers(1, 7))))
def test_every_token_has_its_first_block_before_any_has_its_second(active):
    found = np.asarray(turns(active))
    rows = [list(np.flatnonzero(row)) for row in active]
    expected = [(t, row[k]) for k in range(active.shape[1]) for t, row in enumerate(rows) if k < len(row)]
    assert sorted((int(found[t, g]), t, g) for t, g in zip(*np.nonzero(active))) == [
        (i, t, g) for i, (t, g) in enumerate(expected)
    ]


@given(arrays(bool, st.tuples(st.integers(1, 5), st.integers(1, 7))), st.integers(0, 40))
def test_a_token_loses_a_block_only_if_none_keeps_two_more(active, room):
    kept = (active & (np.asarray(turns(active)) < room)).sum(1)
    lost = active.sum(1) > kept
    assert kept.sum() == min(room, active.sum())
    if lost.any():
        assert kept.max() <= kept[lost].min() + 1

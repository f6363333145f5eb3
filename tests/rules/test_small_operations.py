"""Every small operation runs right, or is refused by name; a wrong result is neither."""

import re

import jax
import numpy as np
import pytest
from ideal_world import Ideal
from small_operations import OPERATIONS, REFUSED, Refused, table

import comet_jax as cj

POLICY = cj.Policy(ring=32)


@pytest.mark.parametrize("kind", OPERATIONS)
def test_small_operations_are_right(kind):
    """All of a kind are one private function, in the ideal world, which two parties equal bit for bit."""
    every = OPERATIONS[kind]
    call = Ideal(
        lambda inputs: [o.function(*xs) for o, xs in zip(every, inputs, strict=True)],
        ([o.inputs for o in every],),
        ("sealed",),
        POLICY,
    )
    plain = [jax.tree.leaves(o.function(*map(jax.numpy.asarray, o.inputs))) for o in every]
    results, wrong = iter(call.results()), []
    for operation, leaves in zip(every, plain, strict=True):
        for wanted in map(np.asarray, leaves):
            got = next(results)
            assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype), operation.name
            error = np.abs(np.float64(got) - np.float64(wanted)).max(initial=0.0)
            if not error <= operation.error:
                wrong.append(f"{operation.name}: off by {error:.3g}, allowed {operation.error:.3g}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("operation", REFUSED, ids=lambda r: r.name)
def test_what_has_no_private_form_is_refused_by_name(operation: Refused):
    given = [cj.seal(jax.ShapeDtypeStruct(x.shape, x.dtype)) for x in operation.inputs]
    with pytest.raises((cj.UnsupportedOperationError, cj.SecretLeakError)) as told:
        cj.private(operation.function).trace(*given).lower()
    assert re.search(operation.says, str(told.value)), str(told.value)


def test_there_are_enough():
    names = [name for _, name, _ in table()]
    assert len(set(names)) == len(names) >= 76
    assert sum(map(len, OPERATIONS.values())) >= 66

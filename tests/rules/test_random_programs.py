"""Random programs: right within their predicted errors, and the same at two parties, bit for bit.

``COMET_PROGRAMS`` sets how many programs are drawn, by default 100.
"""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from ideal_world import Ideal
from random_programs import OPERATIONS, Known, Program, programs
from two_parties import TwoParties

import comet_jax as cj

COUNT = int(os.environ.get("COMET_PROGRAMS", "100"))
# A run of both parties and the dealer takes about ten times as long as one in the ideal world.
RUNS = max(1, COUNT // 10)

pytestmark = pytest.mark.timeout(max(600, 6 * COUNT))


def called(program: Program) -> Ideal:
    return Ideal(program, program.arrays, program.owners, cj.Policy(ring=program.ring))


@settings(max_examples=COUNT)
@given(programs())
def test_random_programs_are_right(program):
    for got, expected in zip(called(program).results(), program.expected, strict=True):
        assert got.shape == expected.value.shape
        error = np.abs(got - expected.value).max(initial=0.0)
        assert error <= expected.error + 1e-5, f"off by {error:.3g}, predicted {expected.error:.3g}"


@settings(max_examples=RUNS)
@given(programs(length=3))
def test_two_parties_repeat_random_programs_bit_for_bit(program):
    call = called(program)
    two = TwoParties(call.plan.program, apart=True)
    elements = [v.wire.group.decode(x) for v, x in zip(two.program.inputs, call.elements, strict=True)]
    if not two.program.outputs:
        return  # one owner knows every result
    run = two.run([np.repeat(x[None], 2, 0) for x in elements], seed=1)
    for got, again in zip(run.outputs, run.ideal, strict=True):
        np.testing.assert_array_equal(got, again)
    for k in range(2):
        for got, expected in zip(call.results([x[k] for x in run.outputs]), program.expected, strict=True):
            np.testing.assert_allclose(got, expected.value, atol=expected.error + 1e-5)


def test_operations_agree_in_the_clear():
    """What a program should give is said by NumPy, what it does by JAX."""
    rng = np.random.default_rng(0)
    for operation in OPERATIONS:
        for shape in ((3, 3), (3,), (1, 2)):
            xs = [rng.normal(size=shape).astype(np.float32) for _ in range(operation.arity)]
            if operation.takes(*(Known(np.float64(x), 0.0) for x in xs)):
                np.testing.assert_allclose(operation.jax(*xs), operation.plain(*map(np.float64, xs)), atol=1e-4)
                break
        else:
            raise AssertionError(f"nothing was computed by {operation.name}")

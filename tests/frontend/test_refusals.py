"""Default deny: what a private function may not do, told with the user's file and line."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import comet_jax as cj

HERE = Path(__file__)
X = jax.ShapeDtypeStruct((4,), jnp.float32)
WEIGHTS = np.linspace(-1, 1, 4, dtype=np.float32)


def line_of(text: str) -> str:
    """file:line of the only line of this file with ``text``."""
    (number,) = (i for i, line in enumerate(HERE.read_text().splitlines(), 1) if text in line and "line_of" not in line)
    return f"{HERE}:{number}"


def refused(fn, error=cj.SecretLeakError, *args) -> str:
    with pytest.raises(error) as told:
        cj.private(fn).trace(*(args or (X,))).lower()
    return str(told.value)


def test_captured_weights():
    def captures(x):
        return x * WEIGHTS  # captured

    told = refused(captures, cj.CapturedWeightsError)
    assert "float32[4]" in told
    assert "`mul`" in told
    assert line_of("# captured") in told
    assert "Pass it as an argument" in told


def test_captured_weights_of_a_loop_and_as_a_result():
    loop = lambda x: jax.lax.scan(lambda c, _: (c + WEIGHTS, None), x, None, length=2)[0]
    assert "`scan`" in refused(loop, cj.CapturedWeightsError)
    assert "captured" in refused(lambda x: (x, jnp.asarray(WEIGHTS)), cj.CapturedWeightsError)


def test_a_captured_mask_is_fine():
    mask = np.tril(np.ones((4, 4), np.float32))
    cj.private(lambda x: x @ mask).trace(X).lower()


def test_a_python_if():
    def branches(x):
        if x.sum() > 0:  # branches
            return x
        return -x

    told = refused(branches)
    assert "Python `if`" in told
    assert line_of("# branches") in told
    assert "jnp.where" in told


def test_int_and_index():
    told = refused(lambda x: x * int(x[0]))  # makes an int
    assert line_of("# makes an int") in told
    assert str(HERE) in refused(lambda x: [1, 2][x[0].astype(int)] * x)


def test_numpy():
    told = refused(lambda x: x + np.asarray(x))  # leaves JAX
    assert "NumPy" in told
    assert line_of("# leaves JAX") in told


def test_printing():
    def prints(x):
        jax.debug.print("{}", x)  # prints
        return x

    told = refused(prints)
    assert line_of("# prints") in told
    assert "printing" in told
    assert re.search("`debug_(callback|print)`", told)


def test_callbacks():
    def calls(x):
        return jax.pure_callback(lambda a: a, x, x)  # calls back

    told = refused(calls)
    assert "`pure_callback`" in told
    assert line_of("# calls back") in told
    # Hidden in a branch, in a loop, and behind values that one owner knows.
    assert "`cond`" in refused(lambda x: jax.lax.cond(True, calls, lambda x: x, x))
    assert "`pure_callback`" in refused(lambda x: jax.lax.scan(lambda c, _: (calls(c), None), x, None, length=2)[0])


def test_an_operation_without_a_rule():
    told = refused(lambda x: jnp.sin(x), cj.UnsupportedOperationError, cj.seal(X))  # no rule for it
    assert "`sin`" in told
    assert line_of("# no rule for it") in told
    assert "Nothing was run" in told


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (lambda x: jnp.sort(x), "`sort` has no private rule"),
        (lambda x: x.reshape(2, 2).max(), "over one axis at a time"),
        (lambda x: x.reshape(2, 2).min(), "over one axis at a time"),
        (lambda x: x.astype(jnp.int32), "rounding a secret"),
        (lambda x: jnp.pad(x, 1, constant_values=2.0), "padded with zeros"),
        (lambda x: jnp.where(x > 0, x, -jnp.inf), "no number in fixed point|not finite|minus infinity"),
        (lambda x: x * jnp.inf, "not finite"),
        (lambda x: x / 0.0, "not finite"),
        (lambda x: x + jnp.nan, "NaN"),
        (lambda x: jax.nn.softmax(jnp.where(jnp.zeros(4, bool), x, -jnp.inf)), "every score is masked"),
        (lambda x: jnp.where(jnp.ones(4, bool).at[0].set(False), x, -1e9) * 2.0 + 1.0, "softmax"),
        (lambda x: x[x.argmax()], "slicing at a secret place|indices that one owner knows"),
        (lambda x: jax.lax.scan(lambda c, y: (c + y, c), x[0], x)[0], "scan over secrets"),
        (lambda x: jnp.concatenate([x, jnp.ones(2)]), "joining public and secret"),
        (lambda x: x[np.array([4])], "outside a table of 4 rows"),
    ],
)
def test_rules_refuse_what_they_cannot_do(fn, says):
    told = refused(fn, cj.UnsupportedOperationError, cj.seal(X))
    assert re.search(says, told), told
    assert str(HERE) in told


def test_random_keys():
    key = jax.random.key(0)
    told = refused(lambda x, k: x + jax.random.normal(k, x.shape), cj.CometError, cj.seal(X), key)
    assert "random keys" in told


class Wrapped(nnx.Module):
    def __init__(self, inner):
        self.inner = inner

    def __call__(self, x):
        return self.inner(x)


@pytest.mark.parametrize("inner", [lambda r: nnx.Dropout(0.5, rngs=r), lambda r: nnx.BatchNorm(4, rngs=r)])
def test_a_module_in_training(inner):
    model, x = Wrapped(inner(nnx.Rngs(0))), jax.ShapeDtypeStruct((2, 4), jnp.float32)
    with pytest.raises(cj.CometError, match=r"Wrapped changes its state .*eval"):
        cj.private(model).trace(x)
    model.eval()
    cj.private(model).trace(x).lower()

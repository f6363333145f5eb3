"""Default deny: what a private function may not do, told with the user's file and line."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

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


def test_captured_weights_of_a_branch():
    branch = lambda x: jax.lax.cond(x[0] > 0, lambda x: x, lambda x: jnp.asarray(WEIGHTS), x)
    assert "float32[4], used by `cond`" in refused(branch, cj.CapturedWeightsError)


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
    assert line_of("# calls back") in refused(lambda x: jax.lax.cond(x[0] > 0, calls, lambda x: x, x))
    assert "`pure_callback`" in refused(lambda x: jax.lax.while_loop(lambda x: x[0] > 0, calls, x))
    assert "`pure_callback`" in refused(lambda x: jax.lax.scan(lambda c, _: (calls(c), None), x, None, length=2)[0])


def test_an_operation_without_a_rule():
    told = refused(lambda x: jax.lax.lgamma(x), cj.UnsupportedOperationError, cj.seal(X))  # no rule for it
    assert "`lgamma`" in told
    assert line_of("# no rule for it") in told
    assert "Nothing was run" in told


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (lambda x: jax.lax.cumlogsumexp(x), "`cumlogsumexp` has no private rule"),
        (lambda x: jnp.lexsort((x, -x)), "sort by several keys"),
        (lambda x: jnp.sort(jnp.where(jnp.arange(4) > 1, x, -jnp.inf)), "no place among sorted numbers"),
        (lambda x: jax.lax.top_k(jnp.where(jnp.arange(4) > 1, x, -jnp.inf), 3), "have minus infinity among them"),
        (
            lambda x: jnp.where(jnp.arange(4) > 1, x, -jnp.inf).reshape(2, 2).max(1),
            "largest of nothing but minus infinity",
        ),
        (lambda x: jax.lax.reduce(x[:0], -jnp.inf, jax.lax.max, (0,)), "of no elements"),
        (lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (2,), (1,), ((2, 2),)), "padding alone"),
        (lambda x: jax.lax.reduce_window(x, 1.0, lambda a, b: a - b, (2,), (1,), "VALID"), "use lax.add, lax.max"),
        (lambda x: jnp.arange(4) & (x.argmax() + jnp.arange(4)), "secret integers is not supported"),
        (lambda x: (x.argmax() * 1000) // 3, "each multiple of the divisor"),
        (lambda x: 7 // (x.argmax() + 1), "by one public integer"),
        (lambda x: x.at[x.argmax()].set(0.0), "an update at secret places"),
        (lambda x: x > jnp.nan, "NaN"),
        (lambda x: x.astype(jnp.int32), "rounding a secret"),
        (lambda x: jnp.where(x > 0, x, -jnp.inf), "no number in fixed point|not finite|minus infinity"),
        (lambda x: x * jnp.inf, "not finite"),
        (lambda x: x / 0.0, "not finite"),
        (lambda x: x + jnp.nan, "NaN"),
        (lambda x: jax.nn.softmax(jnp.where(jnp.arange(4) > 1, x, -jnp.inf).reshape(2, 2)), "every score is masked"),
        (lambda x: jnp.where(jnp.ones(4, bool).at[0].set(False), x, -1e9) * 2.0 + 1.0, "softmax"),
        (lambda x: jnp.concatenate([x, jnp.array([jnp.nan, 1.0])]), "no number in fixed point|NaN"),
        (lambda x: x[np.array([4])], "outside a table of shape"),
    ],
)
def test_rules_refuse_what_they_cannot_do(fn, says):
    told = refused(fn, cj.UnsupportedOperationError, cj.seal(X))
    assert re.search(says, told), told
    assert str(HERE) in told


def test_a_loop_that_stops_by_a_secret():
    def halves(x):
        return jax.lax.while_loop(lambda v: v[0] > 1, lambda v: v / 2, x)  # stops by a secret

    told = refused(halves, cj.UnsupportedOperationError, cj.seal(X))
    assert "`while`" in told
    assert line_of("# stops by a secret") in told
    assert "fixed number of steps" in told
    assert "jnp.where" in told
    # Hidden in a loop that is fine, and in a call.
    inner = lambda x: jax.lax.scan(lambda c, _: (jax.jit(halves)(c), None), x, None, length=2)[0]
    told = refused(inner, cj.UnsupportedOperationError, cj.seal(X))
    assert "`while`" in told
    assert line_of("# stops by a secret") in told


def test_a_long_loop_whose_counter_meets_a_secret():
    def counts(x):
        return jax.lax.fori_loop(0, 100, lambda i, c: c * i, x)  # counts

    told = refused(counts, cj.UnsupportedOperationError, cj.seal(X))
    assert "`mul`" in told
    assert line_of("# counts") in told
    assert "100 steps" in told
    assert "instead of indexing" in told


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jax.lax.custom_linear_solve(lambda y: 2 * y, x, lambda _, y: y / 2),
        lambda x: jnp.linalg.inv(x.reshape(2, 2)),
        lambda x: jax.lax.reduce(x, 0.0, lambda a, b: a * b + a, (0,)),
        lambda x: jax.shard_map(lambda x: x, mesh=jax.make_mesh((1,), ("a",)), in_specs=P(), out_specs=P())(x),
    ],
    ids=["solve", "inverse", "reduction", "shard_map"],
)
def test_what_has_no_rule_is_named_with_its_line(fn):
    told = refused(fn, cj.UnsupportedOperationError, cj.seal(X))
    assert re.search(r"`\w+` (has no private rule|cannot be made private)", told), told
    assert f"{HERE}:" in told


def test_random_keys_are_public():
    noisy = lambda x, k: x + jax.random.normal(k, x.shape)
    key = jax.random.key(3)
    with cj.Session.simulated():
        x = np.float32([1, 2, 3, 4])
        found = cj.reveal(cj.private(noisy)(cj.share(x, owner="client"), key))
        np.testing.assert_allclose(found, noisy(x, key), rtol=1e-6)
    assert cj.private(noisy).call((X, key), {}).key != cj.private(noisy).call((X, jax.random.key(4)), {}).key
    told = refused(noisy, cj.CometError, cj.seal(X), jax.ShapeDtypeStruct(key.shape, key.dtype))
    assert "random keys are public" in told


class Wrapped(nnx.Module):
    def __init__(self, inner):
        self.inner = inner

    def __call__(self, x):
        return self.inner(x)


def test_a_captured_random_key():
    key = jax.random.key(3)
    told = refused(lambda x: x + jax.random.normal(key, x.shape), cj.CapturedWeightsError, X)
    assert "captured a random key, used by `random_bits`" in told


@pytest.mark.parametrize(
    ("inner", "told"),
    [
        (lambda r: nnx.Dropout(0.5, rngs=r), r"captured a random key.*eval"),
        (lambda r: nnx.BatchNorm(4, rngs=r), r"Wrapped changes its state .*eval"),
    ],
)
def test_a_module_in_training(inner, told):
    model, x = Wrapped(inner(nnx.Rngs(0))), jax.ShapeDtypeStruct((2, 4), jnp.float32)
    with pytest.raises(cj.CometError, match=told):
        cj.private(model).trace(x)
    model.eval()
    cj.private(model).trace(x).lower()

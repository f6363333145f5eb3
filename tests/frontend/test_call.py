"""Plans are cached as by ``jax.jit``: by shapes, types, and all that is public."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import comet_jax as cj
from comet_jax.frontend import call as calls

X = np.arange(4, dtype=np.float32)


@pytest.fixture
def traces(monkeypatch):
    """The shapes of every trace that is made."""
    seen, trace = [], calls.trace

    def watched(fn, avals, *rest):
        seen.append([a.shape for a in avals])
        return trace(fn, avals, *rest)

    monkeypatch.setattr(calls, "trace", watched)
    return seen


def test_a_second_call_neither_traces_nor_compiles(traces):
    f = cj.private(lambda x: x + 1.0)
    with cj.Session.simulated() as session:
        for x in (X, X + 1, X[:3]):
            y = cj.reveal(f(cj.seal(cj.share(x, owner="client"))))
            np.testing.assert_allclose(y, x + 1, atol=1e-5)
            compiled = len(session._compiled)
            with jax.log_compiles(False):
                f(cj.seal(cj.share(x, owner="client")))
            assert len(session._compiled) == compiled
    assert traces == [[(4,)], [(3,)]]


def keyed(fn, *args, **kwargs):
    return cj.private(fn).call(args, kwargs).key


def test_the_key_knows_kinds_of_arguments():
    f = lambda x, flag=False: x
    shape, sealed = jax.ShapeDtypeStruct((4,), jnp.float32), cj.seal(jax.ShapeDtypeStruct((4,), jnp.float32))
    keys = [
        keyed(f, shape),
        keyed(f, sealed),
        keyed(f, X),
        keyed(f, X + 1),
        keyed(f, X.astype(np.float16)),
        keyed(f, X, flag=True),
        keyed(f, X, flag=1),
        keyed(f, X, flag=1.0),
        keyed(f, X, 0.0),
        keyed(f, X, -0.0),
        keyed(f, cj.seal(shape, cj.Policy(ring=64))),
        cj.private(f, policy=cj.Policy(ring=64)).call((X,), {}).key,
    ]
    assert len(set(keys)) == len(keys)
    assert keyed(f, X) == keyed(f, X.copy())


class Scale(nn.Module):
    by: dict | float

    def __call__(self, x):
        return x * (self.by if isinstance(self.by, float) else self.by["factor"])


def test_modules_of_other_hyperparameters_have_other_keys():
    assert keyed(Scale(2.0).apply, {}, X) != keyed(Scale(3.0).apply, {}, X)
    assert keyed(Scale(2.0).apply, {}, X) == keyed(Scale(2.0).apply, {}, X)


class Unhashable:
    def __init__(self, factor):
        self.factor = factor

    def __eq__(self, other):
        return NotImplemented

    __hash__ = None

    def __call__(self, x):
        return x * self.factor

    @cj.private
    def method(self, x):
        return x * self.factor


def test_an_object_that_cannot_be_hashed_is_known_by_itself():
    f = Unhashable(2.0)
    assert keyed(f.__call__, X) == keyed(f.__call__, X)
    assert keyed(f.__call__, X) != keyed(Unhashable(2.0).__call__, X)


def test_an_id_that_is_used_again_does_not_find_the_plan_of_the_dead():
    with cj.Session.simulated():
        x = cj.share(X, owner="client")
        for factor in range(8):
            # Without the key's hold on it, the next object is likely to get the address of the last.
            y = cj.reveal(Unhashable(float(factor)).method(x))
            np.testing.assert_array_equal(y, X * factor)


def test_what_is_no_array_is_left_to_python():
    def f(x, mode, deterministic=False):
        assert isinstance(deterministic, bool)
        return x if mode == "same" and deterministic else -x

    with cj.Session.simulated():
        x = cj.share(X, owner="client")
        np.testing.assert_array_equal(cj.reveal(cj.private(f)(x, "same", deterministic=True)), X)
        np.testing.assert_array_equal(cj.reveal(cj.private(f)(x, "same")), -X)


def test_a_setting_that_cannot_be_hashed_is_refused():
    with pytest.raises(cj.CometError, match="neither an array nor hashable"):
        keyed(lambda x, s: x, X, {1, 2})


def test_names_are_paths():
    names = [x.name for x in cj.private(lambda p, x, *, mask: x).call(
        ({"params": {"dense": {"kernel": jax.ShapeDtypeStruct((1,), int)}}}, jax.ShapeDtypeStruct((1,), int)),
        {"mask": jax.ShapeDtypeStruct((1,), int)},
    ).trace().inputs]  # fmt: skip
    assert names == ["params/dense/kernel", "argument 1", "mask"]

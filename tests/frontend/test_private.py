"""What ``@private`` leaves alone, and what it takes over."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import comet_jax as cj


class Plain(nn.Module):
    width: int = 3

    @nn.compact
    def __call__(self, x, double: bool = False):
        y = nn.Dense(self.width)(x)
        return 2 * y if double else y


@cj.private
class Decorated(Plain):
    """A linen class, decorated bare."""


@cj.private(policy=cj.Policy(ring=64))
class Module(nnx.Module):
    """An nnx class, decorated with arguments."""

    def __init__(self, rngs):
        self.dense = nnx.Linear(4, 3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, deterministic=True, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.dense(x))


X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def params():
    return Plain().init(jax.random.key(0), X)


def test_a_class_stays_the_class_it_was():
    assert isinstance(Decorated(), Plain)
    assert Decorated.__doc__ == "A linen class, decorated bare."
    assert Decorated.apply.__name__ == "apply"
    assert cj.private(policy=cj.Policy(ring=64))(Decorated) is Decorated
    cj.private(Decorated)


def test_undecorated_behaviour_is_unchanged_on_ordinary_arrays(params):
    other = Decorated().init(jax.random.key(0), X)
    jax.tree.map(np.testing.assert_array_equal, params, other)
    for apply in (Decorated().apply, cj.private(Plain()).apply, cj.private(Plain().apply)):
        np.testing.assert_array_equal(apply(params, X, double=True), Plain().apply(params, X, double=True))
    np.testing.assert_array_equal(jax.jit(Decorated().apply)(params, X), jax.jit(Plain().apply)(params, X))
    assert cj.private(Plain(width=7)).width == 7


def test_a_decorated_class_trains_as_before(params):
    optimiser = optax.sgd(0.1)

    def step(model, params):
        loss = lambda p: (model.apply(p, X) ** 2).mean()
        updates, _ = optimiser.update(jax.grad(loss)(params), optimiser.init(params), params)
        return optax.apply_updates(params, updates)

    jax.tree.map(np.testing.assert_array_equal, step(Decorated(), params), step(Plain(), params))


def test_an_nnx_class_trains_as_before():
    model = Module(nnx.Rngs(0))
    before = (model(X) ** 2).mean()
    gradient = nnx.grad(lambda m: (m(X) ** 2).mean())(model)
    nnx.update(model, jax.tree.map(lambda p, g: p - 0.1 * g, nnx.state(model, nnx.Param), gradient))
    assert (model(X) ** 2).mean() < before


def test_every_form_computes_privately(params):
    module = Module(nnx.Rngs(1))
    with cj.Session.simulated() as session:
        weights, x = cj.share(params, owner="model"), cj.share(X, owner="client")
        for apply in (Decorated().apply, cj.private(Plain()).apply, cj.private(Plain().apply)):
            y = apply(weights, x, double=True)
            assert isinstance(y, cj.Secret)
            np.testing.assert_allclose(cj.reveal(y), Plain().apply(params, X, double=True), atol=2e-3)
        shared = cj.share(module, owner="model")
        np.testing.assert_allclose(cj.reveal(shared(x)), module(X), atol=1e-4)
        assert len(session.plans) == 3  # equal linen modules are one


def test_a_policy_replaces_that_of_what_is_private_already():
    at_64 = cj.Policy(ring=64)
    assert cj.private(cj.private(jnp.sin), policy=at_64).policy == at_64
    assert cj.private(cj.private(Plain()), policy=at_64).apply.policy == at_64
    assert cj.private(Module(nnx.Rngs(0)), policy=cj.Policy()).policy.ring == 32
    assert Module(nnx.Rngs(0)).__call__.policy.ring == 64


def test_what_is_no_module_and_no_function_is_refused():
    with pytest.raises(cj.CometError, match="takes a Flax module, its class, or a function, not int"):
        cj.private(3)


def test_a_module_that_changes_while_it_is_used_gets_another_plan():
    module = Module(nnx.Rngs(0))
    key = lambda: type(module).__call__.__get__(module).call((X,), {}).key
    first = key()
    assert first == key()
    module.dropout.rate = 0.25
    assert first != key()

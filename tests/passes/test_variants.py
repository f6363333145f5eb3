"""The variant of a program that is fastest on a link, and that all of them compute the same."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ideal_world import Ideal

import comet_jax as cj
from comet_jax import cases
from comet_jax.passes.variants import VARIANTS, priced

X = np.linspace(-6, 6, 24, dtype=np.float32).reshape(2, 12)
NOTHING = cases.Gating(gate=1 / 8, block=64, reveals="nothing")
SHAPE = jax.ShapeDtypeStruct((64, 64), jnp.float32)


def everything(x):
    """Each use of a comparison's bit: gates, integers, both, flags; alone, in a loop, in a tournament."""
    loop = jax.lax.scan(lambda c, row: (jnp.maximum(c, row), None), x[0], x)[0]
    own = jax.nn.relu(x), jax.nn.gelu(x), jnp.tanh(x), jnp.sign(x), jnp.floor(x), jnp.log(jnp.abs(x) + 0.5)
    return *own, 1 / (x + 0.25), jnp.exp(x / 4), x.max(-1), x.argmax(-1), jnp.where(x > 1, x, 0.5), loop


@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_they_compute_the_same(variant):
    found = Ideal(everything, (X,), ("sealed",), cj.Policy(variant=variant)).results()
    for got, wanted in zip(found, everything(X), strict=True):
        np.testing.assert_allclose(got, wanted, atol=8e-3, rtol=1e-3)


def test_links_that_wait_take_fewer_rounds_and_slow_dealers_less_material():
    x = cj.seal(SHAPE)
    slow = cj.Link(latency=20e-3, bandwidth=1e9)
    assert cj.fastest(jax.nn.relu, x, link=slow).variant == VARIANTS[2]
    assert cj.fastest(jax.nn.relu, x, link=replace(slow, latency=0.0), dealt=0.0).variant == VARIANTS[1]
    assert cj.fastest(jax.nn.relu, x, link=replace(slow, latency=0.0), dealt=1.0).variant == VARIANTS[0]


def test_the_policy_is_otherwise_the_same():
    policy = cj.Policy(ring=64, published=("embedding",))
    found = cj.fastest(jax.nn.relu, cj.seal(SHAPE, policy), link=cj.LINKS["far"], policy=policy)
    assert replace(found, variant=policy.variant) == policy
    told = str(cj.explain(jax.nn.relu, cj.seal(SHAPE), policy=cj.Policy(variant=VARIANTS[2])))
    assert "variant: comparisons by digits of 8 bits, looked up in words of 3 bits" in told


def test_gates_are_left_out_where_they_do_not_pay():
    layer = cases.gated(cases.make("ffn", 1), cases.Gating(gate=1 / 8, block=16))
    policy, shape = layer.policy(32), lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype)
    arguments = jax.tree.map(shape, layer.weights), cj.seal(shape(layer.x), policy)
    chosen = lambda link, **more: cj.fastest(layer.function, *arguments, link=link, policy=policy, **more)
    # Three rounds more wait longer than an eighth of the work takes, unless the link is fast or the machine slow.
    assert chosen(cj.LINKS["far"]).gates == ()
    assert chosen(cj.LINKS["lan"], dealt=0.0).gates == policy.gates
    assert chosen(cj.LINKS["far"], speed=1e7).gates == policy.gates


def test_an_epoch_is_priced_whole():
    """Its first call, in which least is computed, with a share of what sharing the weights afresh takes."""
    once, often = (cases.gated(cases.make("ffn", 1), gating) for gating in (NOTHING, replace(NOTHING, epoch=4)))
    shape = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype)
    priced_of = []
    for layer in (once, often):
        policy = layer.policy(32)
        traced = cj.private(layer.function, policy=policy).trace(
            jax.tree.map(shape, layer.weights), cj.seal(shape(layer.x), policy)
        )
        calls = [traced.lower(call) for call in range(policy.epoch)]
        found = next(priced(lambda p, call, calls=calls: calls[call], policy, cj.LINKS["lan"]))
        assert found.online_bytes == np.mean([c.program.online_bytes for c in calls])
        assert found.offline_bytes == np.mean([c.program.offline_bytes + c.renewal_bytes for c in calls])
        priced_of.append(found)
    assert priced_of[0].online_bytes < priced_of[1].online_bytes
    assert priced_of[0].offline_bytes > 3 * priced_of[1].offline_bytes
    assert priced_of[0].products < priced_of[1].products


@pytest.mark.parametrize("options", [{"digit": 3}, {"digit": 9}, {"word": 6}, {"word": -1}])
def test_what_is_no_variant(options):
    with pytest.raises(ValueError, match="bits"):
        cj.Variant(**options)

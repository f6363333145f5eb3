"""Predictors that read what attention has opened: as right as others, and without a round of their own."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gates import exact
from two_parties import Caught, TwoParties

import comet_jax as cj
from comet_jax.errors import CometError
from comet_jax.predictors import Predictor

D, H, HEADS, TOKENS = 8, 16, 2, 3
draw = np.random.default_rng(0)
n = lambda *shape: draw.normal(0, 0.4, shape).astype(np.float32)
WEIGHTS = {**{k: n(D, D) for k in ("q", "k", "v", "out")}, "up": n(D, H), "bias": n(H), "down": n(H, D)}
X = draw.normal(0, 1, (TOKENS, D)).astype(np.float32)
rms = lambda x: x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)


def layer(normed):
    """A decoder layer. Without norms, what the feed-forward layer takes is linear in what attention has opened."""
    norm = rms if normed else lambda x: x

    def function(w, x):
        heads = lambda y: y.reshape(*x.shape[:-1], HEADS, -1).swapaxes(-2, -3)
        q, k, v = (heads(norm(x) @ w[c]) for c in "qkv")
        mixed = jax.nn.softmax(q @ k.swapaxes(-1, -2) / 2) @ v
        x = x + mixed.swapaxes(-2, -3).reshape(x.shape) @ w["out"]
        return x + jax.nn.relu(norm(x) @ w["up"] + w["bias"]) @ w["down"]

    return function


def stacked(w, x):
    return jax.lax.scan(lambda x, w: (layer(False)(w, x), None), x, w)[0]


def ahead(weights, **options) -> Predictor:
    """An exact predictor, as the layer's input is x + mixed W_out."""
    of = exact("up", [w["up"] for w in weights], [w["bias"] for w in weights], **options)
    read = [np.concatenate([np.eye(D), w["out"]]) for w in weights]
    layers = tuple(replace(x, a=a) for x, a in zip(of.layers["up"], read))
    return Predictor(tuple(replace(s, ahead=(D, D)) for s in of.sites), {"up": layers})


def gated(made, reveals="flags", ring=32, **options):
    return cj.Policy(ring=ring, gates=(cj.Gate(predictor=made, reveals=reveals, **options),))


def lowered(function, policy, weights=WEIGHTS, x=X):
    shape = jax.ShapeDtypeStruct
    shapes = jax.tree.map(lambda a: shape(a.shape, np.float32), weights)
    return cj.private(function, policy=policy).trace(shapes, cj.seal(shape(x.shape, np.float32))).lower()


def run(function, policy, weights, x, make=cj.Session.ideal):
    with make():
        sealed = cj.seal(cj.share(x, "client"), policy)
        return cj.reveal(cj.private(function, policy=policy)(cj.share(weights, "model"), sealed))


@pytest.mark.parametrize("reveals", ["flags", "nothing"])
@pytest.mark.parametrize("ring", [32, 64])
@pytest.mark.parametrize("make", [cj.Session.ideal, cj.Session.simulated])
def test_a_layer_is_as_right_as_without_its_gate(make, ring, reveals):
    found = run(layer(False), gated(ahead([WEIGHTS]), reveals, ring), WEIGHTS, X, make)
    np.testing.assert_allclose(found, layer(False)(WEIGHTS, X), atol=0.04)


def test_every_step_of_a_scan_has_its_own():
    each = [{k: n(*v.shape) / 2 for k, v in WEIGHTS.items()} for _ in range(2)]
    weights = {k: np.stack([w[k] for w in each]) for k in WEIGHTS}
    found = run(stacked, gated(ahead(each)), weights, X)
    np.testing.assert_allclose(found, stacked(weights, X), atol=0.05)


def test_sequences_of_a_batch_are_read_together():
    batch = np.stack([X, X[::-1]])
    found = run(layer(False), gated(ahead([WEIGHTS])), WEIGHTS, batch)
    np.testing.assert_allclose(found, layer(False)(WEIGHTS, batch), atol=0.04)


def test_neurons_that_are_not_asked_for_stay_out():
    """Without them the result is another one, so the test above looks at what the predictor says."""
    made = ahead([WEIGHTS], margin=-0.2)
    found = run(layer(False), gated(made), WEIGHTS, X)
    assert np.abs(found - layer(False)(WEIGHTS, X)).max() > 0.5


def test_it_waits_for_none_of_its_rounds():
    """Three beside a dense layer where it reads the layer's input; none where it runs beside the norm, nor to cut."""
    made = ahead([WEIGHTS], capacity=0.25)
    late = exact("up", [WEIGHTS["up"]], [WEIGHTS["bias"]])
    policies = (cj.Policy(), gated(late), gated(made), gated(made, overflow="scores"))
    rounds = [lowered(layer(True), p).program.round_count for p in policies]
    assert rounds == [rounds[0], rounds[0] + 3, rounds[0], rounds[0]]


def test_two_parties_compute_what_the_ideal_world_does():
    with Caught() as session:
        policy = gated(ahead([WEIGHTS], capacity=0.25), overflow="scores")
        cj.private(layer(True), policy=policy)(cj.share(WEIGHTS, "model"), cj.share(X, "client"))
    program = session.plan.program
    assert session.plan.lowered.proof.disclosed == (("up", TOKENS * H),)
    run = TwoParties(program, apart=True).run([np.repeat(v[None], 2, 0) for v in session.values()], seed=1)
    for got, expected in zip(run.outputs, run.ideal, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("function", [layer(True), lambda w, x: jax.nn.relu(x @ w["up"] + w["bias"]) @ w["down"]])
def test_a_predictor_that_reads_what_is_not_there_is_refused(function):
    sites = tuple(replace(s, ahead=(D, D + 1)) for s in ahead([WEIGHTS]).sites)
    with pytest.raises(CometError, match=r"up: the predictor reads \(8, 9\) of the attention before the layer"):
        lowered(function, gated(Predictor(sites)))

"""Whole small models, private against plain."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from ideal_world import Ideal
from zoo import IMAGE, ZOO, Example, linen

import comet_jax as cj


def shared(example: Example) -> tuple:
    """The private function and its arguments, in a session."""
    inputs = (*(cj.share(x, owner="client") for x in example.inputs), *example.public)
    if example.weights is None:
        return cj.private(cj.share(example.model, owner="model")), inputs
    return cj.private(example.model).apply, (cj.share(example.weights, owner="model"), *inputs)


# Attention and feed-forward layers that the compiler sees in them.
LAYERS = {name: ["attention", "feed-forward"] for name in ("encoder", "vision transformer", "GPT-2", "Llama")} | {
    "decoder in nnx": ["attention", "feed-forward"],
    "MLP": ["feed-forward"],
    "LeNet": ["feed-forward"],
    "mixer": ["feed-forward", "feed-forward"],
}


@pytest.mark.parametrize("name", ZOO)
def test_calibrated_models_are_right_in_32_bits(name):
    """In the ideal world, which a session equals bit for bit; what calibration chose is then explained."""
    with cj.Session.simulated():
        function, arguments = shared(ZOO[name]())
        found = cj.calibrate(function, arguments)
        told = cj.explain(function, *arguments, policy=found.policy)
    assert found.policy.ring == 32, found.refused
    assert found.error < 0.01 * max(found.size, 1.0)
    assert min(h.spare for h in found.headroom) >= 0
    assert told.rounds > 0
    assert sum(r.online_bytes for r in told.operations) > 0
    assert [layer.split(" ")[0] for layer in told.layers] == LAYERS.get(name, [])


@pytest.mark.parametrize("name", ["LeNet", "LSTM in nnx", "GRU", "decoder in nnx"])
def test_models_in_a_session(name):
    example = ZOO[name]()
    with cj.Session.simulated():
        function, arguments = shared(example)
        policy = cj.calibrate(function, arguments).policy
        got = cj.reveal(function.under(policy)(*arguments))
    np.testing.assert_allclose(got, example.plain(), atol=0.01)


@pytest.mark.parametrize("name", ["ResNet"])
def test_models_in_64_bits_need_no_examples(name):
    example = ZOO[name]()
    owners = ("model", *("client" for _ in example.inputs))
    call = Ideal(example.model.apply, (example.weights, *example.inputs), owners, cj.Policy(ring=64))
    np.testing.assert_allclose(call.results()[0], example.plain(), atol=2e-3)


class Convolution(nn.Module):
    normalised: bool

    @nn.compact
    def __call__(self, x):
        for features in (3, 4):
            x = nn.Conv(features, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True)(x) if self.normalised else x)
        return x


def test_batch_norm_costs_nothing():
    """Its owner folds it into the convolution before it."""
    costs = []
    for normalised in (True, False):
        example = linen(Convolution(normalised), IMAGE)
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (example.weights, *example.inputs))
        told = cj.explain(cj.private(example.model).apply, *shapes)
        costs.append((told.rounds, told.online_bytes, told.offline_bytes))
    assert costs[0] == costs[1]

"""What is seen of a model's layers: their inputs, weights and activations, however the model is written."""

import jax
import numpy as np
import pytest
import small

from comet_jax.errors import CometError
from comet_jax.predictors.artifact import fingerprint
from predictor_training import tasks
from predictor_training.graphs import gated, tap
from predictor_training.layers import Model, hidden, layers

ACTIVATIONS = {"plain": jax.nn.relu, "scanned": jax.nn.relu, "nested": jax.nn.relu, "of_nnx": jax.nn.gelu}


def traced(name):
    task = tasks.of(small.EVERY[name], held_out=4)
    return task, Model.of(task.fn, task.weights, task.example)


@pytest.mark.parametrize("name", small.EVERY)
def test_inputs_and_activations_make_the_layers_result(name):
    task, model = traced(name)
    examples = np.stack([x for (x,) in task.calibration()])
    seen = model.observe([examples])
    expected = np.asarray(jax.vmap(lambda x: task.fn(task.weights, x))(examples))
    for ffn, x in zip(model.ffns, seen):
        ahead = 2 * small.WIDTH if name == "attending" else 0
        assert x.shape == (4, layers(ffn), small.TOKENS, small.WIDTH + ahead)
        x = x[..., : small.WIDTH]
        weights = model.weights[ffn.site]
        assert weights.up.shape == (layers(ffn), small.WIDTH, small.NEURONS)
        assert weights.fingerprints == tuple(map(fingerprint, weights.up))
        for i in range(layers(ffn)):
            h = np.asarray(hidden(ffn)(x[:, i], [w[i] for w in weights.inputs]))
            if name in ACTIVATIONS:
                bias = weights.inputs[1][i] if ffn.up.bias is not None else 0
                np.testing.assert_allclose(h, ACTIVATIONS[name](x[:, i] @ weights.up[i] + bias), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(weights.down[i], np.linalg.norm(_down(task, name, ffn, i), axis=1), rtol=1e-5)
    if name in ("plain", "gated_silu"):
        np.testing.assert_allclose(expected, examples + h @ np.asarray(task.weights["down"]), rtol=1e-4, atol=1e-5)


def test_what_attention_has_opened_is_observed_where_it_leads_to_a_layer():
    task, model = traced("attending")
    (ffn,), (x,) = model.ffns, task.example
    assert [v.shape for v in model.read_ahead(ffn)] == [(small.TOKENS, small.WIDTH)] * 2
    (seen,) = model.observe([x[None]])
    middle, first, mixed = (seen[0, 0, :, i * small.WIDTH : (i + 1) * small.WIDTH] for i in range(3))
    np.testing.assert_array_equal(first, x)
    np.testing.assert_allclose(middle, first + mixed @ task.weights["out"], rtol=1e-4, atol=1e-5)
    plain = Model.of(task.fn, task.weights, task.example, ahead=False)
    np.testing.assert_array_equal(plain.observe([x[None]])[0], seen[..., : small.WIDTH])
    assert plain.digest != model.digest


def _down(task, name, ffn, i):
    if name == "scanned":
        return task.weights["params"]["blocks"]["down"]["kernel"][i]
    if name == "of_nnx":
        return task.weights[ffn.site.split("/")[0]].down.kernel.get_value()
    return task.weights["down"].reshape(-1, small.NEURONS, small.WIDTH)[i]


def own(model):
    return {f: (f.up.x,) for f in model.ffns}


def keep(x, hidden, *_):
    return hidden, np.float32([1])


def drop(x, hidden, *_):
    return 0 * hidden, hidden.sum()[None]


@pytest.mark.parametrize("name", small.EVERY)
def test_a_gate_replaces_what_the_second_weight_sees(name):
    task, model = traced(name)
    (x,) = task.example
    kept = gated(model.graph, dict.fromkeys(model.ffns, keep), own(model), dict.fromkeys(model.ffns, ()), 1)
    out, *ones = jax.jit(kept.evaluate)(*model.arrays, x)
    np.testing.assert_allclose(out, task.fn(task.weights, x), rtol=1e-5, atol=1e-6)
    assert [n.shape for n in ones] == [(*f.steps, 1) for f in model.ffns]
    assert all((n == 1).all() for n in ones)
    dropped = gated(model.graph, dict.fromkeys(model.ffns, drop), own(model), dict.fromkeys(model.ffns, ()), 1)
    out, *sums = jax.jit(dropped.evaluate)(*model.arrays, x)
    if name != "attending":
        np.testing.assert_allclose(out, x, rtol=1e-6)  # residuals alone: no model here adds a bias to them
    assert all((np.abs(s) > 1e-4).any() for s in sums)


def test_each_layer_gets_its_own_arrays():
    task, model = traced("nested")
    (ffn,), (x,) = model.ffns, task.example
    rule = lambda x, hidden, scale: (hidden * scale, scale)
    graph = gated(model.graph, {ffn: rule}, own(model), {ffn: [np.zeros(1, np.float32)]}, 1)
    scales = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    out, noted = graph.evaluate(*model.arrays, x, scales)
    np.testing.assert_array_equal(noted, scales)
    scaled = {"up": task.weights["up"], "down": task.weights["down"] * scales[..., None]}
    np.testing.assert_allclose(out, task.fn(scaled, x), rtol=1e-5, atol=1e-6)


def test_values_are_tapped_in_the_order_asked_for():
    task, model = traced("scanned")
    (ffn,) = model.ffns
    graph = tap(model.graph, [ffn.hidden, model.graph.inputs[0], ffn.up.x])
    _, h, first, x = graph.evaluate(*model.arrays, *task.example)
    assert (h.shape, x.shape) == ((3, small.TOKENS, small.NEURONS), (3, small.TOKENS, small.WIDTH))
    np.testing.assert_array_equal(first, model.arrays[0])


def test_models_without_layers_are_refused():
    with pytest.raises(CometError, match="no feed-forward layer was found: predictors are for act"):
        Model.of(lambda w, x: x @ w, np.zeros((3, 3), np.float32), (np.zeros((2, 3), np.float32),))


def test_layers_that_share_weights_are_refused():
    _, weights, examples, _ = small.nested()
    weights = {k: w[0, 0] for k, w in weights.items()}
    function = lambda w, x: jax.lax.scan(
        lambda x, _: (x + jax.nn.relu(x @ w["up"]) @ w["down"], None), x, None, length=2
    )[0]
    with pytest.raises(CometError, match="steps of its loop share their weights"):
        _ = Model.of(function, weights, next(examples)).weights

"""The bundled byte LM: its file, and private predictions against those in the clear."""

import json
import pydoc_data.topics
from dataclasses import asdict

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import comet_jax as cj
from comet_jax.models import byte_lm
from comet_jax.models.byte_lm import ByteLM, ByteLMConfig

TINY = ByteLMConfig(vocabulary=7, context=5, width=8, layers=2, heads=2, hidden=12)


@pytest.fixture(scope="module")
def bundled():
    return byte_lm.load()


@pytest.fixture(scope="module")
def tiny():
    return jax.jit(ByteLM(TINY).init)(jax.random.key(0), np.zeros(5, np.int32))


def test_save_and_load_give_the_same_model(tmp_path, tiny):
    path = tmp_path / "new" / "model.safetensors"
    byte_lm.save(path, TINY, tiny, steps="3")
    config, params = byte_lm.load(path)
    assert config == TINY
    assert jax.tree.structure(params) == jax.tree.structure(tiny)
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(tiny)):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=2.0**-8)  # bfloat16
    byte_lm.save(path, config, params)
    again = byte_lm.load(path)[1]
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(again)))


def write(path, config=None, **tensors):
    metadata = None if config is None else {"config": config if isinstance(config, str) else json.dumps(config)}
    save_file(tensors or {"x": np.zeros(2, np.float32)}, path, metadata=metadata)


@pytest.mark.parametrize(
    "config", [None, "{", "[]", {"depth": 2}, {"heads": 0}, {"width": "wide"}, {"width": 8, "heads": 3}]
)
def test_a_foreign_file(tmp_path, config):
    path = tmp_path / "other.safetensors"
    write(path, config)
    with pytest.raises(cj.CometError, match=r"other.safetensors is not a checkpoint of ByteLM"):
        byte_lm.load(path)


@pytest.mark.parametrize("keep", [0, 7, 400, -1])
def test_a_truncated_file(tmp_path, tiny, keep):
    path = tmp_path / "short.safetensors"
    byte_lm.save(path, TINY, tiny)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(cj.CometError, match=r"short.safetensors is not a checkpoint of ByteLM"):
        byte_lm.load(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(cj.CometError, match=r"nowhere.safetensors"):
        byte_lm.load(tmp_path / "nowhere.safetensors")


def changed(tiny, **changes):
    flat = {"/".join(k.key for k in path[1:]): np.array(x) for path, x in jax.tree_util.tree_leaves_with_path(tiny)}
    return {name: x for name, x in (flat | changes).items() if x is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head/kernel": np.zeros((7, 8), np.float32)}, r"head/kernel should be \(8, 7\) and is \(7, 8\)"),
        ({"blocks/up/bias": None}, r"blocks/up/bias should be \(2, 12\) and is missing"),
        ({"head/bias": np.zeros(7, np.float32)}, r"head/bias should be none and is \(7,\)"),
        ({"norm/scale": np.full(8, np.nan, np.float32)}, "norm/scale holds a value that is not finite"),
    ],
)
def test_a_tensor_that_is_wrong(tmp_path, tiny, changes, message):
    path = tmp_path / "model.safetensors"
    write(path, asdict(TINY), **changed(tiny, **changes))
    with pytest.raises(cj.CometError, match=message) as caught:
        byte_lm.load(path)
    assert str(path) in str(caught.value)


def test_the_bundled_weights_have_learned_english(bundled):
    config, params = bundled
    text = np.frombuffer(b"The function returns the value of the argument that was given.", np.uint8).astype(np.int32)
    predicted = jax.nn.log_softmax(jax.jit(ByteLM(config).apply)(params, text[:-1]))
    assert -predicted[np.arange(len(text) - 1), text[1:]].mean() < 2  # uniform: 5.5 nats a byte


def windows(count: int, length: int = 64):
    """Prompts from Python's manual, a page apart."""
    text = pydoc_data.topics.topics["assignment"].encode()
    starts = np.linspace(0, len(text) - length, count).astype(int)
    return [np.frombuffer(text[i : i + length], np.uint8).astype(np.int32) for i in starts]


@pytest.mark.parametrize("ring", [32, 64])
def test_private_predictions_are_those_in_the_clear(ring, bundled):
    config, params = bundled
    model = ByteLM(config)
    plain, private = jax.jit(model.apply), cj.private(model, policy=byte_lm.policy(ring))
    same, differences = [], []
    with cj.Session.simulated():
        weights = cj.share(params, owner="model")
        for tokens in windows(4):
            found = cj.reveal(private.apply(weights, cj.share(tokens, owner="client")))
            wanted = np.asarray(plain(params, tokens))
            same.append(found.argmax(-1) == wanted.argmax(-1))
            differences.append(np.abs(found - wanted).max())
    assert np.size(same) == 256
    assert np.mean(same) >= 0.99
    # Logits reach 23. In 32 bits weights have 12 after the point: four layers of them add up to this.
    assert max(differences) < (0.1 if ring == 32 else 0.04)

"""Reading checkpoints: every tensor in its place, and messages that name what is wrong."""

import json
from math import erf

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from comet_jax import CometError
from comet_jax.models.bert import Bert
from comet_jax.models.huggingface import load_bert

CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "vocab_size": 11,
    "max_position_embeddings": 7,
    "type_vocab_size": 2,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "layer_norm_eps": 1e-6,
}
TOKENS = np.array([3, 1, 10, 4], np.int32)


def checkpoint() -> dict[str, np.ndarray]:
    """Random tensors in the names and the layout of PyTorch's BERT."""
    r = np.random.default_rng(0)
    shapes = {
        f"embeddings.{k}_embeddings.weight": (n, 8) for k, n in (("word", 11), ("position", 7), ("token_type", 2))
    }
    dense = {"attention.self.query": (8, 8), "attention.self.key": (8, 8), "attention.self.value": (8, 8)}
    dense |= {"attention.output.dense": (8, 8), "intermediate.dense": (12, 8), "output.dense": (8, 12)}
    norms = ["embeddings.LayerNorm"]
    for i in range(2):
        at = f"encoder.layer.{i}."
        norms += [at + "attention.output.LayerNorm", at + "output.LayerNorm"]
        for name, shape in dense.items():
            shapes |= {f"{at}{name}.weight": shape, f"{at}{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (8,), f"{name}.bias": (8,)}
    return {name: r.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def bert_of_pytorch(t: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """The model, written down from PyTorch's names and layout."""

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + CONFIG["layer_norm_eps"])
        return x * t[name + ".weight"] + t[name + ".bias"]

    dense = lambda x, name: x @ t[name + ".weight"].T + t[name + ".bias"]
    x = t["embeddings.word_embeddings.weight"][tokens] + t["embeddings.position_embeddings.weight"][: len(tokens)]
    x = norm(x + t["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for i in range(2):
        at = f"encoder.layer.{i}."
        q, k, v = (dense(x, f"{at}attention.self.{n}") for n in ("query", "key", "value"))
        heads = []
        for h in (slice(0, 4), slice(4, 8)):
            e = np.exp(q[:, h] @ k[:, h].T / 2)
            heads.append(e / e.sum(-1, keepdims=True) @ v[:, h])
        x = norm(x + dense(np.hstack(heads), at + "attention.output.dense"), at + "attention.output.LayerNorm")
        h = dense(x, at + "intermediate.dense")
        h = h * (1 + np.vectorize(erf)(h / np.sqrt(2))) / 2
        x = norm(x + dense(h, at + "output.dense"), at + "output.LayerNorm")
    return x


@pytest.fixture
def written(tmp_path):
    """Writes a checkpoint, with changes, and gives its folder."""

    def write(tensors=None, **settings):
        (tmp_path / "config.json").write_text(json.dumps(CONFIG | settings))
        save_file(checkpoint() if tensors is None else tensors, tmp_path / "model.safetensors")
        return tmp_path

    return write


def test_every_tensor_has_its_place(written):
    config, params = load_bert(written())
    np.testing.assert_allclose(Bert(config).apply(params, TOKENS), bert_of_pytorch(checkpoint(), TOKENS), atol=1e-4)


def test_the_encoder_of_a_task_model_in_half_precision(written):
    half = {f"bert.{name}": x.astype(ml_dtypes.bfloat16) for name, x in checkpoint().items()}
    half["cls.predictions.bias"] = np.zeros(11, np.float32)
    _, params = load_bert(written(half))
    kernel = params["params"]["layers"]["up"]["kernel"]
    name = "encoder.layer.1.intermediate.dense.weight"
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel[1], half["bert." + name].astype(np.float32).T)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "roberta"}, "model_type should be 'bert' and is 'roberta'"),
        ({"hidden_act": "relu"}, "hidden_act should be 'gelu' and is 'relu'"),
        ({"hidden_size": "8"}, "hidden_size should be a positive number and is '8'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers should be a positive number and is 0"),
        ({"num_attention_heads": 3}, "not a multiple of 3 attention heads"),
    ],
)
def test_a_configuration_of_another_model(written, settings, message):
    with pytest.raises(CometError, match=message) as caught:
        load_bert(written(**settings))
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"model_type": "bert"}'])
def test_a_configuration_that_is_none(written, text):
    folder = written()
    path = folder / "config.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(CometError, match=r"config.json is not the configuration of a BERT model"):
        load_bert(folder)


def test_a_tensor_that_is_missing(written):
    tensors = checkpoint()
    del tensors["encoder.layer.1.output.dense.bias"]
    with pytest.raises(CometError, match=r"model.safetensors: .*encoder.layer.1.output.dense.bias is missing"):
        load_bert(written(tensors))


def test_a_tensor_of_another_shape(written):
    with pytest.raises(CometError, match=r"word_embeddings.weight should be \(12, 8\) and is \(11, 8\)"):
        load_bert(written(vocab_size=12))


def test_a_tensor_that_is_not_finite(written):
    tensors = checkpoint()
    tensors["encoder.layer.0.attention.self.key.bias"][3] = np.nan
    with pytest.raises(CometError, match=r"layer.0.attention.self.key.bias holds a value that is not finite"):
        load_bert(written(tensors))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"not tensors at all"])
def test_a_damaged_file(written, damage):
    path = written() / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CometError, match=r"model.safetensors is not a safetensors checkpoint"):
        load_bert(path.parent)


def test_a_missing_file(written):
    folder = written()
    (folder / "model.safetensors").unlink()
    with pytest.raises(CometError, match=r"model.safetensors"):
        load_bert(folder)

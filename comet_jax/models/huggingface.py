"""Reading Hugging Face checkpoints: a folder with ``config.json`` and ``model.safetensors``.

Names and shapes of every tensor are checked against the model before it is returned.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open

from comet_jax.errors import CometError
from comet_jax.models.bert import Bert, BertConfig

Read = Callable[[str], np.ndarray]

# Fields of ``BertConfig`` by their names in config.json, and the settings that the model takes for granted.
SIZES = {
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
    "types": "type_vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "eps": "layer_norm_eps",
}
SETTINGS = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}

# Flax modules by their names in the checkpoint. Those of the second table are in every layer.
MODULES = {
    "words": "embeddings.word_embeddings",
    "places": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
}
LAYER_MODULES = {
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
}
PARAMETERS = {"embedding": "weight", "scale": "weight", "kernel": "weight", "bias": "bias"}


def load_bert(folder: Path | str) -> tuple[BertConfig, dict[str, Any]]:
    """The configuration and the weights (``{"params": ...}``, float32) of a BERT checkpoint in ``folder``.

    Raises ``CometError`` that names the file, and the setting or tensor in it, for a checkpoint that is missing,
    damaged, of another model, or of other sizes than its configuration says.
    """
    config = read_config(Path(folder) / "config.json")
    path = Path(folder) / "model.safetensors"
    try:
        with safe_open(path, "numpy") as f:
            names = set(f.keys())
            # Checkpoints of a task's model hold the encoder under its name.
            prefix = "bert." if any(name.startswith("bert.") for name in names) else ""

            def read(name: str) -> np.ndarray:
                if prefix + name not in names:
                    raise CometError(f"{path}: the tensor {prefix + name} is missing")
                return f.get_tensor(prefix + name).astype(np.float32)

            flat = {name: _read(path, config, read, name, shape) for name, shape in _expected(config).items()}
    except (OSError, SafetensorError, TypeError) as error:
        raise CometError(f"{path} is not a safetensors checkpoint: {error}") from error
    return config, {"params": unflatten_dict(flat, sep="/")}


def read_config(path: Path) -> BertConfig:
    """The configuration in a ``config.json``. Raises ``CometError`` that names the file and the setting."""
    try:
        found = json.loads(path.read_text())
        config = BertConfig(**{ours: found[theirs] for ours, theirs in SIZES.items()})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CometError(f"{path} is not the configuration of a BERT model: {error!r}") from error
    for name, wanted in SETTINGS.items():
        if found.get(name, wanted) != wanted:
            raise CometError(f"{path}: {name} should be {wanted!r} and is {found[name]!r}, which this model is not")
    for ours, theirs in SIZES.items():
        value = getattr(config, ours)
        if not isinstance(value, int | float) or not value > 0 or (ours != "eps" and value != int(value)):
            raise CometError(f"{path}: {theirs} should be a positive number and is {value!r}")
    if config.width % config.heads:
        raise CometError(f"{path}: hidden_size {config.width} is not a multiple of {config.heads} attention heads")
    return config


def _expected(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the model's parameters, by path."""
    tokens = jax.ShapeDtypeStruct((1,), jnp.int32)
    params: dict[str, Any] = flatten_dict(
        jax.eval_shape(Bert(config).init, jax.random.key(0), tokens)["params"], sep="/"
    )
    return {name: x.shape for name, x in params.items()}


def _read(path: Path, config: BertConfig, read: Read, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The parameter ``name``: one tensor, or one a layer, stacked."""
    module, parameter = name.rsplit("/", 1)
    tensor = PARAMETERS[parameter]
    if not module.startswith("layers/"):
        return _checked(path, read, f"{MODULES[module]}.{tensor}", shape, parameter)
    theirs = LAYER_MODULES[module.removeprefix("layers/")]
    names = [f"encoder.layer.{i}.{theirs}.{tensor}" for i in range(config.layers)]
    return np.stack([_checked(path, read, n, shape[1:], parameter) for n in names])


def _checked(path: Path, read: Read, name: str, shape: tuple[int, ...], parameter: str) -> np.ndarray:
    """One tensor in Flax's layout. A dense layer is (out, in) in the checkpoint and (in, out) here."""
    wanted = shape[::-1] if parameter == "kernel" else shape
    x = read(name)
    if x.shape != wanted:
        raise CometError(f"{path}: {name} should be {wanted} and is {x.shape}")
    if not np.isfinite(x).all():
        raise CometError(f"{path}: {name} holds a value that is not finite")
    return x.T if parameter == "kernel" else x

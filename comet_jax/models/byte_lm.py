"""A small decoder-only language model over bytes: the bundled example.

Plain Flax linen, nothing private about it. Pre-norm blocks, ReLU, learned positions; one sequence at a time, so tokens
are int32[T] and logits float32[T, 256]. Blocks are stacked by ``nn.scan``: every weight of a block has a first axis of
``layers``. ``load()`` gives the trained weights that come with the package, ``policy()`` the numbers that hold them,
``predictor()`` the predictor of their active neurons.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from comet_jax.errors import CometError
from comet_jax.models.ranges import bundled
from comet_jax.policy import Numbers, Policy
from comet_jax.predictors import Predictor

CHECKPOINT = Path(__file__).parent / "checkpoints" / "byte_lm.safetensors"
GATES = {1: CHECKPOINT.with_name("byte_lm.gates.safetensors"), 16: CHECKPOINT.with_name("byte_lm.blocks.safetensors")}


@dataclass(frozen=True)
class ByteLMConfig:
    """Sizes of the model."""

    vocabulary: int = 256
    context: int = 128
    width: int = 256
    layers: int = 4
    heads: int = 8
    hidden: int = 1024


class Block(nn.Module):
    """Attention and a ReLU feed-forward layer, each with a residual."""

    config: ByteLMConfig

    @nn.compact
    def __call__(self, x, _=None):
        """x: float[T, width] -> (the same, None), as a scan's body."""
        c, (length, width) = self.config, x.shape
        h = nn.LayerNorm(name="norm1")(x)
        qkv = nn.Dense(3 * width, name="qkv")(h).reshape(length, 3, c.heads, width // c.heads)
        q, k, v = (qkv[:, i].transpose(1, 0, 2) for i in range(3))
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(width // c.heads)
        causal = jnp.tril(jnp.ones((length, length), bool))
        scores = jnp.where(causal, scores, jnp.finfo(scores.dtype).min)
        mixed = (jax.nn.softmax(scores) @ v).transpose(1, 0, 2).reshape(length, width)
        x = x + nn.Dense(width, name="out")(mixed)
        h = nn.LayerNorm(name="norm2")(x)
        h = nn.relu(nn.Dense(c.hidden, name="up")(h))
        return x + nn.Dense(width, name="down")(h), None


class ByteLM(nn.Module):
    """The model: ``ByteLM(config).apply(params, tokens)``."""

    config: ByteLMConfig

    @nn.compact
    def __call__(self, tokens):
        """tokens: int32[T], T at most the context -> logits float32[T, vocabulary]."""
        c = self.config
        small = nn.initializers.normal(0.02)
        x = nn.Embed(c.vocabulary, c.width, embedding_init=small, name="tokens")(tokens)
        x = x + self.param("positions", small, (c.context, c.width))[: tokens.shape[0]]
        blocks = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=c.layers)
        x, _ = blocks(c, name="blocks")(x)
        return nn.Dense(c.vocabulary, use_bias=False, name="head")(nn.LayerNorm(name="norm")(x))


def policy(ring: Literal[32, 64] = 32, published: tuple[str, ...] = ()) -> Policy:
    """Ranges calibrated on English text, and numbers that hold the trained weights without them.

    The wire that decides is the residual before the last norm: up to 150 over windows of English text, where the
    default numbers of the 32-bit ring end at 64. It takes 8 bits before the point, which leaves ``raw`` 22.
    """
    if ring == 64:
        return Policy(ring=64, published=published)
    numbers = Numbers(raw=22, norm_bound=256.0, finest=24)
    return Policy(numbers=numbers, published=published, ranges=bundled("byte_lm"))


def predictor(block: int = 16, *, owner: bool = True) -> Predictor:
    """The predictor for the bundled weights, of neurons or of blocks of 16. All but their ``owner`` get its manifest.

    Raises ``CometError`` for another ``block``.
    """
    if block not in GATES:
        raise CometError(
            f"the bundled model has predictors for blocks of {' and '.join(map(str, GATES))}, not of {block}"
        )
    return Predictor.load(GATES[block] if owner else GATES[block].with_suffix(".json"))


def save(path: Path, config: ByteLMConfig, params, **facts: str) -> None:
    """Write weights as bfloat16 safetensors; the sizes and ``facts`` go to the file's metadata."""
    flat = flatten_dict(params["params"], sep="/")
    tensors = {name: np.asarray(x, dtype=jnp.bfloat16) for name, x in flat.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"config": json.dumps(asdict(config)), **facts})


def load(path: Path = CHECKPOINT) -> tuple[ByteLMConfig, dict]:
    """The configuration and the weights (``{"params": ...}``, float32) of a checkpoint.

    Raises ``CometError`` that names the file, and the tensor in it, for one that is missing, damaged, of another model,
    or of other sizes than it says.
    """
    try:
        with safe_open(path, "numpy") as f:
            config = ByteLMConfig(**json.loads(f.metadata()["config"]))
            found = {name: f.get_tensor(name).astype(np.float32) for name in f.keys()}  # noqa: SIM118 (not a dict)
        expected = _shapes(config)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise CometError(f"{path} is not a checkpoint of ByteLM: {error}") from error
    for name in sorted(expected.keys() | found.keys()):
        wanted, given = expected.get(name, "none"), found[name].shape if name in found else "missing"
        if given != wanted:
            raise CometError(f"{path}: {name} should be {wanted} and is {given}")
        if not np.isfinite(found[name]).all():
            raise CometError(f"{path}: {name} holds a value that is not finite")
    return config, {"params": unflatten_dict(found, sep="/")}


def _shapes(config: ByteLMConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters by path."""
    tokens = jax.ShapeDtypeStruct((config.context,), jnp.int32)
    params: dict[str, Any] = flatten_dict(
        jax.eval_shape(ByteLM(config).init, jax.random.key(0), tokens)["params"], sep="/"
    )
    return {name: x.shape for name, x in params.items()}

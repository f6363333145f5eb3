"""The functions that are measured: shapes, inputs and plain JAX code of each benchmark case.

Inputs are drawn from fixed seeds in a fixed order, so that other systems can be given the same numbers. In every case
the weights are the model owner's and ``x`` is the client's; both are secret. A measured ``x`` is sealed, as if earlier
layers had made it: what depends on the client's numbers alone, the client would compute in the clear.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from statistics import NormalDist
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from comet_jax.errors import CometError
from comet_jax.models import byte_lm
from comet_jax.models.ranges import bundled
from comet_jax.policy import Closed, Gate, Overflow, Policy, Renewal, Reveals
from comet_jax.predictors import Layer, Predictor, Site
from comet_jax.predictors.artifact import fingerprint

Ring = Literal[32, 64]
WIDTH, HIDDEN, HEADS, LAYERS = 768, 3072, 12, 12


@dataclass(frozen=True)
class Case:
    """One case: ``function(weights, x)`` with concrete inputs, and the policy of a ring for it.

    ``sealed``: x is nobody's when the function starts.
    """

    name: str
    tokens: int
    function: Callable[..., Any]
    weights: dict[str, Any]
    x: np.ndarray
    sealed: bool = True
    policy: Callable[[Ring], Policy] = lambda ring: Policy(ring=ring)


def _calibrated(name: str) -> Callable[[Ring], Policy]:
    """At 32 bits, the bundled ranges: weights and inputs are drawn, so calibration is of everybody's knowledge."""
    return lambda ring: Policy(ring=ring, ranges=bundled(name) if ring == 32 else None)


def _generator(tag: str) -> np.random.Generator:
    """A generator seeded by the FNV-1a hash of ``tag``."""
    h = 2166136261
    for ch in tag:
        h = ((h ^ ord(ch)) * 16777619) & 0xFFFFFFFF
    return np.random.default_rng(h)


def _real(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, np.float32)


def layer_norm(x, scale, shift, eps=1e-5):
    """Layer norm over the last axis."""
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + eps) * scale + shift


def decoder_layer(p, x, activation=jax.nn.relu):
    """A pre-norm decoder layer with causal attention; x: (T, 768)."""
    length, heads = x.shape[0], lambda a: a.reshape(x.shape[0], HEADS, -1).transpose(1, 0, 2)
    h = layer_norm(x, p["g1"], p["b1"])
    q, k, v = (heads(h @ p["w" + c] + p["b" + c]) for c in "qkv")
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(WIDTH // HEADS)
    causal = jnp.tril(jnp.ones((length, length), bool))
    scores = jnp.where(causal, scores, jnp.finfo(scores.dtype).min)
    mixed = (jax.nn.softmax(scores) @ v).transpose(1, 0, 2).reshape(length, -1)
    x = x + mixed @ p["wo"] + p["bo"]
    h = layer_norm(x, p["g2"], p["b2"])
    return x + activation(h @ p["w1"] + p["c1"]) @ p["w2"] + p["c2"]


def decoder(activation):
    """A stack of decoder layers as a scan, and a final norm: hidden states in and out."""

    def function(p, x):
        layers = {k: w for k, w in p.items() if k not in ("gf", "bf")}
        x, _ = jax.lax.scan(lambda x, w: (decoder_layer(w, x, activation), None), x, layers)
        return layer_norm(x, p["gf"], p["bf"])

    return function


def _layer_weights(r: np.random.Generator) -> dict[str, np.ndarray]:
    n = lambda *shape: _real(r.normal(0, 0.02, shape))
    p = {"g1": _real(1 + r.normal(0, 0.1, WIDTH)), "b1": _real(r.normal(0, 0.1, WIDTH))}
    for k in "qkvo":
        p["w" + k] = n(WIDTH, WIDTH)
        p["b" + k] = n(WIDTH)
    p["g2"] = _real(1 + r.normal(0, 0.1, WIDTH))
    p["b2"] = _real(r.normal(0, 0.1, WIDTH))
    p["w1"], p["c1"], p["w2"], p["c2"] = n(WIDTH, HIDDEN), n(HIDDEN), n(HIDDEN, WIDTH), n(WIDTH)
    return p


def _stack(name: str, tokens: int, tag: str, activation) -> Case:
    r = _generator(tag)
    x = _real(r.normal(0, 1, (tokens, WIDTH)))
    layers = [_layer_weights(r) for _ in range(LAYERS)]
    weights = {k: np.stack([layer[k] for layer in layers]) for k in layers[0]}
    weights["gf"], weights["bf"] = _real(1 + r.normal(0, 0.1, WIDTH)), _real(r.normal(0, 0.1, WIDTH))
    return Case(name, tokens, decoder(activation), weights, x, policy=_calibrated(name))


def _elementwise(name: str, tag: str, function) -> Callable[[int], Case]:
    def make(tokens: int) -> Case:
        x = _real(_generator(tag).normal(0, 3, 1 << 16))
        return Case(name, tokens, lambda p, x: function(x), {}, x)

    return make


def _softmax(tokens: int) -> Case:
    x = _real(_generator(f"softmax_12x{tokens}x{tokens}").normal(0, 3, (12, tokens, tokens)))
    return Case("softmax", tokens, lambda p, x: jax.nn.softmax(x), {}, x)


def _layernorm(tokens: int) -> Case:
    r = _generator(f"layernorm_{tokens}x768")
    x = _real(r.normal(0.5, 2, (tokens, WIDTH)))
    p = {"g": _real(1 + r.normal(0, 0.1, WIDTH)), "b": _real(r.normal(0, 0.1, WIDTH))}
    return Case("layernorm", tokens, lambda p, x: layer_norm(x, p["g"], p["b"]), p, x)


def _matmul(tokens: int) -> Case:
    r = _generator(f"matmul_{tokens}")
    x, w = _real(r.normal(0, 1, (tokens, WIDTH))), _real(r.normal(0, 0.036, (WIDTH, HIDDEN)))
    return Case("matmul", tokens, lambda p, x: x @ p["w"], {"w": w}, x)


def _ffn(name: str, width: int, hidden: int) -> Callable[[int], Case]:
    def make(tokens: int) -> Case:
        r = _generator(f"{name}_relu_{tokens}")
        x = _real(r.normal(0, 1, (tokens, width)))
        p = {"w1": _real(r.normal(0, 0.036, (width, hidden))), "c1": _real(r.normal(0, 0.1, hidden))}
        p |= {"w2": _real(r.normal(0, 0.018, (hidden, width))), "c2": _real(r.normal(0, 0.1, width))}
        return Case(name, tokens, lambda p, x: jax.nn.relu(x @ p["w1"] + p["c1"]) @ p["w2"] + p["c2"], p, x)

    return make


def _layer(tokens: int) -> Case:
    r = _generator(f"layer_relu_{tokens}")
    p = _layer_weights(r)
    x = _real(r.normal(0, 1, (tokens, WIDTH)))
    return Case("layer", tokens, decoder_layer, p, x, policy=_calibrated("layer"))


def _byte_lm(tokens: int) -> Case:
    config, weights = byte_lm.load()
    if tokens > config.context:
        raise CometError(f"the bundled model has {config.context} positions, not {tokens}")
    text = (byte_lm.__doc__ or "").encode()
    x = np.resize(np.frombuffer(text, np.uint8), tokens).astype(np.int32)
    return Case("byte_lm", tokens, byte_lm.ByteLM(config).apply, weights, x, sealed=False, policy=byte_lm.policy)


gelu = lambda x: jax.nn.gelu(x, approximate=True)

# Name -> (maker, tokens by default).
CASES: dict[str, tuple[Callable[[int], Case], int]] = {
    "relu": (_elementwise("relu", "relu_65536", jax.nn.relu), 1),
    "gelu": (_elementwise("gelu", "gelu_tanh_65536", gelu), 1),
    "silu": (_elementwise("silu", "silu_65536", jax.nn.silu), 1),
    "softmax": (_softmax, 64),
    "layernorm": (_layernorm, 64),
    "matmul": (_matmul, 64),
    "ffn": (_ffn("ffn", WIDTH, HIDDEN), 64),
    "ffn1b": (_ffn("ffn1b", 2048, 8192), 64),
    "layer": (_layer, 64),
    "opt125m": (lambda t: _stack("opt125m", t, f"opt125m_T{t}", jax.nn.relu), 16),
    "byte_lm": (_byte_lm, 64),
    "gpt2": (lambda t: _stack("gpt2", t, f"gpt2_T{t}", gelu), 128),
}


GATED = {"ffn": "x", "ffn1b": "x", "layer": "norm", "opt125m": "norm"}
"""Cases that can be gated: what the feed-forward layer takes, standard normal numbers or a layer norm's result."""


@dataclass(frozen=True, kw_only=True)
class Gating:
    """How feed-forward layers are gated; by default they are not. Field by field as ``policy.Gate`` has it."""

    gate: float | None = None
    """Gate the feed-forward layers, with room for this part of their blocks."""
    block: int = 1
    """Neurons in a block of a gate."""
    reveals: Reveals = "flags"
    """What a gate shows to both parties."""
    epoch: int = 1
    """Calls that one secret order serves, of a gate that reveals nothing."""
    renewal: Renewal = "owner"
    """Who makes the order of a later epoch: the weights' owner, or the parties by a shuffle."""
    overflow: Overflow = "turns"
    """What a gate that shows flags leaves out beyond the room: by turns of the tokens, or by scores."""
    closed: Closed | None = None
    """What is done about blocks that a gate closes: dealt or opened, by default as `Gate` says."""

    def by(self, predictor: Predictor) -> Gate:
        """The gate with ``predictor``, which is for blocks of that size."""
        return Gate(
            predictor=predictor,
            capacity=self.gate,
            reveals=self.reveals,
            epoch=self.epoch,
            renewal=self.renewal,
            overflow=self.overflow,
            closed=self.closed,
        )

    def options(self) -> list[str]:
        """These settings as a command line."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return [text for name, value in given.items() if value is not None for text in (f"--{name}", str(value))]


DENSE = Gating()


def gated(case: Case, gating: Gating) -> Case:
    """``case`` with sparse feed-forward layers and gates on them, or as it is.

    Random weights are not sparse, so the first weight and its bias are drawn anew: of low rank, d/8, with a tenth more
    noise in blocks of several neurons, so that a predictor of that rank knows which blocks are active, about two in
    three of those that there is room for. Shapes, and so all costs, are the case's own. The bundled
    language model keeps its weights, and has the predictor that was trained for them. Raises ``CometError`` for a case
    without gates.
    """
    capacity, block = gating.gate, gating.block
    if capacity is None:
        return case
    if case.name == "byte_lm":
        return _with_gate(case, case.weights, gating.by(byte_lm.predictor(block)))
    if case.name not in GATED:
        raise CometError(f"{case.name} has no layers to gate: {', '.join(GATED)} and byte_lm have")
    r = _generator(f"{case.name} gated")
    w = dict(case.weights)
    stacked, normed = w["w1"].ndim == 3, GATED[case.name] == "norm"
    count, d, h = w["w1"].shape if stacked else (1, *w["w1"].shape)
    rank, gates = d // 8, h // block
    if h % block:
        raise CometError(f"{h} neurons cannot be gated in blocks of {block}")
    edge = NormalDist().inv_cdf(1 - 0.65 * capacity)
    ups, layers = [], []
    for k in range(count):
        a = np.linalg.qr(r.normal(0, 1, (d, rank)))[0]
        b = r.normal(0, 1, (rank, gates))
        b /= np.linalg.norm(b, axis=0)
        noise = 0.1 * r.normal(0, 1 / np.sqrt(d), (d, h)) if block > 1 else 0.0
        ups.append(_real(a @ np.repeat(b, block, 1) + noise))
        gain, shift = (w["g2"], w["b2"]) if normed else (np.ones(d), np.zeros(d))
        gain, shift = (v[k] if v.ndim == 2 else v for v in (gain, shift))
        # Scores of standard normal inputs: within +-8 of the bias, with room.
        spread, centre = np.linalg.norm(gain[:, None] * (a @ b), axis=0), shift @ a @ b
        bias = -edge * spread - centre
        read, constant = a, np.zeros(rank)
        if normed:
            read, constant = _ahead({n: v[k] if stacked else v for n, v in w.items() if n in _BEFORE}, a)
        layers.append((read, b / 12, (bias + constant @ b) / 12, np.repeat(bias, block)))
    w["w1"] = np.stack(ups) if stacked else ups[0]
    w["c1"] = _real(np.stack([c for *_, c in layers]) if stacked else layers[0][3])
    site = Site("w1", "relu", d, h, count, block, rank, capacity, (d, d) if normed else ())
    order = np.arange(h, dtype=np.int32)
    made = tuple(Layer(fingerprint(up), order, a, b, bias) for up, (a, b, bias, _) in zip(ups, layers))
    return _with_gate(case, w, gating.by(Predictor((site,), {"w1": made})))


_BEFORE = ("g1", "b1", "wo", "bo", "g2", "b2")


def _ahead(w: dict[str, np.ndarray], a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x A for a second norm's result x, from what attention has opened: u' A' + v, u' the first norm's and the heads'.

    As far as the residual has a deviation of one, before attention and after it.
    """
    gained = w["g2"][:, None] * a
    constant = (w["bo"] - w["b1"] / w["g1"]) @ gained + w["b2"] @ a
    return np.concatenate([gained / w["g1"][:, None], w["wo"] @ gained]), constant


def _with_gate(case: Case, weights: Any, gate: Gate) -> Case:
    return replace(case, weights=weights, policy=lambda ring: replace(case.policy(ring), gates=(gate,)))


def make(name: str, tokens: int | None = None) -> Case:
    """The case ``name`` for ``tokens`` tokens; element-wise cases have 65,536 elements whatever the tokens."""
    if name not in CASES:
        raise CometError(f"there is no case {name!r}: the cases are {', '.join(CASES)}")
    maker, default = CASES[name]
    tokens = default if tokens is None else tokens
    if tokens < 1:
        raise CometError(f"a case needs at least one token, not {tokens}")
    return maker(tokens)

"""The functions that are recognised whole. Adding one is adding a pattern: a name and a way of writing it."""

from collections.abc import Callable
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from comet_jax.ir.jaxprs import Graph
from comet_jax.ir.match import ANY, Pattern
from comet_jax.ir.match import fuse as fuse_patterns


def fuse(graph: Graph) -> Graph:
    """``graph`` with activations, softmax and normalisations as single nodes."""
    return fuse_patterns(graph, patterns())


@cache
def patterns() -> tuple[Pattern, ...]:
    """Every pattern."""
    return (*_softmax(), *_log_softmax(), *_log_sum_exp(), *_activations(), *_layer_norm(), *_rms_norm())


def _softmax() -> list[Pattern]:
    def by_hand(stop: Callable, shift: bool = True) -> Callable:
        def reference(x):
            e = jnp.exp(x - stop(x.max(-1, keepdims=True))) if shift else jnp.exp(x)
            return e / e.sum(-1, keepdims=True)

        return reference

    same = lambda m: m
    ways = [jax.nn.softmax, by_hand(same), by_hand(jax.lax.stop_gradient), by_hand(same, shift=False)]
    along = lambda axis: lambda x: jax.nn.softmax(x, axis=axis)
    of_some = lambda x, keep: jax.nn.softmax(x, where=keep)
    return [
        *(Pattern("softmax", way, jax.nn.softmax) for way in ways),
        *(Pattern("softmax", along(axis), jax.nn.softmax, params=(("axis", axis),)) for axis in (-2, -3, -4)),
        Pattern("softmax", of_some, of_some, masks=1),
    ]


def _log_softmax() -> list[Pattern]:
    def by_hand(stop: Callable) -> Callable:
        def reference(x):
            shifted = x - stop(x.max(-1, keepdims=True))
            return shifted - jnp.log(jnp.exp(shifted).sum(-1, keepdims=True))

        return reference

    ways = [
        jax.nn.log_softmax,
        by_hand(lambda m: m),
        by_hand(jax.lax.stop_gradient),
        lambda x: jnp.log(jax.nn.softmax(x)),
    ]
    along = lambda axis: lambda x: jax.nn.log_softmax(x, axis=axis)
    of_some = lambda x, keep: jax.nn.log_softmax(x, where=keep)
    return [
        *(Pattern("log_softmax", way, jax.nn.log_softmax) for way in ways),
        *(Pattern("log_softmax", along(axis), jax.nn.log_softmax, params=(("axis", axis),)) for axis in (-2, -3, -4)),
        Pattern("log_softmax", of_some, of_some, masks=1),
    ]


def _log_sum_exp() -> list[Pattern]:
    def by_hand(x, axis, keepdims):
        log = jnp.log(jnp.exp(x - x.max(axis, keepdims=True)).sum(axis, keepdims=keepdims))
        return x.max(axis, keepdims=keepdims) + log

    def by_hand_squeezed(x, axis, keepdims):
        m = x.max(axis, keepdims=True)
        return jnp.squeeze(m, axis) + jnp.log(jnp.exp(x - m).sum(axis))

    ways = [
        lambda x, axis, keepdims: jax.nn.logsumexp(x, axis=axis, keepdims=keepdims),
        by_hand,
        lambda x, axis, keepdims: jnp.log(jnp.exp(x).sum(axis, keepdims=keepdims)),
    ]
    core = lambda x, axis=-1: jax.nn.logsumexp(x, axis=axis)

    def make(way: Callable, axis: int, keepdims: bool) -> Pattern:
        finish = (lambda log: jnp.expand_dims(log, axis)) if keepdims else None
        params = () if axis == -1 else (("axis", axis),)
        reference = lambda x: way(x, axis, keepdims)
        return Pattern("logsumexp", reference, core, finish=finish, params=params, lost=axis)

    of_some = lambda x, keep: jax.nn.logsumexp(x, axis=-1, where=keep)
    return [
        *(make(way, axis, keepdims) for way in ways for axis in (-1, -2, -3) for keepdims in (False, True)),
        make(by_hand_squeezed, -1, False),
        Pattern("logsumexp", of_some, of_some, masks=1, lost=-1),
    ]


def _activations() -> list[Pattern]:
    tanh = lambda x: jax.nn.gelu(x, approximate=True)
    erf = lambda x: jax.nn.gelu(x, approximate=False)
    root = float(np.sqrt(2 / np.pi))
    tanh_ways = [
        tanh,
        lambda x: 0.5 * x * (1 + jnp.tanh(root * (x + 0.044715 * x**3))),
        lambda x: 0.5 * x * (1 + jnp.tanh(root * (x + 0.044715 * x * x * x))),
        lambda x: x * 0.5 * (1 + jnp.tanh(root * (x + 0.044715 * x**3))),
    ]
    erf_ways = [
        erf,
        lambda x: 0.5 * x * (1 + jax.lax.erf(x / np.sqrt(2))),
        lambda x: x * 0.5 * (1 + jax.lax.erf(x / np.sqrt(2))),
        lambda x: x * (0.5 * (1 + jax.lax.erf(x / np.sqrt(2)))),
        lambda x: 0.5 * x * (1 + jax.lax.erf(x * float(np.sqrt(0.5)))),
    ]
    softplus_ways = [
        jax.nn.softplus,
        lambda x: jnp.log1p(jnp.exp(x)),
        lambda x: jnp.log(1 + jnp.exp(x)),
        lambda x: jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x))),
    ]
    mish_ways = [lambda x, softplus=softplus: x * jnp.tanh(softplus(x)) for softplus in softplus_ways]
    sigmoid_ways = [lambda x: 1 / (1 + jnp.exp(-x)), lambda x: jnp.exp(x) / (1 + jnp.exp(x))]
    silu_ways = [jax.nn.silu, lambda x: x * jax.nn.sigmoid(x), lambda x: x / (1 + jnp.exp(-x))]
    return [
        *(Pattern("gelu_tanh", way, tanh) for way in tanh_ways),
        *(Pattern("gelu_erf", way, erf) for way in erf_ways),
        *(Pattern("silu", way, jax.nn.silu) for way in silu_ways),
        *(Pattern("softplus", way, jax.nn.softplus) for way in softplus_ways),
        *(Pattern("mish", way, jax.nn.mish) for way in mish_ways),
        *(Pattern("logistic", way, jax.nn.sigmoid) for way in sigmoid_ways),
        Pattern("relu", jax.nn.relu, jax.nn.relu),
    ]


def _of_nnx(norm: Callable[..., Any], scaled: bool, **options: Any) -> Callable:
    """An nnx normalisation as a function of x, and of its scale where it is ``scaled``."""

    def reference(x, *scale):
        module = norm(x.shape[-1], epsilon=ANY, use_scale=scaled, rngs=nnx.Rngs(0), **options)
        return nnx.merge(nnx.graphdef(module), dict(zip(("scale",), scale)))(x)

    return reference


def _times(core, scale):
    return core * scale


def _layer_norm_core(x, eps):
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + eps)


def _layer_norm() -> list[Pattern]:
    def of_flax(fast: bool) -> Callable:
        norm = nn.LayerNorm(epsilon=ANY, use_bias=False, use_scale=False, use_fast_variance=fast)
        return lambda x: norm.apply({}, x)

    def of_flax_scaled(fast: bool) -> Callable:
        norm = nn.LayerNorm(epsilon=ANY, use_bias=False, use_fast_variance=fast)
        return lambda x, scale: norm.apply({"params": {"scale": scale}}, x)

    means = [lambda x: x.mean(-1, keepdims=True)]
    variances = [
        lambda x, m: x.var(-1, keepdims=True),
        lambda x, m: ((x - m) ** 2).mean(-1, keepdims=True),
        lambda x, m: jnp.square(x - m).mean(-1, keepdims=True),
        lambda x, m: ((x - m) * (x - m)).mean(-1, keepdims=True),
        lambda x, m: (x**2).mean(-1, keepdims=True) - m**2,
    ]
    ends = [
        lambda x, m, v: (x - m) / jnp.sqrt(v + ANY),
        lambda x, m, v: (x - m) * jax.lax.rsqrt(v + ANY),
        lambda x, m, v: (x - m) * (1 / jnp.sqrt(v + ANY)),
    ]

    def by_hand(mean, variance, end):
        def reference(x):
            m = mean(x)
            return end(x, m, variance(x, m))

        return reference

    whole = [by_hand(m, v, e) for m in means for v in variances for e in ends]
    of_nnx = lambda fast, scaled: _of_nnx(nnx.LayerNorm, scaled, use_bias=False, use_fast_variance=fast)
    whole += [of_flax(True), of_flax(False), of_nnx(True, False), of_nnx(False, False)]
    make = lambda way, **more: Pattern("layer_norm_core", way, _layer_norm_core, scalar="eps", **more)
    return [
        *(make(way) for way in whole),
        *(make(way, vectors=1, finish=_times) for f in (True, False) for way in (of_flax_scaled(f), of_nnx(f, True))),
    ]


def _rms_norm_core(x, eps):
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + eps)


def _rms_norm() -> list[Pattern]:
    def of_flax(x, scale):
        return nn.RMSNorm(epsilon=ANY).apply({"params": {"scale": scale}}, x)

    squares = [lambda x: x**2, jnp.square, lambda x: x * x]
    ends = [
        lambda x, v: x / jnp.sqrt(v + ANY),
        lambda x, v: x * jax.lax.rsqrt(v + ANY),
        lambda x, v: x * (1 / jnp.sqrt(v + ANY)),
    ]
    by_hand = lambda square, end: lambda x: end(x, square(x).mean(-1, keepdims=True))
    make = lambda way, **more: Pattern("rms_norm_core", way, _rms_norm_core, scalar="eps", **more)
    return [
        *(make(by_hand(s, e)) for s in squares for e in ends),
        make(lambda x: nn.RMSNorm(epsilon=ANY, use_scale=False).apply({}, x)),
        make(_of_nnx(nnx.RMSNorm, False)),
        *(make(way, vectors=1, finish=_times) for way in (of_flax, _of_nnx(nnx.RMSNorm, True))),
    ]

"""Writes SUPPORTED.md: every operation that has a private form, what it costs, and what is refused.

    python benchmarks/supported.py

Costs are counted from compiled programs, of 64 elements that nobody knows, in the 32-bit ring; nothing is run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import comet_jax as cj
from comet_jax.ir.jaxprs import Graph
from comet_jax.rules.registry import RULES

PAGE = Path(__file__).parent.parent / "SUPPORTED.md"
ELEMENTS = 64


@dataclass(frozen=True)
class Sample:
    """``function`` of sealed arrays of ``shapes``, of which ``operation`` is the one that costs something."""

    operation: str
    written: str
    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...] = ((ELEMENTS,),)


ROW, PAIR, GRID, MATRIX = ((ELEMENTS,),), ((ELEMENTS,),) * 2, ((4, 16),), ((8, 8),) * 2
IMAGE, PLACES = ((1, 8, 8, 1),), np.arange(0, ELEMENTS, 2)


def _place(x):
    """A place that nobody knows."""
    return (x[0] > 0).astype(jnp.int32)


def _flags(x):
    return x > 0


def _scattered(fold: str) -> Callable[..., Any]:
    return lambda x, y: getattr(x.at[PLACES], fold)(y[: len(PLACES)])


GROUPS: dict[str, list[Sample]] = {
    "Arithmetic": [
        Sample("add", "x + y", jnp.add, PAIR),
        Sample("add_any", "jax.grad(...)", jax.grad(lambda x: (x * 2.0 + x).sum()), ROW),
        Sample("sub", "x - y", jnp.subtract, PAIR),
        Sample("neg", "-x", jnp.negative),
        Sample("mul", "x * y", jnp.multiply, PAIR),
        Sample("div", "x / y", jnp.divide, PAIR),
        Sample("rem", "k % 3", lambda x: lax.rem(x.reshape(ELEMENTS, 1).argmax(-1) + _flags(x), 3)),
        Sample("integer_pow", "x**3", lambda x: x**3),
        Sample("pow", "x**1.5", lambda x: jnp.power(x, 1.5)),
        Sample("square", "jnp.square(x)", jnp.square),
        Sample("sqrt", "jnp.sqrt(x)", jnp.sqrt),
        Sample("rsqrt", "lax.rsqrt(x)", lax.rsqrt),
        Sample("cbrt", "jnp.cbrt(x)", jnp.cbrt),
        Sample("abs", "jnp.abs(x)", jnp.abs),
        Sample("sign", "jnp.sign(x)", jnp.sign),
        Sample("floor", "jnp.floor(x)", jnp.floor),
        Sample("ceil", "jnp.ceil(x)", jnp.ceil),
        Sample("round", "jnp.round(x)", jnp.round),
        Sample("convert_element_type", "x.astype(jnp.bfloat16)", lambda x: x.astype(jnp.bfloat16).astype(jnp.float32)),
        Sample("shift_left", "k << 1", lambda x: _flags(x).astype(jnp.int32) << 1),
        Sample("shift_right_arithmetic", "k >> 1", lambda x: (3 * _flags(x).astype(jnp.int32)) >> 1),
        Sample("shift_right_logical", "k >> 1", lambda x: (3 * _flags(x).astype(jnp.uint32)) >> 1),
    ],
    "Functions": [
        Sample("exp", "jnp.exp(x)", jnp.exp),
        Sample("exp2", "jnp.exp2(x)", jnp.exp2),
        Sample("expm1", "jnp.expm1(x)", jnp.expm1),
        Sample("log", "jnp.log(x)", jnp.log),
        Sample("log1p", "jnp.log1p(x)", jnp.log1p),
        Sample("tanh", "jnp.tanh(x)", jnp.tanh),
        Sample("logistic", "jax.nn.sigmoid(x)", jax.nn.sigmoid),
        Sample("erf", "jax.scipy.special.erf(x)", jax.scipy.special.erf),
        Sample("erfc", "jax.scipy.special.erfc(x)", jax.scipy.special.erfc),
        Sample("sin", "jnp.sin(x)", jnp.sin),
        Sample("cos", "jnp.cos(x)", jnp.cos),
        Sample("tan", "jnp.tan(x)", jnp.tan),
        Sample("sinh", "jnp.sinh(x)", jnp.sinh),
        Sample("cosh", "jnp.cosh(x)", jnp.cosh),
    ],
    "Fused": [
        Sample("relu", "jax.nn.relu(x)", jax.nn.relu),
        Sample("gelu_tanh", "jax.nn.gelu(x)", jax.nn.gelu),
        Sample("gelu_erf", "jax.nn.gelu(x, approximate=False)", lambda x: jax.nn.gelu(x, approximate=False)),
        Sample("silu", "jax.nn.silu(x)", jax.nn.silu),
        Sample("mish", "jax.nn.mish(x)", jax.nn.mish),
        Sample("softplus", "jax.nn.softplus(x)", jax.nn.softplus),
        Sample("softmax", "jax.nn.softmax(x), rows of 16", jax.nn.softmax, GRID),
        Sample("log_softmax", "jax.nn.log_softmax(x), rows of 16", jax.nn.log_softmax, GRID),
        Sample("logsumexp", "jax.nn.logsumexp(x, -1), rows of 16", lambda x: jax.nn.logsumexp(x, -1), GRID),
        Sample(
            "layer_norm_core",
            "nn.LayerNorm(), rows of 16",
            lambda x: nn.LayerNorm(use_bias=False, use_scale=False).apply({}, x),
            GRID,
        ),
        Sample("rms_norm_core", "nn.RMSNorm(), rows of 16", lambda x: nn.RMSNorm(use_scale=False).apply({}, x), GRID),
    ],
    "Comparison and choice": [
        *(
            Sample(op, f"x {sign} y", f, PAIR)
            for op, sign, f in (
                ("ge", ">=", jnp.greater_equal),
                ("gt", ">", jnp.greater),
                ("le", "<=", jnp.less_equal),
                ("lt", "<", jnp.less),
                ("eq", "==", jnp.equal),
                ("ne", "!=", jnp.not_equal),
            )
        ),
        Sample("max", "jnp.maximum(x, y)", jnp.maximum, PAIR),
        Sample("min", "jnp.minimum(x, y)", jnp.minimum, PAIR),
        Sample("clamp", "lax.clamp(0., x, 1.)", lambda x: lax.clamp(0.0, x, 1.0)),
        Sample("select_n", "jnp.where(x > 0, x, y)", lambda x, y: jnp.where(x > 0, x, y), PAIR),
        Sample("is_finite", "jnp.isfinite(x)", jnp.isfinite),
        Sample("not", "~(x > 0)", lambda x: ~_flags(x)),
        Sample("and", "(x > 0) & (y > 0)", lambda x, y: _flags(x) & _flags(y), PAIR),
        Sample("or", "(x > 0) | (y > 0)", lambda x, y: _flags(x) | _flags(y), PAIR),
        Sample("xor", "(x > 0) ^ (y > 0)", lambda x, y: _flags(x) ^ _flags(y), PAIR),
    ],
    "Sums, products, extremes, order": [
        Sample("reduce_sum", "x.sum()", jnp.sum),
        Sample("reduce_prod", "x.prod(-1), rows of 16", lambda x: x.prod(-1), GRID),
        Sample("reduce_max", "x.max(-1), rows of 16", lambda x: x.max(-1), GRID),
        Sample("reduce_min", "x.min(-1), rows of 16", lambda x: x.min(-1), GRID),
        Sample("argmax", "x.argmax(-1), rows of 16", lambda x: x.argmax(-1), GRID),
        Sample("argmin", "x.argmin(-1), rows of 16", lambda x: x.argmin(-1), GRID),
        Sample("reduce_and", "(x > 0).all()", lambda x: _flags(x).all()),
        Sample("reduce_or", "(x > 0).any()", lambda x: _flags(x).any()),
        Sample("reduce_xor", "lax.reduce_xor(x > 0, (0,))", lambda x: lax.reduce_xor(_flags(x), (0,))),
        Sample("reduce", "lax.reduce(x, 0., add, (0,))", lambda x: lax.reduce(x, 0.0, lambda a, b: b + a, (0,))),
        Sample("cumsum", "jnp.cumsum(x)", jnp.cumsum),
        Sample("cumprod", "jnp.cumprod(x, -1), rows of 16", lambda x: jnp.cumprod(x, -1), GRID),
        Sample("cummax", "lax.cummax(x, 1), rows of 16", lambda x: lax.cummax(x, 1), GRID),
        Sample("cummin", "lax.cummin(x, 1), rows of 16", lambda x: lax.cummin(x, 1), GRID),
        Sample("sort", "jnp.sort(x), rows of 16", jnp.sort, GRID),
        Sample("top_k", "lax.top_k(x, 2), rows of 16", lambda x: lax.top_k(x, 2), GRID),
    ],
    "Products and windows": [
        Sample("dot_general", "x @ y, 8 x 8", jnp.matmul, MATRIX),
        Sample(
            "conv_general_dilated",
            "nn.Conv, 8 x 8, 3 x 3 kernel",
            lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")),
            (*IMAGE, (3, 3, 1, 1)),
        ),
        Sample("reduce_window_sum", "nn.avg_pool, 2 x 2", lambda x: nn.avg_pool(x, (2, 2), (2, 2)), IMAGE),
        Sample("reduce_window_max", "nn.max_pool, 2 x 2", lambda x: nn.max_pool(x, (2, 2), (2, 2)), IMAGE),
        Sample("reduce_window_min", "min_pool, 2 x 2", lambda x: nn.pooling.min_pool(x, (2, 2), (2, 2)), IMAGE),
        Sample(
            "reduce_window",
            "lax.reduce_window, 2 x 2",
            lambda x: lax.reduce_window(x, 0.5, lambda a, b: lax.add(b, a), (2, 2), (2, 2), "VALID"),
            ((8, 8),),
        ),
    ],
    "Moving elements": [
        Sample("reshape", "x.reshape(8, 8)", lambda x: x.reshape(8, 8)),
        Sample("squeeze", "x[:, None].squeeze(1)", lambda x: lax.squeeze(x.reshape(ELEMENTS, 1), (1,))),
        Sample("transpose", "x.T", jnp.transpose, GRID),
        Sample("broadcast_in_dim", "jnp.broadcast_to(x, (2, 64))", lambda x: jnp.broadcast_to(x, (2, ELEMENTS))),
        Sample("slice", "x[:32]", lambda x: lax.slice(x, (0,), (32,))),
        Sample("split", "jnp.split(x, 2)", lambda x: jnp.split(x, 2)),
        Sample("rev", "jnp.flip(x)", jnp.flip),
        Sample("tile", "jnp.tile(x, 2)", lambda x: jnp.tile(x, 2)),
        Sample("pad", "jnp.pad(x, 1)", lambda x: jnp.pad(x, 1)),
        Sample("concatenate", "jnp.concatenate([x, y])", lambda x, y: jnp.concatenate([x, y]), PAIR),
        Sample("stack", "jnp.stack([x, y])", lambda x, y: jnp.stack([x, y]), PAIR),
        Sample("unstack", "jnp.unstack(x)", lambda x: jnp.unstack(x), ((2, 32),)),
        Sample("copy", "jnp.copy(x)", jnp.copy),
        Sample("optimization_barrier", "lax.optimization_barrier(x)", lax.optimization_barrier),
        Sample("reduce_precision", "lax.reduce_precision(x, 8, 7)", lambda x: lax.reduce_precision(x, 8, 7)),
    ],
    "Look-ups and updates": [
        Sample("gather", "x[k], k public", lambda x: x[PLACES]),
        Sample(
            "gather",
            "x[k], 8 rows of 4 at places that nobody knows",
            lambda x: x.reshape(16, 4)[_flags(x[:8]).astype(jnp.int32)],
        ),
        Sample("dynamic_slice", "lax.dynamic_slice(x, (k,), (4,))", lambda x: lax.dynamic_slice(x, (_place(x),), (4,))),
        Sample(
            "dynamic_update_slice",
            "lax.dynamic_update_slice(x, y, (k,))",
            lambda x, y: lax.dynamic_update_slice(x, y[:4], (_place(x),)),
            PAIR,
        ),
        Sample("scatter", "x.at[k].set(y), k public", _scattered("set"), PAIR),
        Sample("scatter-add", "x.at[k].add(y), k public", _scattered("add"), PAIR),
        Sample("scatter-sub", "x.at[k].subtract(y), k public", _scattered("subtract"), PAIR),
        Sample("scatter-mul", "x.at[k].multiply(y), k public", _scattered("multiply"), PAIR),
        Sample("scatter-max", "x.at[k].max(y), k public", _scattered("max"), PAIR),
        Sample("scatter-min", "x.at[k].min(y), k public", _scattered("min"), PAIR),
    ],
    "Control flow": [
        Sample("scan", "lax.scan, 4 steps of c * 0.5 + relu(x)", lambda x: lax.scan(_step, x[0], x)[0], GRID),
        Sample(
            "while",
            "lax.while_loop with a public condition",
            lambda x: lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, c[1] * 0.5), (0, x))[1],
        ),
        Sample(
            "cond",
            "lax.cond(x.sum() > 0, f, g, x)",
            lambda x: lax.cond(x.sum() > 0, lambda v: v * 2.0, lambda v: 1.0 - v, x),
        ),
    ],
}

REFUSED = [
    ("A Python `if`, `while` or index by a secret; NumPy of a secret", "`jnp.where`, `lax.cond`, `jnp.take`"),
    ("Printing, callbacks, `io_callback`", "reveal a result and print that"),
    ("`lax.while_loop` until a secret says so", "`lax.fori_loop` over the most steps, and `jnp.where` to keep the old"),
    ("NaN and infinity as values (minus infinity as a mask of scores is fine)", "a large finite number in the bound"),
    ("Real to integer conversion, bit patterns of reals", "`jnp.floor`, `jnp.round`, comparisons"),
    ("Remainders of real numbers, `jnp.floor_divide` of them", "`x - y * jnp.floor(x / y)`"),
    ("Complex numbers, `jnp.fft`", "a product with a public matrix of cosines and sines"),
    ("`jnp.linalg.inv`, `solve`, `cholesky`, `qr`, `eigh`, `svd`", "a fixed number of Newton or power steps"),
    ("`arcsin`, `arccos`, `arctan`, `atan2`, `erfinv`, `lgamma`, `digamma`", "a polynomial on the range that occurs"),
    ("Weights that a function closes over", "pass them as arguments, shared by their owner"),
    ("Anything else: an operation without a rule is never computed in the clear", "the error names it and its line"),
]


def _step(c, row):
    return c * 0.5 + jax.nn.relu(row), None


def _called(graph: Graph) -> set[str]:
    """The operations in a graph, and in the bodies and branches inside it."""
    return {n.op for n in graph.nodes} | {op for n in graph.nodes for inner in n.graphs for op in _called(inner)}


def cost(sample: Sample) -> tuple[int, float, float]:
    """Rounds, and bytes of a party and of the dealer for each of the 64 elements."""
    policy = cj.Policy()
    given = [cj.seal(jax.ShapeDtypeStruct(shape, jnp.float32), policy) for shape in sample.shapes]
    traced = cj.private(sample.function, policy=policy).trace(*given)
    assert sample.operation in _called(traced.graph), (sample, _called(traced.graph))
    lowered = traced.lower().cost_analysis()
    return lowered["rounds"], lowered["online_bytes"] / ELEMENTS, lowered["offline_bytes"] / ELEMENTS


def _number(x: float) -> str:
    return f"{x:.3g}" if x < 100 else f"{x:,.0f}"


def _table(samples: list[Sample]) -> str:
    rows = ["| operation | for instance | rounds | online | dealt |", "|---|---|---|---|---|"]
    for sample in samples:
        rounds, online, dealt = cost(sample)
        rows.append(
            f"| `{sample.operation}` | `{sample.written}` | {rounds} | {_number(online)} | {_number(dealt)} |"
            if rounds or dealt
            else f"| `{sample.operation}` | `{sample.written}` | | local | |"
        )
    return "\n".join(rows).replace("(x > 0) | (y > 0)", r"(x > 0) \| (y > 0)")


def page() -> str:
    """The page."""
    listed = {sample.operation for samples in GROUPS.values() for sample in samples}
    others = sorted(set(RULES) - listed - {"gated_ffn"})  # which a policy makes, not a user
    parts = [
        "# What is supported",
        "Generated by `python benchmarks/supported.py`. Each row is a small function of 64 elements that nobody knows, "
        "compiled for the 32-bit ring under the default policy: its rounds, and bytes an element, sent by a party and "
        "by the dealer. What feeds an operation (a comparison, where flags are needed) is included, and so are 4 "
        "bytes by which the dealer has each result shared afresh. Independent operations share their rounds; `explain` "
        "counts a whole model. What one owner knows, that owner computes in the clear, whatever it is, and what "
        "is public everybody does.",
    ]
    for title, samples in GROUPS.items():
        parts += [f"## {title}", _table(samples)]
    if others:
        parts += ["Also: " + ", ".join(f"`{name}`" for name in others) + "."]
    refused = "\n".join(f"| {what} | {instead} |" for what, instead in REFUSED)
    parts += ["## What is refused", f"| refused | instead |\n|---|---|\n{refused}"]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE}")

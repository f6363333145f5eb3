"""Random programs of supported operations, with what they should give and how far from it they may be.

A program is drawn step by step. Beside each value is what it is in float64 and a bound on the error of fixed point,
which every step carries on: the error that its arguments bring, times its slope, and its own roundings. Where a step
would leave the policy's range, or a comparison could fall on either side, another is taken.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax

import comet_jax as cj

LIMIT = 8.0  # what values are kept within
OWNERS = ("client", "model", "sealed", "public")
SHAPES = ((3,), (2, 3), (1, 3), (2, 1), (0, 3), (), (3, 3))


@dataclass(frozen=True)
class Sizes:
    """Errors of one step: of an operand's rounding, and of a function's table."""

    operand: float
    table: float

    @classmethod
    def of(cls, policy: cj.Policy) -> "Sizes":
        return cls(2.0**-policy.numbers.operand, 2e-3 if policy.ring == 32 else 1e-3)


@dataclass(frozen=True)
class Known:
    """A value in the clear, and how far from it the private one may be."""

    value: np.ndarray
    error: float

    @property
    def size(self) -> float:
        return float(np.abs(self.value).max(initial=0.0)) + self.error


@dataclass(frozen=True)
class Operation:
    """``jax`` and ``plain``: the same function; ``error(sizes, result, *arguments)``; ``takes``: which arguments."""

    name: str
    arity: int
    jax: Callable[..., Any]
    plain: Callable[..., Any]
    error: Callable[..., float]
    takes: Callable[..., bool] = lambda *xs: True


def same(name: str, arity: int, function: Callable[..., Any], error, takes=lambda *xs: True) -> Operation:
    """The function is written once, for JAX and for NumPy."""
    return Operation(name, arity, lambda *xs: function(jnp, *xs), lambda *xs: function(np, *xs), error, takes)


def broadcastable(x: Known, y: Known) -> bool:
    try:
        np.broadcast_shapes(x.value.shape, y.value.shape)
    except ValueError:
        return False
    return True


def far_from(threshold: float) -> Callable[[Known], bool]:
    """Whether no element could be on the other side of a threshold."""
    return lambda x: bool(np.all(np.abs(x.value - threshold) > x.error + 0.01))


def apart(x: Known, y: Known) -> bool:
    return broadcastable(x, y) and bool(np.all(np.abs(x.value - y.value) > x.error + y.error + 0.01))


has_rows = lambda x: x.value.ndim > 0 and x.value.shape[-1] > 1
has_steps = lambda x: x.value.ndim == 2
square = lambda x, y: x.value.ndim == y.value.ndim == 2 and x.value.shape[1] == y.value.shape[0]


def _softmax(xp, x):
    e = xp.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _norm(xp, x):
    return (x - x.mean(-1, keepdims=True)) / xp.sqrt(x.var(-1, keepdims=True) + 1e-2)


def _tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _decayed(x):
    out = np.zeros(x.shape[1:])
    for row in x:
        out = out * 0.5 + np.maximum(row, 0)
    return out


def _decayed_by_scan(x):
    return lax.scan(lambda c, row: (c * 0.5 + jax.nn.relu(row), None), jnp.zeros(x.shape[1:]), x)[0]


def _stepped(x, y):
    """A scan with a second secret that all steps share, a choice by a secret in each, and stacked results."""
    step = lambda c, row: ((c + jnp.where(row > 0, row, 0.25 * row) * y[0]) * 0.5, c)
    last, before = lax.scan(step, x[0], x)
    return last + before.sum(0)


def _stepped_plainly(x, y):
    c, total = x[0], 0.0
    for row in x:
        total, c = total + c, (c + np.where(row > 0, row, 0.25 * row) * y[0]) * 0.5
    return c + total


_double, _halve = (lambda v: v * 2.0), (lambda v: 1.0 - v * 0.5)

# Errors: s for Sizes, r for the result, then the arguments. An addition may truncate either side to a coarse operand.
LINEAR = lambda s, r, *xs: sum(x.error for x in xs) + 8 * s.operand
MULTIPLY = lambda s, r, x, y: (x.size + 1) * (y.error + s.operand) + (y.size + 1) * (x.error + s.operand) + s.operand
SLOPE = lambda slope: lambda s, r, x: slope * (x.error + 2 * s.operand) + s.table
MOVE = lambda s, r, *xs: max(x.error for x in xs)
CHOICE = lambda s, r, *xs: sum(x.error for x in xs) + 4 * s.operand


def _product_error(s, r, x, y):
    return max(x.value.shape[1], 1) * MULTIPLY(s, r, x, y)


def _norm_error(s, r, x):
    smallest = np.sqrt(x.value.var(-1).min(initial=np.inf) + 1e-2)
    return (2 + r.size) * 2 * (x.error + 2 * s.operand) / smallest + s.table * (1 + r.size)


def _steps_error(s, r, x, y):
    return (x.value.shape[0] + 2) * (CHOICE(s, r, x) + MULTIPLY(s, r, x, y)) + LINEAR(s, r, x)


OPERATIONS = [
    same("add", 2, lambda xp, x, y: x + y, LINEAR, broadcastable),
    same("sub", 2, lambda xp, x, y: x - y, LINEAR, broadcastable),
    same("add a number", 1, lambda xp, x: 1.5 + x, LINEAR),
    same("scale", 1, lambda xp, x: x * -0.75, SLOPE(1)),
    same("table", 1, lambda xp, x: x * xp.linspace(-1, 1, x.shape[-1]), SLOPE(1), has_rows),
    same("mul", 2, lambda xp, x, y: x * y, MULTIPLY, broadcastable),
    same("square", 1, lambda xp, x: x * x, lambda s, r, x: MULTIPLY(s, r, x, x)),
    same(
        "div",
        2,
        lambda xp, x, y: x / (xp.abs(y) + 1.0),
        lambda s, r, x, y: x.error + (x.size + 1) * (y.error + s.table + 8 * s.operand),
        broadcastable,
    ),
    same("matmul", 2, lambda xp, x, y: x @ y, _product_error, square),
    same(
        "gram",
        1,
        lambda xp, x: xp.einsum("...i,...j->...ij", x, x),
        lambda s, r, x: MULTIPLY(s, r, x, x),
        lambda x: x.value.ndim == 1,
    ),
    same("transpose", 1, lambda xp, x: x.T, MOVE),
    same("flip", 1, lambda xp, x: xp.flip(x), MOVE),
    same("flatten", 1, lambda xp, x: x.reshape(-1), MOVE),
    same("slice", 1, lambda xp, x: x[..., 1:], MOVE, has_rows),
    same(
        "pad",
        1,
        lambda xp, x: xp.pad(x, [(0, 0)] * (x.ndim - 1) + [(1, 0)]),
        MOVE,
        lambda x: x.value.ndim > 0 and x.value.shape[-1] < 3,
    ),
    same(
        "join",
        2,
        lambda xp, x, y: xp.concatenate([x, y], 0),
        lambda s, r, x, y: max(x.error, y.error) + 4 * s.operand,
        lambda x, y: (
            x.value.ndim == y.value.ndim > 0
            and x.value.shape[1:] == y.value.shape[1:]
            and x.value.shape[0] + y.value.shape[0] < 4
        ),
    ),
    same("take", 1, lambda xp, x: x[np.array([1, 0, 1])], MOVE, lambda x: x.value.ndim > 0 and x.value.shape[0] > 1),
    same("sum", 1, lambda xp, x: x.sum(-1), lambda s, r, x: 3 * x.error + s.operand, lambda x: x.value.ndim > 0),
    same("mean", 1, lambda xp, x: x.mean(-1, keepdims=True), SLOPE(1), has_rows),
    same("cumsum", 1, lambda xp, x: xp.cumsum(x, -1), lambda s, r, x: 3 * x.error + s.operand, has_rows),
    same("max", 1, lambda xp, x: x.max(-1), CHOICE, has_rows),
    same("min", 1, lambda xp, x: x.min(-1, keepdims=True), CHOICE, has_rows),
    same(
        "sort",
        1,
        lambda xp, x: xp.sort(x, -1),
        lambda s, r, x: 3 * CHOICE(s, r, x),
        lambda x: x.value.ndim == 1 and x.value.size > 1,
    ),
    same("maximum", 2, lambda xp, x, y: xp.maximum(x, y), CHOICE, broadcastable),
    same("minimum", 1, lambda xp, x: xp.minimum(x, 0.75), CHOICE),
    same("abs", 1, lambda xp, x: xp.abs(x), lambda s, r, x: x.error + 4 * s.operand),
    same("clip", 1, lambda xp, x: xp.clip(x, -1.0, 2.0), CHOICE),
    same("where leaky", 1, lambda xp, x: xp.where(x > 0, x, 0.25 * x), CHOICE),
    same("where", 2, lambda xp, x, y: xp.where(x > y, x * 0.5, y), lambda s, r, x, y: 4 * CHOICE(s, r, x, y), apart),
    same("where public", 1, lambda xp, x: xp.where(np.arange(x.shape[-1]) % 2 == 0, x, 0.5), CHOICE, has_rows),
    same("at most", 1, lambda xp, x: (x <= 0.5) * 1.0, lambda s, r, x: 0.0, far_from(0.5)),
    same(
        "not between",
        1,
        lambda xp, x: xp.where((x > 0.5) | (x < -0.5), 1.0, -1.0),
        lambda s, r, x: 0.0,
        lambda x: far_from(0.5)(x) and far_from(-0.5)(x),
    ),
    same("tanh", 1, lambda xp, x: xp.tanh(x), SLOPE(1)),
    same("sin", 1, lambda xp, x: xp.sin(x), SLOPE(1)),
    same("exp", 1, lambda xp, x: xp.exp(xp.minimum(x, 1.0)), SLOPE(4)),
    same("log", 1, lambda xp, x: xp.log(xp.abs(x) + 0.5), SLOPE(4)),
    same(
        "sqrt",
        1,
        lambda xp, x: xp.sqrt(xp.abs(x) + 0.5),
        lambda s, r, x: 2 * (x.error + 4 * s.operand) + (1 + r.size) * s.table,
    ),
    Operation("relu", 1, jax.nn.relu, lambda x: np.maximum(x, 0), CHOICE),
    Operation("gelu", 1, jax.nn.gelu, _tanh_gelu, SLOPE(1.2)),
    Operation("sigmoid", 1, jax.nn.sigmoid, lambda x: 1 / (1 + np.exp(-x)), SLOPE(1)),
    same("softmax", 1, _softmax, SLOPE(1), has_rows),
    same("norm", 1, _norm, _norm_error, lambda x: has_rows(x) and x.value.size > 0),
    Operation(
        "scan", 1, _decayed_by_scan, _decayed, lambda s, r, x: 2 * CHOICE(s, r, x) + LINEAR(s, r, x) * 2, has_steps
    ),
    Operation(
        "scan of choices",
        2,
        _stepped,
        _stepped_plainly,
        _steps_error,
        lambda x, y: has_steps(x) and len(x.value) > 0 and x.value.shape == y.value.shape,
    ),
    Operation(
        "cond",
        1,
        lambda x: lax.cond(jnp.sum(x) > 0.5, _double, _halve, x),
        lambda x: _double(x) if x.sum() > 0.5 else _halve(x),
        lambda s, r, x: 4 * CHOICE(s, r, x),
        lambda x: abs(x.value.sum() - 0.5) > x.value.size * x.error + 0.02,
    ),
    Operation("public cond", 1, lambda x: lax.cond(jnp.arange(3).sum() > 2, _double, jnp.tanh, x), _double, SLOPE(2)),
]
BY_NAME = {o.name: o for o in OPERATIONS}


def clipped(x):
    return jnp.clip(x, -2.0, 2.0)


@dataclass(frozen=True)
class Step:
    """One operation on earlier values, clipped to [-2, 2] where it might leave the range."""

    operation: str
    places: tuple[int, ...]
    clip: bool


@dataclass(frozen=True)
class Program:
    """``arrays`` and their ``owners``, the steps, and each value in the clear. The results are the last values."""

    ring: int
    arrays: tuple[np.ndarray, ...]
    owners: tuple[str, ...]
    steps: tuple[Step, ...]
    expected: tuple[Known, ...] = field(repr=False)
    results: tuple[int, ...]

    def __call__(self, *arrays):
        values: list[Any] = list(arrays)
        for step in self.steps:
            out = BY_NAME[step.operation].jax(*(values[i] for i in step.places))
            values.append(clipped(out) if step.clip else out)
        return [values[i] for i in self.results]


@st.composite
def programs(draw: Callable[..., Any], length: int = 5) -> Program:
    """Programs of at most ``length`` steps, in either ring."""
    ring = draw(st.sampled_from((32, 64)))
    sizes = Sizes.of(cj.Policy(ring=ring))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    owners = [*draw(st.lists(st.sampled_from(OWNERS), min_size=1, max_size=2)), "sealed"]
    arrays = [rng.normal(0, 1, draw(st.sampled_from(SHAPES))).astype(np.float32) for _ in owners]
    values = [Known(np.float64(x), 0.0 if o == "public" else sizes.operand**2) for x, o in zip(arrays, owners)]
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, length))):
        fitting = [(o, p) for o in OPERATIONS for p in _places(o.arity, len(values)) if _takes(o, values, p)]
        operation, places = draw(st.sampled_from(fitting))
        found = _applied(operation, sizes, [values[i] for i in places])
        if found is None:
            continue
        clip = found.size > LIMIT / 2
        if clip:
            found = Known(np.clip(found.value, -2, 2), found.error + 8 * sizes.operand)
        steps.append(Step(operation.name, places, clip))
        values.append(found)
    results = tuple(range(max(len(arrays), len(values) - 2), len(values))) or (len(values) - 1,)
    return Program(ring, tuple(arrays), tuple(owners), tuple(steps), tuple(values[i] for i in results), results)


def _places(arity: int, count: int) -> Sequence[tuple[int, ...]]:
    """Later values first: they shrink to simple programs that go on from where they are."""
    order = range(count - 1, -1, -1)
    return [(i,) for i in order] if arity == 1 else [(i, j) for i in order for j in order]


def _takes(operation: Operation, values: Sequence[Known], places: tuple[int, ...]) -> bool:
    return bool(operation.takes(*(values[i] for i in places)))


def _applied(operation: Operation, sizes: Sizes, arguments: Sequence[Known]) -> Known | None:
    """The result, unless it leaves the range by far or nothing is known of it any more."""
    value = np.asarray(operation.plain(*(x.value for x in arguments)))
    bare = Known(value, 0.0)
    found = Known(value, float(operation.error(sizes, bare, *arguments)))
    small = value.ndim <= 2 and value.size <= 12
    return found if small and found.size <= 2 * LIMIT and found.error < 0.25 else None

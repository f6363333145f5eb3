"""Convolutions and pooling: the elements under each window are laid out by a public table, then it is a product or a
sum or a maximum of rows. An opened wire is laid out as it is, so that it is opened once, before its elements repeat.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jax import lax

from comet_jax.ir.jaxprs import from_jaxpr
from comet_jax.rules.arithmetic import negate
from comet_jax.rules.contraction import product
from comet_jax.rules.extremes import largest_of_rows, lowered_infinities
from comet_jax.rules.layout import reshaped, taken, transposed
from comet_jax.rules.reductions import operation_of
from comet_jax.rules.registry import RULES, rule
from comet_jax.rules.scope import Scope
from comet_jax.rules.structure import reduce_sum
from comet_jax.rules.terms import Joint, Known, Term


def window_table(
    sizes: Sequence[int],
    windows: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    base_dilation: Sequence[int],
    window_dilation: Sequence[int],
) -> np.ndarray:
    """Flat places, of shape (outputs, elements of a window), in an array of ``sizes``; -1 in padding and holes."""
    places = np.arange(math.prod(sizes), dtype=np.int32).reshape(tuple(sizes))
    config = [(low, high, d - 1) for (low, high), d in zip(padding, base_dilation)]
    padded = np.asarray(lax.pad(places, np.int32(-1), config))
    index = [np.zeros((1,) * (2 * len(sizes)), np.int64)] * len(sizes)
    outer, inner = [], []
    for i, (n, w, stride, d) in enumerate(zip(padded.shape, windows, strides, window_dilation)):
        outer.append(max(0, (n - (w - 1) * d - 1) // stride + 1) if n else 0)
        inner.append(w)
        place = np.arange(outer[-1])[:, None] * stride + np.arange(w)[None] * d
        shape = [1] * (2 * len(sizes))
        shape[i], shape[len(sizes) + i] = place.shape
        index[i] = place.reshape(shape)
    return padded[tuple(index)].reshape(math.prod(outer), math.prod(inner))


@rule("conv_general_dilated")
def convolution(s: Scope, node, x: Term, kernel: Term):
    """A matrix product of the elements under each window with the kernel.

    For weights, online it is one ring product, as in the clear; x is opened once, before its elements repeat.
    """
    p = node.params
    numbers, groups, split = p["dimension_numbers"], p["feature_group_count"], p["batch_group_count"]
    count = len(numbers.lhs_spec) - 2
    x = transposed(s, x, (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1]))
    kernel = transposed(s, kernel, (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0]))
    (batch, *sizes, features), (*windows, own, out) = x.shape, kernel.shape
    dilation = (p["lhs_dilation"], p["rhs_dilation"])
    table = window_table(sizes, windows, p["window_strides"], p["padding"], *dilation)
    terms = table.shape[1]
    x = taken(s, reshaped(s, x, (batch, math.prod(sizes), features)), table, 1)
    if groups == split == 1:
        x = reshaped(s, x, (batch, len(table), terms * features))
        kernel = reshaped(s, kernel, (terms * own, out))
        dims, order = (((2,), (0,)), ((), ())), (0, 1, 2)
    else:
        # A group of features, or of the batch, meets its own part of the kernel.
        if split > 1:
            x = reshaped(s, x, (split, batch // split, len(table), terms, features))
        else:
            x = transposed(s, reshaped(s, x, (batch, len(table), terms, groups, own)), (3, 0, 1, 2, 4))
        parts = groups * split
        kernel = reshaped(s, kernel, (terms, own, parts, out // parts))
        dims, order = (((3, 4), (0, 1)), ((0,), (2,))), (1, 2, 0, 3)
    spec = numbers.out_spec
    sized = [node.outputs[0].shape[i] for i in spec[2:]]
    shape = (batch // split, *sized, out)
    plain = _product(s, node, x, kernel, dims, order)
    result = reshaped(s, plain, shape)
    back = [0] * (count + 2)
    for axis, place in enumerate((spec[0], *spec[2:], spec[1])):
        back[place] = axis
    return transposed(s, result, tuple(back)) if back != list(range(count + 2)) else result


def _product(s: Scope, node, x: Term, kernel: Term, dims, order: tuple[int, ...]) -> Term:
    (contract_x, contract_k), (batch_x, batch_k) = dims
    free = lambda t, gone: [n for i, n in enumerate(t.shape) if i not in gone]
    batch = [x.shape[i] for i in batch_x]
    shape = (*batch, *free(x, (*contract_x, *batch_x)), *free(kernel, (*contract_k, *batch_k)))
    return transposed(s, product(s, node, x, kernel, dims, shape), order)


def _windows(s: Scope, node, x: Joint, absent: bool) -> Joint:
    """Rows of the elements under each window, on a new last axis.

    Padding is zero, or with ``absent`` another element of the same window: a maximum does not mind.
    """
    p = node.params
    table = window_table(
        x.shape,
        p["window_dimensions"],
        p["window_strides"],
        p["padding"],
        p["base_dilation"],
        p["window_dilation"],
    )
    if absent and table.size:
        if (table.max(1) < 0).any():
            raise ValueError("a window lies in padding alone: the largest of no elements has no value")
        table = np.where(table < 0, table.max(1, keepdims=True), table)
    flat = reshaped(s, x, (math.prod(x.shape),))
    rows = taken(s, flat, table, 0)
    shaped = reshaped(s, rows, (*node.outputs[0].shape, table.shape[1]))
    assert isinstance(shaped, Joint)
    return shaped


@rule("reduce_window_sum")
def window_sum(s: Scope, node, x: Joint):
    rows = _windows(s, node, x, absent=False)
    return reduce_sum(s, replace(node, params={"axes": (len(rows.shape) - 1,)}), rows)


@rule("reduce_window_max")
def window_max(s: Scope, node, x: Joint):
    return largest_of_rows(s, lowered_infinities(s, _windows(s, node, x, absent=True)))


@rule("reduce_window_min")
def window_min(s: Scope, node, x: Joint):
    return negate(s, node, window_max(s, node, negate(s, node, x)))


@rule("reduce_window")
def window_of_any(s: Scope, node, *terms: Term):
    """Recognised where the function is one of those above; the start value is one more element."""
    kinds = {"add": "reduce_window_sum", "max": "reduce_window_max", "min": "reduce_window_min"}
    body = from_jaxpr(node.params["jaxpr"])
    operation = operation_of(body)
    if len(terms) != 2 or operation not in kinds:
        raise ValueError(
            "a window under any function but a sum, maximum or minimum has no private rule: use lax.add, lax.max or "
            "lax.min"
        )
    x, start = terms
    found = RULES[kinds[operation]](s, replace(node, op=kinds[operation], inputs=node.inputs[:1]), s.joint(x))
    identity = {"add": 0.0, "max": -np.inf, "min": np.inf}[operation]
    if isinstance(start, Known) and np.all(start.value == identity):
        return found
    return RULES[operation](s, replace(node, op=operation, params={}), found, start)

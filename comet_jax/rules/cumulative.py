"""Running sums, products and extremes, and products over axes.

A running sum is local. Others are folds: each step combines elements two, four, eight .. places apart.
"""

from collections.abc import Callable

import numpy as np

from comet_jax.protocols.linear import RunningSum
from comet_jax.rules.arithmetic import multiply, rearranged
from comet_jax.rules.comparison import maximum, minimum
from comet_jax.rules.extremes import axes_last
from comet_jax.rules.registry import rule
from comet_jax.rules.scope import Scope
from comet_jax.rules.structure import joined, part, room_for_sum
from comet_jax.rules.terms import Joint, Known, Scaled, Term

Fold = Callable[..., Term]


@rule("cumsum")
def running_sum(s: Scope, node, x: Joint):
    axis, reverse = node.params["axis"], bool(node.params["reverse"])

    def make():
        raw = room_for_sum(s, node, x, x.shape[axis])
        return Scaled(s.b.emit(RunningSum(axis, reverse), raw.var), raw.scale)

    return s.result(x.shape, make)


def _running(s: Scope, node, x: Joint, fold: Fold) -> Joint:
    """After step k each place has the fold of the 2^k places that end there."""
    axis, reverse, n = node.params["axis"], bool(node.params["reverse"]), x.shape[node.params["axis"]]
    step = 1
    while step < n:
        early, late = part(s, x, axis, 0, n - step), part(s, x, axis, step, n)
        both = s.joint(fold(s, node, early, late))
        whole = [both, part(s, x, axis, n - step, n)] if reverse else [part(s, x, axis, 0, step), both]
        x, step = joined(s, whole, axis, x.shape), 2 * step
    return x


@rule("cummax")
def running_max(s: Scope, node, x: Joint):
    return _running(s, node, x, maximum)


@rule("cummin")
def running_min(s: Scope, node, x: Joint):
    return _running(s, node, x, minimum)


@rule("cumprod")
def running_product(s: Scope, node, x: Joint):
    return _running(s, node, x, multiply)


@rule("reduce_prod")
def product(s: Scope, node, x: Joint):
    return product_of_rows(s, node, axes_last(s, x, tuple(node.params["axes"])))


def product_of_rows(s: Scope, node, x: Joint) -> Term:
    """The product of each row of the last axis, halves by halves."""
    axis = len(x.shape) - 1
    if not x.shape[-1]:
        return Known(np.ones(x.shape[:-1], node.outputs[0].dtype))
    while (n := x.shape[-1]) > 1:
        half = n // 2
        both = s.joint(multiply(s, node, part(s, x, axis, 0, half), part(s, x, axis, half, 2 * half)))
        rest = [part(s, x, axis, 2 * half, n)] if n % 2 else []
        x = joined(s, [both, *rest], axis, (*x.shape[:-1], half + n % 2))
    return rearranged(s, x, "reshape", (x.shape[:-1],), x.shape[:-1], once=True, last=False)

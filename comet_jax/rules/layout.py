"""Laying out a term anew, whoever knows it: a secret on its wires, an owner's and a public array in the clear."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from comet_jax.protocols.linear import Table
from comet_jax.rules.arithmetic import rearranged
from comet_jax.rules.scope import Scope
from comet_jax.rules.terms import Known, Owned, Term


def _move(s: Scope, x: Term, f: Callable, kind: str, parameters: tuple, *, last: bool = False) -> Term:
    """``f`` of an array that is here, or the rearrangement of one that is not. A wire is opened before it is moved."""
    if isinstance(x, Known):
        return Known(f(np.asarray(x.value)))
    shape = f(np.zeros(x.shape, np.bool_)).shape
    if isinstance(x, Owned):
        return replace(x.map(f, shape), range=x.range)
    return rearranged(s, x, kind, parameters, shape, once=True, last=last)


def transposed(s: Scope, x: Term, axes: tuple[int, ...]) -> Term:
    """x with its axes in another order."""
    if axes == tuple(range(len(axes))):
        return x
    return _move(s, x, lambda a: np.transpose(a, axes), "transpose", (axes,), last=axes[-1] == len(axes) - 1)


def reshaped(s: Scope, x: Term, shape: tuple[int, ...]) -> Term:
    """x in another shape."""
    if tuple(shape) == tuple(x.shape):
        return x
    last = bool(shape) and bool(x.shape) and shape[-1] == x.shape[-1]
    return _move(s, x, lambda a: np.reshape(a, shape), "reshape", (tuple(shape),), last=last)


def taken(s: Scope, x: Term, table: np.ndarray, axis: int) -> Term:
    """x at public places of one axis; zero at -1."""
    if (table < 0).any():
        config = tuple((0, int(i == axis), 0) for i in range(len(x.shape)))
        table = np.where(table < 0, x.shape[axis], table)
        x = _move(s, x, lambda a: np.pad(a, [c[:2] for c in config]), "pad", (config,))
    return _move(s, x, lambda a: np.take(a, table, axis), "take", (Table(table.astype(np.int32)), axis))

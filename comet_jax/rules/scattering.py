"""Updates at public places: which elements meet at each place is public, so they are laid out and folded."""

import math
from dataclasses import replace

import jax
import numpy as np
from jax import lax

from comet_jax.rules.arithmetic import add, negate, sub
from comet_jax.rules.cumulative import product_of_rows
from comet_jax.rules.extremes import largest_of_rows, lowered_infinities
from comet_jax.rules.indexing import CLIP, FILL, from_both
from comet_jax.rules.layout import reshaped, taken
from comet_jax.rules.registry import rule
from comet_jax.rules.scope import Scope
from comet_jax.rules.structure import joined, reduce_sum
from comet_jax.rules.terms import Known, Term


def _targets(node, operand: tuple[int, ...], indices: Term, updates: tuple[int, ...]) -> np.ndarray:
    """For each update the flat place that it goes to, or -1: what the derivative of a sum at those places reads."""
    if not isinstance(indices, Known):
        raise ValueError(
            "an update at secret places has no private rule: choose by comparison, "
            "jnp.where(jnp.arange(n) == i, new, old)"
        )
    size, p = math.prod(operand), node.params
    if size >= 1 << 24:
        raise ValueError("updates of an array of more than 2^24 elements have no private rule")
    mode = lax.GatherScatterMode.from_any(p["mode"])
    place = lambda u: lax.scatter_add(
        np.zeros(operand, np.float32), indices.value, u, p["dimension_numbers"], mode=CLIP if mode == CLIP else FILL
    )
    numbers = np.arange(1, size + 1, dtype=np.float32).reshape(operand)
    _, pull = jax.vjp(place, np.zeros(updates, np.float32))
    found = np.rint(np.asarray(pull(jax.numpy.asarray(numbers))[0])).astype(np.int64).reshape(-1) - 1
    if mode == lax.GatherScatterMode.PROMISE_IN_BOUNDS and (found < 0).any():
        raise ValueError("an update outside the array, where inside was promised")
    return found


def _meeting(targets: np.ndarray, size: int) -> np.ndarray:
    """Row i: the updates that go to place i, in order, and -1."""
    kept = np.flatnonzero(targets >= 0)
    order = kept[np.argsort(targets[kept], kind="stable")]
    counts = np.bincount(targets[order], minlength=size)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((size, max(1, counts.max(initial=0))), -1, np.int64)
    table[targets[order], rank] = order
    return table


@rule("scatter")
def replace_at(s: Scope, node, x: Term, indices: Term, updates: Term):
    """Of several updates at one place the last stays."""
    if node.params["update_jaxpr"] is not None and node.params["update_jaxpr"].eqns:
        raise ValueError("an update by a function has no private rule: use .at[..].set, add, multiply, min or max")
    targets = _targets(node, x.shape, indices, updates.shape)
    places = np.arange(math.prod(x.shape))
    kept = targets >= 0
    places[targets[kept]] = len(places) + np.flatnonzero(kept)
    return from_both(s, x, updates, places.reshape(x.shape))


@rule("scatter-add", "scatter-sub")
def add_at(s: Scope, node, x: Term, indices: Term, updates: Term):
    table = _meeting(_targets(node, x.shape, indices, updates.shape), math.prod(x.shape))
    rows = s.joint(taken(s, reshaped(s, updates, (math.prod(updates.shape),)), table, 0))
    if table.shape[1] > 1:
        flat = replace(node.outputs[0], shape=table.shape[:1])
        rows = reduce_sum(s, replace(node, params={"axes": (1,)}, outputs=(flat,)), rows)
    sums = reshaped(s, rows, x.shape)
    if isinstance(x, Known):
        sums = sums if node.op == "scatter-add" else negate(s, node, s.joint(sums))
        return add(s, node, sums, x)
    return (add if node.op == "scatter-add" else sub)(s, node, x, sums)


def _rows(s: Scope, node, x: Term, indices: Term, updates: Term, *, ones: bool) -> Term:
    """Each place with its updates; what is missing is one, or the element of x again."""
    size, count = math.prod(x.shape), math.prod(updates.shape)
    table = _meeting(_targets(node, x.shape, indices, updates.shape), size)
    own = np.arange(size)[:, None]
    table = np.concatenate([own, np.where(table < 0, size + count if ones else own, size + table)], 1)
    parts = [reshaped(s, x, (size,)), reshaped(s, updates, (count,))]
    parts += [Known(np.ones(1, node.outputs[0].dtype))] if ones else []
    return taken(s, joined(s, parts, 0, (size + count + ones,)), table, 0)


@rule("scatter-mul")
def multiply_at(s: Scope, node, x: Term, indices: Term, updates: Term):
    rows = s.joint(_rows(s, node, x, indices, updates, ones=True))
    return reshaped(s, product_of_rows(s, node, rows), x.shape)


@rule("scatter-max")
def raise_at(s: Scope, node, x: Term, indices: Term, updates: Term):
    rows = s.joint(_rows(s, node, x, indices, updates, ones=False))
    return reshaped(s, largest_of_rows(s, lowered_infinities(s, rows)), x.shape)


@rule("scatter-min")
def lower_at(s: Scope, node, x: Term, indices: Term, updates: Term):
    no = lambda t: Known(-t.value) if isinstance(t, Known) else negate(s, node, s.joint(t))
    return negate(s, node, s.joint(raise_at(s, node, no(x), indices, no(updates))))

"""Look-ups and slices. At public places elements only move; at secret ones it is a product with one-hot vectors."""

import math
from dataclasses import replace

import numpy as np
from jax import lax

from comet_jax.protocols.linear import Combine, Rearrange, Table
from comet_jax.protocols.selection import ToArithmetic
from comet_jax.rules.arithmetic import add, multiply, rearranged, sub
from comet_jax.rules.booleans import ONE
from comet_jax.rules.comparison import reached
from comet_jax.rules.contraction import product
from comet_jax.rules.extremes import columns
from comet_jax.rules.layout import reshaped, taken, transposed
from comet_jax.rules.registry import rule
from comet_jax.rules.scope import Scope
from comet_jax.rules.structure import choose_public, joined
from comet_jax.rules.terms import Joint, Known, Owned, Scaled, Term

CLIP = lax.GatherScatterMode.CLIP
FILL = lax.GatherScatterMode.FILL_OR_DROP


@rule("gather")
def gather(s: Scope, node, table: Term, indices: Term):
    if isinstance(indices, Known):
        return _at_public_places(s, node, s.joint(table), indices.value)
    return _at_secret_places(s, node, table, indices)


def _at_public_places(s: Scope, node, x: Joint, indices: np.ndarray) -> Term:
    """The places are found by looking them up in an array of places."""
    p = node.params
    places = np.arange(math.prod(x.shape), dtype=np.int32).reshape(x.shape)
    mode = CLIP if lax.GatherScatterMode.from_any(p["mode"]) == CLIP else FILL
    found = lax.gather(places, indices, p["dimension_numbers"], p["slice_sizes"], mode=mode, fill_value=-1)
    table = np.asarray(found)
    outside = table < 0
    fill = p["fill_value"]
    if outside.any() and (fill is None or not np.isfinite(fill)):
        raise ValueError(f"a look-up outside a table of shape {x.shape}: is a token id outside the vocabulary?")
    out = _moved(s, x, np.where(outside, 0, table))
    return out if not outside.any() else choose_public(s, out, Known(np.full(table.shape, fill)), outside)


def _moved(s: Scope, x: Joint, table: np.ndarray) -> Joint:
    """x at flat places. A wire is opened before it is moved where there are fewer elements to open then."""
    once, width = math.prod(x.shape) <= table.size, x.shape[-1] if x.shape else 0
    rows = table[..., 0] if width and table.shape[-1:] == (width,) else None
    if rows is not None and np.array_equal(table, rows[..., None] + np.arange(width)) and not np.any(rows % width):
        # Whole rows of the last axis.
        flat = rearranged(s, x, "reshape", ((-1, width),), (math.prod(x.shape[:-1]), width), once=True, last=True)
        step = (Table((rows // width).astype(np.int32)), 0)
        return rearranged(s, flat, "take", step, table.shape, once=once, last=True)
    flat = rearranged(s, x, "reshape", ((-1,),), (math.prod(x.shape),), once=True, last=False)
    return rearranged(s, flat, "take", (Table(table.astype(np.int32)), 0), table.shape, once=once, last=False)


def _at_secret_places(s: Scope, node, table: Term, indices: Owned | Joint) -> Term:
    """One axis at secret places, other axes whole or in step with the indices (``take_along_axis``)."""
    numbers, sizes = node.params["dimension_numbers"], node.params["slice_sizes"]
    batch_x, batch_i = tuple(numbers.operand_batching_dims), tuple(numbers.start_indices_batching_dims)
    axes = tuple(numbers.start_index_map)
    rest = [i for i in range(len(table.shape)) if i not in (*axes, *batch_x)]
    if len(axes) != 1 or tuple(numbers.collapsed_slice_dims) != axes or any(sizes[i] != table.shape[i] for i in rest):
        raise ValueError("at secret places one axis can be looked up, by `table[ids]` or jnp.take, others whole")
    count = table.shape[axes[0]]
    clipped = lax.GatherScatterMode.from_any(node.params["mode"]) == CLIP
    places = reshaped(s, indices, indices.shape[:-1])
    assert not isinstance(places, Known)
    hot = one_hot(s, places, count, clipped=clipped)
    free = [i for i in range(len(hot.shape) - 1) if i not in batch_i]
    dims = (((len(hot.shape) - 1,), axes), (batch_i, batch_x))
    # The product has the axes of both in step, the other indices, the rest of the table.
    offsets = tuple(numbers.offset_dims)
    of_indices = [i for i in range(len(node.outputs[0].shape)) if i not in offsets]
    order = [*(of_indices[i] for i in (*batch_i, *free)), *offsets]
    out = product(s, node, hot, table, dims, tuple(node.outputs[0].shape[i] for i in order))
    return transposed(s, out, tuple(int(i) for i in np.argsort(order)))


def one_hot(s: Scope, indices: Owned | Joint, count: int, *, clipped: bool) -> Joint:
    """Rows of integers with a one at each index: of one that is outside, at the nearest place if ``clipped``.

    Otherwise an owner is told, and a row at an index that nobody knows is zero.
    """
    shape = (*indices.shape, count)
    if isinstance(indices, Owned):
        hot = indices.map(lambda i: _hot_rows(i, count, clipped), shape, dtype=np.int32)
        return s.joint(replace(hot, range=ONE))

    def make():
        last = len(shape) - 1
        places = np.arange(1, count) if clipped else np.arange(count + 1)
        if not len(places):
            return Scaled(s.constant(np.ones(shape), 1.0), 1.0)
        steps = s.b.emit(ToArithmetic(s.numbers.ring), reached(s, indices, places.astype(np.float64)))
        if clipped:
            ends = [(*indices.shape, 1)] * 2
            one, zero = (s.constant(np.full(e, v), 1.0) for e, v in zip(ends, (1, 0)))
            steps = s.b.emit(Rearrange("concatenate", (last,)), one, steps, zero)
        upper, lower = (columns(s, steps, k, count) for k in (0, 1))
        return Scaled(s.b.emit(Combine((1, -1)), upper, lower), 1.0)

    return s.result(shape, make, range=ONE)


def _hot_rows(indices: np.ndarray, count: int, clipped: bool) -> np.ndarray:
    indices = np.clip(indices, 0, count - 1) if clipped else indices
    if np.any((indices < 0) | (indices >= count)):
        raise IndexError(f"a look-up outside a table of {count} rows: is a token id outside the vocabulary?")
    return (np.arange(count) == indices[..., None]).astype(np.int32)


@rule("dynamic_slice")
def dynamic_slice(s: Scope, node, x: Term, *starts: Term):
    """At secret places: every window, times the one-hot vector of the place."""
    sizes, shape = tuple(node.params["slice_sizes"]), tuple(x.shape)
    begin = tuple(_clipped(i, n - k) for i, n, k in zip(starts, shape, sizes))
    end = tuple(b + k if isinstance(t, Known) else n for b, k, n, t in zip(begin, sizes, shape, starts))
    if isinstance(x, Joint):
        part = tuple(b - a for a, b in zip(begin, end))
        last = part[-1] == shape[-1]
        x = rearranged(s, x, "slice", (begin, end, (1,) * len(end)), part, once=False, last=last)
    else:
        for i, (a, b) in enumerate(zip(begin, end)):
            x = taken(s, x, np.arange(a, b), i)
    for i, (start, k) in enumerate(zip(starts, sizes)):
        if not isinstance(start, Known):
            x = _window_at(s, node, x, i, start, k)
    return x


def _clipped(start: Term, limit: int) -> int:
    return int(np.clip(start.value, 0, limit)) if isinstance(start, Known) else 0


def _window_at(s: Scope, node, x: Term, axis: int, start: Owned | Joint, size: int) -> Term:
    count = x.shape[axis] - size + 1
    hot = one_hot(s, start, count, clipped=True)
    windows = taken(s, x, np.arange(count)[:, None] + np.arange(size), axis)
    out = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    return product(s, node, hot, windows, (((0,), (axis,)), ((), ())), out)


@rule("dynamic_update_slice")
def dynamic_update_slice(s: Scope, node, x: Term, update: Term, *starts: Term):
    secret = [i for i, t in enumerate(starts) if not isinstance(t, Known)]
    begin = [_clipped(i, n - k) for i, n, k in zip(starts, x.shape, update.shape)]
    if len(secret) > 1:
        raise ValueError("a slice can be replaced at a secret place of one axis only")
    if secret:
        (axis,) = secret
        before = x
        for i, (a, k) in enumerate(zip(begin, update.shape)):
            before = before if i == axis else taken(s, before, np.arange(a, a + k), i)
        update = _replaced(s, node, before, update, axis, starts[axis])
    places = np.arange(math.prod(x.shape)).reshape(x.shape)
    window = tuple(slice(a, a + k) for a, k in zip(begin, update.shape))
    places[window] = places.size + np.arange(math.prod(update.shape)).reshape(update.shape)
    return from_both(s, x, update, places)


def _replaced(s: Scope, node, x: Term, update: Term, axis: int, start: Term) -> Joint:
    """x - inside x + the update where it falls, for a one-hot vector of its place."""
    assert not isinstance(start, Known)
    length, size = x.shape[axis], update.shape[axis]
    hot = one_hot(s, start, length - size + 1, clipped=True)
    # Element j of the result comes from element j - place of the update, if there is one.
    source = np.arange(length)[None] - np.arange(length - size + 1)[:, None]
    source = np.where((source >= 0) & (source < size), source, -1)
    spread = taken(s, update, source, axis)
    moved = product(s, node, hot, spread, (((0,), (axis,)), ((), ())), x.shape)
    inside = product(s, node, hot, Known((source >= 0).astype(np.int32)), (((0,), (0,)), ((), ())), (length,))
    assert isinstance(inside, Joint)
    mask = rearranged(s, inside, "broadcast", (x.shape, (axis,)), x.shape, once=True, last=False)
    kept = sub(s, node, s.joint(x), multiply(s, node, mask, x))
    return add(s, node, kept, moved)


def from_both(s: Scope, x: Term, y: Term, places: np.ndarray) -> Joint:
    """The elements of flat x, then of flat y, at ``places``."""
    flat = [reshaped(s, t, (math.prod(t.shape),)) for t in (x, y)]
    both = joined(s, flat, 0, (sum(t.shape[0] for t in flat),))
    step = (Table(places.reshape(-1).astype(np.int32)), 0)
    moved = rearranged(s, both, "take", step, (places.size,), once=False, last=False)
    return rearranged(s, moved, "reshape", (places.shape,), places.shape, once=True, last=False)

"""Moving elements around: free, and an opened wire stays opened."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jax import lax

from comet_jax.protocols.linear import Rearrange, Sum
from comet_jax.rules.arithmetic import _add_public, hull, is_finite, masked, rearranged
from comet_jax.rules.registry import rule
from comet_jax.rules.scope import Scope
from comet_jax.rules.terms import Joint, Known, Owned, Scaled, Term


@rule("reshape")
def reshape(s: Scope, node, x: Joint):
    shape = node.outputs[0].shape
    last = bool(shape) and bool(x.shape) and shape[-1] == x.shape[-1]
    return rearranged(s, x, "reshape", (shape,), shape, once=True, last=last)


@rule("squeeze")
def squeeze(s: Scope, node, x: Joint):
    return reshape(s, node, x)


@rule("transpose")
def transpose(s: Scope, node, x: Joint):
    axes = tuple(node.params["permutation"])
    last = bool(axes) and axes[-1] == len(axes) - 1
    return rearranged(s, x, "transpose", (axes,), node.outputs[0].shape, once=True, last=last)


@rule("broadcast_in_dim")
def broadcast(s: Scope, node, x: Joint):
    shape, dims = node.outputs[0].shape, tuple(node.params["broadcast_dimensions"])
    last = bool(dims) and dims[-1] == len(shape) - 1 and x.shape[-1] == shape[-1]
    out = rearranged(s, x, "broadcast", (shape, dims), shape, once=True, last=last)
    whole = all(n == shape[i] for n, i in zip(x.shape, dims))
    return replace(out, spread=(x, dims)) if whole else out


@rule("slice")
def slice_(s: Scope, node, x: Joint):
    p = node.params
    strides = tuple(p["strides"] or (1,) * len(x.shape))
    parameters = (tuple(p["start_indices"]), tuple(p["limit_indices"]), strides)
    shape = node.outputs[0].shape
    return rearranged(s, x, "slice", parameters, shape, once=False, last=shape[-1] == x.shape[-1])


def part(s: Scope, x: Joint, axis: int, start: int, end: int) -> Joint:
    """x from ``start`` to ``end`` of one axis."""
    begin = tuple(start if i == axis else 0 for i in range(len(x.shape)))
    stop = tuple(end if i == axis else n for i, n in enumerate(x.shape))
    shape = tuple(b - a for a, b in zip(begin, stop))
    last = axis != len(shape) - 1
    return rearranged(s, x, "slice", (begin, stop, (1,) * len(shape)), shape, once=False, last=last)


def layer(s: Scope, x: Joint, axis: int, k: int) -> Joint:
    """x at place ``k`` of one axis, which is gone."""
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    last = axis != len(x.shape) - 1
    return rearranged(s, part(s, x, axis, k, k + 1), "reshape", (shape,), shape, once=True, last=last)


@rule("split")
def split(s: Scope, node, x: Joint):
    axis, ends = node.params["axis"], np.cumsum([0, *node.params["sizes"]]).tolist()
    return [part(s, x, axis, a, b) for a, b in zip(ends, ends[1:])]


@rule("rev")
def reverse(s: Scope, node, x: Joint):
    axes = tuple(node.params["dimensions"])
    return rearranged(s, x, "reverse", (axes,), x.shape, once=True, last=len(x.shape) - 1 not in axes)


@rule("tile")
def tile(s: Scope, node, x: Joint):
    repeated = [n for r, size in zip(node.params["reps"], x.shape) for n in (r, size)]
    dims = tuple(range(1, 2 * len(x.shape), 2))
    return reshape(s, node, rearranged(s, x, "broadcast", (tuple(repeated), dims), repeated, once=True, last=False))


@rule("pad")
def pad(s: Scope, node, x: Term, fill: Term):
    config, shape = tuple(map(tuple, node.params["padding_config"])), node.outputs[0].shape
    padded = lambda t: rearranged(s, s.joint(t), "pad", (config,), shape, once=False, last=False)
    lowest = isinstance(fill, Known) and not is_finite(fill.value).any()
    if isinstance(x, Joint) and x.masked and not lowest:
        raise ValueError("what has minus infinity in it can only be padded with minus infinity")
    if isinstance(fill, Known) and not np.any(fill.value):
        return padded(x)
    outside = np.asarray(lax.pad(np.zeros(x.shape, np.int32), np.int32(1), config)).astype(bool)
    if isinstance(fill, Known):
        return choose_public(s, padded(x), Known(np.broadcast_to(fill.value, shape)), outside)
    return choose_public(s, padded(x), align(s, fill, shape), outside)


@rule("concatenate")
def concatenate(s: Scope, node, *xs: Term):
    return joined(s, xs, node.params["dimension"], node.outputs[0].shape)


@rule("stack")
def stack(s: Scope, node, *xs: Term):
    axis, shape = node.params["axis"], node.outputs[0].shape
    one, last = (*shape[:axis], 1, *shape[axis + 1 :]), axis != len(shape) - 1

    def one_layer(x: Term) -> Term:
        if isinstance(x, Known):
            return Known(x.value.reshape(one))
        return rearranged(s, s.joint(x), "reshape", (one,), one, once=True, last=last)

    return joined(s, list(map(one_layer, xs)), axis, shape)


@rule("unstack")
def unstack(s: Scope, node, x: Joint):
    return [layer(s, x, node.params["axis"], k) for k in range(len(node.outputs))]


def joined(s: Scope, xs: Sequence[Term], axis: int, shape: tuple[int, ...]) -> Joint:
    """The arrays along an axis. Public ones become shares of constants, at the scale of the secret ones."""
    if any(isinstance(x, Joint) and x.masked for x in xs):
        return _joined_masked(s, xs, axis, shape)
    if not all(is_finite(x.value).all() for x in xs if isinstance(x, Known)):
        return _joined_masked(s, xs, axis, shape)
    joints = [x if isinstance(x, Known) else s.joint(x) for x in xs]

    def make():
        parts = [j.raw for j in joints if isinstance(j, Joint)]
        scale = s.common_scale(*parts, largest=extra["range"].largest if extra["range"] else 0.0)
        shares = lambda j: s.constant(j.value, scale) if isinstance(j, Known) else s.rescale(j.raw, scale).var
        return Scaled(s.b.emit(Rearrange("concatenate", (axis,)), *map(shares, joints)), scale)

    extra: dict[str, Any] = {"range": hull(*xs)}
    if all(isinstance(j, Joint) and j.flag for j in joints):
        bits = lambda: [j.flag() for j in joints]  # type: ignore[union-attr]
        extra["flag"] = lambda: s.b.emit(Rearrange("concatenate", (axis,)), *bits())
    return s.result(shape, make, **extra)


def _joined_masked(s: Scope, xs: Sequence[Term], axis: int, shape: tuple[int, ...]) -> Joint:
    """Arrays with minus infinity in them: what is finite is joined, and where that is."""
    bases: list[Term] = []
    where = []
    for x in xs:
        if isinstance(x, Known):
            keep = is_finite(x.value)
            bases.append(Known(np.where(keep, x.value, 0)))
        else:
            masked_part = x.masked if isinstance(x, Joint) else None
            keep = masked_part.where.mask if masked_part else np.ones(x.shape, bool)
            bases.append(masked_part.base if masked_part else x)
        where.append(keep)
    return masked(s, joined(s, bases, axis, shape), np.concatenate(where, axis))


@rule("reduce_sum")
def reduce_sum(s: Scope, node, x: Joint):
    axes = tuple(node.params["axes"])
    count = int(np.prod([x.shape[i] for i in axes]))

    def make():
        raw = room_for_sum(s, node, x, count)
        return Scaled(s.b.emit(Sum(axes), raw.var), raw.scale)

    return s.result(node.outputs[0].shape, make)


def room_for_sum(s: Scope, node, x: Joint, count: int) -> Scaled:
    """x where ``count`` elements may be added: log2 more bits, in a tight ring taken from the fraction first."""
    raw, spare = x.raw, max(0, int(np.ceil(np.log2(max(count, 1)))))
    found = s.calibrated(node.outputs[0])
    largest = found.largest / 2 if found else s.numbers.bound * count
    if s.numbers.ring == 32 and spare and raw.scale * largest > 2.0**29:
        fraction = int(np.floor(np.log2(raw.scale))) - max(spare, 5)
        raw = s.small(raw, fraction=fraction, bound=s.range_of(x).largest if found else s.numbers.norm_bound)
    return raw


@rule("select_n", elementwise=True)
def select(s: Scope, node, which: Term, *cases: Term):
    shape, boolean = node.outputs[0].shape, node.outputs[0].dtype.kind == "b"
    if not isinstance(which, Known):
        from comet_jax.rules.booleans import choose_bits
        from comet_jax.rules.comparison import select_by_index, select_by_secret

        if node.inputs[0].dtype.kind != "b":
            return select_by_index(s, node, which, cases)
        if boolean:
            return choose_bits(s, which, cases[0], cases[1], shape)
        return select_by_secret(s, s.joint(which), *cases)
    number = np.broadcast_to(np.clip(which.value.astype(np.int64), 0, len(cases) - 1), shape)
    used = np.unique(number) if number.size else np.array([0])
    out = cases[int(used[0])]
    for k in used[1:]:
        out = choose_public(s, out, cases[int(k)], number == k, boolean=boolean)
    return out if not isinstance(out, Known) else Known(np.broadcast_to(out.value, shape))


def choose_public(s: Scope, no: Term, yes: Term, second: np.ndarray, *, boolean: bool = False) -> Term:
    """``yes`` at the public places ``second``, and ``no`` elsewhere."""
    shape = second.shape
    if boolean:
        from comet_jax.rules.booleans import choose_bits

        if not (isinstance(no, Known) and isinstance(yes, Known)):
            return choose_bits(s, Known(second), no, yes, shape)
    if isinstance(no, Known) and isinstance(yes, Known):
        return Known(np.where(second, yes.value, no.value))
    for value, other, keep in ((no, yes, second), (yes, no, ~second)):
        if isinstance(value, Known):
            if keep.all():
                return other
            fill = np.broadcast_to(value.value, shape)
            joint = s.joint(other)
            if not is_finite(fill[~keep]).any():
                low = np.unique(fill[~keep])
                return masked(s, joint, keep, even=low.size == 1 and np.isfinite(low[0]))
            chosen = _choose(s, joint, keep)
            return _add_public(s, chosen, np.where(keep, 0, fill))
    a, b = _choose(s, s.joint(no), ~second), _choose(s, s.joint(yes), second)
    return s.result(shape, lambda: s.add(a.raw, b.raw), range=hull(no, yes))


def _choose(s: Scope, x: Joint, keep: np.ndarray) -> Joint:
    if x.masked and not (keep & ~x.masked.where.mask).any():  # no minus infinity is kept
        x = x.masked.base
    return s.result(x.shape, lambda: Scaled(s.scale_by(x.raw.var, keep.astype(np.int64)), x.raw.scale), range=x.range)


def align(s: Scope, term: Term, shape: tuple[int, ...]) -> Term:
    """``term`` repeated along its axes of one element, to ``shape``. Scalars stay: they cost nothing anywhere."""
    if tuple(term.shape) == tuple(shape) or (isinstance(term, Known) and term.shape == ()):
        return term
    dims = tuple(range(len(shape) - len(term.shape), len(shape)))
    if isinstance(term, Known):
        return Known(np.broadcast_to(term.value, shape))
    if isinstance(term, Owned):
        flat = bool(term.shape) and max(term.shape[:-1], default=1) == 1  # a vector on its last axis
        vector = term.vector or (term.map(np.ravel, term.shape[-1:]) if flat else None)
        if vector is not None and vector.shape != tuple(shape[-1:]):
            vector = None
        spread = lambda env: np.broadcast_to(np.asarray(term.at(env)), shape)
        return replace(term, shape=tuple(shape), compute=spread, vector=vector)
    last = bool(term.shape) and term.shape[-1] == shape[-1]
    if len(term.shape) == len(shape):
        # Axes of one element are dropped first: a broadcast maps an axis to one of its own size.
        kept = tuple(i for i, n in enumerate(term.shape) if n == shape[i])
        small = tuple(term.shape[i] for i in kept)
        term = rearranged(s, term, "reshape", (small,), small, once=True, last=last)
        dims = kept
    out = rearranged(s, term, "broadcast", (tuple(shape), dims), shape, once=True, last=last)
    return replace(out, spread=(term, dims))


def follow(owned: Owned, node) -> "Owned | None":
    """The vector that a rearranged owner's value still repeats, if its last axis is untouched."""
    if owned.vector is None and len(owned.shape) != 1:
        return None
    vector, shape = owned.vector or owned, node.outputs[0].shape
    if not shape or not vector.shape or shape[-1] != vector.shape[0]:
        return None
    if node.op == "broadcast_in_dim":
        return vector if node.params["broadcast_dimensions"][-1:] == (len(shape) - 1,) else None
    if node.op == "convert_element_type":
        return vector
    return vector if node.op in ("reshape", "squeeze") else None

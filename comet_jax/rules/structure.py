"""Moving elements around: free, and an opened wire stays opened."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from comet_jax.protocols.linear import Rearrange, Sum
from comet_jax.rules.arithmetic import masked, rearranged
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
    return rearranged(s, x, "broadcast", (shape, dims), shape, once=True, last=last)


@rule("slice")
def slice_(s: Scope, node, x: Joint):
    p = node.params
    strides = tuple(p["strides"] or (1,) * len(x.shape))
    parameters = (tuple(p["start_indices"]), tuple(p["limit_indices"]), strides)
    shape = node.outputs[0].shape
    return rearranged(s, x, "slice", parameters, shape, once=False, last=shape[-1] == x.shape[-1])


@rule("split")
def split(s: Scope, node, x: Joint):
    axis, start, out = node.params["axis"], 0, []
    for size in node.params["sizes"]:
        begin = tuple(start if i == axis else 0 for i in range(len(x.shape)))
        end = tuple(start + size if i == axis else n for i, n in enumerate(x.shape))
        shape = tuple(b - a for a, b in zip(begin, end))
        parameters = (begin, end, (1,) * len(shape))
        out.append(rearranged(s, x, "slice", parameters, shape, once=False, last=axis != len(shape) - 1))
        start += size
    return out


@rule("rev")
def reverse(s: Scope, node, x: Joint):
    axes = tuple(node.params["dimensions"])
    return rearranged(s, x, "reverse", (axes,), x.shape, once=True, last=len(x.shape) - 1 not in axes)


@rule("pad")
def pad(s: Scope, node, x: Term, fill: Term):
    if not isinstance(fill, Known) or np.any(fill.value):
        raise ValueError("a secret can only be padded with zeros")
    config = tuple(map(tuple, node.params["padding_config"]))
    return rearranged(s, s.joint(x), "pad", (config,), node.outputs[0].shape, once=False, last=False)


@rule("concatenate")
def concatenate(s: Scope, node, *xs: Term):
    return _joined(s, xs, node.params["dimension"], node.outputs[0].shape)


@rule("stack")
def stack(s: Scope, node, *xs: Term):
    axis, shape = node.params["axis"], node.outputs[0].shape
    one, last = (*shape[:axis], 1, *shape[axis + 1 :]), axis != len(shape) - 1
    layer = lambda x: rearranged(s, x, "reshape", (one,), one, once=True, last=last) if isinstance(x, Joint) else x
    return _joined(s, [layer(x if isinstance(x, Known) else s.joint(x)) for x in xs], axis, shape)


@rule("unstack")
def unstack(s: Scope, node, x: Joint):
    axis, last = node.params["axis"], node.params["axis"] != len(x.shape) - 1
    out = []
    for i, value in enumerate(node.outputs):
        begin = tuple(i if k == axis else 0 for k in range(len(x.shape)))
        end = tuple(i + 1 if k == axis else n for k, n in enumerate(x.shape))
        one = tuple(b - a for a, b in zip(begin, end))
        layer = rearranged(s, x, "slice", (begin, end, (1,) * len(one)), one, once=False, last=last)
        out.append(rearranged(s, layer, "reshape", (value.shape,), value.shape, once=True, last=last))
    return out


def _joined(s: Scope, xs: Sequence[Term], axis: int, shape: tuple[int, ...]) -> Joint:
    if any(isinstance(x, Known) for x in xs):
        raise ValueError("joining public and secret arrays has no private rule: share the public one")
    joints = [s.joint(x) for x in xs]

    def make():
        parts = [j.raw for j in joints]
        scale = max(p.scale for p in parts)
        return Scaled(s.b.emit(Rearrange("concatenate", (axis,)), *(s.rescale(p, scale).var for p in parts)), scale)

    return s.result(shape, make)


@rule("dynamic_slice")
def dynamic_slice(s: Scope, node, x: Term, *starts: Term):
    places = [i.value for i in starts if isinstance(i, Known)]
    if len(places) < len(starts):
        raise ValueError("slicing at a secret place has no private rule")
    sizes, joint = node.params["slice_sizes"], s.joint(x)
    begin = tuple(int(np.clip(i, 0, n - k)) for i, n, k in zip(places, joint.shape, sizes))
    end = tuple(b + k for b, k in zip(begin, sizes))
    last = sizes[-1] == joint.shape[-1]
    return rearranged(s, joint, "slice", (begin, end, (1,) * len(end)), tuple(sizes), once=False, last=last)


@rule("reduce_sum")
def reduce_sum(s: Scope, node, x: Joint):
    axes = tuple(node.params["axes"])
    count = int(np.prod([x.shape[i] for i in axes]))

    def make():
        # A sum of n needs log2 n more bits: in a tight ring they are taken from the fraction first.
        raw, spare = x.raw, max(0, int(np.ceil(np.log2(max(count, 1)))))
        found = s.calibrated(node.outputs[0])
        largest = found.largest / 2 if found else s.numbers.bound * count
        if s.numbers.ring == 32 and spare and raw.scale * largest > 2.0**29:
            fraction = int(np.floor(np.log2(raw.scale))) - max(spare, 5)
            raw = s.small(raw, fraction=fraction, bound=s.range_of(x).largest if found else s.numbers.norm_bound)
        return Scaled(s.b.emit(Sum(axes), raw.var), raw.scale)

    return s.result(node.outputs[0].shape, make)


@rule("select_n", elementwise=True)
def select(s: Scope, node, which: Term, *cases: Term):
    if len(cases) != 2:
        raise ValueError("a choice among more than two cases has no private rule")
    if not isinstance(which, Known):
        from comet_jax.rules.comparison import select_by_secret

        return select_by_secret(s, s.joint(which), *cases)
    shape = node.outputs[0].shape
    second = np.broadcast_to(which.value.astype(bool), shape)
    no, yes = cases
    for value, other, keep in ((no, yes, second), (yes, no, ~second)):
        if isinstance(value, Known):
            from comet_jax.rules.arithmetic import MINUS_INFINITY, _add_public

            fill = np.broadcast_to(np.asarray(value.value, np.float64), shape)
            joint = s.joint(other)
            if np.all(fill[~keep] <= MINUS_INFINITY):
                return masked(s, joint, keep)
            chosen = _choose(s, joint, keep)
            return _add_public(s, chosen, np.where(keep, 0.0, fill))
    a, b = _choose(s, s.joint(no), ~second), _choose(s, s.joint(yes), second)
    return s.result(shape, lambda: s.add(a.raw, b.raw))


def _choose(s: Scope, x: Joint, keep: np.ndarray) -> Joint:
    return s.result(x.shape, lambda: Scaled(s.scale_by(x.raw.var, keep.astype(np.int64)), x.raw.scale))


def align(s: Scope, term: Term, shape: tuple[int, ...]) -> Term:
    """``term`` repeated along its axes of one element, to ``shape``. Scalars stay: they cost nothing anywhere."""
    if tuple(term.shape) == tuple(shape) or (isinstance(term, Known) and term.shape == ()):
        return term
    dims = tuple(range(len(shape) - len(term.shape), len(shape)))
    if isinstance(term, Known):
        return Known(np.broadcast_to(term.value, shape))
    if isinstance(term, Owned):
        vector = term.vector or (term if len(term.shape) == 1 else None)
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
    return rearranged(s, term, "broadcast", (tuple(shape), dims), shape, once=True, last=last)


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

"""Matrix products and look-ups."""

from dataclasses import replace

import numpy as np

from comet_jax.policy import Range
from comet_jax.protocols.bilinear import Bilinear
from comet_jax.protocols.linear import Combine
from comet_jax.rules.registry import rule
from comet_jax.rules.scope import Scope, centre
from comet_jax.rules.terms import Joint, Known, Linear, Owned, Scaled, Term


@rule("dot_general")
def dot_general(s: Scope, node, x: Term, y: Term):
    dims = _plain(node.params["dimension_numbers"])
    shape = node.outputs[0].shape
    if isinstance(x, Known) or isinstance(y, Known):
        return _by_public(s, x, y, dims, shape)
    if isinstance(y, Owned):
        return _by_weights(s, node, s.joint(x), y, dims, flipped=False)
    if isinstance(x, Owned):
        return _by_weights(s, node, y, x, dims, flipped=True)

    def make():
        a, b = s.factors(x, y, node.outputs[0])
        return Scaled(s.b.emit(Bilinear(dims), a.var, b.var), a.scale * b.scale)

    return s.result(shape, make)


def product(s: Scope, node, x: Term, y: Term, dims, shape: tuple[int, ...]) -> Term:
    """A ``dot_general`` that makes the node's result, laid out in another ``shape``."""
    out = replace(node.outputs[0], shape=shape)
    if node.outputs[0] in s.ranges:
        s.ranges[out] = s.ranges[node.outputs[0]]
    return dot_general(s, replace(node, params={"dimension_numbers": dims}, outputs=(out,)), x, y)


def _plain(dims):
    (ca, cb), (ba, bb) = dims
    return ((tuple(ca), tuple(cb)), (tuple(ba), tuple(bb)))


def _by_weights(s: Scope, node, x: Joint, w: Owned, dims, *, flipped: bool) -> Joint:
    """x w, or w x where ``flipped``, for an owner's w. Its scale is chosen so that the result is at its own scale."""
    shape, whole = node.outputs[0].shape, node.outputs[0].dtype.kind in "iub"
    scale = 1.0 if whole else s.scale_of(node.outputs[0])
    mine, theirs = dims[0][::-1] if flipped else dims[0]
    batched = bool(dims[1][0])

    def product(base: Joint, weights: Owned) -> Scaled:
        a = base.operand
        var = s.encode(weights, scale / a.scale, static=True)
        pair = (var, a.var) if flipped else (a.var, var)
        return Scaled(s.b.emit(Bilinear(dims), *pair), scale)

    def plus(out: Scaled, bias: Owned | None) -> Scaled:
        if bias is None:
            return out
        var = s.broadcast(s.encode(bias, out.scale), shape)
        return Scaled(s.b.emit(Combine((1, 1)), out.var, var), out.scale)

    base, bias, given = x, None, w
    if mine == (len(x.shape) - 1,) and not batched and not flipped:
        base, w, bias = folded(x, w, theirs[0])
    extra = {}
    # The result's last axis is the weights' last axis, so centring the result is centring the weights.
    if not flipped and not batched and len(w.shape) - 1 not in theirs and len(theirs) < len(w.shape):
        middle = lambda: plus(product(base, centre(w)), None if bias is None else centre(bias))
        extra["make_centred"] = middle
        extra["linear"] = Linear(w.owner, lambda gain, found: _times(s, node, x, given, dims, gain, found))
    return s.result(shape, lambda: plus(product(base, w), bias), **extra)


def _times(s: Scope, node, x: Joint, w: Owned, dims, gain: Owned, found: Range | None) -> Joint:
    """x (w gain), for a vector along the last axis."""
    out = replace(node.outputs[0])
    if found:
        s.ranges[out] = found
    weights = replace(w.map(np.multiply, w.shape, gain, dtype=np.float64), name=w.name)
    return _by_weights(s, replace(node, outputs=(out,)), x, weights, dims, flipped=False)


def folded(x: Joint, w: Owned, axis: int) -> tuple[Joint, Owned, Owned | None]:
    """x W, W's ``axis`` against x's last one, as y W' + b with a y that is cheaper than x.

    (y g + c) W = y (g W) + c W: a normalisation's scale and shift move into the weights, at their owner.
    """
    affine = x.affine
    if affine is None or affine.gain.owner != w.owner:
        return x, w, None

    def scaled(gain, weights):
        return np.moveaxis(np.moveaxis(weights, axis, -1) * gain, -1, axis)

    weights = replace(affine.gain.map(scaled, w.shape, w, dtype=np.float64), name=w.name)
    bias = None
    if affine.shift is not None:
        out = tuple(n for i, n in enumerate(w.shape) if i != axis)
        bias = affine.shift.map(lambda b, weights: np.tensordot(b, weights, (0, axis)), out, w, dtype=np.float64)
    return affine.base, weights, bias


def _by_public(s: Scope, x: Term, y: Term, dims, shape) -> Joint:
    from comet_jax.protocols.public import PublicProduct

    secret, table, first = (y, x.value, True) if isinstance(x, Known) else (x, y.value, False)  # type: ignore[union-attr]
    joint = s.joint(secret)
    table = np.asarray(table, np.float64)
    whole = bool(np.all(table == np.rint(table)))
    bits = 0 if whole else s.table_bits

    def make():
        base = joint.raw if whole and np.abs(table).sum() <= 1 else s.small(joint.raw)
        step = PublicProduct.of(np.rint(table * 2.0**bits), dims, table_first=first)
        return Scaled(s.b.emit(step, base.var), base.scale * 2.0**bits)

    return s.result(shape, make)

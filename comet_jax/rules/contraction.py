"""Matrix products and look-ups."""

from dataclasses import replace

import numpy as np

from comet_jax.protocols.bilinear import Bilinear
from comet_jax.protocols.linear import Combine
from comet_jax.rules.registry import rule
from comet_jax.rules.scope import Scope, centre
from comet_jax.rules.terms import Joint, Known, Owned, Scaled, Term


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
        a, b = x.operand, y.operand
        return Scaled(s.b.emit(Bilinear(dims), a.var, b.var), s.fits(a.scale * b.scale, node.outputs[0]))

    return s.result(shape, make)


def _plain(dims):
    (ca, cb), (ba, bb) = dims
    return ((tuple(ca), tuple(cb)), (tuple(ba), tuple(bb)))


def _by_weights(s: Scope, node, x: Joint, w: Owned, dims, *, flipped: bool) -> Joint:
    """x w, or w x where ``flipped``, for an owner's w. Its scale is chosen so that the result is at its own scale."""
    shape, scale = node.outputs[0].shape, s.scale_of(node.outputs[0])
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

    base, bias = x, None
    last = (len(x.shape) - 1,)
    if x.affine and mine == last and not batched and not flipped and x.affine.gain.owner == w.owner:
        # (b g + c) W = b (g W) + c W: a normalisation's scale and shift move into the weights, at their owner.
        base, w, bias = _fold(x, w, theirs[0])
    extra = {}
    # The result's last axis is the weights' last axis, so centring the result is centring the weights.
    if not flipped and not batched and len(w.shape) - 1 not in theirs and len(theirs) < len(w.shape):
        middle = lambda: plus(product(base, centre(w)), None if bias is None else centre(bias))
        extra["make_centred"] = middle
    return s.result(shape, lambda: plus(product(base, w), bias), **extra)


def _fold(x: Joint, w: Owned, axis: int):
    affine = x.affine
    assert affine is not None

    def scaled(gain, weights):
        return np.moveaxis(np.moveaxis(weights, axis, -1) * gain, -1, axis)

    folded = affine.gain.map(scaled, w.shape, w, dtype=np.float64)
    folded = replace(folded, name=w.name)
    bias = None
    if affine.shift is not None:
        out = tuple(n for i, n in enumerate(w.shape) if i != axis)
        bias = affine.shift.map(lambda b, weights: np.tensordot(b, weights, (0, axis)), out, w, dtype=np.float64)
    return affine.base, folded, bias


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


@rule("gather")
def gather(s: Scope, node, table: Term, indices: Term):
    """Rows of a table. At secret places of a secret table: a product with one-hot rows from the indices' owner."""
    numbers, sizes = node.params["dimension_numbers"], node.params["slice_sizes"]
    batch = len(node.outputs[0].shape) - len(numbers.offset_dims)
    rows = (
        tuple(numbers.start_index_map) == (0,)
        and tuple(numbers.collapsed_slice_dims) == (0,)
        and tuple(sizes[1:]) == tuple(table.shape[1:])
        and tuple(numbers.offset_dims) == tuple(range(batch, len(node.outputs[0].shape)))
    )
    if not rows:
        raise ValueError("only whole rows of a table, `table[ids]`, can be looked up")
    if isinstance(indices, Joint):
        raise ValueError("a look-up needs indices that one owner knows, not computed ones")
    if isinstance(indices, Known):
        return _public_rows(s, node, s.joint(table), indices.value)
    count = table.shape[0]
    places = Owned(
        indices.owner,
        (*indices.shape[:-1], count),
        np.dtype(np.int32),
        indices.map(lambda i: _one_hot(i[..., 0], count), (*indices.shape[:-1], count)).compute,
        indices.name,
    )
    hot = s.joint(places)
    dims = (((len(places.shape) - 1,), (0,)), ((), ()))
    if isinstance(table, Owned):
        return _by_weights(s, node, hot, table, dims, flipped=False)
    if isinstance(table, Known):
        return _by_public(s, hot, table, dims, node.outputs[0].shape)

    def make():
        a, b = hot.operand, table.operand
        return Scaled(s.b.emit(Bilinear(dims), a.var, b.var), a.scale * b.scale)

    return s.result(node.outputs[0].shape, make)


def _one_hot(indices: np.ndarray, count: int) -> np.ndarray:
    _check_rows(indices, count)
    return (np.arange(count) == indices[..., None]).astype(np.int32)


def _check_rows(indices: np.ndarray, count: int) -> None:
    """JAX clips such places or reads NaN there; here they are refused, as a mistake."""
    if np.any((indices < 0) | (indices >= count)):
        raise IndexError(f"a look-up outside a table of {count} rows: is a token id outside the vocabulary?")


def _public_rows(s: Scope, node, table: Joint, indices: np.ndarray) -> Joint:
    from comet_jax.protocols.linear import Rearrange, Table

    try:
        _check_rows(indices, table.shape[0])
    except IndexError as error:
        raise ValueError(str(error)) from error
    step = Rearrange("take", (Table(indices[..., 0].astype(np.int32)), 0))
    return s.result(node.outputs[0].shape, lambda: Scaled(s.b.emit(step, table.raw.var), table.raw.scale))

"""Sorting by a network of compare-and-exchange steps: which elements meet is public, who wins is not.

All comparisons of a stage are one batch, of three rounds; n elements take log n (log n + 1) / 2 stages, rounded up.
Values come out to a step of the operands' scale. Where places or other arrays move along, the place of each element
is appended to its key below its last bit, so that equal keys stay in order: the sort is stable.
Source: Batcher's merge exchange (AFIPS 1968) in the form of Knuth, TAOCP vol. 3, algorithm 5.2.2M, for any n.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from comet_jax.gadgets.bits import compare, open_truncated
from comet_jax.ir.program import Var
from comet_jax.protocols.linear import Combine, Rearrange, Table
from comet_jax.rules.arithmetic import negate, rearranged, up_to
from comet_jax.rules.extremes import columns, fixed, lowered_infinities
from comet_jax.rules.layout import taken, transposed
from comet_jax.rules.registry import rule
from comet_jax.rules.scope import Scope
from comet_jax.rules.terms import Joint, Known, Scaled, Term

Pairs = list[tuple[int, int]]
WIDEST = 56  # bits of a wire that can be compared


def stages(count: int) -> list[Pairs]:
    """The pairs that meet in each stage; the smaller goes to the first place."""
    found, top = [], 1 << max(0, (count - 1).bit_length() - 1)
    p = top if count > 1 else 0
    while p:
        q, r, d = top, 0, p
        while True:
            found.append([(i, i + d) for i in range(count - d) if i & p == r])
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
    return found


def pruned(network: list[Pairs], wanted: int) -> list[Pairs]:
    """The pairs that have an influence on the first ``wanted`` places."""
    needed, kept = set(range(wanted)), []
    for pairs in reversed(network):
        here = [(i, j) for i, j in pairs if i in needed or j in needed]
        needed.update(k for pair in here for k in pair)
        kept.append(here)
    return [pairs for pairs in reversed(kept) if pairs]


@dataclass(frozen=True, eq=False)
class _Sorted:
    """Rows in ascending order of ``key``, with ``others`` moved along; the first ``wanted`` places only."""

    s: Scope
    key: Joint
    others: tuple[Joint, ...]
    wanted: int
    stable: bool

    @property
    def place_bits(self) -> int:
        """Bits appended to a key."""
        return (self.key.shape[-1] - 1).bit_length() if self.stable else 0

    @cached_property
    def wires(self) -> tuple[list[Var], list[float]]:
        """Sorted wires and their scales: keys with places, the places if there are any, the others."""
        s, count = self.s, self.key.shape[-1]
        small, width = fixed(s, self.key)
        carried = [(small.var, width)]
        scales = [small.scale]
        if self.stable:
            places = np.broadcast_to(np.arange(count), self.key.shape).astype(np.int64)
            spread = s.scale_by(small.var, np.array(1 << self.place_bits))
            width += self.place_bits + 1
            if width > min(s.numbers.ring, WIDEST):
                raise ValueError(
                    f"keys and places together take {width} bits, more than can be compared: calibrate the ranges, or "
                    "use the 64-bit ring"
                )
            carried = [(s.b.emit(Combine((1,), Table(places)), spread), width)]
            carried += [(s.constant(places, 1.0), self.place_bits + 3)]
            scales += [1.0]
        for other in self.others:
            form, bits = fixed(s, other)
            carried.append((form.var, bits))
            scales.append(form.scale)
        network = pruned(stages(count), self.wanted)
        for pairs in network:
            carried = _exchanged(s, carried, pairs)
        return [var for var, _ in carried], scales

    def _first(self, var: Var) -> Var:
        return columns(self.s, var, 0, self.wanted)

    def values(self) -> Scaled:
        """The keys."""
        wires, scales = self.wires
        if not self.stable:
            return Scaled(self._first(wires[0]), scales[0])
        key = self.s.b.emit(Combine((1, -1)), wires[0], wires[1])
        return Scaled(self._first(key), scales[0] * 2.0**self.place_bits)

    def places(self) -> Scaled:
        """Where each key came from."""
        return Scaled(self._first(self.wires[0][1]), 1.0)

    def other(self, k: int) -> Scaled:
        """The k-th array that moves along."""
        wires, scales = self.wires
        return Scaled(self._first(wires[k + 2]), scales[k + 2])


def _exchanged(s: Scope, carried: list[tuple[Var, int]], pairs: Pairs) -> list[tuple[Var, int]]:
    """One stage: with z = [second key >= first], first = second - z (second - first), and the other way round."""
    axis, count = len(carried[0][0].shape) - 1, carried[0][0].shape[-1]
    first, second = (np.array(side, np.int32) for side in zip(*pairs))
    source = np.arange(count, dtype=np.int32)
    source[first], source[second] = count + np.arange(len(pairs)), count + len(pairs) + np.arange(len(pairs))
    take = lambda var, table: s.b.emit(Rearrange("take", (Table(table), axis)), var)
    z, out = None, []
    for var, width in carried:
        a, b = take(var, first), take(var, second)
        d = s.b.emit(Combine((1, -1)), b, a)
        w = open_truncated(s.b, d, shift=0, width=width)
        z = compare(s.b, w, (0,)) if z is None else z
        moved = z.gate((1,), w, d)
        low, high = s.b.emit(Combine((1, -1)), b, moved), s.b.emit(Combine((1, 1)), a, moved)
        out.append((take(s.b.emit(Rearrange("concatenate", (axis,)), var, low, high), source), width))
    return out


@rule("sort")
def sort(s: Scope, node, *operands: Term):
    """Ascending by the first array; the others move along."""
    axis, key = node.params["dimension"], operands[0]
    if node.params["num_keys"] != 1:
        raise ValueError("a sort by several keys has no private rule: sort by one")
    if isinstance(key, Known):
        order = np.argsort(key.value, axis=axis, kind="stable")
        return [_in_order(s, t, order, axis) for t in operands]
    order, back = _ends(len(key.shape), axis)
    rows = [transposed(s, t, order) for t in operands]
    count = rows[0].shape[-1]
    counted = [isinstance(t, Known) and _are_places(t.value, count) for t in rows]
    others = [s.joint(t) for t, c in zip(rows[1:], counted[1:]) if not c]
    first = s.joint(rows[0])
    if first.masked:
        raise ValueError("minus infinity has no place among sorted numbers in fixed point: use a finite one")
    found = _Sorted(s, first, tuple(others), count, len(operands) > 1)
    makes: list = [found.values]
    k = 0
    for is_place in counted[1:]:
        makes.append(found.places if is_place else lambda k=k: found.other(k))
        k += not is_place
    ranges = [first.range, *(up_to(count - 1) if c else s.joint(t).range for t, c in zip(rows[1:], counted[1:]))]
    shape = rows[0].shape
    return [transposed(s, s.result(shape, m, range=r), back) for m, r in zip(makes, ranges)]


def _ends(rank: int, axis: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The order of axes with ``axis`` last, and the way back."""
    order = (*(i for i in range(rank) if i != axis), axis)
    return order, tuple(int(i) for i in np.argsort(order))


def _are_places(value: np.ndarray, count: int) -> bool:
    return value.dtype.kind in "iu" and np.array_equal(value, np.broadcast_to(np.arange(count), value.shape))


def _in_order(s: Scope, x: Term, order: np.ndarray, axis: int) -> Term:
    if isinstance(x, Known):
        return Known(np.take_along_axis(x.value, order, axis))
    places = np.arange(order.size, dtype=np.int32).reshape(order.shape)
    flat = rearranged(s, s.joint(x), "reshape", ((order.size,),), (order.size,), once=True, last=False)
    return taken(s, flat, np.take_along_axis(places, order, axis), 0)


@rule("top_k")
def top_k(s: Scope, node, x: Joint):
    """The largest and their places: the first k of an ascending sort of -x, whose other comparisons are left out."""
    axis, k = node.params.get("axis", len(x.shape) - 1), node.params["k"]
    order, back = _ends(len(x.shape), axis)
    rows = s.joint(transposed(s, x, order))
    if rows.masked and (rows.masked.where.mask.sum(-1) < k).any():
        raise ValueError(f"the largest {k} of a row have minus infinity among them, which is no number in fixed point")
    found = _Sorted(s, negate(s, node, lowered_infinities(s, rows)), (), k, True)
    shape = (*rows.shape[:-1], k)

    def values() -> Scaled:
        out = found.values()
        return Scaled(s.scale_by(out.var, np.array(-1)), out.scale)

    results = [s.result(shape, values, range=x.range), s.result(shape, found.places, range=up_to(rows.shape[-1] - 1))]
    return [transposed(s, r, back) for r in results]

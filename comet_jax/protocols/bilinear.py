"""Products of two secrets, from opened wires: matrices, element by element, squares.

With c = y + offset + r public for both factors, a product needs one dealt array, the product of the two masks, and
no communication: the openings have paid for it. Source: Beaver (CRYPTO 1991), with masks that belong to wires rather
than to gates (as in ABY2.0, USENIX Security 2021), so that a wire is opened once however many products use it.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from comet_jax.protocols.protocol import Coins, Dealer, Material, Party, Protocol
from comet_jax.sharing.contraction import dot_general
from comet_jax.sharing.groups import Group
from comet_jax.sharing.packing import Where
from comet_jax.sharing.wires import Mask, Opened, OpenedPlain, OpenedShare, Share, Shared, Wire

DimensionNumbers = tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]


def terms(shape: tuple[int, ...], dimension_numbers: DimensionNumbers | None) -> int:
    """How many products each element of a ``dot_general`` is the sum of, given its first factor's shape."""
    return int(np.prod([shape[i] for i in dimension_numbers[0][0]])) if dimension_numbers else 1


@dataclass(frozen=True)
class Bilinear(Protocol):
    """<x>, <w> -> [x w] in their common ring Z_2^k, a ``dot_general`` or, without dimension numbers, element-wise.

    Both wires are opened at the full ring: x = c - r. Then
    ``[x w] = c_x [w] - [r_x] c_w + [r_x r_w]`` with ``[w] = c_w - [r_w]``.

    For a static w (a weight) the last two terms are ready before x exists, so online this is one ring product, as in
    the clear. Outside ``where`` the result is zero.

    Ideal functionality: the product. Argument: local, from values that are public already and dealt arrays that were
    shared afresh. A static c_w = w + r_w is public for ever and its r_w serves every run, which is no second opening:
    c_w is one value, and each run's x has a mask of its own, whose product with r_w is shared afresh.
    Dealt: ``r_x r_w``, one ring element for each output element in ``where``. Online: nothing.
    """

    dimension_numbers: DimensionNumbers | None = None
    where: Where | None = None

    def outputs(self, x: Opened, w: Opened):
        if x.group != w.group or x.headroom or w.headroom or x.group.xor:
            raise ValueError(f"a product needs two wires opened at the full ring, not {x.group}, {w.group}")
        if x.static and w.static:
            raise ValueError("a product of two weights belongs to their owner, who can do it in the clear")
        spec = lambda o: jax.ShapeDtypeStruct(o.shape, np.uint32)  # the shape is the same in every ring
        shape = jax.eval_shape(self._product, spec(x), spec(w)).shape
        return (Shared(shape, x.group),)

    def narrowed(self, bits: int, *inputs: Wire):
        return self, (bits, bits)

    def products(self, *inputs: Wire) -> int:
        x, w = inputs
        (out,) = self.outputs(x, w)  # type: ignore[arg-type]
        both = not x.static and not w.static  # type: ignore[union-attr]
        return (1 + both) * int(np.prod(out.shape)) * terms(x.shape, self.dimension_numbers)

    def _product(self, a, b):
        if self.dimension_numbers is None:
            return a * b
        return dot_general(a, b, self.dimension_numbers)

    def deal(self, dealer: Dealer, x: Mask, w: Mask):
        dealer.give("rr", self._product(x.r, w.r), x.wire.group, self.where)
        return self.outputs(x.wire, w.wire)

    def offline(self, party: Party, material: Material, x: OpenedShare, w: OpenedShare):
        if w.wire.static:
            return {"ready": x.wire.group.sub(material["rr"], self._product(x.r, w.value))}
        if x.wire.static:
            return {"ready": x.wire.group.sub(material["rr"], self._product(x.value, w.r))}
        return material

    def online(self, party: Party, material: Material, x: OpenedShare, w: OpenedShare):
        if w.wire.static:
            out = self._product(x.value, w.x) + material["ready"]
        elif x.wire.static:
            out = self._product(x.x, w.value) + material["ready"]
        else:
            own = w.wire.group.sub(party.first(w.value), w.mask)
            out = self._product(x.value, own) - self._product(x.r, w.value) + material["rr"]
        return (_keep(self.where, x.wire.group.reduce(out)),)

    def ideal(self, coins: Coins, x: OpenedPlain, w: OpenedPlain):
        a, b = (_words(o.y, o.wire.group) for o in (x, w))
        return (_keep(self.where, x.wire.group.reduce(self._product(a, b))),)


@dataclass(frozen=True)
class RowSquares(Protocol):
    """<y>, [y] in Z_2^64 -> [sum of y^2 over the last axis] in Z_2^64.

    With P = c - offset and y = P - r', ``y^2 = 2 P y - P^2 + r'^2``, and ``r'^2 = r^2 + (1 - msb c) q`` with
    ``q = 2^2m msb r - 2^(m+1) r msb r``. Ideal functionality: the sum. Argument: local, on fresh sharings.
    Dealt: the row sum of r^2 (64 bits) and q / 2^(m+1) (63 - m bits an element). Online: nothing.
    """

    def outputs(self, w: Opened, y: Shared):
        if not w.headroom or w.where is not None or w.group.bits > 62 or y.group.bits != 64 or w.shape != y.shape:
            raise ValueError(f"row squares need a wire opened whole and its lift to 64 bits, not {w} and {y}")
        return (Shared(w.shape[:-1], y.group),)

    def deal(self, dealer: Dealer, w: Mask, y: Shared):
        m, r, top = w.wire.group.bits, w.r.astype(jnp.uint64), w.top(jnp.uint64)
        dealer.give("r2", (r * r).sum(-1, dtype=jnp.uint64), y.group)
        dealer.give("q", (top << np.uint64(m - 1)) - r * top, Group(63 - m))
        return self.outputs(w.wire, y)

    def online(self, party: Party, material: Material, w: OpenedShare, y: Share):
        z64, m = y.wire.group, w.wire.group.bits
        public = w.public(z64)
        q = material["q"].astype(jnp.uint64) << np.uint64(m + 1)
        terms = np.uint64(2) * public * y.x + w.wrapped(z64) * q - party.first(public * public)
        return (terms.sum(-1, dtype=jnp.uint64) + material["r2"],)

    def ideal(self, coins: Coins, w: OpenedPlain, y):
        v = _words(w.y, y.wire.group)
        return ((v * v).sum(-1, dtype=jnp.uint64),)


@dataclass(frozen=True)
class Product(Protocol):
    """<y>, [y], <i>, [i] -> [y i] in Z_2^64, where i has one element a row of y (or y's shape).

    For wires opened at fewer bits than their ring. ``y i = P_y i + P_i y - P_y P_i + r'_y r'_i`` where
    ``r' = r - (1 - msb c) 2^m msb r``. Outside y's ``where`` the result is zero. Ideal functionality: the product.
    Argument: local, on fresh sharings. Dealt: r_y r_i and its three corrections by msb, 256 - 2 (m_y + m_i) bits an
    element (fewer where they vanish mod 2^64). Online: nothing.
    """

    def outputs(self, y: Opened, y64: Shared, i: Opened, i64: Shared):
        if not (y.headroom and i.headroom) or y64.group.bits != 64 or i64.group.bits != 64:
            raise ValueError("a product needs two opened wires with headroom and their lifts to 64 bits")
        if i.where is not None or i.shape not in (y.shape, y.shape[:-1]):
            raise ValueError(f"cannot multiply {y.shape} by {i.shape}: one factor a row, or one an element")
        return (Shared(y.shape, y64.group),)

    def _spread(self, i_array, y_shape):
        return i_array if i_array.shape == y_shape else i_array[..., None]

    def _corrections(self, y: Opened, i: Opened) -> dict[str, int]:
        """Name -> weight (a power of two) of each term of r'_y r'_i."""
        my, mi = y.group.bits, i.group.bits
        weights = {"rr": 0, "tr": my, "rt": mi, "tt": my + mi}
        return {name: w for name, w in weights.items() if w < 64}

    def deal(self, dealer: Dealer, y: Mask, y64, i: Mask, i64):
        spread = lambda a: self._spread(a.astype(jnp.uint64), y.r.shape)
        ry, ty, ri, ti = y.r.astype(jnp.uint64), y.top(jnp.uint64), spread(i.r), spread(i.top(jnp.uint64))
        values = {"rr": ry * ri, "tr": ty * ri, "rt": ry * ti, "tt": ty * ti}
        for name, weight in self._corrections(y.wire, i.wire).items():
            dealer.give(name, values[name], Group(64 - weight), y.wire.where)
        return self.outputs(y.wire, y64, i.wire, i64)

    def online(self, party: Party, material: Material, y: OpenedShare, y64: Share, i: OpenedShare, i64: Share):
        z64 = y64.wire.group
        spread = lambda a: self._spread(a, y.wire.shape)
        py, wy, pi, wi = y.public(z64), y.wrapped(z64), spread(i.public(z64)), spread(i.wrapped(z64))
        signs = {"tr": -wy, "rt": -wi, "tt": wy * wi}
        out = py * spread(i64.x) + pi * y64.x - party.first(py * pi) + material["rr"]
        for name, weight in self._corrections(y.wire, i.wire).items():
            if name != "rr":
                out = out + signs[name] * (material[name].astype(jnp.uint64) << np.uint64(weight))
        return (_keep(y.wire.where, out),)

    def ideal(self, coins: Coins, y: OpenedPlain, y64, i: OpenedPlain, i64):
        z64 = y64.wire.group
        return (_keep(y.wire.where, _words(y.y, z64) * self._spread(_words(i.y, z64), y.wire.shape)),)


def _keep(where: Where | None, out: jax.Array) -> jax.Array:
    return out if where is None else out * where.mask.astype(out.dtype)


def _words(y: jax.Array, group: Group) -> jax.Array:
    """Signed values as elements of ``group``."""
    return group.cast(jax.lax.bitcast_convert_type(y, jnp.uint64))

"""Smooth functions of an opened wire by a Fourier series: no communication after the opening.

f(x) = a_0 + sum_j a_j cos(j w x) + b_j sin(j w x) on an interval shorter than the period 2^p (in units of the wire),
fitted by least squares, the rest of the period being free for a smooth return (a Fourier extension). With x = c -
offset - r, the addition theorems make each term a public factor of c times a dealt cos(j w r) or sin(j w r).

Every public factor is an integer, computed from one integer table of the cosine with integer operations only, so that
both parties and every backend find the same bits. The mask is uniform mod 2^p, so nothing of x shows through the
period (a real-valued mask, not reduced, would: the mistake in SHAFT that this avoids).
Source: Fourier series for sigmoid-like functions in MPC, e.g. SecFormer (ACL 2024); extension and integer form ours.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import jax.numpy as jnp
import numpy as np

from comet_jax.protocols.protocol import Coins, Dealer, Material, Party, Protocol
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Mask, Opened, OpenedPlain, OpenedShare, Shared, Wire

TABLE_BITS = 30


@dataclass(frozen=True)
class Series:
    """Integer Fourier coefficients: f(x) 2^scale = constant + sum_j cos[j-1] cos(j w x) + sin[j-1] sin(j w x)."""

    period: int
    scale: int
    constant: int
    cos: tuple[int, ...]
    sin: tuple[int, ...]

    @property
    def terms(self) -> int:
        """How many frequencies."""
        return len(self.cos)


@lru_cache(maxsize=64)
def _fit(points, values, period, terms, parity):
    x, y = np.array(points), np.array(values)
    angle = 2 * np.pi * x / period
    columns, places = [np.ones_like(x)], [("constant", 0)]
    for j in range(1, terms + 1):
        if parity != "odd":
            columns.append(np.cos(j * angle))
            places.append(("cos", j))
        if parity != "even":
            columns.append(np.sin(j * angle))
            places.append(("sin", j))
    a = np.stack(columns, 1)
    # A touch of ridge keeps the coefficients small: an extension's system is nearly singular by nature.
    solution = np.linalg.solve(a.T @ a + 1e-9 * len(x) * np.eye(a.shape[1]), a.T @ y)
    return dict(zip(places, solution)), float(np.abs(a @ solution - y).max())


def fit(f, low: float, high: float, *, unit: float, period: int, terms: int, scale: int, parity: str = "both"):
    """The series for ``f`` on [low, high], and its largest error there.

    ``unit``: what one step of the wire is worth; the period is 2^period steps. ``scale``: fraction bits of the
    coefficients. ``parity``: "both", "even" or "odd".
    """
    x = np.linspace(low, high, 4001)
    found, error = _fit(tuple(x), tuple(f(x)), unit * (1 << period), terms, parity)
    whole = lambda kind, j: int(np.rint(found.get((kind, j), 0.0) * 2.0**scale))
    js = range(1, terms + 1)
    series = Series(
        period,
        scale,
        whole("constant", 0),
        tuple(whole("cos", j) for j in js),
        tuple(whole("sin", j) for j in js),
    )
    return series, error


@lru_cache(maxsize=8)
def _cosine(period: int) -> np.ndarray:
    """cos(2 pi i / 2^period) for i in [0, 2^period), int32 at 30 fraction bits."""
    angle = 2 * np.pi * np.arange(1 << period) / (1 << period)
    return np.rint(np.cos(angle) * (1 << TABLE_BITS)).astype(np.int32)


def _cos_sin(x, series: Series):
    """cos and sin of j w x for every j, int64 at 30 fraction bits, on a new first axis. x: uint32 mod 2^period."""
    table, size = jnp.asarray(_cosine(series.period)), 1 << series.period
    j = np.arange(1, series.terms + 1, dtype=np.uint32).reshape((-1,) + (1,) * x.ndim)
    angle = (j * x[None]) & np.uint32(size - 1)
    quarter = np.uint32(size - size // 4)
    return table[angle].astype(jnp.int64), table[(angle + quarter) & np.uint32(size - 1)].astype(jnp.int64)


def _drop(x, bits: int):
    """Integers without their ``bits`` low bits, rounded to nearest."""
    return (x + (1 << (bits - 1))) >> bits if bits else x


@dataclass(frozen=True)
class Fourier(Protocol):
    """<x> -> [f(x)] in Z_2^bits at ``series.scale + fraction`` bits; with a second wire <n>, [n f(x)].

    x is opened at ``series.period`` bits or more; n, if given, at the full ring. ``fraction``: scale of the dealt
    cosines and sines.

    Ideal functionality: the series in integers, as a function of x and the opened c (rounding depends on c).
    Argument: local; c is public and uniform already, and each dealt function of r is shared afresh.
    Dealt: 2 terms ring elements an element, twice that with n. Online: nothing.
    """

    series: Series
    fraction: int
    bits: int

    def outputs(self, x: Opened, n: Opened | None = None):
        if x.group.bits < self.series.period or self.series.period > 16:
            raise ValueError(f"a period of 2^{self.series.period} on a wire of {x.group.bits} bits")
        if x.where is not None:
            raise ValueError("a series is evaluated at every element: open the wire whole")
        if n is not None and (n.group != Group(self.bits) or n.shape != x.shape):
            raise ValueError("the factor n must be opened at the full ring, in the shape of x")
        return (Shared(x.shape, Group(self.bits)),)

    def narrowed(self, bits: int, *inputs: Wire):
        x, *n = inputs
        return replace(self, bits=bits), (x.group.bits, *(bits for _ in n))

    @property
    def _ring(self) -> Group:
        return Group(self.bits)

    def _angle(self, word):
        return word.astype(jnp.uint32) & np.uint32((1 << self.series.period) - 1)

    def _dealt(self, r):
        cos, sin = _cos_sin(self._angle(r), self.series)
        cut = TABLE_BITS - self.fraction
        return tuple(_as_ring(_drop(t, cut), self._ring) for t in (cos, sin))

    def _factors(self, c, offset: int):
        """Public factors of cos(j w r) and sin(j w r), in the ring."""
        shift = Group(self.series.period).constant(offset)
        cos, sin = _cos_sin(self._angle(c.astype(jnp.uint32) - shift.astype(np.uint32)), self.series)
        spread = lambda t: np.array(t, np.int64).reshape((-1,) + (1,) * c.ndim)
        a, b = spread(self.series.cos), spread(self.series.sin)
        of_cos, of_sin = a * cos + b * sin, a * sin - b * cos
        return tuple(_as_ring(_drop(t, TABLE_BITS), self._ring) for t in (of_cos, of_sin))

    @property
    def _constant(self):
        return jnp.asarray(self._ring.constant(self.series.constant << self.fraction))

    def deal(self, dealer: Dealer, x: Mask, n: Mask | None = None):
        cos, sin = self._dealt(x.r)
        dealer.give("cos", cos, self._ring)
        dealer.give("sin", sin, self._ring)
        if n is None:
            return self.outputs(x.wire)
        dealer.give("n_cos", cos * n.r, self._ring)
        dealer.give("n_sin", sin * n.r, self._ring)
        return self.outputs(x.wire, n.wire)

    def online(self, party: Party, material: Material, x: OpenedShare, n: OpenedShare | None = None):
        of_cos, of_sin = self._factors(x.value, x.wire.offset)
        sum_ = lambda c, s: (of_cos * c + of_sin * s).sum(0, dtype=self._ring.dtype)
        out = sum_(material["cos"], material["sin"])
        if n is None:
            return (self._ring.add(out, party.first(jnp.broadcast_to(self._constant, out.shape))),)
        out = n.value * out - sum_(material["n_cos"], material["n_sin"])
        return (self._ring.reduce(out + self._constant * (party.first(n.value) - n.mask)),)

    def ideal(self, coins: Coins, x: OpenedPlain, n: OpenedPlain | None = None):
        (of_cos, of_sin), (cos, sin) = self._factors(x.c, x.wire.offset), self._dealt(x.r)
        out = self._ring.add((of_cos * cos + of_sin * sin).sum(0, dtype=self._ring.dtype), self._constant)
        if n is not None:
            out = self._ring.reduce(out * _as_ring(n.y, self._ring))
        return (out,)


def _as_ring(x, ring: Group):
    return ring.reduce(x.astype(jnp.int64).view(jnp.uint64).astype(ring.dtype))

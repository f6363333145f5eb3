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

from comet_jax.protocols.lookup import check_windows, windows
from comet_jax.protocols.protocol import Coins, Dealer, Material, Party, Protocol
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Mask, Opened, OpenedPlain, OpenedShare, Shared, Wire

TABLE_BITS = 30
WHOLE_TABLE = 16  # bits of the longest period whose cosines are one table
LONGEST = 24


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
def _fit(points, values, period, terms, parity, relative):
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
    if relative:
        a, y = a / y[:, None], np.ones_like(y)
    # A touch of ridge keeps the coefficients small: an extension's system is nearly singular by nature.
    ridge = 1e-12 if relative else 1e-9
    solution = np.linalg.solve(a.T @ a + ridge * len(x) * np.eye(a.shape[1]), a.T @ y)
    return dict(zip(places, solution)), float(np.abs(a @ solution - y).max())


def fit(
    f,
    low: float,
    high: float,
    *,
    unit: float,
    period: int,
    terms: int,
    scale: int,
    parity: str = "both",
    relative: bool = False,
):
    """The series for ``f`` on [low, high], and its largest error there.

    ``unit``: what one step of the wire is worth; the period is 2^period steps. ``scale``: fraction bits of the
    coefficients. ``parity``: "both", "even" or "odd". ``relative``: errors are taken relative to f.
    """
    x = np.linspace(low, high, 4001)
    found, error = _fit(tuple(x), tuple(f(x)), unit * (1 << period), terms, parity, relative)
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
    j = np.arange(1, series.terms + 1, dtype=np.uint32).reshape((-1,) + (1,) * x.ndim)
    angle = (j * x[None]) & np.uint32((1 << series.period) - 1)
    if series.period <= WHOLE_TABLE:
        return _coarse(angle, series.period)
    # The addition theorems, for an angle that is a coarse one and a fine one.
    low = series.period - series.period // 2
    (c, s), (fine_c, fine_s) = _coarse(angle >> np.uint32(low), series.period - low), _fine(angle, series.period, low)
    return _drop(c * fine_c - s * fine_s, TABLE_BITS), _drop(s * fine_c + c * fine_s, TABLE_BITS)


def _coarse(angle, period: int):
    table, size = jnp.asarray(_cosine(period)), 1 << period
    quarter = np.uint32(size - size // 4)
    return table[angle].astype(jnp.int64), table[(angle + quarter) & np.uint32(size - 1)].astype(jnp.int64)


@lru_cache(maxsize=8)
def _fine_tables(period: int, low: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of 2 pi i / 2^period for i in [0, 2^low), int64 at 30 fraction bits."""
    angle = 2 * np.pi * np.arange(1 << low) / (1 << period)
    return tuple(np.rint(f(angle) * (1 << TABLE_BITS)).astype(np.int64) for f in (np.cos, np.sin))  # type: ignore


def _fine(angle, period: int, low: int):
    place = angle & np.uint32((1 << low) - 1)
    return tuple(jnp.asarray(t)[place] for t in _fine_tables(period, low))


def _drop(x, bits: int):
    """Integers without their ``bits`` low bits, rounded to nearest."""
    return (x + (1 << (bits - 1))) >> bits if bits else x


@dataclass(frozen=True)
class Fourier(Protocol):
    """<x> -> [f(x)] in Z_2^bits at ``series.scale + fraction`` bits; with ``shifts``, [f(x / 2^s)] for each.

    x is opened at ``series.period`` bits or more. ``fraction``: scale of the dealt cosines and sines. The results for
    shifts are on a new last axis; they are at windows of x (lookup.py): rounded down or up, as c says.

    Ideal functionality: the series in integers, as a function of x and the opened c (rounding depends on c).
    Argument: local; c is public and uniform already, and each dealt function of r is shared afresh.
    Dealt: 2 terms ring elements a result. Online: nothing.
    """

    series: Series
    fraction: int
    bits: int
    shifts: tuple[int, ...] = ()

    def outputs(self, x: Opened):
        if x.where is not None:
            raise ValueError("a series is evaluated at every element: open the wire whole")
        if self.shifts:
            check_windows(x, self.shifts, self.series.period)
        elif x.group.bits < self.series.period:
            raise ValueError(f"a period of 2^{self.series.period} on a wire of {x.group.bits} bits")
        if self.series.period > LONGEST:
            raise ValueError(f"a period of 2^{self.series.period} is beyond 2^{LONGEST}")
        return (Shared((*x.shape, len(self.shifts)) if self.shifts else x.shape, Group(self.bits)),)

    def narrowed(self, bits: int, *inputs: Wire):
        return replace(self, bits=bits), (inputs[0].group.bits,)

    @property
    def _ring(self) -> Group:
        return Group(self.bits)

    def _angle(self, word, wire: Opened, offset: int = 0):
        word = wire.group.sub(word, wire.group.constant(offset))
        if self.shifts:
            return windows(word, self.shifts, self.series.period)
        return word.astype(jnp.uint32) & np.uint32((1 << self.series.period) - 1)

    def _dealt(self, r, wire: Opened):
        cos, sin = _cos_sin(self._angle(r, wire), self.series)
        cut = TABLE_BITS - self.fraction
        return tuple(_as_ring(_drop(t, cut), self._ring) for t in (cos, sin))

    def _factors(self, c, wire: Opened):
        """Public factors of cos(j w r) and sin(j w r), in the ring."""
        cos, sin = _cos_sin(self._angle(c, wire, wire.offset), self.series)
        spread = lambda t: np.array(t, np.int64).reshape((-1,) + (1,) * (cos.ndim - 1))
        a, b = spread(self.series.cos), spread(self.series.sin)
        of_cos, of_sin = a * cos + b * sin, a * sin - b * cos
        return tuple(_as_ring(_drop(t, TABLE_BITS), self._ring) for t in (of_cos, of_sin))

    def _sum(self, c, wire: Opened, cos, sin):
        of_cos, of_sin = self._factors(c, wire)
        return (of_cos * cos + of_sin * sin).sum(0, dtype=self._ring.dtype)

    def _constant(self, shape):
        return jnp.broadcast_to(jnp.asarray(self._ring.constant(self.series.constant << self.fraction)), shape)

    def deal(self, dealer: Dealer, x: Mask):
        cos, sin = self._dealt(x.r, x.wire)
        dealer.give("cos", cos, self._ring)
        dealer.give("sin", sin, self._ring)
        return self.outputs(x.wire)

    def online(self, party: Party, material: Material, x: OpenedShare):
        out = self._sum(x.value, x.wire, material["cos"], material["sin"])
        return (self._ring.add(out, party.first(self._constant(out.shape))),)

    def ideal(self, coins: Coins, x: OpenedPlain):
        out = self._sum(x.c, x.wire, *self._dealt(x.r, x.wire))
        return (self._ring.add(out, self._constant(out.shape)),)


def _as_ring(x, ring: Group):
    return ring.reduce(x.astype(jnp.int64).view(jnp.uint64).astype(ring.dtype))

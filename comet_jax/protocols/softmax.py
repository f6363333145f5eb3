"""The two table steps of softmax at every score: a histogram of coarse levels, and an exponential.

Scores are opened mod 2^(low + 5): 32 levels of 2^low steps each. All tables are dealt for one element and used once,
at a public place that the opened value gives; a look-up is then a choice among the party's own shares.
Source: one-time truth tables (Ishai et al., TCC 2013); SIGMA (PoPETs 2024) for look-ups in softmax. The coarse
maximum by a histogram of levels is ours: it costs no bytes an element beyond the score's opening.
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from comet_jax.protocols.protocol import Coins, Dealer, Material, Party, Protocol
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Mask, Opened, OpenedPlain, OpenedShare, Shared, Wire

LEVELS = 32


def _level(word, low: int):
    return (word >> word.dtype.type(low)).astype(jnp.uint32) & np.uint32(LEVELS - 1)


def _rotate(table, by):
    """out[.., j] = table[.., (j - by) mod 32], by a shifter of five conditional rolls (faster than a gather)."""
    for k in range(5):
        moved = jnp.roll(table, 1 << k, axis=-1)
        table = jnp.where(((by >> np.uint32(k)) & np.uint32(1))[..., None] == 1, moved, table)
    return table


@dataclass(frozen=True)
class LevelCounts(Protocol):
    """<s> of shape (.., T) -> for j = 1 .. 31, [how many elements of the row have level >= j], shape (.., 31).

    An element's level is the difference of the levels of c and r mod 32: its true level, or one more. Only elements
    in the wire's ``where`` count. Ideal functionality: those counts, given c. Argument: local; each element's one-hot
    vector is shared afresh and used once, at the place that c gives. Dealt: the one-hot vector of r's level,
    32 (log2 T + 1) bits an element. Online: nothing.
    """

    low: int

    def _group(self, w: Opened) -> Group:
        return Group(w.shape[-1].bit_length())

    def outputs(self, w: Opened):
        if w.headroom or w.group.bits != self.low + 5:
            raise ValueError(f"levels of 2^{self.low} need a wire opened mod 2^{self.low + 5}, not {w.group}")
        return (Shared((*w.shape[:-1], LEVELS - 1), self._group(w)),)

    def deal(self, dealer: Dealer, w: Mask):
        # Stored at the negated level, so that a rotation by c's level puts the one at the level of c - r.
        place = (np.uint32(0) - _level(w.r, self.low)) & np.uint32(LEVELS - 1)
        one_hot = jnp.arange(LEVELS, dtype=jnp.uint32) == place[..., None]
        where = w.wire.where
        item = None if where is None else _spread(where, LEVELS)
        dealer.give("one_hot", one_hot.astype(jnp.uint32), self._group(w.wire), item)
        return self.outputs(w.wire)

    def online(self, party: Party, material: Material, w: OpenedShare):
        group = self._group(w.wire)
        here = _rotate(material["one_hot"], _level(w.value, self.low))
        if w.wire.where is not None:
            here = here * w.wire.where.mask[..., None].astype(here.dtype)
        return (self._at_least(group, here.sum(-2, dtype=group.dtype)),)

    def _at_least(self, group: Group, counts):
        suffix = jnp.cumsum(counts[..., ::-1], axis=-1, dtype=group.dtype)[..., ::-1]
        return group.reduce(suffix[..., 1:])

    def ideal(self, coins: Coins, w: OpenedPlain):
        group = self._group(w.wire)
        level = (_level(w.c, self.low) - _level(w.r, self.low)) & np.uint32(LEVELS - 1)
        here = (jnp.arange(LEVELS, dtype=jnp.uint32) == level[..., None]).astype(group.dtype)
        if w.wire.where is not None:
            here = here * w.wire.where.mask[..., None].astype(here.dtype)
        return (self._at_least(group, here.sum(-2, dtype=group.dtype)),)


def _spread(where, n):
    from comet_jax.sharing.packing import Where

    return Where(np.broadcast_to(where.mask[..., None], (*where.mask.shape, n)).copy())


@dataclass(frozen=True)
class ExpTable(Protocol):
    """<x>, opened mod 2^(low + 5) -> [exp((x - top 2^low) step)] in Z_2^bits at ``dealt_scale + public_scale`` bits.

    With c = (c_hi, c_lo) and r alike, the result is a dealt table, at c_hi, of
    ``exp(step ((j - top) 2^low - r_lo))`` with j = c_hi - r_hi mod 32, times the public integer ``exp(step c_lo)``.
    Levels above top + 1 give zero. ``step``: what one step is worth. Ideal functionality: the product in integers,
    given c. Argument: local; one table an element, shared afresh, used at one place.
    Dealt: 32 ring elements an element. Online: nothing.
    """

    low: int
    step: float
    top: int
    bits: int
    dealt_scale: int
    public_scale: int

    def outputs(self, w: Opened):
        if w.headroom or w.group.bits != self.low + 5:
            raise ValueError(f"levels of 2^{self.low} need a wire opened mod 2^{self.low + 5}, not {w.group}")
        return (Shared(w.shape, Group(self.bits)),)

    def narrowed(self, bits: int, *inputs: Wire):
        return replace(self, bits=bits), (inputs[0].group.bits,)

    @property
    def _ring(self) -> Group:
        return Group(self.bits)

    def _power(self, exponent, scale: int):
        return jnp.rint(jnp.exp(exponent + scale * np.log(2.0))).astype(jnp.int64).view(jnp.uint64)

    def _table(self, r):
        """The values at each c_hi, on a new last axis."""
        low_part = (r & r.dtype.type((1 << self.low) - 1)).astype(jnp.float64)
        j = (jnp.arange(LEVELS, dtype=jnp.uint32) - _level(r, self.low)[..., None]) & np.uint32(LEVELS - 1)
        exponent = self.step * ((j.astype(jnp.float64) - self.top) * (1 << self.low) - low_part[..., None])
        value = self._power(jnp.where(j <= self.top + 1, exponent, -1e3), self.dealt_scale)
        return self._ring.cast(value)

    def _public(self, c):
        steps = np.arange(1 << self.low)
        table = np.rint(np.exp(self.step * steps) * 2.0**self.public_scale).astype(np.uint64)
        return self._ring.cast(jnp.asarray(table)[c & c.dtype.type((1 << self.low) - 1)])

    def deal(self, dealer: Dealer, w: Mask):
        where = w.wire.where
        item = None if where is None else _spread(where, LEVELS)
        dealer.give("table", self._table(w.r), self._ring, item)
        return self.outputs(w.wire)

    def _finish(self, w, table, c):
        here = jnp.arange(LEVELS, dtype=jnp.uint32) == _level(c, self.low)[..., None]
        value = jnp.where(here, table, jnp.zeros_like(table)).sum(-1, dtype=self._ring.dtype)
        out = self._ring.reduce(value * self._public(c))
        return out if w.where is None else out * w.where.mask.astype(out.dtype)

    def online(self, party: Party, material: Material, w: OpenedShare):
        return (self._finish(w.wire, material["table"], w.value),)

    def ideal(self, coins: Coins, w: OpenedPlain):
        return (self._finish(w.wire, self._table(w.r), w.c),)

"""Look-ups in one-time tables, and the choice that follows one.

A wire's value is c - r (or c ^ r). The dealer turns a public table by the mask it knows, and shares it entry by entry;
each party takes its own share at the public place c. A look-up may also read windows of a wire that is too wide for a
table: ``floor(y / 2^s) mod 2^b`` from c and r cut in the same way, which is that number, or one more.
Source: one-time truth tables (Ishai et al., TCC 2013). Windows, which spare an exact carry where the table allows for
one step more, are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from comet_jax.protocols.linear import Table
from comet_jax.protocols.protocol import Coins, Dealer, Material, Party, Protocol
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Mask, Opened, OpenedPlain, OpenedShare, Shared, Wire

BITS = 17  # of a place in a public table: it is dealt for each of them


def windows(word: jax.Array, shifts: Sequence[int], bits: int) -> jax.Array:
    """``word / 2^s mod 2^bits`` for each shift, on a new last axis, uint32; a negative shift scales up."""
    up, down = (np.array([max(0, sign * s) for s in shifts], word.dtype) for sign in (-1, 1))
    return Group(bits).cast((word[..., None] << up) >> down).astype(jnp.uint32)


def check_windows(w: Opened, shifts: Sequence[int], bits: int) -> None:
    """Raise ValueError where windows of ``w`` would miss a carry from above."""
    if any(s + bits > w.group.bits for s in shifts) or w.group.xor or w.where is not None:
        raise ValueError(f"windows of {bits} bits at {tuple(shifts)} of a wire of {w.group}")


@dataclass(frozen=True)
class Lookup(Protocol):
    """<y> -> [table[y]] in ``group``; with ``shifts``, [table[y / 2^s]] for each, on a new last axis.

    The table has 2^b entries, y as many bits. With shifts it is read at windows of b bits: given c, at
    floor(y / 2^s) mod 2^b, or one more. Ideal functionality: that entry. Argument: local; the turned table is shared
    afresh, and used at one place. Dealt: 2^b entries of ``group`` an element and window. Online: nothing.
    """

    table: Table
    group: Group
    shifts: tuple[int, ...] = ()

    @property
    def _bits(self) -> int:
        return (len(self.table.values) - 1).bit_length()

    def outputs(self, w: Opened):
        b = self._bits
        if b > BITS or self.table.values.shape != (1 << b,):
            raise ValueError(f"a table for a look-up has 2^b entries, b at most {BITS}, not {self.table.values.shape}")
        if self.shifts:
            check_windows(w, self.shifts, b)
            return (Shared((*w.shape, len(self.shifts)), self.group),)
        if w.group.bits != b or w.headroom or w.where is not None:
            raise ValueError(f"a table of 2^{b} entries is looked up at a wire opened whole mod 2^{b}, not {w}")
        return (Shared(w.shape, self.group),)

    def narrowed(self, bits: int, *inputs: Wire):
        step = self if self.group.xor else replace(self, group=Group(bits))
        return step, (inputs[0].group.bits,)

    def _places(self, word, offset: int, ring: Group):
        """The windows of c - offset, or of r."""
        if not self.shifts:
            return word.astype(jnp.uint32)
        return windows(ring.sub(word, ring.constant(offset)), self.shifts, self._bits)

    @property
    def _entries(self):
        return jnp.asarray(self.group.encode(self.table.values))

    def deal(self, dealer: Dealer, w: Mask):
        group, r = w.wire.group, self._places(w.r, 0, w.wire.group)[..., None]
        c = jnp.arange(1 << self._bits, dtype=jnp.uint32)
        place = c ^ r if group.xor else (c - r) & np.uint32((1 << self._bits) - 1)
        dealer.give("table", self._entries[place], self.group)
        return self.outputs(w.wire)

    def online(self, party: Party, material: Material, w: OpenedShare):
        place = self._places(w.value, w.wire.offset, w.wire.group)
        return (jnp.take_along_axis(material["table"], place[..., None].astype(jnp.int32), -1)[..., 0],)

    def ideal(self, coins: Coins, w: OpenedPlain):
        group = w.wire.group
        c, r = self._places(w.c, w.wire.offset, group), self._places(w.r, 0, group)
        place = c ^ r if group.xor else (c - r) & np.uint32((1 << self._bits) - 1)
        return (self._entries[place],)


def non_zero(bits: int, group: Group) -> Lookup:
    """<y>, opened mod 2^bits -> [y != 0]."""
    return Lookup(Table((np.arange(1 << bits) > 0).astype(np.int64)), group)


@dataclass(frozen=True)
class Select(Protocol):
    """<word>, <y> -> [sum of weight_j y_j over the j whose case holds] in Z_2^bits; j runs over y's last axis.

    A case is a list of (element of the word's last axis, bit): it holds where all those bits are set. y is opened
    with headroom: ``y = P - r + (1 - msb c) 2^m msb r`` with P = c - offset. Ideal functionality: that sum.
    Argument: local; for each case the dealer shares afresh a one-hot vector over the values of its opened bits, with
    the one where all bits behind the masks are set, and that vector times r_j and msb r_j; the parties take their
    shares at the public value. Cases of n bits whose weights are multiples of 2^s are dealt in k = bits - s bits.
    Dealt: 2 k + max(0, k - m) bits for each of a case's 2^n entries. Online: nothing.
    """

    cases: tuple[tuple[tuple[int, int], ...], ...]
    weights: tuple[int, ...]
    bits: int

    def outputs(self, word: Opened, y: Opened):
        count = len(self.cases)
        whole = word.where is None and y.where is None and word.group.xor and y.headroom and self.bits >= y.group.bits
        if not whole or count != len(self.weights) or word.shape[-1] * word.group.bits > 32:
            raise ValueError(f"no choice among {y} by {word}, of {count} cases, in {self.bits} bits")
        if y.shape != (*word.shape[:-1], count):
            raise ValueError(f"{count} cases of {word.shape} for {y.shape}")
        return (Shared(y.shape[:-1], Group(self.bits)),)

    def narrowed(self, bits: int, *inputs: Wire):
        word, y = (w.group.bits for w in inputs)
        return replace(self, bits=max(bits, y)), (word, y)

    def _groups(self, word: Group) -> "list[_Patterns]":
        """The cases by their number of bits."""
        sizes = sorted({len(case) for case in self.cases})
        return [self._patterns(word, [j for j, case in enumerate(self.cases) if len(case) == n]) for n in sizes]

    def _patterns(self, word: Group, members: list[int]) -> "_Patterns":
        # A group whose weights are all even needs its sum in a smaller ring only.
        weights = [self.weights[j] for j in members]
        shift = min(min((w & -w).bit_length() - 1 for w in weights), self.bits - 1)
        found = []
        for j in members:
            at = [element * word.bits + bit for element, bit in self.cases[j]]
            for chosen in range(1 << len(at)):
                value = sum(1 << p for k, p in enumerate(at) if chosen >> k & 1)
                found.append((j, self.weights[j] >> shift, sum(1 << p for p in at), value))
        case, weight, places, values = zip(*found)
        ring = Group(self.bits - shift)
        factors = np.array([ring.constant(w) for w in weight], ring.dtype)
        return _Patterns(ring, shift, np.array(case), factors, np.array(places, np.uint32), np.array(values, np.uint32))

    def _whole(self, word, group: Group):
        """A row's words as one integer, on a last axis of one."""
        shifts = np.arange(word.shape[-1], dtype=np.uint32) * np.uint32(group.bits)
        return (word << shifts).sum(-1, dtype=jnp.uint32)[..., None]

    def deal(self, dealer: Dealer, word: Mask, y: Mask):
        m, masks = y.wire.group.bits, self._whole(word.r, word.wire.group)
        for n, p in enumerate(self._groups(word.wire.group)):
            # All bits behind the masks are set where the opened ones are the opposite of the masks.
            holds = (((masks ^ p.values) & p.places) == p.places).astype(p.ring.dtype)
            dealer.give(f"holds{n}", holds, p.ring)
            dealer.give(f"holds_r{n}", holds * y.r.astype(p.ring.dtype)[..., p.case], p.ring)
            if m < p.ring.bits:
                top = holds * y.top(p.ring.dtype)[..., p.case]
                dealer.give(f"holds_top{n}", top, Group(p.ring.bits - m))
        return self.outputs(word.wire, y.wire)

    def online(self, party: Party, material: Material, word: OpenedShare, y: OpenedShare):
        m, opened = y.wire.group.bits, self._whole(word.value, word.wire.group)
        total = jnp.zeros(y.wire.shape[:-1], Group(self.bits).dtype)
        for n, p in enumerate(self._groups(word.wire.group)):
            each = y.public(p.ring)[..., p.case] * material[f"holds{n}"] - material[f"holds_r{n}"]
            if m < p.ring.bits:
                top = material[f"holds_top{n}"].astype(p.ring.dtype) << p.ring.dtype.type(m)
                each = each + y.wrapped(p.ring)[..., p.case] * top
            here = (opened & p.places) == p.values
            own = (each * p.factors * here.astype(p.ring.dtype)).sum(-1, dtype=p.ring.dtype)
            total = total + (own.astype(total.dtype) << total.dtype.type(p.shift))
        return (Group(self.bits).reduce(total),)

    def ideal(self, coins: Coins, word: OpenedPlain, y: OpenedPlain):
        ring, bits = Group(self.bits), word.wire.group.bits
        places = np.array([sum(1 << e * bits + bit for e, bit in c) for c in self.cases], np.uint32)
        holds = (self._whole(word.y.astype(jnp.uint32), word.wire.group) & places) == places
        weights = np.array([ring.constant(w) for w in self.weights], ring.dtype)
        values = ring.cast(jax.lax.bitcast_convert_type(y.y, jnp.uint64)) * weights
        return (ring.reduce((values * holds.astype(ring.dtype)).sum(-1, dtype=ring.dtype)),)


@dataclass(frozen=True)
class _Patterns:
    """Entries of some cases: each one's case and weight, the bits of the word that count, and their opened value.

    Their sum lives in ``ring``, and counts 2^shift times.
    """

    ring: Group
    shift: int
    case: np.ndarray
    factors: np.ndarray
    places: np.ndarray
    values: np.ndarray

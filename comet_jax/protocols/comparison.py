"""Comparing an opened wire with public thresholds: shares of the bit [y >= t].

With headroom, y - t + offset lies in [0, 2^(m-1)), and its bit m - 2 says whether y >= t. As c - t = y - t + offset
+ r mod 2^m, that bit is ``bit(c - t) ^ bit(r) ^ [ (c - t) mod 2^(m-2) < r mod 2^(m-2) ]``. The last bracket compares
a public number with one that the dealer knows:

1. Per digit of w bits the dealer shares the thermometer of r's digit, T[v] = [v < digit], 2^w - 1 bits under xor.
   The parties look up T at c's digit: [less]; and T[v - 1] ^ T[v] there is [equal].
2. borrow = less_top ^ equal_top less_next ^ equal_top equal_next less ...: every term but the first is a product of
   shared bits. All bits that occur are opened under one mask (``Open`` of a word of 2 (digits - 1) bits).
3. The products of the mask's bits are dealt, so the polynomial is local.

One set of tables serves several thresholds. Two rounds less than a tree of two-input gates; the material grows as
2^digits, so five digits or fewer. Cost: one round; 2 (n - 1) bits a threshold and element, where n is the number of
digits; dealt n (2^w - 1) + 1 bits an element (n 2^w + 1 for digits of 7 and 8 bits) and 3 2^(n-1) - 2 n - 1 bits a
threshold.
Or the word has one bit more, that of the terms that are no products: then it says all, and whatever the bit is used
for may look it up (``truth``), instead of steps 3 and an opening of the bit.
Source: look-up-table gates on masked bits (Ishai et al., TCC 2013; Dessouky et al., NDSS 2017), thermometer form ours.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np

from comet_jax.protocols.protocol import Coins, Dealer, Material, Party, Protocol
from comet_jax.sharing.groups import Group, bit
from comet_jax.sharing.packing import Where
from comet_jax.sharing.wires import Mask, Opened, OpenedPlain, OpenedShare, Plain, Share, Shared

BIT = Group(1, xor=True)


@dataclass(frozen=True)
class _Digits:
    """How the m - 2 low bits of a wire are cut: lowest bit and width of each digit, lowest digit first."""

    bits: int
    low: int
    width: int

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        top = self.bits - 2
        return tuple((a, min(self.width, top - a)) for a in range(self.low, top, self.width)) or ((top, 0),)

    @property
    def word(self) -> int:
        """Bits of the word that is opened."""
        return 2 * (len(self.spans) - 1)


@dataclass(frozen=True)
class DigitLookup(Protocol):
    """<y> -> [top bit and top digit's less], [word of the bits whose products are needed]: step 1 above.

    ``thresholds`` are integers at the wire's scale; outputs have one more, last axis, for them. ``low`` bits of y
    are ignored: y is compared as if rounded, within 2^low, and then y - t must stay 2^low below the wire's limit.
    ``width`` bits a digit, at most 8. ``whole``: one output, a word with the top bit and top digit's less above the
    others. Outside the wire's ``where`` outputs are zero.

    Ideal functionality: shares of the bits named above, as functions of y and the opened c. Nothing is sent: each
    party takes its own shares out of a table that was dealt afresh, at a place that c gives.
    """

    thresholds: tuple[int, ...]
    low: int = 0
    width: int = 4
    whole: bool = False

    def _digits(self, w: Opened) -> _Digits:
        return _Digits(w.group.bits, self.low, self.width)

    def outputs(self, w: Opened):
        if not w.headroom or not 1 <= self.width <= 8 or not self.thresholds:
            raise ValueError(f"cannot compare {w} by {self}")
        limit = 1 << (w.group.bits - 2)
        if any(abs(t) > limit for t in self.thresholds):
            raise ValueError(f"a threshold of {self.thresholds} is beyond the wire's {w.group.bits} bits")
        shape = (*w.shape, len(self.thresholds))
        base, word = Shared(shape, BIT), self._digits(w).word
        if self.whole:
            return (Shared(shape, Group(word + 1, xor=True)),)
        return (base, Shared(shape, Group(word, xor=True))) if word else (base,)

    def deal(self, dealer: Dealer, w: Mask):
        m = w.wire.group.bits
        for i, (a, width) in enumerate(self._digits(w.wire).spans):
            if width:
                digit = (w.r >> w.r.dtype.type(a)) & w.r.dtype.type((1 << width) - 1)
                table, where = _thermometer(digit, width), w.wire.where
                if table.ndim > digit.ndim and where is not None:
                    where = Where(np.broadcast_to(where.mask[..., None], table.shape).copy())
                dealer.give(f"less{i}", table, _table_group(width), where)
        dealer.give("top", bit(w.r, m - 2), BIT, w.wire.where)
        return self.outputs(w.wire)

    def online(self, party: Party, material: Material, w: OpenedShare):
        ring = w.wire.group
        t = np.array([ring.constant(t) for t in self.thresholds], ring.dtype)
        c = ring.sub(w.value[..., None], t)
        digits = self._digits(w.wire)
        less, equal = [], []
        for i, (a, width) in enumerate(digits.spans):
            if not width:
                less.append(jnp.zeros(c.shape, jnp.uint32))
                continue
            table = material[f"less{i}"]
            v = ((c >> c.dtype.type(a)) & c.dtype.type((1 << width) - 1)).astype(table.dtype)
            one = table.dtype.type(1)
            here = _entry(table, v, width)
            before = jnp.where(v == 0, party.first(one), _entry(table, jnp.where(v == 0, v, v - one), width))
            less.append(here.astype(jnp.uint32))
            equal.append((here ^ before).astype(jnp.uint32))
        base = less[-1] ^ material["top"][..., None] ^ party.first(bit(c, ring.bits - 2).astype(jnp.uint32))
        return self._results(w.wire, base, less, equal)

    def _results(self, wire: Opened, base, less, equal):
        word = self._digits(wire).word
        if self.whole:
            group = Group(word + 1, xor=True)
            out = (_word(less, equal, group) | (base.astype(group.dtype) << group.dtype.type(word)),)
        else:
            out = (base, _word(less, equal, Group(word, xor=True))) if word else (base,)
        return out if wire.where is None else tuple(o * wire.where.mask[..., None].astype(o.dtype) for o in out)

    def ideal(self, coins: Coins, w: OpenedPlain):
        ring, r = w.wire.group, w.r[..., None]
        t = np.array([ring.constant(t) for t in self.thresholds], ring.dtype)
        c = ring.sub(w.c[..., None], t)
        digits = self._digits(w.wire)
        less, equal = [], []
        for a, width in digits.spans:
            d = lambda x, a=a, width=width: (x >> x.dtype.type(a)) & x.dtype.type((1 << width) - 1)
            less.append((d(c) < d(r)).astype(jnp.uint32))
            equal.append((d(c) == d(r)).astype(jnp.uint32))
        base = less[-1] ^ bit(r, ring.bits - 2).astype(jnp.uint32) ^ bit(c, ring.bits - 2).astype(jnp.uint32)
        return self._results(w.wire, base, less, equal)


def _table_group(width: int) -> Group:
    """A thermometer, whose last entry is always zero, as one word; or in words of 64 entries."""
    return Group(min(64, (1 << width) - 1), xor=True)


def _thermometer(digit: jax.Array, width: int) -> jax.Array:
    """T[v] = [v < digit] at bit v; for digits of more than 6 bits, at bit v mod 64 of word v / 64 on a last axis."""
    dtype = _table_group(width).dtype
    one = dtype.type(1)
    if width <= 6:
        return (one << digit.astype(dtype)) - one
    filled = digit[..., None].astype(jnp.int32) - 64 * np.arange(1 << width - 6, dtype=np.int32)
    part = (one << jnp.clip(filled, 0, 63).astype(dtype)) - one
    return jnp.where(filled >= 64, ~dtype.type(0), part)


def _entry(table: jax.Array, v: jax.Array, width: int) -> jax.Array:
    """A party's shares of T[v], for several v on a last axis."""
    one = table.dtype.type(1)
    if width <= 6:
        return (table[..., None] >> v) & one
    words = np.arange(1 << width - 6, dtype=table.dtype)
    here = (v >> table.dtype.type(6))[..., None] == words
    word = jnp.where(here, table[..., None, :], jnp.zeros_like(table[..., None, :])).sum(-1, dtype=table.dtype)
    return (word >> (v & table.dtype.type(63))) & one


def truth(bits: int) -> tuple[int, ...]:
    """What a ``whole`` word of ``bits`` bits says, for each of its values."""
    words = np.arange(1 << bits)
    at = lambda p: words >> p & 1
    out = at(bits - 1)
    for i in range(bits // 2):
        out = out ^ reduce(np.bitwise_and, [at(2 * j + 1) for j in range(i, bits // 2)], at(2 * i))
    return tuple(map(int, out))


def _word(less: list[jax.Array], equal: list[jax.Array], group: Group) -> jax.Array:
    """less of every digit but the top at even places, equal of every digit but the lowest at odd ones."""
    word = jnp.zeros(less[0].shape, group.dtype)
    for i in range(len(less) - 1):
        word = word | (less[i].astype(group.dtype) << group.dtype.type(2 * i))
        word = word | (equal[i + 1].astype(group.dtype) << group.dtype.type(2 * i + 1))
    return word


@lru_cache(maxsize=8)
def _expansion(bits: int) -> tuple[np.ndarray, np.ndarray, list[tuple[Group, np.ndarray, np.ndarray]]]:
    """The borrow's polynomial in o ^ mu, for a word of ``bits`` bits, as tables indexed by the word.

    ``constant[o]`` and ``linear[o]`` (a mask on mu's bits); then for each chunk of at most 32 products of mu's bits:
    its group, ``products[mu]``, the products' values as a word, and ``chosen[o]``, those whose coefficient is odd.
    """
    n, words = bits // 2, np.arange(1 << bits, dtype=np.uint32)
    bit_of = lambda p: (words >> np.uint32(p)) & np.uint32(1)
    all_set = lambda places: reduce(np.bitwise_and, map(bit_of, places), np.ones_like(words))
    # less_i times equal of every digit above i. A product of (o ^ mu) expands into, for each subset S of its places,
    # the product of o outside S times the product of mu in S.
    coefficients: dict[frozenset[int], np.ndarray] = {}
    for term in [(2 * i, *(2 * j + 1 for j in range(i, n))) for i in range(n)]:
        for size in range(len(term) + 1):
            for chosen in combinations(term, size):
                value = all_set([p for p in term if p not in chosen])
                key = frozenset(chosen)
                coefficients[key] = coefficients.get(key, np.zeros_like(words)) ^ value
    constant = coefficients[frozenset()]
    linear = np.zeros_like(words)
    for key, value in coefficients.items():
        if len(key) == 1:
            linear |= value << np.uint32(next(iter(key)))
    products = [key for key in coefficients if len(key) > 1]
    chunks = []
    for k in range(0, len(products), 32):
        chunk = products[k : k + 32]
        pack = lambda columns: reduce(np.bitwise_or, [c << np.uint32(j) for j, c in enumerate(columns)])
        values, odd = pack([all_set(key) for key in chunk]), pack([coefficients[key] for key in chunk])
        chunks.append((Group(len(chunk), xor=True), values, odd))
    return constant, linear, chunks


@dataclass(frozen=True)
class Borrow(Protocol):
    """[base], <word> -> [base ^ the terms of the borrow that are products]: steps 2 and 3 above.

    Ideal functionality: that bit. Argument: a word's bits have one mask bit each, all independent, so the opened word
    is uniform whatever the bits' relations are (an "equal" excludes a "less"); products of mask bits are only dealt,
    under fresh sharing. Dealt: every product of two or more of the word's mask bits that the expansion needs, one bit
    each. Online: nothing.
    """

    def outputs(self, base: Shared, word: Opened):
        if not word.group.xor or word.group.bits % 2 or word.group.bits > 16 or base.shape != word.shape:
            raise ValueError(f"a borrow needs a word of less and equal bits and its base, not {word} and {base}")
        return (base,)

    def deal(self, dealer: Dealer, base: Shared, word: Mask):
        for k, (group, values, _) in enumerate(_expansion(word.wire.group.bits)[2]):
            dealer.give(f"products{k}", jnp.asarray(values)[word.r], group)
        return (base,)

    def online(self, party: Party, material: Material, base: Share, word: OpenedShare):
        constant, linear, chunks = _expansion(word.wire.group.bits)
        o = word.value
        bits = jnp.asarray(linear)[o] & word.mask
        out = base.x ^ party.first(jnp.asarray(constant)[o]) ^ _parity(bits)
        for k, (_, _, odd) in enumerate(chunks):
            out = out ^ _parity(jnp.asarray(odd)[o] & material[f"products{k}"])
        return (out,)

    def ideal(self, coins: Coins, base: Plain, word: OpenedPlain):
        n, out = word.wire.group.bits // 2, base.v
        for i in range(n):
            term = bit(word.y, 2 * i)
            for j in range(i, n):
                term = term & bit(word.y, 2 * j + 1)
            out = out ^ term.astype(jnp.uint32)
        return (out,)


def _parity(words: jax.Array) -> jax.Array:
    return jax.lax.population_count(words) & np.uint32(1)

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
digits; dealt n (2^w - 1) + 1 bits an element and about 2^n bits a threshold.
Source: look-up-table gates on masked bits (Ishai et al., TCC 2013; Dessouky et al., NDSS 2017), thermometer form ours.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np

from comet_jax.protocols.protocol import Coins, Dealer, Material, Party, Protocol
from comet_jax.sharing.groups import Group, bit
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
    are ignored (y is compared as if rounded, within 2^low). ``width`` bits a digit, at most 6.
    """

    thresholds: tuple[int, ...]
    low: int = 0
    width: int = 4

    def _digits(self, w: Opened) -> _Digits:
        return _Digits(w.group.bits, self.low, self.width)

    def outputs(self, w: Opened):
        if not w.headroom or not 1 <= self.width <= 6 or not self.thresholds:
            raise ValueError(f"cannot compare {w} by {self}")
        limit = 1 << (w.group.bits - 2)
        if any(abs(t) > limit for t in self.thresholds):
            raise ValueError(f"a threshold of {self.thresholds} is beyond the wire's {w.group.bits} bits")
        shape = (*w.shape, len(self.thresholds))
        base, word = Shared(shape, BIT), self._digits(w).word
        return (base, Shared(shape, Group(word, xor=True))) if word else (base,)

    def deal(self, dealer: Dealer, w: Mask):
        m = w.wire.group.bits
        for i, (a, width) in enumerate(self._digits(w.wire).spans):
            if width:
                digit = (w.r >> w.r.dtype.type(a)) & w.r.dtype.type((1 << width) - 1)
                table = Group((1 << width) - 1, xor=True)
                one = table.dtype.type(1)
                dealer.give(f"less{i}", (one << digit.astype(table.dtype)) - one, table, w.wire.where)
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
            table = material[f"less{i}"][..., None]
            one = table.dtype.type(1)
            v = ((c >> c.dtype.type(a)) & c.dtype.type((1 << width) - 1)).astype(table.dtype)
            here = (table >> v) & one
            before = jnp.where(v == 0, party.first(one), (table >> jnp.where(v == 0, v, v - one)) & one)
            less.append(here.astype(jnp.uint32))
            equal.append((here ^ before).astype(jnp.uint32))
        base = less[-1] ^ material["top"][..., None] ^ party.first(bit(c, ring.bits - 2).astype(jnp.uint32))
        if not digits.word:
            return (base,)
        return base, _word(less, equal, Group(digits.word, xor=True))

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
        if w.wire.where is not None:
            base = base * w.wire.where.mask[..., None].astype(base.dtype)
        if not digits.word:
            return (base,)
        return base, _word(less, equal, Group(digits.word, xor=True))


def _word(less: list[jax.Array], equal: list[jax.Array], group: Group) -> jax.Array:
    """less of every digit but the top at even places, equal of every digit but the lowest at odd ones."""
    word = jnp.zeros(less[0].shape, group.dtype)
    for i in range(len(less) - 1):
        word = word | (less[i].astype(group.dtype) << group.dtype.type(2 * i))
        word = word | (equal[i + 1].astype(group.dtype) << group.dtype.type(2 * i + 1))
    return word


Monomial = frozenset[int]


@dataclass(frozen=True)
class Borrow(Protocol):
    """[base], <word> -> [base ^ the terms of the borrow that are products]: steps 2 and 3 above.

    Dealt: every product of two or more of the word's mask bits that the expansion needs, one bit each.
    """

    def outputs(self, base: Shared, word: Opened):
        return (base,)

    @staticmethod
    def _terms(bits: int) -> list[tuple[int, ...]]:
        """Bit places of each product: less_i times equal of every digit above i."""
        n = bits // 2
        return [(2 * i, *(2 * j + 1 for j in range(i, n))) for i in range(n)]

    def _monomials(self, bits: int) -> list[Monomial]:
        found: dict[Monomial, None] = {}
        for term in self._terms(bits):
            for size in range(2, len(term) + 1):
                found.update(dict.fromkeys(map(frozenset, combinations(term, size))))
        return list(found)

    def deal(self, dealer: Dealer, base: Shared, word: Mask):
        monomials = self._monomials(word.wire.group.bits)
        for k, group, chunk in _chunks(monomials):
            value = jnp.zeros(word.r.shape, group.dtype)
            for j, monomial in enumerate(chunk):
                product = jnp.asarray(group.dtype.type(1))
                for place in monomial:
                    product = product & bit(word.r, place).astype(group.dtype)
                value = value | (product << group.dtype.type(j))
            dealer.give(f"products{k}", value, group)
        return (base,)

    def online(self, party: Party, material: Material, base: Share, word: OpenedShare):
        bits = word.wire.group.bits
        o = [bit(word.value, i).astype(jnp.uint32) for i in range(bits)]
        assert word.r is not None
        own = [bit(word.r, i).astype(jnp.uint32) for i in range(bits)]
        # A product of (o ^ mu) expands into, for each subset S of its places, AND of o outside S times AND of mu in S.
        public: dict[Monomial, jax.Array] = {}
        for term in self._terms(bits):
            for size in range(len(term) + 1):
                for chosen in combinations(term, size):
                    rest = [o[i] for i in term if i not in chosen]
                    value = _all(rest, o[0])
                    key = frozenset(chosen)
                    public[key] = public[key] ^ value if key in public else value
        out = base.x ^ party.first(public.pop(frozenset()))
        for key in [k for k in public if len(k) == 1]:
            out = out ^ (own[next(iter(key))] & public.pop(key))
        for k, group, chunk in _chunks(self._monomials(bits)):
            coefficients = jnp.zeros(out.shape, group.dtype)
            for j, monomial in enumerate(chunk):
                coefficients = coefficients | (public[monomial].astype(group.dtype) << group.dtype.type(j))
            odd = jax.lax.population_count(coefficients & material[f"products{k}"]) & group.dtype.type(1)
            out = out ^ odd.astype(jnp.uint32)
        return (out & np.uint32(1),)

    def ideal(self, coins: Coins, base: Plain, word: OpenedPlain):
        out = base.v
        for term in self._terms(word.wire.group.bits):
            out = out ^ _all([bit(word.y, i).astype(jnp.uint32) for i in term], out)
        return (out,)


def _all(bits: Iterable[jax.Array], like: jax.Array) -> jax.Array:
    out = jnp.ones(like.shape, jnp.uint32)
    for b in bits:
        out = out & b
    return out


def _chunks(monomials: list[Monomial]) -> Iterable[tuple[int, Group, list[Monomial]]]:
    """The monomials in words of at most 32."""
    for k in range(0, len(monomials), 32):
        chunk = monomials[k : k + 32]
        yield k // 32, Group(len(chunk), xor=True), chunk

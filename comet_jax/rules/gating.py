"""A feed-forward layer of which only some blocks of neurons are computed: those that its predictor asks for.

    scores = (r A) B + bias                 a block is to be computed where it is not negative
    flags  = a function of scores           disclosed (active_sets.py)
    slots  = the blocks that are flagged    of a fixed number, over all tokens
    y      = (act(x W_up + b) - m) W_down   in the slots alone
           + m W_down                       of all neurons, which the owner computes

What the predictor reads, r, is the layer's input x, or what the attention before the layer has opened
(``passes.attention.ahead``): then scores and flags are there when the layer's own norm is done, and nothing is opened
that was not.

A neuron that is left out counts as m, its mean when it is, or as zero where the predictor has no means. ReLU's neurons
are zero then, nearly; GELU's and SiLU's are not.

The model's owner puts the blocks in a secret order. Where flags are disclosed as they are, it draws one for each
session: places say nothing, but counts and repetitions do. Where nothing is to be revealed, the set is of a fixed size,
the blocks that are wanted most, and order and weights are shared afresh for each call: each slot is opened at most once
under an order. This the owner does, or the parties themselves (passes/renewal.py). All tokens of a call then compute
the same blocks.

With a longer epoch order and weights serve that many calls. A call then discloses as many blocks that none before has
touched, and computes those of earlier calls again, the stash: their places are known, so it tells nothing.

Costs beside the dense layer, for flags: three rounds (the predictor's hidden vector, the scores, the flags), 9 bits a
block and token for scores and flags, and a hidden vector of ``HIDDEN`` + 1 bits each; 257 bits a block and token are
dealt for the comparison, and where closed blocks are not opened (second_product.py) d ring elements for the product
with W_down. Saved: all openings of the neurons outside the slots, and for one token their products. To reveal nothing
takes four rounds more, five for several tokens. Read from attention, three of all these rounds are the norm's own:
flags cost none. That the largest scores get the slots takes two rounds more and 128 (k + 1) bits, with k bits for the
numbers 0 to N, of all tokens' blocks; for it are dealt 256 N k + 2^(k + 7) bits more.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import prod
from typing import Any

import numpy as np

from comet_jax.ir.jaxprs import Node, Value
from comet_jax.ir.program import Var
from comet_jax.predictors import Layer
from comet_jax.protocols.bilinear import Bilinear
from comet_jax.protocols.linear import Combine, Rearrange, Resize, Table
from comet_jax.protocols.opening import HighBits, Open
from comet_jax.protocols.slots import IntoSlots, Slots, TakeSlots
from comet_jax.protocols.stash import Joined
from comet_jax.rules.active_sets import flagged, most_wanted
from comet_jax.rules.contraction import folded
from comet_jax.rules.registry import RULES, rule
from comet_jax.rules.scope import Order, Scope, centre
from comet_jax.rules.second_product import second_product
from comet_jax.rules.terms import Env, Joint, Owned, Scaled
from comet_jax.sharing import chacha
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Disclosed

# Fraction bits of the predictor: of A, of x A after truncation, of B, and of a score when it is compared.
FIRST, MIDDLE, SECOND, SCORE = 9, 10, 12, 7
HIDDEN = MIDDLE + SECOND  # the scores' own; they are below 1, so one bit more holds them, and all that makes them
_ROWS = (((1,), (0,)), ((), ()))


@rule("gated_ffn")
def gated_ffn(s: Scope, node: Node, x, *rest):
    read = len(node.params["layer"].read)
    return _Gating(s, node, s.joint(x), tuple(map(s.joint, rest[:read])), rest[read:]).result()


@dataclass(frozen=True, eq=False)
class _Projection:
    """x W + b as an owner's arrays in blocks: W [G, g, d] and b [G, g], for the wire that W's fold leaves of x."""

    base: Joint
    weight: Owned
    bias: Owned
    out: Value


class _Gating:
    """One gated layer while it is lowered."""

    def __init__(self, s: Scope, node: Node, x: Joint, read: tuple[Joint, ...], weights: tuple[Any, ...]):
        self.s, self.node, self.x, self.read = s, node, x, read
        self.layer = node.params["layer"]
        self.ffn, self.site = self.layer.ffn, self.layer.site
        owners = {getattr(w, "owner", None) for w in weights}
        if len(owners) != 1 or None in owners:
            raise ValueError("a gated layer's weights must all be one owner's secrets")
        self.tokens = prod(x.shape[:-1])
        self.hides = self.layer.gate.reveals == "nothing"
        self.blocks = (self.site.gates, self.site.block)
        # Blocks that are computed: of all tokens alike, or over all of them.
        self.room = self.layer.room
        self.count = self.room * (s.call + 1) * self.tokens if self.hides else self.layer.slots
        given = iter(weights)
        take = lambda p: (next(given), next(given) if p.bias is not None else None)
        self.first = take(self.ffn.up)
        self.linear = take(self.ffn.linear) if self.ffn.linear else None
        self.last = next(given)

    def result(self) -> Joint:
        weight, means = self._down()
        return self.s.result(
            self.node.outputs[0].shape,
            lambda: self._product(weight, means),
            make_centred=lambda: self._product(centre(weight), means and centre(means)),
        )

    # What the owner does before it shares.

    @cached_property
    def _up(self) -> Owned:
        """The first weight as it was trained, [d, h]."""
        return _turned(self.first[0], self.ffn.up.axis)

    def _owned(self, shape: tuple[int, ...], compute: Callable[..., Any], *terms: Owned) -> Owned:
        """A function of the layer's predictor, of the blocks' secret order, and of ``terms``."""

        def at(env: Env):
            layer, order = self._drawn(env)
            return compute(layer, order, *(np.asarray(t.at(env), np.float64) for t in terms))

        up = self._up
        return Owned(up.owner, shape, np.dtype(np.float64), at, up.name, depth=up.depth)

    def _drawn(self, env: Env) -> tuple[Layer, np.ndarray]:
        """This layer's predictor, and the secret order of its blocks, of the session or of this epoch."""
        key = (self, "drawn")
        if key not in env.cache:
            weight = np.asarray(self._up.at(env), np.float32)
            layer = self.layer.gate.predictor.layer(self.site.site, weight)
            label = f"{self.layer.number} {self.site.site} {layer.fingerprint}"
            # An order that reveals nothing serves one epoch and one layer, even among layers that are alike. It is
            # drawn where an epoch begins, and all that it orders is shared there, once.
            env.cache[key] = layer, secret_order(os.urandom(32) if self.hides else env.key, label, self.blocks[0])
        return env.cache[key]

    def _in_order(self, layer: Layer, order: np.ndarray, neurons: np.ndarray) -> np.ndarray:
        """An array with a row a neuron as one with a row a block, in the secret order."""
        return neurons[layer.order].reshape(*self.blocks, *neurons.shape[1:])[order]

    def _in_blocks(self, axis: int, x: Joint, weight: Owned, bias: Owned | None, out: Value) -> _Projection:
        base, turned, shift = folded(x, _turned(weight, axis), 0)
        d = turned.shape[0]
        terms = [t for t in (bias, shift) if t is not None]
        by_block = lambda layer, order, w: self._in_order(layer, order, w.T)
        summed = lambda layer, order, *vs: self._in_order(layer, order, sum(vs, np.zeros(self.site.neurons)))
        return _Projection(
            base, self._owned((*self.blocks, d), by_block, turned), self._owned(self.blocks, summed, *terms), out
        )

    def _down(self) -> tuple[Owned, Owned | None]:
        """The second weight in blocks, and m W_down, if the predictor has means m."""
        down = _turned(self.last, self.ffn.down.axis)
        by_block = self._owned((*self.blocks, down.shape[1]), self._in_order, down)
        if not self.site.fills:
            return by_block, None
        return by_block, self._owned(down.shape[1:], lambda layer, order, w: layer.fill @ w, down)

    @property
    def _order(self) -> Order | None:
        """The order of the layer's blocks, of weights with those on their first axis, where it is renewed."""
        return Order(self, 0) if self.hides else None

    @cached_property
    def _matrix(self) -> Owned:
        """The secret order as a matrix: row i has its one where block i goes."""
        size = self.blocks[0]
        return self._owned((size, size), lambda layer, order: np.eye(size)[order].T)

    # What the parties do.

    def _rows(self, base: Joint) -> Scaled:
        """An opened value, one row a token."""
        a = base.operand
        if len(a.var.shape) == 2:
            return a
        shape = (self.tokens, prod(a.var.shape) // self.tokens)
        return Scaled(self.s.b.emit(Rearrange("reshape", (shape,)), a.var), a.scale)

    @cached_property
    def flags(self) -> Var:
        """Which blocks are computed, disclosed: of each token, or of all tokens alike."""
        s, site = self.s, self.site.site
        with s.b.site(self.node.site or self.node.where, "gate"):
            if not self.hides:
                limit = self.count if self.layer.gate.overflow == "scores" else None
                return flagged(s, self._scores(), site, limit)
            before = s.b.input(Disclosed((1, self.blocks[0]), Group(1))) if s.call else None
            matrix = s.encode(self._matrix, 1.0, static=True, order=Order(self, 1))
            flags = most_wanted(s, self._scores(), site, self.room, matrix, before)
            if before is not None:
                flags = s.b.emit(Joined(site), before, flags)
            if self.layer.gate.epoch > 1:
                s.carried.append((before, flags if s.call + 1 < self.layer.gate.epoch else None))
            return flags

    def _scores(self) -> Var:
        """Scores of all blocks, raised by one so that none is negative, opened at ``SCORE`` + 1 bits, (T, G)."""
        s, site = self.s, self.site
        # Where flags are disclosed as they are, scores are in the secret order already.
        placed = lambda blocks, order: blocks if self.hides else blocks[..., order]
        # Columns of A at length one: then the bits of x A are well used, whatever the artifact's own scaling.
        length = lambda layer: np.maximum(np.linalg.norm(layer.a, axis=0), 1e-30)
        b = lambda layer, order: placed(layer.b * length(layer)[:, None], order)
        second = self._owned((site.rank, site.gates), b)
        bias = self._owned((site.gates,), lambda layer, order: placed(layer.bias, order))
        parts, before = [], 0
        for x, width in zip(self.read, site.read):
            part = slice(before, before := before + width)
            a = self._owned((width, site.rank), lambda layer, order, part=part: (layer.a / length(layer))[part])
            parts.append(self._seen(x, a))
        hidden = parts[0] if len(parts) == 1 else s.b.emit(Combine((1,) * len(parts)), *parts)
        # Of the scores only so many bits are looked at, and a product needs no more of its factors.
        bits = HIDDEN + 1
        low = lambda v, bits=bits: v if v.bits == bits else s.b.emit(Resize(bits), v)
        drop = self._fraction - MIDDLE
        hidden = s.b.emit(HighBits(drop), low(hidden, bits + drop))
        opened = s.b.emit(Open(bits), hidden)
        scores = s.b.emit(Bilinear(_ROWS), opened, low(s.encode(second, 2.0**SECOND, static=True)))
        added = s.broadcast(low(s.encode(bias, 2.0**HIDDEN)), scores.shape)
        scores = s.b.emit(Combine((1, 1), Table(np.array(1 << HIDDEN))), scores, added)
        return s.b.emit(Open(SCORE + 1, HIDDEN - SCORE), scores)

    @property
    def _fraction(self) -> int:
        """Fraction bits of x A."""
        return self.s.numbers.operand + FIRST

    def _seen(self, x: Joint, a: Owned) -> Var:
        """x A, (T, rank)."""
        s = self.s
        base, first, shift = folded(x, a, 0)
        rows = self._rows(base)
        scale = 2.0**self._fraction
        hidden = s.b.emit(Bilinear(_ROWS), rows.var, s.encode(first, scale / rows.scale, static=True))
        if shift is None:
            return hidden
        return s.b.emit(Combine((1, 1)), hidden, s.broadcast(s.encode(shift, scale), hidden.shape))

    @cached_property
    def slots(self) -> Var:
        """The numbers of the blocks that are computed."""
        step = Slots(self.count, self.tokens) if self.hides else Slots(self.count)
        return self.s.b.emit(step, self.flags)

    def _joint(self, p: _Projection) -> Joint:
        """x W + b in the slots, (C, g)."""
        s, found = self.s, self.s.calibrated(p.out)

        def make() -> Scaled:
            rows, scale = self._rows(p.base), s.scale_of(p.out)
            weight = s.encode(p.weight, scale / rows.scale, static=True, order=self._order)
            bias = s.encode(p.bias, scale, order=self._order)
            return Scaled(s.b.emit(IntoSlots(), rows.var, weight, bias, self.slots), scale)

        return s.result((self.count, self.site.block), make, range=found)

    @cached_property
    def hidden(self) -> Joint:
        """The activated neurons in the slots."""
        up, ffn = self.ffn.up, self.ffn
        z = self._joint(self._in_blocks(up.axis, self.x, *self.first, up.out))
        h = self._applied(ffn.activation, ffn.hidden if ffn.linear is None else None, z)
        if ffn.linear is None or self.linear is None:
            return h
        other = self._joint(self._in_blocks(ffn.linear.axis, self.x, *self.linear, ffn.linear.out))
        return self._applied("mul", ffn.hidden, h, other)

    def _applied(self, operation: str, out: Value | None, *terms: Joint) -> Joint:
        """A rule's result on the slots; ``out``: the value of the whole layer that it is part of."""
        s, shape = self.s, terms[0].shape
        here = Value(shape, np.dtype(np.float32))
        if out is not None and out in s.ranges:
            s.ranges[here] = s.ranges[out]
        node = Node(operation, {}, tuple(Value(t.shape, here.dtype) for t in terms), (here,))
        made = RULES[operation](s, node, *terms)
        assert isinstance(made, Joint)
        return Joint(made.shape, made.make_raw, made.make_operand, range=s.ranges.get(here, made.range))

    def _product(self, weight: Owned, means: Owned | None) -> Scaled:
        s, out = self.s, self.node.outputs[0]
        h = s.small(self.hidden.raw, bound=s.range_of(self.hidden).largest)
        if means is not None:
            fill = self._owned(self.blocks, lambda layer, order: self._in_order(layer, order, layer.fill))
            less = s.b.emit(TakeSlots(self.tokens), s.encode(fill, h.scale, order=self._order), self.slots)
            h = Scaled(s.b.emit(Combine((1, -1)), h.var, less), h.scale)
        scale = s.scale_of(out)
        static = s.encode(weight, scale / h.scale, static=True, order=self._order)
        y = second_product(s.b, self.layer.gate.closed, self.tokens, h.var, static, self.slots)
        if means is not None:
            y = s.b.emit(Combine((1, 1)), y, s.broadcast(s.encode(means, scale), y.shape))
        return Scaled(y if y.shape == out.shape else s.b.emit(Rearrange("reshape", (out.shape,)), y), scale)


def _turned(weight: Owned, axis: int) -> Owned:
    """A weight matrix with the axis that is contracted first."""
    return weight if axis == 0 else weight.map(np.transpose, weight.shape[::-1])


def secret_order(key: bytes, label: str, count: int) -> np.ndarray:
    """A permutation of ``count`` things that nobody can tell from a random one without ``key``, int64[count].

    The order of as many 64-bit numbers, which are the ChaCha20 keystream of a key derived from ``key`` and ``label``.
    """
    if not key:
        raise ValueError("the order of a gate's blocks needs a key of this session")
    derived = np.frombuffer(sha256(b"order of blocks " + key + label.encode()).digest(), "<u4").astype(np.uint32)
    words = np.asarray(chacha.draw(derived, chacha.nonce(0), 2 * count))
    return np.argsort(words.view(np.uint64), kind="stable")

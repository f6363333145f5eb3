"""Shuffling weights that nobody holds: their blocks go into a new order that no party knows.

Both parties know E = W + r, a weight's public form, and the dealer knows r. They obtain fresh shares of W[sigma], its
blocks in an order sigma that is uniform and that the dealer alone knows, who does not know what the order was before.

1. An order is an array of places, and x[f][s] = x[f[s]]. Party 0 draws two orders f0, s0 and party 1 draws f1, each
   from words of its own; so sigma = f1[s0], and the dealer tells party 1 the order s1 for which f0[s1] = sigma too.
2. E is cut into two halves, each with a part of every block: A is party 0's to send and B party 1's. Each puts the
   blocks of its half in its first order, f0 or f1, and adds its share of a mask m = m0 + m1: this is its message.
3. Of the sum of both messages each takes away its own E in order: party 1 has E_A[f0] + m, and party 0 has E_B[f1] + m.
4. Each puts this in its second order: party 1 has (E_A[f0] + m)[s1] = W_A[sigma] + r_A[sigma] + m[s1], which is its
   share of half A after the dealer has shared what is too much; party 0 likewise of half B with m[s0].

Ideal functionality: draw sigma, tell nobody but the dealer, and share W[sigma] afresh.
Argument. Party 0's view: f0 and s0, its words; party 1's message, which is covered by m1, a mask that party 1 alone
draws for this one message; its shares of what is dealt, words of its keystream. All of it is independent of sigma =
f1[s0], as f1 is uniform and party 1's own. Party 1's view: f1 and s1, a message covered by m0, and corrections that are
covered by party 0's keystream. Given sigma and f1, f0 is uniform, and so is s1, whatever sigma is: (f1, s1) is
independent of sigma. It is told s1 as words of its own keystream that nothing else reads, put in that order, so that
what it receives is uniform too. Words are of 64 bits: that two of a few hundred are equal, and the order thus not quite
uniform, has a probability below 2^-45. Each message is one ring element an element of half of W: one more use of E,
which was public.

Cost for an array of n elements in G blocks of a ring of k bits: one round, k n / 2 bits sent by each party, k n bits
and 64 G dealt. Nothing is multiplied.

Source: the permute-and-share of Chase, Ghosh, Poburinnaya (Secret-shared shuffle, ASIACRYPT 2020), whose correlation a
dealer makes here; halves and two pairs of orders make both parties send alike, in one round.
"""

from dataclasses import dataclass
from math import prod

import jax
import jax.numpy as jnp

from comet_jax.protocols.protocol import Coins, Dealer, Material, Opening, Party, Protocol
from comet_jax.sharing.groups import Group
from comet_jax.sharing.packing import Item
from comet_jax.sharing.wires import Mask, Opened, OpenedPlain, OpenedShare, Share, Shared

WORDS = Group(64)


@dataclass(frozen=True)
class Shuffle(Opening, Protocol):
    """<W>, .. static -> [W[sigma], ..] as rows of blocks (*steps, G, n): all arrays in one order, each step in its own.

    ``axes``: of each array the axis of its G blocks. The axes before the first of them are steps, alike in all arrays.
    n: elements of one block in all arrays, one array after the other. See the module docstring.
    """

    axes: tuple[int, ...]

    def outputs(self, *weights: Opened):
        if len(weights) != len(self.axes) or any(
            not (w.static and w.where is None and not w.headroom) for w in weights
        ):
            raise ValueError(f"no weights with blocks on {self.axes} to be shuffled: {weights}")
        steps = {w.shape[: self._steps] for w in weights}
        blocks = {w.shape[axis] for w, axis in zip(weights, self.axes)}
        if len(steps) != 1 or len(blocks) != 1 or len({w.group for w in weights}) != 1:
            raise ValueError(f"{weights} are not alike in their ring, their steps and how many blocks they have")
        rows = (*steps.pop(), blocks.pop())
        return (Shared((*rows, sum(prod(w.shape) for w in weights) // max(1, prod(rows))), weights[0].group),)

    @property
    def _steps(self) -> int:
        return min(self.axes)

    def _rows(self, arrays) -> jax.Array:
        """The arrays as rows, (*steps, G, n)."""
        flat = []
        for x, axis in zip(arrays, self.axes):
            x = jnp.moveaxis(x, axis, self._steps)
            flat.append(x.reshape(*x.shape[: self._steps + 1], -1))
        return jnp.concatenate(flat, -1)

    def item(self, *weights: Opened) -> Item:
        (wire,) = self.outputs(*weights)
        return Item((*wire.shape[:-1], -(-wire.shape[-1] // 2)), wire.group)

    def _halves(self, rows: jax.Array, half: int) -> tuple[jax.Array, jax.Array]:
        """Both halves, the second one filled up with a column of zeros where it is smaller."""
        first, second = rows[..., :half], rows[..., half:]
        return first, jnp.pad(second, [(0, 0)] * (rows.ndim - 1) + [(0, half - second.shape[-1])])

    def deal(self, dealer: Dealer, *weights: Mask):
        (wire,) = self.outputs(*(w.wire for w in weights))
        item = self.item(*(w.wire for w in weights))
        steps, blocks = wire.shape[:-2], wire.shape[-2]
        m = dealer.mask("r", item)
        first, second = dealer.both("own", Item((*steps, 2, blocks), WORDS))
        f0, s0, f1 = _order(first[..., 0, :]), _order(first[..., 1, :]), _order(second[..., 0, :])
        sigma = _places(f1, s0)
        s1 = _places(_order(f0), sigma)
        dealer.tell("last", _in_order(second[..., 1, :], s1), Item((*steps, blocks), WORDS))
        a, b = self._halves(self._rows([w.r for w in weights]), item.shape[-1])
        excess = _joined(_blocks(a, sigma) + _blocks(m, s1), _blocks(b, sigma) + _blocks(m, s0), wire)
        dealer.give("rest", -excess, wire.group)
        return (wire,)

    def offline(self, party: Party, material: Material, *weights: OpenedShare):
        own, zeroth = material["own"], party.index == 0
        a, b = self._halves(self._rows([w.value for w in weights]), material["r"].shape[-1])
        first, then = _order(own[..., 0, :]), _order(jnp.where(zeroth, own[..., 1, :], material["last"]))
        mine = _blocks(jnp.where(zeroth, a, b), first)
        kept = {name: material[name] for name in ("r", "rest")}
        return {"zeroth": zeroth, "mine": mine, "first": first, "then": then, **kept}

    def send(self, party: Party, material: Material, *weights: OpenedShare):
        return weights[0].wire.group.add(material["mine"], material["r"])

    def receive(self, material: Material, *weights):
        *inputs, c = weights
        (wire,) = self.outputs(*(w.wire for w in inputs))
        theirs = _blocks(wire.group.sub(c, material["mine"]), material["then"])
        nothing = jnp.zeros_like(theirs)
        a, b = (jnp.where(mine, nothing, theirs) for mine in (material["zeroth"], ~material["zeroth"]))
        return Share(wire, wire.group.add(material["rest"], _joined(a, b, wire)))

    def secrets(self, material: Material) -> Material:
        return {"orders": jnp.stack([material["first"], material["then"]], -2)}

    def coins(self, party: Party, *weights: OpenedShare) -> Material:
        return {}

    def ideal(self, coins: Coins, *weights: OpenedPlain):
        (wire,) = self.outputs(*(w.wire for w in weights))
        words = wire.group.cast(jax.lax.bitcast_convert_type(self._rows([w.y for w in weights]), jnp.uint64))
        return (_blocks(words, coins.order(wire.shape[:-1])),)


def _order(words: jax.Array) -> jax.Array:
    """The order that sorts the last axis; of an order its inverse. int32."""
    return jnp.argsort(words, axis=-1).astype(jnp.int32)


def _places(first: jax.Array, then: jax.Array) -> jax.Array:
    """first[then], along the last axis."""
    return jnp.take_along_axis(first, then, -1)


def _in_order(words: jax.Array, order: jax.Array) -> jax.Array:
    """The words put so that ``order`` sorts them."""
    return _places(jnp.sort(words, axis=-1), _order(order))


def _blocks(rows: jax.Array, order: jax.Array) -> jax.Array:
    """Rows (*steps, G, n) in ``order``, (*steps, G)."""
    return jnp.take_along_axis(rows, order[..., None], -2)


def _joined(first: jax.Array, second: jax.Array, wire: Shared) -> jax.Array:
    """Both halves as rows of ``wire``."""
    return jnp.concatenate([first, second], -1)[..., : wire.shape[-1]]

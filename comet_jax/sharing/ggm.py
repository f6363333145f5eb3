"""Seeds in a binary tree: all leaves from one root, or all but the active ones from a few seeds.

Each seed has 128 bits and gives those of its two children by a pseudorandom generator (Goldreich, Goldwasser and
Micali, J. ACM 1986). To *puncture* the tree at its active leaves is to give away its *co-path*, the seeds of the
largest subtrees that have none. All other leaves follow from them, while those that are active stay pseudorandom
(Boneh and Waters, ASIACRYPT 2013; Kiayias et al., CCS 2013; Boyle, Goldwasser and Ivan, PKC 2014): no seed that was
given is above one.

The generator is ChaCha20 with keys of 128 bits. Level and place of a node are in its nonce, and so is whether a seed
gives children or a leaf's elements.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from comet_jax.sharing.chacha import keystreams
from comet_jax.sharing.groups import Group
from comet_jax.sharing.packing import Item

ROOT = Item((4,), Group(32))
SEED = 128
_CHILDREN, _ELEMENTS = 0, 1
_STEP = 512


@dataclass(frozen=True)
class Tree:
    """A tree with that many leaves, one or more: filled from the left, all at the same depth.

    Nodes are numbered from the root, level by level. ``seeds`` are those of all nodes, uint32[nodes, 4]; ``active``
    is bool[leaves].
    """

    leaves: int

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Nodes at each level."""
        depth = (self.leaves - 1).bit_length()
        return tuple(-(-self.leaves >> (depth - level)) for level in range(depth + 1))

    @property
    def nodes(self) -> int:
        """Nodes in all."""
        return sum(self.widths)

    def marked(self, numbers: jax.Array) -> jax.Array:
        """The leaves that ``numbers`` name, bool[leaves]; numbers beyond the last name none."""
        return jnp.zeros(self.leaves, bool).at[numbers].set(True, mode="drop")

    def grown(self, root: jax.Array) -> jax.Array:
        """All seeds. ``root``: uint32[4]."""
        given = jnp.zeros((self.nodes, 4), jnp.uint32).at[0].set(root)
        return self._below(given, np.arange(self.nodes) == 0)

    def elements(self, seeds: jax.Array, size: int, group: Group) -> jax.Array:
        """``size`` elements of ``group`` for each leaf, [leaves, size]."""
        words, seeds = group.dtype.itemsize // 4, seeds[-self.leaves :]
        stream = keystreams(seeds, _nonces(len(seeds), len(self.widths) - 1, _ELEMENTS), size * words)
        if words == 1:
            return group.cast(stream)
        pairs = stream.reshape(-1, size, 2).astype(jnp.uint64)
        return group.cast(pairs[..., 0] | (pairs[..., 1] << np.uint64(32)))

    def most(self, active: int) -> int:
        """Seeds of the longest co-path that up to ``active`` active leaves have, wherever they are."""
        ordered = sorted(_gains(self.leaves).elements(), reverse=True)
        return 1 + sum(gain for gain in ordered[:active] if gain > 0)

    def punctured(self, seeds: jax.Array, active: jax.Array, count: int) -> jax.Array:
        """The co-path's seeds in the order of their nodes, then zeros, uint32[count, 4]."""
        places, numbers = self._places(active, count), jnp.arange(self.nodes, dtype=jnp.int32)
        chosen = jnp.full(count, self.nodes, jnp.int32).at[places].set(numbers, mode="drop")
        return seeds.at[chosen].get(mode="fill", fill_value=0)

    def regrown(self, given: jax.Array, active: jax.Array) -> jax.Array:
        """All seeds again from ``punctured``; of what has active leaves they mean nothing."""
        places = self._places(active, len(given))
        return self._below(given.at[places].get(mode="fill", fill_value=0), places < len(given))

    def _places(self, active: jax.Array, count: int) -> jax.Array:
        """The place of each node in the co-path, int32[nodes]; ``count`` for those that are not in it."""
        without = [~active]  # whether a node has no active leaf
        for width in self.widths[-2::-1]:
            pairs = jnp.pad(without[0], (0, 2 * width - len(without[0])), constant_values=True).reshape(-1, 2)
            without.insert(0, pairs[:, 0] & pairs[:, 1])
        largest = [without[0]]
        for above, here in zip(without, without[1:]):
            largest.append(here & ~jnp.repeat(above, 2)[: len(here)])
        here = jnp.concatenate(largest)
        return jnp.where(here, jnp.cumsum(here, dtype=jnp.int32) - 1, count)

    def _below(self, given: jax.Array, fixed: jax.Array | np.ndarray) -> jax.Array:
        """All seeds: those ``given`` where they are ``fixed``, else from that of the node above.

        In steps of as many nodes of one level: a program then has one generator whatever the depth, and compiling one
        takes half a second. What a step writes beyond its level is written again by the steps of the next.
        """
        size = min(_STEP, 1 << (self.leaves - 1).bit_length())
        starts = np.cumsum((0, *self.widths))
        steps = [
            (starts[level] + first, starts[level + 1] + 2 * first, level, first)
            for level, width in enumerate(self.widths[:-1])
            for first in range(0, width, size)
        ]
        room = lambda x: jnp.concatenate([x, jnp.zeros((2 * size, *x.shape[1:]), x.dtype)])
        given, fixed = room(given), room(jnp.asarray(fixed))

        def step(seeds, at):
            above, below, level, first = at
            found = _children(lax.dynamic_slice_in_dim(seeds, above, size), level, first)
            own, keep = (lax.dynamic_slice_in_dim(x, below, 2 * size) for x in (given, fixed))
            return lax.dynamic_update_slice_in_dim(seeds, jnp.where(keep[:, None], own, found), below, 0), None

        places = tuple(np.array(steps, np.int32).reshape(-1, 4).T)
        return lax.scan(step, given, places)[0][: self.nodes]


def packed(seeds: jax.Array, group: Group) -> jax.Array:
    """Seeds as they travel: their bits one after the other in elements of ``group``, [packed_size]."""
    return _recut(seeds.reshape(-1), 32, group)


def unpacked(elements: jax.Array, count: int, group: Group) -> jax.Array:
    """The inverse of ``packed``, uint32[count, 4]."""
    return _recut(elements, group.bits, Group(32))[: 4 * count].reshape(count, 4)


def packed_size(count: int, group: Group) -> int:
    """Elements of ``group`` that so many seeds take; the last is filled with zeros."""
    return -(-count * SEED // group.bits)


def _recut(x: jax.Array, bits: int, group: Group) -> jax.Array:
    """The bits of words of ``bits`` bits, lowest first, as elements of ``group``."""
    if bits == group.bits:
        return x
    count = -(-x.size * bits // group.bits)
    split = (x[:, None] >> np.arange(bits, dtype=x.dtype)) & x.dtype.type(1)
    split = jnp.pad(split.reshape(-1), (0, count * group.bits - x.size * bits))
    split = split.reshape(count, group.bits).astype(group.dtype)
    return (split << np.arange(group.bits, dtype=group.dtype)).sum(-1, dtype=group.dtype)


def _children(seeds: jax.Array, level: jax.Array, first: jax.Array) -> jax.Array:
    """The seeds of both children of each of some nodes of a level, from node ``first`` of it on, uint32[2 n, 4]."""
    return keystreams(seeds, _nonces(len(seeds), level, _CHILDREN, first), 8).reshape(-1, 4)


def _nonces(count: int, level: int | jax.Array, use: int, first: int | jax.Array = 0) -> jax.Array:
    """The nonces of so many nodes of a level, uint32[count, 3]."""
    each = jnp.arange(count) + first, jnp.full(count, level), jnp.full(count, use)
    return jnp.concatenate([x.astype(jnp.uint32)[:, None] for x in each], 1)


@cache
def _gains(leaves: int) -> Counter[int]:
    """How many seeds more a co-path may have with each further active leaf, and how often; the largest come first.

    Without one it is the root. The longest for n active leaves is that of both halves, of which each has some; as the
    gains of either only fall, the best division takes the largest gains of both. A half without one counts as a seed,
    so the first active leaf of all gains one more: with none, the two halves are one subtree.
    """
    if leaves == 1:
        return Counter({-1: 1})
    half = 1 << (leaves - 1).bit_length() - 1
    gains = _gains(half) + _gains(leaves - half)
    first = max(gains)
    return gains - Counter({first: 1}) + Counter({first + 1: 1})

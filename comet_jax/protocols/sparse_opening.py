"""Open a wire whole that is zero but in its slots: of what is masked by nothing but zero, the masks are given away.

With T tokens, G blocks of g neurons and C slots (slots.py), c = y + q is to be public for all T G blocks, where y is
zero in those that are not active. There c is the mask itself. Its two shares are not sent one by one: each party grows
its share from a root of its own (``sharing.ggm``) and gives away the seeds of the co-path, from which all of it
follows but the rows of active blocks.

So a wire that is opened like this is as good as one that ``Open`` has opened, and its product with a weight is dealt
whole, once for each token, where ``OutOfSlots`` needs it for every block apart, as its dealer must not know which are
active.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from comet_jax.protocols.protocol import Coins, Dealer, Material, Opening, Party, Protocol
from comet_jax.protocols.slots import NUMBERS
from comet_jax.sharing.ggm import ROOT, Tree, packed, packed_size, unpacked
from comet_jax.sharing.groups import Group, signed
from comet_jax.sharing.packing import Item
from comet_jax.sharing.wires import Disclosed, Mask, Opened, OpenedShare, Plain, Seen, Share, Shared, Wire


@dataclass(frozen=True)
class Spread(Protocol):
    """[x] of shape (C, g), slots -> [y] (T, G, g): x in the blocks of the slots, zero elsewhere; ``blocks`` is (T, G).

    Ideal functionality: y. Argument: each party moves rows of its share by numbers that both know. Nothing is dealt or
    sent.
    """

    blocks: tuple[int, int]

    def outputs(self, x: Shared, slots: Disclosed):
        return (Shared(_shape(x, slots, self.blocks), x.group),)

    def narrowed(self, bits: int, *inputs: Wire):
        return self, (bits, NUMBERS.bits)

    def deal(self, dealer: Dealer, x: Shared, slots: Disclosed):
        return self.outputs(x, slots)

    def online(self, party: Party, material: Material, x: Share, slots: Seen):
        return (_spread(x.x, slots.v, self.blocks),)

    def ideal(self, coins: Coins, x: Plain, slots: Seen):
        return (_spread(x.v, slots.v, self.blocks),)


@dataclass(frozen=True)
class OpenSparse(Opening, Protocol):
    """[x] of shape (C, g), slots -> <y> (T, G, g), opened whole at the low ``width`` bits: y is x in the blocks of the
    slots and zero elsewhere. ``blocks`` is (T, G).

    A party's message is its share of x plus the rows of its mask for the slots, then the co-path's seeds, in zeros up
    to the longest that C active blocks can have. Rows of dummies are masked by words that serve nothing else, and
    the receiver has no use for them.

    Ideal functionality: y, with a uniform c. Argument: no two slots have one number, so each row of the mask covers
    one row of x at most. Which seeds are sent is known from the slots, and what they are depends on the sender's root
    alone, which is fresh and serves one opening. They give the rows of blocks that are not active, where c - q = 0 is
    known anyway. Given them all, the active rows are still pseudorandom, as the co-path punctures the tree there
    (``sharing.ggm``); with 128-bit seeds, where other masks are the stream of a key of 256 bits: of the same generator.
    Cost: one round, ``width`` bits an element of x, and 128 bits for each of ``Tree(T G).most(C)`` seeds, which is
    about C log2(T G / C), in whole elements of ``width`` bits. Nothing is dealt. A party computes 2 T G blocks of
    ChaCha20 (for rows of up to 512 bits) ahead of time and as many online, the dealer twice as many.
    """

    width: int
    blocks: tuple[int, int]

    def outputs(self, x: Shared, slots: Disclosed):
        if x.group.xor or self.width > x.group.bits:
            raise ValueError(f"of {x} no {self.width} bits can be opened")
        return (Opened(_shape(x, slots, self.blocks), Group(self.width)),)

    @property
    def _tree(self) -> Tree:
        return Tree(self.blocks[0] * self.blocks[1])

    @property
    def _group(self) -> Group:
        return Group(self.width)

    def item(self, x: Shared, slots: Disclosed) -> Item:
        seeds = self._tree.most(slots.shape[0])
        return Item((int(np.prod(x.shape)) + packed_size(seeds, self._group),), self._group)

    def narrowed(self, bits: int, *inputs: Wire):
        return OpenSparse(bits, self.blocks), (bits, NUMBERS.bits)

    def deal(self, dealer: Dealer, x: Shared, slots: Disclosed):
        (wire,) = self.outputs(x, slots)
        dealer.mask("spare", Item(x.shape, self._group))
        tree, roots = self._tree, jnp.concatenate([root[None] for root in dealer.both("root", ROOT)])
        rows = jax.vmap(lambda root: tree.elements(tree.grown(root), x.shape[1], self._group))(roots)
        return (Mask(wire, self._group.add(*rows).reshape(wire.shape)),)

    def offline(self, party: Party, material: Material, *inputs) -> Material:
        """The seeds of all nodes of this party's tree, and its mask: a row for every block, and for every dummy."""
        seeds, spare = self._tree.grown(material["root"]), material["spare"]
        rows = self._tree.elements(seeds, spare.shape[1], self._group)
        return {"seeds": seeds, "rows": jnp.concatenate([rows, spare])}

    def mask(self, material: Material) -> jax.Array:
        return material["rows"][: self._tree.leaves].reshape(*self.blocks, -1)

    def send(self, party: Party, material: Material, x: Share, slots: Seen) -> jax.Array:
        masks = material["rows"].at[slots.v].get(mode="promise_in_bounds")
        rows = self._group.add(self._group.cast(x.x), masks)
        return jnp.concatenate([rows.reshape(-1), self._copath(material, slots)])

    def _copath(self, material: Material, slots: Seen) -> jax.Array:
        tree = self._tree
        return packed(tree.punctured(material["seeds"], tree.marked(slots.v), tree.most(len(slots.v))), self._group)

    def receive(self, material: Material, x: Share, slots: Seen, c: jax.Array) -> OpenedShare:
        (wire,) = self.outputs(x.wire, slots.wire)
        group, tree, active = self._group, self._tree, self._tree.marked(slots.v)
        rows, given = c[: x.x.size].reshape(x.x.shape), c[x.x.size :]
        theirs = unpacked(group.sub(given, self._copath(material, slots)), tree.most(len(slots.v)), group)
        grown = tree.elements(tree.regrown(theirs, active), x.x.shape[1], group).reshape(wire.shape)
        own, here = self.mask(material), active.reshape(*self.blocks, 1)
        value = jnp.where(here, _spread(rows, slots.v, self.blocks), group.add(own, grown))
        return OpenedShare(wire, value, own)

    def coins(self, party: Party, x: Share, slots: Seen) -> Material:
        return {}

    def ideal(self, coins: Coins, x: Plain, slots: Seen):
        (wire,) = self.outputs(x.wire, slots.wire)
        y = signed(wire.group.cast(x.v), wire.group.bits)
        return (_spread(y, slots.v, self.blocks), coins.opened(wire))


def _shape(x: Shared, slots: Disclosed, blocks: tuple[int, int]) -> tuple[int, int, int]:
    tokens, count = blocks
    if x.shape[:1] != slots.shape or len(x.shape) != 2 or slots.below != tokens * count + slots.shape[0]:
        raise ValueError(f"{x} has no rows for slots {slots} of {tokens} tokens with {count} blocks each")
    return (tokens, count, x.shape[1])


def _spread(rows: jax.Array, numbers: jax.Array, blocks: tuple[int, int]) -> jax.Array:
    """Each row at the place of its number, (T, G, g); dummies' are dropped."""
    whole = jnp.zeros((blocks[0] * blocks[1], rows.shape[1]), rows.dtype)
    return whole.at[numbers].set(rows, mode="drop").reshape(*blocks, -1)

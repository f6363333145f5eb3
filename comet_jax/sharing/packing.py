"""Bit packing: many arrays of odd bit widths as one vector of 32-bit words, with no bit wasted inside.

A width is split into powers of two (17 = 16 + 1); all pieces of one size, from every array, share words. Only the
last word of each size is padded, so n bits cost n/32 words plus at most five. Openings and dealt material travel
in this form, so that the bytes on a wire are the bits that the protocol's analysis counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from comet_jax.sharing.groups import Group

SIZES = (32, 16, 8, 4, 2, 1)


@dataclass(frozen=True, eq=False)
class Where:
    """A public choice of the elements of an array that matter, e.g. the unmasked scores of causal attention.

    ``mask`` is a concrete boolean array of the array's shape; elements outside it are zero and never travel.
    """

    mask: np.ndarray

    def __eq__(self, other):
        return isinstance(other, Where) and np.array_equal(self.mask, other.mask)

    def __hash__(self):
        return hash((self.mask.shape, self.mask.tobytes()))

    def __repr__(self):
        # Programs are compared by what they print, so the text tells two masks of one count apart.
        return f"Where({self.count}/{self.mask.size}, {sha256(self.mask.tobytes()).hexdigest()[:16]})"

    @cached_property
    def count(self) -> int:
        """How many elements are kept."""
        return int(self.mask.sum())

    @cached_property
    def kept(self) -> np.ndarray:
        """Flat positions of the kept elements, int32[count]."""
        return np.flatnonzero(self.mask).astype(np.int32)

    @cached_property
    def slots(self) -> np.ndarray:
        """For each flat position its place among the kept, or ``count`` for none, int32[size]."""
        slots = np.full(self.mask.size, self.count, np.int32)
        slots[self.kept] = np.arange(self.count, dtype=np.int32)
        return slots


@dataclass(frozen=True)
class Item:
    """One array in a packed vector: its shape, its group (for the width) and which elements travel."""

    shape: tuple[int, ...]
    group: Group
    where: Where | None = None

    def __post_init__(self):
        if self.where is not None and self.where.mask.shape != self.shape:
            raise ValueError(f"a mask of shape {self.where.mask.shape} for an array of shape {self.shape}")

    @property
    def count(self) -> int:
        """Elements that travel."""
        return int(np.prod(self.shape)) if self.where is None else self.where.count

    @property
    def bits(self) -> int:
        """Bits that travel, without padding."""
        return self.count * self.group.bits


@dataclass(frozen=True)
class Layout:
    """Where each item's bits lie in a vector of uint32 words.

    All items of one width are one block, and only blocks are cut into pieces: the operations in a compiled program
    are as many as there are widths, not items.
    """

    items: tuple[Item, ...]

    @cached_property
    def _blocks(self) -> dict[int, tuple[int, ...]]:
        """Width in bits -> the items of that width, in order."""
        blocks: dict[int, tuple[int, ...]] = {}
        for index, item in enumerate(self.items):
            blocks[item.group.bits] = (*blocks.get(item.group.bits, ()), index)
        return blocks

    @cached_property
    def _pieces(self) -> dict[int, list[tuple[int, int, int]]]:
        """Size -> (width of the block, lowest bit, count) of the pieces of that size, in order."""
        pieces: dict[int, list[tuple[int, int, int]]] = {size: [] for size in SIZES}
        for bits, members in self._blocks.items():
            count, low = sum(self.items[i].count for i in members), 0
            for size in SIZES:
                while count and bits - low >= size:
                    pieces[size].append((bits, low, count))
                    low += size
        return {size: found for size, found in pieces.items() if found}

    @cached_property
    def _words(self) -> dict[int, int]:
        return {s: -(-sum(n for _, _, n in p) * s // 32) for s, p in self._pieces.items()}

    @property
    def words(self) -> int:
        """Length of the packed vector."""
        return sum(self._words.values())

    @property
    def bytes(self) -> int:
        """Bytes of the packed vector."""
        return 4 * self.words

    @cached_property
    def starts(self) -> tuple[np.int32, ...]:
        """Where each item begins in its block."""
        starts = [np.int32(0)] * len(self.items)
        for members in self._blocks.values():
            ends = np.cumsum([self.items[i].count for i in members], dtype=np.int32)
            for i, start in zip(members[1:], ends):
                starts[i] = start
        return tuple(starts)

    def pack(self, arrays: Sequence[jax.Array]) -> jax.Array:
        """The arrays, each of its item's shape and group, as uint32[words]."""
        flat = [_compact(a, item) for a, item in zip(arrays, self.items, strict=True)]
        blocks = {bits: _joined([flat[i] for i in members]) for bits, members in self._blocks.items()}
        out = []
        for size, pieces in self._pieces.items():
            low_bits = np.uint32((1 << size) - 1)
            parts = []
            for bits, low, _ in pieces:
                part = blocks[bits] >> blocks[bits].dtype.type(low) if low else blocks[bits]
                parts.append(part.astype(jnp.uint32) & low_bits if low + size < bits else part.astype(jnp.uint32))
            block = _joined(parts)
            if size < 32:
                block = jnp.pad(block, (0, self._words[size] * 32 // size - block.size))
                # Element e goes to word e mod W: rows stay contiguous, so this is a few vector shifts.
                shifts = np.arange(0, 32, size, dtype=np.uint32)[:, None]
                block = (block.reshape(32 // size, -1) << shifts).sum(0, dtype=jnp.uint32)
            out.append(block)
        return _joined(out) if out else jnp.zeros(0, jnp.uint32)

    def unpack(self, words: jax.Array) -> list[jax.Array]:
        """The inverse of ``pack``; elements that do not travel come back as zero."""
        return self.cut(self.blocks(words))

    def blocks(self, words: jax.Array) -> dict[int, jax.Array]:
        """The first half of ``unpack``: width -> all elements of that width, in the order of their items."""
        if words.shape != (self.words,):
            raise ValueError(f"{words.shape} packed words where {self.words} were expected")
        blocks: dict[int, jax.Array] = {}
        start = 0
        for size, pieces in self._pieces.items():
            count = self._words[size]
            block = words[start : start + count]
            start += count
            if size < 32:
                shifts = np.arange(0, 32, size, dtype=np.uint32)[:, None]
                block = ((block[None] >> shifts) & np.uint32((1 << size) - 1)).reshape(-1)
            at = 0
            for bits, low, n in pieces:
                dtype = Group(bits).dtype
                part = block[at : at + n].astype(dtype)
                blocks[bits] = blocks[bits] | (part << dtype.type(low)) if low else part
                at += n
        return blocks

    def cut(self, blocks: Mapping[int, jax.Array], starts: Sequence[jax.Array] | None = None) -> list[jax.Array]:
        """The second half of ``unpack``: each item's array.

        ``starts``: those of the layout, as arguments of the compiled program. Cutting many items is then one piece of
        machine code for each shape; with constant places it is one for each item, 12 ms of compilation.
        """
        return [_expand(self._flat(i, blocks, starts), item) for i, item in enumerate(self.items)]

    def _flat(self, i: int, blocks: Mapping[int, jax.Array], starts: Sequence[jax.Array] | None) -> jax.Array | None:
        block, count, start = blocks.get(self.items[i].group.bits), self.items[i].count, self.starts[i]
        if block is None or block.size == count:
            return block
        return block[start : start + count] if starts is None else lax.dynamic_slice(block, (starts[i],), (count,))


def _joined(parts: Sequence[jax.Array]) -> jax.Array:
    # The barrier keeps XLA from fusing the concatenation into what reads it, element by element: several times slower.
    return lax.optimization_barrier(jnp.concatenate(parts)) if len(parts) > 1 else parts[0]


def _compact(array: jax.Array, item: Item) -> jax.Array:
    if array.shape != item.shape or array.dtype != item.group.dtype:
        raise ValueError(f"{array.dtype}{array.shape} where {item.group.dtype}{item.shape} was expected")
    flat = array.reshape(-1)
    return flat if item.where is None else flat[item.where.kept]


def _expand(flat: jax.Array | None, item: Item) -> jax.Array:
    if flat is None or item.count == 0:
        return jnp.zeros(item.shape, item.group.dtype)
    if item.where is not None:
        flat = jnp.concatenate([flat, jnp.zeros(1, flat.dtype)])[item.where.slots]
    return flat.reshape(item.shape)

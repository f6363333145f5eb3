"""Correlated randomness as it travels (flat words) and as it is used (named arrays by operation).

A tree has one entry an operation: the arrays of a protocol by name, or for a scan the tree of its body with one more,
first axis for the steps. Packing is compiled apart from the programs that use it: fused into them, each use of an
array would repeat its unpacking, and compilation would take several times longer.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from comet_jax.ir.program import Supply
from comet_jax.sharing.packing import Layout

Tree = dict[int, Any]
Kind = Literal["masks", "dealt"]
KINDS: tuple[Kind, Kind] = ("masks", "dealt")
Blocks = tuple[dict[int, Any], dict[int, Any]]
Starts = tuple[tuple[Any, ...], dict[int, Any]]


def starts(supply: Supply, kind: Kind) -> Starts:
    """Where each array begins in its block, as ``cut`` takes it."""
    return _layout(supply, kind).starts, {op: starts(body, kind) for op, (body, _) in supply.scans.items()}


def blocks(supply: Supply, kind: Kind, words: jax.Array) -> Blocks:
    """All masks, or all dealt arrays, by width, from uint32 words as many as ``supply`` says."""
    layout = _layout(supply, kind)
    own, at = layout.blocks(words[: layout.words]), layout.words
    inner = {}
    for op, (body, length) in supply.scans.items():
        size = body.mask_words if kind == "masks" else body.dealt_words
        steps = words[at : at + length * size].reshape(length, size)
        inner[op] = jax.vmap(lambda w, body=body: blocks(body, kind, w))(steps)
        at += length * size
    if at != words.size:
        raise ValueError(f"{words.size} words of {kind} where {at} were expected")
    return own, inner


def cut(supply: Supply, kind: Kind, found: Blocks, places: Starts | None = None) -> Tree:
    """The tree of what ``blocks`` found. ``places``: ``starts`` of the same, as arguments of the compiled program."""
    own, inner = found
    own_places, inner_places = places or (None, {})
    keys = supply.masks if kind == "masks" else supply.dealt
    tree: Tree = {}
    for (op, name), array in zip(keys, _layout(supply, kind).cut(own, own_places)):
        tree.setdefault(op, {})[name] = array
    for op, (body, _) in supply.scans.items():
        tree[op] = jax.vmap(lambda b, op=op, body=body: cut(body, kind, b, inner_places.get(op)))(inner[op])
    return tree


def unpack(supply: Supply, kind: Kind, words: jax.Array) -> Tree:
    """The tree of all masks, or of all dealt arrays, from their words, in one program."""
    return cut(supply, kind, blocks(supply, kind, words))


def _layout(supply: Supply, kind: Kind) -> Layout:
    return supply.mask_layout if kind == "masks" else supply.dealt_layout


def pack_dealt(supply: Supply, tree: Mapping[int, Any]) -> jax.Array:
    """The words of a tree of dealt arrays."""
    parts = [supply.dealt_layout.pack([tree[op][name] for op, name in supply.dealt])]
    for op, (body, _) in supply.scans.items():
        parts.append(jax.vmap(lambda t, body=body: pack_dealt(body, t))(tree[op]).reshape(-1))
    return jax.lax.optimization_barrier(jnp.concatenate(parts))

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

Tree = dict[int, Any]
Kind = Literal["masks", "dealt"]


def unpack(supply: Supply, kind: Kind, words: jax.Array) -> Tree:
    """The tree of all masks, or of all dealt arrays, from uint32 words as many as ``supply`` says."""
    layout = supply.mask_layout if kind == "masks" else supply.dealt_layout
    keys = supply.masks if kind == "masks" else supply.dealt
    tree: Tree = {}
    for (op, name), array in zip(keys, layout.unpack(words[: layout.words])):
        tree.setdefault(op, {})[name] = array
    at = layout.words
    for op, (body, length) in supply.scans.items():
        size = body.mask_words if kind == "masks" else body.dealt_words
        steps = words[at : at + length * size].reshape(length, size)
        tree[op] = jax.vmap(lambda w, body=body: unpack(body, kind, w))(steps)
        at += length * size
    if at != words.size:
        raise ValueError(f"{words.size} words of {kind} where {at} were expected")
    return tree


def pack_dealt(supply: Supply, tree: Mapping[int, Any]) -> jax.Array:
    """The words of a tree of dealt arrays."""
    parts = [supply.dealt_layout.pack([tree[op][name] for op, name in supply.dealt])]
    for op, (body, _) in supply.scans.items():
        parts.append(jax.vmap(lambda t, body=body: pack_dealt(body, t))(tree[op]).reshape(-1))
    return jax.lax.optimization_barrier(jnp.concatenate(parts))

"""What hides an array: which of a local step's inputs it may depend on, and which masks still cover it entirely.

A mask covers an array if the array is f + mask (mod 2^width), or f xor mask, element by element, where f does not
depend on that mask: then the array's low ``width`` bits are uniform and independent of f. Some elements of the mask may
be left out, so rows of it, taken by numbers of which no two are equal, cover as well. Few operations are known to keep
a cover; every other one is taken to mix all its inputs and to uncover them all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from comet_jax.ir.jaxprs import Const, Graph, Node, Value


@dataclass(frozen=True)
class Word:
    """An array: the inputs it may depend on, how many low bits may be set, the masks that cover it, if it is zero.

    ``distinct``: it holds numbers of which no two are equal.
    """

    leaves: frozenset[str]
    bits: int
    masks: frozenset[str] = frozenset()
    zero: bool = False
    distinct: bool = False


def follow(graph: Graph, inputs: Sequence[Word], widths: Mapping[str, int]) -> list[Word]:
    """The words of the graph's outputs, given those of its inputs. ``widths``: bits of each mask."""
    env: dict[Value, Word] = dict(zip(graph.inputs, inputs, strict=True))
    read = lambda v: _constant(v) if isinstance(v, Const) else env[v]
    for node in graph.nodes:
        words = [read(v) for v in node.inputs]
        env.update({out: _step(node, out, words, widths) for out in node.outputs})
    return [read(v) for v in graph.outputs]


def _constant(v: Const) -> Word:
    whole = v.dtype.kind in "bu" and v.value.size > 0
    return Word(frozenset(), int(v.value.max()).bit_length() if whole else _size(v), zero=not v.value.any())


def _size(v: Value) -> int:
    return 8 * v.dtype.itemsize


def _step(node: Node, out: Value, words: list[Word], widths: Mapping[str, int]) -> Word:
    mixed = Word(frozenset().union(*(w.leaves for w in words)), _size(out))
    first = words[0] if words else mixed
    if node.op in ("reshape", "broadcast_in_dim", "convert_element_type"):
        bits = min(first.bits, _size(out)) if out.dtype.kind == "u" else _size(out)
        kept = first.masks if node.op == "reshape" else frozenset()
        if node.op == "convert_element_type" and out.dtype.kind == "u":
            kept = frozenset(m for m in first.masks if widths[m] <= _size(out))
        same = first.distinct and node.inputs[0].shape == out.shape[: len(node.inputs[0].shape)]
        whole = out.dtype.kind in "iu" and np.prod(out.shape) == np.prod(node.inputs[0].shape)
        return replace(mixed, bits=bits, masks=kept, zero=first.zero, distinct=same and bool(whole))
    if node.op == "gather" and words[1].distinct and _takes_rows(node):
        return replace(mixed, bits=first.bits, masks=first.masks - words[1].leaves)
    if node.op in ("add", "sub", "xor") and all(v.shape in ((), out.shape) for v in node.inputs):
        terms = [(0, 1), (1, 0)] if node.op != "sub" else [(0, 1)]
        masks = (m for i, j in terms for m in words[i].masks - words[j].leaves if node.inputs[i].shape == out.shape)
        bits = max(w.bits for w in words) if node.op == "xor" else _size(out)
        return replace(mixed, bits=bits, masks=frozenset(masks))
    if node.op == "and":
        kept = frozenset(m for i, j in ((0, 1), (1, 0)) for m in words[i].masks if _spares(node.inputs[j], widths[m]))
        return replace(mixed, bits=min(w.bits for w in words), masks=kept)
    if node.op == "shift_right_logical":
        return replace(mixed, bits=first.bits)
    return mixed


def _spares(v: Value, width: int) -> bool:
    """Whether ``and`` with v keeps the low ``width`` bits of every element."""
    low = np.uint64((1 << width) - 1)
    return isinstance(v, Const) and v.dtype.kind == "u" and bool(np.all(v.value.astype(np.uint64) & low == low))


def _takes_rows(node: Node) -> bool:
    """Whether a ``gather`` takes whole rows of its first input, one for each number."""
    array, numbers = node.inputs
    dims = node.params["dimension_numbers"]
    return (
        numbers.shape[-1:] == (1,)
        and tuple(dims.start_index_map) == tuple(dims.collapsed_slice_dims) == (0,)
        and not dims.operand_batching_dims
        and tuple(node.params["slice_sizes"]) == (1, *array.shape[1:])
        and "IN_BOUNDS" in str(node.params["mode"])
    )

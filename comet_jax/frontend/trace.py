"""Tracing a user's function: its graph, the names of its inputs, and a refusal of what it captured.

An array that a function closes over would become a constant of the program that both parties hold. Large or real
ones are weights that were forgotten, so they are refused; masks, indices and scalars made inside are fine.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from comet_jax.errors import CapturedWeightsError, SecretLeakError
from comet_jax.ir.jaxprs import Const, Graph, Node, flatten
from comet_jax.passes.fuse import fuse

LARGEST_CONSTANT = 4096


@dataclass(frozen=True, eq=False)
class Traced:
    """A function's fused graph on flat arrays, and what its arrays are."""

    graph: Graph
    names: tuple[str, ...]
    out_tree: Any


def trace(fn: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Traced:
    """Trace ``fn`` on a tree of arrays or of things with a shape and a dtype.

    Raises ``CapturedWeightsError`` for weights in the closure, ``SecretLeakError`` for Python control flow on values.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path((args, kwargs))
    avals = [jax.ShapeDtypeStruct(np.shape(x), _dtype(x)) for _, x in leaves]
    out_tree = None

    def flat(*arrays):
        nonlocal out_tree
        a, k = jax.tree_util.tree_unflatten(tree, arrays)
        out, out_tree = jax.tree_util.tree_flatten(fn(*a, **k))
        return out

    try:
        graph = flatten(flat, *avals)
    except (jax.errors.TracerBoolConversionError, jax.errors.TracerIntegerConversionError) as e:
        raise SecretLeakError(_told(e, "decided a Python `if`, `while` or index by an array")) from e
    except jax.errors.TracerArrayConversionError as e:
        raise SecretLeakError(_told(e, "turned an array into a NumPy array")) from e
    except jax.errors.ConcretizationTypeError as e:
        raise SecretLeakError(_told(e, "asked for the value of an array")) from e
    _refuse_captured(graph)
    _refuse_effects(graph)
    return Traced(fuse(graph), tuple(_name(path) for path, _ in leaves), out_tree)


def _dtype(x: Any) -> Any:
    return x.dtype if hasattr(x, "dtype") else jax.numpy.result_type(x)


def _name(path: tuple) -> str:
    """The path of an input without the argument's number: params/block0/qkv/kernel."""
    parts = [str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path]
    kind, *rest = parts
    return "/".join(rest if kind == "1" or len(rest) < 2 else rest[1:]) if kind in "01" else "/".join(parts)


def _told(error: Exception, what: str) -> str:
    import traceback

    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_library(f.filename)]
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return (
        f"the function {what}{place}. Inside a private function no value is known to the program: use jnp.where, "
        "lax.select or lax.cond, which choose without showing."
    )


def _is_library(path: str) -> bool:
    return any(f"/{name}/" in path for name in ("jax", "jaxlib", "flax")) or path.startswith("<")


def _all_nodes(graph: Graph):
    for node in graph.nodes:
        yield node
        if isinstance(node.params.get("body"), Graph):
            yield from _all_nodes(node.params["body"])


def _refuse_captured(graph: Graph) -> None:
    for node in _all_nodes(graph):
        for v in node.inputs:
            if isinstance(v, Const) and v.value.size > 1 and _is_weight(v):
                _refuse(v, node)
    for v in graph.outputs:
        if isinstance(v, Const) and v.value.size > 1 and _is_weight(v):
            _refuse(v, None)


def _is_weight(v: Const) -> bool:
    return v.value.size > LARGEST_CONSTANT or (v.dtype.kind in "fV" and len(np.unique(v.value)) > 2)


def _refuse(v: Const, node: Node | None) -> None:
    place = f", used by `{node.op}` at {node.where or 'an unknown place'}" if node else ""
    raise CapturedWeightsError(
        f"the function captured an array {v.dtype}{list(v.shape)}{place}. It would be baked into the program that both "
        "parties hold, in the clear. Pass it as an argument: shared, if it is secret, or as it is, if it is public."
    )


def _refuse_effects(graph: Graph) -> None:
    for node in _all_nodes(graph):
        if node.effects:
            raise SecretLeakError(
                f"`{node.op}` at {node.where or 'an unknown place'} has an effect outside the program (printing, a "
                "callback), which could show secrets. Remove it, or use it outside the private function."
            )

"""Tracing a user's function to a graph, and a refusal of what it captured or would show.

An array that a function closes over would become a constant of the program that both parties hold. Large or real
ones are weights that were forgotten, so they are refused; masks, indices and scalars made inside are fine.
"""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from comet_jax.errors import CapturedWeightsError, SecretLeakError
from comet_jax.ir.jaxprs import Const, Graph, Node, flatten, is_key
from comet_jax.passes.fuse import fuse
from comet_jax.passes.lower import Input, Lowered, lower
from comet_jax.policy import Policy

LARGEST_CONSTANT = 4096


@dataclass(frozen=True, eq=False)
class Traced:
    """A function's fused graph on flat arrays, who knows each of them, and the tree of its results."""

    graph: Graph
    inputs: Sequence[Input]
    out_tree: Any
    policy: Policy

    def as_text(self) -> str:
        """The graph, for people."""
        return str(self.graph)

    def lower(self, call: int = 0) -> Lowered:
        """The next stage: the two-party program, of the first or a later ``call`` of an epoch."""
        return lower(self.graph, self.inputs, self.policy, call)


def trace(fn: Callable[..., Any], avals: Sequence[Any], inputs: Sequence[Input], policy: Policy) -> Traced:
    """Trace ``fn`` on arrays of ``avals``.

    Raises ``CapturedWeightsError`` for weights in the closure, ``SecretLeakError`` for Python control flow on values
    and for effects such as printing.
    """
    out_tree = None

    def flat(*arrays):
        nonlocal out_tree
        out, out_tree = jax.tree_util.tree_flatten(fn(*arrays))
        return out

    try:
        graph = flatten(flat, *avals)
    except (jax.errors.TracerBoolConversionError, jax.errors.TracerIntegerConversionError) as e:
        raise SecretLeakError(_told(e, "decided a Python `if`, `while` or index by an array")) from e
    except jax.errors.TracerArrayConversionError as e:
        raise SecretLeakError(_told(e, "turned an array into a NumPy array")) from e
    except jax.errors.ConcretizationTypeError as e:
        raise SecretLeakError(_told(e, "asked for the value of an array")) from e
    _refuse_effects(graph)
    _refuse_captured(graph)
    return Traced(fuse(graph), inputs, out_tree, policy)


def _told(error: Exception, what: str) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_library(f.filename)]
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return (
        f"the function {what}{place}. Inside a private function no value is known to the program: use jnp.where, "
        "lax.select or lax.cond, which choose without showing."
    )


def _is_library(path: str) -> bool:
    return any(f"/{name}/" in path for name in ("jax", "jaxlib", "flax", "numpy", "comet_jax")) or path.startswith("<")


def _refuse_captured(graph: Graph) -> None:
    for node in graph.every_node():
        for v in (*node.inputs, *(v for inner in node.graphs for v in inner.outputs)):
            if isinstance(v, Const) and is_key(v.value):
                raise CapturedWeightsError(
                    f"the function captured a random key, used by `{node.op}` at {node.where or 'an unknown place'}: "
                    "every run would draw the same numbers. Pass it as an argument; if it is that of a Flax module in "
                    "training, call the module's eval() first."
                )
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
    for node in graph.every_node():
        if node.effects:
            raise SecretLeakError(
                f"`{node.op}` at {node.where or 'an unknown place'} has an effect outside the program (printing, a "
                "callback), which could show secrets. Remove it, or use it outside the private function."
            )

"""Computing the same thing once: people write ``x - x.mean()`` twice, and a pattern has it once."""

from dataclasses import replace

from comet_jax.ir.jaxprs import Const, Graph, Node, Value, is_key


def without_repeats(graph: Graph) -> Graph:
    """``graph`` in which of several nodes with one operation, equal parameters and the same inputs the first stays."""
    kept: list[Node] = []
    first: dict[tuple, list[Node]] = {}
    same: dict[Value, Value] = {}
    for node in graph.nodes:
        node = replace(node, inputs=tuple(same.get(v, v) for v in node.inputs))
        alike = first.setdefault((node.op, *map(_identity, node.inputs)), [])
        found = next((n for n in alike if not node.effects and _equal(n.params, node.params)), None)
        if found:
            same.update(zip(node.outputs, found.outputs))
        else:
            kept.append(node)
            alike.append(node)
    return replace(graph, nodes=tuple(kept), outputs=tuple(same.get(v, v) for v in graph.outputs))


def _identity(v: Value):
    return (v.shape, str(v.dtype), v.value.tobytes()) if isinstance(v, Const) and not is_key(v.value) else v


def _equal(a: dict, b: dict) -> bool:
    try:
        return bool(a == b)
    except (TypeError, ValueError):
        return False

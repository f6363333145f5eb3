"""How large a function's values get: measured on examples, in the clear, and found again in a later trace.

A value is known by its place: the number of its node in the graph, bodies of loops and branches included. The digest
of a graph's operations says whether a later trace is the same function; shapes may differ.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Any

import numpy as np

from comet_jax.errors import CometError
from comet_jax.ir.jaxprs import Const, Graph, Node, Value, is_key
from comet_jax.policy import Range, Ranges
from comet_jax.rules.arithmetic import is_finite

# Steps that hand their input on at the scale it has, or at a public multiple of it.
SAME_SCALE = {
    *("add", "add_any", "sub", "neg", "mul", "div", "reduce_sum", "select_n", "copy", "convert_element_type", "gather"),
    *("reshape", "squeeze", "transpose", "broadcast_in_dim", "slice", "split", "rev", "pad", "concatenate", "stack"),
    *("unstack", "dynamic_slice", "optimization_barrier", "reduce_precision", "log_softmax"),
}

# Steps that take the difference of their inputs, or of the cases of a choice.
DIFFERENCES = {"ge", "gt", "le", "lt", "eq", "ne", "max", "min", "select_n"}


def values(graph: Graph) -> Iterator[Value]:
    """Every value of a graph that is not a constant, in order."""
    yield from graph.inputs
    for node in graph.nodes:
        yield from node.outputs
        for inner in node.graphs:
            yield from values(inner)


def digest(graph: Graph) -> str:
    """What a graph does, whatever the shapes."""

    def text(g: Graph) -> str:
        number = {v: i for i, v in enumerate(values(g))}
        reads = lambda n: " ".join("c" if isinstance(v, Const) else str(number.get(v, "o")) for v in n.inputs)
        inner = lambda n: "".join(f"{{{text(i)}}}" for i in n.graphs)
        return ";".join(f"{n.op} {reads(n)}{inner(n)}" for n in g.nodes)

    return sha256(text(graph).encode()).hexdigest()[:16]


def bind(ranges: Ranges | None, graph: Graph) -> dict[Value, Range]:
    """The ranges of a graph's values. Raises ``CometError`` where ``ranges`` are of other functions, and required."""
    if ranges is None:
        return {}
    found = dict(ranges.graphs).get(digest(graph))
    every = list(values(graph))
    if found is None or len(found) != len(every):
        if not ranges.required:
            return {}
        raise CometError(
            "the policy's ranges were calibrated for another function, or for shapes that make another graph of it: "
            "give `cj.calibrate` an example like this call as well"
        )
    return {v: r for v, r in zip(every, found) if r is not None}


def owned_by(owner: str, graph: Graph, owners: Sequence[str | None]) -> set[Value]:
    """The values that depend on inputs of ``owner`` alone: nobody needs to know how large they are."""
    found: set[Value] = set()

    def mark(g: Graph, known: dict[Value, bool]) -> None:
        read = lambda v: isinstance(v, Const) or known[v]
        for node in g.nodes:
            own = all(map(read, node.inputs)) and not all(isinstance(v, Const) for v in node.inputs)
            known.update(dict.fromkeys(node.outputs, own))
            for inner in node.graphs:
                # In a loop, what is handed on may be mixed with others: only whole arrays of weights stay apart.
                consts, carries = node.params.get("num_consts", 0), node.params.get("num_carry", len(inner.inputs))
                inside = [read(v) and not consts <= i < consts + carries for i, v in enumerate(node.inputs)]
                if len(inside) == len(inner.inputs):
                    mark(inner, dict(zip(inner.inputs, inside)))
                else:
                    mark(inner, dict.fromkeys(inner.inputs, False))
        found.update(v for v, own in known.items() if own)

    mark(graph, {v: o == owner for v, o in zip(graph.inputs, owners, strict=True)})
    return found


class Observed:
    """The magnitudes that values took, over any number of runs of a graph and of others that differ in shapes."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.low: dict[Value, float] = {}
        self.high: dict[Value, float] = {}

    def run(self, graph: Graph, arrays: Sequence[Any]) -> list[Any]:
        """Evaluate a graph of the same digest in the clear, and note what is seen."""
        place = dict(zip(values(graph), values(self.graph), strict=True))
        return _run(graph, arrays, lambda v, x: self._note(place[v], x))

    def _note(self, v: Value, x: Any) -> None:
        if is_key(x) or v.dtype.kind not in "fViu":
            return
        found = np.abs(_numbers(x))
        found = found[found > 0]
        if found.size:
            self.low[v] = min(self.low.get(v, math.inf), float(found.min()))
            self.high[v] = max(self.high.get(v, 0.0), float(found.max()))

    def ranges(self, margin: float, weights: set[Value]) -> dict[Value, Range]:
        """Powers of two around what was seen, ``margin`` times wider either way; none for ``weights``.

        What was always zero counts as the least power.
        """
        up = lambda x: 2.0 ** math.ceil(math.log2(x))
        kept = [v for v in values(self.graph) if v not in weights]
        high = {v: up(self.high.get(v, 2.0**-8) * margin) for v in kept}
        room = dict(high)
        _make_room(self.graph, room, high)
        low = {v: min(2.0 ** math.floor(math.log2(self.low.get(v, high[v]) / margin)), high[v]) for v in kept}
        return {v: Range(low[v], high[v], room[v]) for v in kept}


def _numbers(x: Any) -> np.ndarray:
    """What is a number in x: not what stands for minus infinity."""
    x = np.asarray(x).reshape(-1)
    kept = x[is_finite(x)].astype(np.float64)
    return kept[np.isfinite(kept)]


def _run(graph: Graph, arrays: Sequence[Any], note: Callable[[Value, Any], None]) -> list[Any]:
    env: dict[Value, Any] = dict(zip(graph.inputs, arrays, strict=True))
    for v, x in env.items():
        note(v, x)
    read = lambda v: v.value if isinstance(v, Const) else env[v]
    for node in graph.nodes:
        xs = [read(v) for v in node.inputs]
        if node.op == "layer_norm_core":  # it takes its input without the mean, which may be larger than the input
            note(node.inputs[0], np.asarray(xs[0]) - np.asarray(xs[0]).mean(-1, keepdims=True))
        out = _INSIDE[node.op](node, xs, note) if node.op in _INSIDE else node.evaluate(*xs)
        for v, x in zip(node.outputs, out, strict=True):
            note(v, x)
            env[v] = x
    return [read(v) for v in graph.outputs]


def _scan(node: Node, arrays: list[Any], note: Callable[[Value, Any], None]) -> list[Any]:
    p = node.params
    first, last = p["num_consts"], p["num_consts"] + p["num_carry"]
    fixed, carry, stacked = arrays[:first], list(arrays[first:last]), arrays[last:]
    steps: list[list[Any]] = []
    for k in range(p["length"])[:: -1 if p.get("reverse") else 1]:
        out = _run(p["body"], [*fixed, *carry, *(x[k] for x in stacked)], note)
        carry = out[: p["num_carry"]]
        steps.append(out[p["num_carry"] :])
    if not steps:
        return node.evaluate(*arrays)
    if p.get("reverse"):
        steps.reverse()
    return [*carry, *(np.stack([np.asarray(s[i]) for s in steps]) for i in range(len(steps[0])))]


def _while(node: Node, arrays: list[Any], note: Callable[[Value, Any], None]) -> list[Any]:
    p = node.params
    tested, fixed = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    carry = list(arrays[fixed:])
    while bool(_run(p["test"], [*arrays[:tested], *carry], note)[0]):
        carry = _run(p["body"], [*arrays[tested:fixed], *carry], note)
    return carry


def _cond(node: Node, arrays: list[Any], note: Callable[[Value, Any], None]) -> list[Any]:
    # By a secret all branches are computed: the values in each count.
    found = [_run(branch, arrays[1:], note) for branch in node.graphs]
    return found[int(np.clip(arrays[0], 0, len(found) - 1))]


_INSIDE = {"scan": _scan, "while": _while, "cond": _cond}


def _make_room(graph: Graph, room: dict[Value, float], high: dict[Value, float]) -> None:
    """Raise what goes into sums to the room that the sums need, from the last node backwards. ``high``: magnitudes."""

    def need(v: Value, size: float) -> bool:
        if v not in room or room[v] >= size:
            return False
        room[v] = size
        return True

    for node in reversed(graph.nodes):
        if node.op in ("scan", "while"):
            _through_loop(node, room, high, need)
        for branch in node.params.get("branches", ()):
            for result, inner in zip(node.outputs, branch.outputs):
                need(inner, room.get(result, 0.0))
            _make_room(branch, room, high)
        if node.op in DIFFERENCES:
            parts = [v for v in node.inputs[node.op == "select_n" :] if v in high]
            for v in parts if len(parts) > 1 else ():
                need(v, sum(map(high.__getitem__, parts)))
        if node.op not in SAME_SCALE:
            continue
        size = max((room[v] for v in node.outputs if v in room), default=0.0) * _divisor(node)
        for v in node.inputs:
            need(v, size)


def _divisor(node: Node) -> float:
    """How much larger the inputs of a node are than its outputs, for the same integers; 0 where that is not so."""
    if node.op not in ("mul", "div"):
        return 1.0
    constant = [v for v in node.inputs if isinstance(v, Const)]
    if len(constant) != 1 or constant[0].value.size == 0 or (node.op == "div" and constant[0] is node.inputs[0]):
        return 0.0
    largest = float(np.abs(np.asarray(constant[0].value, np.float64)).max())
    if not largest or not math.isfinite(largest):
        return 0.0
    return largest if node.op == "div" else 1 / largest


def _through_loop(
    node: Node, room: dict[Value, float], high: dict[Value, float], need: Callable[[Value, float], bool]
) -> None:
    """A carry has one scale before, inside and after a loop."""
    p, body = node.params, node.params["body"]
    carries = p["num_carry"] if node.op == "scan" else len(node.outputs)
    inside = p["num_consts"] if node.op == "scan" else p["body_nconsts"]
    before = inside if node.op == "scan" else inside + p["cond_nconsts"]
    ends = zip(node.outputs[:carries], body.outputs, body.inputs[inside:], node.inputs[before:])
    same = [list(group) for group in ends]
    while True:
        changed = False
        for group in same:
            size = max((room[v] for v in group if v in room), default=0.0)
            changed |= any([need(v, size) for v in group])
        _make_room(body, room, high)
        if not changed:
            return

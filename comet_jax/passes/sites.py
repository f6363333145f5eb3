"""Where a model's feed-forward layers are: ``act(x W_up + b) W_down``, plain or gated (``act(..) * (x W_gate + b)``).

Found in the fused graph, in which an activation is one node however the user wrote it, so the same layers are found
for gating, for training predictors and for people. A layer is named by the path of its first weight: what a policy's
gates, a predictor's artifact and ``explain`` call its site. Layers in the body of a scan are one site, whose weights
have a first axis more outside.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from comet_jax.gadgets.activations import SMOOTH
from comet_jax.ir.jaxprs import Const, Graph, Node, Value

ACTIVATIONS = frozenset({"relu", *SMOOTH} - {"softplus"})  # zero, nearly, for what is far below zero
# Steps that change no number of an array: the weight behind them is the same weight.
SAME = ("convert_element_type", "reshape", "squeeze", "copy", "transpose", "broadcast_in_dim", "reduce_precision")


@dataclass(frozen=True, eq=False)
class Projection:
    """x W + b, for a weight matrix of which ``axis`` is contracted with x's last axis."""

    x: Value
    weight: Value
    axis: int
    bias: Value | None
    node: Node

    out: Value


@dataclass(frozen=True, eq=False)
class FFN:
    """One feed-forward layer, in ``graph``, which is the whole or the body of a loop.

    ``up``: what the activation is applied to. ``linear``: what it is multiplied by, in a gated layer. ``hidden``: what
    ``down`` multiplies, [..., h]; ``down.bias`` is not looked for. ``steps``: how often the body runs, a number for
    each loop around it, outermost first.
    """

    site: str
    graph: Graph
    up: Projection
    linear: Projection | None
    activation: str
    hidden: Value
    down: Projection
    steps: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Elements of x for one token."""
        return self.up.x.shape[-1]

    @property
    def neurons(self) -> int:
        """Hidden neurons."""
        return self.hidden.shape[-1]

    def __str__(self) -> str:
        kind = f"{self.activation}, gated" if self.linear else self.activation
        return f"feed-forward {self.site}: {kind}, {self.width:,} wide, {self.neurons:,} neurons{times(self.steps)}"


def times(steps: tuple[int, ...]) -> str:
    """How often a layer in loops runs, for people."""
    return f", {prod(steps)} times" if steps else ""


def find(graph: Graph, names: Mapping[Value, str]) -> list[FFN]:
    """The feed-forward layers of a fused graph, in order. ``names``: the paths of the graph's inputs."""
    return [
        FFN(*found, place.steps)
        for node, place in walk(graph, names)
        if node.op == "dot_general" and (found := _ffn(place.graph, place.names, node)) is not None
    ]


class Place(NamedTuple):
    """Where a node is: the graph that it is a node of, the paths of weights there, and the steps of loops around it."""

    graph: Graph
    names: dict[Value, str]
    steps: tuple[int, ...] = ()


def walk(graph: Graph, names: Mapping[Value, str]) -> Iterator[tuple[Node, Place]]:
    """All nodes in order, those of a scan's body in the scan's place."""
    return _walk(Place(graph, dict(names)))


def _walk(place: Place) -> Iterator[tuple[Node, Place]]:
    for node in place.graph.nodes:
        if node.op == "scan":
            inner = node.params["body"]
            inside = {v: place.names[o] for v, o in zip(inner.inputs, node.inputs) if o in place.names}
            yield from _walk(Place(inner, inside, (*place.steps, node.params["length"])))
        else:
            yield node, place


def _ffn(graph: Graph, names: dict[Value, str], node: Node):
    down = _projection(graph, names, node)
    if down is None:
        return None
    made = graph.producers.get(unconverted(graph, down.x))
    factors = made.inputs if made is not None and made.op == "mul" else (down.x,)
    activated = [graph.producers.get(unconverted(graph, v)) for v in factors]
    for i, act in enumerate(activated):
        if act is None or act.op not in ACTIVATIONS:
            continue
        up = _sum(graph, names, act.inputs[0])
        linear = _sum(graph, names, factors[1 - i]) if len(factors) == 2 else None
        if up is None or (len(factors) == 2 and (linear is None or linear.x is not up.x)):
            continue
        site = path_of(graph, names, up.weight)
        assert site is not None
        return site, graph, up, linear, act.op, down.x, down
    return None


def _sum(graph: Graph, names: dict[Value, str], v: Value) -> Projection | None:
    """``v`` as a projection with its bias, if it has one."""
    node = graph.producers.get(unconverted(graph, v))
    if node is None:
        return None
    if node.op == "dot_general":
        return _projection(graph, names, node)
    if node.op != "add":
        return None
    for a, b in (node.inputs, node.inputs[::-1]):
        product = graph.producers.get(unconverted(graph, a))
        if product is None or product.op != "dot_general" or path_of(graph, names, b) is None:
            continue
        found, bias = _projection(graph, names, product), _vector(graph, b)
        if found is not None and bias is not None:
            return Projection(found.x, found.weight, found.axis, bias, product, node.outputs[0])
    return None


def _projection(graph: Graph, names: dict[Value, str], node: Node) -> Projection | None:
    x, w = node.inputs
    (cx, cw), (bx, _) = node.params["dimension_numbers"]
    plain = len(w.shape) == 2 and not bx and tuple(cx) == (len(x.shape) - 1,)
    if not plain or isinstance(x, Const) or path_of(graph, names, w) is None or path_of(graph, names, x) is not None:
        return None
    return Projection(x, w, cw[0], None, node, node.outputs[0])


def _vector(graph: Graph, v: Value) -> Value | None:
    """The vector that ``v`` repeats along all axes but the last, the place of its own axis."""
    while len(v.shape) != 1:
        node = graph.producers.get(v)
        if node is None or node.op not in SAME or node.op == "transpose":
            return None
        before = node.inputs[0]
        if not before.shape or before.shape[-1] != v.shape[-1]:
            return None
        v = before
    return v


def unconverted(graph: Graph, v: Value) -> Value:
    """What ``v`` was before its type was changed."""
    while (node := graph.producers.get(v)) is not None and node.op in ("convert_element_type", "copy"):
        v = node.inputs[0]
    return v


def path_of(graph: Graph, names: dict[Value, str], v: Value) -> str | None:
    """The path of the input that ``v`` is, but for its layout."""
    while v not in names:
        node = graph.producers.get(v)
        if node is None or node.op not in SAME:
            return None
        v = node.inputs[0]
    return names[v]

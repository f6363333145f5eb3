"""Graphs with more outputs, inputs or steps than their function has: how layers are watched and gated.

A value inside a scan's body comes out stacked, with one first axis more for each scan around it; an array for a step
inside a body goes in the same way. Loops stay loops.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from comet_jax.ir.jaxprs import Graph, Node, Value
from comet_jax.passes.sites import FFN


def tap(graph: Graph, wanted: Sequence[Value]) -> Graph:
    """``graph`` with the ``wanted`` values as further outputs, in their order."""
    nodes, found = _tapped(graph, set(wanted))
    return Graph(graph.inputs, nodes, (*graph.outputs, *(found[v] for v in wanted)))


def _tapped(graph: Graph, wanted: set[Value]) -> tuple[tuple[Node, ...], dict[Value, Value]]:
    """Nodes, those of loops with more outputs, and by wanted value the one that holds it here."""
    here = {*graph.inputs, *(v for node in graph.nodes for v in node.outputs)}
    found, nodes = {v: v for v in wanted & here}, []
    for node in graph.nodes:
        if node.op == "scan":
            body: Graph = node.params["body"]
            inner, inside = _tapped(body, wanted)
            length = node.params["length"]
            stacked = {v: Value((length, *w.shape), w.dtype) for v, w in inside.items()}
            body = Graph(body.inputs, inner, (*body.outputs, *inside.values()))
            node = replace(node, params={**node.params, "body": body}, outputs=(*node.outputs, *stacked.values()))
            found |= stacked
        nodes.append(node)
    return tuple(nodes), found


def between(graph: Graph, inputs: Sequence[Value], output: Value) -> Graph:
    """The part of ``graph`` that makes ``output`` from ``inputs``."""
    needed, kept = {output} - set(inputs), []
    for node in reversed(graph.nodes):
        if needed & set(node.outputs):
            kept.append(node)
            needed |= set(node.inputs) - set(inputs)
    return Graph(tuple(inputs), tuple(reversed(kept)), (output,))


Rule = Callable[..., tuple[Any, Any]]


def gated(
    graph: Graph,
    rules: Mapping[FFN, Rule],
    read: Mapping[FFN, Sequence[Value]],
    arrays: Mapping[FFN, Sequence[Any]],
    noted: int,
) -> Graph:
    """``graph`` with what each layer's rule makes of its hidden activations.

    A rule is called with what is ``read``, joined to one row a token, hidden, and its layer's ``arrays``. These are
    further inputs of the new graph, in order, with an axis in front for each scan around the layer; they are given
    without. It returns the activations that go on, and float32[noted], which are further outputs, a site each.
    """
    notes = {ffn: Value((noted,), np.dtype(np.float32)) for ffn in rules}
    given = {ffn: tuple(Value(tuple(a.shape), np.dtype(a.dtype)) for a in arrays[ffn]) for ffn in rules}
    by_node = {ffn.down.node: ffn for ffn in rules}

    def gate(ffn: FFN) -> tuple[Node, Node]:
        hidden = Value(ffn.hidden.shape, ffn.hidden.dtype)
        count, tokens = len(read[ffn]), ffn.up.x.shape[:-1]

        def rule(*values):
            rows = [jnp.reshape(v, (*tokens, -1)) for v in values[:count]]
            return rules[ffn](jnp.concatenate(rows, -1), *values[count:])

        inputs = (*read[ffn], ffn.hidden, *given[ffn])
        node = Node("gate", {}, inputs, (hidden, notes[ffn]), site=ffn.site, reference=rule)
        return node, replace(ffn.down.node, inputs=(hidden, *ffn.down.node.inputs[1:]))

    def rewrite(graph: Graph) -> tuple[tuple[Node, ...], dict[FFN, tuple[Value, ...]]]:
        nodes: list[Node] = []
        needed: dict[FFN, tuple[Value, ...]] = {}
        for node in graph.nodes:
            if node in by_node:
                needed[by_node[node]] = given[by_node[node]]
                nodes += gate(by_node[node])
                continue
            if node.op == "scan":
                body: Graph = node.params["body"]
                inner, inside = rewrite(body)
                flat = tuple(v for vs in inside.values() for v in vs)
                length = node.params["length"]
                outside = {f: tuple(Value((length, *v.shape), v.dtype) for v in vs) for f, vs in inside.items()}
                needed |= outside
                node = replace(
                    node,
                    params={**node.params, "body": Graph((*body.inputs, *flat), inner, body.outputs)},
                    inputs=(*node.inputs, *(v for vs in outside.values() for v in vs)),
                )
            nodes.append(node)
        return tuple(nodes), needed

    nodes, needed = rewrite(graph)
    more = tuple(v for ffn in rules for v in needed[ffn])
    return tap(Graph((*graph.inputs, *more), nodes, graph.outputs), [notes[ffn] for ffn in rules])

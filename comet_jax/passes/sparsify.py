"""Feed-forward layers that a policy gates, each as one node: ``gated_ffn``, whose rule is in rules/gating.py."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from comet_jax.errors import CometError
from comet_jax.gadgets.largest import MOST_COUNTED
from comet_jax.ir.jaxprs import Graph, Node, Value
from comet_jax.passes.attention import Attention, ahead, widths
from comet_jax.passes.sites import FFN
from comet_jax.policy import Gate
from comet_jax.predictors import Site


@dataclass(frozen=True, eq=False)
class Gated:
    """A layer with its gate, the predictor's site, and what the predictor reads.

    What the node ``gated_ffn`` has as its parameter ``layer``. ``number``: of the layer, so that two that share their
    weights do not share their order.
    """

    ffn: FFN
    gate: Gate
    site: Site
    read: tuple[Value, ...]
    number: int

    @property
    def slots(self) -> int:
        """Blocks that there is room for, over all tokens."""
        capacity = self.site.capacity if self.gate.capacity is None else self.gate.capacity
        blocks = prod(self.ffn.up.x.shape[:-1]) * self.site.gates
        return min(blocks, max(1, round(capacity * blocks)))

    @property
    def room(self) -> int:
        """Blocks that a call chooses where nothing is revealed, for all tokens alike."""
        return max(1, self.slots // max(1, prod(self.ffn.up.x.shape[:-1])))


def sparsify(graph: Graph, found: Sequence[FFN], gates: Sequence[Gate], attention: Sequence[Attention] = ()) -> Graph:
    """``graph`` with those of its feed-forward layers ``found`` gated that ``gates`` name.

    ``attention``: its attention layers, which some predictors read from.

    Raises ``CometError`` where a gate names no layer, or where its predictor does not fit the layer.
    """
    if not gates:
        return graph
    asked = [(ffn, gate) for ffn in found if (gate := _gate(ffn, gates))]
    chosen = {ffn.down.node: _gated(ffn, gate, attention, n) for n, (ffn, gate) in enumerate(asked)}
    for gate in gates:
        if not any(layer.gate is gate for layer in chosen.values()):
            known = ", ".join(dict.fromkeys(ffn.site for ffn in found)) or "none"
            raise CometError(f"a gate on {gate.site or 'every site'!r} names no feed-forward layer: there are {known}")
    # Of no tokens there is nothing to gate.
    return _rewritten(graph, {node: _node(layer) for node, layer in chosen.items() if prod(layer.ffn.hidden.shape)})


def _gate(ffn: FFN, gates: Sequence[Gate]) -> Gate | None:
    asked = lambda gate: any(site.site == ffn.site for site in gate.predictor.sites) or gate.site
    return next((gate for gate in gates if re.search(gate.site, ffn.site) and asked(gate)), None)


def _gated(ffn: FFN, gate: Gate, attention: Sequence[Attention], number: int) -> Gated:
    site = gate.predictor.site(ffn.site)
    given = {"activation": ffn.activation, "width": ffn.width, "neurons": ffn.neurons, "layers": prod(ffn.steps)}
    for name, value in given.items():
        if getattr(site, name) != value:
            raise CometError(
                f"{ffn.site}: the predictor is for {name} {getattr(site, name)}, and the model has {value}"
            )
    read = ahead(ffn, attention) if site.ahead else (ffn.up.x,)
    found = widths(ffn, read)
    if found != site.read:
        raise CometError(
            f"{ffn.site}: the predictor reads {site.read} of the attention before the layer, where the model has "
            f"{found or 'none'}"
        )
    layer = Gated(ffn, gate, site, read, number)
    if gate.epoch > 1 and gate.epoch * layer.room > site.gates:
        raise CometError(
            f"{ffn.site}: an epoch of {gate.epoch} calls that choose {layer.room} new blocks each needs "
            f"{gate.epoch * layer.room} blocks, and the layer has {site.gates}: lower the gate's epoch or its capacity"
        )
    room, blocks = layer.slots, prod(layer.ffn.up.x.shape[:-1]) * site.gates
    if gate.overflow == "scores" and room < blocks > MOST_COUNTED:
        raise CometError(
            f"{ffn.site}: a call has {blocks} blocks of {site.block} neurons in all its tokens, and the largest scores "
            f"are found of {MOST_COUNTED} at most: gate larger blocks, call with fewer tokens, or use overflow='turns'"
        )
    return layer


def _rewritten(graph: Graph, new: Mapping[Node, Node]) -> Graph:
    nodes = tuple(new.get(node) or node.with_graphs(lambda g: _rewritten(g, new)) for node in graph.nodes)
    return replace(graph, nodes=nodes).pruned()


def _node(layer: Gated) -> Node:
    """x, what the predictor reads, then weights and biases as far as there are, in the order of ``projections``."""
    ffn, down = layer.ffn, layer.ffn.down
    inputs = [ffn.up.x, *layer.read]
    for p in (ffn.up, *((ffn.linear,) if ffn.linear else ())):
        inputs += [p.weight, *((p.bias,) if p.bias else ())]
    inputs.append(down.weight)
    outputs = (down.out,)

    def dense(*arrays):
        """The layer as it was: what one owner knows all of is not gated."""
        return _part(ffn.graph, tuple(inputs), outputs).evaluate(*arrays)

    node = down.node
    return Node(
        "gated_ffn", {"layer": layer}, tuple(inputs), outputs, where=node.where, site=node.site, reference=dense
    )


def _part(graph: Graph, inputs: tuple[Value, ...], outputs: tuple[Value, ...]) -> Graph:
    """What of a graph leads from ``inputs`` to ``outputs``."""
    part = Graph(inputs, graph.nodes, outputs)
    needed, kept = set(outputs), []
    for node in reversed(part.nodes):
        if any(v in needed and v not in inputs for v in node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    return replace(part, nodes=tuple(reversed(kept)))

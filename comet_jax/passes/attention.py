"""Where a model's attention is: ``softmax(mask(q k^T)) v``, whoever wrote it.

Found in the fused graph, in which a softmax is one node: what it is applied to leads back, by scaling and masking
alone, to a product of two activations, and what it gives is a factor of another one. Queries and keys may come out of
one projection or several, be rotated or normalised, and heads may share keys; none of that changes what is looked for.
A layer is named by the path of the weight that its queries come from, as feed-forward layers are (sites.py).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from comet_jax.ir.jaxprs import Graph, Node, Value
from comet_jax.passes.sites import FFN, SAME, path_of, times, walk

# Between the product of queries and keys and the softmax, and behind it: scaling, capping, masking.
_SCORING = frozenset({*SAME, "mul", "div", "add", "sub", "neg", "select_n", "max", "min", "tanh", "clamp"})
# What a value does not lead back through to the weight that made it: an activation is not the weight's own any more.
_ENDS = frozenset({"scan", "while", "cond", "softmax", "dot_general"})


@dataclass(frozen=True, eq=False)
class Attention:
    """One attention layer, in ``graph``, which is the whole or the body of a loop.

    ``x``: what queries are projected from. ``scores``: the product of queries and keys. ``probabilities``: the softmax.
    ``mixed``: their product with values.
    ``out``: the projection of all heads' results, if it follows at once. ``heads``: of the queries, known from what
    ``out`` takes, one without it. ``width``: of a head. ``queries``: of all sequences together; ``keys``: that each
    sees. ``steps``: how often the body runs, a number for each loop around it, outermost first.
    """

    site: str
    graph: Graph
    x: Value
    scores: Node
    probabilities: Node
    mixed: Node
    out: Node | None
    heads: int
    width: int
    queries: int
    keys: int
    steps: tuple[int, ...] = ()

    def __str__(self) -> str:
        heads = f"{self.heads} head{'s' * (self.heads > 1)} of {self.width}"
        return f"attention {self.site}: {heads}, {self.queries:,} queries on {self.keys:,} keys{times(self.steps)}"


def find(graph: Graph, names: Mapping[Value, str]) -> list[Attention]:
    """The attention layers of a fused graph, in order. ``names``: the paths of the graph's inputs."""
    found = (_attention(node, *place) for node, place in walk(graph, names) if _of_activations(*place[:2], node))
    return [layer for layer in found if layer is not None]


def ahead(ffn: FFN, layers: Sequence[Attention]) -> tuple[Value, ...]:
    """What attention has opened before a feed-forward layer's own norm begins: its input, and its heads' results.

    A layer's input is nearly linear in the two, so a predictor that runs on them runs beside the norm. Empty where no
    attention leads to the layer, or where it has other tokens.
    """
    tokens = ffn.up.x.shape[:-1]
    before = set(_upstream(ffn.graph, ffn.up.x, lambda node: True))
    for layer in reversed(layers):
        if layer.out in before:
            mixed = _activation(layer.graph, layer.mixed, layer.out)
            found = (layer.x, mixed) if mixed else ()
            return found if all(v.shape[: len(tokens)] == tokens for v in found) else ()
    return ()


def widths(ffn: FFN, values: Sequence[Value]) -> tuple[int, ...]:
    """Elements of each of ``values`` for one token of a feed-forward layer."""
    return tuple(prod(v.shape[len(ffn.up.x.shape) - 1 :]) for v in values)


def _attention(mixed: Node, graph: Graph, names: dict[Value, str], steps: tuple[int, ...]) -> Attention | None:
    softmax, values = next(
        (
            (made, mixed.inputs[1 - i])
            for i, v in enumerate(mixed.inputs)
            if (made := _behind(graph, v, "softmax")) is not None
        ),
        (None, None),
    )
    scores = _behind(graph, softmax.inputs[0], "dot_general") if softmax is not None else None
    if softmax is None or values is None or scores is None or not _of_activations(graph, names, scores):
        return None
    queries, keys = scores.inputs if _along_second(graph, softmax, scores) else scores.inputs[::-1]
    projected = _projected(graph, names, queries) or _projected(graph, names, keys)
    if projected is None:
        return None
    site, x = projected
    out = next((n for n in graph.nodes if _projects(graph, names, n, mixed)), None)
    elements, seen = prod(softmax.inputs[0].shape), softmax.inputs[0].shape[softmax.params.get("axis", -1)]
    width = _contracted(scores, 0)
    heads = max(1, _contracted(out, 0) // width) if out else 1
    return Attention(site, graph, x, scores, softmax, mixed, out, heads, width, elements // (seen * heads), seen, steps)


def _of_activations(graph: Graph, names: dict[Value, str], node: Node) -> bool:
    """Whether ``node`` is a product of two values that were computed, neither of them a weight."""
    made = lambda v: graph.producers.get(v) is not None and path_of(graph, names, v) is None
    return node.op == "dot_general" and all(map(made, node.inputs))


def _upstream(graph: Graph, v: Value, through: Callable[[Node], bool]) -> Iterator[Node]:
    """What leads to ``v``, each node once, nearest first; on behind a node if ``through`` says so."""
    reached, seen = [v], {v}
    for value in reached:  # it grows
        node = graph.producers.get(value)
        if node is None:
            continue
        yield node
        if through(node):
            new = [x for x in node.inputs if x not in seen]
            seen.update(new)
            reached += new


def _behind(graph: Graph, v: Value, op: str) -> Node | None:
    """The operation ``op`` that ``v`` leads back to by scaling and masking."""
    return next((n for n in _upstream(graph, v, lambda n: n.op in _SCORING) if n.op == op), None)


def _projected(graph: Graph, names: dict[Value, str], v: Value) -> tuple[str, Value] | None:
    """The last projection on the way to ``v``: the path of its weight, and what it is of."""
    products = (n for n in _upstream(graph, v, lambda n: n.op not in _ENDS) if n.op == "dot_general")
    found = ((path_of(graph, names, w), x) for n in products for w, x in (n.inputs, n.inputs[::-1]))
    return next(((path, x) for path, x in found if path is not None), None)


def _along_second(graph: Graph, softmax: Node, scores: Node) -> bool:
    """Whether the axis that a softmax runs along is one of its scores' second factor."""
    v = softmax.inputs[0]
    axis = len(v.shape) + softmax.params.get("axis", -1)
    while (node := graph.producers[v]) is not scores:
        if node.op == "transpose":
            axis = node.params["permutation"][axis]
        v = next(x for x in node.inputs if _behind(graph, x, "dot_general") is scores)
    # A product's axes are those of the batch, of its first factor, of its second.
    (_, contracted), (_, batch) = scores.params["dimension_numbers"]
    return axis >= len(v.shape) - (len(scores.inputs[1].shape) - len(contracted) - len(batch))


def _contracted(product: Node, factor: int) -> int:
    """Elements that a product sums over."""
    axes = product.params["dimension_numbers"][0][factor]
    return prod(product.inputs[factor].shape[i] for i in axes)


def _projects(graph: Graph, names: dict[Value, str], node: Node, mixed: Node) -> bool:
    """Whether ``node`` is the product of ``mixed``, but for its layout, and a weight."""
    if node.op != "dot_general":
        return False
    weights = [v for v in node.inputs if path_of(graph, names, v) is not None]
    return len(weights) == 1 and _activation(graph, mixed, node) is not None


def _activation(graph: Graph, mixed: Node, product: Node) -> Value | None:
    """The factor of ``product`` that is ``mixed``, but for its layout."""
    return next((v for v in product.inputs if _behind(graph, v, "dot_general") is mixed), None)

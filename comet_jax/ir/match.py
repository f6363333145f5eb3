"""Finding a function inside a graph: a pattern is a reference function, traced and matched as a subgraph.

The reference is traced with the installed JAX on the shapes at hand, so whatever JAX makes of it today is what is
looked for. Matching unifies backwards from the result: same operation, same parameters, equal constants; the
reference's arguments match anything. A constant equal to ``ANY`` in the reference matches any scalar constant, and
its value becomes a parameter of the fused node (the epsilon of a normalisation).
Source of the idea: the graph patterns of kfac-jax.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from comet_jax.ir.jaxprs import Const, Graph, Node, Value, flatten
from comet_jax.ir.repeats import without_repeats

ANY = 0.0117
COMMUTATIVE = {"add", "mul", "max", "min", "add_any"}
# Parameters that say nothing about what is computed.
IGNORED = {"sharding", "out_sharding", "accuracy", "weak_type"}


@dataclass(frozen=True)
class Pattern:
    """A fused operation and one way of writing it.

    ``reference(x, *masks, *vectors)``: x of the result's shape, ``masks`` booleans of that shape, and ``vectors``
    arguments of shape (d,), d its last axis. ``core``: the function of x and masks that the fused node stands for.
    ``finish(core, *vectors)``: what the reference does with the core's result, if anything. ``scalar``: the parameter
    that ``ANY`` stands for. ``params``: further parameters of the fused node and of its core, as pairs. ``lost``: the
    axis of x, counted from the end, that the result has not, or has with one element; None if its shape is x's.
    """

    name: str
    reference: Callable[..., Any]
    core: Callable[..., Any]
    vectors: int = 0
    finish: Callable[..., Any] | None = None
    scalar: str | None = None
    masks: int = 0
    params: tuple[tuple[str, Any], ...] = ()
    lost: int | None = None


@dataclass(frozen=True)
class _Match:
    inputs: tuple[Value, ...]
    scalar: float | None


def fuse(graph: Graph, patterns: Sequence[Pattern]) -> Graph:
    """``graph`` with every match replaced by a fused node, larger patterns first, in loops and branches too."""
    nodes = tuple(node.with_graphs(lambda inner: fuse(inner, patterns)) for node in graph.nodes)
    graph = without_repeats(replace(graph, nodes=nodes))
    for pattern in sorted(patterns, key=lambda p: -_size(p)):
        graph = _fuse_one(graph, pattern)
    return graph.pruned()


def _sample(pattern: Pattern) -> Graph | None:
    return _trace(pattern, (2, 2, 2, 3), np.dtype(np.float32))


def _size(pattern: Pattern) -> int:
    found = _sample(pattern)
    return len(found.nodes) if found else 0


@lru_cache(maxsize=4096)
def _trace(pattern: Pattern, shape: tuple[int, ...], dtype: np.dtype) -> Graph | None:
    """The reference, for x of ``shape``."""
    x = jax.ShapeDtypeStruct(shape, dtype)
    vectors = [jax.ShapeDtypeStruct(shape[-1:], dtype)] * pattern.vectors
    masks = [jax.ShapeDtypeStruct(shape, np.dtype(bool))] * pattern.masks
    try:
        return flatten(lambda *args: [pattern.reference(*args)], x, *masks, *vectors)
    except (TypeError, ValueError, IndexError):
        return None  # the reference does not take such an array, so it is not what made it


def _fuse_one(graph: Graph, pattern: Pattern) -> Graph:
    producers, shapes = graph.producers, _shapes(graph)
    renamed: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        node = replace(node, inputs=tuple(renamed.get(v, v) for v in node.inputs))
        found = _find(pattern, producers, node, shapes)
        if found:
            new = _replacement(pattern, found, node)
            renamed[node.outputs[0]] = new[-1].outputs[0]
            nodes.extend(new)
            producers = {**producers, **{v: n for n in new for v in n.outputs}}
            continue
        nodes.append(node)
        producers = {**producers, **dict.fromkeys(node.outputs, node)} if renamed else producers
    return replace(graph, nodes=tuple(nodes), outputs=tuple(renamed.get(v, v) for v in graph.outputs))


def _shapes(graph: Graph) -> tuple[tuple[int, ...], ...]:
    """The shapes that values have."""
    every = (*graph.inputs, *(v for node in graph.nodes for v in node.outputs))
    return tuple(dict.fromkeys(v.shape for v in every))


def _find(pattern: Pattern, producers: dict[Value, Node], node: Node, shapes: Iterable[tuple]) -> _Match | None:
    """The match whose result ``node`` makes."""
    sample, out = _sample(pattern), node.outputs[0] if node.outputs else None
    if out is None or out.dtype.kind not in "fV" or not sample or _last(sample).op != node.op:
        return None
    if pattern.lost is None:
        shapes = (out.shape,) if out.shape else ()
    else:
        shapes = (s for s in shapes if len(s) >= -pattern.lost and out.shape in _without(s, pattern.lost))
    for shape in shapes:
        reference = _trace(pattern, shape, out.dtype)
        if reference and reference.nodes and reference.outputs[0].shape == out.shape:
            found = _match(reference, producers, node)
            if found:
                return found
    return None


def _last(reference: Graph) -> Node:
    """What makes its result."""
    return reference.producers[reference.outputs[0]]


def _without(shape: tuple[int, ...], axis: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """``shape`` without an axis that is counted from the end, and with one element there."""
    before, after = shape[:axis], shape[len(shape) + axis + 1 :]
    return (*before, *after), (*before, 1, *after)


def _match(reference: Graph, producers: dict[Value, Node], node: Node) -> _Match | None:
    for binding in _unify(reference, producers, reference.outputs[0], node.outputs[0], {}):
        if all(v in binding for v in reference.inputs):
            scalar = binding.get(_SCALAR)
            return _Match(tuple(binding[v] for v in reference.inputs), None if scalar is None else scalar.value.item())
    return None


_SCALAR = Value((), np.dtype(np.float64))


def _unify(reference: Graph, producers, pattern: Value, target: Value, binding: dict) -> Iterator[dict]:
    """Every way of extending ``binding`` (pattern value -> target value) so that the two values agree."""
    if pattern in binding:
        if binding[pattern] is target:
            yield binding
        return
    if pattern in reference.inputs:
        if pattern.shape == target.shape and pattern.dtype == target.dtype:
            yield {**binding, pattern: target}
        return
    if isinstance(pattern, Const):
        yield from _unify_const(pattern, target, binding)
        return
    p, t = reference.producers[pattern], producers.get(target)
    if t is None or p.op != t.op or len(p.inputs) != len(t.inputs) or not _same_params(p, t):
        return
    if p.outputs.index(pattern) != t.outputs.index(target):
        return
    orders = [t.inputs]
    if p.op in COMMUTATIVE:
        orders.append(t.inputs[::-1])
    for order in orders:
        for found in _unify_all(reference, producers, p.inputs, order, binding):
            yield {**found, pattern: target}


def _unify_all(reference, producers, patterns, targets, binding) -> Iterator[dict]:
    if not patterns:
        yield binding
        return
    for found in _unify(reference, producers, patterns[0], targets[0], binding):
        yield from _unify_all(reference, producers, patterns[1:], targets[1:], found)


def _unify_const(pattern: Const, target: Value, binding: dict) -> Iterator[dict]:
    if not isinstance(target, Const):
        return
    if pattern.value.size == 1 and pattern.dtype.kind == "f":
        wanted = np.asarray(ANY, pattern.dtype)
        if pattern.value.reshape(()) == wanted and target.value.size == 1:
            before = binding.get(_SCALAR)
            if before is None or before.value == target.value:
                yield {**binding, _SCALAR: target}
            return
    if pattern.shape == target.shape and np.allclose(pattern.value, target.value, rtol=1e-6, atol=0, equal_nan=True):
        yield binding


def _same_params(p: Node, t: Node) -> bool:
    names = {*p.params, *t.params} - IGNORED
    return all(_equal(p.params.get(n), t.params.get(n)) for n in names)


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (TypeError, ValueError):
        return repr(a) == repr(b)


def _replacement(pattern: Pattern, found: _Match, node: Node) -> list[Node]:
    given, vectors = found.inputs[: 1 + pattern.masks], found.inputs[1 + pattern.masks :]
    params = dict(pattern.params)
    if pattern.scalar is not None:
        params[pattern.scalar] = found.scalar
    spec = lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype)
    made = jax.eval_shape(lambda *arrays: pattern.core(*arrays, **params), *map(spec, given))
    out = Value(made.shape, node.outputs[0].dtype)
    core = Node(
        pattern.name,
        params,
        given,
        (out,),
        where=node.where,
        site=node.site,
        reference=lambda *arrays: pattern.core(*arrays, **params),
    )
    if pattern.finish is None:
        return [core]
    rest = flatten(lambda *a: [pattern.finish(*a)], spec(out), *map(spec, vectors))  # type: ignore[misc]
    env: dict[Value, Value] = dict(zip(rest.inputs, (out, *vectors)))
    new = [core]
    for n in rest.nodes:
        inputs = tuple(v if isinstance(v, Const) else env.get(v, v) for v in n.inputs)
        new.append(replace(n, inputs=inputs, where=node.where, site=node.site))
    return new

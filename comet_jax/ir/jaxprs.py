"""From a function to a flat graph. The only file that knows how JAX represents programs.

``flatten`` traces a function, inlines everything that is merely a call (jit, custom derivatives, remat), drops dead
code and gives plain nodes on values. Control flow (scan, while, cond) stays one node with graphs among its parameters.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.extend.core as jex
import numpy as np
from jax import lax
from jax._src import source_info_util  # the user's line of an equation has no public accessor

INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "eval_jaxpr": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}
_LIBRARIES = tuple(os.sep + name + os.sep for name in ("jax", "jaxlib", "flax", "comet_jax"))


@dataclass(frozen=True, eq=False)
class Value:
    """An array in a graph; it is itself and nothing else."""

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True, eq=False)
class Const(Value):
    """A public constant."""

    value: np.ndarray


@dataclass(frozen=True, eq=False)
class Node:
    """One operation. ``op`` is a primitive's name or a pattern's; ``where`` the user's line; ``site`` the module.

    ``reference`` computes a fused node in the clear; other nodes bind their primitive.
    """

    op: str
    params: dict[str, Any]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    primitive: Any = None
    where: str = ""
    site: str = ""
    reference: Callable[..., Any] | None = None
    effects: bool = False

    def evaluate(self, *arrays: Any) -> list[Any]:
        """The outputs for concrete or traced inputs."""
        if self.reference is not None:
            out = self.reference(*arrays)
            return list(out) if isinstance(out, tuple | list) else [out]
        arrays = tuple(a if is_key(a) else jax.numpy.asarray(a, v.dtype) for a, v in zip(arrays, self.inputs))
        if self.op in _CONTROL:
            return _CONTROL[self.op](self.params, arrays)
        bound = self.primitive.get_bind_params(self.params)
        functions, params = ((), bound) if isinstance(bound, dict) else bound
        out = self.primitive.bind(*functions, *arrays, **params)
        return list(out) if self.primitive.multiple_results else [out]

    @property
    def graphs(self) -> tuple["Graph", ...]:
        """A loop's body and condition, or the branches of a choice."""
        every = [x for p in self.params.values() for x in (p if isinstance(p, tuple | list) else (p,))]
        return tuple(x for x in every if isinstance(x, Graph))

    def with_graphs(self, f: Callable[["Graph"], "Graph"]) -> "Node":
        """This node with ``f`` of each of its graphs."""
        one = lambda x: f(x) if isinstance(x, Graph) else x
        params = {k: tuple(map(one, p)) if k == "branches" else one(p) for k, p in self.params.items()}
        return replace(self, params=params) if self.graphs else self


@dataclass(frozen=True, eq=False)
class Graph:
    """Inputs, nodes in order, outputs."""

    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]

    def evaluate(self, *arrays: Any) -> list[Any]:
        """The outputs for concrete or traced inputs."""
        env: dict[Value, Any] = dict(zip(self.inputs, arrays, strict=True))
        read = lambda v: v.value if isinstance(v, Const) else env[v]
        for node in self.nodes:
            env.update(zip(node.outputs, node.evaluate(*map(read, node.inputs)), strict=True))
        return [read(v) for v in self.outputs]

    @cached_property
    def producers(self) -> dict[Value, Node]:
        """The node that makes each value."""
        return {v: n for n in self.nodes for v in n.outputs}

    def every_node(self) -> Iterator[Node]:
        """All nodes, those in a loop or a branch before the node that they are in, which is to blame for less."""
        for node in self.nodes:
            for inner in node.graphs:
                yield from inner.every_node()
            yield node

    def pruned(self) -> "Graph":
        """Without nodes whose results nobody uses, except those with effects."""
        needed, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if node.effects or any(v in needed for v in node.outputs):
                kept.append(node)
                needed.update(node.inputs)
        return replace(self, nodes=tuple(reversed(kept)))

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def flatten(fn: Callable[..., Sequence[Any]], *avals: Any) -> Graph:
    """The graph of ``fn``, which takes arrays of ``avals`` and returns a list of arrays."""
    return from_jaxpr(jax.make_jaxpr(fn)(*avals))


def alike(a: Graph, b: Graph) -> bool:
    """Whether two graphs do the same operations in the same order, with the same parameters and constants."""
    typed = lambda vs: [(v.shape, v.dtype) for v in vs]
    if typed(a.inputs) != typed(b.inputs) or len(a.nodes) != len(b.nodes):
        return False
    twin: dict[Value, Value] = dict(zip(a.inputs, b.inputs))
    same = lambda x, y: _equal(x, y) if isinstance(x, Const) and isinstance(y, Const) else twin.get(x) is y
    every = lambda xs, ys: len(xs) == len(ys) and all(map(same, xs, ys))
    plain = lambda n: {k: str(p) for k, p in n.params.items() if not isinstance(p, Graph)}
    for m, n in zip(a.nodes, b.nodes):
        inner = len(m.graphs) == len(n.graphs) and all(map(alike, m.graphs, n.graphs))
        if m.op != n.op or plain(m) != plain(n) or not inner or not every(m.inputs, n.inputs):
            return False
        twin.update(zip(m.outputs, n.outputs, strict=True))
    return every(a.outputs, b.outputs)


def _equal(a: Const, b: Const) -> bool:
    return a.dtype == b.dtype and np.array_equal(a.value, b.value)


def from_jaxpr(closed: Any, where: str = "", site: str = "") -> Graph:
    """The graph of a closed jaxpr. ``where``, ``site``: of nodes that do not know theirs."""
    jaxpr, consts = _open(closed)
    env: dict[Any, Value] = {}
    for var, const in zip(jaxpr.constvars, consts, strict=True):
        env[var] = _const(const)
    inputs = tuple(_value(v) for v in jaxpr.invars)
    env.update(zip(jaxpr.invars, inputs))
    nodes: list[Node] = []
    outputs = _inline(jaxpr, env, nodes, where, site)
    return Graph(inputs, tuple(nodes), tuple(outputs)).pruned()


def _open(closed: Any) -> tuple[Any, Sequence[Any]]:
    """A jaxpr and its constants, whether it carries them (newer JAX) or is wrapped with them."""
    inner = getattr(closed, "jaxpr", closed)
    return inner, getattr(closed, "consts", ())


def _value(var: Any) -> Value:
    return Value(tuple(var.aval.shape), np.dtype(_plain(var.aval.dtype)))


def _plain(dtype: Any) -> Any:
    return dtype if isinstance(dtype, np.dtype) else np.dtype(np.uint32) if "key" in str(dtype) else dtype


def is_key(x: Any) -> bool:
    """Whether an array holds typed random keys, which NumPy has no type for."""
    return jax.numpy.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.extended)


def concrete(x: Any) -> Any:
    """An array as NumPy has it; random keys as they are."""
    return x if is_key(x) else np.asarray(x)


def _const(x: Any) -> Const:
    array = concrete(x)
    return Const(array.shape, np.dtype(_plain(array.dtype)), array)


def _inline(jaxpr: Any, env: dict[Any, Value], nodes: list[Node], where: str, site: str) -> list[Value]:
    def read(atom: Any) -> Value:
        if isinstance(atom, jex.Literal):
            array = np.asarray(atom.val, _value(atom).dtype)
            return Const(array.shape, array.dtype, array)
        return env[atom]

    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        inputs = [read(a) for a in eqn.invars]
        # Inside library calls there is no user frame: the caller's place stands for them.
        line, path = _line(eqn) or where, _path(eqn, site)
        if name in INLINED and INLINED[name] in eqn.params:
            inner, consts = _open(eqn.params[INLINED[name]])
            scope: dict[Any, Value] = dict(zip(inner.constvars, map(_const, consts)))
            scope.update(zip(inner.invars, inputs[len(inputs) - len(inner.invars) :], strict=True))
            env.update(zip(eqn.outvars, _inline(inner, scope, nodes, line, path)))
            continue
        if name == "convert_element_type" and inputs[0].dtype == _value(eqn.outvars[0]).dtype:
            env[eqn.outvars[0]] = inputs[0]  # it says how the type may change further on, and changes nothing
            continue
        graph = lambda closed, line=line, path=path: from_jaxpr(closed, line, path)
        params = _with_graphs(name, dict(eqn.params), graph)
        outputs = tuple(_value(v) for v in eqn.outvars)
        effects = _has_effects(eqn)
        nodes.append(Node(name, params, tuple(inputs), outputs, eqn.primitive, line, path, None, effects))
        env.update(zip(eqn.outvars, outputs))
    return [read(a) for a in jaxpr.outvars]


def _with_graphs(name: str, params: dict[str, Any], graph: Callable[[Any], Graph]) -> dict[str, Any]:
    """The parameters of control flow with graphs for jaxprs; of anything else as they are."""
    if name == "scan":
        return params | _scan_counts(params) | {"body": graph(params["jaxpr"])}
    if name == "while":
        return params | {"body": graph(params["body_jaxpr"]), "test": graph(params["cond_jaxpr"])}
    if name == "reduce":
        return params | {"body": graph(params["jaxpr"])}
    if name == "cond":
        return params | {"branches": tuple(map(graph, params["branches"]))}
    return params


def _has_effects(eqn: Any) -> bool:
    """Whether an equation, or one in a branch or body of it, does something outside the program.

    A pure callback declares no effect, and yet it hands its arguments to Python.
    """
    inner = [p for x in eqn.params.values() for p in (x if isinstance(x, tuple | list) else (x,))]
    bodies = [_open(p)[0] for p in inner if isinstance(p, jex.Jaxpr | jex.ClosedJaxpr)]
    return bool(eqn.effects) or "callback" in eqn.primitive.name or any(_has_effects(e) for b in bodies for e in b.eqns)


def _line(eqn: Any) -> str:
    """file:line of the innermost frame that is the user's."""
    for frame in source_info_util.user_frames(eqn.source_info.traceback):
        name = frame.file_name
        if not any(part in name for part in _LIBRARIES) or os.sep + "models" + os.sep in name:
            return f"{name}:{frame.start_line}"
    return ""


def _path(eqn: Any, outer: str) -> str:
    """The module path of an equation: Flax linen names the scopes that it traces."""
    return str(eqn.source_info.name_stack) or outer


def _scan_counts(params: dict[str, Any]) -> dict[str, int]:
    """How many inputs of a scan are constants and carries: said so, or (newer JAX) by the tree of its inputs."""
    if "ft_in" not in params:
        return {name: params[name] for name in ("num_consts", "num_carry")}
    consts, carries, _ = map(len, params["ft_in"].unpack())
    return {"num_consts": consts, "num_carry": carries}


def _scan(params: dict[str, Any], arrays: Sequence[Any]) -> list[Any]:
    consts, carries = params["num_consts"], params["num_carry"]
    fixed, init, xs = arrays[:consts], arrays[consts : consts + carries], arrays[consts + carries :]

    def step(carry, x):
        out = _typed(params["body"], [*fixed, *carry, *x])
        return out[:carries], out[carries:]

    carry, ys = lax.scan(step, list(init), list(xs), params["length"], params["reverse"])
    return [*carry, *ys]


def _while(params: dict[str, Any], arrays: Sequence[Any]) -> list[Any]:
    tested, fixed = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    test = lambda carry: params["test"].evaluate(*arrays[:tested], *carry)[0]
    step = lambda carry: _typed(params["body"], [*arrays[tested:fixed], *carry])
    return lax.while_loop(test, step, list(arrays[fixed:]))


def _cond(params: dict[str, Any], arrays: Sequence[Any]) -> list[Any]:
    index, *operands = arrays
    return lax.switch(index, [lambda *xs, g=g: _typed(g, xs) for g in params["branches"]], *operands)


def _typed(graph: Graph, arrays: Sequence[Any]) -> list[Any]:
    """The outputs of ``graph`` in their own types: constants among them are NumPy's."""
    out = zip(graph.outputs, graph.evaluate(*arrays), strict=True)
    return [x if is_key(x) else jax.numpy.asarray(x, v.dtype) for v, x in out]


_CONTROL = {"scan": _scan, "while": _while, "cond": _cond}


def _lines(graph: Graph, indent: str = ""):
    names: dict[Value, str] = {}

    def name(v: Value) -> str:
        if isinstance(v, Const):
            number = v.value.size == 1 and v.dtype.kind != "b" and not is_key(v.value)
            return f"{v.value.item():g}" if number else f"const{v.shape}"
        return names.setdefault(v, f"v{len(names)}")

    typed = lambda v: f"{name(v)}:{v.dtype}{list(v.shape)}"
    yield f"{indent}graph({', '.join(map(typed, graph.inputs))})"
    for node in graph.nodes:
        outputs = ", ".join(map(typed, node.outputs))
        yield f"{indent}  {outputs} = {node.op} {' '.join(map(name, node.inputs))}"
        for inner in node.graphs:
            yield from _lines(inner, indent + "    ")
    yield f"{indent}  return {', '.join(map(name, graph.outputs))}"

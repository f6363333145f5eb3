"""From a model's graph to a two-party program.

Walk the graph in order. What is public is computed now; what one owner knows is left to that owner, as a function of
its inputs; the rest goes to the rule of its operation. There is no other case: an operation without a rule, or an
effect on a secret, is an error that names it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np

import comet_jax.rules.arithmetic
import comet_jax.rules.booleans
import comet_jax.rules.branches
import comet_jax.rules.comparison
import comet_jax.rules.contraction
import comet_jax.rules.cumulative
import comet_jax.rules.elementwise
import comet_jax.rules.extremes
import comet_jax.rules.fused
import comet_jax.rules.gating
import comet_jax.rules.indexing
import comet_jax.rules.integers
import comet_jax.rules.loops
import comet_jax.rules.ordering
import comet_jax.rules.reductions
import comet_jax.rules.scattering
import comet_jax.rules.structure
import comet_jax.rules.windows  # noqa: F401  (importing a rules module registers its rules)
from comet_jax.errors import CometError, UnsupportedOperationError
from comet_jax.ir.jaxprs import Const, Graph, Node, Value, concrete
from comet_jax.ir.program import Builder, Program
from comet_jax.passes import attention, leaks, sites
from comet_jax.passes.attention import Attention
from comet_jax.passes.narrow import narrow
from comet_jax.passes.ranges import bind
from comet_jax.passes.renewal import shuffle
from comet_jax.passes.sites import FFN
from comet_jax.passes.sparsify import sparsify
from comet_jax.policy import Policy, Range
from comet_jax.protocols.opening import Reveal
from comet_jax.rules.registry import ELEMENTWISE, RULES
from comet_jax.rules.scope import Encoding, Place, Scope
from comet_jax.rules.structure import align, follow
from comet_jax.rules.terms import PUBLIC, Env, Joint, Known, Owned, Scaled, Term, VaryingError, deepest, owner_of
from comet_jax.sharing.wires import Disclosed, Opened, Shared

if TYPE_CHECKING:
    from comet_jax.runtime.compiled import Compiled


@dataclass(frozen=True)
class SharedInput:
    """An input that is shared already, at a scale: an earlier private result, or a sealed value.

    ``centred``: it is shared a second time without its mean over the last axis, as a layer norm wants it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    ring: int
    scale: float
    centred: bool = False


@dataclass(frozen=True)
class OwnedInput:
    """An input that ``owner`` will share; ``name`` is its path, for messages."""

    owner: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype


Input = SharedInput | OwnedInput | np.ndarray
Form = Literal["raw", "centred"]


@dataclass(frozen=True, eq=False)
class Result:
    """One output: shares at a scale, or a value that somebody knows."""

    shape: tuple[int, ...]
    dtype: np.dtype
    scale: float | None
    known: Known | Owned | None = None


@dataclass(frozen=True, eq=False)
class Lowered:
    """A program with the meaning of its inputs and outputs.

    ``inputs``: one an input of the graph: its owner, or None for one that is public or shared already.
    ``encodings``: one a program input, or the position and form of the ``SharedInput`` that it takes.
    ``results``: one an output of the graph; those with a scale are the program's outputs, in order.
    Its further inputs and outputs are flags that it takes from the previous call of an epoch, and hands to the next;
    ``call``: which one it is for.
    ``proof``: what the leak check found. ``places``: scales, by site and operation. ``wide``: the program before it
    was narrowed, for comparison. ``layers``: the model's attention and feed-forward layers, as they were found.
    """

    program: Program
    inputs: tuple[str | None, ...]
    encodings: tuple[Encoding | tuple[int, Form], ...]
    results: tuple[Result, ...]
    policy: Policy
    proof: leaks.Proof
    places: dict[tuple[str, str], Place]
    wide: Program
    layers: tuple[Attention | FFN, ...] = ()
    call: int = 0

    def as_text(self) -> str:
        """The program, for people."""
        return str(self.program)

    def cost_analysis(self) -> dict[str, int]:
        """Rounds, bytes that each party sends, and bytes that the dealer sends."""
        p = self.program
        return {"rounds": p.round_count, "online_bytes": p.online_bytes, "offline_bytes": p.offline_bytes}

    @cached_property
    def renewed(self) -> tuple[int, ...]:
        """Positions of the program's inputs that are shared afresh for each epoch."""
        renewed = lambda e: isinstance(e, Encoding) and e.renewed
        return tuple(i for i, e in enumerate(self.encodings) if renewed(e))

    @property
    def epoch(self) -> int:
        """How many calls share what is renewed."""
        return self.policy.epoch if self.renewed else 1

    @cached_property
    def shuffle(self) -> "Lowered | None":
        """The program by which the parties renew the order of what serves an epoch, where they do that themselves.

        It takes all of it opened, in the order of ``renewed``, and makes shares of the same. None for later calls.
        """
        if self.call or not self.renewed or not self.policy.shuffles:
            return None
        given = [(self.program.inputs[i], self.encodings[i]) for i in self.renewed]
        orders = [e.order for _, e in given if isinstance(e, Encoding) and e.order]
        program = shuffle([(v.shape, v.wire.group) for v, _ in given], orders)
        encodings = tuple(replace(e, static=True, order=None) for _, e in given if isinstance(e, Encoding))
        return Lowered(program, (), encodings, (), self.policy, leaks.check(program, leaves=False), {}, program)

    @property
    def sharing_bytes(self) -> int:
        """Bytes that the owner's sharing of what serves an epoch takes ahead of its first call.

        Two shares sent, and both openings of weights.
        """
        return 0 if self.call else sum((4 if opened else 2) * size for size, opened in self._sizes)

    @property
    def renewal_bytes(self) -> int:
        """Bytes that renewing it for a later epoch takes: the same again, or a shuffle.

        A shuffle's: both parties' messages and what is dealt for them, and both openings of what was only shared,
        before it, and of weights, after it.
        """
        if self.call or self.shuffle is None:
            return self.sharing_bytes
        program = self.shuffle.program
        return 2 * (program.online_bytes + sum(size for size, _ in self._sizes)) + program.offline_bytes

    @property
    def _sizes(self) -> list[tuple[int, bool]]:
        """Of each array that serves an epoch its bytes, and whether it is opened."""
        wires = [self.program.inputs[i].wire for i in self.renewed]
        return [(prod(w.shape) * w.group.dtype.itemsize, isinstance(w, Opened)) for w in wires]

    def compile(self) -> "Compiled":
        """All programs of the parties, both on one device, and of the dealer, compiled."""
        from comet_jax.runtime.compiled import compiled  # the runtime is built on this

        return compiled(self)


def lower(graph: Graph, inputs: Sequence[Input], policy: Policy, call: int = 0) -> Lowered:
    """Lower ``graph`` for inputs of the given kinds; arrays are public. ``call``: of an epoch, from 0."""
    s = Scope(policy.numbers, Builder(variant=policy.variant), ranges=bind(policy.ranges, graph), call=call)
    mine = lambda given: isinstance(given, OwnedInput) and given.owner == "model"
    names = {v: given.name for v, given in zip(graph.inputs, inputs) if mine(given)}  # type: ignore[union-attr]
    ffns = sites.find(graph, names)
    attentions = attention.find(graph, names)
    graph = sparsify(graph, ffns, policy.gates, attentions)
    terms: list[Term] = []
    taken: dict[int, tuple[int, Form]] = {}
    for i, (value, given) in enumerate(zip(graph.inputs, inputs, strict=True)):
        if isinstance(given, OwnedInput):
            at, dtype = lambda env, i=i: env.input(i), np.dtype(value.dtype)
            terms.append(Owned(given.owner, value.shape, dtype, at, given.name, range=s.calibrated(value), depth=0))
        elif isinstance(given, SharedInput):
            if given.ring != policy.ring:
                raise CometError(
                    f"an input is shared in Z_2^{given.ring} and this function computes in Z_2^{policy.ring}"
                )
            terms.append(_shared(s, i, given, taken, s.calibrated(value)))
        else:
            terms.append(Known(concrete(given)))
    outputs = lower_nodes(s, graph, dict(zip(graph.inputs, terms)))
    results, wires = [], []
    for value, term in zip(graph.outputs, outputs):
        if isinstance(term, Joint):
            raw = _emit(lambda term=term: term.raw, "the result")
            wires.append(s.b.emit(Reveal(), raw.var))
            results.append(Result(value.shape, np.dtype(value.dtype), raw.scale))
        else:
            results.append(Result(value.shape, np.dtype(value.dtype), None, term))
    # What is carried from call to call comes last, so that the positions of other inputs are those of every call.
    before, after = zip(*s.carried) if s.carried else ((), ())
    s.b.inputs = [v for v in s.b.inputs if v not in before] + [v for v in before if v]
    wide = s.b.finish(*wires, *(v for v in after if v))
    program = narrow(wide)
    by_var = {var.id: e for var, e in s.encodings.values()}
    given = [v.id for v in wide.inputs if not isinstance(v.wire, Disclosed)]
    encodings = tuple(by_var[i] if i in by_var else taken[i] for i in given)
    owners = tuple(x.owner if isinstance(x, OwnedInput) else None for x in inputs)
    return Lowered(
        *(program, owners, encodings, tuple(results), policy),
        *(leaks.check(program, _shown(policy), _kept(policy)), s.places, wide, (*attentions, *ffns), call),
    )


def _shown(policy: Policy) -> frozenset[str]:
    """The sites whose flags the policy lets the parties see."""
    return frozenset(site.site for gate in policy.gates for site in gate.predictor.sites)


def _kept(policy: Policy) -> frozenset[str]:
    """Those whose flags the parties carry from call to call."""
    return frozenset(site.site for gate in policy.gates if gate.epoch > 1 for site in gate.predictor.sites)


def _shared(
    s: Scope, position: int, given: SharedInput, taken: dict[int, tuple[int, Form]], found: Range | None
) -> Joint:
    def form(name: Form):
        def make():
            var = s.b.input(Shared(given.shape, s.ring))
            taken[var.id] = (position, name)
            return Scaled(var, given.scale)

        return make

    extra = {"make_centred": form("centred")} if given.centred else {}
    return s.result(given.shape, form("raw"), range=found, **extra)


def lower_nodes(s: Scope, graph: Graph, env: dict[Value, Term]) -> list[Term]:
    """The terms of the graph's outputs, given those of its inputs."""
    consumers: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        for v in node.inputs:
            consumers.setdefault(v, []).append(node)
    # The graph's own outputs are consumers of their values, of an unknown kind.
    for node_output in graph.outputs:
        consumers.setdefault(node_output, []).append(_END)
    s.consumers.update(consumers)  # beside those of the graphs around it, of a branch or a step
    read = lambda v: Known(concrete(v.value)) if isinstance(v, Const) else env[v]
    for node in graph.nodes:
        terms = [read(v) for v in node.inputs]
        with s.b.site(node.site or node.where, node.op):
            outputs = _lower_node(s, node, terms)
        env.update(zip(node.outputs, outputs, strict=True))
    return [read(v) for v in graph.outputs]


_END = Node(op="return", params={}, inputs=(), outputs=(), primitive=None, where="", site="")


def _lower_node(s: Scope, node: Node, terms: list[Term]) -> Sequence[Term]:
    if all(isinstance(t, Known) for t in terms):
        return [Known(concrete(x)) for x in node.evaluate(*(t.value for t in terms))]  # type: ignore[union-attr]
    owners = {t.owner for t in terms if isinstance(t, Owned)}
    if len(owners - {PUBLIC}) <= 1 and not any(isinstance(t, Joint) for t in terms):
        return _owned(s, node, terms, owner_of(terms))
    if PUBLIC in owners and not node.graphs:
        raise VaryingError(f"`{node.op}` takes a public value that differs from step to step of a loop. {_place(node)}")
    if node.op not in RULES:
        raise UnsupportedOperationError(
            f"`{node.op}` has no private rule. {_place(node)}Nothing was run. Rewrite it with supported operations, "
            "or compute it before sharing or after revealing."
        )
    if node.op in ELEMENTWISE:
        terms = [align(s, t, node.outputs[0].shape) for t in terms]
    # Forms are emitted on demand, later; errors found then still belong to this node.
    out = _emit(lambda: RULES[node.op](s, node, *terms), f"`{node.op}`", node)
    out = [out] if isinstance(out, Known | Owned | Joint) else list(out)
    return [_located(s, t, node, v) if isinstance(t, Joint) else t for t, v in zip(out, node.outputs)]


def _owned(s: Scope, node: Node, terms: list[Term], owner: str) -> list[Term]:
    def run(env: Env):
        # By this lowering of the node: the steps of a loop that is written out share their nodes.
        if run not in env.cache:
            arrays = [t.value if isinstance(t, Known) else t.at(env) for t in terms]  # type: ignore[union-attr]
            env.cache[run] = node.evaluate(*arrays)
        return env.cache[run]

    names = [t.name for t in terms if isinstance(t, Owned) and t.owner == owner]
    out: list[Term] = []
    for i, v in enumerate(node.outputs):
        vector = follow(terms[0], node) if isinstance(terms[0], Owned) and len(terms) == 1 else None
        compute = lambda env, i=i: run(env)[i]
        found, depth = s.calibrated(v), deepest(terms)
        out.append(Owned(owner, tuple(v.shape), np.dtype(v.dtype), compute, names[0], vector, found, depth))
    return out


def _located(s: Scope, j: Joint, node: Node, value: Value) -> Joint:
    """The same value, of known range, whose operations carry this node's site and whose errors name it."""

    def at(make):
        def run(*args):
            with s.b.site(node.site or node.where, node.op):
                made = _emit(lambda: make(*args), f"`{node.op}`", node)
            s.note(node.site or node.where, node.op, made, found)
            return made

        return run

    fields = {name: getattr(j, name) for name in ("affine", "masked", "inverse", "flag", "spread", "linear")}
    found = s.ranges.get(value, j.range)
    centred = at(j.make_centred) if j.make_centred else None
    return Joint(j.shape, at(j.make_raw), at(j.make_operand), centred, range=found, **fields)


def _emit(make, what: str, node: Node | None = None):
    try:
        return make()
    except UnsupportedOperationError:
        raise
    except (ValueError, TypeError, NotImplementedError) as e:
        raise UnsupportedOperationError(f"{what} cannot be made private: {e}. {_place(node)}".strip()) from e


def _place(node: Node | None) -> str:
    if node is None:
        return ""
    site = f" in {node.site}" if node.site else ""
    return f"It is at {node.where or 'an unknown place'}{site}. "

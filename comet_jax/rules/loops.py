"""Loops whose number of steps is public.

A loop stays a loop in every program, so that size and compile time do not grow with its length. Where its steps are
not alike, because a public value that differs from step to step (a counter) meets a secret, they are written out one
after the other, up to ``UNROLLED`` of them.
"""

from dataclasses import replace

import numpy as np

from comet_jax.ir.jaxprs import Const, Graph, Node, concrete
from comet_jax.protocols.linear import Rearrange
from comet_jax.rules.knowledge import NOBODY, together, who_knows
from comet_jax.rules.registry import rule
from comet_jax.rules.rolled import Loop, Rolled
from comet_jax.rules.scope import Scope
from comet_jax.rules.structure import layer
from comet_jax.rules.terms import PUBLIC, Joint, Known, Owned, Scaled, Term, VaryingError

UNROLLED = 32
# Public loops are counted by running them.
LONGEST = 100_000


@rule("scan")
def scan(s: Scope, node: Node, *terms: Term):
    p = node.params
    consts, first = p["num_consts"], p["num_consts"] + p["num_carry"]
    parts = terms[:consts], terms[consts:first], terms[first:]
    return _run(s, node, Loop(p["body"], p["length"], bool(p["reverse"]), *map(tuple, parts)))


@rule("while")
def while_(s: Scope, node: Node, *terms: Term):
    p = node.params
    tested, fixed = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    consts, carries = terms[tested:fixed], terms[fixed:]
    steps = _count(p["test"], terms[:tested], p["body"], consts, carries)
    return _run(s, node, Loop(p["body"], steps, False, tuple(consts), tuple(carries), ()))


def _run(s: Scope, node: Node, loop: Loop) -> list[Term]:
    """The terms of the carries, then of what the steps stack."""
    if loop.length <= 1:
        return _unrolled(s, node, loop)
    still = [a is b for a, b in zip(loop.carried_in, loop.carried_out)]
    if any(still):
        return _without(s, node, loop, still)
    try:
        return Rolled(s, loop).results(node)
    except VaryingError as error:
        if loop.length > UNROLLED:
            raise ValueError(
                f"{str(error).rstrip('. ')}; so its {loop.length} steps would have to be written out, and more than "
                f"{UNROLLED} are too many. Scan over the array instead of indexing it by a counter, or share the "
                "public value"
            ) from error
        return _unrolled(s, node, loop)


def _without(s: Scope, node: Node, loop: Loop, still: list[bool]) -> list[Term]:
    """A carry that each step hands on as it is, is no carry: every step takes it."""
    pick = lambda xs, wanted: tuple(x for x, k in zip(xs, still) if k == wanted)
    consts, (_, carried, stacked) = len(loop.consts), loop.parts(loop.body.inputs)
    inputs = (*loop.body.inputs[:consts], *pick(carried, True), *pick(carried, False), *stacked)
    outputs = (*pick(loop.carried_out, False), *loop.body.outputs[len(still) :])
    body = replace(loop.body, inputs=inputs, outputs=outputs)
    kept = (*pick(node.outputs, False), *node.outputs[len(still) :])
    fewer = replace(loop, body=body, consts=(*loop.consts, *pick(loop.inits, True)), inits=pick(loop.inits, False))
    out = iter(_run(s, replace(node, outputs=kept), fewer))
    return [*(init if k else next(out) for init, k in zip(loop.inits, still)), *out]


def _unrolled(s: Scope, node: Node, loop: Loop) -> list[Term]:
    from comet_jax.passes.lower import lower_nodes

    carry, made = list(loop.inits), []
    for k in loop.order:
        slices = [_slice(s, x, k) for x in loop.stacked]
        out = lower_nodes(s, loop.body, dict(zip(loop.body.inputs, [*loop.consts, *carry, *slices])))
        carry = out[: len(carry)]
        made.append(out[len(carry) :])
    if loop.reverse:
        made.reverse()
    stacked = []
    for j, v in enumerate(node.outputs[len(carry) :]):
        steps = [m[j] for m in made]
        stacked.append(_stack(s, steps) if steps else Known(np.zeros(v.shape, v.dtype)))
    return [*carry, *stacked]


def _slice(s: Scope, x: Term, k: int) -> Term:
    if isinstance(x, Known):
        return Known(x.value[k])
    shape = tuple(x.shape[1:])
    if isinstance(x, Owned):
        return x.map(lambda a: a[k], shape)
    return layer(s, x, 0, k)


def _stack(s: Scope, terms: list[Term]) -> Term:
    shape, owner = (len(terms), *terms[0].shape), together(map(who_knows, terms))
    if all(isinstance(t, Known) for t in terms):
        return Known(np.stack([np.asarray(t.value) for t in terms]))  # type: ignore[union-attr]
    if owner != NOBODY:
        mine = [t for t in terms if not isinstance(t, Joint)]
        at = next(i for i, t in enumerate(mine) if isinstance(t, Owned))
        first, others = mine[at], mine[:at] + mine[at + 1 :]
        assert isinstance(first, Owned)
        return first.map(lambda a, *more: np.stack([*more[:at], a, *more[at:]]), shape, *others)
    joints = [s.joint(t) for t in terms]

    def make() -> Scaled:
        parts = [j.raw for j in joints]
        scale = s.common_scale(*parts)
        one = Rearrange("reshape", ((1, *shape[1:]),))
        rows = [s.b.emit(one, s.rescale(p, scale).var) for p in parts]
        return Scaled(s.b.emit(Rearrange("concatenate", (0,)), *rows), scale)

    return s.boolean(shape, make) if all(j.flag for j in joints) else s.result(shape, make)


def _count(test: Graph, fixed, body: Graph, consts, carries) -> int:
    """How often a loop runs. Raises ``ValueError`` where that depends on a secret."""
    public = [isinstance(t, Known) for t in carries]
    while True:
        known = _depending_on(body, [*(isinstance(t, Known) for t in consts), *public])
        still = [p and known[i] for i, p in enumerate(public)]
        if still == public:
            break
        public = still
    if not _depending_on(test, [*(isinstance(t, Known) for t in fixed), *public])[0]:
        if any(isinstance(t, Owned) and t.owner == PUBLIC for t in (*fixed, *consts, *carries)):
            raise VaryingError("the number of steps of a loop differs from step to step of the loop around it")
        raise ValueError(
            "how often it runs depends on a secret, and would show it. Run a fixed number of steps (lax.fori_loop or "
            "lax.scan), and keep the old value by jnp.where once it is done"
        )
    value = lambda t: t.value if isinstance(t, Known) else None
    now = [value(t) if p else None for t, p in zip(carries, public)]
    only = lambda graph, wanted: replace(graph, outputs=tuple(v for v, w in zip(graph.outputs, wanted) if w)).pruned()
    step, before = only(body, public), [*map(value, consts)]
    steps = 0
    while bool(test.pruned().evaluate(*map(value, fixed), *now)[0]):
        if steps == LONGEST:
            raise ValueError(f"it runs for more than {LONGEST} steps")
        found = iter(step.evaluate(*before, *now))
        now = [concrete(next(found)) if p else None for p in public]
        steps += 1
    return steps


def _depending_on(graph: Graph, given: list[bool]) -> list[bool]:
    """Which outputs follow from the given inputs alone."""
    env = dict(zip(graph.inputs, given, strict=True))
    read = lambda v: isinstance(v, Const) or env[v]
    for n in graph.nodes:
        env.update(dict.fromkeys(n.outputs, all(map(read, n.inputs))))
    return [read(v) for v in graph.outputs]

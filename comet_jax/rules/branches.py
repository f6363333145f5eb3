"""Choices: of a public one only the chosen branch exists; by a secret all branches are computed and one is selected."""

from dataclasses import replace

import numpy as np

from comet_jax.ir.jaxprs import Node, Value
from comet_jax.policy import Range
from comet_jax.rules.arithmetic import add
from comet_jax.rules.comparison import nonnegative
from comet_jax.rules.registry import RULES, rule
from comet_jax.rules.scope import Scope
from comet_jax.rules.structure import align
from comet_jax.rules.terms import PUBLIC, Joint, Known, Owned, Term, VaryingError


@rule("cond")
def cond(s: Scope, node: Node, index: Term, *operands: Term):
    from comet_jax.passes.lower import lower_nodes

    branches = node.params["branches"]
    if isinstance(index, Owned) and index.owner == PUBLIC:
        raise VaryingError("the branch differs from step to step of a loop")
    if isinstance(index, Known):
        branches = [branches[int(np.clip(index.value, 0, len(branches) - 1))]]
    chosen, *others = (lower_nodes(s, g, dict(zip(g.inputs, operands))) for g in branches)
    for k, results in enumerate(others, 1):
        reached = _reached(s, index, k, len(branches))
        chosen = [_choose(s, v, reached, no, yes) for v, no, yes in zip(node.outputs, chosen, results)]
    return chosen


def _reached(s: Scope, index: Term, k: int, count: int) -> Joint:
    """Whether the branch is the k-th or a later one."""
    if isinstance(index, Owned):
        return s.joint(index.map(lambda i: np.asarray(i) >= k, index.shape, dtype=bool))
    assert isinstance(index, Joint)
    if index.flag and count == 2:
        return index
    places = Range(1.0, float(count), float(count))  # JAX clips the index of a switch
    return nonnegative(s, add(s, None, replace(index, range=places), Known(np.array(-k))))  # type: ignore[arg-type]


def _choose(s: Scope, value: Value, which: Joint, no: Term, yes: Term) -> Term:
    if no is yes or (_equal(no, yes) if isinstance(no, Known) and isinstance(yes, Known) else False):
        return no
    case = Value(value.shape, value.dtype)
    select = Node("select_n", {}, (Value(value.shape, np.dtype(bool)), case, case), (value,))
    out = RULES["select_n"](s, select, align(s, which, value.shape), no, yes)
    assert isinstance(out, Joint)
    return s.boolean(value.shape, lambda: out.raw) if value.dtype.kind == "b" and not out.flag else out


def _equal(a: Known, b: Known) -> bool:
    return np.array_equal(a.value, b.value, equal_nan=a.value.dtype.kind == "f")

"""`reduce` with a function: recognised where that is an operation with a reduction of its own."""

from dataclasses import replace

import numpy as np

from comet_jax.ir.jaxprs import Graph, Node
from comet_jax.rules.registry import RULES, rule
from comet_jax.rules.scope import Scope
from comet_jax.rules.structure import align
from comet_jax.rules.terms import Known, Term

# Operation -> its reduction, and the start that changes nothing.
REDUCTIONS = {
    "add": ("reduce_sum", 0),
    "mul": ("reduce_prod", 1),
    "max": ("reduce_max", -np.inf),
    "min": ("reduce_min", np.inf),
    "and": ("reduce_and", True),
    "or": ("reduce_or", False),
    "xor": ("reduce_xor", False),
}


def operation_of(body: Graph) -> str:
    """The operation that a function of two numbers is, if it is a single one of both; "" if not."""
    single = len(body.nodes) == 1 and set(body.nodes[0].inputs) == set(body.inputs)
    return body.nodes[0].op if single else ""


@rule("reduce")
def reduce(s: Scope, node: Node, *terms: Term):
    operation = operation_of(node.params["body"])
    reduction, neutral = REDUCTIONS.get(operation, ("", None))
    if len(terms) != 2 or reduction not in RULES:
        raise ValueError("only a sum, maximum or minimum has a private rule: use jnp.sum, jnp.max or jnp.min")
    x, start = terms
    out, axes = node.outputs[0], {"axes": tuple(node.params["dimensions"])}
    reduced = RULES[reduction](s, replace(node, op=reduction, params=axes, inputs=node.inputs[:1]), s.joint(x))
    if isinstance(start, Known) and start.value == neutral:
        return reduced
    both = replace(node, op=operation, params={}, inputs=(out, node.inputs[1]))
    return RULES[operation](s, both, reduced, align(s, start, out.shape))

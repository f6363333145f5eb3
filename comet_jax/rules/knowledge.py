"""Who will know the results of a graph, said before it is lowered: everybody, one owner, or nobody."""

from collections.abc import Iterable, Sequence

from comet_jax.ir.jaxprs import Const, Graph, Node, Value
from comet_jax.rules.terms import PUBLIC, Known, Owned, Term

NOBODY = "nobody"


def who_knows(term: Term) -> str:
    """The owner of a term, PUBLIC or NOBODY."""
    return PUBLIC if isinstance(term, Known) else term.owner if isinstance(term, Owned) else NOBODY


def together(owners: Iterable[str]) -> str:
    """Who can compute what depends on values of all these owners."""
    secret = set(owners) - {PUBLIC}
    return PUBLIC if not secret else secret.pop() if len(secret) == 1 else NOBODY


def results(graph: Graph, inputs: Sequence[str]) -> list[str]:
    """Who knows each output, given who knows each input."""
    env: dict[Value, str] = dict(zip(graph.inputs, inputs, strict=True))
    read = lambda v: PUBLIC if isinstance(v, Const) else env[v]
    for node in graph.nodes:
        env.update(zip(node.outputs, _outputs(node, [read(v) for v in node.inputs]), strict=True))
    return [read(v) for v in graph.outputs]


def _outputs(node: Node, inputs: list[str]) -> list[str]:
    known = together(inputs)
    if known != NOBODY:
        return [known] * len(node.outputs)
    p = node.params
    if node.op == "scan":
        return after_steps(p["body"], inputs, p["num_consts"], p["num_carry"])
    if node.op == "while":
        return after_steps(p["body"], inputs[p["cond_nconsts"] :], p["body_nconsts"], len(node.outputs))
    if node.op == "cond" and inputs[0] == PUBLIC:
        return list(map(together, zip(*(results(g, inputs[1:]) for g in p["branches"]))))
    return [NOBODY] * len(node.outputs)


def after_steps(body: Graph, inputs: Sequence[str], consts: int, carries: int) -> list[str]:
    """Who knows the results of a loop: what a step hands on is known to who knows it before and after the step."""
    inputs = list(inputs)
    while True:
        out = results(body, inputs)
        carried = list(map(together, zip(inputs[consts : consts + carries], out)))
        if carried == inputs[consts : consts + carries]:
            return out
        inputs[consts : consts + carries] = carried

"""``comet-jax explain``: what a case would cost and reveal, without running it."""

import dataclasses
import json
from typing import Annotated, Literal

import tyro

import comet_jax as cj
from comet_jax import cases
from comet_jax.commands.bench import CaseName
from comet_jax.commands.jobs import shapes
from comet_jax.passes.explain import Explanation


def explain(
    case: tyro.conf.Positional[CaseName],
    *,
    tokens: int | None = None,
    ring: Literal[32, 64] = 32,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Print what a case would cost and reveal, by operation, without running it.

    Args:
        case: what to explain.
        tokens: how many tokens; by default the case's own.
        ring: bits of the ring.
        as_json: print one JSON object.
    """
    found = explained(case, tokens, ring)
    if as_json:
        print(json.dumps({"case": case, "ring": ring, **dataclasses.asdict(found)}))
    else:
        print(found)


def explained(case: str, tokens: int | None, ring: Literal[32, 64]) -> Explanation:
    """The explanation of a case; its input is nobody's, as in a benchmark."""
    made = cases.make(case, tokens)
    policy = made.policy(ring)
    x = cj.seal(shapes(made.x), policy) if made.sealed else shapes(made.x)
    return cj.explain(made.function, shapes(made.weights), x, policy=policy)

"""``comet-jax explain``: what a case would cost and reveal, without running it."""

import dataclasses
import json
from typing import Annotated, Literal

import tyro

import comet_jax as cj
from comet_jax.commands.bench import CaseName
from comet_jax.commands.jobs import Job, shapes
from comet_jax.passes.explain import Explanation
from comet_jax.policy import Reveals


def explain(
    case: tyro.conf.Positional[CaseName],
    *,
    tokens: int | None = None,
    ring: Literal[32, 64] = 32,
    gate: float | None = None,
    block: int = 1,
    reveals: Reveals = "flags",
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Print what a case would cost and reveal, by operation, without running it.

    Args:
        case: what to explain.
        tokens: how many tokens; by default the case's own.
        ring: bits of the ring.
        gate: gate the feed-forward layers, with room for this part of their blocks.
        block: neurons in a block of a gate.
        reveals: what a gate shows to both parties.
        as_json: print one JSON object.
    """
    found = explained(Job(job=case, tokens=tokens, ring=ring, gate=gate, block=block, reveals=reveals))
    if as_json:
        print(json.dumps({"case": case, "ring": ring, **dataclasses.asdict(found)}))
    else:
        print(found)


def explained(job: Job) -> Explanation:
    """The explanation of a case; its input is nobody's, as in a benchmark."""
    made = job.case()
    policy = made.policy(job.ring)
    x = cj.seal(shapes(made.x), policy) if made.sealed else shapes(made.x)
    return cj.explain(made.function, shapes(made.weights), x, policy=policy)

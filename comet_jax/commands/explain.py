"""``comet-jax explain``: what a case would cost and reveal, without running it."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import tyro
from rich.table import Table

import comet_jax as cj
from comet_jax import cases
from comet_jax.commands.bench import CaseName
from comet_jax.commands.jobs import Job, shapes
from comet_jax.ir.variant import DEALT
from comet_jax.passes.explain import Explanation, as_text, size
from comet_jax.passes.variants import Priced, priced


def explain(
    case: tyro.conf.Positional[CaseName],
    *,
    tokens: int | None = None,
    ring: Literal[32, 64] = 32,
    link: Literal["lan", "wan", "far"] | None = None,
    gating: tyro.conf.OmitArgPrefixes[cases.Gating] = cases.DENSE,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Print what a case would cost and reveal, by operation, without running it.

    Args:
        case: what to explain.
        tokens: how many tokens; by default the case's own.
        ring: bits of the ring.
        link: show the variants of the program, without its gates too, and which is fastest on this link.
        gating: how the feed-forward layers are gated.
        as_json: print one JSON object.
    """
    job = Job(job=case, tokens=tokens, ring=ring, gating=gating)
    found = explained(job)
    variants = [] if link is None else list(_variants(job, cj.LINKS[link]))
    if as_json:
        told = {"case": case, "ring": ring, **dataclasses.asdict(found)}
        print(json.dumps(told | ({"link": link, "variants": list(map(_figures, variants))} if link else {})))
        return
    print(found)
    if link:
        print(f"\nVariants on the link {link}; the fastest, with dealt bytes at {DEALT:g} of their time, is marked:")
        print(as_text(_table(variants)))


def _variants(job: Job, link: cj.Link) -> Iterator[Priced]:
    function, arguments, policy = _call(job)
    traced = cj.private(function, policy=policy).trace(*arguments)
    return priced(lambda p, call: dataclasses.replace(traced, policy=p).lower(call), policy, link)


def _figures(p: Priced) -> dict[str, Any]:
    figures = {name: figure for name, figure in vars(p).items() if name != "policy"}
    return {"variant": str(p.policy.variant), "gates": len(p.policy.gates), **figures}


def _table(variants: list[Priced]) -> Table:
    table, best = Table(box=None, pad_edge=False), min(variants, key=lambda p: p.cost)
    table.add_column("variant", overflow="fold")
    for name in ("gates", "rounds", "online", "offline", "seconds", ""):
        table.add_column(name, justify="right")
    for p in variants:
        counts = str(len(p.policy.gates)), f"{p.rounds:g}", size(p.online_bytes), size(p.offline_bytes)
        table.add_row(str(p.policy.variant), *counts, f"{p.seconds:.3g}", "*" if p is best else "")
    return table


def explained(job: Job) -> Explanation:
    """The explanation of a case; its input is nobody's, as in a benchmark."""
    function, arguments, policy = _call(job)
    return cj.explain(function, *arguments, policy=policy)


def _call(job: Job) -> tuple[Callable[..., Any], tuple, cj.Policy]:
    made = job.case()
    policy = made.policy(job.ring)
    x = cj.seal(shapes(made.x), policy) if made.sealed else shapes(made.x)
    return made.function, (shapes(made.weights), x), policy

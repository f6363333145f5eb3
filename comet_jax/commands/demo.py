"""``comet-jax demo``: a language model continues a prompt that nobody but the client sees, in five processes."""

from dataclasses import replace
from statistics import mean, median
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from comet_jax.cases import Gating
from comet_jax.commands import jobs, local
from comet_jax.commands.jobs import Job
from comet_jax.commands.roles import PROMPT

SHOWN = {
    "dense": "nothing: openings under one-time masks",
    "flags": "to both parties which neurons each token uses, in a secret order: who has the model reads the prompt",
}


def demo(
    prompt: str = PROMPT, *, runs: int = 24, tokens: int = 64, ring: Literal[32, 64] = 32, gate: float | None = 0.3125
) -> None:
    """Continue a prompt privately, with all roles as processes of this machine, and compare with the clear.

    Once with every neuron computed, and once with gates: a predictor on shares says which blocks of 16 matter.

    Args:
        prompt: text that the client keeps secret.
        runs: bytes to write.
        tokens: positions of the model's window.
        ring: bits of the ring.
        gate: the part of the blocks that gates have room for; None for no second run.
    """
    job = Job(runs=runs, tokens=tokens, ring=ring)
    jobs.check_prompt(prompt, job)
    console = Console()
    console.print(
        "A byte-level language model continues a secret prompt with secret weights, on two parties that see random "
        "shares only.\nProcesses: dealer, party 0, party 1, the model's owner, and the client, whose output this is."
    )
    found = {"dense": _run(job, prompt)}
    if gate is not None:
        console.print("\nThe same with gated feed-forward layers, which show more: see below.")
        found["flags"] = _run(replace(job, gating=Gating(gate=gate, block=16)), prompt)
    console.print(_table(found))


def _run(job: Job, prompt: str) -> dict[str, Any]:
    with local.started(job, ("--prompt", prompt), show_client=True) as roles:
        roles.wait()
        dealer, client = roles.report("dealer"), roles.report("client")
        parties = [roles.report(f"party{i}")["runs"] for i in (0, 1)]
    seconds = lambda runs, name: median(run["seconds"][name] for run in runs)
    flags = [f for run in parties[0] for f in run["flags"]]
    return {
        "text": client["text"],
        "kept": mean(f["kept"] for f in flags) if flags else 1.0,
        "cut": sum(f["overflow"] for f in flags),
        "online_bytes": parties[0][0]["online_bytes"],
        "offline_bytes": parties[0][0]["offline_bytes"],
        "online": max(seconds(runs, "online") for runs in parties),
        "deal": seconds(dealer["runs"], "deal"),
    }


def _table(found: dict[str, dict[str, Any]]) -> Table:
    """Both runs beside each other."""
    table = Table("for one byte of text", *found, box=None, pad_edge=False)
    table.add_row("text", *(repr(f["text"]) for f in found.values()))
    cut = lambda f: f", {f['cut']:,} cut in all" if f["cut"] else ""
    table.add_row("neurons computed", *(f"{f['kept']:.1%}{cut(f)}" for f in found.values()))
    table.add_row("sent by each party", *(f"{f['online_bytes'] / 1e6:.2f} MB" for f in found.values()))
    table.add_row("dealt ahead of time", *(f"{f['offline_bytes'] / 1e6:.0f} MB" for f in found.values()))
    table.add_row("parties, online", *(f"{f['online']:.2f} s" for f in found.values()))
    table.add_row("dealer, ahead of time", *(f"{f['deal']:.2f} s" for f in found.values()))
    table.add_row("reveals", *(SHOWN[name] for name in found))
    return table

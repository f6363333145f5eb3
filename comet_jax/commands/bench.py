"""``comet-jax bench``: run a case and print what it took, as a table or as one JSON object."""

import json
import statistics
from collections.abc import Mapping
from itertools import takewhile
from typing import Annotated, Any, Literal

import jax
import tyro
from rich.console import Console
from rich.table import Table

import comet_jax as cj
from comet_jax import cases
from comet_jax.commands import jobs, local
from comet_jax.commands.jobs import Job
from comet_jax.commands.local import Place
from comet_jax.errors import CometError
from comet_jax.runtime.memory import keep_freed_memory

CaseName = Annotated[str, tyro.conf.arg(metavar="{" + ",".join(cases.CASES) + "}")]
Runtime = Literal["simulated", "devices", "processes"]

MEANING = {
    "rounds": "rounds of communication",
    "online_bytes": "bytes sent by one party (both send the same)",
    "offline_bytes": "bytes sent by the dealer, ahead of time",
    "renewal_bytes": "bytes that sharing weights afresh takes, ahead of time",
    "kept": "part of the blocks of gated layers that were flagged",
    "capacity": "part of the blocks that there is room for",
    "overflow": "flagged blocks without a slot, which were not computed; by scores none are flagged beyond the slots",
    "wall_s": "seconds online: from when both parties have their shares of the inputs to when both have the result's",
    "offline_wall_s": "seconds of a party's own work ahead of time",
    "dealer_wall_s": "seconds of the dealer's work ahead of time",
    "plain_wall_s": "seconds of the same function in the clear, float32, compiled",
    "compile_s": "seconds that the first run takes longer: tracing, compiling, loading weights",
    "max_abs_err": "largest difference from the result in the clear",
}


def bench(
    case: tyro.conf.Positional[CaseName],
    *,
    tokens: int | None = None,
    ring: Literal[32, 64] = 32,
    runtime: Runtime = "simulated",
    runs: int = 5,
    gating: tyro.conf.OmitArgPrefixes[cases.Gating] = cases.DENSE,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Run a case and report bytes, rounds, seconds (medians) and error.

    Args:
        case: what to run.
        tokens: how many tokens; by default the case's own.
        ring: bits of the ring.
        runtime: both parties on one device, on two devices of this process, or all roles as processes.
        runs: timed runs, after one that compiles. Of an epoch, at least as many: counts are means over it.
        gating: how the feed-forward layers are gated.
        as_json: print one JSON object.
    """
    job = Job(job=case, tokens=tokens, runs=runs, ring=ring, gating=gating)
    # To the terminal only, and beside the result: a pipe gets the result alone.
    with Console(stderr=True).status(f"compiling {case}, then {runs} timed runs"):
        found = measure(job, runtime)
    if as_json:
        print(json.dumps(found))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in found.items():
        shown = f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
        table.add_row(name, shown, MEANING.get(name, ""))
    Console().print(table)


def measure(job: Job, runtime: Runtime, places: Mapping[str, Place] | None = None) -> dict[str, Any]:
    """The figures of one case, as ``bench --json`` prints them. ``places``: of roles whose processes run elsewhere."""
    if job.runs < 1:
        raise CometError(f"--runs {job.runs}: at least one run is needed to measure")
    if job.runs < _counted(job).stop:
        needs = f"needs {_counted(job).stop}" if _counted(job).start else "needs as many"
        raise CometError(f"--runs {job.runs}: an epoch of {job.gating.epoch} calls {needs} to measure")
    tokens = job.case().tokens
    found = _in_processes(job, places) if runtime == "processes" else _in_this_process(job, runtime)
    return {"case": job.job, "tokens": tokens, "ring": job.ring, "runtime": runtime, "runs": job.runs, **found}


def _in_this_process(job: Job, runtime: Runtime) -> dict[str, Any]:
    keep_freed_memory()
    if runtime == "devices":
        jax.config.update("jax_num_cpu_devices", 2)
    with cj.Session.devices() if runtime == "devices" else cj.Session.simulated() as session:
        figures = jobs.run_case(session, job)
    runs = [r.seconds for r in session.reports[1:]]
    counts = _counts([r.json() for r in session.reports[_counted(job)]])
    return counts | _walls([r["online"] for r in runs], runs, runs) | figures


def _in_processes(job: Job, places: Mapping[str, Place] | None) -> dict[str, Any]:
    with local.started(job, places=places) as roles:
        roles.wait()
        dealer, client = roles.report("dealer"), roles.report("client")
        reports = [roles.report(f"party{i}")["runs"] for i in (0, 1)]
    client.pop("runs")
    counts = _counts(reports[0][_counted(job)])
    pairs = list(zip(*(runs[1:] for runs in reports)))
    spans = [[_online(run) for run in pair] for pair in pairs]
    online = [max(end for _, end in pair) - max(start for start, _ in pair) for pair in spans]
    # Of what each party does alone ahead of time, the slower one's.
    offline = [max((run["seconds"] for run in pair), key=lambda s: s["offline"]) for pair in pairs]
    return counts | _walls(online, offline, [r["seconds"] for r in dealer["runs"][1:]]) | client


def _counted(job: Job) -> slice:
    """The calls that are counted: those of an epoch, the second one where the first is not renewed as others are."""
    first = job.gating.epoch if job.gating.renewal == "shuffle" else 0
    return slice(first, first + job.gating.epoch)


def _counts(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Exact figures of a run, or a mean over the runs of an epoch, from a party's reports."""
    mean = lambda name: statistics.mean(run[name] for run in runs)
    counts = {name: mean(name) for name in ("rounds", "online_bytes", "offline_bytes")}
    if runs[0]["renewal_bytes"]:
        counts["renewal_bytes"] = mean("renewal_bytes")
    if runs[0]["flags"]:
        gates = [gate for run in runs for gate in run["flags"]]
        for name in ("kept", "capacity"):
            counts[name] = statistics.mean(gate[name] for gate in gates)
        counts["overflow"] = statistics.mean(sum(gate["overflow"] for gate in run["flags"]) for run in runs)
    return counts


def _online(run: dict[str, Any]) -> tuple[float, float]:
    """When a party began a run's computation and when it ended: hashing what was opened belongs to it.

    The party that has its material first waits for the other inside its first exchange, which is no time online.
    """
    seconds = run["seconds"]
    start = run["began"] + sum(seconds[name] for name in takewhile(lambda name: name != "online", seconds))
    return start, start + seconds["online"] + seconds["hash"]


def _walls(online: list[float], parties: list[dict], dealer: list[dict]) -> dict[str, float]:
    return {
        "wall_s": statistics.median(online),
        "offline_wall_s": statistics.median(s["offline"] for s in parties),
        "dealer_wall_s": statistics.median(s["deal"] for s in dealer),
    }

"""``comet-jax dealer | party | model | client``: one role of a session in this process."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from comet_jax.commands import jobs
from comet_jax.commands.jobs import Job, Written
from comet_jax.commands.network import Network
from comet_jax.runtime.memory import keep_freed_memory
from comet_jax.runtime.session import Session

At = Annotated[Network, tyro.conf.arg(name="")]
What = Annotated[Job, tyro.conf.arg(name="")]
Report = Annotated[Path | None, tyro.conf.arg(help="Write what each run took to this file, as JSON.")]

PROMPT = "The return value is a list of "


def dealer(at: At, what: What, *, report: Report = None) -> None:
    """Deal correlated randomness to the parties. Sees no data."""
    _serve("dealer", at, what, report)


def party(index: tyro.conf.Positional[Literal["0", "1"]], at: At, what: What, *, report: Report = None) -> None:
    """Compute on shares, as party 0 or party 1."""
    _serve(f"party{index}", at, what, report)


def model(at: At, what: What, *, report: Report = None) -> None:
    """Share the weights, as their owner."""
    _serve("model", at, what, report)


def client(at: At, what: What, *, prompt: str = PROMPT, compare: bool = True, report: Report = None) -> None:
    """Share the prompt, or a case's input, and alone learn the result.

    `--compare`: afterwards compute the same in the clear, with the weights that come with the package, and show both.
    """
    if what.job != jobs.TEXT:
        _serve("client", at, what, report)
        return
    keep_freed_memory()
    text, console = jobs.check_prompt(prompt, what), Console()
    with _progress(console) as progress:
        task = progress.add_task("waiting for the other roles", total=what.runs)
        with at.session("client", what.runs) as session:
            progress.update(task, description="sharing weights and compiling")
            so_far = bytearray()

            def each(step: Written) -> None:
                so_far.append(step.byte)
                progress.update(task, advance=1, description=repr(_readable(bytes(so_far))))

            written = jobs.write_text(session, what, text, each)
    _show(console, session, text, written)
    if compare:
        _compare(console, written, jobs.in_the_clear(text, what.runs, jobs.window(what)))
    _write(report, session, {"text": _readable(bytes(w.byte for w in written))})


def _serve(role: str, at: Network, what: Job, report: Path | None) -> None:
    keep_freed_memory()
    text = what.job == jobs.TEXT
    with at.session(role, what.runs if text else what.runs + 1) as session:
        found = {} if text else jobs.run_case(session, what)
        if text:
            jobs.write_text(session, what)
    _write(report, session, found)


def _write(report: Path | None, session: Session, found: Mapping[str, Any]) -> None:
    if report is not None:
        report.write_text(json.dumps({**found, "runs": [r.json() for r in session.reports]}))


def _progress(console: Console) -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console)


def _readable(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def _show(console: Console, session: Session, prompt: bytes, written: list[Written]) -> None:
    run, seconds = session.reports[-1], np.median([w.seconds for w in written])
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("prompt", repr(_readable(prompt)))
    table.add_row("continued privately", repr(_readable(bytes(w.byte for w in written))))
    table.add_row("a byte of text costs", f"{run.rounds} rounds, {seconds:.2f} s as the client sees it (median)")
    table.add_row("", f"{run.online_bytes / 1e6:.2f} MB sent by each party")
    table.add_row("", f"{run.offline_bytes / 1e6:.2f} MB dealt ahead of time")
    console.print(table)


def _compare(console: Console, written: list[Written], clear: list[Written]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("continued in the clear", repr(_readable(bytes(w.byte for w in clear))))
    # Logits of different texts are not comparable: only those up to the first difference are.
    same = next((i for i, (a, b) in enumerate(zip(written, clear)) if a.byte != b.byte), len(written))
    pairs = list(zip(written, clear))[: same + 1]
    largest = max(float(np.abs(a.logits - b.logits).max()) for a, b in pairs)
    table.add_row("", f"the same for {same} of {len(written)} bytes; largest difference of a logit: {largest:.4f}")
    console.print(table)

"""A case of ``comet-jax bench`` over links of given rate and latency, instead of this machine's loopback.

    python -m benchmarks.links opt125m --tokens 16 --links lan metro wan
    python -m benchmarks.links ffn --links 250/10 --json

Every role is a process in a network namespace of its own; ``relay.py`` joins them. What a link is said to be, and what
plain TCP connections between the two parties found before the case ran, are printed beside each other. Other options
are those of ``comet-jax bench``. Processes still share this machine's cores. It needs Linux, root and /dev/net/tun, as
in a privileged container.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from comet_jax.commands.bench import CaseName, measure
from comet_jax.commands.jobs import Job
from comet_jax.commands.local import Place
from comet_jax.errors import CometError
from comet_jax.runtime.roles import ROLES

ROOT = Path(__file__).resolve().parent.parent
PROBE_PORT = 7000


@dataclass(frozen=True)
class Link:
    """Of every ordered pair of roles: ``mbps`` megabits a second, ``rtt_ms`` milliseconds there and back."""

    mbps: float
    rtt_ms: float


LINKS = {"lan": Link(5000, 0.4), "metro": Link(1000, 2), "wan": Link(100, 40)}


class NotPermittedError(CometError):
    """This machine or account cannot make network namespaces and TUN devices."""


@dataclass(frozen=True, kw_only=True)
class Options(Job):
    """Measure a case over links of given rate and latency."""

    job: tyro.conf.Positional[Annotated[CaseName, tyro.conf.arg(name="case")]] = field()
    """What to run."""
    runs: int = 5
    """Timed runs, after one that compiles."""
    links: tuple[str, ...] = tuple(LINKS)
    """lan (5 Gbit/s, 0.4 ms there and back), metro (1 Gbit/s, 2 ms), wan (100 Mbit/s, 40 ms), or MBPS/RTT_MS."""
    json: bool = False
    """Print one JSON object."""


def link_named(name: str) -> Link:
    """A link by its name or its numbers."""
    if name in LINKS:
        return LINKS[name]
    try:
        mbps, rtt_ms = map(float, name.split("/"))
    except ValueError:
        mbps = rtt_ms = -1.0
    if not (mbps > 0 and rtt_ms >= 0):
        raise CometError(f"there is no link {name!r}: name {', '.join(LINKS)}, or give MBPS/RTT_MS, such as 250/10")
    return Link(mbps, rtt_ms)


@contextmanager
def joined(link: Link, names: tuple[str, ...] = ROLES) -> Iterator[dict[str, Place]]:
    """A network namespace for each of ``names``, each pair joined by ``link``; all are gone on leaving.

    Raises ``NotPermittedError`` with what this machine said.
    """
    addresses = {name: f"10.77.0.{i}" for i, name in enumerate(names, 1)}
    with ExitStack() as stack:
        start = lambda *command: stack.enter_context(_running(*command))
        setup = lambda address: " && ".join(
            (
                # JAX's collectives (gloo) listen where the host's name leads to: its address is its name.
                f"echo {address} > /proc/sys/kernel/hostname",
                "echo reno > /proc/sys/net/ipv4/tcp_congestion_control",  # which every kernel has
                "ip link set lo up",
                "echo ready",
                "exec cat",  # until we end
            )
        )
        pids = {n: start("unshare", "--net", "--uts", "sh", "-c", setup(a)).pid for n, a in addresses.items()}
        hosts = [f"{pids[name]}={address}" for name, address in addresses.items()]
        nominal = ("--rate", str(1e6 * link.mbps), "--latency", str(link.rtt_ms / 2e3))
        start(sys.executable, "-m", "benchmarks.relay", "--hosts", *hosts, *nominal)
        yield {n: Place(a, ("nsenter", f"--target={pids[n]}", "--net", "--uts")) for n, a in addresses.items()}


def probe(a: Place, b: Place) -> dict[str, float]:
    """What the link from ``a`` to ``b`` carries: see ``probe.py``."""
    script, where = (sys.executable, "-m", "benchmarks.probe"), (b.address, str(PROBE_PORT))
    with _running(*b.prefix, *script, "serve", *where):
        command = (*a.prefix, *script, "measure", *where)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    return json.loads(done.stdout)


def over(job: Job, name: str, cache: Path) -> dict[str, Any]:
    """The figures of ``job`` over the link called ``name``. ``cache``: a folder for compiled programs."""
    link = link_named(name)
    with joined(link) as places:
        measured = probe(places["party0"], places["party1"])
        keep = ("env", f"JAX_COMPILATION_CACHE_DIR={cache}")
        figures = measure(job, "processes", {r: Place(p.address, (*p.prefix, *keep)) for r, p in places.items()})
    return {"link": name, "nominal": asdict(link), "measured": measured, **figures}


@contextmanager
def _running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said that it is ready, and that its input's end, or a signal, ends."""
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    except FileNotFoundError as error:
        raise NotPermittedError(f"links cannot be made here: the command {command[0]} is missing") from error
    with process:
        try:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                said = process.communicate()[1].strip().splitlines() or [f"{command[0]} ended"]
                raise NotPermittedError(
                    f"links cannot be made here: {said[-1]}. They take root (CAP_SYS_ADMIN, CAP_NET_ADMIN) and "
                    "/dev/net/tun"
                )
            yield process
        finally:
            process.terminate()


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table("", *(row["link"] for row in found), box=None, pad_edge=False)
    for name, show in (
        ("Mbit/s, nominal", lambda row: f"{row['nominal']['mbps']:g}"),
        ("measured, one way", lambda row: f"{row['measured']['mbps']:.0f}"),
        ("measured, both ways at once", lambda row: f"{row['measured']['mbps_both_ways']:.0f}"),
        ("round trip, ms, nominal", lambda row: f"{row['nominal']['rtt_ms']:g}"),
        ("measured", lambda row: f"{row['measured']['rtt_ms']:.2f}"),
        ("rounds", lambda row: str(row["rounds"])),
        ("bytes sent by one party", lambda row: f"{row['online_bytes']:,}"),
        ("seconds online", lambda row: f"{row['wall_s']:.3f}"),
        ("seconds of the dealer", lambda row: f"{row['dealer_wall_s']:.3f}"),
        ("seconds in the clear", lambda row: f"{row['plain_wall_s']:.3f}"),
    ):
        table.add_row(name, *map(show, found))
    return table


def main() -> None:
    """Command line."""
    options = tyro.cli(Options, description=__doc__)
    try:
        with tempfile.TemporaryDirectory() as cache, Console(stderr=True).status("") as status:
            found = []
            for name in options.links:
                status.update(f"{options.job} over {name}: compiling, then {options.runs} timed runs")
                found.append(over(options, name, Path(cache)))
    except CometError as error:
        raise SystemExit(f"skipped: {error}" if isinstance(error, NotPermittedError) else str(error)) from None
    print(json.dumps(found)) if options.json else Console().print(_table(found))


if __name__ == "__main__":
    main()

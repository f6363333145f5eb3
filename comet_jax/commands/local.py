"""All roles as processes of this machine: what five organisations do by hand, for trials and measurements."""

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comet_jax.commands.jobs import Job
from comet_jax.commands.network import Network
from comet_jax.errors import CometError
from comet_jax.runtime import credentials
from comet_jax.runtime.watchdog import EXIT_STATUS

COMMANDS = {
    "dealer": ["dealer"],
    "party0": ["party", "0"],
    "party1": ["party", "1"],
    "model": ["model"],
    "client": ["client"],
}
GRACE = 15.0  # seconds in which the others end after the first failure


@dataclass(frozen=True)
class Place:
    """Where a role runs: the address at which others find it, and the words before its command that bring it there.

    With ``prefix`` ("nsenter", ...) it can be a network namespace; it must see this machine's files.
    """

    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()


HERE = Place()


class Roles:
    """The processes of all roles; made by ``started``."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def wait(self) -> None:
        """Wait for all. Raises ``CometError`` with the words of the role that failed first."""
        running = dict(self.processes)
        deadline, failed = None, []
        while running:
            for role, process in list(running.items()):
                status = process.poll()
                if status is None:
                    continue
                del running[role]
                if status:
                    failed.append((role, status))
                    deadline = deadline or time.monotonic() + GRACE
            if deadline and time.monotonic() > deadline:
                break
            time.sleep(0.05)
        if failed:
            # A role that the watchdog ended is a victim; the cause is one that ended by itself, if there is one.
            role, status = min(failed, key=lambda f: f[1] == EXIT_STATUS)
            raise CometError(f"{role} ended with status {status}:\n{self.log(role)}")

    def log(self, role: str, lines: int = 15) -> str:
        """The last lines that a role printed."""
        path = self.folder / f"{role}.log"
        text = path.read_text(errors="replace") if path.exists() else ""
        return "\n".join(text.splitlines()[-lines:]) or "(it printed nothing)"

    def report(self, role: str) -> dict[str, Any]:
        """What a role wrote about its runs."""
        return json.loads((self.folder / f"{role}.json").read_text())


@contextmanager
def started(
    job: Job, client: tuple[str, ...] = (), *, show_client: bool = False, places: Mapping[str, Place] | None = None
) -> Iterator[Roles]:
    """Start every role for ``job``; ``client``: more options of the client's command. All have ended on leaving.

    ``show_client``: the client's output goes to this process's; otherwise, like the others', to a file. ``places``:
    where roles run that do not run here.
    """
    at = {role: (places or {}).get(role, HERE) for role in COMMANDS}
    with tempfile.TemporaryDirectory(prefix="comet-jax-") as name:
        roles = Roles(Path(name))
        credentials.create(roles.folder / "keys")
        ports = _free_ports(3)
        network = Network(
            party0=f"{at['party0'].address}:{ports[0]}",
            party1=f"{at['party1'].address}:{ports[1]}",
            collectives=f"{at['party0'].address}:{ports[2]}",
            keys=roles.folder / "keys",
            state=roles.folder / "state",
        )
        options = [*network.options(), *job.options()]
        try:
            for role, command in COMMANDS.items():
                report = ["--report", str(roles.folder / f"{role}.json")]
                more = client if role == "client" else ()
                call = [*at[role].prefix, sys.executable, "-m", "comet_jax.cli", *command, *options, *report, *more]
                if role == "client" and show_client:
                    roles.processes[role] = subprocess.Popen(call)
                    continue
                with open(roles.folder / f"{role}.log", "wb") as log:
                    roles.processes[role] = subprocess.Popen(call, stdout=log, stderr=subprocess.STDOUT)
            yield roles
        finally:
            for process in roles.processes.values():
                process.kill()
                process.wait()


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on here now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports

"""Starts five processes, one a role, on this machine, and collects what became of them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROLES = ("dealer", "party0", "party1", "client", "model")


def free_ports(count: int) -> list[int]:
    """TCP ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


@dataclass
class Fleet:
    """Five processes that run one scenario. ``env``: more environment for some roles; ``ports``: not any free ones."""

    folder: Path
    keys: Path
    cache: Path
    scenario: str
    options: dict = field(default_factory=dict)
    env: dict[str, dict[str, str]] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    roles: tuple[str, ...] = ROLES

    def __enter__(self) -> Fleet:
        ports = dict(zip(("party0", "party1", "party0/jax"), free_ports(3))) | self.ports
        addresses = {name: ("127.0.0.1", port) for name, port in ports.items()}
        settings = {"addresses": addresses, "keys": str(self.keys), "cache": str(self.cache)}
        settings |= {"scenario": self.scenario, "options": {"timeout": 30.0} | self.options}
        (self.folder / "settings.json").write_text(json.dumps(settings))
        self.processes = {role: self._start(role) for role in self.roles}
        return self

    def _start(self, role: str) -> subprocess.Popen:
        script = Path(__file__).with_name("role.py")
        with open(self.folder / f"{role}.err", "w") as err, open(self.folder / f"{role}.out", "w") as out:
            return subprocess.Popen(
                [sys.executable, "-W", "ignore", str(script), role, str(self.folder)],
                stdout=out,
                stderr=err,
                env=os.environ | {"JAX_PLATFORMS": "cpu"} | self.env.get(role, {}),
            )

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def wait(self, timeout: float = 120.0, *, without: tuple[str, ...] = ()) -> dict[str, int]:
        """Exit statuses of all roles but ``without``; those that still run after ``timeout`` are an error."""
        deadline = time.monotonic() + timeout
        waited = [role for role in self.roles if role not in without]
        return {role: self.processes[role].wait(max(0.1, deadline - time.monotonic())) for role in waited}

    def errors(self, role: str) -> str:
        """What ``role`` wrote to stderr."""
        return (self.folder / f"{role}.err").read_text()

    def output(self, role: str) -> str:
        """What ``role`` wrote to stdout."""
        return (self.folder / f"{role}.out").read_text()

    def result(self, role: str):
        """What the scenario returned at ``role``."""
        return json.loads((self.folder / f"{role}.json").read_text())

"""Ways to break a role at a chosen point, named by the environment: BREAK="where:how", e.g. "online:kill".

"opening" and "version" need no ``how``: they change what a party gets from the other, and what it says of itself.
FIXED_KEYS="role" breaks secrecy alone: runs of one name repeat.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import signal
from pathlib import Path

import numpy as np

from comet_jax.errors import CometError
from comet_jax.interpreters import online as interpreter
from comet_jax.runtime import handshake, peers, workers
from comet_jax.runtime.compiled import Compiled
from comet_jax.runtime.connected import Connected
from comet_jax.sharing import chacha

POINTS = {
    "connect": [(peers.Peers, "_add")],
    "load": [(workers.Worker, "__init__")],
    "deal": [(workers.Dealing, "_run"), (workers.Owning, "_run"), (workers.Computing, "_words")],
    "online": [(Compiled, "online")],
    "reveal": [(Connected, "_results")],
}


def fix_keys(name: str) -> None:
    """Keys that depend on ``name`` and their number alone, so that a run can be repeated."""
    numbers = itertools.count()
    hashed = lambda: hashlib.sha256(f"{name} {next(numbers)}".encode()).digest()
    chacha.new_key = lambda: np.frombuffer(hashed(), np.uint32).copy()


def sabotage(folder: Path) -> None:
    """Break this role as the environment says; nothing by default."""
    if name := os.environ.get("FIXED_KEYS"):
        fix_keys(name)
    where, _, how = os.environ.get("BREAK", "").partition(":")
    if where == "opening":
        flip_an_opening()
    if where == "version":
        handshake.installed_versions = lambda original=handshake.installed_versions: original() | {"jaxlib": "0.0.1"}
    for owner, name in POINTS.get(where, []):
        original = getattr(owner, name)

        @functools.wraps(original)
        def broken(*args, original=original, **kwargs):
            (folder / "broken").write_text("")
            act(how)
            return original(*args, **kwargs)

        setattr(owner, name, broken)


def act(how: str) -> None:
    if how == "raise":
        raise ValueError("secret value 4711")
    if how == "refuse":
        raise CometError("this role has had enough")
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[how])


def flip_an_opening() -> None:
    """An attacker on the parties' connection: one bit of one message reaches this party changed."""
    original, done = interpreter.exchange, []

    def exchange(words):
        theirs = original(words)
        if not done:
            done.append(True)
            theirs = theirs.at[0].set(theirs[0] ^ 1)
        return theirs

    interpreter.exchange = exchange

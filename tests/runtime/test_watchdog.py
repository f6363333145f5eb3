"""Watchdogs: whatever happens to a process, the others end soon, with the reason."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from comet_jax.runtime.errors import LinkError
from comet_jax.runtime.watchdog import EXIT_STATUS, Loss, Watchdog


class Losses(list):
    """A handler that collects losses."""

    def __init__(self):
        super().__init__()
        self.happened = threading.Event()

    def __call__(self, loss: Loss) -> None:
        self.append(loss)
        self.happened.set()


def watch(pair, timeout=0.5, **names):
    one, other = pair(purpose="watch", **names)
    losses = Losses(), Losses()
    return (one, other), losses, tuple(Watchdog([k], timeout, h) for k, h in zip((one, other), losses))


def test_healthy_peers_stay_and_end_in_peace(pair):
    _, losses, (first, second) = watch(pair, timeout=0.3)
    time.sleep(1.0)
    assert losses == ([], [])
    first.stop()
    time.sleep(0.5)  # Longer than the timeout: silence after a goodbye is no loss.
    second.stop()
    assert losses == ([], [])
    assert first.loss is second.loss is None


def test_a_closed_link_is_a_loss_at_once(pair):
    one, other = pair(purpose="watch")
    losses = Losses()
    watchdog = Watchdog([one], timeout=30, handler=losses)
    start = time.monotonic()
    other.close()
    assert losses.happened.wait(2)
    assert time.monotonic() - start < 1
    assert watchdog.loss == losses[0]
    assert losses[0].peer == "party1"
    assert "party0 stops, because it lost party1: party1 closed" in str(losses[0])


def test_silence_is_a_loss(pair):
    one, _ = pair(purpose="watch")
    losses = Losses()
    Watchdog([one], timeout=0.3, handler=losses)
    assert losses.happened.wait(3)
    assert "sent nothing for 0.3 s" in losses[0].what


def test_an_abort_is_told_with_its_reason(pair):
    _, losses, (first, _) = watch(pair)
    first.abort("NaN in input 'tokens'")
    assert losses[1].happened.wait(2)
    assert "party0 stopped by itself: NaN in input 'tokens'" in losses[1][0].what
    time.sleep(0.3)
    assert losses[0] == []


def test_an_exception_is_told_by_its_type_alone(pair):
    one, other = pair(purpose="watch")
    losses = Losses()
    Watchdog([other], 0.5, losses)

    def work():
        with Watchdog([one], 0.5):
            raise ValueError("secret value 4711")

    with pytest.raises(ValueError, match="4711"):
        work()
    assert losses.happened.wait(3)
    assert "unexpected ValueError" in losses[0].what
    assert "4711" not in str(losses[0])


def test_a_loss_is_passed_on_to_the_other_peers(pair):
    dead, watched = pair("dealer", "party0", purpose="watch")
    hub, far = pair("party0", "client", purpose="watch")
    at_hub, at_far = Losses(), Losses()
    Watchdog([watched, hub], 30, at_hub)
    Watchdog([far], 30, at_far)
    dead.close()
    assert at_far.happened.wait(3)
    assert "party0 stopped by itself: it lost dealer" in at_far[0].what
    assert at_hub.happened.wait(3)
    assert len(at_hub) == len(at_far) == 1


def test_garbage_on_a_watched_link_is_a_loss(pair):
    one, other = pair(purpose="watch")
    losses = Losses()
    Watchdog([one], 30, losses)
    other._write(memoryview(b"x" * 100), time.monotonic() + 1)
    assert losses.happened.wait(2)
    assert "not a comet_jax link" in losses[0].what


def test_stop_after_the_peer_vanished_does_not_raise(pair):
    one, other = pair(purpose="watch")
    watchdog = Watchdog([one], 30, Losses())
    other.close()
    watchdog.stop()
    watchdog.stop()
    watchdog.abort("late")
    with pytest.raises(LinkError):
        one.send("x")


# Real processes, blocked where Python cannot interrupt them.


def start(keys, role, how, port, peers):
    # -u and a file of its own, as a user would start a party.
    script = Path(__file__).with_name("watched.py")
    command = [sys.executable, str(script), str(keys), role, how, str(port), peers]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.fixture
def three(keys):
    """party0 watches party1 and the client; those two only know party0."""
    processes = {"party0": start(keys, "party0", "listen", 0, "party1,client")}
    try:
        port = processes["party0"].stdout.readline().strip()
        for role in ("party1", "client"):
            processes[role] = start(keys, role, "connect", port, "party0")
        for process in processes.values():
            assert process.stdout.readline().strip() == "up"
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


def end(process) -> tuple[int, str]:
    """Exit status and stderr of a process that must end within ten seconds."""
    _, err = process.communicate(timeout=10)
    return process.returncode, err


@pytest.mark.parametrize("victim", ["party0", "party1"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_every_survivor_of_a_killed_or_frozen_process_ends(three, victim, how):
    os.kill(three[victim].pid, how)
    for role in set(three) - {victim}:
        status, err = end(three[role])
        assert status == EXIT_STATUS
        assert err.count("comet_jax:") == 1
        assert "Traceback" not in err
        assert f"{role} stops, because it lost" in err
        assert victim in err


def test_a_failure_reaches_everybody_with_its_reason(three):
    three["party1"].stdin.write("abort\n")
    three["party1"].stdin.flush()
    assert end(three["party1"])[0] == 3
    for role in ("party0", "client"):
        status, err = end(three[role])
        assert status == EXIT_STATUS
        assert "party1 stopped by itself: NaN in input 'tokens'" in err


def test_a_success_ends_in_peace(three):
    for role in ("client", "party1", "party0"):
        three[role].stdin.write("done\n")
        three[role].stdin.flush()
        assert end(three[role]) == (0, "")

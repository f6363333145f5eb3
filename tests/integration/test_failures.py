"""Processes that die, freeze, fail or disagree: the others end soon, say who and why, and reveal nothing."""

from __future__ import annotations

import json
import os
import socket
import time

import pytest
from fleet import ROLES, Fleet

# Each role and each point once, lost in one of two ways; COMET_EVERY_FAILURE=1 tries all combinations (10 minutes).
LOST = [
    ("model", "load:kill"),
    ("party0", "load:stop"),
    ("dealer", "deal:kill"),
    ("client", "deal:stop"),
    ("party0", "online:kill"),
    ("party1", "online:stop"),
    ("party1", "reveal:kill"),
]
if os.environ.get("COMET_EVERY_FAILURE"):
    LOST = [(role, f"{point}:{how}") for role in ROLES for point in ("load", "deal") for how in ("kill", "stop")]
    LOST += [
        (role, f"{point}:{how}") for role in ROLES[1:3] for point in ("online", "reveal") for how in ("kill", "stop")
    ]


def wait_until_broken(five: Fleet) -> None:
    deadline = time.monotonic() + 120
    while not (five.folder / "broken").exists():
        assert time.monotonic() < deadline, [five.errors(role) for role in ROLES]
        time.sleep(0.02)


def check_survivors(five: Fleet, victim: str, *, seconds: float = 10.0, names: str = "") -> None:
    """All others end with an error in which the victim is named, and the client learned nothing."""
    statuses = five.wait(seconds, without=(victim,))
    for role, status in statuses.items():
        error = five.errors(role)
        assert status != 0, (role, error)
        assert (names or victim) in error, (role, error)
        assert "comet_jax:" in error or "comet_jax.runtime.errors." in error, (role, error)
    assert "revealed" not in five.output("client")


@pytest.mark.parametrize(("victim", "how"), LOST)
def test_a_lost_role_ends_the_others(fleet, victim, how):
    five = fleet("small", env={victim: {"BREAK": how}}, options={"timeout": 30.0})
    wait_until_broken(five)
    check_survivors(five, victim)


@pytest.mark.parametrize("how", ["connect:kill", "connect:stop"])
def test_a_role_that_does_not_come_is_awaited_for_a_bounded_time(fleet, how):
    five = fleet("small", env={"client": {"BREAK": how}}, options={"timeout": 8.0})
    wait_until_broken(five)
    # Party 0 misses the client; whoever waits for a party that has given up names that one.
    check_survivors(five, "client", seconds=20.0, names="party")
    # Both parties wait; the first to give up says so, and may end the other before its own time is over.
    assert "client did not connect to party" in five.errors("party0") + five.errors("party1")


def check_stopped(five: Fleet, reason: str, *, first: tuple[str, ...] = ROLES) -> None:
    """All roles end with an error; ``reason`` is what every role of ``first`` says; the client learned nothing."""
    statuses = five.wait(120)
    for role, status in statuses.items():
        assert status != 0, role
    for role in first:
        assert reason in five.errors(role), (role, five.errors(role))
    assert "revealed" not in five.output("client")


def test_a_changed_opening_is_noticed_before_anything_is_revealed(fleet):
    five = fleet("small", env={"party0": {"BREAK": "opening"}})
    check_stopped(five, "saw different openings before 'reveal 1 to client'")
    assert "TranscriptError" in five.errors("party0") + five.errors("party1")


def test_an_unexpected_error_is_told_by_its_type_alone(fleet):
    five = fleet("small", env={"party1": {"BREAK": "reveal:raise"}})
    check_stopped(five, "ValueError")
    assert not any("4711" in five.errors(role) for role in ROLES if role != "party1")


def test_numbers_that_cannot_be_shared_are_told_to_all_but_not_their_values(fleet):
    five = fleet("hostile")
    check_stopped(five, "of client holds a value that is not finite, at (1, 2)")


def test_a_party_with_another_program_is_refused_by_all(fleet):
    five = fleet("different")
    check_stopped(five, "program differs")


def test_a_party_with_another_version_is_refused_by_all(fleet):
    five = fleet("small", env={"party1": {"BREAK": "version"}})
    check_stopped(five, "jaxlib 0.0.1")


def test_an_input_of_another_shape_is_refused_by_all(fleet):
    five = fleet("misshapen")
    check_stopped(five, "program differs")


def test_a_dealer_that_runs_dry_ends_the_session_after_its_last_run(fleet):
    five = fleet("small", options={"stock": 1})
    statuses = five.wait(120)
    assert all(status != 0 for status in statuses.values())
    assert all("is dry: 1 wanted, 0 of 1 left" in five.errors(role) for role in ROLES)
    assert five.output("client") == "revealed 0\n"


@pytest.mark.parametrize("name", ["party0", "party0/jax"])
def test_a_port_in_use_is_an_error_at_once(fleet, name):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        five = fleet("small", options={"timeout": 12.0}, ports={name: taken.getsockname()[1]})
        statuses = five.wait(60)
    assert all(status != 0 for status in statuses.values())
    assert "port" in five.errors("party0"), five.errors("party0")
    assert f"127.0.0.1:{taken_port(five, name)}" in five.errors("party0")


def taken_port(five: Fleet, name: str) -> int:
    return json.loads((five.folder / "settings.json").read_text())["addresses"][name][1]

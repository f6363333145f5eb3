"""Processes that die, freeze, fail or disagree: the others end soon, say who and why, and reveal nothing."""

from __future__ import annotations

import time

import pytest
from fleet import ROLES, Fleet

# One case for each role and each point, both ways of being lost; COMET_EVERY_FAILURE=1 runs all combinations.
LOST = [
    ("model", "load:kill"),
    ("party0", "load:stop"),
    ("dealer", "deal:kill"),
    ("client", "deal:stop"),
    ("party0", "online:kill"),
    ("party1", "online:stop"),
    ("party1", "reveal:kill"),
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
    assert "client did not connect to party0" in five.errors("party0")

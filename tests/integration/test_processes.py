"""Five processes, two devices or one simulation: the same program, the same results; and what travels is the plan's."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import scenarios

import comet_jax as cj
from comet_jax.errors import CometError

TOLERANCE = {"runs": 5e-3, "chained": 5e-3, "sealed": 1e-4, "others": 1e-4}  # two rings: 32 and 64 bits


def close(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(np.asarray(found[name]), np.asarray(value), atol=TOLERANCE[name], rtol=0)


@pytest.mark.parametrize("make", [cj.Session.simulated, cj.Session.devices])
def test_one_process_computes_what_plain_jax_does(make):
    with make() as session:
        close(scenarios.everything(session), scenarios.plain())


def test_five_processes_compute_what_plain_jax_does_and_only_the_client_learns_it(fleet):
    five = fleet("everything")
    assert five.wait() == dict.fromkeys(five.roles, 0), [five.errors(role) for role in five.roles]
    close(five.result("client"), scenarios.plain())
    for role in set(five.roles) - {"client"}:
        leaves = jax.tree.leaves(five.result(role), is_leaf=lambda x: x is None)
        assert leaves == [None] * 6


def test_gates_in_five_processes(fleet):
    """Parties see the same flags, in an order of the owner's; results are those of the dense network."""
    five = fleet("gated")
    assert five.wait() == dict.fromkeys(five.roles, 0), [five.errors(role) for role in five.roles]
    found = five.result("client")
    for reveals in ("flags", "nothing"):
        for run, result in enumerate(found[reveals]):
            expected = scenarios.network(scenarios.weights(), scenarios.prompt(run))
            np.testing.assert_allclose(result, expected, atol=5e-3, rtol=0)
    shown = five.result("party0")["shown"]
    assert shown == five.result("party1")["shown"]
    assert [np.shape(run) for run in shown] == [(1, 2, 3, 4)] * 2 + [(1, 2, 1, 4)] * 2
    for run in shown[2:]:
        assert np.sum(run, -1).tolist() == [[[4], [4]]]
    for role in ("client", "model", "dealer"):
        assert five.result(role)["shown"] == [[]] * 4


def test_epochs_in_five_processes(fleet):
    """Two calls disclose every block once, the second computes the dense network; weights are sent for the first."""
    five = fleet("epochs")
    assert five.wait() == dict.fromkeys(five.roles, 0), [five.errors(role) for role in five.roles]
    found = five.result("client")["runs"]
    expected = [scenarios.network(scenarios.weights(), scenarios.prompt(run)) for run in range(4)]
    for run in (1, 3):
        np.testing.assert_allclose(found[run], expected[run], atol=5e-3, rtol=0)
    shown = np.array(five.result("party0")["shown"])
    assert shown.tolist() == five.result("party1")["shown"]
    assert shown.shape == (4, 1, 2, 1, 4)
    assert (shown[:2].sum(0) == 1).all()
    assert (shown[2:].sum(0) == 1).all()
    model = five.result("model")
    renewed = model["renewal"]
    assert renewed == [renewed[0], 0, renewed[0], 0]
    # Twice, once an epoch: party 0 is sent a key, party 1 what makes shares of it. Small headers come on top.
    assert renewed[0] / 2 - 1000 < model["traffic"]["party1"] < renewed[0] / 2 + 2000
    assert 0 < model["traffic"]["party0"] < 2000
    assert all(five.result(role)["traffic"].get("party1", 0) == 0 for role in ("client", "dealer"))


def test_shuffles_in_five_processes(fleet):
    """The owner sends weights once; a later epoch's order is the parties' own, with as many bytes as explain says."""
    five = fleet("shuffled")
    assert five.wait() == dict.fromkeys(five.roles, 0), [five.errors(role) for role in five.roles]
    found = five.result("client")["runs"]
    for run in (1, 3):
        expected = scenarios.network(scenarios.weights(), scenarios.prompt(run))
        np.testing.assert_allclose(found[run], expected, atol=5e-3, rtol=0)
    shown = np.array(five.result("party0")["shown"])
    assert shown.tolist() == five.result("party1")["shown"]
    assert (shown[:2].sum(0) == 1).all()
    assert (shown[2:].sum(0) == 1).all()
    model, dealer = five.result("model"), five.result("dealer")
    first = model["renewal"][0]
    assert first / 2 - 1000 < 2 * model["traffic"]["party1"] < first / 2 + 2000  # once
    assert 0 <= dealer["links"]["party1"]["shuffle"] - dealer["offline"] <= 150  # a small header
    assert all({"inputs", "shuffle"}.isdisjoint(sent) for sent in (dealer["links"]["party0"], *model["links"].values()))
    for role in ("party0", "party1"):
        found = five.result(role)
        # Gloo puts a header of its own before each message.
        assert 0 < found["sent"] - found["planned"] <= 200 * found["messages"]


def test_what_compilers_do_to_floating_point_does_not_matter(fleet):
    """Parties that compile for speed and for exactness, with and without threads, get the same bits."""
    keys = {role: {"FIXED_KEYS": role} for role in ("dealer", "party0", "party1", "client", "model")}
    fast = "--xla_cpu_enable_fast_math=true --xla_cpu_multi_thread_eigen=false"
    exact = "--xla_cpu_enable_fast_math=false --xla_backend_optimization_level=1"
    found = []
    for flags in ({}, {"party0": fast, "party1": exact, "dealer": fast}):
        env = {role: of | ({"XLA_FLAGS": flags[role]} if role in flags else {}) for role, of in keys.items()}
        five = fleet("transcendental", env=env)
        assert five.wait() == dict.fromkeys(five.roles, 0), [five.errors(role) for role in five.roles]
        found.append(five.result("client"))
    assert found[0]["softmax"] is not None
    assert found[1] == found[0]


def test_the_kernel_counts_the_bytes_that_explain_says(fleet):
    five = fleet("counted")
    assert five.wait() == dict.fromkeys(five.roles, 0), [five.errors(role) for role in five.roles]
    for role in ("party0", "party1"):
        found = five.result(role)
        overhead = found["sent"] - found["online"]
        # Gloo puts a header of its own before each message.
        assert 0 < overhead <= 200 * found["rounds"]
        assert found["traffic"]["dealer"].keys() <= {"open", "opened", "session", "hello", "done"}
    dealer = five.result("dealer")
    corrections = dealer["traffic"]["party1"].pop("corrections")
    assert 0 <= corrections - 2 * dealer["offline"] <= 2 * 150  # two runs, each with a small header
    for party in ("party0", "party1"):
        assert dealer["traffic"][party].keys() == {"open", "hello", "key"}
        assert sum(dealer["traffic"][party].values()) < 1500


def test_a_result_is_not_revealed_to_a_server():
    with cj.Session.simulated() as session:
        held = scenarios.shared(session, "model", scenarios.weights())
        y = cj.private(scenarios.head)(held, scenarios.shared(session, "client", scenarios.prompt()))
        for role in ("party0", "party1", "dealer", "somebody"):
            with pytest.raises(CometError, match=role):
                cj.reveal(y, to=role)

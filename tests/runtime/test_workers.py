"""What a party accepts from the dealer and from owners: the next run's, whole, of the right size; nothing else."""

from __future__ import annotations

import time

import jax
import numpy as np
import pytest

import comet_jax as cj
from comet_jax.errors import CometError
from comet_jax.runtime import messages
from comet_jax.runtime.compiled import Compiled
from comet_jax.runtime.errors import LinkError, PeerLostError
from comet_jax.runtime.link import Limits
from comet_jax.runtime.messages import Message
from comet_jax.runtime.plan import Plan
from comet_jax.runtime.seeds import Seed
from comet_jax.runtime.session import Clock
from comet_jax.runtime.transfer import receive_shares, send_shares
from comet_jax.runtime.workers import Computing
from comet_jax.sharing import chacha
from comet_jax.sharing.groups import Group


@pytest.fixture(scope="module")
def plan():
    x = cj.seal(jax.ShapeDtypeStruct((4,), np.float32))
    plan = Plan(cj.private(jax.nn.relu).trace(x).lower())
    assert plan.program.supply.dealt_words > 3
    return plan


@pytest.fixture
def dealer(pair):
    """The two ends of the dealer's link to party 1."""
    party1, dealer = pair("party1", "dealer")
    return dealer, party1


@pytest.fixture
def computing(plan, dealer):
    """Party 1 with a seed, before its first run; nothing here gets as far as computing."""
    dealer[0].send("key", arrays={"key": chacha.new_key()})
    refuse = lambda *_: pytest.fail("something was opened")
    return Computing(plan, lambda plan: Compiled(plan, None), {"dealer": dealer[1]}, 1, None, refuse)  # type: ignore[arg-type]


def corrections(plan, run=0, **changes):
    words = np.zeros(plan.program.supply.dealt_words, np.uint32)
    return {"kind": "corrections", "fields": {"run": run}, "arrays": {"words": words}, **changes}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"fields": {"run": 1}}, "for run 1 where run 0"),
        ({"fields": {}}, "for run None where run 0"),
        ({"arrays": {}}, "sent nothing as 'words'"),
        ({"arrays": {"words": np.zeros(3, np.uint32)}}, r"uint32\[3\]"),
        ({"arrays": {"words": np.zeros(3, np.int64)}}, r"int64\[3\]"),
        ({"kind": "inputs"}, "'inputs' where party1 expected 'corrections'"),
    ],
)
def test_corrections_that_are_not_the_next_runs_are_refused(plan, dealer, computing, changes, match):
    dealer[0].send(**corrections(plan, **changes))
    with pytest.raises(CometError, match=match) as caught:
        computing.run(0, [], None, Clock({}))
    assert "dealer" in str(caught.value)


def test_a_run_that_is_dealt_twice_is_refused(plan, dealer, computing):
    for _ in range(2):
        dealer[0].send(**corrections(plan))
    with pytest.raises(CometError, match="for run 0 where run 1"):
        computing.run(1, [], None, Clock({}))


@pytest.mark.parametrize("again", [False, True])
def test_a_message_cut_short_or_replayed_is_refused(plan, dealer, computing, again):
    sent = dealer[0]
    data = b"".join(messages.encode(Message(**corrections(plan)), sent._sent, Limits()))
    if again:
        for _ in range(2):
            sent._write(memoryview(data), time.monotonic() + 5)
        dealer[1].receive("corrections")
        with pytest.raises(LinkError, match="replayed"):
            computing.run(1, [], None, Clock({}))
    else:
        sent._write(memoryview(data[:-5]), time.monotonic() + 5)
        sent.close()
        with pytest.raises(PeerLostError, match="truncated"):
            computing.run(0, [], None, Clock({}))


def test_shares_add_up_and_neither_is_the_value(pair):
    links, ends = {}, {}
    for party in ("party0", "party1"):
        ends[party], links[party] = pair(party, "client")
    group = Group(32)
    x = np.arange(12, dtype=np.uint32).reshape(3, 4)
    send_shares(links, "inputs", 7, {5: (x, group)}, 5)
    halves = [
        receive_shares(ends[party], i, "inputs", 7, {5: ((3, 4), group)}, 5)[5]
        for i, party in enumerate(("party0", "party1"))
    ]
    np.testing.assert_array_equal(group.add(*halves), x)
    assert all((half != x).mean() > 0.9 for half in halves)


@pytest.mark.parametrize(("run", "shape", "match"), [(8, (3, 4), "for run 7"), (7, (4, 4), r"client sent uint32\[3,")])
def test_shares_of_another_run_or_shape_are_refused(pair, run, shape, match):
    end, link = pair("party1", "client")
    link.send("inputs", {"run": 7}, {"5": np.zeros((3, 4), np.uint32)})
    with pytest.raises(CometError, match=match):
        receive_shares(end, 1, "inputs", run, {5: (shape, Group(32))}, 5)


def test_a_seed_forgets_and_both_holders_stay_in_step():
    key = chacha.new_key()
    one, other, kept = Seed(key.copy()), Seed(key.copy()), key.copy()
    drawn = []
    for _ in range(3):
        drawn.append(np.asarray(one.masks(8)))
        np.testing.assert_array_equal(drawn[-1], other.masks(8))
        assert not np.array_equal(drawn[-1], one.dealt(8))
        one.step()
        other.step()
    assert len({tuple(d) for d in drawn}) == 3
    assert not np.array_equal(one._key, kept)
    np.testing.assert_array_equal(drawn[0], Seed(kept).masks(8))

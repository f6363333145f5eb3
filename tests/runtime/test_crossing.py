"""Counting what crosses: every collective of a compiled program, loops included, and refusing what is not planned."""

from __future__ import annotations

from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import comet_jax as cj
from comet_jax.interpreters import online as interpreter
from comet_jax.interpreters.online import AXIS, exchange
from comet_jax.runtime.crossing import CrossingError, compiled
from comet_jax.runtime.spmd import two_devices


@pytest.fixture(scope="module")
def layout():
    return two_devices()


def counts(layout, fn, *args):
    """The messages of ``fn`` as compiled for two devices, by way of a plan that lacks them."""
    found = []

    def plan(*_):
        found.append(True)
        return Counter({1: 99})

    with pytest.raises(CrossingError) as caught:
        layout.compile("test", fn, plan)(*args)
    assert found == [True]
    return str(caught.value).split("would send ")[1].split(" that its plan lacks")[0]


def words(layout, n):
    return layout.place(jnp.zeros(n, jnp.uint32), jnp.ones(n, jnp.uint32))


def chain(x):
    return lax.scan(lambda x, _: (x + exchange(x) * 3, None), x, None, length=5)[0]


@pytest.mark.parametrize(
    ("fn", "size", "found"),
    [
        (lambda x: x + 1, 4, "nothing"),
        (exchange, 4, "1 messages of 16 bytes"),
        (exchange, 5000, "1 messages of 20000 bytes"),
        (lambda x: exchange(exchange(x)[:3]), 4, "1 messages of 12 bytes, 1 messages of 16 bytes"),
        (chain, 4, "5 messages of 16 bytes"),
        (lambda x: lax.scan(lambda x, _: (chain(x) * 3, None), x, None, length=2)[0], 4, "10 messages of 16 bytes"),
        (lambda x: lax.psum(x, AXIS), 4, "1 messages of 16 bytes"),
        (lambda x: lax.all_to_all(x, AXIS, 0, 0), 2, "1 messages of 8 bytes"),
        (lambda x: lax.cond(x.sum() > 3, exchange, lambda x: x, x), 4, "1 messages of 16 bytes"),
    ],
)
def test_all_collectives_are_counted(layout, fn, size, found):
    assert counts(layout, fn, words(layout, size)) == found


def test_communication_in_an_endless_loop_is_refused(layout):
    fn = lambda x: lax.while_loop(lambda x: x.sum() < 1000, lambda x: x + exchange(x) + 1, x)
    with pytest.raises(CrossingError, match="unknown length"):
        layout.compile("test", fn, lambda *_: Counter())(words(layout, 4))


def test_the_count_of_an_asynchronous_collective_is_that_of_its_start():
    hlo = """
HloModule m

ENTRY %main (p: u32[8]) -> u32[8] {
  %p = u32[8]{0:T(128)} parameter(0)
  %s = (u32[8]{0}, u32[8]{0}, u32[], u32[]) collective-permute-start(%p), source_target_pairs={{0,1},{1,0}}
  ROOT %d = u32[8]{0} collective-permute-done(%s)
}
"""
    assert compiled(hlo) == Counter({32: 1})


def test_a_program_that_sends_more_than_its_plan_never_runs(monkeypatch):
    original = interpreter.exchange
    monkeypatch.setattr(interpreter, "exchange", lambda words: original(original(words) ^ 1))
    with cj.Session.devices():
        x = cj.seal(cj.share(jnp.ones(4), owner="client"))
        with pytest.raises(CrossingError, match="'online' program would send"):
            cj.private(jax.nn.relu)(x)

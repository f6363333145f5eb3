"""Whole programs: given the coins of a run, the ideal world repeats it bit for bit."""

from functools import cache
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_parties import Caught, TwoParties

import comet_jax as cj
from comet_jax.gadgets.bits import at_least, open_truncated
from comet_jax.interpreters.ideal import Drawn, ideal
from comet_jax.ir.program import Builder, Scan
from comet_jax.passes.leaks import check
from comet_jax.passes.narrow import narrow
from comet_jax.policy import Policy
from comet_jax.protocols.bilinear import Bilinear
from comet_jax.protocols.linear import Combine, Rearrange
from comet_jax.protocols.opening import HighBits, Lift, Open, Reveal
from comet_jax.protocols.selection import Gate
from comet_jax.runtime.plan import Plan
from comet_jax.sharing import chacha
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Opened, Shared

RINGS = (32, 64)


def block(p, x):
    """A layer norm, a masked softmax and a ReLU layer, with weights and biases."""
    mean = x.mean(-1, keepdims=True)
    h = (x - mean) / jnp.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-5) * p["g"] + p["b"]
    scores = jnp.where(jnp.tril(jnp.ones((3, 3), bool)), h @ h.T, -1e9)
    h = jax.nn.softmax(scores) @ h
    return x + jax.nn.relu(h @ p["w1"] + p["c1"]) @ p["w2"]


def steps(p, x):
    """A stack of layers as a scan."""
    return jax.lax.scan(lambda x, w: (x + jax.nn.relu(x @ w), None), x, p["w"])[0]


def _weights():
    r = np.random.default_rng(0)
    n = lambda *shape: r.normal(0, 0.5, shape).astype(np.float32)
    return {
        "block": {"g": n(4) + 1, "b": n(4), "w1": n(4, 5), "c1": n(5) + 2, "w2": n(5, 4)},
        "steps": {"w": n(3, 4, 4)},
    }


MODELS = {"block": block, "steps": steps}


@cache
def lowered(name: str, ring: Literal[32, 64]):
    """The plan of a model, its program's signed inputs, and the result in the clear."""
    weights, x = _weights()[name], np.random.default_rng(1).normal(0, 1, (3, 4)).astype(np.float32)
    with Caught() as session:
        model = cj.private(MODELS[name], policy=Policy(ring=ring))
        model(cj.share(weights, owner="model"), cj.share(x, owner="client"))
    return session.plan, session.values(), MODELS[name](weights, x)


def _decoded(plan: Plan, words: np.ndarray) -> np.ndarray:
    scale = plan.lowered.results[0].scale
    assert scale is not None
    return plan.program.outputs[0].wire.group.decode(words) / scale


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("name", MODELS)
def test_the_ideal_world_repeats_a_run(name, ring):
    plan, values, expected = lowered(name, ring)
    world = TwoParties(plan.program, apart=True)
    run = world.run([np.repeat(v[None], 2, 0) for v in values], seed=7)
    for got, again in zip(run.outputs, run.ideal):
        np.testing.assert_array_equal(got, again)
    for k in range(2):
        np.testing.assert_allclose(_decoded(plan, run.outputs[0][k]), expected, atol=0.03 if ring == 32 else 3e-3)
    # The two runs differ in their coins alone, and the coins reach the result.
    assert not np.array_equal(run.outputs[0][0], run.outputs[0][1])


def test_scans_are_scans():
    assert any(isinstance(op.protocol, Scan) for op in lowered("steps", 32)[0].program.ops)


@pytest.mark.parametrize("name", MODELS)
def test_drawn_coins_give_what_a_run_could_give(name):
    plan, values, expected = lowered(name, 32)
    elements = [v.wire.group.encode(x) for v, x in zip(plan.program.inputs, values)]
    with jax.enable_x64(True):
        results = [np.asarray(plan.ideal(chacha.new_key(), elements)[0]) for _ in range(2)]
    for words in results:
        np.testing.assert_allclose(_decoded(plan, words), expected, atol=0.03)
    assert not np.array_equal(results[0], results[1])


def test_steps_and_scans_draw_coins_of_their_own():
    """A truncation of a constant shows its coins: they differ between steps, scans and draws."""
    inner = Builder()
    wire, count = Shared((1000,), Group(40)), Shared((1000,), Group(32))
    seen, value = inner.input(count), inner.input(wire)
    body = inner.finish(inner.emit(Combine((4, 1)), seen, inner.emit(HighBits(8), value)))
    b = Builder()
    x = b.input(Shared((3, 1000), Group(40)))
    zeros = [b.input(count), b.input(count)]
    scans = [b.emit_all(Scan(body, 3, 1), z, x)[0] for z in zeros]
    program = b.finish(*scans)
    half = np.full((3, 1000), 1 << 7, np.uint64)  # rounds up half of the time
    nothing = np.zeros(1000, np.uint32)
    with jax.enable_x64(True):
        outputs = ideal(program, Drawn(chacha.new_key()), [jnp.asarray(a) for a in (half, nothing, nothing)])
    # Each step adds its rounding as one more digit in base 4.
    digits = [(np.asarray(o) >> s) & 3 for o in outputs for s in (0, 2, 4)]
    assert all(set(d) == {0, 1} for d in digits)
    agreement = [np.mean(a == c) for i, a in enumerate(digits) for c in digits[:i]]
    assert all(0.4 < a < 0.6 for a in agreement)


def test_a_step_takes_whole_wires_and_makes_slices():
    """A weight and a secret that are opened once, for all steps; and what each step makes, stacked."""
    inner = Builder()
    carry, weight, secret, bit, x = (
        inner.input(w)
        for w in (
            Shared((4,), Group(32)),
            Opened((4,), Group(32), static=True),
            Opened((4,), Group(32)),
            Opened((4, 1), Group(1, xor=True)),
            Shared((4,), Group(32)),
        )
    )
    total = inner.emit(Combine((1, 1)), carry, inner.emit(Bilinear(), inner.emit(Open(32), x), weight))
    w = open_truncated(inner, total, shift=4, width=20)
    kept = inner.emit(Gate((1,)), bit, w, inner.emit(Lift(32), w))
    made = inner.emit(Bilinear(), inner.emit(Open(32), kept), secret)
    body = inner.finish(inner.emit(Lift(32), w), made)
    b = Builder()
    start, x, secret = (b.input(Shared(shape, Group(32))) for shape in ((4,), (3, 4), (4,)))
    weight = b.input(Opened((4,), Group(32), static=True))
    opened = b.emit(Open(32), secret)
    bit = b.emit(Rearrange("reshape", ((4, 1),)), at_least(b, open_truncated(b, secret, shift=0, width=12), (0,)))
    scan = Scan(body, 3, 1, 3)
    outs = b.emit_all(scan, start, weight, opened, bit, x)
    assert [o.shape for o in outs] == [(4,), (3, 4)]
    wide = b.finish(*(b.emit(Reveal(), o) for o in outs))
    for program in (wide, narrow(wide)):
        assert (check(program).openings, check(program).weights) == (1 + 1 + 2 + 3 * 3, 1)
        rng = np.random.default_rng(0)
        values = [rng.integers(-50, 50, (9, *v.shape)) for v in program.inputs]
        run = TwoParties(program, apart=True).run(values, seed=3)
        for got, again in zip(run.outputs, run.ideal):
            np.testing.assert_array_equal(got, again)
        total, x, secret, weight = values
        made = []
        for k in range(3):
            total = (total + x[:, k] * weight) / 16
            made.append(np.where(secret >= 0, total, 0) * secret)
        last, steps = (Group(32).decode(np.asarray(o)) for o in run.outputs)
        np.testing.assert_allclose(last, total, atol=1.1)
        np.testing.assert_allclose(steps, np.stack(made, 1), atol=1.1 * 50)
        with jax.enable_x64(True):
            elements = [jnp.asarray(v.wire.group.encode(a[0])) for v, a in zip(program.inputs, values)]
            drawn = ideal(program, Drawn(chacha.new_key()), elements)
        np.testing.assert_allclose(Group(32).decode(np.asarray(drawn[1])), np.stack(made, 1)[0], atol=1.1 * 50)

"""The second product of a gated layer, closed blocks dealt or opened: one result, at the cost that was chosen for."""

import jax
import numpy as np
import pytest
from gates import exact, scoring
from test_gating import TOKENS, D, _world, gated, private, x
from two_parties import TwoParties

import comet_jax as cj
from comet_jax.ir.program import Builder, Scan
from comet_jax.protocols.bilinear import Bilinear
from comet_jax.protocols.comparison import BIT
from comet_jax.protocols.disclosure import Disclose
from comet_jax.protocols.slots import OutOfSlots, Slots
from comet_jax.protocols.sparse_opening import OpenSparse, Spread
from comet_jax.rules.second_product import _by_block, _punctured, _spread, second_product
from comet_jax.sharing.ggm import Tree
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Disclosed, Opened, Shared

CLOSED = ("dealt", "opened")
H, BLOCK = 32, 8
SCORES = np.array([-0.3, -0.2, 0.6, -0.4])  # one block of four is wanted
FILL = np.random.default_rng(3).normal(0, 0.3, H).astype(np.float32)


def layer(p, x):
    return x + jax.nn.gelu(x @ p["up"] + p["bias"]) @ p["down"]


def scanned(p, x):
    return jax.lax.scan(lambda x, w: (layer(w, x), None), x, p)[0]


def weights(*layers):
    r = np.random.default_rng(2)
    n = lambda *shape: r.normal(0, 0.4, (*layers, *shape)).astype(np.float32)
    return {"up": n(D, H), "bias": n(H), "down": n(H, D)}


def gates(p):
    """A predictor whose closed neurons count as their means."""
    ups, biases = (w.reshape(-1, *w.shape[w.ndim - n :]) for w, n in ((p["up"], 2), (p["bias"], 1)))
    made = exact("up", ups, biases, activation="gelu_tanh", block=BLOCK, fill=FILL, capacity=0.25)
    return scoring(made, SCORES)


def expected(p, h):
    kept = np.where(np.repeat(SCORES > 0, BLOCK), jax.nn.gelu(h @ p["up"] + p["bias"]), FILL)
    return h + kept @ p["down"]


@pytest.mark.parametrize("ring", [32, 64])
@pytest.mark.parametrize("active", [0.0, 0.3, 1.0])
def test_all_ways_give_one_product_exactly(active, ring):
    """None of the blocks, some, more than there are slots, in wires of all bits."""
    b, tokens, blocks, size, width, count, runs = Builder(), 2, 5, 8, 3, 4, 20
    group = Group(ring)
    h, w = b.input(Shared((count, size), group)), b.input(Opened((blocks, size, width), group, static=True))
    slots = b.emit(Slots(count), b.emit(Disclose("ffn"), b.input(Shared((tokens, blocks), BIT))))
    program = b.finish(*(way(b, tokens, h, w, slots) for way in (_by_block, _punctured, _spread)))
    r = np.random.default_rng(ring)
    values = [r.integers(-(1 << ring - 1), 1 << ring - 1, (runs, *v.shape)) for v in program.inputs[:2]]
    found = TwoParties(program).run([*values, r.random((runs, tokens, blocks)) < active], seed=1).outputs
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert found[0].any() == (active > 0)


@pytest.mark.parametrize(("reveals", "tokens", "ring"), [("flags", TOKENS, 32), ("flags", 1, 64), ("nothing", 2, 64)])
def test_both_ways_compute_the_layer(reveals, tokens, ring):
    p, h = weights(), x(tokens)
    for closed in CLOSED:
        found, _ = private(layer, gated(gates(p), reveals, ring, closed=closed), p, h)
        np.testing.assert_allclose(found, expected(p, h), atol=0.02 if ring == 32 else 5e-3)


@pytest.mark.parametrize(("reveals", "ring", "options"), [("flags", 64, {}), ("nothing", 32, {"epoch": 2})])
def test_a_private_run_is_the_ideal_one_bit_for_bit(reveals, ring, options):
    """A scan of two layers, each with roots of its own."""
    p = weights(2)
    plan, values = _world(scanned, gated(gates(p), reveals, ring, closed="opened", **options), p, x())
    (scan,) = (op.protocol for op in plan.program.ops if isinstance(op.protocol, Scan))
    assert any(isinstance(op.protocol, OpenSparse) for op in scan.body.ops)
    run = TwoParties(plan.program, apart=True).run([np.repeat(v[None], 2, 0) for v in values], seed=7)
    for got, again in zip(run.outputs, run.ideal, strict=True):
        np.testing.assert_array_equal(got, again)


@pytest.mark.parametrize("make", [cj.Session.simulated, cj.Session.devices])
def test_sessions_run_it(make):
    p = weights()
    found, _ = private(layer, gated(gates(p), "flags", closed="opened"), p, x(), make)
    np.testing.assert_allclose(found, expected(p, x()), atol=0.02)


def test_costs_are_those_of_the_formula():
    """Dealt: a ring element for each token and result. Sent: rows of the slots, and the longest co-path's seeds."""
    program = _world(layer, gated(gates(weights()), "flags", closed="opened"), weights(), x())[0].program
    steps = {type(op.protocol): i for i, op in enumerate(program.ops)}
    i, dealt = steps[OpenSparse], program.supply.by_step[1]
    width = program.ops[i].protocol.width
    blocks, slots = TOKENS * H // BLOCK, TOKENS * H // BLOCK // 4
    assert program.item(i).bits == width * (slots * BLOCK + -(-128 * Tree(blocks).most(slots) // width))
    assert i not in dealt
    (product,) = (k for k, op in enumerate(program.ops) if isinstance(op.protocol, Bilinear) and k > i)
    assert [item.bits for item in dealt[product].values()] == [TOKENS * D * width]


@pytest.mark.parametrize(
    ("closed", "tokens", "size", "width", "expected"),
    [
        (None, 1, 16, 64, OutOfSlots),
        (None, 8, 16, 1024, OpenSparse),
        (None, 8, 1, 1024, Spread),  # a seed says no more than four masks do
        (None, 8, 16, 64, OutOfSlots),
        ("dealt", 8, 16, 64, OutOfSlots),
        ("opened", 1, 16, 64, OpenSparse),
        ("opened", 8, 16, 1, OpenSparse),
        ("opened", 8, 1, 64, Spread),
    ],
)
def test_it_takes_what_costs_fewer_bytes(closed, tokens, size, width, expected):
    b, blocks, ring = Builder(), 64, Group(32)
    count = tokens * blocks // 8
    h, w = b.input(Shared((count, size), ring)), b.input(Opened((blocks, size, width), ring, static=True))
    slots = b.input(Disclosed((count,), ring, below=tokens * blocks + count))
    y = second_product(b, closed, tokens, h, w, slots)
    assert y.shape == (tokens, width)
    assert any(isinstance(op.protocol, expected) for op in b.ops)


def test_a_gate_says_which_of_two():
    with pytest.raises(ValueError, match="'dealt' or 'opened'"):
        cj.Gate(predictor=gates(weights()), reveals="flags", closed="computed")  # type: ignore[arg-type]


def test_explain_names_the_opening():
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), weights())
    given = shapes, cj.seal(jax.ShapeDtypeStruct((TOKENS, D), np.float32))
    ways = [cj.explain(layer, *given, policy=gated(gates(weights()), "flags", closed=c)) for c in CLOSED]
    steps = [" ".join(row.protocols for row in way.operations).split() for way in ways]
    assert "OpenSlots" in steps[0]
    assert "OpenSparse" in steps[1]

"""Orders that the parties renew themselves: right in every epoch, unknown to all, and nothing is ever drawn twice."""

from collections.abc import Iterator
from functools import cache

import jax
import numpy as np
import pytest
from gates import exact, scoring
from test_gating import FFN, D, H, Unrolled, gated, params, predictor, scanned, stack, x
from two_parties import Caught

import comet_jax as cj
from comet_jax.errors import CometError
from comet_jax.protocols.shuffle import Shuffle
from comet_jax.runtime.plan import Plan
from comet_jax.sharing import chacha

EPOCH, CALLS = 2, 5
SESSIONS = {"simulated": cj.Session.simulated, "devices": cj.Session.devices, "ideal": cj.Session.ideal}
WANTED = np.random.default_rng(8).permutation(np.linspace(-0.9, 0.9, H))  # far apart, so no rounding changes the choice


def policy(renewal: str, ring: int = 32) -> cj.Policy:
    """Two calls an epoch, with half of the blocks each; such that are left out count as their means."""
    fill = np.random.default_rng(4).normal(0, 0.3, H)
    made = exact("up", stack()["up"], stack()["bias"], capacity=1 / EPOCH, fill=fill)
    return gated(scoring(made, WANTED), "nothing", ring, epoch=EPOCH, renewal=renewal)


def results(made: cj.Policy) -> Iterator[np.ndarray]:
    """Of several epochs of two scanned layers, in a session."""
    fn, w = cj.private(scanned, policy=made), cj.share(stack(), "model")
    for n in range(CALLS):
        yield cj.reveal(fn(w, cj.seal(cj.share(x(1) * (-1) ** n, "client"), made)))


@cache
def by_the_owner() -> list[np.ndarray]:
    with cj.Session.ideal():
        return list(results(policy("owner", 64)))


@pytest.mark.parametrize(("name", "ring"), [("simulated", 32), ("devices", 32), ("ideal", 64)])
def test_results_are_those_of_the_owners_renewal(name, ring):
    found, held = [], []
    with SESSIONS[name]() as session:
        for result in results(policy("shuffle", ring)):
            found.append(result)
            held.append(orders_and_arrays(session) if name != "ideal" else None)
    for one, other in zip(found, by_the_owner(), strict=True):
        np.testing.assert_allclose(one, other, atol=0.01 if ring == 32 else 1e-4)
    for n in (1, 3):  # every block
        np.testing.assert_allclose(found[n], scanned(stack(), -x(1)), atol=0.01)
    assert np.abs(found[0] - scanned(stack(), x(1))).max() > 0.1
    lowered = next(iter(session.plans.values()))[0].lowered
    first, later = lowered.sharing_bytes, lowered.renewal_bytes
    assert [r.renewal_bytes for r in session.reports] == [first, 0, later, 0, later]
    if name == "ideal":
        return
    shown = np.array([np.concatenate([f.flags.reshape(-1, H) for f in r.flags]) for r in session.reports])
    assert (shown[:2].sum(0) == 1).all()
    assert (shown[2:4].sum(0) == 1).all()
    # All arrays of a layer are in one order, new in each epoch, and layers are in different ones.
    orders = [order for order, _ in held]
    for order, arrays in held:
        assert np.array_equal(np.sort(order, -1), np.broadcast_to(np.arange(H), order.shape))
        assert not np.array_equal(*order)
        for one, other in zip(arrays, held[0][1], strict=True):
            np.testing.assert_array_equal(one, other)
    same = lambda a, b: [np.array_equal(*pair) for pair in zip(orders[a], orders[b], strict=True)]
    assert same(0, 1) == same(2, 3) == [True] * 2
    assert same(1, 2) == same(3, 4) == same(0, 4) == [False] * 2


def orders_and_arrays(session) -> tuple[np.ndarray, list[np.ndarray]]:
    """What the parties hold of a gated layer together: its order, and all arrays as they were before it."""
    plan, loaded = next(iter(session.plans.values()))[0], next(iter(session._loaded.values()))
    held = {}
    for i in plan.renewed:
        wire = plan.program.inputs[i].wire
        pair = np.asarray(loaded.weights[plan.static.index(i)] if i in plan.static else loaded.shared[i])
        held[i] = wire.group.decode(wire.group.add(pair[0], pair[1]))
        if i in plan.static:
            n = plan.static.index(i)
            public = np.asarray(loaded.opened[n])[0]
            np.testing.assert_array_equal(wire.group.decode(wire.group.sub(public, loaded.masks[n])), held[i])
    (matrix,) = [i for i in plan.renewed if plan.program.inputs[i].shape[-2:] == (H, H)]
    order = held.pop(matrix)
    flat = [a.reshape(*order.shape[:-1], -1) for a in held.values()]
    return order.argmax(-1), [order @ a for a in flat]


def test_a_run_that_fails_ends_its_epoch_and_nothing_is_drawn_twice(monkeypatch):
    drawn, draw = [], chacha.draw

    def noted(key, nonce, words):
        if words:
            drawn.append((np.asarray(key).tobytes(), nonce.tobytes()))
        return draw(key, nonce, words)

    asked, encode = [], Plan.encode

    def encoded(plan, position, env):
        asked.append(plan.lowered.encodings[position].owner)
        return encode(plan, position, env)

    monkeypatch.setattr(chacha, "draw", noted)
    monkeypatch.setattr(Plan, "encode", encoded)
    p = params()
    made = gated(scoring(predictor(p, capacity=0.5), WANTED), "nothing", epoch=EPOCH, renewal="shuffle")
    with cj.Session.simulated() as session:
        fn, w = cj.private(FFN(), policy=made), cj.share(p, "model")
        call = lambda value: fn.apply(w, cj.share(value * x(1), "client"))
        revealed, orders, failed = [], [], [False, True, True, False, False, True, False]
        for fails in failed:  # where it does, after the order has been renewed
            if fails:
                with pytest.raises(CometError, match="client"):
                    call(np.nan)
            else:
                revealed.append(cj.reveal(call(1.0)))
            order, arrays = orders_and_arrays(session)
            before = before if orders else arrays
            for one, other in zip(arrays, before, strict=True):
                np.testing.assert_array_equal(one, other)
            orders.append(order.tobytes())
            begun = begun if len(orders) > 1 else len(asked)
    # The second call fails inside the first epoch, which ends; each later one that fails has begun an epoch.
    assert [orders[n] == orders[n + 1] for n in range(6)] == [True, False, False, True, False, False]
    assert len(set(orders)) == 5
    assert [r.renewal_bytes > 0 for r in session.reports] == [True, True, False, True]
    for n in (1, 3):
        np.testing.assert_allclose(revealed[n], revealed[0], atol=0.01)
    np.testing.assert_allclose(revealed[2], FFN().apply(p, x(1)), atol=0.01)
    assert len(drawn) == len(set(drawn))
    assert "model" in asked[:begun]
    assert set(asked[begun:]) == {"client"}


def test_layers_one_after_the_other_are_shuffled_apart():
    made = [exact(f"up{i}", [stack()["up"][i]], [stack()["bias"][i]], capacity=0.5) for i in range(2)]
    gates = tuple(cj.Gate(predictor=one, reveals="nothing", renewal="shuffle") for one in made)
    with Caught() as session:
        module = cj.share(cj.private(Unrolled, policy=cj.Policy(gates=gates))(stack()), "model")
        module(cj.share(x(1), "client"))
        lowered = session.plan.lowered
    steps = [op for op in lowered.shuffle.program.ops if isinstance(op.protocol, Shuffle)]
    assert [op.outputs[0].shape for op in steps] == [(H, 2 * D + 1 + H)] * 2


def test_explain_counts_a_shuffle():
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params())
    given = shapes, cj.seal(jax.ShapeDtypeStruct((1, D), np.float32))
    owner, shuffle = (
        cj.explain(FFN().apply, *given, policy=gated(predictor(params(), capacity=0.5), "nothing", renewal=renewal))
        for renewal in ("owner", "shuffle")
    )
    assert owner.renewal is None
    bias, weights = 4 * H, 4 * H * (2 * D + H)
    half = 4 * H * ((2 * D + H + 1 + 1) // 2)  # of a block's elements, rounded up
    found = shuffle.renewal
    assert found.sharing_bytes == owner.renewal_bytes == 2 * bias + 4 * weights
    assert found.online_bytes == half + bias + weights
    assert found.offline_bytes == bias + weights + 8 * H
    assert shuffle.renewal_bytes == 2 * found.online_bytes + found.offline_bytes
    assert str(found) in str(shuffle)
    assert "neither knows how" in shuffle.gates[0].views["party 0, party 1"]
    assert shuffle.online_bytes == owner.online_bytes


def test_renewals_that_cannot_be():
    made = predictor(params(), capacity=0.5)
    with pytest.raises(ValueError, match="gates that reveal nothing"):
        cj.Gate(predictor=made, reveals="flags", renewal="shuffle")
    with pytest.raises(ValueError, match="'owner' or 'shuffle', not 'nobody'"):
        cj.Gate(predictor=made, reveals="nothing", renewal="nobody")
    with pytest.raises(ValueError, match="in one way, not in"):
        cj.Policy(gates=tuple(cj.Gate(predictor=made, reveals="nothing", renewal=r) for r in ("owner", "shuffle")))

"""Gated feed-forward layers: right, bit for bit as in the ideal world, and showing no more than the policy names."""

from dataclasses import replace
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from gates import always, exact, scoring
from two_parties import Caught, TwoParties

import comet_jax as cj
from comet_jax.errors import CometError
from comet_jax.ir.program import Scan
from comet_jax.predictors import Predictor
from comet_jax.rules.gating import secret_order

D, H, TOKENS = 6, 12, 3
REVEALS = ("flags", "nothing")


class FFN(nn.Module):
    """A layer norm, whose scale is folded into the weights behind it, and a feed-forward layer with a residual."""

    activation: str = "relu"
    linear: bool = False

    @nn.compact
    def __call__(self, x):
        h = nn.LayerNorm(name="norm")(x)
        z = getattr(jax.nn, self.activation)(nn.Dense(H, name="up")(h))
        if self.linear:
            z = z * nn.Dense(H, use_bias=False, name="linear")(h)
        return x + nn.Dense(D, name="down")(z)


def scanned(p, x):
    """Two layers as a scan."""
    return jax.lax.scan(lambda x, w: (x + jax.nn.relu(x @ w["up"] + w["bias"]) @ w["down"], None), x, p)[0]


class Unrolled(nnx.Module):
    """The same two layers, one after the other."""

    def __init__(self, p):
        for i in range(2):
            for name, w in p.items():
                setattr(self, f"{name}{i}", nnx.Param(jnp.asarray(w[i])))

    def __call__(self, x):
        for i in range(2):
            up, bias, down = (getattr(self, f"{name}{i}")[...] for name in ("up", "bias", "down"))
            x = x + jax.nn.relu(x @ up + bias) @ down
        return x


@cache
def params(activation: str = "relu", linear: bool = False):
    p = jax.tree.map(np.asarray, FFN(activation, linear).init(jax.random.key(0), np.zeros((1, D), np.float32)))
    r = np.random.default_rng(5)
    p["params"]["up"]["bias"] = r.normal(0, 1, H).astype(np.float32)
    p["params"]["norm"]["scale"] = r.uniform(0.5, 1.5, D).astype(np.float32)
    p["params"]["norm"]["bias"] = r.normal(0, 0.3, D).astype(np.float32)
    return p


@cache
def stack():
    r = np.random.default_rng(2)
    n = lambda *shape: r.normal(0, 0.4, shape).astype(np.float32)
    return {"up": n(2, D, H), "bias": n(2, H), "down": n(2, H, D)}


def x(tokens: int = TOKENS):
    return np.random.default_rng(1).normal(0, 1, (tokens, D)).astype(np.float32)


def predictor(p, **options) -> Predictor:
    up = p["params"]["up"]
    return exact("params/up/kernel", [up["kernel"]], [up["bias"]], **options)


def gated(made: Predictor, reveals, ring=32, **options) -> cj.Policy:
    return cj.Policy(ring=ring, gates=(cj.Gate(predictor=made, reveals=reveals, **options),))


def private(model, policy, p, x, make=cj.Session.ideal):
    """The revealed result, and the session."""
    with make() as session:
        fn = cj.private(model, policy=policy)
        call = fn.apply if isinstance(model, nn.Module) else fn
        return cj.reveal(call(cj.share(p, "model"), cj.seal(cj.share(x, "client"), policy))), session


@pytest.mark.parametrize("ring", [32, 64])
@pytest.mark.parametrize("reveals", REVEALS)
@pytest.mark.parametrize("tokens", [1, TOKENS])
def test_with_room_for_all_that_is_active_a_relu_layer_is_itself(tokens, reveals, ring):
    p = params()
    found, _ = private(FFN(), gated(predictor(p), reveals, ring), p, x(tokens))
    np.testing.assert_allclose(found, FFN().apply(p, x(tokens)), atol=0.01 if ring == 32 else 2e-3)


def test_what_the_predictor_leaves_out_is_left_out():
    p = params()
    found, _ = private(FFN(), gated(always(predictor(p), -0.5), "flags"), p, x())
    np.testing.assert_allclose(found, x() + p["params"]["down"]["bias"], atol=5e-3)


@pytest.mark.parametrize("reveals", REVEALS)
def test_what_it_asks_for_is_computed(reveals):
    p = params()
    found, _ = private(FFN(), gated(always(predictor(p), 0.5), reveals), p, x())
    np.testing.assert_allclose(found, FFN().apply(p, x()), atol=0.01)


@pytest.mark.parametrize("reveals", REVEALS)
@pytest.mark.parametrize(("activation", "linear"), [("silu", True), ("gelu", False)])
def test_gated_and_smooth_layers(activation, linear, reveals):
    p, name = params(activation, linear), {"silu": "silu", "gelu": "gelu_tanh"}[activation]
    model = FFN(activation, linear)
    found, _ = private(model, gated(always(predictor(p, activation=name), 0.5), reveals), p, x())
    np.testing.assert_allclose(found, model.apply(p, x()), atol=0.02)


def test_a_layer_of_blocks_keeps_the_blocks_that_are_asked_for():
    p = params()
    p["params"]["up"] = {k: np.repeat(w[..., ::3], 3, -1) for k, w in p["params"]["up"].items()}
    found, session = private(FFN(), gated(predictor(p, block=3), "flags"), p, x(), cj.Session.simulated)
    np.testing.assert_allclose(found, FFN().apply(p, x()), atol=0.01)
    (shown,) = session.reports[-1].flags
    assert shown.flags.shape == (TOKENS, H // 3)
    assert shown.overflow == 0


def _world(model, policy, p, x):
    with Caught() as session:
        fn = cj.private(model, policy=policy)
        (fn.apply if isinstance(model, nn.Module) else fn)(cj.share(p, "model"), cj.share(x, "client"))
    return session.plan, session.values()


@pytest.mark.parametrize(("reveals", "ring"), [("flags", 32), ("nothing", 64)])
def test_a_private_run_is_the_ideal_one_bit_for_bit(reveals, ring):
    """A scan of two layers, with too little room for some tokens."""
    p = stack()
    made = exact("up", p["up"], p["bias"], capacity=0.5)
    plan, values = _world(scanned, gated(made, reveals, ring), p, x())
    assert any(isinstance(op.protocol, Scan) for op in plan.program.ops)
    run = TwoParties(plan.program, apart=True).run([np.repeat(v[None], 2, 0) for v in values], seed=7)
    for got, again in zip(run.outputs, run.ideal, strict=True):
        np.testing.assert_array_equal(got, again)


def test_a_scan_and_the_same_layers_unrolled_agree():
    p = stack()
    apart = [exact(f"up{i}", [p["up"][i]], [p["bias"][i]]) for i in range(2)]
    gates = tuple(cj.Gate(predictor=made, reveals="flags") for made in apart)
    with cj.Session.ideal():
        module = cj.private(Unrolled, policy=cj.Policy(gates=gates))(p)
        unrolled = cj.reveal(cj.share(module, "model")(cj.share(x(), "client")))
    rolled, _ = private(scanned, gated(exact("up", p["up"], p["bias"]), "flags"), p, x())
    np.testing.assert_allclose(unrolled, scanned(p, x()), atol=0.01)
    np.testing.assert_allclose(rolled, scanned(p, x()), atol=0.01)


@pytest.mark.parametrize(("tokens", "ring"), [(1, 64), (TOKENS, 32)])
@pytest.mark.parametrize("reveals", REVEALS)
def test_what_is_left_out_counts_as_its_mean(tokens, reveals, ring):
    """Whatever is open: none of the neurons, all of them, those that there is room for."""
    p, values = params("gelu"), x(tokens)
    w = p["params"]
    fill = np.random.default_rng(3).normal(0, 0.3, H).astype(np.float32)
    made = predictor(p, activation="gelu_tanh", block=3, fill=fill)
    z = jax.nn.gelu(nn.LayerNorm().apply({"params": w["norm"]}, values) @ w["up"]["kernel"] + w["up"]["bias"])
    out = lambda h: values + h @ w["down"]["kernel"] + w["down"]["bias"]
    opened = lambda bias, **gate: private(FFN("gelu"), gated(always(made, bias), reveals, ring, **gate), p, values)[0]
    np.testing.assert_allclose(opened(0.5), out(z), atol=0.02)
    if reveals == "flags":
        np.testing.assert_allclose(opened(-0.5), out(np.broadcast_to(fill, z.shape)), atol=0.02)
    else:  # of blocks wanted alike the first are taken
        half = np.where(np.arange(H) < H // 2, z, fill)
        np.testing.assert_allclose(opened(0.5, capacity=0.5), out(half), atol=0.02)


@pytest.mark.parametrize("make", [cj.Session.simulated, cj.Session.devices])
def test_flags_show_which_neurons_are_active_in_one_order_a_session(make):
    p = params()
    active = np.asarray(FFN().apply(p, x(), capture_intermediates=True)[1]["intermediates"]["up"]["__call__"][0]) > 0
    policy, orders = gated(predictor(p, margin=0.0), "flags"), []
    for _ in range(2):
        with make() as session:
            fn, w = cj.private(FFN(), policy=policy), cj.share(p, "model")
            for _ in range(2):
                fn.apply(w, cj.seal(cj.share(x(), "client"), policy))
        first, second = (r.flags[0].flags for r in session.reports)
        # Rounding may take a score near zero to either side.
        assert np.abs(first.astype(int) - second).sum() <= 2
        assert np.abs(np.sort(first.sum(0)) - np.sort(active.sum(0))).sum() <= 2
        orders.append(first)
    assert not np.array_equal(*orders)
    plan = next(iter(session.plans.values()))[0]
    assert plan.lowered.proof.disclosed == (("params/up/kernel", TOKENS * H),)


def test_to_reveal_nothing_is_a_set_of_one_size_that_is_drawn_anew_each_time():
    p = params()
    policy, sets = gated(predictor(p, capacity=0.5), "nothing"), []
    with cj.Session.simulated() as session:
        fn, w = cj.private(FFN(), policy=policy), cj.share(p, "model")
        for _ in range(40):
            fn.apply(w, cj.seal(cj.share(x(1), "client"), policy))
    for report in session.reports:
        (shown,) = report.flags
        assert shown.flags.shape == (1, H)
        assert shown.flags.sum() == H // 2
        assert report.renewal_bytes > 0
        sets.append(shown.flags[0])
    # Each place is used in half of the sets: 40 tosses of 12 coins, none of them far off.
    counts = np.sum(sets, 0)
    assert len({s.tobytes() for s in sets}) > 30
    assert counts.min() >= 6
    assert counts.max() <= 34


SCORES = {
    "apart": np.random.default_rng(8).permutation(np.linspace(-0.9, 0.9, H)),
    "many alike": np.where(np.isin(np.arange(H), [0, 2, 3, 5, 8]), 0.25, -0.25),
    "all alike": np.full(H, 0.25),
    "none asked for": np.random.default_rng(9).permutation(np.linspace(-0.9, -0.1, H)),
}


@pytest.mark.parametrize(
    ("tokens", "scores", "capacity"),
    [
        *((1, scores, 0.25) for scores in SCORES),
        *((1, "apart", capacity) for capacity in (1 / H, 0.75, 1.0)),
        *((TOKENS, "many alike", capacity) for capacity in (0.25, 0.75)),
        (TOKENS, "none asked for", 0.5),
    ],
)
def test_to_reveal_nothing_keeps_what_is_wanted_most(tokens, scores, capacity):
    """One token: the largest scores. Several: the blocks that most of them have a score of at least zero for."""
    p, wanted = params(), SCORES[scores]
    found, _ = private(FFN(), gated(scoring(predictor(p), wanted), "nothing", capacity=capacity), p, x(tokens))
    kept = np.argsort(-wanted if tokens == 1 else wanted < 0, kind="stable")[: round(capacity * H)]
    down = {"kernel": np.zeros((H, D), np.float32), "bias": p["params"]["down"]["bias"]}
    down["kernel"][kept] = p["params"]["down"]["kernel"][kept]
    np.testing.assert_allclose(found, FFN().apply({"params": p["params"] | {"down": down}}, x(tokens)), atol=0.01)


def test_layers_that_are_alike_have_orders_of_their_own():
    p = jax.tree.map(lambda w: np.stack([w[0]] * 8), stack())
    made = replace_layers(exact("up", [p["up"][0]], [p["bias"][0]], capacity=0.5), 8)
    _, session = private(scanned, gated(made, "nothing"), p, x(1), cj.Session.simulated)
    (shown,) = session.reports[-1].flags
    assert len({s.tobytes() for s in shown.flags}) > 4


def test_loops_over_the_same_weights_have_orders_of_their_own():
    p = stack()
    twice = lambda p, x: scanned(p, scanned(p, x) * 0.5)
    _, values = _world(twice, gated(exact("up", p["up"], p["bias"]), "flags"), p, x(1))
    placed = [v for v in values if v.shape == (2, H, 1, D)]
    assert len(placed) == 4  # two weights in two loops
    assert len({v.tobytes() for v in placed}) == 4


def test_what_finds_no_slot_is_cut_and_counted():
    p = params()
    found, session = private(
        FFN(), gated(always(predictor(p), 0.5), "flags", capacity=0.25), p, x(), cj.Session.simulated
    )
    (shown,) = session.reports[-1].flags
    assert (shown.kept, shown.capacity) == (1.0, 0.25)
    assert shown.overflow == TOKENS * H * 3 // 4
    assert np.isfinite(found).all()
    hidden, _ = private(FFN(), gated(always(predictor(p), 0.5), "nothing", capacity=0.25), p, x())
    assert np.isfinite(hidden).all()


def test_no_tokens_are_no_work():
    p = params()
    found, _ = private(FFN(), gated(predictor(p), "flags"), p, x(0))
    assert found.shape == (0, D)


def test_explain_lists_the_flags():
    p = params()
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), p)
    for reveals, word in (("flags", "which of 12 blocks"), ("nothing", "uniformly random")):
        found = cj.explain(
            FFN().apply, shapes, cj.seal(jax.ShapeDtypeStruct((2, D), np.float32)), policy=gated(predictor(p), reveals)
        )
        assert word in str(found)
        (gate,) = found.gates
        assert gate.site == "params/up/kernel"
        assert set(gate.views) == {"party 0, party 1", "dealer", "model owner", "client", "network"}


def test_explain_says_what_an_epoch_is_and_what_its_calls_cost():
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params())
    given = shapes, cj.seal(jax.ShapeDtypeStruct((1, D), np.float32))
    made = predictor(params(), capacity=0.25)
    one, four = (cj.explain(FFN().apply, *given, policy=gated(made, "nothing", epoch=epoch)) for epoch in (1, 4))
    assert one.average is None
    assert four.renewal_bytes == one.renewal_bytes > 0
    assert (four.average.calls, four.average.rounds) == (4, four.rounds)
    assert four.average.renewal_bytes == four.renewal_bytes / 4
    assert four.average.online_bytes > four.online_bytes == one.online_bytes
    assert four.average.offline_bytes > four.offline_bytes == one.offline_bytes
    (gate,) = four.gates
    assert "in each of 4 calls, an epoch, a uniformly random set" in gate.views["party 0, party 1"]
    assert "a call of an epoch of 4, on average" in str(four)
    for role in ("client", "model owner"):
        assert "depends on what earlier calls of the epoch asked for" in gate.views[role]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": D + 1}, "width"),
        ({"neurons": 2 * H}, "neurons"),
        ({"layers": 2}, "layers"),
        ({"activation": "silu"}, "activation"),
        ({"site": "params/other/kernel"}, "names no feed-forward layer: there are params/up/kernel"),
    ],
)
def test_a_predictor_of_another_model_is_refused_by_name(change, message):
    p = params()
    made = Predictor((replace(predictor(p).sites[0], **change),))
    with pytest.raises(CometError, match=message):
        private(FFN(), gated(made, "flags"), p, x())


def test_a_predictor_of_other_weights_is_refused():
    p = params()
    other = jax.tree.map(lambda a: a + 1, p)
    with pytest.raises(CometError, match="trained for other weights"):
        private(FFN(), gated(predictor(other), "flags"), p, x())
    with pytest.raises(CometError, match="manifest only"):
        private(FFN(), gated(Predictor(predictor(p).sites), "flags"), p, x())


def test_gates_are_asked_for_by_what_they_reveal():
    made = predictor(params())
    with pytest.raises(TypeError, match="reveals"):
        cj.Gate(predictor=made)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="'flags' or 'nothing'"):
        cj.Gate(predictor=made, reveals="everything")  # type: ignore[arg-type]
    for capacity in (0.0, 1.5):
        with pytest.raises(ValueError, match="capacity"):
            cj.Gate(predictor=made, reveals="flags", capacity=capacity)


def test_shared_layers_are_not_gated_without_revealing():
    p = {"up": stack()["up"][0], "down": stack()["down"][0]}
    step = lambda p, x: jax.lax.scan(lambda x, _: (x + jax.nn.relu(x @ p["up"]) @ p["down"], None), x, length=2)[0]
    with pytest.raises(CometError, match="an order of its own"):
        private(step, gated(replace_layers(exact("up", [p["up"]]), 2), "nothing"), p, x())


def replace_layers(made: Predictor, count: int) -> Predictor:
    """A predictor of one layer as one of ``count`` layers that are alike."""
    (site,) = made.sites
    assert made.layers is not None
    return Predictor((replace(site, layers=count),), {site.site: made.layers[site.site] * count})


def test_an_order_is_a_permutation_of_its_key_alone():
    one, again, other = (secret_order(bytes([k]) * 32, "site", 50) for k in (1, 1, 2))
    assert sorted(one) == list(range(50))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, secret_order(bytes([1]) * 32, "another", 50))

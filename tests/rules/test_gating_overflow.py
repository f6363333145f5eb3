"""Gates that show flags, where more blocks are asked for than there are slots: by scores the largest are computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gates import exact
from two_parties import Caught, TwoParties

import comet_jax as cj
from comet_jax.errors import CometError
from comet_jax.passes.explain import Explanation
from comet_jax.predictors import Layer, Predictor
from comet_jax.predictors.artifact import fingerprint
from comet_jax.predictors.reference import fitting, scores

D, H, LAYERS = 6, 12, 2
SITE = "up"


def layer(p, x):
    return x + jax.nn.relu(x @ p["up"] + p["bias"]) @ p["down"]


def scanned(p, x):
    return jax.lax.scan(lambda x, w: (layer(w, x), None), x, p)[0]


def weights(*layers: int):
    r = np.random.default_rng(3)
    n = lambda *shape: r.normal(0, 0.4, (*layers, *shape)).astype(np.float32)
    return {"up": n(D, H), "bias": n(H), "down": n(H, D)}


def inputs(tokens: int) -> np.ndarray:
    """Of few bits, so that scores have no more than theirs, and rounding decides nothing."""
    return (np.random.default_rng(tokens).integers(-4, 5, (tokens, D)) / 4).astype(np.float32)


def predictor(p, capacity: float, block: int = 1) -> Predictor:
    """With scores of a few levels between -1 and 1, and many that are alike."""
    made, r = exact(SITE, [p["up"]], [p["bias"]], capacity=capacity, block=block), np.random.default_rng(8)
    b, bias = r.integers(-2, 3, (D, H // block)) / 16, r.integers(-1, 3, H // block) / 16
    return Predictor(made.sites, {SITE: (Layer(fingerprint(p["up"]), np.arange(H), np.eye(D), b, bias),)})


def policy(made: Predictor, overflow="scores", ring=32) -> cj.Policy:
    return cj.Policy(ring=ring, gates=(cj.Gate(predictor=made, reveals="flags", overflow=overflow),))


def private(p, x, policy, make=cj.Session.ideal):
    with make() as session:
        call = cj.private(layer, policy=policy)
        return cj.reveal(call(cj.share(p, "model"), cj.seal(cj.share(x, "client"), policy))), session


def kept(p, x, blocks: np.ndarray) -> np.ndarray:
    """The layer with those blocks of each token, (T, G), alone."""
    hidden = np.maximum(x @ p["up"] + p["bias"], 0) * np.repeat(blocks, H // blocks.shape[1], 1)
    return x + hidden @ p["down"]


@pytest.mark.parametrize(
    ("tokens", "capacity", "block", "ring"),
    [(1, 0.25, 1, 32), (1, 0.25, 1, 64), (4, 0.3, 1, 32), (4, 0.125, 3, 64), (4, 1.0, 3, 32)],
)
def test_the_largest_scores_of_all_tokens_are_computed(tokens, capacity, block, ring):
    p, x = weights(), inputs(tokens)
    made = predictor(p, capacity, block)
    wanted = np.asarray(scores(made.layers[SITE][0], x))
    assert np.abs(wanted).max() < 1
    room = round(capacity * wanted.size)
    expected = np.asarray(fitting(wanted, room))
    assert expected.sum() <= room
    assert (wanted >= 0).sum() > expected.sum() or capacity == 1
    found, _ = private(p, x, policy(made, ring=ring))
    np.testing.assert_allclose(found, kept(p, x, expected), atol=0.01 if ring == 32 else 2e-3)


@pytest.mark.parametrize("overflow", ["scores", "turns"])
def test_flags_are_shown_of_what_is_computed_alone(overflow):
    p, some = weights(), [inputs(1) * k for k in (-1, 0, 0.5, 1)]
    made = predictor(p, 0.25)
    with cj.Session.simulated() as session:
        call, w = cj.private(layer, policy=policy(made, overflow)), cj.share(p, "model")
        for x in some:
            call(w, cj.seal(cj.share(x, "client"), policy(made, overflow)))
    cut = 0
    for x, report in zip(some, session.reports, strict=True):
        wanted, (shown,) = np.asarray(scores(made.layers[SITE][0], x)), report.flags
        room, asked = H // 4, (wanted >= 0).sum()
        fit = asked if overflow == "turns" else fitting(wanted, room).sum()
        assert (shown.flags.sum(), shown.overflow) == (fit, max(0, fit - room))
        cut += asked > room
    assert cut > 1


def test_a_private_run_is_the_ideal_one_bit_for_bit():
    p, tokens = weights(LAYERS), 3
    made = exact(SITE, p["up"], p["bias"], capacity=0.25)
    with Caught() as session:
        cj.private(scanned, policy=policy(made))(cj.share(p, "model"), cj.share(inputs(tokens), "client"))
    given = [np.repeat(v[None], 2, 0) for v in session.values()]
    run = TwoParties(session.plan.program, apart=True).run(given, seed=7)
    for got, again in zip(run.outputs, run.ideal, strict=True):
        np.testing.assert_array_equal(got, again)
    assert session.plan.lowered.proof.disclosed == ((SITE, LAYERS * tokens * H),)


def explained(overflow: str, capacity: float, tokens: int = 1) -> Explanation:
    p, x = weights(), jax.ShapeDtypeStruct((tokens, D), jnp.float32)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), p)
    return cj.explain(layer, shapes, cj.seal(x), policy=policy(predictor(p, capacity), overflow))


def test_it_costs_what_is_stated_and_nothing_where_all_fit():
    at = lambda found: next(r for r in found.operations if r.operation == "gate")
    turns, by_score = explained("turns", 0.25, 3), explained("scores", 0.25, 3)
    count, k = 3 * H, 6
    assert by_score.rounds == turns.rounds + 2
    assert 8 * (at(by_score).online_bytes - at(turns).online_bytes) == 128 * (k + 1)
    assert 8 * (at(by_score).offline_bytes - at(turns).offline_bytes) == 256 * count * k + 2 ** (k + 7)
    assert vars(explained("scores", 1.0))["operations"] == vars(explained("turns", 1.0))["operations"]


def test_explain_says_what_is_left_out_and_who_sees_it():
    assert "not shown, nor how many they are" in str(explained("scores", 0.25))
    assert "shown as well, though not computed" in str(explained("turns", 0.25))


def test_another_way_is_refused():
    made = predictor(weights(), 0.25)
    with pytest.raises(ValueError, match="'turns' or 'scores', not 'best'"):
        policy(made, "best")
    with pytest.raises(ValueError, match="wanted most are computed anyway"):
        cj.Gate(predictor=made, reveals="nothing", overflow="scores")


def test_a_call_of_too_many_blocks_is_refused_by_name():
    tokens = (1 << 16) // H + 1
    with pytest.raises(CometError, match=rf"up: a call has {tokens * H} blocks .* use overflow='turns'"):
        explained("scores", 0.25, tokens)
    explained("scores", 1.0, tokens)

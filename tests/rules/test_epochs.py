"""Epochs of gates that reveal nothing: right, bit for bit the ideal ones, and every set uniform given all before."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from gates import exact, scoring
from scipy.stats import chi2, chisquare
from test_gating import FFN, TOKENS, H, Unrolled, gated, params, predictor, private, scanned, stack, x
from two_parties import Caught, TwoParties

import comet_jax as cj
from comet_jax.errors import CometError
from comet_jax.ir.program import Scan
from comet_jax.protocols.stash import Touched

EPOCH, THIRD = 3, 1 / 3
SESSIONS = {"simulated": cj.Session.simulated, "devices": cj.Session.devices, "ideal": cj.Session.ideal}


def shown(session) -> np.ndarray:
    """What every call disclosed, bool[calls, layers, blocks]."""
    by_layer = lambda f: f.flags.reshape(-1, f.flags.shape[-1])
    return np.array([np.concatenate([by_layer(f) for f in r.flags]) for r in session.reports])


def layers(p, epoch: int):
    """The two layers of a stack, one after the other, with a gate each."""
    made = [exact(f"up{i}", [p["up"][i]], [p["bias"][i]], capacity=THIRD) for i in range(2)]
    return tuple(cj.Gate(predictor=one, reveals="nothing", epoch=epoch) for one in made)


def calls(kind: str, tokens: int, ring: int, epoch: int):
    """A function, its policy and arguments that make a call of it, in a session."""
    policy = gated(exact("up", stack()["up"], stack()["bias"], capacity=THIRD), "nothing", ring, epoch=epoch)
    if kind == "unrolled":
        policy = replace(policy, gates=layers(stack(), epoch))
        module = cj.share(cj.private(Unrolled, policy=policy)(stack()), "model")
        return lambda i: module(cj.share(x(tokens) + 0.1 * i, "client"))
    fn, w = cj.private(scanned, policy=policy), cj.share(stack(), "model")
    return lambda i: fn(w, cj.share(x(tokens) + 0.1 * i, "client"))


@pytest.mark.parametrize(("kind", "tokens", "ring"), [("scanned", TOKENS, 64), ("unrolled", 1, 32)])
def test_private_runs_are_ideal_ones_bit_for_bit_into_the_next_epoch(kind, tokens, ring):
    flags, orders, weights, worlds, epoch = [], [], None, {}, 2
    with Caught() as session:
        call = calls(kind, tokens, ring, epoch)
        for n in range(epoch + 1):
            call(n)
            plan = session.plan.at(n % epoch)
            values = session.values()
            if n % epoch == 0:
                flags, weights = [], values
            held = [weights[i] if i in plan.renewed else v for i, v in enumerate(values)]
            world = worlds.setdefault(plan, TwoParties(plan.program, apart=True))
            run = world.run([np.repeat(v[None], 2, 0) for v in (*held, *flags)], seed=n)
            for got, again in zip(run.outputs, run.ideal, strict=True):
                np.testing.assert_array_equal(got, again)
            flags = [f[0].astype(np.int64) for f in plan.parted(run.outputs)[1]]
            assert all(f.sum(-1).max() == f.sum(-1).min() == (n % epoch + 1) * H // 3 for f in flags)
            orders.append([held[i] for i in plan.renewed])
    assert any(isinstance(op.protocol, Scan) for op in plan.program.ops) == (kind == "scanned")
    same = lambda a, b: all(np.array_equal(*pair) for pair in zip(orders[a], orders[b], strict=True))
    assert same(0, 1)
    assert not same(0, 2)


@pytest.mark.parametrize(
    ("tokens", "name"), [(1, "simulated"), (TOKENS, "devices"), *((tokens, "ideal") for tokens in (1, TOKENS))]
)
def test_the_last_call_computes_every_block_and_so_the_dense_layer(tokens, name):
    p, fill = stack(), np.random.default_rng(4).normal(0, 0.3, H)  # in the same order as the weights are, in every call
    made = gated(exact("up", p["up"], p["bias"], capacity=THIRD, fill=fill), "nothing", epoch=EPOCH)
    with SESSIONS[name]() as session:
        fn, w, errors = cj.private(scanned, policy=made), cj.share(p, "model"), []
        for n in range(2 * EPOCH):
            prompt = x(tokens) * (-1) ** n
            y = cj.reveal(fn(w, cj.seal(cj.share(prompt, "client"), made)))
            errors.append(np.abs(y - scanned(p, prompt)).max())
    assert max(errors[2], errors[5]) < 0.01
    assert min(errors[0], errors[3]) > 0.1
    renewed = [r.renewal_bytes for r in session.reports]
    assert renewed[0] > 0
    assert renewed == [renewed[0], 0, 0] * 2
    if name == "ideal":
        return
    for epoch in np.split(shown(session), 2):
        assert (epoch.sum(-1) == H // 3).all()
        assert (epoch.sum(0) == 1).all()  # disjoint, and here all of them


def test_a_longer_epoch_changes_nothing_of_its_first_call():
    one, three = (
        cj.private(FFN(), policy=gated(predictor(params(), capacity=THIRD), "nothing", epoch=epoch))
        for epoch in (1, EPOCH)
    )
    with Caught() as session:
        programs = []
        for fn in (one, three):
            fn.apply(cj.share(params(), "model"), cj.share(x(1), "client"))
            programs.append(session.plan.program)
    assert programs[0].outputs == programs[1].outputs[:1]
    assert str(programs[0]).splitlines()[:-1] == str(programs[1]).splitlines()[:-1]
    assert len(programs[1].outputs) == 2


@pytest.mark.parametrize(("spread", "tokens"), [(3, 1), (3, TOKENS), (0, 1)])
def test_no_block_is_disclosed_twice_whatever_the_scores_are(spread, tokens):
    """Of scores far beyond what they may be, what is opened wraps around; and all may be alike."""
    scores = np.random.default_rng(3).uniform(-spread, spread, H)
    made = gated(scoring(predictor(params(), capacity=THIRD), scores), "nothing", epoch=EPOCH)
    with cj.Session.simulated() as session:
        fn, w = cj.private(FFN(), policy=made), cj.share(params(), "model")
        for _ in range(4 * EPOCH):
            fn.apply(w, cj.share(x(tokens), "client"))
    for epoch in np.split(shown(session)[:, 0], 4):
        assert (epoch.sum(-1) == H // 3).all()
        assert (epoch.sum(0) == 1).all()


def test_the_stash_serves_what_the_prompt_asks_for_most_first():
    """Each call adds the best of what is left: two of a third are the best two thirds."""
    p, wanted = params(), np.random.default_rng(8).permutation(np.linspace(-0.9, 0.9, H))
    made = gated(scoring(predictor(p, capacity=THIRD), wanted), "nothing", epoch=EPOCH)
    with cj.Session.ideal():
        fn, w = cj.private(FFN(), policy=made), cj.share(p, "model")
        for n in range(EPOCH):
            found = cj.reveal(fn.apply(w, cj.share(x(1), "client")))
            kept = np.argsort(-wanted)[: (n + 1) * H // 3]
            down = {"kernel": np.zeros_like(p["params"]["down"]["kernel"]), "bias": p["params"]["down"]["bias"]}
            down["kernel"][kept] = p["params"]["down"]["kernel"][kept]
            np.testing.assert_allclose(found, FFN().apply({"params": p["params"] | {"down": down}}, x(1)), atol=0.01)


# What the sets of an epoch say.

BLOCKS = 4
RUNS = 240


def counted(*prompts: list[np.ndarray]) -> list[np.ndarray]:
    """For the calls of an epoch with each of ``prompts``: how often each sequence of different places was disclosed, of
    ``RUNS`` epochs, and at the end how often another was."""
    calls = len(prompts[0])
    made = gated(predictor(params(), block=H // BLOCKS, capacity=1 / BLOCKS), "nothing", epoch=calls)
    with cj.Session.simulated() as session:
        fn, w = cj.private(FFN(), policy=made), cj.share(params(), "model")
        for one in prompts:
            for n in range(RUNS * calls):
                fn.apply(w, cj.share(one[n % calls], "client"))
    found = shown(session)[:, 0].argmax(-1).reshape(len(prompts), RUNS, calls)
    of = np.array([(found == sequence).all(-1).sum(-1) for sequence in permutations(range(BLOCKS), calls)])
    return list(np.concatenate([of, RUNS - of.sum(0, keepdims=True)]).T)


SAME = [x(1)] * 3
OTHERS = [x(1), -x(1), 10 * x(1)[:, ::-1]]
UNLIKELY = 1e-3


def test_the_sets_of_an_epoch_are_uniform_together_whatever_is_asked():
    tables = counted(SAME, OTHERS)
    for table in tables:
        assert table[-1] == 0
        assert chisquare(table[:-1]).pvalue > UNLIKELY
    first, second = (t[:-1].astype(float) for t in tables)
    off = ((first - second) ** 2 / (first + second)).sum()
    assert chi2.sf(off, len(first) - 1) > UNLIKELY


def test_blocks_that_are_chosen_again_are_caught(monkeypatch):
    """A planted leak that no check of a program sees: as if nothing had been touched before."""
    nothing = lambda self, group, m, flags: 0 * flags.v.reshape(-1).astype(group.dtype)
    monkeypatch.setattr(Touched, "_product", nothing)
    same, others = counted(SAME[:2], OTHERS[:2])
    assert same[-1] == RUNS  # always the same block again
    assert others[-1] != RUNS


# What a run that fails, other calls, and wrong settings do.


def test_a_run_that_fails_ends_its_epoch():
    made = gated(predictor(params(), capacity=THIRD), "nothing", epoch=EPOCH)
    with cj.Session.simulated() as session:
        fn, w = cj.private(FFN(), policy=made), cj.share(params(), "model")
        again = lambda value=1.0: fn.apply(w, cj.share(value * x(1), "client"))
        again()
        again()
        loaded = next(iter(session._loaded.values()))
        before, masks = loaded.epoch, [m for m in loaded.masks]
        assert before.call == 2
        with pytest.raises(CometError, match="client"):
            again(np.nan)
        assert before.call == 0
        with pytest.raises(CometError, match="client"):  # fails after weights were shared afresh: its masks are spent
            again(np.nan)
        spent = [m for m in loaded.masks]
        again()
        again()
    renewed = [r.renewal_bytes > 0 for r in session.reports]
    assert renewed == [True, False, True, False]
    one, two = shown(session)[:2].sum((0, 1)), shown(session)[2:].sum((0, 1))
    assert one.max() == two.max() == 1
    plan = next(iter(session.plans.values()))[0]
    static = [plan.static.index(i) for i in plan.renewed if i in plan.static]
    assert static
    for n in static:
        kinds = [np.asarray(kind[n]) for kind in (masks, spent, loaded.masks)]
        assert all(not np.array_equal(a, b) for a, b in permutations(kinds, 2))


def test_functions_shapes_and_weights_have_epochs_of_their_own():
    made = gated(predictor(params(), capacity=THIRD), "nothing", epoch=EPOCH)
    with cj.Session.simulated() as session:
        fn, w, v = cj.private(FFN(), policy=made), cj.share(params(), "model"), cj.share(params(), "model")
        for weights, tokens in ((w, 1), (w, TOKENS), (w, 1), (v, 1), (w, TOKENS), (w, 1), (w, 1)):
            fn.apply(weights, cj.share(x(tokens), "client"))
    assert [r.renewal_bytes > 0 for r in session.reports] == [True, True, False, True, False, False, True]
    at = [0, 2, 5]
    assert (shown(session)[at, 0].sum(0) == 1).all()


def test_epochs_that_cannot_be():
    made = predictor(params(), capacity=THIRD)
    for epoch in (0, -1):
        with pytest.raises(ValueError, match="1 call or more"):
            cj.Gate(predictor=made, reveals="nothing", epoch=epoch)
    with pytest.raises(ValueError, match="gates that reveal nothing"):
        cj.Gate(predictor=made, reveals="flags", epoch=2)
    with pytest.raises(CometError, match=r"4 calls that choose 4 new blocks each needs 16 blocks.* has 12"):
        private(FFN(), gated(made, "nothing", epoch=4), params(), x())
    with pytest.raises(ValueError, match=r"one epoch, and these have \[1, 2\]"):
        cj.Policy(gates=tuple(cj.Gate(predictor=made, reveals="nothing", epoch=n) for n in (1, 2)))
    assert cj.Policy(gates=(cj.Gate(predictor=made, reveals="flags"),)).epoch == 1

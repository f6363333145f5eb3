"""What ``explain`` and ``cost_analysis`` say, counted from the program."""

import json

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest

import comet_jax as cj
from comet_jax import cases
from comet_jax.passes.explain import LINKS, Link

shapes = lambda tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)
P = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in {"w": (8, 16), "c": (16,), "v": (16, 4)}.items()}
X = jax.ShapeDtypeStruct((3, 8), jnp.float32)


def mlp(p, x):
    with jax.named_scope("hidden"):
        h = jax.nn.relu(x @ p["w"] + p["c"])
    return h @ p["v"]


def stack(p, x):
    return jax.lax.scan(lambda x, w: (x + jax.nn.relu(x @ w), None), x, p)[0]


@pytest.fixture(scope="module")
def told():
    return cj.explain(mlp, P, X)


def test_the_totals_of_a_known_program(told):
    # x and h opened at 32 bits, relu's input at 17, its comparison in 5 digits of 2 bits and 1 bit for the result.
    assert told.rounds == 5
    assert told.online_bytes == cj.private(mlp).trace(P, X).lower().cost_analysis()["online_bytes"]
    hidden = 3 * 16
    assert 4 * (3 * 8 + hidden) < told.online_bytes < 4 * (3 * 8 + hidden) + 6 * hidden


def test_each_operation_has_a_row_with_its_rounds(told):
    rounds = {(r.site, r.operation): r.rounds for r in told.operations}
    # The first product opens x. relu opens its input, its comparison's word, its sign, and its result for the second.
    assert rounds["hidden", "dot_general"] == 1
    assert [n for (_, operation), n in rounds.items() if operation == "relu"] == [4]
    assert sum(rounds.values()) == told.rounds


@pytest.mark.parametrize("fn", [mlp, stack])
def test_rows_add_up(fn):
    p = P if fn is mlp else jax.ShapeDtypeStruct((5, 8, 8), jnp.float32)
    told = cj.explain(fn, p, X)
    for name in ("online_bytes", "offline_bytes"):
        rows, total = sum(getattr(r, name) * r.times for r in told.operations), getattr(told, name)
        # Messages are padded to words: at most a word for each width in each message, or each delivery.
        assert rows <= total <= rows + 4 * 6 * (told.rounds + 10)
    assert {r.times for r in told.operations} >= ({5} if fn is stack else {1})


def test_costs_of_a_scan_grow_with_its_length():
    cost = lambda n: cj.private(stack).trace(jax.ShapeDtypeStruct((n, 8, 8), jnp.float32), X).lower().cost_analysis()
    two, three, four = map(cost, (2, 3, 4))
    for name in two:
        assert four[name] - three[name] == three[name] - two[name] > 0


def test_json_for_programs_and_a_table_for_people(told):
    found = json.loads(told.json())
    assert {"rounds", "online_bytes", "offline_bytes", "operations"} <= set(found)
    assert [found[k] for k in ("rounds", "online_bytes")] == [told.rounds, told.online_bytes]
    text = str(told)
    assert text == str(told)
    assert "hidden" in text
    assert f"{told.rounds} rounds" in text
    assert "uniform" in text
    assert all(len(line) <= 120 for line in text.splitlines()[:-3])


def test_published_tables_are_named_and_looked_up_by_the_client():
    def model(p, tokens):
        return p["embed"]["table"][tokens] @ p["w"]

    p = {"embed": {"table": jax.ShapeDtypeStruct((50, 8), jnp.float32)}, "w": P["w"]}
    tokens = jax.ShapeDtypeStruct((3,), jnp.int32)
    secret, public = (
        cj.explain(model, p, tokens, policy=cj.Policy(published=published)) for published in ((), ("^embed/",))
    )
    assert public.online_bytes < secret.online_bytes
    assert any("^embed/" in line for line in public.reveals)
    assert not any("Published" in line for line in secret.reveals)


def test_what_is_explained_may_be_private_or_not_and_sealed_or_not(told):
    assert cj.explain(cj.private(mlp), P, X) == told
    assert cj.explain(cj.private(mlp), P, X, policy=cj.Policy(ring=64)).online_bytes > told.online_bytes
    only_the_clients = cj.explain(jax.nn.relu, X)
    assert (only_the_clients.rounds, only_the_clients.online_bytes) == (0, 0)
    assert cj.explain(jax.nn.relu, cj.seal(X)).rounds == 3
    with pytest.raises(cj.CometError, match="not a class"):
        cj.explain(cj.Policy, P)


def test_a_benchmark_case_from_shapes():
    case = cases.make("layernorm", 4)
    told = cj.explain(case.function, shapes(case.weights), cj.seal(shapes(case.x)))
    assert told.rounds > 0


def test_explaining_runs_nothing_and_needs_no_session(told):
    with pytest.raises(cj.CometError, match="no session"):
        cj.share(1.0, owner="client")
    assert told.offline_bytes > 0


def test_rows_have_widths_products_and_scales(told):
    by_operation = {r.operation: r for r in told.operations}
    relu = by_operation["relu"]
    assert relu.opened_bits == (17, 6, 1, 32)
    assert relu.fraction == 10
    assert relu.headroom is None
    # x W of 3 x 8 by 8 x 16, h V of 3 x 16 by 16 x 4.
    assert sum(r.products for r in told.operations) == 3 * 8 * 16 + 3 * 16 * 4


def test_calibration_shows_as_headroom():
    p = {k: np.random.default_rng(0).normal(0, 0.3, v.shape).astype(np.float32) for k, v in P.items()}
    x = np.random.default_rng(1).normal(0, 1, X.shape).astype(np.float32)
    found = cj.calibrate(mlp, (p, x))
    told = cj.explain(mlp, P, X, policy=found.policy)
    rooms = [r.headroom for r in told.operations if r.headroom is not None]
    assert rooms
    assert min(rooms) >= 0
    (saving,) = (s for s in told.saved if s.by == "calibrate")
    assert saving.after == told.online_bytes < saving.before == cj.explain(mlp, P, X).online_bytes
    assert any("calibration" in line for line in told.reveals)


def test_what_passes_saved(told):
    saved = {(s.by, s.what.split(":")[0]): s for s in told.saved}
    merged = saved["schedule", "rounds"]
    assert merged.after == told.rounds <= merged.before
    narrowed = saved["narrow", "bytes online"]
    assert narrowed.after == told.online_bytes <= narrowed.before
    assert saved["narrow", "bytes dealt"].after == told.offline_bytes < saved["narrow", "bytes dealt"].before
    assert all(str(s) in str(told) for s in told.saved)


def test_seconds_on_a_link(told):
    link = Link(latency=0.01, bandwidth=8e6)
    assert told.seconds(link) == pytest.approx(told.rounds * 0.01 + told.online_bytes / 1e6)
    assert told.seconds(LINKS["lan"]) < told.seconds(LINKS["wan"]) < told.seconds(LINKS["far"])


def test_a_plot_of_bytes_by_site():
    matplotlib.use("agg")
    told = cj.explain(mlp, P, X)
    axes = told.plot()
    shown = sum(bar.get_width() for bars in axes.containers for bar in bars)
    assert shown == pytest.approx(sum(r.online_bytes * r.times for r in told.operations) / 1e3)
    assert {t.get_text() for t in axes.get_legend().get_texts()} <= {r.operation for r in told.operations}
    matplotlib.pyplot.close(axes.figure)

"""Calibration: what it finds, what it makes of it, and what it refuses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import comet_jax as cj
from comet_jax.protocols.opening import Open

WIDTH = 6


def real(*shape: int, seed: int = 0, size: float = 1.0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).normal(0, size, shape).astype(np.float32)


def ffn(p, x):
    return jax.nn.relu(x @ p["w1"]) @ p["w2"]


PARAMS = {"w1": real(WIDTH, 8), "w2": real(8, WIDTH, seed=1)}
X = real(3, WIDTH, seed=2)


def opened_bits(fn, policy, *args) -> list[int]:
    program = cj.private(fn, policy=policy).trace(*args).lower().program
    return [op.protocol.width for op in program.ops if isinstance(op.protocol, Open)]


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def private_run(fn, policy, params, x):
    with cj.Session.simulated():
        p, x = cj.share(params, owner="model"), cj.share(x, owner="client")
        return cj.reveal(cj.private(fn, policy=policy)(p, x))


def test_small_values_are_opened_in_fewer_bits_at_the_same_error():
    found = cj.calibrate(ffn, (PARAMS, X))
    args = shapes(PARAMS), shapes(X)
    assert sum(opened_bits(ffn, found.policy, *args)) < sum(opened_bits(ffn, cj.Policy(), *args))
    np.testing.assert_allclose(private_run(ffn, found.policy, PARAMS, X), ffn(PARAMS, X), atol=0.01)
    assert found.error < 0.01
    assert found.policy.ring == 32
    assert not found.refused
    assert found.size == pytest.approx(np.abs(ffn(PARAMS, X)).max(), rel=1e-5)


def test_values_beyond_the_default_bound_are_held():
    x = 100 * X
    wrong = private_run(ffn, cj.Policy(), PARAMS, x)
    found = cj.calibrate(ffn, (PARAMS, x))
    wanted = np.asarray(ffn(PARAMS, x))
    assert np.abs(wrong - wanted).max() > 100
    assert found.policy.ring == 32
    np.testing.assert_allclose(private_run(ffn, found.policy, PARAMS, x), wanted, atol=2e-3 * np.abs(wanted).max())


def test_headroom_is_told_by_place():
    found = cj.calibrate(ffn, (PARAMS, X), margin=4.0)
    assert {h.operation for h in found.headroom} == {"relu"}
    assert all(2.0 <= h.spare < 3.0 for h in found.headroom)
    assert "relu" in str(found)
    tight = cj.calibrate(ffn, (PARAMS, X), margin=1.0)
    assert all(0.0 <= h.spare < 1.0 for h in tight.headroom)


def test_what_the_ring_cannot_hold_is_blamed_and_the_wider_one_taken():
    def squares(p, x):
        y = x @ p["w1"]
        return y * y * 4096.0 + y

    found = cj.calibrate(squares, (PARAMS, 30 * X))
    assert found.policy.ring == 64
    assert "32 bits miss the results" in found.refused
    assert "of `mul` at" in found.refused
    wanted = np.asarray(squares(PARAMS, 30 * X))
    np.testing.assert_allclose(private_run(squares, found.policy, PARAMS, 30 * X), wanted, atol=1e-3 * wanted.max())


def product(x, y):
    return x @ y


@pytest.mark.parametrize(("size", "fits"), [(12.0, True), (200.0, False)])
def test_a_large_product_takes_coarser_factors_or_is_named(size, fits):
    x = np.full((2, 300), size, np.float32) + X[0, 0]
    with cj.Session.simulated():
        a, b = cj.share(x, owner="client"), cj.share(x.T.copy(), owner="client")
        policy = cj.calibrate(product, (a, b)).policy
        assert policy.ring == 32  # the client multiplies for itself
        if fits:
            run = cj.private(product, policy=policy)
            np.testing.assert_allclose(cj.reveal(run(cj.seal(a, policy), cj.seal(b, policy))), x @ x.T, rtol=2e-3)
        else:
            with pytest.raises(cj.UnsupportedOperationError, match=r"dot_general.*reach 3\.35544e\+07.*64-bit ring"):
                cj.explain(product, *(cj.seal(shapes(v), policy) for v in (x, x.T)), policy=policy)


def test_ranges_are_found_in_a_loop_and_serve_other_shapes():
    def stack(w, x):
        return jax.lax.scan(lambda x, w: (x + jnp.tanh(0.1) * (x @ w), None), x, w)[0]

    w = real(4, WIDTH, WIDTH, size=0.5)
    found = cj.calibrate(stack, (w, 40 * X))
    assert found.error < 0.02 * found.size
    longer = real(5, WIDTH, seed=9, size=40.0)
    got = private_run(stack, found.policy, w, longer)
    np.testing.assert_allclose(got, stack(w, longer), atol=0.02 * found.size)


def test_several_examples_widen_the_ranges():
    one = cj.calibrate(ffn, (PARAMS, X)).policy.ranges
    both = cj.calibrate(ffn, (PARAMS, X), (PARAMS, 8 * real(5, WIDTH))).policy.ranges
    largest = lambda ranges: [r.largest for _, rs in ranges.graphs for r in rs if r]
    assert len(both.graphs) == 1
    assert all(a <= b for a, b in zip(largest(one), largest(both)))
    assert max(largest(both)) > max(largest(one))


def test_integers_of_any_size_are_numbers():
    """Only a real number below -1e4 stands for minus infinity: the range of integers has to hold them all."""
    weights, x = np.array([[3, -40_000]], np.int32), np.array([1, 5], np.int32)
    found = cj.calibrate(lambda w, x: w + x, (weights, x), margin=1.0)
    ((_, ranges),) = found.policy.ranges.graphs
    assert max(r.largest for r in ranges if r) == 2.0**16
    assert found.policy.ring == 32
    masked = cj.calibrate(lambda w, x: jax.nn.softmax(x @ w + np.float32([0, -4e4])), (real(2, 2), real(3, 2)))
    assert max(r.largest for _, rs in masked.policy.ranges.graphs for r in rs if r) < 100


def test_nothing_is_told_of_weights():
    ranges = cj.calibrate(ffn, (PARAMS, X)).policy.ranges
    ((_, found),) = ranges.graphs
    assert [r is None for r in found[:3]] == [True, True, False]  # w1, w2, x


def test_linen_and_nnx_modules():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4)(nn.relu(nn.Dense(8)(x)))

    params = Model().init(jax.random.key(0), X)
    assert cj.calibrate(Model(), (params, X)).error < 0.01
    assert cj.calibrate(nnx.Linear(WIDTH, 4, rngs=nnx.Rngs(0)), (X,)).error < 0.01


def test_ranges_survive_a_file():
    ranges = cj.calibrate(ffn, (PARAMS, X)).policy.ranges
    again = cj.Ranges.from_json(ranges.json())
    assert again == ranges
    assert hash(again) == hash(ranges)
    assert repr(again) == repr(ranges)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": [[1, 2]]}', '{"a": [[0, 1, 1]]}', '{"a": [[1, "x", 1]]}', "3"])
def test_a_damaged_file_of_ranges_is_refused(text):
    with pytest.raises(cj.CometError, match="ranges"):
        cj.Ranges.from_json(text)


def test_bad_examples_are_refused():
    with pytest.raises(cj.CometError, match="an example is a tuple"):
        cj.calibrate(ffn, PARAMS, X)
    with pytest.raises(cj.CometError, match="needs an example"):
        cj.calibrate(ffn)
    with pytest.raises(cj.CometError, match="values, not shapes"):
        cj.calibrate(ffn, (PARAMS, shapes(X)))


def test_ranges_of_another_function_are_refused():
    policy = cj.calibrate(ffn, (PARAMS, X)).policy
    with pytest.raises(cj.CometError, match="calibrated for another function"):
        cj.explain(lambda p, x: x @ p["w1"], shapes(PARAMS), shapes(X), policy=policy)


def test_zeros_and_minus_infinity_count_for_nothing():
    def masked(x):
        return jax.nn.softmax(jnp.where(jnp.tri(3, dtype=bool), x @ x.T, -1e9)) @ (0.0 * x)

    found = cj.calibrate(masked, (X,))
    assert found.policy.ring == 32
    assert found.error < 1e-3

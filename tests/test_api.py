"""Bad input: each with a clear error, and nothing shown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import comet_jax as cj
from comet_jax.runtime.session import LocalSession

X = np.float32([[1, -2, 3], [4, 5, -6]])


@pytest.fixture
def session():
    with cj.Session.simulated() as session:
        yield session


def bad(value, at=(1, 2)):
    x = X.copy()
    x[at] = value
    return x


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(session, value):
    f = cj.private(lambda w, x: x @ w["kernel"])
    w, x = cj.share({"kernel": X.T}, owner="model"), cj.share(bad(value), owner="client")
    with pytest.raises(cj.CometError, match=r"argument 1 of client holds a value that is not finite, at \(1, 2\)"):
        f(w, x)
    with pytest.raises(cj.CometError, match=r"kernel of model holds a value that is not finite, at \(2, 1\)"):
        f(cj.share({"kernel": bad(value).T}, owner="model"), cj.share(X, owner="client"))
    with pytest.raises(cj.CometError, match=r"not finite, at \(1, 2\)"):
        cj.seal(x)
    assert not session.reports


def test_numbers_out_of_range(session):
    x = cj.share(bad(1234567.0), owner="client")
    with pytest.raises(cj.CometError, match=r"out of range, at \(1, 2\).* 64-bit ring") as told:
        cj.seal(x)
    assert "1234567" not in str(told.value)
    with pytest.raises(cj.CometError, match=r"argument 1 of client holds a value out of range"):
        cj.private(lambda w, x: x @ w)(cj.share(X.T, owner="model"), x)
    assert not session.reports


@pytest.mark.parametrize("token", [-6, 5, 2**31 - 1])
def test_a_token_outside_the_vocabulary(session, token):
    table, tokens = cj.share(np.ones((5, 2), np.float32), owner="model"), np.array([0, token], np.int32)
    with pytest.raises(cj.CometError, match="outside a table of 5 rows: is a token id outside the vocabulary") as told:
        cj.private(lambda t, i: t[i])(table, cj.share(tokens, owner="client"))
    assert str(token) not in str(told.value).replace("5 rows", "")
    assert not session.reports


def test_an_integer_that_no_int32_holds(session):
    with pytest.raises(cj.CometError, match=r"int64\[2\] of client holds an integer that int32 cannot hold") as told:
        cj.share(np.array([1, 2**40 + 1]), owner="client")
    assert str(2**40 + 1) not in str(told.value)


def test_wrong_shapes_and_types_fail_as_on_ordinary_arrays(session):
    f = cj.private(lambda w, x: x @ w)
    with pytest.raises(TypeError, match="contracting"):
        f(cj.share(X, owner="model"), cj.share(X, owner="client"))
    with pytest.raises(TypeError, match="positional argument"):
        f(cj.share(X, owner="model"))
    with pytest.raises(TypeError, match="integer"):
        cj.private(lambda t, i: t[i])(cj.share(X, owner="model"), cj.share(X, owner="client"))


@pytest.mark.parametrize("value", [np.array(["secret"]), np.ones(2, complex), jax.random.key(0), None.__class__, b"x"])
def test_what_holds_no_numbers_cannot_be_shared(session, value):
    with pytest.raises(cj.CometError, match="cannot be shared") as told:
        cj.share(value, owner="client")
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("role", ["party0", "party1", "dealer", "owner", ""])
def test_servers_and_strangers_own_nothing_and_see_nothing(session, role):
    with pytest.raises(cj.CometError, match="only client and model"):
        cj.share(X, owner=role)
    x = cj.seal(cj.share(X, owner="client"))
    with pytest.raises(cj.CometError, match="only client and model"):
        cj.reveal(x, to=role)


def test_an_input_goes_back_to_its_owner_only(session):
    x = cj.share(X, owner="client")
    np.testing.assert_array_equal(cj.reveal(x), X)
    with pytest.raises(cj.CometError, match="revealed to its owner only, not to model"):
        cj.reveal(x, to="model")
    # What one owner can compute alone is an input too.
    with pytest.raises(cj.CometError, match="revealed to its owner only, not to model"):
        cj.reveal(cj.private(jnp.sin)(x), to="model")


def test_secrets_of_another_session(session):
    x = cj.share(X, owner="client")
    session.__exit__(None, None, None)
    try:
        with cj.Session.simulated():
            for use in (cj.private(jnp.sin), cj.seal, cj.reveal):
                with pytest.raises(cj.CometError, match="another session"):
                    use(x)
    finally:
        session.__enter__()


def test_outside_a_session():
    with cj.Session.simulated():
        x = cj.share(X, owner="client")
    for use in (cj.private(jnp.sin), cj.seal, cj.reveal, lambda x: cj.share(X, owner="client")):
        with pytest.raises(cj.CometError, match="no session here"):
            use(x)
    np.testing.assert_array_equal(cj.private(jnp.sin)(X), jnp.sin(X))
    assert cj.reveal({"a": 3}) == {"a": 3}


def test_sessions_do_not_nest(session):
    with pytest.raises(cj.CometError, match="open here already"), cj.Session.simulated():
        pass
    with pytest.raises(cj.CometError, match="open here already"):
        session.__enter__()
    assert cj.share(X, owner="client").session is session


def test_an_error_inside_a_session_leaves_it():
    with pytest.raises(ZeroDivisionError), cj.Session.simulated():
        _ = 1 / 0
    with cj.Session.simulated() as session:
        assert isinstance(session, LocalSession)


def test_sharing_twice_shapes_and_sealing(session):
    x, shape = cj.share(X, owner="client"), jax.ShapeDtypeStruct((2,), jnp.float32)
    with pytest.raises(cj.CometError, match="secret already"):
        cj.share(x, owner="client")
    with pytest.raises(cj.CometError, match="needs its values, not shapes"):
        cj.share(shape, owner="client")
    with pytest.raises(cj.CometError, match=r"share\(\) it first"):
        cj.private(lambda x, y: x)(x, shape)
    with pytest.raises(cj.CometError, match="there is no value"):
        cj.reveal(cj.seal(shape))
    with pytest.raises(cj.CometError, match="there is no value"):
        cj.private(jnp.sin)(cj.seal(shape))
    with pytest.raises(cj.CometError, match="takes a secret that share") as told:
        cj.seal(X)
    assert "-6" not in str(told.value)
    with pytest.raises(cj.CometError, match="no real numbers"):
        cj.seal(cj.share(np.arange(3), owner="client"))
    with pytest.raises(cj.CometError, match=r"Z_2\^64 and this function computes in Z_2\^32"):
        cj.private(lambda x: x + 1)(cj.seal(x, cj.Policy(ring=64)))


@pytest.mark.parametrize(
    "use", [bool, int, float, np.asarray, jnp.asarray, list, lambda x: [0][x], jnp.sin, lambda x: x + 1]
)
def test_a_secret_is_no_value(session, use):
    x = cj.share(np.float32(77.25), owner="client")
    with pytest.raises((cj.SecretLeakError, TypeError)) as told:
        use(x)
    assert "77" not in str(told.value)
    assert "77" not in repr(x)


def test_what_one_owner_knows_needs_no_parties(session):
    f = cj.private(lambda x: (jax.nn.relu(x), 3.0, x.sum()))
    y, public, total = cj.reveal(f(cj.share(X, owner="client")))
    np.testing.assert_array_equal(y, np.maximum(X, 0))
    assert public == 3.0
    assert total == X.sum()
    assert (session.reports[-1].rounds, session.reports[-1].online_bytes) == (0, 0)


def test_programs_without_weights_or_material(session):
    x = cj.seal(cj.share(X, owner="client"))
    same, half = cj.reveal(cj.private(lambda x: (x, x / 2))(x))
    np.testing.assert_allclose(same, X, atol=1e-6)
    np.testing.assert_allclose(half, X / 2, atol=1e-6)


@pytest.mark.parametrize("bits", [16, 33, 0])
def test_policies_that_make_no_sense(bits):
    with pytest.raises(ValueError, match="32 or 64 bits"):
        cj.Policy(ring=bits)
    with pytest.raises(ValueError, match="do not fit"):
        cj.Numbers(bound=1e6)
    with pytest.raises(ValueError, match="scales for a ring"):
        cj.Policy(ring=64, numbers=cj.Numbers())

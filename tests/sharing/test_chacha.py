"""ChaCha20 against RFC 8439, and the two ways to compute it against each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comet_jax.sharing import chacha

KEY = np.frombuffer(bytes(range(32)), "<u4")
# RFC 8439, section 2.3.2: the block of counter 1.
NONCE = np.frombuffer(bytes.fromhex("000000090000004a00000000"), "<u4")
BLOCK = bytes.fromhex(
    "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
    "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
)
# Section 2.4.2: the plaintext and ciphertext of 114 bytes from counter 1.
TEXT_NONCE = np.frombuffer(bytes.fromhex("000000000000004a00000000"), "<u4")
TEXT = b"".join(
    [
        b"Ladies and Gentlemen of the class of '99: If I could offer you ",
        b"only one tip for the future, sunscreen would be it.",
    ]
)
CIPHER = bytes.fromhex(
    "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0b"
    "f91b65c5524733ab8f593dabcd62b3571639d624e65152ab8f530c359f0861d8"
    "07ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab77937365af90bbf74a35be6b40b8eedf2785e42874d"
)
# Appendix A.1, vectors 1 and 2: the zero key and nonce, counters 0 and 1.
ZERO_0 = (
    "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7da41597c5157488d7724e03fb8d84a37"
    "6a43b8f41518a11cc387b669b2ee6586"
)
ZERO_1 = (
    "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed29b721769ce64e43d57133b074d839d5"
    "31ed1f28510afb45ace10a1f4b794d6f"
)


def _bytes(words) -> bytes:
    return np.asarray(words).astype("<u4").tobytes()


def test_block_of_the_rfc():
    assert _bytes(chacha.keystream(KEY, NONCE, 16, 1)) == BLOCK


def test_encryption_of_the_rfc():
    stream = _bytes(chacha.keystream(KEY, TEXT_NONCE, 32, 1))
    assert bytes(a ^ b for a, b in zip(TEXT, stream)) == CIPHER


def test_zero_key_and_consecutive_counters():
    zero = np.zeros(8, np.uint32), np.zeros(3, np.uint32)
    assert _bytes(chacha.keystream(*zero, 32)).hex() == ZERO_0 + ZERO_1
    assert _bytes(chacha.keystream(*zero, 16, 1)).hex() == ZERO_1
    assert _bytes(chacha.draw(*zero, 32)).hex() == ZERO_0 + ZERO_1


# draft-strombergson-chacha-test-vectors, TC1: the zero key of 128 bits and zero nonce, 20 rounds.
SHORT_0 = (
    "89670952608364fd00b2f90936f031c8e756e15dba04b8493d00429259b20f46cc04f111246b6c2ce066be3bfb32d9aa"
    "0fddfbc12123d4b9e44f34dca05a103f"
)


def test_short_keys():
    zero = np.zeros((1, 4), np.uint32), np.zeros((1, 3), np.uint32)
    assert _bytes(chacha.keystreams(*zero, 16)).hex() == SHORT_0


def test_keys_have_their_own_streams_of_any_length():
    r = np.random.default_rng(0)
    keys, nonces = (r.integers(0, 1 << 32, (3, n), dtype=np.uint32) for n in (4, 3))
    streams = chacha.keystreams(keys, nonces, 40)
    assert streams.shape == (3, 40)
    for i in range(3):
        one = chacha.keystreams(keys[i : i + 1], nonces[i : i + 1], 17)
        np.testing.assert_array_equal(one[0], streams[i, :17])
    assert len(np.unique(streams)) == streams.size  # blocks of a stream differ, and so do streams


@pytest.mark.parametrize("words", [0, 1, 15, 16, 17, 1000])
def test_openssl_makes_the_same_words(words):
    key, nonce = chacha.new_key(), chacha.nonce(1, 2, 0xFFFFFFFF)
    drawn = chacha.draw(key, nonce, words)
    assert drawn.dtype == np.uint32
    np.testing.assert_array_equal(drawn, chacha.keystream(key, nonce, words))


@given(st.lists(st.integers(0, 2**32 - 1), max_size=3), st.lists(st.integers(0, 2**32 - 1), max_size=3))
def test_different_counters_give_different_nonces(a, b):
    pad = lambda x: tuple(x) + (0,) * (3 - len(x))
    assert (tuple(chacha.nonce(*a)) == tuple(chacha.nonce(*b))) == (pad(a) == pad(b))


@pytest.mark.parametrize("words", [(-1,), (1 << 32,), (0, 0, 0, 0)])
def test_nonces_refuse_what_would_be_cut(words):
    with pytest.raises(ValueError, match="three 32-bit counters"):
        chacha.nonce(*words)


def test_keys_are_fresh_and_streams_end():
    assert len({chacha.new_key().tobytes() for _ in range(100)}) == 100
    with pytest.raises(ValueError, match="beyond one keystream"):
        chacha.draw(KEY, NONCE, (16 << 32) + 1)

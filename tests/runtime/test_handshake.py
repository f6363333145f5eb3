"""The handshake: equal passes, any difference fails on both sides and names the field and both values."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest

from comet_jax.runtime.errors import HandshakeError, LinkError, TranscriptError
from comet_jax.runtime.handshake import Hello, compare_transcripts, hello, installed_versions, shake

PROGRAM = hashlib.sha256(b"program").hexdigest()


def make(role: str, **changes) -> Hello:
    return dataclasses.replace(hello(role, PROGRAM, "dense", "session-1"), **changes)


def test_equal_hellos_pass(pair, both):
    one, other = pair()
    results = both(lambda: shake(one, make("party0")), lambda: shake(other, make("party1")))
    assert results == [make("party1"), make("party0")]


def test_versions_are_those_installed():
    import jax
    import numpy

    versions = installed_versions()
    assert versions["jax"] == jax.__version__
    assert versions["numpy"] == numpy.__version__
    assert set(versions) == {"comet_jax", "jax", "jaxlib", "numpy", "python"}


DIFFERENT = {
    "program": hashlib.sha256(b"another").hexdigest(),
    "policy": "flags",
    "session": "session-2",
    "versions": installed_versions() | {"jaxlib": "9.9.9"},
}


@pytest.mark.parametrize("field", DIFFERENT)
def test_a_difference_fails_on_both_sides(pair, both, field):
    one, other = pair()
    changed = make("party1", **{field: DIFFERENT[field]})
    results = both(lambda: shake(one, make("party0")), lambda: shake(other, changed))
    ours, theirs = getattr(make("party0"), field), DIFFERENT[field]
    if field == "versions":
        ours, theirs = f"jaxlib {ours['jaxlib']}", "jaxlib 9.9.9"
    for error in results:
        assert isinstance(error, HandshakeError)
        assert f"{field} differs" in str(error)
        assert ours in str(error)
        assert theirs in str(error)


def test_a_missing_package_is_a_difference(pair, both):
    one, other = pair()
    versions = {k: v for k, v in installed_versions().items() if k != "jax"}
    results = both(lambda: shake(one, make("party0")), lambda: shake(other, make("party1", versions=versions)))
    assert all("jax none" in str(error) for error in results)


def test_a_role_other_than_the_certificates_is_refused(pair):
    one, other = pair()
    with pytest.raises(HandshakeError, match="certificate says party0"):
        shake(one, make("party1"))
    fields = dataclasses.asdict(make("client"))
    other.send("hello", fields)
    with pytest.raises(HandshakeError, match="role differs"):
        shake(one, make("party0"))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"role": "party1"},
        {**dataclasses.asdict(make("party1")), "program": 3},
        {**dataclasses.asdict(make("party1")), "versions": ["jax"]},
        {**dataclasses.asdict(make("party1")), "versions": {"jax": 1}},
        {**dataclasses.asdict(make("party1")), "extra": "x"},
    ],
)
def test_a_malformed_hello_is_refused(pair, fields):
    one, other = pair()
    other.send("hello", fields)
    with pytest.raises(HandshakeError, match="malformed"):
        shake(one, make("party0"))


def test_a_program_that_is_no_digest_is_refused(pair):
    one, _ = pair()
    with pytest.raises(HandshakeError, match="64 lower-case hex digits"):
        shake(one, make("party0", program="abc"))


def digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def test_equal_transcripts_pass(pair, both):
    one, other = pair()
    functions = [lambda link=link: compare_transcripts(link, digest(b"openings"), "reveal 0") for link in (one, other)]
    assert both(*functions) == [None, None]


@pytest.mark.parametrize(
    ("changed", "label", "match"),
    [(b"shifted", "reveal 0", "different openings"), (b"same", "reveal 1", "out of step")],
)
def test_different_transcripts_fail_on_both_sides(pair, both, changed, label, match):
    one, other = pair()
    results = both(
        lambda: compare_transcripts(one, digest(b"same"), "reveal 0"),
        lambda: compare_transcripts(other, digest(changed), label),
    )
    assert all(isinstance(error, TranscriptError) and match in str(error) for error in results)
    assert all("Nothing was revealed" in str(error) for error in results)


def test_a_lost_peer_or_another_message_is_no_agreement(pair):
    one, other = pair()
    other.send("hello")
    with pytest.raises(LinkError):
        compare_transcripts(one, digest(b"x"), timeout=1)
    one, other = pair(purpose="again")
    other.close()
    with pytest.raises(LinkError):
        compare_transcripts(one, digest(b"x"), timeout=1)


def test_a_digest_of_another_length_is_refused(pair):
    one, _ = pair()
    with pytest.raises(TranscriptError, match="32 bytes"):
        compare_transcripts(one, b"short")

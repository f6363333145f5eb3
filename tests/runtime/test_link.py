"""Links: what arrives is what was sent, and everything else is a clear error in bounded time."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comet_jax.runtime import credentials, messages
from comet_jax.runtime.errors import CredentialsError, LinkError, PeerLostError
from comet_jax.runtime.link import Limits, Link, connect, listen
from comet_jax.runtime.messages import Message


def raw(link: Link, data: bytes) -> None:
    """Put bytes on the wire below the framing, as a broken peer would."""
    link._write(memoryview(data), time.monotonic() + 5)


def frame(sequence=0, kind="x", fields=None, arrays=None) -> bytes:
    return b"".join(messages.encode(Message(kind, fields or {}, arrays or {}), sequence, Limits()))


def framed(header: bytes, payload: bytes = b"", announced: int | None = None, magic=messages.MAGIC) -> bytes:
    size = len(payload) if announced is None else announced
    return messages.PREFIX.pack(magic, 0, len(header), size) + header + payload


@pytest.mark.parametrize("dtype", sorted(messages.DTYPES))
def test_arrays_arrive_as_they_were_sent(pair, dtype):
    one, other = pair()
    rng = np.random.default_rng(0)
    arrays = {
        "matrix": rng.integers(0, 2, (3, 5)).astype(dtype),
        "scalar": np.ones((), dtype),
        "empty": np.zeros((0, 4), dtype),
        "strided": np.asfortranarray(rng.integers(0, 2, (4, 6)).astype(dtype))[::2, 1:],
    }
    one.send("data", {"step": 3, "nested": {"a": [1, None, "x"]}}, arrays)
    message = other.receive("data")
    assert message.fields == {"step": 3, "nested": {"a": [1, None, "x"]}}
    assert list(message.arrays) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(message.arrays[name], array)
        assert message.arrays[name].dtype == array.dtype
        assert message.arrays[name].flags.writeable


def test_big_endian_arrays_arrive_with_their_values(pair):
    one, other = pair()
    one.send("data", arrays={"x": np.arange(5, dtype=">u4")})
    np.testing.assert_array_equal(other.receive().arrays["x"], np.arange(5, dtype=np.uint32))


def test_a_large_message_in_each_direction(pair, both):
    one, other = pair()
    x = np.random.default_rng(1).integers(0, 2**32, 3_000_000, dtype=np.uint32)
    _, message = both(lambda: one.send("big", arrays={"x": x}), lambda: other.receive("big"))
    np.testing.assert_array_equal(message.arrays["x"], x)
    _, message = both(lambda: other.send("big", arrays={"x": x}), lambda: one.receive("big"))
    np.testing.assert_array_equal(message.arrays["x"], x)


def test_one_thread_sends_while_another_receives(pair, both):
    one, other = pair()
    x = np.arange(20_000, dtype=np.uint64)

    def send(link):
        for step in range(30):
            link.send("step", {"step": step}, {"x": x + step})

    def receive(link):
        for step in range(30):
            message = link.receive("step")
            assert message.fields["step"] == step
            np.testing.assert_array_equal(message.arrays["x"], x + step)

    results = both(lambda: send(one), lambda: send(other), lambda: receive(one), lambda: receive(other))
    assert results == [None] * 4


def test_traffic_is_counted_by_kind(pair):
    one, other = pair()
    before = one.traffic()["sent"]
    for _ in range(2):
        one.send("data", arrays={"x": np.zeros(1000, np.uint32)})
    one.send("small")
    for _ in range(3):
        other.receive()
    sent, received = one.traffic()["sent"], other.traffic()["received"]
    assert sent["data"] == received["data"] == 2 * len(frame(0, "data", {}, {"x": np.zeros(1000, np.uint32)}))
    assert sent["small"] == received["small"] == len(frame(0, "small"))
    assert before == {"opened": len(frame(0, "opened"))}


def test_what_is_not_sendable_is_refused_and_the_link_lives_on(pair):
    one, other = pair(limits=Limits(header=1000, payload=1000))
    with pytest.raises(LinkError, match="dtype object"):
        one.send("data", arrays={"x": np.array([object()])})
    with pytest.raises(LinkError, match="not JSON"):
        one.send("data", {"x": np.zeros(3)})
    with pytest.raises(LinkError, match="not JSON"):
        one.send("data", {"x": float("nan")})
    with pytest.raises(LinkError, match="carries 4000 bytes; the limit is 1000"):
        one.send("data", arrays={"x": np.zeros(1000, np.uint32)})
    with pytest.raises(LinkError, match="header of"):
        one.send("data", {"x": "a" * 1000})
    one.send("data")
    assert other.receive().kind == "data"


GOOD = b'{"kind":"x","fields":{},"arrays":[["a","uint8",[2]]]}'

MALFORMED = {
    "another protocol": (b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", "not a comet_jax link"),
    "replayed": (frame(0), "was replayed or reordered"),
    "dropped": (frame(7), "follows a dropped one"),
    "huge payload": (messages.PREFIX.pack(messages.MAGIC, 1, 10, 1 << 60), "the limit is"),
    "huge header": (messages.PREFIX.pack(messages.MAGIC, 1, 1 << 31, 0), "the limit is"),
    "not json": (framed(b"{"), "malformed"),
    "not utf-8": (framed(b"\xff\xfe\xfd"), "malformed"),
    "deep json": (framed(b"[" * 100_000), "malformed"),
    "not an object": (framed(b"[]"), "malformed"),
    "missing key": (framed(b'{"kind":"x"}'), "malformed"),
    "repeated key": (framed(b'{"kind":"x","kind":"y","fields":{},"arrays":[]}'), "twice"),
    "nan": (framed(b'{"kind":"x","fields":{"a":NaN},"arrays":[]}'), "NaN"),
    "kind is no string": (framed(b'{"kind":1,"fields":{},"arrays":[]}'), "malformed"),
    "object dtype": (framed(b'{"kind":"x","fields":{},"arrays":[["a","object",[1]]]}', b"12345678"), "plain type"),
    "void dtype": (framed(b'{"kind":"x","fields":{},"arrays":[["a","V8",[1]]]}', b"12345678"), "plain type"),
    "negative shape": (framed(b'{"kind":"x","fields":{},"arrays":[["a","uint8",[-1]]]}'), "no shape"),
    "bool in shape": (framed(b'{"kind":"x","fields":{},"arrays":[["a","uint8",[true]]]}', b"1"), "no shape"),
    "too many axes": (framed(GOOD.replace(b"[2]", b"[" + b"1," * 99 + b"1]"), b"1"), "no shape"),
    "impossible": (framed(GOOD.replace(b"[2]", b"[0,9999999999999999999999]")), "cannot be made"),
    "size differs": (framed(GOOD, b"123"), "take 2 bytes, but 3"),
    "array twice": (
        framed(b'{"kind":"x","fields":{},"arrays":[["a","uint8",[1]],["a","uint8",[1]]]}', b"12"),
        "names an array twice",
    ),
    "no bool": (framed(b'{"kind":"x","fields":{},"arrays":[["a","bool",[2]]]}', b"\x00\x02"), "other than 0 and 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_message_is_refused_and_breaks_the_link(pair, case):
    data, match = MALFORMED[case]
    one, other = pair("party0", "client")
    # The connecting side has had one message ("opened"), the listening side too ("open").
    raw(one, data if case in ("replayed", "dropped") else data[:4] + (1).to_bytes(8) + data[12:])
    with pytest.raises(LinkError, match=match) as caught:
        other.receive(timeout=2)
    if case != "impossible":
        assert str(caught.value).startswith("party0 sent something that client refuses")
    with pytest.raises(LinkError, match="cannot be used any more"):
        other.receive(timeout=2)
    with pytest.raises(LinkError, match="cannot be used any more"):
        other.send("x")


@pytest.mark.parametrize("cut", [1, 10, messages.PREFIX.size, 40, -1])
def test_a_truncated_message_is_a_lost_peer(pair, cut):
    one, other = pair()
    raw(one, frame(1, arrays={"a": np.arange(100)})[:cut])
    one.close()
    with pytest.raises(PeerLostError, match=r"party0 .*truncated") as caught:
        other.receive(timeout=2)
    assert caught.value.role == "party0"


def test_a_message_that_stops_halfway_times_out(pair):
    one, other = pair()
    raw(one, frame(1, arrays={"a": np.arange(100)})[:-1])
    start = time.monotonic()
    with pytest.raises(PeerLostError, match="stopped in the middle"):
        other.receive(timeout=0.2)
    assert time.monotonic() - start < 2


def test_silence_times_out_and_the_link_lives_on(pair):
    one, other = pair()
    with pytest.raises(PeerLostError, match=r"sent nothing for 0\.1 s"):
        other.receive(timeout=0.1)
    one.send("late")
    assert other.receive().kind == "late"


def test_a_peer_that_takes_nothing_times_out(pair, monkeypatch):
    monkeypatch.setattr("comet_jax.runtime.link.SLOWEST", 1e9)
    one, _ = pair()
    with pytest.raises(PeerLostError, match="takes no more data"):
        one.send("big", arrays={"x": np.zeros(50_000_000, np.uint8)}, timeout=0.3)
    with pytest.raises(PeerLostError):
        one.send("small")


def test_another_kind_than_expected_breaks_the_link(pair):
    one, other = pair()
    one.send("stock")
    with pytest.raises(LinkError, match="kind 'stock' where party1 expected 'hello'"):
        other.receive("hello")
    with pytest.raises(LinkError, match="cannot be used"):
        other.receive()


def test_an_abort_arrives_with_its_reason_whatever_was_expected(pair):
    one, other = pair()
    one.abort("NaN in input 'tokens'\x1b[2J")
    with pytest.raises(PeerLostError, match="party0 stopped by itself: NaN in input 'tokens' "):
        other.receive("logits")


def test_what_a_peer_said_before_it_ended_is_read_after_a_failed_send(pair):
    one, other = pair()
    one.send("last words")
    one.close()

    def beat_until_it_fails():
        for _ in range(100):
            other.send("beat", timeout=1)
            time.sleep(0.01)

    with pytest.raises(PeerLostError):
        beat_until_it_fails()
    assert other.receive().kind == "last words"
    with pytest.raises(PeerLostError):
        other.receive(timeout=1)


def test_close_wakes_a_thread_that_receives(pair, both):
    one, _ = pair()
    result, _ = both(lambda: one.receive(timeout=30), lambda: (time.sleep(0.2), one.close()))
    assert isinstance(result, LinkError)


# Who may talk to whom.


def test_the_server_must_be_the_expected_role(load, both):
    with listen(load("party0")) as listener:
        address = ("127.0.0.1", listener.port)
        accepted, dialled = both(
            lambda: listener.accept("client", "x", 0.5),
            lambda: connect(load("client"), "party1", address, "x", timeout=5),
        )
    assert isinstance(accepted, PeerLostError)
    assert "is party0, not party1" in str(dialled)


def test_a_role_that_is_not_allowed_is_refused_and_others_are_served(load, both):
    with listen(load("party0"), allow=("client",)) as listener:
        address = ("127.0.0.1", listener.port)
        accepted, refused, served = both(
            lambda: listener.accept("client", "x", 10),
            lambda: connect(load("model"), "party0", address, "x", timeout=5),
            lambda: (time.sleep(0.3), connect(load("client"), "party0", address, "x", timeout=5))[1],
        )
        assert "party0 at 127.0.0.1" in str(refused)
        assert "refused model: party0 listens here for client, not for model" in str(refused)
        served.send("hi")
        assert accepted.receive().kind == "hi"
        served.close(), accepted.close()
        with pytest.raises(LinkError, match="does not listen for 'model'"):
            listener.accept("model", "x", 1)


def test_links_wait_for_their_accept_by_role_and_purpose(load, both):
    with listen(load("party0")) as listener:
        address = ("127.0.0.1", listener.port)

        def accept():
            wanted = [("dealer", "stock"), ("party1", "watch"), ("party1", "control")]
            return [listener.accept(peer, purpose, 10) for peer, purpose in wanted]

        links, *dialled = both(
            accept,
            lambda: connect(load("party1"), "party0", address, "control", 10),
            lambda: connect(load("party1"), "party0", address, "watch", 10),
            lambda: connect(load("dealer"), "party0", address, "stock", 10),
        )
        assert [(link.peer, link.purpose) for link in links] == [
            ("dealer", "stock"),
            ("party1", "watch"),
            ("party1", "control"),
        ]
        for link in (*links, *dialled):
            link.close()


@pytest.mark.parametrize("stranger", ["plain", "tls 1.2", "no certificate", "unpinned", "silent"])
def test_strangers_are_refused_and_do_not_stop_the_listener(load, both, stranger, tmp_path, monkeypatch):
    monkeypatch.setattr("comet_jax.runtime.link._HANDSHAKE", 0.5)

    def knock(port):
        sock = socket.create_connection(("127.0.0.1", port))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            if stranger == "silent":
                time.sleep(0.8)
                return
            if stranger == "plain":
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            elif stranger == "tls 1.2":
                context.maximum_version = ssl.TLSVersion.TLSv1_2
            elif stranger == "unpinned":
                credentials.create(tmp_path, roles=("client",))
                context.load_cert_chain(tmp_path / "client.crt", tmp_path / "client.key")
            if stranger != "plain":
                sock = context.wrap_socket(sock)
            assert not sock.recv(100)
        except OSError:
            pass
        finally:
            sock.close()

    with listen(load("party0")) as listener:
        address = ("127.0.0.1", listener.port)
        link, _, client = both(
            lambda: listener.accept("client", "x", 10),
            lambda: knock(listener.port),
            lambda: (time.sleep(0.1), connect(load("client"), "party0", address, "x", 10))[1],
        )
        client.send("hi")
        assert link.receive().kind == "hi"
        link.close(), client.close()


def test_a_certificate_signed_by_a_pinned_role_is_refused(keys, load, both, tmp_path):
    """The client must not be able to make a certificate for party1 that party0 accepts."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    shutil.copytree(keys, tmp_path / "mallory")
    signer = serialization.load_pem_private_key((keys / "client.key").read_bytes(), None)
    issuer = x509.load_pem_x509_certificate((keys / "client.crt").read_bytes()).subject
    key = Ed25519PrivateKey.generate()
    now = datetime.datetime.now(datetime.UTC)
    forged = (
        x509.CertificateBuilder()
        .subject_name(x509.load_pem_x509_certificate((keys / "party1.crt").read_bytes()).subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(signer, None)
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "mallory" / "party1.key").write_bytes(secret)
    (tmp_path / "mallory" / "party1.crt").write_bytes(forged.public_bytes(pem))
    mallory = credentials.load(tmp_path / "mallory", "party1")
    with listen(load("party0")) as listener:
        address = ("127.0.0.1", listener.port)
        accepted, dialled = both(
            lambda: listener.accept("party1", "x", 1.5), lambda: connect(mallory, "party0", address, "x", 1.5)
        )
    assert isinstance(accepted, PeerLostError)
    assert "is not accepted" in str(accepted)
    assert isinstance(dialled, LinkError)


def test_connect_waits_for_a_listener_that_starts_later(load, both):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    def serve():
        time.sleep(0.3)
        with listen(load("party0"), port) as listener:
            return listener.accept("client", "x", 10)

    link, client = both(serve, lambda: connect(load("client"), "party0", ("127.0.0.1", port), "x", 10))
    assert (link.peer, client.peer) == ("client", "party0")
    link.close(), client.close()


def test_nobody_there_is_an_error_in_bounded_time(load):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(PeerLostError, match=r"could not reach party0 .* within 0\.3 s .*is party0 running"):
        connect(load("client"), "party0", ("127.0.0.1", port), "x", timeout=0.3)
    assert time.monotonic() - start < 2
    with listen(load("party0")) as listener, pytest.raises(PeerLostError, match="client did not connect"):
        listener.accept("client", "x", timeout=0.1)


def test_a_listener_that_never_accepts_is_an_error_in_bounded_time(load):
    with listen(load("party0")) as listener, pytest.raises(PeerLostError, match="within"):
        connect(load("client"), "party0", ("127.0.0.1", listener.port), "x", timeout=0.5)


def test_a_port_in_use_says_so(load):
    with listen(load("party0")) as listener, pytest.raises(LinkError, match="cannot listen on"):
        listen(load("party1"), listener.port)


def test_a_peer_without_a_pinned_certificate_is_refused_before_connecting(keys, tmp_path):
    shutil.copytree(keys, tmp_path / "keys")
    os.unlink(tmp_path / "keys" / "party0.crt")
    with pytest.raises(CredentialsError, match="no certificate of 'party0'"):
        connect(credentials.load(tmp_path / "keys", "client"), "party0", ("127.0.0.1", 1), "x")


# The wire format, without a wire.


def decode(data: bytes, limits: Limits) -> Message:
    """What a link does with bytes, in one go; the reference for fuzzing."""
    size = messages.PREFIX.size
    if len(data) < size:
        raise LinkError("truncated")
    length, payload = messages.parse_prefix(data[:size], 0, limits)
    header = messages.parse_header(data[size : size + length], payload)
    rest = data[size + length :]
    if len(rest) != payload:
        raise LinkError("truncated")
    arrays = {}
    for name, dtype, shape in header.arrays:
        arrays[name], view = messages.allocate(dtype, shape)
        view[:], rest = rest[: len(view)], rest[len(view) :]
        messages.check_values(name, arrays[name])
    return Message(header.kind, header.fields, arrays)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_flipped_bytes_never_give_anything_but_a_message_or_a_link_error(data):
    good = frame(0, "data", {"a": [1, {"b": None}]}, {"x": np.arange(6, dtype=np.int16).reshape(2, 3)})
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = decode(bytes(bad), Limits(header=1000, payload=1000))
    except LinkError:
        return
    assert set(message.arrays) <= {name for name in message.arrays if isinstance(name, str)}

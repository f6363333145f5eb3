"""Links: authenticated, encrypted, bounded in time and size, for everything but the parties' tensors.

A `Link` joins two roles and carries messages (`messages.py`) over TLS 1.3 between pinned certificates (`tls.py`).
It serves dealer to parties, client and owner to parties, and control between parties. One side listens, the
other connects, and both say what the link is for:

    with listen(credentials, port=7100, allow=("client", "party1")) as listener:
        link = listener.accept("client", "input")

    link = connect(credentials, "party0", ("host", 7100), "input")
    link.send("prompt", arrays={"tokens": shares})
    reply = link.receive("logits")

Every operation ends in bounded time: `timeout` seconds, plus one second for every `SLOWEST` bytes that the
message announces. A link that met an error is broken for good, because what follows on it would be out of step;
the exceptions are a `receive` that timed out before the first byte of a message, and a failed `send`, after which
what the peer said before can still be received.

A link may be used by two threads, one that sends and one that receives. Both sides must not send large messages
at the same time without receiving: they would wait for each other until the timeout.
"""

from __future__ import annotations

import collections
import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from comet_jax.runtime import messages, tls
from comet_jax.runtime.credentials import Credentials
from comet_jax.runtime.errors import LinkError, PeerLostError
from comet_jax.runtime.messages import Limits, Message

SLOWEST = 1_000_000
"""Bytes per second below which a transfer counts as stuck."""

ABORT = "abort"
"""The kind of message with which a process says why it stops; any link may carry it at any time."""

_CHUNK = 1 << 18  # Bytes handed to OpenSSL at once: the lock around it is held no longer than this takes.
_HANDSHAKE = 5.0  # Seconds a stranger may keep a listener busy.
_WAITING = 32  # Links that a listener holds for roles which nobody asked for yet.


class Link:
    """A connection to one role. Made by `connect` and `Listener.accept`.

    Attributes:
        role: our role.
        peer: the role at the other end, proven by its certificate.
        purpose: what both ends said the link is for.
        limits: the largest message accepted or sent.
        timeout: default seconds for `send` and `receive`.
    """

    def __init__(self, sock: ssl.SSLSocket, role: str, peer: str, purpose: str, limits: Limits, timeout: float) -> None:
        self.role, self.peer, self.purpose, self.limits, self.timeout = role, peer, purpose, limits, timeout
        self._sock = sock
        self._broken = ""
        self._unsendable = ""
        # OpenSSL objects are not thread-safe: one lock around each call, which never blocks (the socket is
        # non-blocking and waiting happens outside). The other two keep whole messages apart.
        self._tls, self._sending, self._receiving = threading.Lock(), threading.Lock(), threading.Lock()
        self._sent, self._received = 0, 0
        self._traffic = {"sent": collections.Counter(), "received": collections.Counter()}

    def __repr__(self) -> str:
        return f"Link({self.role} to {self.peer}, {self.purpose}{', broken' if self._broken else ''})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def traffic(self) -> dict[str, dict[str, int]]:
        """Bytes by direction ("sent", "received") and kind of message, framing included, TLS records not."""
        return {direction: dict(counts) for direction, counts in self._traffic.items()}

    def send(
        self,
        kind: str,
        fields: Mapping[str, Any] | None = None,
        arrays: Mapping[str, np.ndarray] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Send one message; returns when the operating system has taken all of it.

        Args:
            kind: what it is; the receiver names the kind that it expects.
            fields: JSON values.
            arrays: name -> array of one of `messages.DTYPES`, any shape.
            timeout: seconds (default: the link's); large messages get more, see the module.

        Raises:
            LinkError: the message is not sendable or too large (the link stays usable), or the link is broken.
            PeerLostError: the peer is gone or takes nothing.
        """
        with self._sending:
            self._check_usable()
            if self._unsendable:
                raise PeerLostError(self._unsendable, self.peer)
            views = messages.encode(Message(kind, fields or {}, arrays or {}), self._sent, self.limits)
            size = sum(len(view) for view in views)
            timeout = self.timeout if timeout is None else timeout
            deadline = time.monotonic() + timeout + size / SLOWEST
            for view in views:
                self._write(view, deadline)
            self._sent += 1
            self._traffic["sent"][kind] += size

    def receive(self, kind: str | None = None, timeout: float | None = None) -> Message:
        """Receive the next message.

        Args:
            kind: the only kind accepted; None accepts all.
            timeout: seconds to wait for its first byte, and again for the rest (default: the link's).

        Raises:
            LinkError: the message is malformed, oversized, out of sequence, or of another kind; the link is
                broken.
            PeerLostError: the peer ended (also in the middle of a message), was silent for `timeout`, or said
                why it gives up.
        """
        timeout = self.timeout if timeout is None else timeout
        with self._receiving:
            self._check_usable()
            try:
                message = self._receive(timeout)
            except PeerLostError:
                raise
            except LinkError as error:
                raise self._break(f"{self.peer} sent something that {self.role} refuses: {error}") from None
        if message.kind == ABORT:
            reason = printable(message.fields.get("reason", "no reason given"))
            raise self._lost(f"{self.peer} stopped by itself: {reason}")
        if kind is not None and message.kind != kind:
            raise self._break(
                f"{self.peer} sent a message of kind {printable(message.kind)!r} where {self.role} expected "
                f"{kind!r}: the two are not at the same step of the same program"
            )
        return message

    def abort(self, reason: str, timeout: float = 1.0) -> None:
        """Tell the peer, as well as one can, why this process stops. Never raises.

        Args:
            reason: for a person to read. It must be public: never derived from a secret value.
            timeout: seconds to try.
        """
        with contextlib.suppress(LinkError):
            self.send(ABORT, {"reason": printable(reason)}, timeout=timeout)

    def close(self) -> None:
        """End the link; the peer's next `receive` says so. Calling it twice does no harm."""
        self._break("this link was closed here")

    def _receive(self, timeout: float) -> Message:
        prefix = bytearray(messages.PREFIX.size)
        # Only the wait for a first byte may be tried again, so it has a deadline of its own.
        self._read(memoryview(prefix)[:1], time.monotonic() + timeout, timeout, started=False)
        deadline = time.monotonic() + timeout
        self._read(memoryview(prefix)[1:], deadline, timeout)
        length, payload = messages.parse_prefix(bytes(prefix), self._received, self.limits)
        deadline += (length + payload) / SLOWEST
        text = bytearray(length)
        self._read(memoryview(text), deadline, timeout)
        header = messages.parse_header(bytes(text), payload)
        arrays = {}
        for name, dtype, shape in header.arrays:
            arrays[name], view = messages.allocate(dtype, shape)
            self._read(view, deadline, timeout)
            messages.check_values(name, arrays[name])
        self._received += 1
        self._traffic["received"][header.kind] += len(prefix) + length + payload
        return Message(header.kind, header.fields, arrays)

    def _read(self, view: memoryview, deadline: float, timeout: float, started: bool = True) -> None:
        while len(view):
            try:
                with self._tls:
                    self._check_usable()
                    count = self._sock.recv_into(view[:_CHUNK])
            except ssl.SSLWantReadError:
                ready = self._wait(select.POLLIN, deadline)
            except ssl.SSLWantWriteError:
                ready = self._wait(select.POLLOUT, deadline)
            except OSError as error:
                raise self._lost(f"the connection to {self.peer} broke: {_reason(error)}") from None
            else:
                if count == 0:
                    where = " in the middle of a message (truncated)" if started else ""
                    raise self._lost(f"{self.peer} closed the {self.purpose!r} link or ended{where}")
                view, ready = view[count:], True
            if not ready:
                if started:
                    raise self._lost(f"{self.peer} stopped in the middle of a message for {timeout:g} s")
                raise PeerLostError(f"{self.peer} sent nothing for {timeout:g} s", self.peer)

    def _write(self, view: memoryview, deadline: float) -> None:
        while len(view):
            try:
                with self._tls:
                    self._check_usable()
                    count = self._sock.send(view[:_CHUNK])
            except ssl.SSLWantReadError:
                ready = self._wait(select.POLLIN, deadline)
            except ssl.SSLWantWriteError:
                ready = self._wait(select.POLLOUT, deadline)
            except OSError as error:
                raise self._stuck(f"the connection to {self.peer} broke: {_reason(error)}") from None
            else:
                view, ready = view[count:], True
            if not ready:
                raise self._stuck(f"{self.peer} takes no more data on the {self.purpose!r} link")

    def _stuck(self, message: str) -> PeerLostError:
        # Reading stays possible: a peer that ended has often said why, and that is still to be read.
        self._unsendable = message
        return PeerLostError(message, self.peer)

    def _wait(self, event: int, deadline: float) -> bool:
        """Wait until the socket may be ready; False when the deadline passed and it is not."""
        poll = select.poll()
        with contextlib.suppress(ValueError, OSError):  # Closed by another thread: the next call reports it.
            poll.register(self._sock.fileno(), event)
            # Short naps, to notice a close from another thread. Polled at least once even when late: this
            # thread may have been kept from running while the peer's data arrived.
            left = deadline - time.monotonic()
            return bool(poll.poll(max(0.0, min(left, 0.5)) * 1000)) or left > 0
        return True

    def _check_usable(self) -> None:
        if self._broken:
            raise LinkError(f"the link to {self.peer} ({self.purpose}) cannot be used any more: {self._broken}")

    def _lost(self, message: str) -> PeerLostError:
        return PeerLostError(str(self._break(message)), self.peer)

    def _break(self, message: str) -> LinkError:
        """Make the link unusable, close the socket, and return (not raise) the error."""
        with self._tls:
            if not self._broken:
                self._broken = message
                with contextlib.suppress(OSError, ValueError):
                    self._sock.unwrap()  # close_notify; non-blocking, so it does not wait for the peer's.
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)  # Wakes a thread that waits on this socket.
                tls.quietly_close(self._sock)
        return LinkError(message)


class Listener:
    """A listening port of one role; `accept` hands out links by role and purpose, in any order of arrival.

    Strangers (no TLS, no pinned certificate, a role that is not allowed) are refused and forgotten; they cannot
    stop a listener, only slow it, each for at most five seconds.

    Attributes:
        port: the TCP port.
    """

    def __init__(self, credentials: Credentials, port: int, host: str, allow: Sequence[str], limits: Limits) -> None:
        self._credentials, self._allow, self._limits = credentials, tuple(allow), limits
        try:
            self._sock = socket.create_server((host, port), backlog=16)
        except OSError as error:
            raise LinkError(
                f"{credentials.role} cannot listen on {host}:{port}: {_reason(error)}. Is another process using "
                f"it? Choose another port or stop that process"
            ) from None
        self.port: int = self._sock.getsockname()[1]
        self._waiting: dict[tuple[str, str], Link] = {}
        self._refused = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def accept(self, peer: str, purpose: str, timeout: float = 30.0) -> Link:
        """The link on which `peer` connected for `purpose`; waits for it.

        Links of other allowed roles that arrive meanwhile are kept for a later `accept`. When the same role
        connects twice for the same purpose, the newest connection counts.

        Raises:
            LinkError: `peer` is not allowed here, or the listener is closed.
            PeerLostError: it did not come within `timeout`; the message also says who was refused last.
        """
        if peer not in self._allow:
            raise LinkError(f"{self._credentials.role} does not listen for {peer!r}, only for {self._allow}")
        deadline = time.monotonic() + timeout
        while True:
            link = self._waiting.pop((peer, purpose), None)
            if link is not None:
                with contextlib.suppress(PeerLostError):  # It gave up waiting: wait for the next one.
                    link.send("opened")
                    return link
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                refused = f" Refused meanwhile: {self._refused}" if self._refused else ""
                raise PeerLostError(
                    f"{peer} did not connect to {self._credentials.role} (port {self.port}) for {purpose!r} "
                    f"within {timeout:g} s: is it running, and does it know this address?{refused}",
                    peer,
                )
            try:
                self._sock.settimeout(left)
                raw, _ = self._sock.accept()
            except TimeoutError:
                continue
            except OSError as error:
                raise LinkError(f"{self._credentials.role} cannot accept: {_reason(error)}") from None
            try:
                self._admit(raw, min(_HANDSHAKE, max(left, 0.1)))
            except (LinkError, OSError) as error:
                self._refused = printable(error)

    def close(self) -> None:
        """Stop listening and close the links that nobody accepted; accepted links stay."""
        tls.quietly_close(self._sock)
        for link in self._waiting.values():
            link.close()
        self._waiting.clear()

    def _admit(self, raw: socket.socket, timeout: float) -> None:
        """Authenticate one connection and put its link among the waiting ones, or refuse it."""
        role = self._credentials.role
        sock, peer = tls.secure(raw, self._credentials, server=True, timeout=timeout)
        # Until admitted, a peer gets no more than a small message.
        link = Link(sock, role, peer, "open", Limits(header=4096, payload=0), timeout)
        try:
            purpose = link.receive("open").fields.get("purpose")
            if not isinstance(purpose, str):
                raise LinkError(f"{peer} did not say what its link is for")
            if peer not in self._allow or len(self._waiting) >= _WAITING:
                why = f"not for {peer}" if peer not in self._allow else "with too many links waiting"
                reason = f"{role} listens here for {', '.join(self._allow)}, {why}"
                link.send("refused", {"reason": reason})
                raise LinkError(reason)
        except LinkError:
            link.close()
            raise
        link.purpose, link.limits, link.timeout = purpose, self._limits, 30.0
        old = self._waiting.pop((peer, purpose), None)
        if old is not None:
            old.close()
        self._waiting[peer, purpose] = link


def listen(
    credentials: Credentials,
    port: int = 0,
    host: str = "127.0.0.1",
    allow: Sequence[str] | None = None,
    limits: Limits | None = None,
) -> Listener:
    """Open a port on which `credentials.role` accepts links.

    Args:
        credentials: who we are and whom we know.
        port: 0 picks a free one (see `Listener.port`).
        host: the local address; the default takes connections from this machine only.
        allow: roles that may connect (default: everybody whose certificate is pinned).
        limits: largest message.

    Raises:
        LinkError: the port cannot be opened.
    """
    allowed = tuple(credentials.pinned) if allow is None else allow
    return Listener(credentials, port, host, allowed, limits or Limits())


def connect(
    credentials: Credentials,
    peer: str,
    address: tuple[str, int],
    purpose: str,
    timeout: float = 30.0,
    limits: Limits | None = None,
) -> Link:
    """A link to the role `peer` that listens at `address` (host, port), retried until `timeout`.

    Retried: nobody listens yet, the network is down, the connection broke before the peer was known. Not retried:
    the wrong certificate, a refusal.

    Raises:
        CredentialsError: the certificate of `peer` is not pinned.
        LinkError: whoever listens there is not `peer`, or does not want us.
        PeerLostError: nobody answered, or the peer did not accept, within `timeout`.
    """
    credentials.certificate_of(peer)
    deadline = time.monotonic() + timeout
    where = f"{address[0]}:{address[1]}"
    sock, found = _dial(credentials, peer, address, timeout)
    link = Link(sock, credentials.role, found, purpose, limits or Limits(), 30.0)
    try:
        if found != peer:
            raise LinkError(f"{where} is {found}, not {peer}: check the addresses given to {credentials.role}")
        left = max(0.1, deadline - time.monotonic())
        link.send("open", {"purpose": purpose}, timeout=left)
        answer = link.receive(timeout=left)
        if answer.kind != "opened":
            reason = printable(answer.fields.get("reason", answer.kind))
            raise LinkError(f"{peer} at {where} refused {credentials.role}: {reason}")
    except PeerLostError as error:
        link.close()
        raise PeerLostError(
            f"{peer} at {where} did not accept the {purpose!r} link of {credentials.role} ({error}): is it "
            f"waiting for this role, and does it hold its current {credentials.role}.crt?",
            peer,
        ) from None
    except LinkError:
        link.close()
        raise
    return link


def printable(text: object) -> str:
    """`text` from elsewhere, made safe for a terminal: no control characters, at most 500 characters."""
    return "".join(c if c.isprintable() else " " for c in str(text)[:500])


def _dial(credentials: Credentials, peer: str, address: tuple[str, int], timeout: float) -> tuple[ssl.SSLSocket, str]:
    """A TLS socket to whoever listens at `address`, and that one's role."""
    deadline, pause, last = time.monotonic() + timeout, 0.05, "no attempt was made"
    while (left := deadline - time.monotonic()) > 0:
        try:
            raw = socket.create_connection(address, timeout=min(left, _HANDSHAKE))
            # The listener may be busy with a stranger: leave it as long as we have.
            return tls.secure(raw, credentials, server=False, timeout=left)
        except OSError as error:
            last = _reason(error)
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(1.0, pause * 1.5)
    raise PeerLostError(
        f"{credentials.role} could not reach {peer} at {address[0]}:{address[1]} within {timeout:g} s ({last}): is "
        f"{peer} running, and is the address right?",
        peer,
    )


def _reason(error: OSError) -> str:
    """What an operating system error says, for a person."""
    return printable(getattr(error, "reason", None) or error.strerror or error or type(error).__name__)

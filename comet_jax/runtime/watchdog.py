"""Liveness: no process outlives a dead, frozen or failing peer by more than a few seconds.

A thread that waits inside a collective cannot be interrupted, and on its own it would wait for minutes when the
peer is frozen. So each process runs a `Watchdog`: it sends a heartbeat on a dedicated link to each of its peers
and listens for theirs. A peer is lost when its link ends, when nothing came for `timeout` seconds, or when it
says that it gives up. Then the watchdog tells its other peers, and calls a handler; the default one prints what
happened and ends the process at once (`os._exit`), which also ends whatever blocks in a collective.

    with Watchdog([connect(credentials, "party0", address, "watch")]) as watchdog:
        ...                                   # work; an exception in here tells the peers and propagates
        watchdog.abort("NaN in input 'x'")    # a known failure, told in words; then raise

Reasons cross between organisations, so they are words that a programmer wrote, never derived from a secret value.
So the message of a `CometError` that leaves the `with` block is passed on, and of any other exception its type alone.

Heartbeats come from a Python thread: `timeout` must exceed the longest time that the main thread may hold the
interpreter (lock) without a pause.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

from comet_jax.errors import CometError
from comet_jax.runtime.errors import LinkError, PeerLostError
from comet_jax.runtime.link import Link, printable

EXIT_STATUS = 70
"""Exit status of a process that ended because of a lost peer (EX_SOFTWARE)."""


@dataclasses.dataclass(frozen=True)
class Loss:
    """Why the watchdog gives up.

    Attributes:
        role: our role.
        peer: the lost role.
        what: what happened, in words.
    """

    role: str
    peer: str
    what: str

    def __str__(self) -> str:
        return (
            f"comet_jax: {self.role} stops, because it lost {self.peer}: {self.what}. Nothing more is sent or "
            f"revealed. Look at the output of {self.peer} for the cause, then start all roles again with a new "
            f"session; what this session had left of dealt material is discarded"
        )


def exit_now(loss: Loss) -> None:
    """The default handler: say why on stderr and end the process, whatever its other threads wait for."""
    # Not sys.stderr: another thread may hold its lock for ever.
    os.write(2, f"\n{loss}\n".encode())
    os._exit(EXIT_STATUS)


class Watchdog:
    """Watches the peers at the other ends of `links` and of those that `watch` adds, until `stop`.

    The links belong to the watchdog: nobody else may send or receive on them. The peers must run watchdogs on
    their ends, with a similar `timeout`.

    Args:
        links: one dedicated link per peer.
        timeout: seconds of silence after which a peer is lost.
        handler: called once, from a background thread, with the first loss. The default ends the process.
    """

    def __init__(self, links: Sequence[Link], timeout: float = 5.0, handler: Callable[[Loss], None] = exit_now) -> None:
        self._links: tuple[Link, ...] = ()
        self._timeout, self._handler = timeout, handler
        self._ending = threading.Event()  # Set by whoever ends the watch: loss, abort or success.
        self._handled = threading.Event()  # Set when that one is done.
        self._once = threading.Lock()
        self._loss: Loss | None = None
        self._finished: set[Link] = set()
        threading.Thread(target=self._beat, name="watchdog beat", daemon=True).start()
        for link in links:
            self.watch(link)

    def watch(self, link: Link) -> None:
        """Watch one more peer, at the other end of `link`, from now on."""
        self._links += (link,)
        threading.Thread(target=self._listen, args=(link,), name=f"watchdog {link.peer}", daemon=True).start()

    @property
    def loss(self) -> Loss | None:
        """The loss that ended the watch; None while all is well and after `stop` and `abort`."""
        return self._loss

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if kind is None:
            self.stop()
        else:
            # A dead peer breaks a collective before it is noticed here. Then the loss is the cause and this
            # exception its symptom, so the handler gets a moment to say so.
            if self._ending.wait(min(1.0, self._timeout)):
                self._handled.wait(3.0)
            known = isinstance(error, CometError)  # its words are for everybody, by contract
            self.abort(
                str(error) if known else f"an unexpected {kind.__name__} (details are in the output of that process)"
            )

    def abort(self, reason: str) -> None:
        """Tell all peers why this process gives up, and stop watching. The caller then raises or exits.

        Args:
            reason: public words, never derived from a secret value.
        """
        if self._claim():
            self._tell(reason, self._links)
            self._handled.set()

    def stop(self) -> None:
        """End watching after a success: the peers learn that this process may end now."""
        if self._claim():
            for link in self._links:
                with contextlib.suppress(LinkError):  # It ended first.
                    link.send("bye", timeout=1.0)
            self._close()
            self._handled.set()

    def _claim(self) -> bool:
        """True for the one caller that may end the watch, be it a loss, an abort or a success."""
        with self._once:
            if self._ending.is_set():
                return False
            self._ending.set()
            return True

    def _tell(self, reason: str, links: Sequence[Link]) -> None:
        # At the same time: a frozen peer must not keep the others from hearing it.
        senders = [threading.Thread(target=link.abort, args=(reason,), daemon=True) for link in links]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join(1.5)
        self._close()

    def _close(self) -> None:
        for link in self._links:
            link.close()

    def _beat(self) -> None:
        """Send heartbeats until the end; a peer that takes none is left to its listening thread to judge."""
        while not self._ending.wait(self._timeout / 5):
            for link in self._links:
                if link not in self._finished:
                    with contextlib.suppress(LinkError):
                        link.send("beat", timeout=self._timeout / 5)

    def _listen(self, link: Link) -> None:
        """Wait for signs of life of one peer until the end."""
        heard = time.monotonic()
        try:
            while not self._ending.is_set():
                if link.receive(timeout=self._timeout).kind == "bye":
                    self._finished.add(link)
                    return
                heard = time.monotonic()
        except PeerLostError as error:
            self._lose(link, str(error))
        except LinkError as error:
            self._lose(link, f"{error} ({time.monotonic() - heard:.1f} s after its last sign of life)")

    def _lose(self, link: Link, what: str) -> None:
        if link in self._finished or not self._claim():
            return
        loss = self._loss = Loss(link.role, link.peer, printable(what))
        others = [other for other in self._links if other is not link and other not in self._finished]
        self._tell(f"it lost {link.peer}: {loss.what}", others)
        self._handler(loss)
        self._handled.set()

"""Who this process talks to: a link for work and one for the watchdog to every role that it knows.

Everybody dials the parties, and party 1 dials party 0. Dealer, client and model never talk to each other. A peer is
watched from the moment that it is linked, so that a process which dies while others are still awaited is noticed too.
"""

import contextlib
import secrets as random_source
from collections.abc import Mapping
from hashlib import sha256
from typing import Self

from comet_jax.errors import CometError
from comet_jax.runtime.credentials import Credentials
from comet_jax.runtime.link import Link, listen
from comet_jax.runtime.link import connect as dial
from comet_jax.runtime.roles import PARTIES, ROLES
from comet_jax.runtime.watchdog import Watchdog


class Peers:
    """The links of one role. A context: leaving it by an exception tells the peers, and ends all links.

    Attributes:
        role: ours.
        links: peer -> the link for work.
        watchdog: ends this process when a peer is lost.
    """

    def __init__(
        self, role: str, addresses: Mapping[str, tuple[str, int]], credentials: Credentials, timeout: float
    ) -> None:
        self.role, self._addresses, self._credentials, self._timeout = role, addresses, credentials, timeout
        self.links: dict[str, Link] = {}
        self.watchdog = Watchdog([])
        self._exit = contextlib.ExitStack()

    @property
    def party(self) -> int | None:
        """0 or 1 at a party."""
        return PARTIES.index(self.role) if self.role in PARTIES else None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            stack.enter_context(self.watchdog)
            self._connect()
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._exit.__exit__(*error)

    def agree_on_session(self, timeout: float) -> str:
        """A session's id from both parties' randomness, told to everybody by both.

        ``timeout``: longer than a party may wait for others to connect, whose absence it then tells by name.
        """
        if self.party is None:
            told = [self.links[p].receive("session", timeout=timeout).fields["id"] for p in PARTIES]
            if told[0] != told[1]:
                raise CometError("the two parties name different sessions: start all roles again")
            return told[0]
        other = self.links[PARTIES[1 - self.party]]
        mine = random_source.token_hex(16)
        other.send("nonce", {"half": mine})
        theirs = str(other.receive("nonce", timeout=timeout).fields["half"])
        halves = (mine, theirs) if self.party == 0 else (theirs, mine)
        session = sha256("".join(halves).encode()).hexdigest()[:32]
        for peer, link in self.links.items():
            if peer not in PARTIES:
                link.send("session", {"id": session})
        return session

    def meet(self, word: str, timeout: float) -> None:
        """Wait until every peer has come to the same ``word``."""
        for link in self.links.values():
            link.send(word)
        for link in self.links.values():
            link.receive(word, timeout=timeout)

    def leave_together(self, timeout: float) -> None:
        """Wait until every peer has finished, so that nobody takes the end of one for a failure of another."""
        self.meet("done", timeout)
        self.watchdog.stop()

    def _connect(self) -> None:
        with contextlib.ExitStack() as stack:
            if self.party is not None:
                # Open before others are dialled, so that those who dial this party find it.
                others = [r for r in ROLES if r not in PARTIES[: self.party + 1]]
                host, port = self._addresses[self.role]
                listener = stack.enter_context(listen(self._credentials, port, host, allow=others))
            for peer in PARTIES[: self.party]:
                address = self._addresses[peer]
                self._add(peer, lambda what, a=address, p=peer: dial(self._credentials, p, a, what, self._timeout))
            if self.party is not None:
                for peer in others:
                    self._add(peer, lambda what, p=peer: listener.accept(p, what, self._timeout))

    def _add(self, peer: str, open_link) -> None:
        self.links[peer] = open_link("work")
        self.watchdog.watch(open_link("watch"))

    def _close(self) -> None:
        for link in self.links.values():
            link.close()

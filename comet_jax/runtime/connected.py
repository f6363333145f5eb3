"""One role a process: dealer, two parties, client and model owner, on one machine or five.

Every process runs the same script: the same ``share``, private calls and ``reveal``, in the same order, with values
only where the role has them. What crosses:

- party to party: the openings, by collectives of ``jax.distributed`` (neither encrypted nor authenticated by JAX 0.10:
  run them through a tunnel between organisations), and over a TLS link the handshake and the transcripts' digests;
- dealer to parties, once a plan: a key each. Dealer to party 1, each run, ahead of time: corrections; and a shuffle's,
  ahead of each epoch whose order the parties renew;
- owners to parties: shares. Parties to the role that a result is revealed to: shares.

Before a plan's first run all roles compare program, policy, versions and session with both parties; before anything is
revealed the parties compare a hash of everything that was opened. A lost role ends the others (watchdog.py).
"""

import contextlib
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from comet_jax.dealer.stock import Ledger, Stock
from comet_jax.errors import CometError
from comet_jax.policy import Policy
from comet_jax.runtime import credentials as keys
from comet_jax.runtime.collectives import collectives
from comet_jax.runtime.compiled import Compiled
from comet_jax.runtime.errors import DryStockError
from comet_jax.runtime.handshake import compare_transcripts, hello, shake
from comet_jax.runtime.peers import Peers
from comet_jax.runtime.plan import Plan
from comet_jax.runtime.roles import PARTIES, ROLES
from comet_jax.runtime.secret import Secret, Shares
from comet_jax.runtime.session import (
    Clock,
    Session,
    check_owner,
    environments,
    refuse_nesting,
    sealed_forms,
    weights_of,
)
from comet_jax.runtime.spmd import OnMesh
from comet_jax.runtime.transfer import array, receive_shares, send_shares
from comet_jax.runtime.workers import WAIT, Computing, Dealing, Owning, Worker
from comet_jax.sharing import fixed_point
from comet_jax.sharing.groups import Group


def connect(
    *,
    role: str,
    addresses: Mapping[str, tuple[str, int]],
    credentials: str | Path,
    state: str | Path,
    stock: int = 1000,
    timeout: float = 60.0,
) -> "Connected":
    """This process as ``role``: "dealer", "party0", "party1", "client" or "model".

    ``addresses``: host and port where "party0" and "party1" listen, and of "party0/jax", where the parties'
    collectives meet. ``credentials``: a folder as ``runtime.credentials.create`` makes. ``state``: a folder of this
    role, kept across restarts, that records which dealt material was used. ``stock``: runs that are dealt for a plan.
    ``timeout``: seconds to wait for the other roles. Raises ``CometError`` for an unknown role or a missing address.
    """
    if role not in ROLES:
        raise CometError(f"there is no role {role!r}: the roles are {', '.join(ROLES)}")
    missing = {*PARTIES, "party0/jax"} - set(addresses)
    if missing:
        raise CometError(f"no address is given for {', '.join(sorted(missing))}")
    addresses = {name: (host, port) for name, (host, port) in addresses.items()}
    peers = Peers(role, addresses, keys.load(credentials, role), timeout)
    return Connected(peers, addresses["party0/jax"], Path(state), stock, timeout)


class Connected(Session):
    """A session with one role in this process. Made by ``Session.connect``.

    Attributes:
        role: ours.
        links: peer -> the link to it, with its counters of traffic.
    """

    layout: OnMesh  # at a party

    def __init__(self, peers: Peers, meeting: tuple[str, int], state: Path, stock: int, timeout: float) -> None:
        super().__init__()
        self.role, self.links = peers.role, peers.links
        self._peers, self._meeting, self._state, self._stock_size, self._timeout = peers, meeting, state, stock, timeout
        self._exit = contextlib.ExitStack()
        self._workers: dict[Any, tuple[Worker, Stock]] = {}
        self._kept: list[Any] = []
        self._compiled: dict[Plan, Compiled] = {}
        self._agreed: set[tuple[Plan, tuple[int, ...]]] = set()
        self._opened = sha256()
        self._reveals = 0

    @property
    def party(self) -> int | None:
        """0 or 1 at a party."""
        return self._peers.party

    def holds(self, role: str) -> bool:
        return role == self.role

    def __enter__(self) -> Self:
        refuse_nesting()
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._peers)
            self._id = self._peers.agree_on_session(WAIT)
            self._ledger = stack.enter_context(Ledger.begin(self._state, self._id))
            if self.party is not None:
                self.layout = stack.enter_context(collectives(self._meeting, self.party, self._timeout))
            super().__enter__()
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        # An error while leaving is one too: what is left of the context must know it.
        with self._exit:
            if error[1] is not None:
                raise error[1]
            self._peers.leave_together(WAIT)

    # -- running

    def run(self, plan: Plan, inputs: list[Any]) -> list[Any]:
        seconds: dict[str, float] = {}
        clock = Clock(seconds)
        with jax.enable_x64(True):
            envs = environments(plan, inputs, self.key) if self.role not in (*PARTIES, "dealer") else {}
            envs = {owner: env for owner, env in envs.items() if owner == self.role}
            weights = weights_of(plan, inputs)
            worker, stock = self._worker(plan, weights, inputs, envs)
            plan = self._agree(worker.epoch.next, weights)
            clock("load")
            shares = worker.run(self._next(stock), inputs, envs.get(self.role), clock)
        self._report(plan, clock, worker.flags, worker.shuffled)
        return plan.results(self, shares, envs)

    def _worker(self, plan: Plan, weights: tuple[int, ...], inputs: list[Any], envs) -> tuple[Worker, Stock]:
        """This role's part in ``plan`` and the others of its epoch with these weights, and the count of its runs."""
        key = (plan, weights)
        if key not in self._workers:
            self._kept.append(inputs)  # so that an id is not reused while it serves as a key
            self._agree(plan, weights)
            # The same program with other weights is another piece of work, with keys and a count of its own.
            tag = sha256(f"{plan.digest} {len(self._workers)}".encode()).hexdigest()
            self._workers[key] = self._start(plan, envs), self._ledger.stock(tag, self._stock_size)
        return self._workers[key]

    def _agree(self, plan: Plan, weights: tuple[int, ...]) -> Plan:
        """``plan``, once all roles are known to have it: they compare it before its first run with these weights."""
        if (plan, weights) not in self._agreed:
            for link in self.links.values():
                shake(link, hello(self.role, plan.digest, str(plan.lowered.policy), self._id), timeout=WAIT)
            self._agreed.add((plan, weights))
            if self.party is not None or self.role == "dealer":
                self._compile(plan)
        return plan

    def _next(self, stock: Stock) -> int:
        """The number of the next run, marked as used."""
        try:
            return stock.take()[0].number
        except DryStockError:
            # Who runs ahead is dry first: the others may still finish the runs that they have material for.
            self._peers.meet("dry", WAIT)
            raise

    def _start(self, plan: Plan, envs) -> Worker:
        if self.role == "dealer":
            return Dealing(plan, self._compile, self.links)
        if self.party is None:
            return Owning(plan, self.links, self.role, envs.get(self.role))
        return Computing(plan, self._compile, self.links, self.party, self.layout, self._saw)

    def _compile(self, plan: Plan) -> Compiled:
        if plan not in self._compiled:
            dealer = self.role == "dealer"
            compiled = Compiled(plan, None if dealer else self.layout)
            self._compiled[plan] = compiled.ahead(parties=not dealer, dealer=dealer)
        return self._compiled[plan]

    def _saw(self, opened: np.ndarray) -> None:
        self._opened.update(np.ascontiguousarray(opened).data)

    # -- sealing and revealing

    def seal(self, secret: Secret, policy: Policy) -> Secret:
        group, scale = Group(policy.ring), 2.0**policy.numbers.raw
        held: list[Any] = [None, None]
        with jax.enable_x64(True):
            if secret.owner == self.role:
                forms, scale, group = sealed_forms(secret, policy)
                send_shares(self.links, "sealed", 0, {i: (x, group) for i, x in enumerate(forms)}, WAIT)
            elif self.party is not None:
                specs = {i: (secret.shape, group) for i in (0, 1)}
                received = receive_shares(self.links[str(secret.owner)], self.party, "sealed", 0, specs, WAIT)
                held = [self.layout.place(received[i]) for i in (0, 1)]
        return Secret(secret.shape, secret.dtype, None, self, Shares(scale, policy.ring, *held, has_centred=True))

    def reveal(self, secrets: list[Secret], to: str) -> list[Any]:
        check_owner(to, "nothing is revealed to")
        for secret in secrets:
            if secret.owner not in (None, to):
                raise CometError(f"{secret!r} is an input: it can be revealed to its owner only, not to {to}")
        results = [secret for secret in secrets if isinstance(secret.payload, Shares)]
        values = iter(self._results(results, to) if results else [])
        return [next(values) if isinstance(secret.payload, Shares) else secret.payload for secret in secrets]

    def _results(self, secrets: list[Secret], to: str) -> list[Any]:
        """The values of shared ``secrets`` at role ``to``, each None elsewhere."""
        self._reveals += 1
        if self.party is not None:
            other = self.links[PARTIES[1 - self.party]]
            compare_transcripts(other, self._opened.digest(), f"reveal {self._reveals} to {to}", timeout=WAIT)
            shares = {str(i): self.layout.local(s.payload.held, self.party) for i, s in enumerate(secrets)}
            self.links[to].send("result", {"reveal": self._reveals}, shares, timeout=WAIT)
        if to != self.role:
            return [None] * len(secrets)
        received = [self.links[party].receive("result", timeout=WAIT) for party in PARTIES]
        values = []
        for i, secret in enumerate(secrets):
            group = Group(secret.payload.ring)
            halves = [array(p, m, str(i), secret.shape, group.dtype) for p, m in zip(PARTIES, received)]
            values.append(fixed_point.decode(group.add(*halves), secret.payload.scale, group, secret.dtype))
        return values

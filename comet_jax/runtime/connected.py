"""One role a process: dealer, two parties, client and model owner, on one machine or five.

Every process runs the same script: the same ``share``, private calls and ``reveal``, in the same order, with values
only where the role has them. What crosses:

- party to party: the openings, by collectives of ``jax.distributed`` (neither encrypted nor authenticated by JAX 0.10:
  run them through a tunnel between organisations), and over a TLS link the handshake and the transcripts' digests;
- dealer to parties, once a plan: a key each. Dealer to party 1, each run, ahead of time: corrections;
- owners to parties: shares. Parties to the role that a result is revealed to: shares.

Before a plan's first run all roles compare program, policy, versions and session with both parties; before anything is
revealed the parties compare a hash of everything that was opened. A lost role ends the others (watchdog.py).
"""

import contextlib
import secrets as random_source
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from comet_jax.dealer.stock import Ledger, Stock
from comet_jax.errors import CometError
from comet_jax.policy import Policy
from comet_jax.rules.terms import Env
from comet_jax.runtime import credentials as keys
from comet_jax.runtime.handshake import compare_transcripts, hello, shake
from comet_jax.runtime.link import Link, listen
from comet_jax.runtime.link import connect as dial
from comet_jax.runtime.plan import Plan
from comet_jax.runtime.secret import Secret, Shares
from comet_jax.runtime.session import (
    DEALT,
    MASKS,
    STATIC,
    Clock,
    Report,
    Session,
    environments,
    random_elements,
    sealed_forms,
    shares_of,
)
from comet_jax.runtime.spmd import OnMesh
from comet_jax.runtime.watchdog import Watchdog
from comet_jax.sharing import chacha, fixed_point
from comet_jax.sharing.groups import Group

PARTIES = ("party0", "party1")
ROLES = ("dealer", *PARTIES, "client", "model")
WAIT = 600.0  # seconds for a step that may include the peer's compilation; a dead peer is noticed by the watchdog


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
    session = Connected(role, addresses, keys.load(credentials, role), Path(state), stock, timeout)
    return session


class Connected(Session):
    """A session with one role in this process. Made by ``Session.connect``."""

    def __init__(self, role: str, addresses, credentials, state: Path, stock: int, timeout: float):
        super().__init__()
        self.role, self.addresses, self.credentials = role, addresses, credentials
        self.state, self.stock_size, self.timeout = state, stock, timeout
        self.links: dict[str, Link] = {}
        self.session_id = ""
        self._exit = contextlib.ExitStack()
        self._loaded: dict[Any, dict[str, Any]] = {}
        self._compiled: dict[Any, Any] = {}
        self._opened = sha256()
        self._reveals = 0

    @property
    def party(self) -> int | None:
        """0 or 1 at a party."""
        return PARTIES.index(self.role) if self.role in PARTIES else None

    def holds(self, role: str) -> bool:
        return role == self.role

    # -- starting and ending

    def __enter__(self) -> Self:
        watched = self._connect()
        self._watchdog = self._exit.enter_context(Watchdog(watched))
        self._agree_on_session()
        self.ledger = self._exit.enter_context(Ledger.begin(self.state, self.session_id))
        if self.party is not None:
            self._start_collectives()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if error[0] is None:
            self._leave_together()
            if self.party is not None:
                jax.distributed.shutdown()
        self._exit.__exit__(*error)
        for link in self.links.values():
            link.close()

    def _connect(self) -> list[Link]:
        """Links to all peers, for work and for the watchdog: everybody dials the parties, party 1 dials party 0."""
        watched = []

        def add(peer: str, open_link) -> None:
            self.links[peer] = open_link("work")
            watched.append(open_link("watch"))

        dialled = PARTIES[: self.party] if self.party is not None else PARTIES
        for peer in dialled:
            add(
                peer,
                lambda purpose, peer=peer: dial(
                    self.credentials, peer, tuple(self.addresses[peer]), purpose, timeout=self.timeout
                ),
            )
        if self.party is not None:
            others = [r for r in ROLES if r not in PARTIES] + [p for p in PARTIES if p > self.role]
            host, port = self.addresses[self.role]
            with listen(self.credentials, port, host, allow=others) as listener:
                for peer in others:
                    add(peer, lambda purpose, peer=peer: listener.accept(peer, purpose, timeout=self.timeout))
        return watched

    def _agree_on_session(self) -> None:
        """A session id from both parties' randomness, told to everybody by both."""
        if self.party is None:
            told = [self.links[p].receive("session", timeout=self.timeout).fields["id"] for p in PARTIES]
            if told[0] != told[1]:
                raise CometError("the two parties name different sessions: start all roles again")
            self.session_id = told[0]
            return
        other = self.links[PARTIES[1 - self.party]]
        mine = random_source.token_hex(16)
        other.send("nonce", {"half": mine})
        theirs = str(other.receive("nonce", timeout=self.timeout).fields["half"])
        halves = (mine, theirs) if self.party == 0 else (theirs, mine)
        self.session_id = sha256("".join(halves).encode()).hexdigest()[:32]
        for peer, link in self.links.items():
            if peer not in PARTIES:
                link.send("session", {"id": self.session_id})

    def _start_collectives(self) -> None:
        host, port = self.addresses["party0/jax"]
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(
            f"{host}:{port}",
            2,
            self.party,
            local_device_ids=[0],
            coordinator_bind_address=f"{host}:{port}" if self.party == 0 else None,
            initialization_timeout=int(self.timeout),
            heartbeat_timeout_seconds=30,
            shutdown_timeout_seconds=5,
        )
        devices = [next(d for d in jax.devices() if d.process_index == p) for p in (0, 1)]
        self.layout = OnMesh(devices, (self.party,))

    def _leave_together(self) -> None:
        """Wait until every peer has finished, so that nobody takes the end of one for a failure of another."""
        for link in self.links.values():
            link.send("done")
        for link in self.links.values():
            link.receive("done", timeout=WAIT)
        self._watchdog.stop()

    # -- running

    def run(self, plan: Plan, inputs: list[Any]) -> list[Any]:
        with jax.enable_x64(True):
            envs = environments(plan, inputs) if self.party is None and self.role != "dealer" else {}
            envs = {owner: env for owner, env in envs.items() if owner == self.role}
            weights = tuple(id(x) for i, x in enumerate(inputs) if isinstance(x, Secret) and plan.is_weight(i))
            key = (plan, weights)
            seconds: dict[str, float] = {}
            clock = Clock(seconds)
            if key not in self._loaded:
                self._shake(plan)
                self._loaded[key] = self._load(plan, envs, inputs)
                # Kept, so that an id is not reused while it serves as a key.
                self._loaded[key]["inputs"] = list(inputs)
            loaded = self._loaded[key]
            clock("load")
            number = loaded["stock"].take()[0].number
            shares = None
            if self.role == "dealer":
                self._deal(plan, loaded, number, clock)
            elif self.party is None:
                self._share(plan, envs, number)
                clock("share")
            else:
                shares = self._compute(plan, loaded, number, inputs, clock)
        program = plan.program
        self.reports.append(Report(program.round_count, program.online_bytes, program.offline_bytes, seconds))
        return plan.results(self, shares, envs)

    def _shake(self, plan: Plan) -> None:
        policy = str(plan.lowered.policy)
        for peer in self.links:
            shake(self.links[peer], hello(self.role, plan.digest, policy, self.session_id), timeout=WAIT)

    def _owned(self, plan: Plan, positions) -> list[int]:
        """The inputs among ``positions`` that this role shares."""
        encodings = plan.lowered.encodings
        return [i for i in positions if not isinstance(encodings[i], tuple) and encodings[i].owner == self.role]  # type: ignore[union-attr]

    def _load(self, plan: Plan, envs: dict[str, Env], inputs: list[Any]) -> dict[str, Any]:
        loaded: dict[str, Any] = {"stock": self._stock(plan)}
        encodings = plan.lowered.encodings
        if self.role == "dealer":
            both = [chacha.new_key() for _ in PARTIES]
            for party, key in zip(PARTIES, both):
                self.links[party].send("key", arrays={"key": key})
            masks = []
            for n, i in enumerate(plan.static):
                e = encodings[i]
                masks.append(
                    e.group.add(*(random_elements(k, chacha.nonce(STATIC, n), e.shape, e.group) for k in both))
                )  # type: ignore[union-attr]
            loaded.update(keys=both, masks=masks)
        elif self.party is None:
            self._share_out(plan, self._owned(plan, plan.static), envs, "weights", 0)
        else:
            key = self.links["dealer"].receive("key", timeout=WAIT).arrays["key"]
            received = self._gather(plan, plan.static, "weights", 0)
            weights, opened = [], []
            for n, i in enumerate(plan.static):
                e = encodings[i]
                r = random_elements(key, chacha.nonce(STATIC, n), e.shape, e.group)  # type: ignore[union-attr]
                weights.append(self.layout.place(received[i]))
                opened.append(self._run(plan, "load", weights[-1], self.layout.place(r)))
            loaded.update(key=key, weights=weights, opened=opened)
        return loaded

    def _stock(self, plan: Plan) -> Stock:
        # The same program may be loaded with other weights: it gets its own keys and its own count.
        tag = sha256(f"{plan.digest} {len(self._loaded)}".encode()).hexdigest()
        return self.ledger.stock(tag, self.stock_size)

    def _run(self, plan: Plan, name: str, *args: Any) -> Any:
        key = (plan, name)
        if key not in self._compiled:
            self._compiled[key] = self.layout.compile(getattr(plan, name))
        return self._compiled[key](*args)

    def _deal(self, plan: Plan, loaded, number: int, clock: Clock) -> None:
        supply = plan.program.supply
        masks = [chacha.draw(k, chacha.nonce(MASKS, number), supply.mask_words) for k in loaded["keys"]]
        first = chacha.draw(loaded["keys"][0], chacha.nonce(DEALT, number), supply.dealt_words)
        second = np.asarray(plan.deal(*masks, first, loaded["masks"]))
        clock("deal")
        self.links["party1"].send("corrections", {"run": number}, {"words": second}, timeout=WAIT)
        clock("send")

    def _compute(self, plan: Plan, loaded, number: int, inputs: list[Any], clock: Clock) -> list[Any]:
        supply, place = plan.program.supply, self.layout.place
        masks = chacha.draw(loaded["key"], chacha.nonce(MASKS, number), supply.mask_words)
        if self.party == 0:
            dealt = chacha.draw(loaded["key"], chacha.nonce(DEALT, number), supply.dealt_words)
        else:
            dealt = self._corrections(number, supply.dealt_words)
        clock("receive")
        words = self._run(plan, "unpack", place(masks), place(dealt))
        material = jax.block_until_ready(self._run(plan, "offline", words, loaded["opened"]))
        clock("offline")
        received = self._gather(plan, plan.fresh, "inputs", number)
        fresh = []
        for i in plan.fresh:
            e = plan.lowered.encodings[i]
            fresh.append(shares_of(inputs[e[0]], e[1]) if isinstance(e, tuple) else place(received[i]))
        clock("share")
        outputs, transcript = self._run(plan, "online", material, loaded["weights"], fresh)
        jax.block_until_ready((outputs, transcript))
        clock("online")
        for message in transcript:
            self._opened.update(self.layout.local(message, self.party).tobytes())  # type: ignore[arg-type]
        clock("hash")
        return outputs

    def _corrections(self, number: int, words: int) -> np.ndarray:
        message = self.links["dealer"].receive("corrections", timeout=WAIT)
        found = message.arrays.get("words")
        if message.fields.get("run") != number or found is None or found.dtype != np.uint32 or found.shape != (words,):
            raise CometError(
                f"the dealer sent material for run {message.fields.get('run')} where run {number} was next, or of the "
                "wrong size: it is not used, and this session ends"
            )
        return found

    # -- shares from owners to parties

    def _share(self, plan: Plan, envs: dict[str, Env], number: int) -> None:
        self._share_out(plan, self._owned(plan, plan.fresh), envs, "inputs", number)

    def _share_out(self, plan: Plan, positions: list[int], envs: dict[str, Env], what: str, number: int) -> None:
        if not positions:
            return
        elements = {i: (plan.encode(i, envs[self.role]), plan.program.inputs[i].wire.group) for i in positions}
        self._send_shares(what, {"run": number}, elements)

    def _send_shares(self, what: str, fields: dict[str, Any], elements: dict[int, tuple[np.ndarray, Group]]) -> None:
        """Party 0 gets a key from which its shares follow, party 1 the differences."""
        key = chacha.new_key()
        self.links["party0"].send(what, fields, {"key": key}, timeout=WAIT)
        rest = {}
        for i, (x, group) in elements.items():
            rest[str(i)] = group.sub(x, random_elements(key, chacha.nonce(STATIC, i), x.shape, group))
        self.links["party1"].send(what, fields, rest, timeout=WAIT)

    def _gather(self, plan: Plan, positions, what: str, number: int) -> dict[int, np.ndarray]:
        """At a party: its shares of the inputs at ``positions``, from all owners."""
        found: dict[int, np.ndarray] = {}
        encodings = plan.lowered.encodings
        wanted: dict[str, list[int]] = {}
        for i in positions:
            if not isinstance(encodings[i], tuple):
                wanted.setdefault(encodings[i].owner, []).append(i)  # type: ignore[union-attr]
        for owner, mine in sorted(wanted.items()):
            if owner not in self.links:
                raise CometError(f"an input belongs to {owner!r}, which is no role of this session")
            wires = {i: plan.program.inputs[i].wire for i in mine}
            found.update(self._receive_shares(owner, what, number, {i: (w.shape, w.group) for i, w in wires.items()}))
        return found

    def _receive_shares(self, owner: str, what: str, number: int, specs) -> dict[int, np.ndarray]:
        message = self.links[owner].receive(what, timeout=WAIT)
        if message.fields.get("run") != number:
            raise CometError(f"{owner} sent {what} for run {message.fields.get('run')} where {number} was next")
        if self.party == 0:
            key = message.arrays["key"]
            return {i: random_elements(key, chacha.nonce(STATIC, i), shape, g) for i, (shape, g) in specs.items()}
        out = {}
        for i, (shape, group) in specs.items():
            x = message.arrays.get(str(i))
            if x is None or x.shape != tuple(shape) or x.dtype != group.dtype:
                raise CometError(f"{owner} sent {what} of the wrong shape or type: nothing was computed")
            out[i] = x
        return out

    # -- sealing and revealing

    def seal(self, secret: Secret, policy: Policy) -> Secret:
        group, scale, held = Group(policy.ring), 2.0**policy.numbers.raw, [None, None]
        with jax.enable_x64(True):
            if secret.owner == self.role:
                forms, scale, group = sealed_forms(secret, policy)
                self._send_shares("sealed", {"run": 0}, {i: (x, group) for i, x in enumerate(forms)})
            elif self.party is not None:
                specs = {i: (secret.shape, group) for i in (0, 1)}
                received = self._receive_shares(str(secret.owner), "sealed", 0, specs)
                held = [self.layout.place(received[i]) for i in (0, 1)]
        return Secret(secret.shape, secret.dtype, None, self, Shares(scale, policy.ring, *held, has_centred=True))

    def reveal(self, secrets: list[Secret], to: str) -> list[Any]:
        if to not in ROLES:
            raise CometError(f"there is no role {to!r} to reveal to")
        if to in PARTIES or to == "dealer":
            raise CometError(f"nothing is revealed to {to}: it is one of the servers that must not see data")
        self._reveals += 1
        return [self._reveal(secret, to) for secret in secrets]

    def _reveal(self, secret: Secret, to: str) -> Any:
        if not isinstance(secret.payload, Shares):
            if secret.owner != to:
                raise CometError(f"{secret!r} is an input: it can be revealed to its owner only, not to {to}")
            return secret.payload
        group = Group(secret.payload.ring)
        if self.party is not None:
            digest = self._opened.digest()
            compare_transcripts(self.links[PARTIES[1 - self.party]], digest, f"reveal {self._reveals}", timeout=WAIT)
            mine = self.layout.local(secret.payload.held, self.party)
            self.links[to].send("result", {"reveal": self._reveals}, {"share": mine}, timeout=WAIT)
            return None
        if to != self.role:
            return None
        shares = []
        for party in PARTIES:
            x = self.links[party].receive("result", timeout=WAIT).arrays.get("share")
            if x is None or x.shape != secret.shape or x.dtype != group.dtype:
                raise CometError(f"{party} sent a result of the wrong shape or type")
            shares.append(x)
        return fixed_point.decode(group.add(*shares), secret.payload.scale, group, secret.dtype)

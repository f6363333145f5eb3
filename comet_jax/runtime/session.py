"""Sessions: who is where, and how a plan is run among them.

A session is a context: inside it ``share`` makes secrets, private functions compute on them, and ``reveal`` opens
results. ``LocalSession`` plays every role in one process; ``runtime/connected.py`` has one role a process.
"""

import os
import time
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import jax
import numpy as np

from comet_jax.errors import CometError
from comet_jax.interpreters.transcript import Flags, disclosed
from comet_jax.policy import Policy
from comet_jax.rules.scope import Encoding
from comet_jax.rules.terms import Env
from comet_jax.runtime.compiled import Compiled
from comet_jax.runtime.epochs import Epoch
from comet_jax.runtime.plan import Plan
from comet_jax.runtime.secret import Secret, Shares
from comet_jax.runtime.spmd import Layout, Simulated, two_devices
from comet_jax.sharing import chacha, fixed_point
from comet_jax.sharing.groups import Group

_current: ContextVar["Session | None"] = ContextVar("session", default=None)

# The roles that own secrets and may be shown some. The others, the servers, compute on what they cannot see.
OWNERS = ("client", "model")

# Purposes of a keystream, the first word of its nonce: one key serves masks, dealt arrays and weights apart.
MASKS, DEALT, STATIC, INPUT = range(4)


def current() -> "Session":
    """The session that the calling code is in."""
    session = _current.get()
    if session is None:
        raise CometError("there is no session here: use `with cj.Session.simulated():` around secrets")
    return session


def refuse_nesting() -> None:
    """Raises ``CometError`` inside a session: secrets of two sessions would mix."""
    if _current.get() is not None:
        raise CometError("a session is open here already: leave it before entering another, their secrets do not mix")


def check_owner(role: str, what: str) -> None:
    """Raises ``CometError`` unless ``role`` may own secrets and see results; ``what`` completes the message."""
    if role not in OWNERS:
        raise CometError(f"{what} {role!r}: only {' and '.join(OWNERS)} own data, all other roles must not see any")


@dataclass
class Report:
    """What one run took. Seconds are wall time at this process; bytes and rounds are exact.

    ``flags``: what gates showed to the parties, in processes that play one. ``renewal_bytes``: what is sent ahead of
    the run to share weights afresh, at an epoch's first, beside the dealer's ``offline_bytes``: by the owner and the
    parties, or for a shuffle by the parties and the dealer.
    ``began``: when, on a clock that processes of one machine share. ``seconds``: of one step after the other from then.
    """

    rounds: int
    online_bytes: int
    offline_bytes: int
    seconds: dict[str, float] = field(default_factory=dict)
    flags: list[Flags] = field(default_factory=list)
    renewal_bytes: int = 0
    began: float = 0.0

    def json(self) -> dict[str, Any]:
        """What JSON holds of it: of flags, how many there were and what was cut."""
        counts = [{"kept": f.kept, "capacity": f.capacity, "overflow": f.overflow, "gate": f.gate} for f in self.flags]
        return asdict(replace(self, flags=[])) | {"flags": counts}


class Session:
    """Base of all sessions. Use as a context manager."""

    def __init__(self) -> None:
        self.key = os.urandom(32)  # of the owners in this process: what they permute by, in this session alone
        self.plans: dict[Any, tuple[Plan, Any]] = {}
        self.reports: list[Report] = []
        self._tokens: list[Any] = []

    @staticmethod
    def simulated() -> "LocalSession":
        """Every role in this process, on one device; both parties as a batch axis."""
        return LocalSession(Simulated())

    @staticmethod
    def devices() -> "LocalSession":
        """Every role in this process; each party on its own device, with real collectives."""
        return LocalSession(two_devices())

    @staticmethod
    def ideal() -> "Session":
        """No parties: what a private run would reveal, with exactly its rounding, for studies of accuracy."""
        from comet_jax.runtime.rehearsal import IdealSession

        return IdealSession()

    @staticmethod
    def connect(**options: Any) -> "Session":
        """One role in this process: see ``comet_jax.runtime.connected.connect``."""
        from comet_jax.runtime.connected import connect

        return connect(**options)

    def __enter__(self) -> Self:
        refuse_nesting()
        self._tokens.append(_current.set(self))
        return self

    def __exit__(self, *error: Any) -> None:
        _current.reset(self._tokens.pop())

    def holds(self, role: str) -> bool:
        """Whether this process plays ``role``."""
        return True

    def _report(self, plan: Plan, clock: "Clock", flags: list[Flags], shuffled: bool) -> None:
        p, lowered = plan.program, plan.lowered
        counts = p.round_count, p.online_bytes, p.offline_bytes
        renewal = lowered.renewal_bytes if shuffled else lowered.sharing_bytes
        self.reports.append(Report(*counts, clock.into, flags, renewal, clock.began))

    def run(self, plan: Plan, inputs: list[Any]) -> list[Any]:
        """Run ``plan`` on the graph's inputs (secrets and public arrays); the graph's outputs."""
        raise NotImplementedError

    def seal(self, secret: Secret, policy: Policy) -> Secret:
        """``secret`` as shares from here on, so that no later step is computed by its owner."""
        raise NotImplementedError

    def reveal(self, secrets: list[Secret], to: str) -> list[Any]:
        """The values of ``secrets`` at role ``to``; None at processes of other roles."""
        raise NotImplementedError


def environments(plan: Plan, inputs: Iterable[Any], key: bytes) -> dict[str, Env]:
    """Each owner's values, for the owners that this process plays. ``key``: theirs for this session."""
    out: dict[str, dict[int, Any]] = {}
    for i, secret in enumerate(inputs):
        owner = plan.lowered.inputs[i]
        if owner is not None:
            out.setdefault(owner, {})[i] = secret.payload
    return {owner: Env(found, key=key) for owner, found in out.items()}


@dataclass(eq=False)
class _Loaded:
    """A plan's weights in a local session: shares, public forms and masks, and the parties' keys.

    ``shared``: shares of what is not opened and serves several runs, by position. ``runs``: that were begun, shuffles
    among them. ``begun``: whether what serves an epoch has been shared by its owner.
    """

    epoch: Epoch
    keys: tuple[np.ndarray, np.ndarray]
    weights: list[Any]
    opened: list[Any]
    masks: list[Any]
    kept: list[Secret]
    shared: dict[int, Any] = field(default_factory=dict)
    runs: int = 0
    begun: bool = False


class LocalSession(Session):
    """Every role in one process: for trying out, for tests, and for counting."""

    def __init__(self, layout: Layout):
        super().__init__()
        self.layout = layout
        self._loaded: dict[Any, _Loaded] = {}
        self._compiled: dict[Plan, Compiled] = {}

    def _compile(self, plan: Plan) -> Compiled:
        if plan not in self._compiled:
            self._compiled[plan] = Compiled(plan, self.layout).ahead()
        return self._compiled[plan]

    def _split(self, elements: np.ndarray, group: Group) -> tuple[np.ndarray, np.ndarray]:
        first = random_elements(chacha.new_key(), chacha.nonce(INPUT), elements.shape, group)
        return first, group.sub(elements, first)

    def _load(self, plan: Plan, envs: dict[str, Env], inputs: list[Any]) -> _Loaded:
        key = (plan, weights_of(plan, inputs))
        if key in self._loaded:
            return self._loaded[key]
        count = len(plan.static)
        # The plan's inputs are kept with it, so that an id is not reused while it serves as a key.
        kept = [x for x in inputs if isinstance(x, Secret)]
        keys, lists = (chacha.new_key(), chacha.new_key()), ([None] * count, [None] * count, [None] * count)
        loaded = _Loaded(Epoch(plan), keys, *lists, kept)
        self._share(plan, loaded, envs, [*(i for i in plan.static if i not in plan.renewed), *plan.kept])
        self._loaded[key] = loaded
        return loaded

    def _share(self, plan: Plan, loaded: _Loaded, envs: dict[str, Env], positions: Sequence[int]) -> None:
        """Share the inputs at ``positions``, and open the weights among them."""
        shares = {}
        for position in positions:
            e = plan.lowered.encodings[position]
            assert isinstance(e, Encoding)
            shares[position] = self.layout.place(*self._split(plan.encode(position, envs[e.owner]), e.group))
        self._keep(plan, loaded, shares)

    def _keep(self, plan: Plan, loaded: _Loaded, shares: dict[int, Any]) -> None:
        """Open the weights among ``shares``, by position, and keep all of them: what was there before goes last."""
        opened = {i: self._open(plan, plan.static.index(i), loaded, x) for i, x in shares.items() if i in plan.static}
        for i, share in shares.items():
            if i not in opened:
                loaded.shared[i] = share
                continue
            n = plan.static.index(i)
            loaded.weights[n], (loaded.opened[n], loaded.masks[n]) = share, opened[i]

    def _open(self, plan: Plan, n: int, loaded: _Loaded, share: Any) -> tuple[Any, np.ndarray]:
        """The public form of weight number ``n`` of ``plan`` under a mask of this run's own, and the mask."""
        wire = plan.program.inputs[plan.static[n]].wire
        r = [random_elements(k, chacha.nonce(STATIC, n, loaded.runs), wire.shape, wire.group) for k in loaded.keys]
        return self._compile(plan).load(share, self.layout.place(*r)), wire.group.add(*r)

    def _renew(self, plan: Plan, loaded: _Loaded, envs: dict[str, Env]) -> bool:
        """Share what serves an epoch: first by its owner. Returns whether the parties did it, by a shuffle."""
        if plan.shuffle is not None and loaded.begun:
            self._keep(plan, loaded, self._shuffled(plan, plan.shuffle, loaded))
            return True
        self._share(plan, loaded, envs, plan.renewed)
        loaded.begun = True
        return False

    def _shuffled(self, plan: Plan, shuffle: Plan, loaded: _Loaded) -> dict[int, Any]:
        """New shares of what serves an epoch, in an order that nobody knows, by position. A run of its own."""
        shares, opened, masks = [], [], []
        for k, i in enumerate(plan.renewed):
            if i in plan.static:
                n = plan.static.index(i)
                share, public, mask = loaded.weights[n], loaded.opened[n], loaded.masks[n]
            else:
                share = loaded.shared[i]
                public, mask = self._open(shuffle, k, loaded, share)
            shares.append(share)
            opened.append(public)
            masks.append(mask)
        material = self._material(shuffle, loaded, opened, masks, Clock({}))
        outputs, _ = self._compile(shuffle).online(material, shares, [])
        loaded.runs += 1
        return dict(zip(plan.renewed, outputs))

    def run(self, plan: Plan, inputs: list[Any]) -> list[Any]:
        program = plan.program
        seconds: dict[str, float] = {}
        with jax.enable_x64(True):
            envs = environments(plan, inputs, self.key)
            if not program.outputs:  # every result is known to its owner: the parties have nothing to do
                self.reports.append(Report(0, 0, 0))
                return plan.results(self, [], envs)
            mark = Clock(seconds)
            loaded = self._load(plan, envs, inputs)
            loaded.runs += 1  # so that nothing is ever drawn again for a run that fails
            plan, known = loaded.epoch.begin()
            program, compiled = plan.program, self._compile(plan)
            shuffled = not plan.call and self._renew(plan, loaded, envs)
            mark("load")
            # Before anything is dealt: an input that cannot be encoded wastes no material.
            fresh = {i: self._fresh(plan, i, envs, inputs) for i in plan.fresh}
            mark("share")
            material = self._material(plan, loaded, loaded.opened, loaded.masks, mark)
            given = {**loaded.shared, **fresh}
            taken = [*(given[i] for i in plan.shared), *known]
            outputs, transcript = compiled.online(material, loaded.weights, taken)
            outputs, known = plan.parted(outputs)
            loaded.epoch.end(known, plan)
            mark("online")
            flags = disclosed(program, self.layout.local(transcript, 0)) if plan.lowered.proof.disclosed else []
        self.transcript = transcript
        self._report(plan, mark, flags, shuffled)
        return plan.results(self, outputs, envs)

    def _material(self, plan: Plan, loaded: _Loaded, opened: list[Any], of_weights: list[Any], mark: "Clock") -> Any:
        """Deal a run on weights with these public forms and masks, and what the parties do ahead of it.

        What is used up is dropped: it is the bulk of memory.
        """
        n, supply = loaded.runs, plan.program.supply
        masks = [chacha.draw(k, chacha.nonce(MASKS, n), supply.mask_words) for k in loaded.keys]
        first = chacha.draw(loaded.keys[0], chacha.nonce(DEALT, n), supply.dealt_words)
        compiled = self._compile(plan)
        second = compiled.deal(masks, first, of_weights)
        mark("deal")
        packed = self.layout.place(*masks), self.layout.place(first, second)
        del masks, first, second
        blocks = compiled.unpack(*packed)
        del packed
        material = compiled.offline(blocks, opened)
        mark("offline")
        return material

    def _fresh(self, plan: Plan, position: int, envs, inputs):
        e = plan.lowered.encodings[position]
        if isinstance(e, tuple):
            return shares_of(inputs[e[0]], e[1])
        return self.layout.place(*self._split(plan.encode(position, envs[e.owner]), e.group))

    def seal(self, secret: Secret, policy: Policy) -> Secret:
        with jax.enable_x64(True):
            forms, scale, group = sealed_forms(secret, policy)
            held, centred = (self.layout.place(*self._split(x, group)) for x in forms)
        payload = Shares(scale, policy.ring, held, centred, has_centred=True)
        return Secret(secret.shape, secret.dtype, None, self, payload)

    def reveal(self, secrets: list[Secret], to: str) -> list[Any]:
        check_owner(to, "nothing is revealed to")
        out = []
        for secret in secrets:
            if isinstance(secret.payload, Shares):
                group = Group(secret.payload.ring)
                first, second = (self.layout.local(secret.payload.held, p) for p in (0, 1))
                out.append(fixed_point.decode(group.add(first, second), secret.payload.scale, group, secret.dtype))
            elif secret.owner == to:
                out.append(secret.payload)
            else:
                raise CometError(f"{secret!r} is an input: it can be revealed to its owner only, not to {to}")
        return out


def weights_of(plan: Plan, inputs: list[Any]) -> tuple[int, ...]:
    """What tells one set of weights from another, while they are kept: the same plan with others is other work."""
    return tuple(id(x) for i, x in enumerate(inputs) if isinstance(x, Secret) and plan.is_weight(i))


def shares_of(secret: Secret, form: str) -> Any:
    """What this process holds of a shared value, in the form that a program takes."""
    return secret.payload.held if form == "raw" else secret.payload.centred


def sealed_forms(secret: Secret, policy: Policy) -> tuple[list[np.ndarray], float, Group]:
    """At its owner: a real value as ring elements, as it is and without its mean; their scale and group."""
    group, scale = Group(policy.ring), 2.0**policy.numbers.raw
    value = np.asarray(secret.payload, np.float64)
    encode = lambda v: fixed_point.encode(v, scale, group, name=repr(secret))
    forms = [encode(value)]
    # One number, or none, has no mean that anything could ask for.
    forms.append(encode(value - value.mean(-1, keepdims=True)) if value.ndim and value.size else forms[0])
    return forms, scale, group


def random_elements(key: np.ndarray, nonce: np.ndarray, shape: tuple[int, ...], group: Group) -> np.ndarray:
    """Uniform elements of a 32- or 64-bit group from a keystream."""
    count = int(np.prod(shape))
    words = np.asarray(chacha.draw(key, nonce, count * group.dtype.itemsize // 4))
    return words.view(group.dtype).reshape(shape)


class Clock:
    """Seconds between marks."""

    def __init__(self, into: dict[str, float]):
        self.into, self.began = into, time.perf_counter()
        self.at = self.began

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self.into[name], self.at = now - self.at, now

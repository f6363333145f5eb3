"""What each role does with one plan and one set of weights: prepare once, then the same steps each run of an epoch.

All workers of a plan run in step, each in its own process. ``run`` returns the shares of the outputs at a party, and
None at the other roles.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from comet_jax.errors import CometError
from comet_jax.interpreters.transcript import Flags, disclosed
from comet_jax.rules.scope import Encoding
from comet_jax.rules.terms import Env
from comet_jax.runtime.compiled import Compiled
from comet_jax.runtime.epochs import Epoch
from comet_jax.runtime.link import Link
from comet_jax.runtime.plan import Plan
from comet_jax.runtime.roles import PARTIES
from comet_jax.runtime.seeds import Seed
from comet_jax.runtime.session import Clock, shares_of
from comet_jax.runtime.spmd import OnMesh
from comet_jax.runtime.transfer import array, receive_shares, send_shares
from comet_jax.sharing import chacha

Programs = Callable[[Plan], Compiled]
"""The compiled programs of a plan."""

WAIT = 600.0  # seconds for a step that may include the peer's compilation; a dead peer is noticed by the watchdog


@dataclass(frozen=True)
class Turn:
    """One run: its plan and number, the graph's inputs as this role holds them, the flags that the parties know from
    the run before, an owner's values, and a clock for what it takes."""

    plan: Plan
    number: int
    inputs: list[Any]
    known: list[Any]
    env: Env | None
    clock: Clock


class Worker(ABC):
    """One role's part in the runs of ``plan``, the first of an epoch's, and of its others, over ``links``.

    ``links``: peer -> link. What goes into all plans of an epoch is alike, so ``plan`` tells it for all of them.
    """

    def __init__(self, plan: Plan, links: Mapping[str, Link]) -> None:
        self.plan, self.links, self.epoch = plan, links, Epoch(plan)
        self.flags: list[Flags] = []  # what gates showed in the last run, at a party
        self.shuffled = False  # whether the parties renewed an epoch's order themselves ahead of the last run
        self._begun = False  # whether what serves an epoch has been shared by its owner

    def run(self, number: int, inputs: list[Any], env: Env | None, clock: Clock) -> list[Any] | None:
        """Run ``number``, the next of the epoch: the graph's inputs as this role holds them, and an owner's values."""
        plan, known = self.epoch.begin()
        turn = Turn(plan, number, inputs, known, env, clock)
        self.shuffled = not plan.call and self._begun and plan.shuffle is not None
        if not plan.call:
            self._renew(turn, plan.shuffle if self.shuffled else None)
            self._begun = True
        results, known = plan.parted(self._run(turn) or [])
        self.epoch.end(known, plan)
        return results or None

    @abstractmethod
    def _renew(self, turn: "Turn", shuffle: Plan | None) -> None:
        """Ahead of an epoch's first run: what serves it is shared afresh, by its owner or by ``shuffle``."""

    @abstractmethod
    def _run(self, turn: "Turn") -> list[Any] | None:
        """The run itself: this party's shares of the program's outputs, and the flags that it hands on."""

    @property
    def lasting(self) -> tuple[int, ...]:
        """Positions of the weights, and of what else is shared once."""
        return (*(i for i in self.plan.static if i not in self.plan.renewed), *self.plan.kept)

    def encoding(self, position: int) -> Encoding:
        """How the program's input at ``position`` is made by its owner."""
        found = self.plan.lowered.encodings[position]
        assert isinstance(found, Encoding)
        return found

    def owners(self, positions: Iterable[int]) -> dict[str, list[int]]:
        """Owner -> the program's inputs among ``positions`` that it shares, in a fixed order."""
        found: dict[str, list[int]] = {}
        for i in positions:
            if isinstance(self.plan.lowered.encodings[i], Encoding):
                found.setdefault(self.encoding(i).owner, []).append(i)
        return dict(sorted(found.items()))


class Dealing(Worker):
    """The dealer. It needs no answer from anybody, so it runs ahead, as far as party 1 takes what it sends."""

    def __init__(self, plan: Plan, compiled: Programs, links: Mapping[str, Link]) -> None:
        super().__init__(plan, links)
        self._compiled = compiled
        keys = [chacha.new_key() for _ in PARTIES]
        for party, key in zip(PARTIES, keys):
            links[party].send("key", arrays={"key": key}, timeout=WAIT)
        self._seeds = [Seed(key) for key in keys]
        self._masks: list[Any] = [None] * len(self.plan.static)
        self._draw(i for i in self.lasting if i in plan.static)

    def _draw(self, positions: Iterable[int]) -> None:
        """The masks of the weights at ``positions``. A step of the seeds."""
        try:
            for i in positions:
                n = self.plan.static.index(i)
                self._masks[n] = self._mask(self.plan, n)
        finally:
            self._step()

    def _mask(self, plan: Plan, n: int) -> np.ndarray:
        """The mask of weight number ``n`` of ``plan``."""
        wire = plan.program.inputs[plan.static[n]].wire
        return wire.group.add(*(seed.static(n, wire.shape, wire.group) for seed in self._seeds))

    def _step(self) -> None:
        for seed in self._seeds:
            seed.step()

    def _renew(self, turn, shuffle):
        plan = turn.plan
        if shuffle is not None:
            mask = lambda k, i: self._masks[plan.static.index(i)] if i in plan.static else self._mask(shuffle, k)
            self._deal(shuffle, "shuffle", turn, lambda: [mask(k, i) for k, i in enumerate(plan.renewed)])
        self._draw(i for i in plan.renewed if i in plan.static)

    def _run(self, turn):
        self._deal(turn.plan, "corrections", turn, lambda: self._masks)

    def _deal(self, plan: Plan, what: str, turn: Turn, of_weights: Callable[[], list[Any]]) -> None:
        """Deal a run of ``plan``; ``of_weights`` finds, or draws, the masks of its weights. A step of the seeds."""
        supply = plan.program.supply
        try:
            known = of_weights()
            masks = [seed.masks(supply.mask_words) for seed in self._seeds]
            first = self._seeds[0].dealt(supply.dealt_words)
        finally:
            self._step()
        second = np.asarray(self._compiled(plan).deal(masks, first, known))
        turn.clock("deal")
        self.links[PARTIES[1]].send(what, {"run": turn.number}, {"words": second}, timeout=WAIT)
        turn.clock("send")


class Owning(Worker):
    """The client or the model owner: shares weights once, or once an epoch, and its other inputs each run."""

    def __init__(self, plan: Plan, links: Mapping[str, Link], role: str, env: Env | None) -> None:
        super().__init__(plan, links)
        self._fresh = self.owners(plan.fresh).get(role, [])
        weights = self.owners(self.lasting).get(role, [])
        self._renewed = self.owners(plan.renewed).get(role, [])
        # Whoever owns weights gives the same values each run: they are encoded once.
        self._fixed = self._encoded(self._fresh, env) if weights or self._renewed else None
        if weights:
            send_shares(links, "weights", 0, self._encoded(weights, env), WAIT)

    def _renew(self, turn, shuffle):
        if self._renewed and shuffle is None:
            send_shares(self.links, "renewed", turn.number, self._encoded(self._renewed, turn.env), WAIT)

    def _run(self, turn):
        if self._fresh:
            elements = self._encoded(self._fresh, turn.env) if self._fixed is None else self._fixed
            send_shares(self.links, "inputs", turn.number, elements, WAIT)
        turn.clock("share")

    def _encoded(self, positions: list[int], env: Env | None):
        assert env is not None or not positions
        return {i: (self.plan.encode(i, env), self.encoding(i).group) for i in positions}  # type: ignore[arg-type]


class Computing(Worker):
    """A party. ``saw(array)`` notes what was opened."""

    def __init__(
        self,
        plan: Plan,
        compiled: Programs,
        links: Mapping[str, Link],
        party: int,
        layout: OnMesh,
        saw: Callable[[np.ndarray], None],
    ) -> None:
        super().__init__(plan, links)
        self._compiled, self._party, self._layout, self._saw = compiled, party, layout, saw
        self._seed = Seed(array("dealer", links["dealer"].receive("key", timeout=WAIT), "key", (8,), np.uint32))
        self._weights: list[Any] = [None] * len(plan.static)
        self._opened: list[Any] = [None] * len(plan.static)
        self._shared: dict[int, Any] = {}  # what is not opened, and serves several runs
        self._load(lambda: self._received(self.lasting, "weights", 0))

    def _received(self, positions: Sequence[int], what: str, number: int) -> dict[int, Any]:
        """This party's shares of the inputs at ``positions``, from their owners."""
        return {i: self._layout.place(x) for i, x in self._gather(positions, what, number).items()}

    def _load(self, find: Callable[[], dict[int, Any]]) -> None:
        """Find shares by position, open the weights among them, and keep all in the end. A step of the seed."""
        static = self.plan.static
        try:
            shares = find()
            opened = {i: self._open(self.plan, static.index(i), x) for i, x in sorted(shares.items()) if i in static}
        finally:
            self._seed.step()  # also where a run fails: nothing is ever drawn again
        for i, share in shares.items():
            if i in opened:
                self._weights[static.index(i)], self._opened[static.index(i)] = share, opened[i]
            else:
                self._shared[i] = share

    def _open(self, plan: Plan, n: int, share: Any) -> Any:
        """The public form of weight number ``n`` of ``plan``, opened with the other party."""
        wire = plan.program.inputs[plan.static[n]].wire
        opened = self._compiled(plan).load(share, self._layout.place(self._seed.static(n, wire.shape, wire.group)))
        self._saw(self._layout.local(opened, self._party))
        return opened

    def _renew(self, turn, shuffle):
        plan = turn.plan
        if shuffle is None:
            self._load(lambda: self._received(plan.renewed, "renewed", turn.number))
        else:
            shares = self._shuffle(turn, shuffle)
            self._load(lambda: shares)

    def _shuffle(self, turn: Turn, shuffle: Plan) -> dict[int, Any]:
        """New shares of what serves an epoch, in an order that nobody knows, by position."""
        plan, compiled = turn.plan, self._compiled(shuffle)
        places = {i: plan.static.index(i) for i in plan.renewed if i in plan.static}
        shares = [self._weights[places[i]] if i in places else self._shared[i] for i in plan.renewed]

        def opened() -> list[Any]:
            pairs = enumerate(zip(plan.renewed, shares))
            return [self._opened[places[i]] if i in places else self._open(shuffle, k, x) for k, (i, x) in pairs]

        material = self._material(shuffle, "shuffle", turn, opened)
        outputs, transcript = compiled.online(material, shares, [])
        for message in transcript:
            self._saw(self._layout.local(message, self._party))
        return dict(zip(plan.renewed, outputs))

    def _run(self, turn):
        plan, number, clock = turn.plan, turn.number, turn.clock
        material = self._material(plan, "corrections", turn, lambda: self._opened)
        received = self._gather(plan.fresh, "inputs", number)
        fresh = {}
        for i in plan.fresh:
            e = plan.lowered.encodings[i]
            fresh[i] = shares_of(turn.inputs[e[0]], e[1]) if isinstance(e, tuple) else self._layout.place(received[i])
        clock("share")
        given = {**self._shared, **fresh}
        taken = [*(given[i] for i in plan.shared), *turn.known]
        outputs, transcript = self._compiled(plan).online(material, self._weights, taken)
        clock("online")
        messages = [self._layout.local(message, self._party) for message in transcript]
        for message in messages:
            self._saw(message)
        clock("hash")
        self.flags = disclosed(plan.program, messages) if plan.lowered.proof.disclosed else []
        return outputs

    def _material(self, plan: Plan, what: str, turn: Turn, public: Callable[[], list[Any]]) -> Any:
        """What a party does ahead of a run of ``plan``; ``public`` finds, or opens, its weights. A step of the seed."""
        try:
            opened = public()
            masks, dealt = self._words(plan, what, turn.number)
        finally:
            self._seed.step()
        turn.clock("receive")
        compiled = self._compiled(plan)
        blocks = compiled.unpack(self._layout.place(masks), self._layout.place(dealt))
        material = compiled.offline(blocks, opened)
        turn.clock("offline")
        return material

    def _words(self, plan: Plan, what: str, number: int) -> tuple[Any, Any]:
        """The words of a run's masks and dealt arrays, from the seed and at party 1 from the dealer: what it sends."""
        supply = plan.program.supply
        masks = self._seed.masks(supply.mask_words)
        if self._party == 0:
            dealt = self._seed.dealt(supply.dealt_words)
        else:
            message = self.links["dealer"].receive(what, timeout=WAIT)
            if message.fields.get("run") != number:
                raise CometError(
                    f"the dealer sent {what} for run {message.fields.get('run')} where run {number} was due: they "
                    "are not used, and this session ends"
                )
            dealt = array("dealer", message, "words", (supply.dealt_words,), np.uint32)
        return masks, dealt

    def _gather(self, positions: Iterable[int], what: str, number: int) -> dict[int, np.ndarray]:
        """This party's shares of the inputs at ``positions``, from all owners."""
        found: dict[int, np.ndarray] = {}
        for owner, mine in self.owners(positions).items():
            wires = {i: self.plan.program.inputs[i].wire for i in mine}
            specs = {i: (w.shape, w.group) for i, w in wires.items()}
            found |= receive_shares(self.links[owner], self._party, what, number, specs, WAIT)
        return found

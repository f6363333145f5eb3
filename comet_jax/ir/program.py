"""A two-party program: protocols on wires, in single-assignment form, and the schedule of its rounds.

This is what the compiler makes of a model, and what all interpreters run. Only openings communicate, so the round
of an operation is the number of openings on the longest path to it, and all openings of one round are one message.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from typing import TypeVar

from comet_jax.ir.variant import Variant
from comet_jax.protocols.protocol import Opening, Protocol, recorded
from comet_jax.sharing.packing import Item, Layout
from comet_jax.sharing.wires import Disclosed, Mask, Opened, Shared, Wire

T = TypeVar("T")


@dataclass(frozen=True)
class Var:
    """A wire of a program: its number and its type."""

    id: int
    wire: Wire

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array on the wire."""
        return self.wire.shape

    @property
    def bits(self) -> int:
        """Bits of the wire's group."""
        return self.wire.group.bits


@dataclass(frozen=True)
class Op:
    """One step: a protocol, or a ``Scan``, on wires.

    ``site`` names the place in the user's model, ``operation`` what it does there (softmax, dot_general).
    """

    protocol: "Protocol | Scan"
    inputs: tuple[Var, ...]
    outputs: tuple[Var, ...]
    site: str = ""
    operation: str = ""


@dataclass(frozen=True, eq=False)
class Scan:
    """A body run ``length`` times.

    Its inputs: ``carries`` that are threaded through, ``fixed`` ones that every step takes as they are, and stacked
    ones, of which each step takes a slice. Its outputs: the carries after the last step, then what each step makes
    beside them, stacked. An opened wire among the fixed ones was opened once, before the first step.
    """

    body: "Program"
    length: int
    carries: int
    fixed: int = 0

    def parts(self, inputs: Sequence[T]) -> tuple[list[T], list[T], list[T]]:
        """One thing an input: those of carries, of fixed inputs, of stacked inputs."""
        first, last = self.carries, self.carries + self.fixed
        return list(inputs[:first]), list(inputs[first:last]), list(inputs[last:])

    def outputs(self, *inputs: Wire) -> tuple[Wire, ...]:
        """The output wires."""
        wires = [v.wire for v in self.body.outputs]
        stacked = (replace(w, shape=(self.length, *w.shape)) for w in wires[self.carries :])
        return (*wires[: self.carries], *stacked)

    def describe(self) -> str:
        """The scan on one line."""
        return f"Scan(length={self.length}, carries={self.carries}, fixed={self.fixed})"


@dataclass(frozen=True)
class Round:
    """Local steps, then the openings that share one message."""

    local: tuple[int, ...]
    opened: tuple[int, ...]


@dataclass(frozen=True)
class Supply:
    """The correlated randomness of a program: masks from the parties' seeds, and arrays that the dealer shares.

    ``masks`` and ``dealt`` name (operation, array) for each item of their layouts; ``scans`` holds the supply of
    each scan's body by operation, used ``length`` times.
    """

    masks: dict[tuple[int, str], Item]
    dealt: dict[tuple[int, str], Item]
    scans: dict[int, tuple["Supply", int]]

    @cached_property
    def by_step(self) -> tuple[dict[int, dict[str, Item]], dict[int, dict[str, Item]]]:
        """The masks and the dealt arrays of each operation, by name."""
        found: tuple[dict[int, dict[str, Item]], dict[int, dict[str, Item]]] = ({}, {})
        for into, of in zip(found, (self.masks, self.dealt)):
            for (i, name), item in of.items():
                into.setdefault(i, {})[name] = item
        return found

    @cached_property
    def mask_layout(self) -> Layout:
        """Packing of the masks outside scans."""
        return Layout(tuple(self.masks.values()))

    @cached_property
    def dealt_layout(self) -> Layout:
        """Packing of the dealt arrays outside scans."""
        return Layout(tuple(self.dealt.values()))

    @cached_property
    def mask_words(self) -> int:
        """uint32 words of masks in all."""
        return self.mask_layout.words + sum(n * s.mask_words for s, n in self.scans.values())

    @cached_property
    def dealt_words(self) -> int:
        """uint32 words of dealt arrays in all: what the dealer sends to party 1."""
        return self.dealt_layout.words + sum(n * s.dealt_words for s, n in self.scans.values())


@dataclass(frozen=True, eq=False)
class Program:
    """Wires in, operations in order, wires out."""

    inputs: tuple[Var, ...]
    ops: tuple[Op, ...]
    outputs: tuple[Var, ...]

    @cached_property
    def rounds(self) -> tuple[Round, ...]:
        """The schedule: every opening as early as its inputs allow. Pieces of a scan are not merged with others."""
        depth = {v.id: 0 for v in self.inputs}
        levels: dict[int, tuple[list[int], list[int]]] = {}
        for i, op in enumerate(self.ops):
            level = max((depth[v.id] for v in op.inputs), default=0)
            opens = isinstance(op.protocol, Opening)
            levels.setdefault(level, ([], []))[opens].append(i)
            # A scan's result counts one level later, so that what follows does not split its round.
            after = level + (opens or isinstance(op.protocol, Scan))
            depth.update({v.id: after for v in op.outputs})
        return tuple(Round(tuple(levels[k][0]), tuple(levels[k][1])) for k in sorted(levels))

    @cached_property
    def round_count(self) -> int:
        """Rounds of communication, scans included."""
        own = sum(bool(r.opened) for r in self.rounds)
        return own + sum(s.length * s.body.round_count for s in self._scans)

    @cached_property
    def openings(self) -> int:
        """Wires opened, scans included: the rounds if each were a message of its own."""
        own = sum(len(r.opened) for r in self.rounds)
        return own + sum(s.length * s.body.openings for s in self._scans)

    @cached_property
    def online_bytes(self) -> int:
        """Bytes that one party sends online, all rounds. Both parties send the same."""
        own = sum(self.message(r).bytes for r in self.rounds if r.opened)
        return own + sum(s.length * s.body.online_bytes for s in self._scans)

    @property
    def offline_bytes(self) -> int:
        """Bytes that the dealer sends, all to party 1."""
        return 4 * self.supply.dealt_words

    @property
    def _scans(self) -> Iterable[Scan]:
        return (op.protocol for op in self.ops if isinstance(op.protocol, Scan))

    def message(self, round_: Round) -> Layout:
        """How the openings of a round are packed."""
        return Layout(tuple(self.item(i) for i in round_.opened))

    def item(self, i: int) -> Item:
        """How the message of an opening is packed, given its place among the operations."""
        op = self.ops[i]
        assert isinstance(op.protocol, Opening)
        return op.protocol.item(*(v.wire for v in op.inputs))

    @cached_property
    def supply(self) -> Supply:
        """What has to be dealt."""
        masks, dealt, scans = {}, {}, {}
        known: dict[tuple, tuple] = {}
        for i, op in enumerate(self.ops):
            if isinstance(op.protocol, Scan):
                scans[i] = (op.protocol.body.supply, op.protocol.length)
                continue
            key = (op.protocol, tuple(v.wire for v in op.inputs))
            if key not in known:
                known[key] = recorded(op.protocol, lambda op=op: tuple(_blank(v.wire) for v in op.inputs))
            for found, into in zip(known[key], (masks, dealt)):
                into.update({(i, name): item for name, item in found.items()})
        return Supply(masks, dealt, scans)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything public that the parties must agree on."""
        return sha256(str(self).encode()).hexdigest()

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self, indent: str = "") -> Iterator[str]:
        name = lambda vs: ", ".join(f"%{v.id}:{_type(v.wire)}" for v in vs)
        yield f"{indent}program({name(self.inputs)})"
        for op in self.ops:
            ids = " ".join(f"%{v.id}" for v in op.inputs)
            place = f"{op.site} {op.operation}".strip()
            site = f"  # {place}" if place else ""
            yield f"{indent}  {name(op.outputs)} = {op.protocol.describe()} {ids}{site}"
            if isinstance(op.protocol, Scan):
                yield from op.protocol.body._lines(indent + "    ")
        yield f"{indent}  return {name(self.outputs)}"


def _type(wire: Wire) -> str:
    shape = "x".join(map(str, wire.shape))
    if isinstance(wire, Disclosed):
        return f"disclosed[{wire.group} {shape}]"
    kind = "shared" if isinstance(wire, Shared) else "static" if wire.static else "opened"
    return f"{kind}[{wire.group} {shape}]"


def _blank(wire: Wire):
    import jax.numpy as jnp

    return Mask(wire, jnp.zeros(wire.shape, wire.group.dtype)) if isinstance(wire, Opened) else wire


@dataclass
class Builder:
    """Writes a program. The same protocol on the same wires is emitted once, so that a wire is opened once."""

    ops: list[Op] = field(default_factory=list)
    inputs: list[Var] = field(default_factory=list)
    variant: Variant = field(default_factory=Variant)
    _next: int = 0
    _site: tuple[str, str] = ("", "")
    _seen: dict[tuple, tuple[Var, ...]] = field(default_factory=dict)

    def _var(self, wire: Wire) -> Var:
        self._next += 1
        return Var(self._next - 1, wire)

    def input(self, wire: Wire) -> Var:
        """A new input of the program."""
        self.inputs.append(self._var(wire))
        return self.inputs[-1]

    @contextmanager
    def site(self, name: str, operation: str = ""):
        """Steps emitted inside carry this place and operation."""
        before, self._site = self._site, (name, operation)
        try:
            yield
        finally:
            self._site = before

    def emit_all(self, protocol: "Protocol | Scan", *inputs: Var) -> tuple[Var, ...]:
        """Apply ``protocol``; all output wires."""
        key = (protocol, tuple(v.id for v in inputs))
        if key not in self._seen:
            outputs = tuple(map(self._var, protocol.outputs(*(v.wire for v in inputs))))
            self.ops.append(Op(protocol, inputs, outputs, *self._site))
            self._seen[key] = outputs
        return self._seen[key]

    def emit(self, protocol: Protocol, *inputs: Var) -> Var:
        """Apply ``protocol``; its only output wire."""
        (out,) = self.emit_all(protocol, *inputs)
        return out

    def finish(self, *outputs: Var) -> Program:
        """The program that computes ``outputs``, without operations that they do not need."""
        needed = {v.id for v in outputs}
        kept = []
        for op in reversed(self.ops):
            if any(v.id in needed for v in op.outputs):
                kept.append(op)
                needed.update(v.id for v in op.inputs)
        return Program(tuple(self.inputs), tuple(reversed(kept)), outputs)

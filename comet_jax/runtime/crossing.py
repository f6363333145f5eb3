"""What crosses between the parties: counted in a compiled program, and compared with the plan before anything runs.

XLA may merge, split, drop or add collectives, and a mistake in a rule could add one. So each compiled program is read
as HLO text, and the messages that one party sends in it must be exactly those of the plan: as many, each of its size.
A loop's body stands once in the text and counts as often as the loop runs.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from comet_jax.errors import CometError
from comet_jax.ir.program import Program, Scan

Messages = Counter[int]
"""Bytes of a message -> how many such messages one party sends."""


class CrossingError(CometError):
    """A compiled program sends something else than its plan says."""


# Everything in HLO that leaves a device. An asynchronous one is counted where it starts.
_COLLECTIVE = re.compile(
    r"(?:all-gather|all-reduce|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast|reduce-scatter"
    r"|send|recv|infeed|outfeed)(?:-start)?"
)
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)[a-z0-9]*)\[([\d,]*)\]")


@dataclass
class _Computation:
    sent: Messages = field(default_factory=Counter)
    called: list[tuple[str, int | None]] = field(default_factory=list)  # a computation, how often (None: unknown)


def planned(program: Program) -> Messages:
    """The messages that one party sends in a run of ``program``."""
    sent: Messages = Counter(program.message(r).bytes for r in program.rounds if r.opened)
    for op in program.ops:
        if isinstance(op.protocol, Scan):
            for size, count in planned(op.protocol.body).items():
                sent[size] += count * op.protocol.length
    del sent[0]  # nothing to send is no message
    return sent


def compiled(hlo: str) -> Messages:
    """The messages that one device sends in a run of a compiled program, given as HLO text.

    Raises ``CrossingError`` for communication in a loop whose length is not known.
    """
    computations, entry = _parse(hlo)
    sent: Messages = Counter()
    for computation, times in _walk(computations, entry, 1):
        for size, count in computation.sent.items():
            if times is None:
                raise CrossingError("a compiled program communicates in a loop of unknown length: nothing was run")
            sent[size] += count * times
    return sent


def check(name: str, hlo: str, plan: Messages) -> None:
    """Return only if the compiled program ``name`` sends exactly what ``plan`` says; else raise ``CrossingError``."""
    found = compiled(hlo)
    if found != plan:
        raise CrossingError(
            f"the compiled {name!r} program would send {_words(found - plan)} that its plan lacks, and lacks "
            f"{_words(plan - found)} of its plan: nothing was run. This is a defect of the compiler: please report it, "
            "with the versions of comet_jax and jaxlib"
        )


def _words(messages: Mapping[int, int]) -> str:
    return ", ".join(f"{n} messages of {size} bytes" for size, n in sorted(messages.items())) or "nothing"


def _walk(computations, name: str, times: int | None) -> Iterator[tuple[_Computation, int | None]]:
    yield computations[name], times
    for called, often in computations[name].called:
        yield from _walk(computations, called, None if times is None or often is None else times * often)


def _parse(hlo: str) -> tuple[dict[str, _Computation], str]:
    """All computations by name, and the name of the one that runs."""
    computations: dict[str, _Computation] = {}
    types: dict[str, str] = {}
    entry, current = "", _Computation()
    for line in hlo.splitlines():
        if head := _HEAD.match(line):
            current = computations[head[2]] = _Computation()
            entry = head[2] if head[1] else entry
        elif instruction := _INSTRUCTION.match(line):
            name, types[name], opcode, rest = instruction[1], *instruction.groups()[1:]
            if _COLLECTIVE.fullmatch(opcode):
                operands = re.findall(r"%([\w.\-]+)", rest.split(")")[0])
                current.sent[sum(_bytes(types[o]) for o in operands)] += 1
            trips = _TRIPS.search(line)
            often = (int(trips[1]) if trips else None) if opcode == "while" else 1
            current.called += [(c, often) for c in _CALLED.findall(rest)]
            for names in _BRANCHES.findall(rest):
                current.called += [(c.strip().lstrip("%"), 1) for c in names.split(",")]
    return computations, entry


def _bytes(type_: str) -> int:
    """Bytes of an HLO type; of a tuple, all its arrays."""
    sizes = (
        math.prod(map(int, filter(None, shape.split(",")))) * int(bits or 8) for _, bits, shape in _ARRAY.findall(type_)
    )
    return sum(-(-size // 8) for size in sizes)

"""What a run's messages disclose: the flags of gates, read off the transcript as both parties have it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from comet_jax.ir.program import Program, Round, Scan
from comet_jax.protocols.disclosure import Disclose
from comet_jax.protocols.slots import Slots
from comet_jax.protocols.stash import Joined


@dataclass(frozen=True, eq=False)
class Flags:
    """The flags that one gate showed in a run: bool, one axis for each loop around it, then tokens and blocks.

    ``slots``: how many blocks of one step there is room for, all tokens together.
    """

    gate: str
    flags: np.ndarray
    slots: int

    @property
    def kept(self) -> float:
        """The part of all blocks that were flagged."""
        return float(self.flags.mean()) if self.flags.size else 0.0

    @property
    def capacity(self) -> float:
        """The part of all blocks that there is room for."""
        return self.slots / max(1, int(np.prod(self.flags.shape[-2:])))

    @property
    def overflow(self) -> int:
        """Flagged blocks that found no slot, and were not computed.

        There are none where scores decide: what does not fit is not flagged, and nobody sees how much that is.
        """
        each = self.flags.reshape(-1, max(1, int(np.prod(self.flags.shape[-2:])))).sum(-1)
        return int(np.maximum(each - self.slots, 0).sum())


def disclosed(program: Program, transcript: Sequence[Any]) -> list[Flags]:
    """All that a run of ``program`` disclosed.

    ``transcript``: for each round the two messages, uint32[2, words], with one more first axis for each loop around it.
    """
    return list(_disclosed(program, iter(transcript)))


def _disclosed(program: Program, messages: Iterator[Any]) -> Iterator[Flags]:
    for round_ in program.rounds:
        for i in round_.local:
            op = program.ops[i]
            if isinstance(op.protocol, Scan):
                yield from _disclosed(op.protocol.body, messages)
        if not round_.opened:
            continue
        message = next(messages)
        if any(isinstance(program.ops[i].protocol, Disclose) for i in round_.opened):
            yield from _in_round(program, round_, message)


def _in_round(program: Program, round_: Round, message: Any) -> Iterator[Flags]:
    layout, words = program.message(round_), np.asarray(message)
    with jax.enable_x64(True):
        unpacked = jax.vmap(layout.unpack)(jnp.asarray(words.reshape(-1, words.shape[-1])))
    for i, array in zip(round_.opened, unpacked):
        step = program.ops[i].protocol
        if isinstance(step, Disclose):
            halves = np.asarray(array).reshape(*words.shape[:-1], *array.shape[1:])
            at = words.ndim - 2  # the axis of the two parties
            total = program.item(i).group.add(halves.take(0, at), halves.take(1, at))
            yield Flags(step.gate, total.astype(bool), _room(program, i))


def _room(program: Program, disclosure: int) -> int:
    """How many slots the flags of an operation are given, with those that they are joined to."""
    flags = program.ops[disclosure].outputs[0]
    for op in program.ops[disclosure:]:
        if flags in op.inputs and isinstance(op.protocol, Joined):
            flags = op.outputs[0]
        if flags in op.inputs and isinstance(op.protocol, Slots):
            return op.protocol.count // op.protocol.repeats
    return flags.shape[-1]

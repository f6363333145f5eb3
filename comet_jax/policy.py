"""What a user may choose about a private program: its ring, its scales, and what is published."""

import json
import math
import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal, Self

from comet_jax.errors import CometError
from comet_jax.ir.variant import Variant
from comet_jax.predictors.artifact import Predictor


@dataclass(frozen=True)
class Range:
    """Magnitudes of an array's elements, in powers of two: the least that is not zero, and the largest.

    ``room``: the largest magnitude that the array's scale has to leave room for. It is that of a sum which the array
    goes into, where that is larger: terms at the sum's own scale cost nothing to add.
    """

    smallest: float
    largest: float
    room: float


@dataclass(frozen=True)
class Ranges:
    """Calibrated ranges of a function's values: for each form of its graph (by digest), one a value, in graph order.

    They are public, as scales are: both parties learn how large activations get on the examples, to a power of two.
    ``cj.calibrate`` makes them. None stands for what has no range: weights, and what was never computed.
    ``required``: whether a graph that is not among them is refused, or takes the policy's ``numbers`` for all values.
    """

    graphs: tuple[tuple[str, tuple[Range | None, ...]], ...] = ()
    required: bool = True

    def __repr__(self):
        return f"Ranges({', '.join(digest for digest, _ in self.graphs)}: {sha256(self.json().encode()).hexdigest()})"

    def json(self) -> str:
        """The ranges as JSON text, for ``from_json``."""
        flat = lambda r: None if r is None else [r.smallest, r.largest, r.room]
        return json.dumps({digest: [flat(r) for r in ranges] for digest, ranges in self.graphs})

    @classmethod
    def from_json(cls, text: str, *, required: bool = True) -> Self:
        """Ranges from what ``json`` gave. Raises ``CometError`` for anything else."""
        try:
            found = json.loads(text).items()
            ranges = tuple((d, tuple(None if r is None else Range(*map(float, r)) for r in rs)) for d, rs in found)
        except (ValueError, TypeError, AttributeError) as error:
            raise CometError(f"this text holds no ranges that `calibrate` made: {error}") from error
        if any(not 0 < v < math.inf for _, rs in ranges for r in rs if r for v in (r.smallest, r.largest, r.room)):
            raise CometError("this text holds ranges that are not positive numbers")
        return cls(ranges, required)


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Fixed point: a value v on a wire is the integer round(v * scale), in Z_2^ring. Scales here are bit counts.

    ``raw``: results of linear layers and the residual stream. ``operand``: factors of a product.
    ``norm``: inputs of a normalisation. ``probability``: results of a softmax. ``finest``: the most that calibrated
    ranges give a linear result, by default ``raw``.
    ``bound``: the largest magnitude of an operand or of an activation's input; ``norm_bound``: of a normalisation's.
    """

    ring: Literal[32, 64] = 32
    raw: int = 24
    operand: int = 10
    norm: int = 12
    probability: int = 12
    bound: float = 32.0
    norm_bound: float = 64.0
    finest: int | None = None

    def __post_init__(self):
        if self.ring not in (32, 64):
            raise ValueError(f"the ring has 32 or 64 bits, not {self.ring}")
        room = self.ring - 2 - self.raw
        if math.log2(max(self.bound, self.norm_bound)) > room:
            raise ValueError(
                f"values up to {max(self.bound, self.norm_bound):g} at {self.raw} fraction bits do not fit "
                f"{self.ring} bits with headroom: the limit is {2.0**room:g}. Lower `raw`, or use ring=64."
            )

    @property
    def range(self) -> Range:
        """What is taken of a value whose range is not known: 2^-8 to ``bound``, as a sum of any size."""
        return Range(2.0**-8, self.bound, 0.0)

    def width(self, fraction: float, bound: float) -> int:
        """Bits that hold ``bound`` at ``fraction`` bits with headroom. Integers reach the bound itself."""
        bits = fraction + math.log2(bound)
        return max(3, (math.ceil(bits) if fraction > 0 else math.floor(bits + 1e-9) + 1) + 2)


NUMBERS = {
    32: Numbers(),
    64: Numbers(ring=64, raw=36, operand=18, norm=12, probability=18, bound=512.0, norm_bound=256.0),
}


Reveals = Literal["flags", "nothing"]
REVEALS: tuple[Reveals, ...] = ("flags", "nothing")
Renewal = Literal["owner", "shuffle"]
RENEWALS: tuple[Renewal, ...] = ("owner", "shuffle")
Overflow = Literal["turns", "scores"]
OVERFLOWS: tuple[Overflow, ...] = ("turns", "scores")
Closed = Literal["dealt", "opened"]
CLOSED: tuple[Closed, ...] = ("dealt", "opened")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Feed-forward layers of which only the neurons that a predictor asks for are computed.

    ``predictor``: trained for the model's weights; the owner of the weights holds its arrays, others its manifest.
    ``reveals``: what both parties come to see, which has no default, as it says a lot about the prompt to whoever has
    the model:

    - "flags": which blocks of neurons each token uses, in an order that the owner draws for each session. For weights
      that are secret from the parties, who cannot query the model either; never where the owner is itself a party.
    - "nothing": a set of blocks that is uniformly random. Its size is the capacity, for all tokens of a call together,
      and the layer's weights are shared in a fresh secret order for each call. The set always has that size: the blocks
      that the predictor scores highest, or that most of several tokens ask for.

    ``site``: a regular expression on the paths of first weights; by default every site of the predictor.
    ``capacity``: the part of a call's blocks that there is room for, instead of the predictor's own.
    ``epoch``: where nothing is revealed, how many calls in a row one sharing serves. Each discloses as many new
    blocks, a uniformly random set of those that none before has touched, and computes them and all earlier ones: call k
    of an epoch, from 0, computes k + 1 times the capacity. So a call's result depends on what earlier calls of its
    epoch asked for, and whoever is shown it is shown that. A run that fails ends its epoch.
    ``renewal``: where nothing is revealed, who makes the sharing of a later epoch:

    - "owner": the owner of the weights, which has to stay at hand: it sends them anew.
    - "shuffle": the parties, of what they hold, with the dealer's help. The owner sends all that it has once, ahead
      of the first call. An order is then known to nobody: the owner knows how it began, and the dealer how it has
      changed. Both together know it, but see nothing that is disclosed.
    ``overflow``: which blocks are computed where a call flags more than there is room for:

    - "turns": one of each token in turn, whatever the scores. All flags are shown, and reports count what was left out.
    - "scores": those with the largest scores, of all tokens together, for two rounds more. Blocks whose scores are the
      same 8 bits are computed or left out together, so some of the room may stay empty. The flags of what is left out
      are not shown, nor how many they are.
    ``closed``: what is done about the blocks that are not computed in the product with the second weight, of which the
    dealer must not know which they are:

    - "dealt": its part of the product is dealt for every token and block apart, d ring elements each, and the parties
      add up what they need. For one token only the rows of active blocks are multiplied.
    - "opened": the activated neurons are opened whole, zeros among them, and the product is dealt once for each token.
      Of the blocks that are zero the parties give each other the masks: as few seeds of 16 bytes as they follow from,
      or for small blocks all of them, whichever is less. The product is computed as that of a dense layer.

    None: "dealt" for calls of one token; else what takes fewer bytes of a party, dealt ones counting a hundredth.
    """

    predictor: Predictor
    reveals: Reveals
    site: str = ""
    capacity: float | None = None
    epoch: int = 1
    renewal: Renewal = "owner"
    overflow: Overflow = "turns"
    closed: Closed | None = None

    def __post_init__(self):
        if self.overflow not in OVERFLOWS:
            raise ValueError(f"a gate's overflow is {' or '.join(map(repr, OVERFLOWS))}, not {self.overflow!r}")
        if self.overflow != "turns" and self.reveals == "nothing":
            raise ValueError(
                f"overflow={self.overflow!r} is for gates that show flags; with reveals='nothing' the blocks that are "
                "wanted most are computed anyway, always as many as there is room for: leave it out"
            )
        if self.reveals not in REVEALS:
            raise ValueError(f"a gate reveals {' or '.join(map(repr, REVEALS))}, not {self.reveals!r}")
        if self.capacity is not None and not 0 < self.capacity <= 1:
            raise ValueError(f"a gate's capacity is above 0 and at most 1, not {self.capacity}")
        if self.closed is not None and self.closed not in CLOSED:
            raise ValueError(f"closed blocks are {' or '.join(map(repr, CLOSED))}, not {self.closed!r}")
        if self.epoch < 1:
            raise ValueError(f"a gate's epoch is of 1 call or more, not {self.epoch}")
        if self.epoch > 1 and self.reveals != "nothing":
            raise ValueError(
                f"an epoch of {self.epoch} calls is for gates that reveal nothing; with reveals={self.reveals!r} one "
                "order serves the whole session anyway"
            )
        if self.renewal not in RENEWALS:
            raise ValueError(f"a gate's order is renewed by {' or '.join(map(repr, RENEWALS))}, not {self.renewal!r}")
        if self.renewal == "shuffle" and self.reveals != "nothing":
            raise ValueError(
                f"a shuffle is for gates that reveal nothing; with reveals={self.reveals!r} one order serves the whole "
                "session, and nothing is renewed"
            )
        re.compile(self.site)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a model is made private.

    ``ring``: 32 (fast, values bounded by ``numbers``) or 64. ``numbers``: scales, by default those of the ring.
    ``published``: regular expressions on parameter paths that the owner gives away, for instance an embedding table,
    which is then looked up by the client in the clear. Nothing is published by default.
    ``gates``: which feed-forward layers are gated; the first gate that fits a site is its own. None by default.
    ``ranges``: how large values get, from ``cj.calibrate``; without them ``numbers`` bounds all values alike.
    ``variant``: which protocols, of those that do the same; ``cj.fastest`` finds one for a link.
    """

    ring: Literal[32, 64] = 32
    numbers: Numbers = field(default=None)  # type: ignore[assignment]
    published: tuple[str, ...] = ()
    gates: tuple[Gate, ...] = ()
    ranges: Ranges | None = None
    variant: Variant = field(default_factory=Variant)

    def __post_init__(self):
        if self.ring not in NUMBERS:
            raise ValueError(f"the ring has 32 or 64 bits, not {self.ring}")
        object.__setattr__(self, "gates", tuple(self.gates))
        if self.numbers is None:
            object.__setattr__(self, "numbers", NUMBERS[self.ring])
        if self.numbers.ring != self.ring:
            raise ValueError(f"scales for a ring of {self.numbers.ring} bits in a policy for {self.ring}")
        for pattern in self.published:
            re.compile(pattern)
        epochs = {gate.epoch for gate in self.gates if gate.reveals == "nothing"}
        if len(epochs) > 1:
            raise ValueError(f"a policy's gates that reveal nothing have one epoch, and these have {sorted(epochs)}")
        renewals = {gate.renewal for gate in self.gates if gate.reveals == "nothing"}
        if len(renewals) > 1:
            raise ValueError(f"a policy's gates that reveal nothing are renewed in one way, not in {sorted(renewals)}")

    @property
    def epoch(self) -> int:
        """How many calls one sharing of permuted weights serves."""
        return max((gate.epoch for gate in self.gates), default=1)

    @property
    def shuffles(self) -> bool:
        """Whether the parties renew the order of permuted weights themselves."""
        return any(gate.renewal == "shuffle" for gate in self.gates)

    def publishes(self, path: str) -> bool:
        """Whether the parameter at ``path`` is published."""
        return any(re.search(pattern, path) for pattern in self.published)

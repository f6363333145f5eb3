"""Which variant of a program is fastest on a link: the candidates are few, and each is lowered and counted whole."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from comet_jax.ir.variant import Variant
from comet_jax.passes.explain import Link
from comet_jax.passes.lower import Lowered
from comet_jax.policy import Policy

VARIANTS = (Variant(), Variant(digit=8), Variant(digit=8, word=3), Variant(digit=8, word=5))
"""From the least dealt to the fewest rounds."""
DEALT = 0.01
"""What a dealt byte counts of one that is sent online, unless told otherwise: it is sent before anybody waits."""


@dataclass(frozen=True)
class Priced:
    """A policy with a variant, what its program counts, and its cost in seconds on a link, dealt bytes included."""

    policy: Policy
    rounds: int
    online_bytes: int
    offline_bytes: int
    seconds: float
    cost: float


def priced(lower: Callable[[Policy], Lowered], policy: Policy, link: Link, dealt: float = DEALT) -> Iterator[Priced]:
    """Every variant of what ``lower`` makes of ``policy``."""
    for variant in VARIANTS:
        found = replace(policy, variant=variant)
        program = lower(found).program
        rounds, online, offline = program.round_count, program.online_bytes, program.offline_bytes
        seconds = link.seconds(rounds, online)
        yield Priced(found, rounds, online, offline, seconds, link.seconds(rounds, online + dealt * offline))

"""Which variant of a program is fastest on a link: the candidates are few, and each is lowered and counted whole.

Gates are part of it: a gated layer sends and computes less, for three rounds more and more dealt bytes, so whether it
pays depends on the link. To leave a gate out shows less, so it is always allowed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import mean

from comet_jax.ir.variant import DEALT, Variant
from comet_jax.passes.explain import Link, products
from comet_jax.passes.lower import Lowered
from comet_jax.policy import Gate, Policy

VARIANTS = (Variant(), Variant(digit=8), Variant(digit=8, word=3), Variant(digit=8, word=5))
"""From the least dealt to the fewest rounds."""
SPEED = 1e9
"""Ring products a second of a party, unless told otherwise: about what a core does for one token, which uses each
weight once and waits for memory. For several tokens it does more, but then gates save no products."""


@dataclass(frozen=True)
class Priced:
    """A policy with a variant and gates, what its program counts, and its cost in seconds, dealt bytes included.

    Means over the calls of an epoch. ``offline_bytes``: dealt, and to share weights afresh. ``products``: ring
    multiplications of one party online. ``seconds``: of communication and of these.
    """

    policy: Policy
    rounds: float
    online_bytes: float
    offline_bytes: float
    products: float
    seconds: float
    cost: float


def priced(
    lower: Callable[[Policy, int], Lowered], policy: Policy, link: Link, dealt: float = DEALT, speed: float = SPEED
) -> Iterator[Priced]:
    """Every variant of what ``lower`` makes of ``policy``, with its gates and with some of them left out.

    ``lower``: of a policy, and which call of an epoch.
    """
    for gates in _choices(policy.gates):
        for variant in VARIANTS:
            found = replace(policy, variant=variant, gates=gates)
            first = lower(found, 0)
            calls = [first, *(lower(found, call) for call in range(1, first.epoch))]
            over = lambda count, calls=calls: mean(map(count, calls))
            rounds, online = over(lambda c: c.program.round_count), over(lambda c: c.program.online_bytes)
            offline = over(lambda c: c.program.offline_bytes + c.renewal_bytes)
            work = over(lambda c: products(c.program))
            seconds = link.seconds(rounds, online) + work / speed
            cost = link.seconds(rounds, online + dealt * offline) + work / speed
            yield Priced(found, rounds, online, offline, work, seconds, cost)


def _choices(gates: tuple[Gate, ...]) -> list[tuple[Gate, ...]]:
    """All gates, all but one, none: not all subsets, since gates pay or do not pay much alike."""
    without = [tuple(g for g in gates if g is not left) for left in gates]
    return list(dict.fromkeys((gates, *without, ())))

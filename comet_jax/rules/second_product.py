"""The product with the second weight of a gated layer: [the sum of h W over each token's slots], (T, d).

Of the blocks that are not computed, the dealer must not know which they are. So it deals a part for every token and
block ("dealt"), or all blocks are opened ("opened"), those without a slot as zeros, and it deals the whole product.
Zeros are opened like everything else, or by what gives their masks, whichever is less.

A dealer that is told the slots could deal the sum of their parts alone. It would have to answer while parties compute,
and to see what gates show; so there is no such way here.
"""

from collections.abc import Callable
from functools import cache

from comet_jax.ir.program import Builder, Var
from comet_jax.ir.variant import DEALT
from comet_jax.policy import Closed
from comet_jax.protocols.bilinear import Bilinear
from comet_jax.protocols.opening import Open
from comet_jax.protocols.slots import OpenSlots, OutOfSlots
from comet_jax.protocols.sparse_opening import OpenSparse, Spread
from comet_jax.sharing.wires import Wire

Way = Callable[[Builder, int, Var, Var, Var], Var]
_DENSE = (((1, 2), (0, 1)), ((), ()))


def second_product(b: Builder, closed: Closed | None, tokens: int, h: Var, w: Var, slots: Var) -> Var:
    """h is (C, g) in slots and W (G, g, d), static. ``closed``: as in ``policy.Gate``."""
    if closed is None and tokens == 1:
        closed = "dealt"
    ways = {"dealt": (_by_block,), "opened": (_punctured, _spread), None: (_by_block, _punctured, _spread)}[closed]
    way = min(ways, key=lambda way: _price(way, tokens, h.wire, w.wire, slots.wire))
    return way(b, tokens, h, w, slots)


@cache
def _price(way: Way, tokens: int, *wires: Wire) -> float:
    """Bytes that a party sends for it, and a part of those that are dealt, before wires are narrowed."""
    b = Builder()
    program = b.finish(way(b, tokens, *map(b.input, wires)))
    return program.online_bytes + DEALT * program.offline_bytes


def _by_block(b: Builder, tokens: int, h: Var, w: Var, slots: Var) -> Var:
    return b.emit(OutOfSlots(tokens), b.emit(OpenSlots(h.bits), h, slots), w, slots)


def _punctured(b: Builder, tokens: int, h: Var, w: Var, slots: Var) -> Var:
    return b.emit(Bilinear(_DENSE), b.emit(OpenSparse(h.bits, (tokens, w.shape[0])), h, slots), w)


def _spread(b: Builder, tokens: int, h: Var, w: Var, slots: Var) -> Var:
    whole = b.emit(Spread((tokens, w.shape[0])), h, slots)
    return b.emit(Bilinear(_DENSE), b.emit(Open(h.bits), whole), w)

"""Which blocks of a gated layer are computed, by the predictor's opened scores: flags, or a set that says nothing.

Both disclose one bit a block. What differs is what those bits say.
"""

import numpy as np

from comet_jax.ir.program import Var
from comet_jax.protocols.bilinear import Bilinear
from comet_jax.protocols.comparison import BIT
from comet_jax.protocols.disclosure import Disclose
from comet_jax.protocols.linear import Combine, Rearrange, Resize, RunningSum, Sum, Table
from comet_jax.protocols.lookup import Lookup, non_zero
from comet_jax.protocols.opening import Open
from comet_jax.rules.scope import Scope
from comet_jax.rules.terms import Owned
from comet_jax.sharing.groups import Group


def flagged(s: Scope, scores: Var, gate: str) -> Var:
    """The blocks with a score of at least zero, by token, (T, G): disclosed as they are. One round.

    ``scores``: opened whole, (T, G).
    """
    return s.b.emit(Disclose(gate), s.b.emit(Lookup(_at_least_zero(scores), BIT), scores))


def filled(s: Scope, scores: Var, gate: str, room: int, order: Owned) -> Var:
    """A set of exactly ``room`` of G + room blocks, (1, G + room): disclosed, and uniformly random. Three rounds.

    The set has the blocks that any token has a score of at least zero for, the first ``room`` of them if there are
    more, and as many of ``room`` dummies as are missing. ``order``: the owner's secret matrix, [G + room, G + room],
    that puts blocks and dummies in an order drawn for one call alone.

    Argument: before the order is applied the set is one fixed choice of ``room`` things, under shares. A uniform
    permutation takes it to a uniform set of that size, whatever it was; nobody but the owner knows the permutation, and
    it is used for this set only. Which blocks are cut is decided before the order is applied, so that shows no more.
    Costs, with b bits to count G blocks in: (b + 1) (G + 2 room) bits and one more each to open them, then G + room.
    """
    tokens, blocks = scores.shape
    bits = max(blocks, 2 * room).bit_length() + 1
    flags = _any_token(s, scores, bits) if tokens > 1 else s.b.emit(Lookup(_at_least_zero(scores), Group(bits)), scores)
    flags = s.b.emit(Rearrange("reshape", ((blocks,),)), flags)
    # A block's number among the flagged ones, from 0 on; beyond the room for those that are not flagged.
    running, beyond = s.b.emit(RunningSum(0), flags), 1 << (bits - 1)
    numbers = s.b.emit(Combine((1, -1 - beyond), Table(np.array(beyond))), running, flags)
    # As many dummies as there is room left: dummy i where count + i < room.
    count = s.b.emit(Rearrange("broadcast", ((room,), ())), s.b.emit(Sum((0,)), flags))
    dummies = s.b.emit(Combine((1,), Table(np.arange(room))), count)
    every = s.b.emit(Open(bits), s.b.emit(Rearrange("concatenate", (0,)), numbers, dummies))
    below = Table((np.arange(1 << bits) < room).astype(np.int64))
    chosen = s.b.emit(Open(1), s.b.emit(Lookup(below, Group(1)), every))
    matrix = s.b.emit(Resize(1), s.encode(order, 1.0, static=True, renewed=True))
    rows = s.b.emit(Bilinear((((0,), (0,)), ((), ()))), chosen, matrix)
    return s.b.emit(Disclose(gate), s.b.emit(Rearrange("reshape", ((1, blocks + room),)), rows))


def _any_token(s: Scope, scores: Var, bits: int) -> Var:
    """[whether any token's score is at least zero] in Z_2^bits, (G,). One round."""
    tokens = scores.shape[0]
    count = Group(tokens.bit_length())
    total = s.b.emit(Sum((0,)), s.b.emit(Lookup(_at_least_zero(scores), count), scores))
    return s.b.emit(non_zero(count.bits, Group(bits)), s.b.emit(Open(count.bits), total))


def _at_least_zero(scores: Var) -> Table:
    half = 1 << (scores.bits - 1)
    return Table((np.arange(2 * half) < half).astype(np.int64))

"""Which blocks of a gated layer are computed, by the predictor's opened scores: flags, or a set that says nothing.

Both disclose one bit a block. What differs is what those bits say.
"""

from math import prod

import numpy as np

from comet_jax.gadgets.largest import at_most, largest
from comet_jax.ir.program import Var
from comet_jax.protocols.bilinear import Bilinear
from comet_jax.protocols.comparison import BIT
from comet_jax.protocols.disclosure import Disclose
from comet_jax.protocols.linear import Rearrange, Resize, Sum, Table
from comet_jax.protocols.lookup import Lookup
from comet_jax.protocols.opening import Open
from comet_jax.protocols.stash import Touched
from comet_jax.rules.scope import Scope
from comet_jax.sharing.groups import Group


def flagged(s: Scope, scores: Var, gate: str, room: int | None = None) -> Var:
    """The blocks with a score of at least zero, by token, (T, G): disclosed as they are. One round, or three.

    ``scores``: opened whole, (T, G), zero being half of the ring. ``room``: of all tokens' blocks at most that many are
    flagged, those with the largest scores, which takes the other two rounds; of equal ones all or none.
    The flags are then some of those that are shown without a limit. What is left out stays under shares: nobody sees
    which blocks that is, nor how many. It is known of those that are shown that their scores are above all others.
    """
    if room is None or room >= prod(scores.shape):
        return s.b.emit(Disclose(gate), s.b.emit(Lookup(_asked_for(scores), BIT), scores))
    flat = s.b.emit(Rearrange("reshape", ((prod(scores.shape),),)), scores)
    chosen = at_most(s.b, flat, room, 1 << (scores.bits - 1))
    return s.b.emit(Disclose(gate), s.b.emit(Rearrange("reshape", (scores.shape,)), chosen))


def most_wanted(s: Scope, scores: Var, gate: str, room: int, matrix: Var, before: Var | None = None) -> Var:
    """The ``room`` blocks of G that are wanted most, (1, G): disclosed, and uniformly random. Five rounds, or six.

    Of one token they are those with the largest scores; of several, those that most tokens have a score of at least
    zero for, which takes the sixth. Of blocks wanted alike the first are taken, so the set has that size whatever the
    scores are. ``scores``: opened whole, (T, G), zero being half of the ring. ``matrix``: a static weight, [G, G], that
    puts blocks in a secret order drawn for one epoch alone. ``before``: the flags that earlier calls of the epoch
    disclosed, (1, G): their blocks are not chosen again.

    Argument: before the order is applied the set is one fixed choice of ``room`` blocks, under shares. A uniform
    permutation takes it to a uniform set of that size, whatever it was; neither party knows the permutation, and
    it is used for this set only. Which blocks are left out is decided before the order is applied, so that shows no
    more, nor does it show how many were asked for.
    In a later call of an epoch the same order serves again. What was disclosed before says of it where the blocks that
    were touched went, and nothing of the others: whatever they are, each is at each of the untouched places with the
    same probability. The new choice is of ``room`` blocks among the untouched ones, whatever the scores are (a block
    that is left out cannot be chosen), so what is disclosed is uniform among the untouched places given all before,
    whatever was asked for in any of the calls. This must hold of every run that is made under one order: one that fails
    ends the epoch, as the parties may have seen a set by then (runtime/epochs.py).
    Costs: those of ``largest`` with 255 levels for one token and T for more; 2 G bits; and for several tokens G log T.
    """
    tokens, blocks = scores.shape
    if tokens == 1:
        wanted, levels = s.b.emit(Rearrange("reshape", ((blocks,),)), scores), (1 << scores.bits) - 1
    else:
        bits = tokens.bit_length()
        asking = s.b.emit(Sum((0,)), s.b.emit(Lookup(_asked_for(scores), Group(bits)), scores))
        wanted, levels = s.b.emit(Open(bits), asking), tokens
    touched = None if before is None else s.b.emit(Touched(), matrix, before)
    chosen = s.b.emit(Open(1), largest(s.b, wanted, room, levels, touched))
    rows = s.b.emit(Bilinear((((0,), (0,)), ((), ()))), chosen, s.b.emit(Resize(1), matrix))
    return s.b.emit(Disclose(gate), s.b.emit(Rearrange("reshape", ((1, blocks),)), rows))


def _asked_for(scores: Var) -> Table:
    half = 1 << (scores.bits - 1)
    return Table((np.arange(2 * half) >= half).astype(np.int64))

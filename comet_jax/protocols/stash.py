"""Blocks that were disclosed before: the parties know their places in a secret order, and nobody but the owner which
blocks they are.

The order is a matrix of the owner's: row i has its one where block i goes. Its product with public flags, which is
local, takes them back to the order that blocks have at the owner, under shares.
"""

from dataclasses import dataclass

import jax

from comet_jax.protocols.protocol import Coins, Dealer, Material, Party, Protocol
from comet_jax.sharing.contraction import dot_general
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Disclosed, Mask, Opened, OpenedPlain, OpenedShare, Seen, Shared, Wire

_LAST = (((1,), (1,)), ((), ()))  # rows by rows


@dataclass(frozen=True)
class Touched(Protocol):
    """<M> (G, G) static, flags (1, G) -> [M flags] (G,): of each block whether the flag at its place is set.

    Ideal functionality: that product, in M's ring. Argument: local, of a share and of what both parties know. Nothing
    is dealt or sent.
    """

    def outputs(self, m: Opened, flags: Disclosed):
        square = m.static and not m.headroom and m.where is None and len(m.shape) == 2 and m.shape[0] == m.shape[1]
        if not square or flags.shape != (1, m.shape[0]) or flags.group.bits != 1:
            raise ValueError(f"no order {m} for {flags}")
        return (Shared(m.shape[:1], m.group),)

    def narrowed(self, bits: int, *inputs: Wire):
        return self, (bits, inputs[1].group.bits)

    def products(self, *inputs: Wire) -> int:
        size = inputs[0].shape[0]
        return size * size

    def deal(self, dealer: Dealer, m: Mask, flags: Disclosed):
        return self.outputs(m.wire, flags)

    def _product(self, group: Group, m: jax.Array, flags: Seen):
        return group.reduce(dot_general(group.cast(flags.v), m, _LAST)).reshape(-1)

    def online(self, party: Party, material: Material, m: OpenedShare, flags: Seen):
        assert m.x is not None
        return (self._product(m.wire.group, m.x, flags),)

    def ideal(self, coins: Coins, m: OpenedPlain, flags: Seen):
        group = m.wire.group
        return (self._product(group, group.cast(jax.lax.bitcast_convert_type(m.y, "uint64")), flags),)


@dataclass(frozen=True)
class Joined(Protocol):
    """flags, flags -> those that are set in either. ``gate``: whose flags they are.

    Ideal functionality: that function. Argument: it is a function of what both parties know. Nothing is dealt or sent.
    """

    gate: str

    def outputs(self, before: Disclosed, new: Disclosed):
        if before != new or new.group.bits != 1 or new.below is not None:
            raise ValueError(f"{before} and {new} are not flags of one gate")
        return (new,)

    def deal(self, dealer: Dealer, before: Disclosed, new: Disclosed):
        return self.outputs(before, new)

    def online(self, party: Party, material: Material, before: Seen, new: Seen):
        return (before.v | new.v,)

    def ideal(self, coins: Coins, before: Seen, new: Seen):
        return (before.v | new.v,)

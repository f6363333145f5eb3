"""Showing a value to both parties: the one step that gives something away, and only under a policy's name for it."""

from dataclasses import dataclass

import jax.numpy as jnp

from comet_jax.protocols.protocol import Coins, Dealer, Material, Opening, Party, Protocol
from comet_jax.sharing.packing import Item
from comet_jax.sharing.wires import Disclosed, Plain, Seen, Share, Shared


@dataclass(frozen=True)
class Disclose(Opening, Protocol):
    """[x] -> x, known to both parties; the dealer learns nothing.

    ``gate`` names the gate whose flags these are: the leak check refuses a disclosure that the policy does not name.
    Ideal functionality: publish x to the parties. Argument: each party sends its share plus its share of a dealt
    sharing of zero; so its message is uniform but for x, and tells nothing of what x was computed from beyond x.
    What x itself tells is the policy's affair. Dealt: one group element an element. Online: as much, one round.
    """

    gate: str

    def outputs(self, x: Shared):
        return (Disclosed(x.shape, x.group),)

    def item(self, x: Shared) -> Item:
        return Item(x.shape, x.group)

    def deal(self, dealer: Dealer, x: Shared):
        dealer.share("zero", jnp.zeros(x.shape, x.group.dtype), Item(x.shape, x.group))
        return self.outputs(x)

    def send(self, party: Party, material: Material, x: Share):
        return x.wire.group.add(x.x, material["zero"])

    def receive(self, material: Material, x: Share, c) -> Seen:
        (wire,) = self.outputs(x.wire)
        return Seen(wire, c)

    def ideal(self, coins: Coins, x: Plain):
        return (x.v,)

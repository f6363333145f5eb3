"""The contract of a protocol: what it computes, what is dealt for it, what each party does.

A protocol is a frozen dataclass of public parameters. It maps wires to wires and comes in four readings:

- ``ideal``: the function itself, on plain integers, with the public coins as an input. This is the ideal
  functionality; what the parties compute equals it bit for bit.
- ``deal``: over the masks only. This is the dealer's program: it names every array of correlated randomness, so its
  shape, width and order are written once.
- ``offline``: at each party, before any input exists: work on dealt material and masks alone.
- ``online``: at each party, on shares and opened values, with no communication.

A fifth, ``coins``, notes the randomness that a run took for rounding, so that ``ideal`` can be given the same.

Only an ``Opening`` communicates. Everything else is local, so the security argument of a program is that of its
openings: each opened value carries a mask that is uniform in its group, fresh, and used in no other opening, and each
array that is dealt is shared afresh. Both parties' views are then simulated by uniform values: the opened values, and
the dealt shares, which are uniform at either party on its own. The one exception is ``Disclose`` (disclosure.py), which
shows a value on purpose, and which a policy must name.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from comet_jax.sharing.groups import Group
from comet_jax.sharing.packing import Item, Where
from comet_jax.sharing.wires import Wire

Material = dict[str, jax.Array]


class Dealer(ABC):
    """What ``deal`` is written against: a source of masks and a sink of values to be shared."""

    @abstractmethod
    def mask(self, name: str, item: Item) -> jax.Array:
        """A uniform mask. Each party has a share of it from its own seed, so it costs nothing."""

    @abstractmethod
    def share(self, name: str, value: jax.Array, item: Item) -> None:
        """Share ``value``: party 0 has its share from a seed, party 1 is sent the correction."""

    @abstractmethod
    def both(self, name: str, item: Item) -> tuple[jax.Array, jax.Array]:
        """As ``mask``, but each party's own share of it: words that this party and the dealer know."""

    @abstractmethod
    def tell(self, name: str, value: jax.Array, item: Item) -> None:
        """Send ``value`` to party 1 as it is; party 0 has words of its seed in its place."""

    def give(self, name: str, value, group: Group, where: Where | None = None) -> None:
        """Share ``value`` (any unsigned or 0/1 array) in ``group``."""
        value = group.cast(jnp.asarray(value))
        self.share(name, value, Item(value.shape, group, where))


class Coins(ABC):
    """The public randomness of the ideal functionality."""

    @abstractmethod
    def low(self, shape: tuple[int, ...], bits: int) -> jax.Array:
        """The coin of a truncation by ``bits`` bits: uniform in [0, 2^bits), uint64."""

    @abstractmethod
    def opened(self, wire: Wire) -> jax.Array:
        """The opened value c of a wire: uniform in the wire's group."""

    @abstractmethod
    def order(self, shape: tuple[int, ...]) -> jax.Array:
        """Uniform orders of the last axis, which no party knows: the one coin that is not public."""


@dataclass(frozen=True)
class Party:
    """The party that runs an online program; ``index`` is 0 or 1, traced."""

    index: jax.Array

    def first(self, value: jax.Array) -> jax.Array:
        """A public value as a share: ``value`` at party 0 and zero at party 1."""
        return jnp.where(self.index == 0, value, jnp.zeros_like(value))


class Protocol(ABC):
    """One protocol with its public parameters. See the module docstring."""

    registry: ClassVar[dict[str, type["Protocol"]]] = {}

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if not cls.__name__.startswith("_"):
            Protocol.registry[cls.__name__] = cls

    @abstractmethod
    def outputs(self, *inputs: Wire) -> tuple[Wire, ...]:
        """The output wires; raises ValueError where the inputs do not suit."""

    def deal(self, dealer: Dealer, *inputs: Any) -> tuple[Any, ...]:
        """Deal, given the masks of opened inputs (``Mask``) and the types of shared ones. Returns outputs alike."""
        return ()

    def offline(self, party: Party, material: Material, *inputs: Any) -> Material:
        """What a party does with its material and its shares of the input masks before inputs exist.

        Opened inputs are given, without their c; for others there is None.
        """
        return material

    @abstractmethod
    def online(self, party: Party, material: Material, *inputs: Any) -> tuple[jax.Array, ...]:
        """The parties' local step: the arrays on the (shared) output wires."""

    def narrowed(self, bits: int, *inputs: Wire) -> "tuple[Protocol, tuple[int, ...]] | None":
        """The step of whose only output no more than the low ``bits`` bits are read.

        Returns the protocol to use and how many low bits it reads of each input, whose wires then have that many.
        None: it stays as it is, and reads all.
        """
        return None

    def products(self, *inputs: Wire) -> int:
        """Ring multiplications of one party online. Sums and moves count for none, and so does what is small."""
        return 0

    def coins(self, party: Party, *inputs: Any) -> Material:
        """The coins of ``online``, read off party 0's shares: "low" for each call of ``Coins.low`` in ``ideal``."""
        return {}

    @abstractmethod
    def ideal(self, coins: Coins, *inputs: Any) -> tuple[jax.Array, ...]:
        """The ideal functionality: the arrays on the (shared) output wires."""

    def describe(self) -> str:
        """The protocol and its parameters on one line."""
        return repr(self)


class Opening(ABC):
    """A step at which each party sends the other one array: a protocol whose ``online`` is ``send`` and ``receive``."""

    @abstractmethod
    def item(self, *inputs: Any) -> Item:
        """How the message is packed, given the input wires."""

    def mask(self, material: Material) -> jax.Array:
        """This party's share of the mask of the opened wire, from what ``offline`` made."""
        return material["r"]

    @abstractmethod
    def send(self, party: Party, material: Material, *inputs: Any) -> jax.Array:
        """This party's message, an array of the item's shape and group."""

    @abstractmethod
    def receive(self, material: Material, *inputs: Any) -> Any:
        """The value on the output wire. The last input is the sum of both messages."""

    def secrets(self, material: Material) -> Material:
        """This party's part of what a run draws and no party knows whole: "orders", as ``Coins.order`` takes them."""
        return {}

    def online(self, party: Party, material: Material, *inputs: Any):
        raise TypeError("an opening communicates: the interpreter calls send and receive")


def recorded(protocol: Protocol, make_inputs: Callable[[], tuple]) -> tuple[dict[str, Item], dict[str, Item]]:
    """Names and layouts of the masks and of the shared arrays that ``protocol`` deals, by tracing ``deal``."""
    masks: dict[str, Item] = {}
    dealt: dict[str, Item] = {}

    class Recorder(Dealer):
        def mask(self, name, item):
            masks[name] = item
            return jnp.zeros(item.shape, item.group.dtype)

        def both(self, name, item):
            return self.mask(name, item), self.mask(name, item)

        def tell(self, name, value, item):
            dealt[name] = item

        def share(self, name, value, item):
            dealt[name] = item

    def trace():
        protocol.deal(Recorder(), *make_inputs())

    with jax.enable_x64(True):
        jax.eval_shape(trace)
    return masks, dealt

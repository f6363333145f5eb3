"""Public values among secrets: local, no material, no rounds."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from comet_jax.protocols.bilinear import DimensionNumbers, terms
from comet_jax.protocols.linear import Table
from comet_jax.protocols.protocol import Dealer, Protocol
from comet_jax.sharing.contraction import dot_general
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Plain, Share, Shared, Wire


@dataclass(frozen=True)
class PublicProduct(Protocol):
    """[x] -> [x t] or [t x] for a public integer array t, a ``dot_general``."""

    table: Table
    dimension_numbers: DimensionNumbers
    table_first: bool

    @classmethod
    def of(cls, integers: np.ndarray, dimension_numbers: DimensionNumbers, *, table_first: bool) -> "PublicProduct":
        """The step for an array of whole numbers."""
        return cls(Table(np.asarray(integers, np.int64)), dimension_numbers, table_first)

    def outputs(self, x: Shared):
        spec = lambda shape: jax.ShapeDtypeStruct(shape, np.uint32)  # the shape is the same in every ring
        pair = (spec(self.table.values.shape), spec(x.shape))
        first, second = pair if self.table_first else pair[::-1]
        f = lambda a, b: dot_general(a, b, self.dimension_numbers)
        return (Shared(jax.eval_shape(f, first, second).shape, x.group),)

    def deal(self, dealer: Dealer, x: Shared):
        return self.outputs(x)

    def narrowed(self, bits: int, *xs: Wire):
        return self, (bits,)

    def products(self, *inputs: Wire) -> int:
        (x,) = inputs
        (out,) = self.outputs(x)  # type: ignore[arg-type]
        first = self.table.values.shape if self.table_first else x.shape
        return int(np.prod(out.shape)) * terms(first, self.dimension_numbers)

    def _apply(self, group: Group, x):
        table = jnp.asarray(group.encode(self.table.values))
        first, second = (table, x) if self.table_first else (x, table)
        return group.reduce(dot_general(first, second, self.dimension_numbers))

    def online(self, party, material, x: Share):
        return (self._apply(x.wire.group, x.x),)

    def ideal(self, coins, x: Plain):
        return (self._apply(x.wire.group, x.v),)


@dataclass(frozen=True)
class Constant(Protocol):
    """() -> [t] in Z_2^bits for a public integer array t: party 0's share is t, party 1's is zero.

    Ideal functionality: t. Argument: nothing is sent, and there is no secret. Cost: nothing.
    """

    table: Table
    bits: int

    def outputs(self):
        return (Shared(self.table.values.shape, Group(self.bits)),)

    def narrowed(self, bits: int, *xs: Wire):
        return Constant(self.table, bits), ()

    def deal(self, dealer: Dealer):
        return self.outputs()

    def _elements(self):
        return jnp.asarray(Group(self.bits).encode(self.table.values))

    def online(self, party, material):
        return (party.first(self._elements()),)

    def ideal(self, coins):
        return (self._elements(),)

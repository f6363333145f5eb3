"""How the parties renew a secret order themselves: a program that shuffles all weights that are in one.

Its inputs are those of a model's program that serve an epoch, all of them opened: weights as the last epoch knew them,
and what was only shared under masks of its own. Its outputs are shares of the same arrays, each layer's blocks in one
new order. They are loaded as their owner's shares would be, under new masks, and a new epoch begins.
"""

from collections.abc import Sequence
from math import prod

from comet_jax.ir.program import Builder, Program, Var
from comet_jax.protocols.linear import Rearrange
from comet_jax.protocols.shuffle import Shuffle
from comet_jax.rules.scope import Order
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Opened


def shuffle(arrays: Sequence[tuple[tuple[int, ...], Group]], orders: Sequence[Order]) -> Program:
    """The program for ``arrays``, of given shapes and groups; ``orders``: the order of each, those of a layer alike."""
    b = Builder()
    given = [b.input(Opened(shape, group, static=True)) for shape, group in arrays]
    layers: dict[object, list[int]] = {}
    for i, order in enumerate(orders):
        layers.setdefault(order.layer, []).append(i)
    made: dict[int, Var] = {}
    for places in layers.values():
        axes = tuple(orders[i].axis for i in places)
        rows = b.emit(Shuffle(axes), *(given[i] for i in places))
        made |= dict(zip(places, _apart(b, rows, [given[i].shape for i in places], axes)))
    return b.finish(*(made[i] for i in range(len(given))))


def _apart(b: Builder, rows: Var, shapes: Sequence[tuple[int, ...]], axes: Sequence[int]) -> list[Var]:
    """The arrays whose blocks are ``rows``, (*steps, G, n), one array after the other."""
    found, at, steps = [], 0, rows.shape[:-1]
    for shape, axis in zip(shapes, axes):
        width, first = prod(shape) // max(1, prod(steps)), len(steps) - 1
        start = (*(0 for _ in steps), at)
        part = b.emit(Rearrange("slice", (start, (*steps, at + width), (1,) * len(start))), rows)
        others = [i for i in range(len(shape)) if i != axis]
        moved = (*others[:first], axis, *others[first:])  # the axes as they lie in rows
        part = b.emit(Rearrange("reshape", (tuple(shape[i] for i in moved),)), part)
        back = tuple(moved.index(i) for i in range(len(shape)))
        found.append(part if back == tuple(range(len(shape))) else b.emit(Rearrange("transpose", (back,)), part))
        at += width
    return found

"""What the dealer runs: the program over masks alone. It sees no share and no input."""

from typing import Any

import jax
from jax import lax

from comet_jax.interpreters.material import Tree
from comet_jax.ir.program import Program, Scan
from comet_jax.protocols.protocol import Dealer
from comet_jax.sharing.packing import Item
from comet_jax.sharing.wires import Mask, Opened


class _Shares(Dealer):
    """Masks from both parties' words; values shared against party 0's words."""

    def __init__(self, masks, first):
        self.masks, self.first = masks, first
        self.second: dict[str, jax.Array] = {}

    def mask(self, name: str, item: Item):
        return item.group.add(*self.both(name, item))

    def both(self, name: str, item: Item):
        mine, other = (m[name] for m in self.masks)
        return mine, other

    def share(self, name: str, value, item: Item):
        if value.shape != item.shape:
            raise ValueError(f"dealing {name}: an array of {value.shape} where {item.shape} was declared")
        self.second[name] = item.group.sub(value, self.first[name])

    def tell(self, name: str, value, item: Item):
        if value.shape != item.shape:
            raise ValueError(f"telling {name}: an array of {value.shape} where {item.shape} was declared")
        self.second[name] = value


def deal(program: Program, masks: tuple[Tree, Tree], dealt: Tree, statics) -> Tree:
    """Party 1's shares of all dealt arrays.

    ``masks``: both parties' shares of the masks. ``dealt``: party 0's shares of the dealt arrays. All three come from
    keystreams. ``statics``: the mask of each opened input, in the order of the program's inputs, None for the others.
    """
    known: dict[int, Any] = {}
    for v, r in zip(program.inputs, statics, strict=True):
        known[v.id] = v.wire if r is None else Mask(v.wire, r)  # type: ignore[arg-type]
    corrections: Tree = {}
    for i, op in enumerate(program.ops):
        inputs = [known[v.id] for v in op.inputs]
        own = [m.get(i, {}) for m in masks]
        if isinstance(op.protocol, Scan):
            masks_of = [o.r if isinstance(o, Mask) else None for o in inputs]
            carries, fixed, stacked = op.protocol.parts(masks_of)

            def step(_, x, body=op.protocol.body, before=(*carries, *fixed)):
                first, second, dealt, stacked = x
                return None, deal(body, (first, second), dealt, [*before, *stacked])

            corrections[i] = lax.scan(step, None, (*own, dealt.get(i, {}), stacked))[1]
            known.update({v.id: v.wire for v in op.outputs})
            continue
        dealer = _Shares((own[0], own[1]), dealt.get(i, {}))
        outputs = op.protocol.deal(dealer, *inputs)
        for v, o in zip(op.outputs, outputs, strict=True):
            assert isinstance(o, Mask) == isinstance(v.wire, Opened), (op.protocol, o)
            known[v.id] = o
        if dealer.second:
            corrections[i] = dealer.second
    return corrections

"""What the dealer runs: the program over masks alone. It sees no share and no input."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from comet_jax.interpreters.online import split
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
        mine, other = (m[name] for m in self.masks)
        return item.group.add(mine, other)

    def share(self, name: str, value, item: Item):
        if value.shape != item.shape:
            raise ValueError(f"dealing {name}: an array of {value.shape} where {item.shape} was declared")
        self.second[name] = item.group.sub(value, self.first[name])


def deal(program: Program, masks, dealt, statics) -> jax.Array:
    """The corrections for party 1, uint32[program.supply.dealt_words].

    ``masks``: the two parties' mask words. ``dealt``: party 0's words for the dealt arrays. All three are keystreams.
    ``statics``: the mask of each static input, in the order of the program's inputs, None for the others.
    """
    supply = program.supply
    # Party 0's words serve as both halves of ``split`` where only its masks or its dealt arrays are wanted.
    first, first_scans = split(supply, masks[0], dealt)
    second, second_scans = split(supply, masks[1], dealt)
    known: dict[int, Any] = {}
    for v, r in zip(program.inputs, statics, strict=True):
        known[v.id] = v.wire if r is None else Mask(v.wire, r)  # type: ignore[arg-type]
    corrections, scanned = [], []
    for i, op in enumerate(program.ops):
        inputs = [known[v.id] for v in op.inputs]
        if isinstance(op.protocol, Scan):
            body, carries = op.protocol.body, op.protocol.carries

            def step(_, x, body=body, carries=carries):
                m0, m1, d, stacked = x
                return None, deal(body, (m0, m1), d, [None] * carries + stacked)

            stacked = [o.r if isinstance(o, Mask) else None for o in inputs[carries:]]
            words = (first_scans[i][0], second_scans[i][0], first_scans[i][1], stacked)
            scanned.append(lax.scan(step, None, words)[1].reshape(-1))
            known.update({v.id: v.wire for v in op.outputs})
            continue
        dealer = _Shares((first.get(i, {}), second.get(i, {})), first.get(i, {}))
        outputs = op.protocol.deal(dealer, *inputs)
        for v, o in zip(op.outputs, outputs, strict=True):
            assert isinstance(o, Mask) == isinstance(v.wire, Opened), (op.protocol, o)
            known[v.id] = o
        corrections += [dealer.second[name] for op_, name in supply.dealt if op_ == i]
    return jnp.concatenate([supply.dealt_layout.pack(corrections), *scanned])

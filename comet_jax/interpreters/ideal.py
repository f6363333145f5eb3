"""The ideal world: the program on plain integers, with exactly the protocols' rounding, in one place.

It needs public coins. Drawn at random they give what a run would give; taken from a run (``Recorded``) they give its
result bit for bit. Accuracy and overflow are studied here, at nearly the speed of plaintext.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from comet_jax.interpreters.material import Tree
from comet_jax.ir.program import Program, Scan
from comet_jax.protocols.protocol import Coins, Opening
from comet_jax.sharing.chacha import keystream, nonce
from comet_jax.sharing.groups import Group, signed
from comet_jax.sharing.wires import Disclosed, Opened, OpenedPlain, Plain, Seen, Shared


class Drawn(Coins):
    """Coins from the keystream of a key, uint32[8]."""

    def __init__(self, key):
        self.key = key
        self.count = 0

    def keys(self, steps: int) -> jax.Array:
        """A key for each step of a scan, uint32[steps, 8]."""
        return self._words(8 * steps).reshape(steps, 8)

    def low(self, shape, bits):
        return Group(bits).cast(self._draw(shape)).astype(jnp.uint64)

    def _draw(self, shape):
        size = 1
        for n in shape:
            size *= n
        words = self._words(2 * size).reshape(-1, 2).astype(jnp.uint64)
        return (words[:, 0] | (words[:, 1] << jnp.uint64(32))).reshape(shape)

    def _words(self, count: int):
        self.count += 1
        return keystream(self.key, nonce(self.count), count)

    def opened(self, wire: Opened):
        c = wire.group.cast(self._draw(wire.shape))
        return c if wire.where is None else c * wire.where.mask.astype(c.dtype)

    def order(self, shape):
        return jnp.argsort(self._draw(shape), axis=-1)


class Recorded(Coins):
    """Coins of a run of ``program``: what ``online`` noted at party 0, in the order in which ``ideal`` asks.

    Of orders it has what both parties noted, one after the other: each knows a part.
    """

    def __init__(self, program: Program, noted: Tree):
        ordered = list(_in_order(program, noted))
        each = lambda name: iter([c[name] for c in ordered if name in c])
        self._low, self._opened, self._orders = map(each, ("low", "opened", "orders"))

    def low(self, shape, bits):
        return next(self._low)

    def opened(self, wire):
        return next(self._opened)

    def order(self, shape):
        zeroth, other = next(self._orders)
        return jnp.take_along_axis(other[..., 0, :], zeroth[..., 1, :], -1)


def _in_order(program: Program, noted: Tree) -> Iterator[dict[str, jax.Array]]:
    for i, op in enumerate(program.ops):
        if isinstance(op.protocol, Scan):
            for k in range(op.protocol.length):
                yield from _in_order(op.protocol.body, jax.tree.map(lambda x, k=k: x[k], noted[i]))
        else:
            yield noted[i]


def ideal(program: Program, coins: Coins, inputs, seen: dict[int, Any] | None = None) -> list[jax.Array]:
    """The outputs, in their groups, for inputs in theirs (static ones too: values, not masked).

    In a scan's body an input may be a wire as it is.
    ``seen``: a dictionary that is filled, by operation, with the largest magnitude at each opening with headroom, in
    steps of the wire (for a scan with drawn coins: its body's, one a step).
    """
    values: dict[int, Any] = {}
    for v, x in zip(program.inputs, inputs, strict=True):
        values[v.id] = x if isinstance(x, Plain | OpenedPlain | Seen) else _enter(v.wire, x)
    for i, op in enumerate(program.ops):
        args = [values[v.id] for v in op.inputs]
        if isinstance(op.protocol, Scan):
            out, inner = _scan(op.protocol, coins, args, seen is not None)
            if seen is not None:
                seen[i] = inner
        elif isinstance(op.outputs[0].wire, Opened) and isinstance(op.protocol, Opening):
            out = [OpenedPlain(op.outputs[0].wire, *op.protocol.ideal(coins, *args))]  # type: ignore[attr-defined]
            if seen is not None and op.outputs[0].wire.headroom:
                seen[i] = jnp.abs(out[0].y).astype(jnp.float64).max(initial=0.0)
        else:
            out = op.protocol.ideal(coins, *args)
        for v, o in zip(op.outputs, out, strict=True):
            values[v.id] = o if isinstance(v.wire, Opened) else _enter(v.wire, o)
    return [values[v.id].v for v in program.outputs]


def _enter(wire, x):
    if isinstance(wire, Shared):
        return Plain(wire, x)
    if isinstance(wire, Disclosed):
        return Seen(wire, x)
    return OpenedPlain(wire, signed(x, wire.group.bits), jnp.zeros_like(x))


def _scan(scan: Scan, coins: Coins, args, watched: bool):
    carries, fixed, stacked = scan.parts(args)
    plain = lambda a: a.v if isinstance(a, Plain | Seen) else Group(a.wire.group.bits).cast(a.y.view(jnp.uint64))
    carry, xs = [a.v for a in carries], [plain(a) for a in stacked]

    def step(coins, carry, slices):
        seen = {} if watched else None
        out = ideal(scan.body, coins, [*carry, *fixed, *slices], seen)
        return out[: scan.carries], (out[scan.carries :], seen)

    if isinstance(coins, Drawn):
        one = lambda carry, x: step(Drawn(x[0]), carry, x[1])
        carry, (made, seen) = lax.scan(one, carry, (coins.keys(scan.length), xs), length=scan.length)
        return [*carry, *made], seen
    steps: list[Any] = []
    for i in range(scan.length):
        carry, (made, _) = step(coins, carry, [x[i] for x in xs])
        steps.append(made)
    return [*carry, *map(jnp.stack, zip(*steps))], None

"""The ideal world: the program on plain integers, with exactly the protocols' rounding, in one place.

It needs public coins. Drawn at random they give what a run would give; taken from a run (``Recorded``) they give its
result bit for bit. Accuracy and overflow are studied here, at nearly the speed of plaintext.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from comet_jax.ir.program import Program, Scan
from comet_jax.protocols.opening import Open
from comet_jax.protocols.protocol import Coins
from comet_jax.sharing.chacha import keystream
from comet_jax.sharing.groups import Group, signed
from comet_jax.sharing.wires import Opened, OpenedPlain, Plain, Shared


class Drawn(Coins):
    """Coins from a keystream. ``key`` is uint32[8], ``nonce`` a scalar uint32 that may be traced."""

    def __init__(self, key, nonce=0):
        self.key = key
        self.nonce = jnp.asarray(nonce, jnp.uint32)
        self.count = 0

    def low(self, shape, bits):
        return Group(bits).cast(self._draw(shape)).astype(jnp.uint64)

    def _draw(self, shape):
        size = 1
        for n in shape:
            size *= n
        self.count += 1
        nonce = jnp.stack([self.nonce, jnp.uint32(self.count), jnp.uint32(0)])
        words = keystream(self.key, nonce, 2 * size).reshape(-1, 2).astype(jnp.uint64)
        return (words[:, 0] | (words[:, 1] << jnp.uint64(32))).reshape(shape)

    def opened(self, wire: Opened):
        c = wire.group.cast(self._draw(wire.shape))
        return c if wire.where is None else c * wire.where.mask.astype(c.dtype)


class Recorded(Coins):
    """Coins of a run, in the order in which the interpreter asks for them."""

    def __init__(self, low: Iterator[jax.Array], opened: Iterator[jax.Array]):
        self._low, self._opened = low, opened

    def low(self, shape, bits):
        return next(self._low)

    def opened(self, wire):
        return next(self._opened)


def ideal(program: Program, coins: Coins, inputs) -> list[jax.Array]:
    """The outputs, in their groups, for inputs in theirs (static ones too: values, not masked)."""
    values: dict[int, Any] = {}
    for v, x in zip(program.inputs, inputs, strict=True):
        values[v.id] = _enter(v.wire, x)
    for op in program.ops:
        args = [values[v.id] for v in op.inputs]
        if isinstance(op.protocol, Scan):
            out = _scan(op.protocol, coins, args)
        elif isinstance(op.protocol, Open):
            out = [OpenedPlain(op.outputs[0].wire, *op.protocol.ideal(coins, *args))]  # type: ignore[arg-type]
        else:
            out = op.protocol.ideal(coins, *args)
        for v, o in zip(op.outputs, out, strict=True):
            values[v.id] = Plain(v.wire, o) if isinstance(v.wire, Shared) else o
    return [values[v.id].v for v in program.outputs]


def _enter(wire, x):
    if isinstance(wire, Shared):
        return Plain(wire, x)
    return OpenedPlain(wire, signed(x, wire.group.bits), jnp.zeros_like(x))


def _scan(scan: Scan, coins: Coins, args):
    plain = [a.v if isinstance(a, Plain) else Group(a.wire.group.bits).cast(a.y.view(jnp.uint64)) for a in args]
    carry, stacked = plain[: scan.carries], plain[scan.carries :]
    if isinstance(coins, Drawn):
        key, nonce = coins.key, coins.nonce

        def step(carry, x):
            i, xs = x
            return ideal(scan.body, Drawn(key, (nonce + 1) * jnp.uint32(4099) + i), [*carry, *xs]), None

        index = jnp.arange(scan.length, dtype=jnp.uint32)
        return lax.scan(step, carry, (index, stacked))[0]
    for i in range(scan.length):
        carry = ideal(scan.body, coins, [*carry, *(x[i] for x in stacked)])
    return carry

"""Gadgets in the ideal world, which the parties equal bit for bit, on real numbers at a policy's scales."""

from collections.abc import Callable
from functools import cached_property

import jax
import numpy as np

from comet_jax.gadgets.activations import PARITY, SMOOTH, relu, smooth
from comet_jax.gadgets.normalise import normalise
from comet_jax.gadgets.softmax import log_sum_exp, softmax
from comet_jax.interpreters.ideal import Drawn, ideal
from comet_jax.ir.program import Builder, Program, Var
from comet_jax.ir.variant import Variant
from comet_jax.policy import NUMBERS
from comet_jax.sharing.groups import Group
from comet_jax.sharing.packing import Where
from comet_jax.sharing.wires import Shared

KEY = np.arange(8, dtype=np.uint32)


class Gadget:
    """A gadget on a wire of ``shape``: ``make(builder, wire)`` returns the result and its scale."""

    def __init__(
        self,
        make: Callable[[Builder, Var], tuple[Var, float]],
        shape,
        ring: int,
        scale: float,
        variant: Variant | None = None,
    ):
        b = Builder(variant=variant or Variant())
        x = b.input(Shared(tuple(shape), Group(ring)))
        self._out, self._out_scale = make(b, x)
        self.program: Program = b.finish(self._out)
        self._scale, self._group = scale, x.wire.group

    @cached_property
    def _ideal(self):
        return jax.jit(lambda x: ideal(self.program, Drawn(KEY), [x])[0])

    def __call__(self, x: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):
            out = self._ideal(self._group.encode(np.rint(x * self._scale).astype(np.int64)))
        return self._out.wire.group.decode(np.asarray(out)) / self._out_scale


def _operand(ring: int) -> tuple[int, int, float]:
    """Shift, width and scale of an activation's input."""
    n = NUMBERS[ring]
    return n.raw - n.operand, n.width(n.operand, n.bound), 2.0**n.operand


def relu_gadget(shape, ring: int, variant: Variant | None = None) -> Gadget:
    shift, width, scale = _operand(ring)
    make = lambda b, x: (relu(b, x, shift=shift, width=width, ring=ring), scale)
    return Gadget(make, shape, ring, 2.0 ** NUMBERS[ring].raw, variant)


def smooth_gadget(name: str, shape, ring: int, variant: Variant | None = None) -> Gadget:
    shift, width, scale = _operand(ring)
    function, limit = SMOOTH[name]
    how = {"shift": shift, "width": width, "ring": ring, "scale": scale}
    how |= {"limit": limit, "tolerance": 5e-4, "parity": PARITY.get(name, "even")}
    make = lambda b, x: smooth(b, x, **how, function=function)
    return Gadget(make, shape, ring, 2.0 ** NUMBERS[ring].raw, variant)


def softmax_gadget(shape, ring: int, where: Where | None = None, scale: float | None = None) -> Gadget:
    scale = scale or 2.0 ** NUMBERS[ring].raw
    fraction = NUMBERS[ring].probability
    make = lambda b, x: softmax(b, x, scale=scale, where=where, ring=ring, fraction=fraction)
    return Gadget(make, shape, ring, scale)


def log_sum_exp_gadget(shape, ring: int, where: Where | None = None, scale: float | None = None) -> Gadget:
    scale = scale or 2.0 ** NUMBERS[ring].raw
    unit = 2.0 ** (NUMBERS[ring].raw - 1)
    make = lambda b, x: (log_sum_exp(b, x, scale=scale, where=where, ring=ring, unit=unit), unit)
    return Gadget(make, shape, ring, scale)


def norm_gadget(shape, ring: int, *, centre: bool, eps: float) -> Gadget:
    n = NUMBERS[ring]
    how = {"scale": 2.0**n.raw, "shift": n.raw - n.norm, "width": n.width(n.norm, n.norm_bound)}
    make = lambda b, x: normalise(b, x, **how, eps=eps, centre=centre, ring=ring, fraction=n.operand)
    return Gadget(make, shape, ring, 2.0**n.raw)

"""How two parties are laid out: as a batch axis, as two devices of one process, or as two processes.

All three run the same function, written for one party over an axis of two; arrays at the boundary carry a first axis
of two, of which a process holds what its devices hold. A scalar has no such axis: it is public, the same at both.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from comet_jax.errors import CometError
from comet_jax.interpreters.online import AXIS
from comet_jax.runtime import crossing

Plan = Callable[..., crossing.Messages]
"""The messages that a program sends, from its arguments."""


class Executable:
    """A program that is compiled when it first gets arguments of some shapes, or ahead (``stage``).

    ``check(text, *args)`` is called with the HLO of what was compiled, before it may run. ``seconds``: what compiling
    took, all shapes together.
    """

    def __init__(self, jitted: Any, check: Callable[..., None] = lambda *_: None):
        self.seconds = 0.0
        self._jitted, self._check = jitted, check
        self._compiled: dict[Any, Any] = {}

    def stage(self, *args: Any) -> tuple[Any, Callable[[], None]]:
        """Trace for ``args``, arrays or shapes: the shapes of the results, and a function that compiles."""
        traced = self._jitted.trace(*args)
        return traced.out_info, partial(self._compile, traced, args)

    def _compile(self, traced: Any, args: tuple) -> None:
        start = time.perf_counter()
        with jax.enable_x64(True):  # this may be a thread of its own
            compiled = traced.lower().compile()
            self._check(compiled.as_text, *args)
        self._compiled[_shapes(args)] = compiled
        self.seconds += time.perf_counter() - start

    def __call__(self, *args: Any) -> Any:
        key = _shapes(args)
        if key not in self._compiled:
            self.stage(*args)[1]()
        return self._compiled[key](*args)

    def as_text(self) -> str:
        """The HLO of all that was compiled."""
        return "\n".join(compiled.as_text() for compiled in self._compiled.values())


def _shapes(args: tuple) -> tuple:
    leaves, tree = jax.tree.flatten(args)
    return tree, tuple((x.shape, x.dtype) for x in leaves)


class Simulated:
    """Both parties in one program on one device: the axis of two is a batch axis."""

    parties = (0, 1)

    def compile(self, name: str, fn: Callable, plan: Plan) -> Executable:
        """``fn`` for both parties. Nothing crosses in one program, so ``name`` and ``plan`` do not matter."""

        def both(*args):
            axes = jax.tree.map(lambda x: 0 if x.ndim else None, args)
            # The size is said, for programs that take no arrays.
            return jax.vmap(fn, in_axes=axes, axis_name=AXIS, axis_size=2)(*args)

        return Executable(jax.jit(both))

    def shapes(self, tree: Any) -> Any:
        """The shapes of arrays for ``stage``; their first axis is that of the parties."""
        return tree

    def public(self, tree: Any) -> Any:
        """Public scalars, as arguments."""
        return tree

    def place(self, *by_party: Any) -> Any:
        """Trees of both parties' arrays as one tree."""
        return jax.tree.map(lambda *xs: np.stack([np.asarray(x) for x in xs]), *by_party)

    def local(self, tree: Any, party: int) -> Any:
        """One party's arrays, as NumPy."""
        return jax.tree.map(lambda x: np.asarray(x[party]), tree)


class OnMesh:
    """The parties on a mesh with an axis of two; this process holds ``parties``."""

    def __init__(self, devices: Any, parties: tuple[int, ...]):
        self.mesh = Mesh(np.asarray(devices), (AXIS,))
        self.parties = parties
        self._sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))

    def compile(self, name: str, fn: Callable, plan: Plan) -> Executable:
        """``fn`` for each party on its own device.

        Once compiled it raises ``CrossingError`` unless it sends what ``plan`` says for its arguments.
        """

        def one(*args):
            out = fn(*jax.tree.map(lambda x: x[0] if x.ndim else x, args))
            return jax.tree.map(lambda x: x[None], out)

        def both(*args):
            specs = jax.tree.map(lambda x: PartitionSpec(AXIS) if x.ndim else PartitionSpec(), args)
            out = PartitionSpec(AXIS)
            return jax.shard_map(one, mesh=self.mesh, in_specs=specs, out_specs=out, check_vma=False)(*args)

        return Executable(jax.jit(both), lambda text, *args: crossing.check(name, text(), plan(*args)))

    def shapes(self, tree: Any) -> Any:
        """The shapes of arrays for ``stage``; their first axis is that of the parties."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._sharding), tree)

    def public(self, tree: Any) -> Any:
        """Public scalars, as arguments."""
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(everywhere, x, ()), tree)

    def place(self, *by_party: Any) -> Any:
        """Trees of this process's parties' arrays as one tree of global arrays."""

        def globally(*xs):
            stacked = np.asarray(xs[0])[None] if len(xs) == 1 else np.stack([np.asarray(x) for x in xs])
            out = jax.make_array_from_process_local_data(self._sharding, stacked, (2, *stacked.shape[1:]))
            if out.dtype != stacked.dtype:
                raise CometError(f"{stacked.dtype} became {out.dtype}: 64-bit types are not enabled")
            return out

        return jax.tree.map(globally, *by_party)

    def local(self, tree: Any, party: int) -> Any:
        """One party's arrays, as NumPy; it must be of this process."""
        at = self.parties.index(party)
        shard = lambda x: np.asarray(sorted(x.addressable_shards, key=lambda s: s.index[0].start or 0)[at].data)[0]
        return jax.tree.map(shard, tree)


def two_devices() -> OnMesh:
    """Two devices of this process."""
    devices = jax.local_devices()
    if len(devices) < 2:
        raise CometError(
            f"two devices are needed and there is {len(devices)}. On CPU, start Python with "
            "XLA_FLAGS=--xla_force_host_platform_device_count=2, or use Session.simulated()."
        )
    return OnMesh(devices[:2], (0, 1))


Layout = Simulated | OnMesh

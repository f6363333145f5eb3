"""How two parties are laid out: as a batch axis, as two devices of one process, or as two processes.

All three run the same function, written for one party over an axis of two; arrays at the boundary carry a first axis
of two, of which a process holds what its devices hold.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from comet_jax.errors import CometError
from comet_jax.interpreters.online import AXIS
from comet_jax.runtime import crossing

Plan = Callable[..., crossing.Messages]
"""The messages that a program sends, from its arguments."""


class Simulated:
    """Both parties in one program on one device: the axis of two is a batch axis."""

    parties = (0, 1)

    def compile(self, name: str, fn: Callable, plan: Plan) -> Callable:
        """``fn`` for both parties. Nothing crosses in one program, so ``name`` and ``plan`` do not matter."""
        # The size is said, for programs that take no arrays.
        return jax.jit(jax.vmap(fn, axis_name=AXIS, axis_size=2))

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

    def compile(self, name: str, fn: Callable, plan: Plan) -> Callable:
        """``fn`` for each party on its own device.

        It is compiled when it first gets arguments of some shapes, and then raises ``CrossingError`` unless it sends
        what ``plan`` says for these arguments.
        """

        def one(*args):
            out = fn(*jax.tree.map(lambda x: x[0], args))
            return jax.tree.map(lambda x: x[None], out)

        spec = PartitionSpec(AXIS)
        jitted = jax.jit(jax.shard_map(one, mesh=self.mesh, in_specs=spec, out_specs=spec, check_vma=False))
        compiled: dict[Any, Callable] = {}

        def call(*args):
            shapes = tuple((x.shape, x.dtype) for x in jax.tree.leaves(args))
            if shapes not in compiled:
                compiled[shapes] = jitted.lower(*args).compile()
                crossing.check(name, compiled[shapes].as_text(), plan(*args))
            return compiled[shapes](*args)

        return call

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

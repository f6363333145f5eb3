"""Choosing a policy by examples: how large do values get, and how well do they then fit?

A model is run on examples in the clear, and the largest magnitude of every value is noted. From these follow the scale
of each wire, the width of each opening and the ring of each product. The resulting program is then run on the same
examples in the ideal world, which rounds exactly as a private run does: that gives the error to expect, and the
headroom that is left at every opening.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from rich.table import Table

from comet_jax.errors import CometError
from comet_jax.frontend.call import Call, Pure
from comet_jax.frontend.flax import Private
from comet_jax.frontend.trace import Traced
from comet_jax.interpreters.ideal import Drawn, ideal
from comet_jax.ir.jaxprs import Graph
from comet_jax.ir.program import Program, Scan
from comet_jax.passes.explain import as_text
from comet_jax.passes.lower import Lowered
from comet_jax.passes.ranges import Observed, bind, digest, owned_by, values
from comet_jax.policy import NUMBERS, Policy, Ranges
from comet_jax.rules.scope import Encoding
from comet_jax.runtime.plan import Plan
from comet_jax.runtime.secret import Secret, Shares
from comet_jax.runtime.session import environments
from comet_jax.sharing import fixed_point
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Opened


@dataclass(frozen=True)
class Headroom:
    """One kind of opening: where it is, its bits, and how many of them no example has used.

    ``spare``: bits of magnitude beyond the largest value seen; less than 0 is an overflow.
    """

    site: str
    operation: str
    bits: int
    spare: float


@dataclass(frozen=True)
class Calibration:
    """A policy, and what examples say about it. Print it for the table of openings.

    ``error``: the largest difference from the results in the clear. ``size``: the largest of those results.
    ``refused``: why the 32-bit ring could not hold the model, if it could not.
    """

    policy: Policy
    error: float
    size: float
    headroom: tuple[Headroom, ...]
    refused: str = ""

    def __str__(self) -> str:
        table = Table(box=None, pad_edge=False)
        for name in ("site", "operation"):
            table.add_column(name, overflow="fold")
        for name in ("bits", "spare"):
            table.add_column(name, justify="right")
        for h in self.headroom:
            table.add_row(h.site, h.operation, str(h.bits), f"{h.spare:.1f}")
        ring = f"Z_2^{self.policy.ring}: largest error {self.error:.2g} of results up to {self.size:.3g}"
        return "\n".join([as_text(table), "", ring, *([self.refused] if self.refused else [])])


@dataclass(frozen=True, eq=False)
class _Example:
    """A traced call, the values of its arrays, and what it gives in the clear."""

    traced: Traced
    arrays: list[np.ndarray]
    results: list[np.ndarray]


# Of how many examples the error is found; ranges are of all.
TRIED = 4


def calibrate(
    fn: Private, examples: Iterable[tuple], policy: Policy, *, margin: float, tolerance: float
) -> Calibration:
    """See ``comet_jax.calibrate``."""
    observed: dict[str, Observed] = {}
    weights: dict[str, set] = {}
    runs: list[_Example] = []
    for example in examples:
        if not isinstance(example, tuple):
            raise CometError(f"an example is a tuple of arguments, not a {type(example).__name__}")
        traced, arrays = _traced(fn, example, policy)
        known = digest(traced.graph)
        if known not in observed:
            observed[known] = Observed(traced.graph)
            weights[known] = owned_by("model", traced.graph, [getattr(x, "owner", None) for x in traced.inputs])
        # Traces of one digest differ in shapes only, so what is seen in any of them counts for all.
        results = observed[known].run(traced.graph, arrays)
        runs.append(_Example(traced, arrays, [np.asarray(x) for x in results]))
    if not runs:
        raise CometError("calibration needs an example: a tuple of the function's arguments")
    graphs = []
    for known, seen in observed.items():
        found = seen.ranges(margin, weights[known])
        graphs.append((known, tuple(found.get(v) for v in values(seen.graph))))
    policy = replace(policy, ranges=Ranges(tuple(graphs)))
    runs, refused = runs[:TRIED], ""
    try:
        found = _check(runs, policy)
        if policy.ring == 64 or found.error <= tolerance * max(found.size, 1.0):
            return found
        refused = (
            f"32 bits miss the results by {found.error:.2g}, more than {tolerance:g} of {found.size:.3g}. "
            f"{_largest(runs[0].traced.graph, policy)}"
        )
    except CometError as error:
        if policy.ring == 64:
            raise
        refused = f"32 bits cannot hold this model: {error} {_largest(runs[0].traced.graph, policy)}"
    return replace(_check(runs, replace(policy, ring=64, numbers=NUMBERS[64])), refused=refused)


def _largest(graph: Graph, policy: Policy) -> str:
    """Where the values are that leave the fewest fraction bits."""
    ranges = bind(policy.ranges, graph)
    found = [(ranges[v].largest, n) for n in graph.every_node() for v in n.outputs if v in ranges]
    if not found:
        return ""
    largest, node = max(found, key=lambda f: f[0])
    return f"The largest values, up to {largest:g} with the margin, are of `{node.op}` at {node.site or node.where}."


def _traced(fn: Private, example: tuple, policy: Policy) -> tuple[Traced, list[np.ndarray]]:
    """The trace of a call in which arrays are secrets unless some are marked so, and the arrays' values."""
    pure = fn.pure(example, {})
    marked = any(isinstance(x, Secret) for x in jax.tree.leaves(pure.args, is_leaf=lambda x: isinstance(x, Secret)))
    given = Call(pure, policy)
    shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, "shape") and hasattr(x, "dtype") else x
    call = given if marked else Call(Pure(pure.fn, jax.tree.map(shape, pure.args), {}, pure.key), policy)
    return call.trace(), [_value(x) for x in given.arrays]


def _value(x: Any) -> np.ndarray:
    if isinstance(x, jax.ShapeDtypeStruct):
        raise CometError("calibration runs the function on examples: it needs values, not shapes")
    if not isinstance(x, Secret):
        return np.asarray(x)
    if not isinstance(x.payload, np.ndarray):
        raise CometError(f"calibration runs in the clear, and the values of {x!r} are not in this process")
    return x.payload


def _check(runs: list[_Example], policy: Policy) -> Calibration:
    error = size = 0.0
    spare: dict[tuple[str, str, int], float] = {}
    worlds: dict[str, Callable] = {}  # examples of the same shapes make the same program, which is compiled once
    for i, run in enumerate(runs):
        lowered = Traced(run.traced.graph, run.traced.inputs, run.traced.out_tree, policy).lower()
        world = worlds.setdefault(lowered.program.digest, _ideal_world(lowered.program))
        got, seen = _results(lowered, world, run.arrays, i)
        for place, bits in _headroom(lowered.program, seen):
            spare[place] = min(spare.get(place, math.inf), bits)
        for x, wanted in zip(got, run.results, strict=True):
            if wanted.dtype.kind in "fV" and wanted.size:
                wanted = wanted.astype(np.float64)
                error = max(error, float(np.abs(x - wanted).max()))
                size = max(size, float(np.abs(wanted).max()))
    return Calibration(policy, error, size, tuple(Headroom(*place, bits) for place, bits in spare.items()))


def _ideal_world(program: Program) -> Callable[..., tuple[list[Any], dict[int, Any]]]:
    """The program on integers, from a key of coins: its outputs, and the largest magnitude at each opening."""

    def run(key, integers):
        seen: dict[int, Any] = {}
        return ideal(program, Drawn(key), integers, seen), seen

    return jax.jit(run)


def _results(lowered: Lowered, world: Callable, arrays: list[np.ndarray], seed: int) -> tuple[list[np.ndarray], dict]:
    """The results of a call in the ideal ``world`` of its program, as floats, and what was seen at its openings."""
    plan = Plan(lowered)
    inputs = [
        Secret(x.shape, x.dtype, owner, None, x) if owner else x
        for x, owner in zip(arrays, lowered.inputs, strict=True)
    ]
    envs = environments(plan, inputs, bytes(32))
    integers = []
    for i, e in enumerate(lowered.encodings):
        assert isinstance(e, Encoding)
        integers.append(plan.encode(i, envs[e.owner]))
    with jax.enable_x64(True):
        key = np.random.default_rng(seed).integers(0, 1 << 32, 8, dtype=np.uint32)  # no secret: nothing is masked
        shares, seen = jax.tree.map(np.asarray, world(key, integers))
    return [_number(x) for x in plan.results(None, shares, envs)], seen


def _number(x: Any) -> np.ndarray:
    if not isinstance(x, Secret):
        return np.asarray(x)
    if not isinstance(x.payload, Shares):
        return x.payload
    return fixed_point.decode(x.payload.held, x.payload.scale, Group(x.payload.ring), np.dtype(np.float64))


def _headroom(program: Program, seen: dict[int, Any]) -> Iterable[tuple[tuple[str, str, int], float]]:
    for i, op in enumerate(program.ops):
        if isinstance(op.protocol, Scan):
            yield from _headroom(op.protocol.body, seen[i])
        elif i in seen:
            wire = op.outputs[0].wire
            assert isinstance(wire, Opened)
            largest = float(np.max(seen[i], initial=0.0))
            yield (op.site, op.operation, wire.group.bits), wire.group.bits - 2 - math.log2(max(largest, 1.0))

"""Both worlds of a program: dealer and parties on given randomness, and the ideal world on the coins of their run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from comet_jax.interpreters.deal import deal
from comet_jax.interpreters.ideal import Recorded, ideal
from comet_jax.interpreters.material import pack_dealt, unpack
from comet_jax.interpreters.online import AXIS, offline, online, party_index
from comet_jax.ir.program import Program, Scan
from comet_jax.protocols.protocol import Opening, Party
from comet_jax.protocols.slots import OpenSlots
from comet_jax.rules.scope import Encoding
from comet_jax.runtime.plan import Plan
from comet_jax.runtime.session import LocalSession, environments
from comet_jax.runtime.spmd import Simulated
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Disclosed, Opened


@dataclass
class Run:
    """``outputs``: opened. ``ideal``: what they should be. ``transcript``: messages of both parties by round.

    ``coins``: as ``online`` notes them at party 0. ``dealt``: the dealer's words for either party.
    """

    outputs: list[Any]
    ideal: list[Any]
    transcript: list[Any]
    coins: dict[int, Any]
    dealt: Any


jax.tree_util.register_dataclass(Run)


class TwoParties:
    """``program`` as dealer, parties and the ideal world run it.

    ``apart``: each role's work is compiled for itself, as in a session, which is quicker for large programs.
    """

    def __init__(self, program: Program, *, apart: bool = False):
        self.program = program
        self._stage = jax.jit if apart else lambda f: f
        self._whole = (lambda f: f) if apart else jax.jit
        self.static = [i for i, v in enumerate(program.inputs) if isinstance(v.wire, Opened)]

    @cached_property
    def words(self) -> tuple[int, int]:
        """Words of masks a party and of dealt arrays."""
        return self.program.supply.mask_words, self.program.supply.dealt_words

    def draw(self, rng: np.random.Generator, runs: int) -> tuple[np.ndarray, ...]:
        """Fresh randomness of ``runs`` runs: words of masks of both parties, and party 0's of dealt arrays."""
        masks, dealt = self.words
        return _uniform(rng, (runs, 2, masks), Group(32)), _uniform(rng, (runs, dealt), Group(32))

    def split(self, rng: np.random.Generator, values: list[np.ndarray]) -> list[np.ndarray]:
        """Signed values, first axis the runs, as shares: second axis the parties. What both know is known to both."""
        shares = []
        for v, x in zip(self.program.inputs, values, strict=True):
            group, both = v.wire.group, isinstance(v.wire, Disclosed)
            first = group.encode(x) if both else _uniform(rng, x.shape, group)
            shares.append(np.stack([first, first if both else group.sub(group.encode(x), first)], 1))
        return shares

    def weight_masks(self, rng: np.random.Generator, runs: int) -> list[np.ndarray]:
        """Both parties' shares of the masks of static inputs."""
        wires = [self.program.inputs[i].wire for i in self.static]
        return [_uniform(rng, (runs, 2, *w.shape), w.group) for w in wires]

    def run(self, values: list[np.ndarray], seed: int = 0) -> Run:
        """Runs on ``values``, all at once: signed integers, first axis the runs; all randomness from ``seed``."""
        rng, n = np.random.default_rng(seed), len(values[0])
        return self.run_with(self.split(rng, values), self.weight_masks(rng, n), *self.draw(rng, n))

    def run_with(self, shares, weight_masks, masks, dealt) -> Run:
        """Runs on given shares and randomness."""
        with jax.enable_x64(True):
            out = self._compiled(shares, weight_masks, masks, dealt)
            return jax.tree.map(np.asarray, out)

    @cached_property
    def _compiled(self) -> Callable[..., Run]:
        return self._whole(jax.vmap(self._one))

    def _by_input(self, arrays) -> list[Any]:
        places = iter(arrays)
        return [next(places) if i in self.static else None for i in range(len(self.program.inputs))]

    def _one(self, shares, weight_masks, masks, first) -> Run:
        program, supply, stage = self.program, self.program.supply, self._stage
        arrays = {kind: stage(partial(unpack, supply, kind)) for kind in ("masks", "dealt")}
        by_party = [arrays["masks"](m) for m in masks]
        own = [program.inputs[i].wire.group.add(r[0], r[1]) for i, r in zip(self.static, weight_masks)]
        corrections = stage(lambda *trees: deal(program, trees[:2], trees[2], self._by_input(trees[3])))
        second = stage(partial(pack_dealt, supply))(corrections(*by_party, arrays["dealt"](first), own))
        dealt = jnp.stack([first, second])
        public = []
        for i, r in zip(self.static, weight_masks):
            group = program.inputs[i].wire.group
            public.append(group.add(group.add(shares[i][0], r[0]), group.add(shares[i][1], r[1])))

        def prepare(masks, dealt, public):
            return offline(program, Party(party_index()), masks, dealt, self._by_input(public))

        def compute(material, shares):
            coins: dict[int, Any] = {}
            return *online(program, Party(party_index()), material, shares, coins), coins

        def party(masks, dealt, shares):
            material = stage(prepare)(arrays["masks"](masks), arrays["dealt"](dealt), public)
            return stage(compute)(material, shares)

        outputs, transcript, coins = jax.vmap(party, axis_name=AXIS)(masks, dealt, list(shares))
        at_first = lambda tree: jax.tree.map(lambda x: x[0], tree)
        # Of orders that no party knows each has noted its part.
        noted = jax.tree_util.tree_map_with_path(lambda at, x: x if at[-1].key == "orders" else x[0], coins)
        value = lambda v, x: x[0] if isinstance(v.wire, Disclosed) else v.wire.group.add(x[0], x[1])
        plain = list(map(value, program.inputs, shares))
        return Run(
            list(map(value, program.outputs, outputs)),
            stage(lambda coins, plain: ideal(program, Recorded(program, coins), plain))(noted, plain),
            at_first(transcript),
            noted,
            dealt,
        )

    def opened(self, run: Run) -> Iterator[tuple[Group, np.ndarray]]:
        """Group and values, runs by elements, of every opened value of a program without scans."""
        for i, op in enumerate(self.program.ops):
            assert not isinstance(op.protocol, Scan)
            if isinstance(op.protocol, Opening) and isinstance(wire := op.outputs[0].wire, Opened):
                c = run.coins[i]["opened"]
                kept = c if wire.where is None else c[:, wire.where.mask]
                rows = kept.reshape(len(c), -1)
                # What no run opened, no party sees: rows of blocks that were not active.
                yield wire.group, rows[:, rows.any(0)] if isinstance(op.protocol, OpenSlots) else rows


class Caught(LocalSession):
    """A session that keeps the plan and the inputs of the last call, and runs nothing."""

    def __init__(self):
        super().__init__(Simulated())

    def run(self, plan: Plan, inputs: list[Any]) -> list[Any]:
        self.plan, self.inputs = plan, inputs
        return plan.results(self, None, environments(plan, inputs, self.key))

    def values(self) -> list[np.ndarray]:
        """The program's inputs as signed integers, as their owners encode them."""
        envs = environments(self.plan, self.inputs, self.key)
        found = []
        for i, (v, e) in enumerate(zip(self.plan.program.inputs, self.plan.lowered.encodings)):
            assert isinstance(e, Encoding)
            found.append(v.wire.group.decode(self.plan.encode(i, envs[e.owner])))
        return found


def _uniform(rng: np.random.Generator, shape, group: Group) -> np.ndarray:
    words = rng.integers(0, 1 << 64, shape, dtype=np.uint64)
    return group.reduce(words.astype(group.dtype))

"""A plan's programs, compiled: the last of the stages trace, lower, compile, and what sessions run.

Arrays stay packed until the parties' material is made, and are cut out of their blocks there: unpacking is a program
of its own, since fused into what reads them each use of an array would repeat it.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np

from comet_jax.interpreters.material import KINDS, starts
from comet_jax.passes.lower import Lowered
from comet_jax.runtime.plan import Plan
from comet_jax.runtime.spmd import Executable, Layout, Simulated

THREADS = 2  # XLA compiles one program mostly in one thread


class Compiled:
    """The programs of ``plan``: the parties' for a layout (None where no party runs) and the dealer's.

    Each is compiled when it is first called, or all ahead (``ahead``).
    """

    def __init__(self, plan: Plan, layout: Layout | None) -> None:
        self.plan, self.layout = plan, layout
        places = {kind: starts(plan.program.supply, kind) for kind in KINDS}
        self._starts, self._public = places, places if layout is None else layout.public(places)
        names = ("load", "unpack", "offline", "online")
        self._party = {} if layout is None else {n: self._for_parties(layout, n) for n in names}
        self._dealer = {n: Executable(jax.jit(getattr(plan, n))) for n in ("expand", "correct", "pack")}

    def _for_parties(self, layout: Layout, name: str) -> Executable:
        return layout.compile(name, getattr(self.plan, name), partial(self.plan.messages, name))

    # -- what the parties run

    def load(self, share: Any, mask: Any) -> Any:
        """A weight's public form, from the parties' shares of it and of its mask."""
        return self._party["load"](share, mask)

    def unpack(self, masks: Any, dealt: Any) -> Any:
        """The parties' words for a run as arrays, those of one width together."""
        return jax.block_until_ready(self._party["unpack"](masks, dealt))

    def offline(self, blocks: Any, opened: list[Any]) -> Any:
        """What the parties do ahead of a run, on their unpacked words and the public forms of the weights."""
        return jax.block_until_ready(self._party["offline"](blocks, opened, self._public))

    def online(self, material: Any, weights: list[Any], inputs: list[Any]) -> Any:
        """A run: shares of the outputs, and the transcript."""
        return jax.block_until_ready(self._party["online"](material, weights, inputs))

    # -- what the dealer runs

    def deal(self, masks: list[Any], dealt: Any, of_weights: list[Any]) -> jax.Array:
        """Party 1's words, from both parties' words of masks, party 0's of dealt arrays, and the weights' masks."""
        blocks = self._dealer["expand"](masks, dealt)
        corrections = self._dealer["correct"](blocks, of_weights, self._starts)
        return jax.block_until_ready(self._dealer["pack"](corrections))

    # -- the stage

    def ahead(self, *, parties: bool = True, dealer: bool = True) -> "Compiled":
        """Compile all programs of these roles now, several at a time."""
        with jax.enable_x64(True):
            jobs = [*(self._party_jobs() if parties else ()), *(self._dealer_jobs() if dealer else ())]
        with ThreadPoolExecutor(THREADS) as pool:
            for done in [pool.submit(job) for job in jobs]:
                done.result()
        return self

    def _party_jobs(self) -> list[Callable[[], None]]:
        plan, layout = self.plan, self.layout
        assert layout is not None
        both = lambda shape, dtype: layout.shapes(jax.ShapeDtypeStruct((2, *shape), dtype))
        of = lambda position: both((v := plan.program.inputs[position]).shape, v.wire.group.dtype)
        weights, inputs = ([of(i) for i in positions] for positions in (plan.static, (*plan.shared, *plan.flags)))
        words = [both((n,), np.uint32) for n in self._words]
        blocks, unpack = self._party["unpack"].stage(*words)
        material, offline = self._party["offline"].stage(layout.shapes(blocks), weights, self._public)
        _, online = self._party["online"].stage(layout.shapes(material), weights, inputs)
        loads = [self._party["load"].stage(w, w)[1] for w in dict.fromkeys(weights)]
        return [online, offline, unpack, *loads]  # the longest first

    def _dealer_jobs(self) -> list[Callable[[], None]]:
        plan = self.plan
        wires = [plan.program.inputs[i].wire for i in plan.static]
        masks = [jax.ShapeDtypeStruct(w.shape, w.group.dtype) for w in wires]
        of_masks, of_dealt = (jax.ShapeDtypeStruct((n,), np.uint32) for n in self._words)
        blocks, expand = self._dealer["expand"].stage([of_masks, of_masks], of_dealt)
        corrections, correct = self._dealer["correct"].stage(blocks, masks, self._starts)
        _, pack = self._dealer["pack"].stage(corrections)
        return [correct, pack, expand]

    @property
    def _words(self) -> tuple[int, int]:
        supply = self.plan.program.supply
        return supply.mask_words, supply.dealt_words

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that each program took to compile, those of the dealer's too."""
        programs = {**self._party, **self._dealer}
        return {name: program.seconds for name, program in programs.items() if program.seconds}

    def cost_analysis(self) -> dict[str, int]:
        """Rounds, bytes that each party sends, and bytes that the dealer sends."""
        return self.plan.lowered.cost_analysis()

    def as_text(self) -> str:
        """The HLO of what each party runs online."""
        return self._party["online"].as_text()


def compiled(lowered: Lowered, layout: Layout | None = None) -> Compiled:
    """All programs of a lowered function, for the parties in one program on one device unless told otherwise."""
    return Compiled(Plan(lowered), layout or Simulated()).ahead()

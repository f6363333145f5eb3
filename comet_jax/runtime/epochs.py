"""Epochs: public state that the parties carry from one run to the next, through the plans of one function.

A gate that reveals nothing may keep its secret order, and the sharing of the weights that are in it, for several calls:
an epoch. In each the parties see flags, and the next call must know which blocks they have touched (active_sets.py).
That is all that is carried: arrays that both parties know, and nobody else. A program hands them on as its last outputs
and takes them as its last inputs (wires that are ``Disclosed``). As more blocks are computed in each call, programs
differ by their place in the epoch; all else that goes into them is alike, at the same positions, so what is shared or
opened at the first call serves the others. Plan n of the family is lowered when it is first needed (``Plan.at``).

What makes this safe is that one order serves one chain of runs. So who takes from an epoch ends it: a run that fails
leaves none behind, and the next one, a retry too, begins an epoch with an order, a sharing and masks of its own. Every
role counts for itself. One that has lost count sends, or waits for, weights or a shuffle's words that the others do
not, and their messages are refused by kind and number before anything is computed. A shuffle starts from what was last
loaded as a whole: all arrays are replaced in the end, or none.
"""

from dataclasses import dataclass, field
from typing import Any

from comet_jax.runtime.plan import Plan


@dataclass(eq=False)
class Epoch:
    """Where the runs of one plan with one set of weights are. ``first``: the plan of an epoch's first call."""

    first: Plan
    call: int = 0
    _flags: list[Any] = field(default_factory=list)

    @property
    def next(self) -> Plan:
        """The plan of the next run."""
        return self.first.at(self.call)

    def begin(self) -> tuple[Plan, list[Any]]:
        """The next run's plan and the flags that it takes. Without ``end`` the run counts as failed."""
        plan, flags = self.next, self._flags
        self.call, self._flags = 0, []
        return plan, flags

    def end(self, flags: list[Any], plan: Plan) -> None:
        """The run of ``plan`` has ended well, with ``flags`` for the next one."""
        self.call, self._flags = (plan.call + 1) % plan.epoch, flags

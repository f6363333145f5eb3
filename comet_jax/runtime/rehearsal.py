"""The ideal world as a session: what a private run would reveal, computed in one place, at nearly plaintext speed.

The lowered program runs on plain integers with exactly the protocols' rounding, on fresh public coins. Nothing is
private here. It is for choosing: scoring a validation set under a policy, with its gates, before anything is deployed.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from comet_jax.errors import CometError
from comet_jax.policy import Policy
from comet_jax.rules.scope import Encoding
from comet_jax.rules.terms import Env
from comet_jax.runtime.epochs import Epoch
from comet_jax.runtime.plan import Plan
from comet_jax.runtime.secret import Secret, Shares
from comet_jax.runtime.session import Clock, Session, check_owner, environments, sealed_forms, shares_of, weights_of
from comet_jax.sharing import chacha, fixed_point
from comet_jax.sharing.groups import Group


@dataclass(eq=False)
class _Rehearsed:
    """Where the runs of a plan with one set of weights are, and what serves them for an epoch, by position."""

    epoch: Epoch
    inputs: list[Any]  # so that an id is not reused while it serves as a key
    renewed: dict[int, np.ndarray]


class IdealSession(Session):
    """Made by ``Session.ideal``. Every role is in this process; "shares" are the values themselves."""

    def __init__(self) -> None:
        super().__init__()
        self._rehearsed: dict[Any, _Rehearsed] = {}

    def run(self, plan: Plan, inputs: list[Any]) -> list[Any]:
        clock = Clock({})
        with jax.enable_x64(True):
            envs = environments(plan, inputs, self.key)
            outputs: list[Any] = []
            shuffled = False
            if plan.program.outputs:
                epoch, plan, known, elements, shuffled = self._begin(plan, inputs, envs)
                clock("share")
                made = [np.asarray(x) for x in plan.ideal(chacha.new_key(), [*elements, *known])]
                outputs, known = plan.parted(made)
                epoch.end(known, plan)
                clock("ideal")
        self._report(plan, clock, [], shuffled)
        return plan.results(self, outputs, envs)

    def _begin(
        self, plan: Plan, inputs: list[Any], envs: dict[str, Env]
    ) -> tuple[Epoch, Plan, list[Any], list[Any], bool]:
        """The epoch of a run, its plan, the flags that it takes, its other inputs, and whether those were shuffled."""
        found = _Rehearsed(Epoch(plan), inputs, {})
        if plan.epoch > 1 or plan.shuffle:
            found = self._rehearsed.setdefault((plan, weights_of(plan, inputs)), found)
        plan, known = found.epoch.begin()
        encode = lambda i, e: plan.encode(i, envs[e.owner])
        encodings = list(enumerate(plan.lowered.encodings))
        shuffled = False
        if not plan.call and found.renewed and plan.shuffle is not None:
            shuffled = True
            values = [found.renewed[i] for i in plan.renewed]
            found.renewed = dict(zip(plan.renewed, map(np.asarray, plan.shuffle.ideal(chacha.new_key(), values))))
        elif not plan.call:
            found.renewed = {i: encode(i, e) for i, e in encodings if i in plan.renewed}
        elements = []
        for i, e in encodings:
            if isinstance(e, Encoding):
                elements.append(found.renewed[i] if i in found.renewed else encode(i, e))
            else:
                elements.append(shares_of(inputs[e[0]], e[1]))
        return found.epoch, plan, known, elements, shuffled

    def seal(self, secret: Secret, policy: Policy) -> Secret:
        with jax.enable_x64(True):
            (held, centred), scale, _ = sealed_forms(secret, policy)
        return Secret(
            secret.shape, secret.dtype, None, self, Shares(scale, policy.ring, held, centred, has_centred=True)
        )

    def reveal(self, secrets: list[Secret], to: str) -> list[Any]:
        check_owner(to, "nothing is revealed to")
        out = []
        for secret in secrets:
            if isinstance(secret.payload, Shares):
                p = secret.payload
                out.append(fixed_point.decode(np.asarray(p.held), p.scale, Group(p.ring), secret.dtype))
            elif secret.owner == to:
                out.append(secret.payload)
            else:
                raise CometError(f"{secret!r} is an input: it can be revealed to its owner only, not to {to}")
        return out

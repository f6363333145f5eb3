"""The ideal world as a session: what a private run would reveal, computed in one place, at nearly plaintext speed.

The lowered program runs on plain integers with exactly the protocols' rounding, on fresh public coins. Nothing is
private here. It is for choosing: scoring a validation set under a policy, with its gates, before anything is deployed.
"""

from typing import Any

import jax
import numpy as np

from comet_jax.errors import CometError
from comet_jax.policy import Policy
from comet_jax.rules.scope import Encoding
from comet_jax.runtime.plan import Plan
from comet_jax.runtime.secret import Secret, Shares
from comet_jax.runtime.session import Clock, Session, check_owner, environments, sealed_forms, shares_of
from comet_jax.sharing import chacha, fixed_point
from comet_jax.sharing.groups import Group


class IdealSession(Session):
    """Made by ``Session.ideal``. Every role is in this process; "shares" are the values themselves."""

    def run(self, plan: Plan, inputs: list[Any]) -> list[Any]:
        clock = Clock({})
        with jax.enable_x64(True):
            envs = environments(plan, inputs, self.key)
            outputs: list[Any] = []
            if plan.program.outputs:
                elements = []
                for i, e in enumerate(plan.lowered.encodings):
                    elements.append(
                        plan.encode(i, envs[e.owner]) if isinstance(e, Encoding) else shares_of(inputs[e[0]], e[1])
                    )
                clock("share")
                outputs = [np.asarray(x) for x in plan.ideal(chacha.new_key(), elements)]
                clock("ideal")
        self._report(plan, clock, [])
        return plan.results(self, outputs, envs)

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

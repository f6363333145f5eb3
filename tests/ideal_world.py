"""A private function in the ideal world: what its parties would compute, in one place, on NumPy's coins."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import comet_jax as cj
from comet_jax.interpreters.ideal import ideal
from comet_jax.protocols.protocol import Coins
from comet_jax.rules.scope import Encoding
from comet_jax.runtime.plan import Plan
from comet_jax.runtime.secret import Shares
from comet_jax.runtime.session import environments, sealed_forms
from comet_jax.sharing import fixed_point
from comet_jax.sharing.groups import Group

Owner = Literal["client", "model", "sealed", "public"]


class Tossed(Coins):
    """Coins of NumPy's generator: without a keystream there is little to compile."""

    def __init__(self, seed: int):
        self._rng = np.random.default_rng(seed)

    def low(self, shape, bits):
        return jnp.asarray(self._words(shape) >> np.uint64(64 - bits))

    def opened(self, wire):
        c = wire.group.reduce(self._words(wire.shape).astype(wire.group.dtype))
        return jnp.asarray(c if wire.where is None else c * wire.where.mask.astype(c.dtype))

    def order(self, shape):
        return jnp.argsort(jnp.asarray(self._words(shape)), axis=-1)

    def _words(self, shape) -> np.ndarray:
        return self._rng.integers(0, 1 << 64, shape, np.uint64)


@dataclass(frozen=True, eq=False)
class Ideal:
    """A call of a private function: ``owners`` says of each argument whose it is, or that it is sealed or public."""

    function: Callable[..., Any]
    arguments: Sequence[Any]
    owners: Sequence[Owner]
    policy: cj.Policy

    @cached_property
    def plan(self) -> Plan:
        """The call, lowered, and so checked for leaks."""
        given = [
            jax.tree.map(lambda x, owner=owner: self._given(x, owner), tree)
            for tree, owner in zip(self.arguments, self.owners, strict=True)
        ]
        return Plan(cj.private(self.function, policy=self.policy).trace(*given).lower())

    def _given(self, x: np.ndarray, owner: Owner) -> Any:
        if owner == "public":
            return x
        if owner == "sealed":
            return cj.seal(jax.ShapeDtypeStruct(x.shape, x.dtype), self.policy)
        return _secret(x, owner)

    @cached_property
    def _secrets(self) -> list[cj.Secret]:
        return [_secret(x, o) for tree, o in zip(self.arguments, self.owners) for x in jax.tree.leaves(tree)]

    @cached_property
    def _environments(self):
        return environments(self.plan, self._secrets, bytes(32))

    @cached_property
    def elements(self) -> list[np.ndarray]:
        """The program's inputs in their groups."""
        out = []
        for i, e in enumerate(self.plan.lowered.encodings):
            if isinstance(e, Encoding):
                out.append(self.plan.encode(i, self._environments[e.owner]))
            else:
                raw, centred = sealed_forms(self._secrets[e[0]], self.policy)[0]
                out.append(raw if e[1] == "raw" else centred)
        return out

    def results(self, words: Sequence[Any] | None = None, seed: int = 0) -> list[np.ndarray]:
        """The function's results; ``words``: the program's outputs, by default those of an ideal run."""
        program, elements = self.plan.program, self.elements  # types of 64 bits are the rings' alone
        with jax.enable_x64(True):
            words = jax.jit(lambda xs: ideal(program, Tossed(seed), xs))(elements) if words is None else words
        return [_number(x) for x in self.plan.results(None, list(map(np.asarray, words)), self._environments)]


def _secret(x: np.ndarray, owner: str | None) -> cj.Secret:
    return cj.Secret(x.shape, x.dtype, owner, None, x)


def _number(x: Any) -> np.ndarray:
    if not isinstance(x, cj.Secret):
        return np.asarray(x)
    if not isinstance(x.payload, Shares):
        return np.asarray(x.payload)
    return fixed_point.decode(x.payload.held, x.payload.scale, Group(x.payload.ring), x.dtype)

"""Who knows a value while a model is compiled: everyone, one owner, or nobody.

``Known`` is public and concrete. ``Owned`` depends on the inputs of one owner alone, who computes it in the clear
before sharing anything: a layer norm's scale is folded into the next weights by the model's owner, and token ids
become one-hot vectors at the client. ``Joint`` depends on both; it exists as shares only.

A ``Joint`` is lowered on demand and in the form that its consumer needs, each form once: the plain sum, the sum
without its mean (what a layer norm wants: linear layers give it for nothing, with centred weights), or opened as a
factor of products.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from comet_jax.errors import UnsupportedOperationError
from comet_jax.ir.program import Var
from comet_jax.policy import Range
from comet_jax.sharing.packing import Where

# The owner of a public value that differs from step to step of a loop: everybody can compute it.
PUBLIC = "public"


class VaryingError(UnsupportedOperationError):
    """A step of a loop needs a public value that differs from step to step, so the steps are not alike."""


@dataclass(frozen=True, eq=False)
class Known:
    """A public value."""

    value: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.value.shape


class Env:
    """One owner's values: inputs by name, what has been computed from them, and an outer environment for scans.

    ``key``: 32 bytes that this owner draws for a session and shows nobody: what it permutes its neurons by.
    """

    def __init__(self, inputs: dict[Any, Any], parent: "Env | None" = None, key: bytes = b""):
        self.inputs, self.parent, self.cache = inputs, parent, {}
        self.key: bytes = parent.key if parent is not None else key

    def input(self, key):
        """The input ``key``, here or outside."""
        if key in self.inputs:
            return self.inputs[key]
        if self.parent is None:
            raise KeyError(key)
        return self.parent.input(key)


@dataclass(frozen=True, eq=False)
class Owned:
    """A value that one owner can compute: ``compute(env)`` in the owner's environment.

    ``vector``: set where the array is this vector repeated along every axis but the last. ``name``: for messages.
    ``range``: of its elements, where calibration has found it. ``depth``: of the innermost loop in whose steps it
    differs, 0 for none; None where that is not known.
    """

    owner: str
    shape: tuple[int, ...]
    dtype: np.dtype
    compute: Callable[[Env], Any]
    name: str = ""
    vector: "Owned | None" = None
    range: Range | None = None
    depth: int | None = None

    def at(self, env: Env):
        """The value, computed once in an environment."""
        if id(self) not in env.cache:
            env.cache[id(self)] = (self, self.compute(env))
        return env.cache[id(self)][1]

    def map(self, f: Callable[..., Any], shape: tuple[int, ...], *others: "Owned | Known", dtype=None) -> "Owned":
        """f of this and other values of the same owner, in float64 for floats."""

        def compute(env: Env):
            arrays = [o.value if isinstance(o, Known) else o.at(env) for o in (self, *others)]
            return f(*(np.asarray(a, np.float64 if np.asarray(a).dtype.kind == "f" else None) for a in arrays))

        every = (self, *others)
        return Owned(owner_of(every), shape, np.dtype(dtype or self.dtype), compute, self.name, depth=deepest(every))


@dataclass(frozen=True)
class Scaled:
    """A wire and the scale of its integers; ``where`` says which elements can be other than zero."""

    var: Var
    scale: float
    where: Where | None = None


@dataclass(frozen=True)
class Affine:
    """base * gain + shift with an owner's vectors along the last axis: folded into the next linear layer."""

    base: "Joint"
    gain: Owned
    shift: Owned | None


@dataclass(frozen=True)
class Linear:
    """A linear function of ``owner``'s weights, whose last axis is theirs.

    ``times(gain, found)``: the same value times a vector of that owner along the last axis, for nothing, as the owner
    multiplies the weights; ``found``: the range of the result, where calibration has found it.
    """

    owner: str
    times: "Callable[[Owned, Range | None], Joint]"


@dataclass(frozen=True)
class Masked:
    """base where ``where``, and minus infinity elsewhere: what softmax takes.

    ``even``: one finite number stands for minus infinity, so that softmax of a row of nothing else is uniform.
    """

    base: "Joint"
    where: Where
    even: bool = False


@dataclass(frozen=True, eq=False)
class Joint:
    """A value that nobody knows. The ``make_`` functions emit operations; use the properties, which do so once.

    ``raw``: shares at a natural scale. ``centred``: the value minus its mean over the last axis, or None if that has
    no cheap form. ``operand``: opened at the full ring. ``inverse``: 1 / value where a cheap form exists. ``flag``: a
    boolean, as an opened bit. ``range``: of its elements, where calibration has found it. ``spread``: the smaller value
    that this one repeats, and the axes on which its axes lie. ``linear``: how it is made of an owner's weights.
    """

    shape: tuple[int, ...]
    make_raw: Callable[[], Scaled]
    make_operand: Callable[["Joint"], Scaled]
    make_centred: Callable[[], Scaled] | None = None
    affine: Affine | None = None
    masked: Masked | None = None
    inverse: "Joint | None" = None
    flag: Callable[[], Var] | None = None
    range: Range | None = None
    spread: "tuple[Joint, tuple[int, ...]] | None" = None
    linear: "Linear | None" = None

    @cached_property
    def raw(self) -> Scaled:
        """Shares of the value."""
        return self.make_raw()

    @cached_property
    def operand(self) -> Scaled:
        """The value, opened at the full ring at the operands' scale."""
        return self.make_operand(self)

    @cached_property
    def centred(self) -> Scaled | None:
        """Shares of the value minus its mean over the last axis."""
        return None if self.make_centred is None else self.make_centred()


Term = Known | Owned | Joint


def owner_of(terms: Iterable[Term]) -> str:
    """The owner of what is computed from the terms of one owner and public ones."""
    return next((t.owner for t in terms if isinstance(t, Owned) and t.owner != PUBLIC), PUBLIC)


def deepest(terms: Iterable[Term]) -> int | None:
    """The depth of what is computed from ``terms``."""
    depths = [t.depth for t in terms if isinstance(t, Owned)]
    return None if None in depths else max(depths, default=0)  # type: ignore[type-var]


def centring(f: Callable[..., Scaled], *xs: Joint) -> Callable[[], Scaled] | None:
    """How a centred form is made by ``f`` from those of ``xs``, if all of them have one."""
    if any(x.make_centred is None for x in xs):
        return None
    return lambda: f(*(x.centred for x in xs))

"""A call of a private function, taken apart: arrays, which may be secret, and everything else.

What is no array (flags, names, methods, Python numbers) is part of the program, as a static argument of ``jax.jit``
is: Python decides by it while the function is traced.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import jax
import numpy as np

from comet_jax.errors import CometError
from comet_jax.frontend.trace import Traced, trace
from comet_jax.ir.jaxprs import concrete, is_key
from comet_jax.passes.lower import Input, OwnedInput, SharedInput
from comet_jax.policy import Policy
from comet_jax.runtime.secret import Secret, Shares, is_secret


@dataclass(frozen=True)
class Pure:
    """A function of its arguments alone, with those of one call; ``key`` identifies the function between calls."""

    fn: Callable[..., Any]
    args: tuple
    kwargs: dict[str, Any]
    key: Hashable


class Call:
    """One call. ``arrays``: secrets, public arrays, and shapes, in order; ``key``: what its plan depends on."""

    def __init__(self, pure: Pure, policy: Policy):
        found, self._tree = jax.tree_util.tree_flatten_with_path((pure.args, pure.kwargs), is_leaf=is_secret)
        self.pure, self.policy = pure, policy
        self._leaves = [leaf for _, leaf in found]
        self._places = [i for i, leaf in enumerate(self._leaves) if _is_array(leaf)]
        self._paths = [found[i][0] for i in self._places]
        self.arrays = [self._leaves[i] for i in self._places]
        for x in self.arrays:
            if is_key(x) and isinstance(x, Secret | jax.ShapeDtypeStruct):
                raise CometError(f"an argument is {x}: random keys are public here, pass the key itself")

    @property
    def key(self) -> Hashable:
        """The function, the policy, kinds of secrets, and the values of all that is public."""
        return self.pure.key, self.policy, self._tree, tuple(map(_identity, self._leaves))

    def trace(self) -> Traced:
        """The function's graph on this call's arrays."""

        def flat(*arrays):
            leaves = list(self._leaves)
            for i, x in zip(self._places, arrays, strict=True):
                leaves[i] = x
            args, kwargs = jax.tree_util.tree_unflatten(self._tree, leaves)
            return self.pure.fn(*args, **kwargs)

        typed = lambda x: x.dtype if is_key(x) else jax.dtypes.canonicalize_dtype(x.dtype)
        avals = [jax.ShapeDtypeStruct(x.shape, typed(x)) for x in self.arrays]
        return trace(flat, avals, self._inputs(), self.policy)

    def _inputs(self) -> list[Input]:
        # Where only shapes are known, weights are taken to come first.
        several = len(self.pure.args) > 1
        out: list[Input] = []
        for x, path in zip(self.arrays, self._paths):
            role = "model" if several and _argument(path) == "0" else "client"
            out.append(_input(x, _name(path), role, self.policy))
        return out


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _input(x: Any, name: str, role: str, policy: Policy) -> Input:
    if isinstance(x, Secret) and isinstance(x.payload, Shares):
        return SharedInput(x.shape, x.dtype, x.payload.ring, x.payload.scale, x.payload.has_centred)
    if not isinstance(x, Secret | jax.ShapeDtypeStruct):
        return concrete(x)
    owner = x.owner if isinstance(x, Secret) else role
    assert owner is not None
    return OwnedInput("client" if policy.publishes(name) else owner, name, tuple(x.shape), np.dtype(x.dtype))


def _identity(x: Any) -> Hashable:
    """What a plan depends on of an argument."""
    if isinstance(x, Secret):
        extra = (x.payload.scale, x.payload.ring, x.payload.has_centred) if isinstance(x.payload, Shares) else x.owner
        return x.shape, str(x.dtype), extra
    if isinstance(x, jax.ShapeDtypeStruct):
        return x.shape, str(x.dtype), "shape"
    if _is_array(x):
        array = np.asarray(jax.random.key_data(x) if is_key(x) else x)
        return array.shape, str(array.dtype), sha256(array.tobytes()).hexdigest()
    try:
        hash(x)
    except TypeError as error:
        raise CometError(
            f"an argument of type {type(x).__name__} is neither an array nor hashable, so the call cannot be cached: "
            "pass arrays, or settings that do not change"
        ) from error
    return type(x), repr(x) if isinstance(x, float) else x


def _parts(path: tuple) -> list[str]:
    return [str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path]


def _argument(path: tuple) -> str | None:
    """The number of a positional argument, of the two trees of arguments."""
    kind, *rest = _parts(path)
    return rest[0] if kind == "0" and rest else None


def _name(path: tuple) -> str:
    """The path of an input without the argument's number: params/block0/qkv/kernel."""
    kind, *rest = _parts(path)
    if kind == "0" and len(rest) == 1:
        return f"argument {rest[0]}"
    return "/".join(rest if kind == "1" else rest[1:])

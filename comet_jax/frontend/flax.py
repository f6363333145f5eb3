"""``@private`` on what users have: linen modules, nnx modules, functions.

Decorated things behave as before on ordinary arrays. With a secret among the arguments (or in an nnx module's state)
the call goes to the session instead.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.errors import TraceContextError

from comet_jax.errors import CometError
from comet_jax.frontend.call import Call, Pure
from comet_jax.frontend.trace import Traced
from comet_jax.policy import Policy
from comet_jax.runtime.secret import is_secret

Execute = Callable[["Private", tuple, dict[str, Any]], Any]


@dataclass(frozen=True, eq=False)
class _Itself:
    """Stands for an object that cannot be hashed: equal to itself only. It keeps the object, whose id stays its own."""

    of: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.of is other.of

    def __hash__(self) -> int:
        return id(self.of)


class Private:
    """A function that runs privately where it is given secrets. As a class attribute it binds like a method."""

    def __init__(self, fn: Callable[..., Any], policy: Policy, execute: Execute):
        self.fn, self.policy, self._execute = fn, policy, execute
        update_wrapper(self, fn, updated=())

    def __get__(self, instance: Any, owner: type | None = None) -> Self:
        return self if instance is None else type(self)(self.fn.__get__(instance, owner), self.policy, self._execute)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.takes_secrets(args, kwargs):
            return self.fn(*args, **kwargs)
        return self._execute(self, args, kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> Traced:
        """The first stage of a call, as of ``jax.jit``: ``.trace(...).lower().as_text()``. Nothing is run.

        Arguments are secrets, public arrays, or shapes (``jax.ShapeDtypeStruct``), which count as secrets.
        """
        return self.call(args, kwargs).trace()

    def call(self, args: tuple, kwargs: dict[str, Any]) -> Call:
        """A call of this function."""
        return Call(self.pure(args, kwargs), self.policy)

    def under(self, policy: Policy) -> Self:
        """The same function with another policy."""
        return type(self)(self.fn, policy, self._execute)

    def takes_secrets(self, args: tuple, kwargs: dict[str, Any]) -> bool:
        """Whether a call with these arguments is private."""
        return has_secret((args, kwargs))

    def pure(self, args: tuple, kwargs: dict[str, Any]) -> Pure:
        """A function of its arguments alone, and those."""
        owner = getattr(self.fn, "__self__", None)
        key = (getattr(self.fn, "__func__", self.fn), owner if _hashable(owner) else _Itself(owner))
        return Pure(self.fn, args, kwargs, key)


class PrivateModule(Private):
    """The ``__call__`` of an nnx module, whose state is an argument like any other."""

    @property
    def module(self) -> Any:
        """The module that it is bound to."""
        return self.fn.__self__  # type: ignore[attr-defined]

    def takes_secrets(self, args: tuple, kwargs: dict[str, Any]) -> bool:
        return has_secret((args, kwargs)) or has_secret(nnx.state(self.module))

    def pure(self, args: tuple, kwargs: dict[str, Any]) -> Pure:
        # Random state (of an inactive dropout, say) is no data: it stays with the module.
        graphdef, random, state = nnx.split(self.module, nnx.RngState, ...)
        method = self.fn.__func__  # type: ignore[attr-defined]

        def function(state, *args, **kwargs):
            # A copy, which belongs to this trace: a layer may ask for a key that it does not use.
            module = nnx.merge(graphdef, jax.tree.map(jnp.copy, random), state)
            before = jax.tree.leaves(_data(module))
            try:
                out = method(module, *args, **kwargs)
            except TraceContextError as error:
                raise CometError(f"{_changes(module)}: {error}") from error
            if any(a is not b for a, b in zip(before, jax.tree.leaves(_data(module)), strict=True)):
                raise CometError(f"{_changes(module)}: a private call computes and changes nothing")
            return out

        if not _hashable(graphdef):
            raise CometError(f"{type(self.module).__name__} has an attribute that cannot be hashed, so it has no cache")
        return Pure(function, (nnx.to_pure_dict(state), *args), kwargs, (method, graphdef))


@dataclass
class PrivateInstance:
    """A linen module instance with a private ``apply``; everything else is the module's own."""

    module: nn.Module
    apply: Private

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


def has_secret(tree: Any) -> bool:
    """Whether any leaf is a secret."""
    return any(map(is_secret, jax.tree.leaves(tree, is_leaf=is_secret)))


def _hashable(x: Hashable) -> bool:
    try:
        hash(x)
    except TypeError:
        return False
    return True


def make_private(obj: Any, policy: Policy, execute: Execute) -> Any:
    """``obj`` made private: see ``comet_jax.private``."""
    ordinary = lambda fn: fn.fn if isinstance(fn, Private) else fn
    if isinstance(obj, Private):
        return obj.under(policy)
    if isinstance(obj, PrivateInstance):
        return PrivateInstance(obj.module, obj.apply.under(policy))
    if isinstance(obj, type):
        if issubclass(obj, nn.Module):
            obj.apply = Private(ordinary(obj.apply), policy, execute)
            return obj
        if issubclass(obj, nnx.Module) and hasattr(obj, "__call__"):  # noqa: B004 (its instances' method)
            obj.__call__ = PrivateModule(ordinary(obj.__call__), policy, execute)
            return obj
    elif isinstance(obj, nn.Module):
        return PrivateInstance(obj, Private(ordinary(obj.apply), policy, execute))
    elif isinstance(obj, nnx.Module):
        if callable(obj):
            return PrivateModule(ordinary(type(obj).__call__).__get__(obj), policy, execute)
    elif callable(obj):
        return Private(obj, policy, execute)
    raise CometError(f"private() takes a Flax module, its class, or a function, not {type(obj).__name__}")


def _data(module: nnx.Module) -> Any:
    """A module's state without the random one."""
    return nnx.state(module, nnx.Not(nnx.RngState))


def _changes(module: nnx.Module) -> str:
    return f"{type(module).__name__} changes its state when it is called (running statistics); call its eval() first"


def share_module(module: nnx.Module, f: Callable[[Any], Any]) -> nnx.Module:
    """A copy of an nnx module whose arrays are ``f`` of them; random state is no data and stays as it is."""
    graphdef, random, state = nnx.split(module, nnx.RngState, ...)
    return nnx.merge(graphdef, random, jax.tree.map(f, state))

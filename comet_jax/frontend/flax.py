"""``@private`` on what users have: linen modules, nnx modules, functions.

Decorated things behave as before on ordinary arrays. With a secret among the arguments (or in an nnx module's state)
the call goes to the session instead.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from comet_jax.errors import CometError
from comet_jax.policy import Policy
from comet_jax.runtime.secret import is_secret

Execute = Callable[..., Any]


class Private:
    """A function that runs privately where it is given secrets. As a class attribute it binds like a method."""

    def __init__(self, fn: Callable[..., Any], policy: Policy, execute: Execute, owner: Any = None):
        self.fn, self.policy, self._execute, self.owner = fn, policy, execute, owner
        update_wrapper(self, fn)

    def __get__(self, instance: Any, owner: type | None = None) -> "Private":
        if instance is None:
            return self
        return Private(self.fn.__get__(instance, owner), self.policy, self._execute, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not has_secret((args, kwargs)):
            return self.fn(*args, **kwargs)
        return self._execute(self, args, kwargs)

    def pure(self, args: tuple, kwargs: dict[str, Any]) -> tuple[Callable[..., Any], tuple, dict[str, Any]]:
        """A function of arrays alone, and its arguments."""
        return self.fn, args, kwargs

    @property
    def key(self) -> Any:
        """What identifies the function between calls."""
        return getattr(self.fn, "__func__", self.fn), self.owner if _hashable(self.owner) else id(self.owner)


class PrivateModule(Private):
    """The ``__call__`` of an nnx module, whose state is an argument like any other."""

    def __get__(self, instance: Any, owner: type | None = None) -> "Private":
        if instance is None:
            return self
        return PrivateModule(self.fn.__get__(instance, owner), self.policy, self._execute, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not has_secret((args, kwargs)) and not has_secret(nnx.state(self.owner)):
            return self.fn(*args, **kwargs)
        return self._execute(self, args, kwargs)

    def pure(self, args: tuple, kwargs: dict[str, Any]) -> tuple[Callable[..., Any], tuple, dict[str, Any]]:
        graphdef, state = nnx.split(self.owner)
        method = getattr(self.fn, "__func__", self.fn)

        def function(state, *args, **kwargs):
            return method(nnx.merge(graphdef, state), *args, **kwargs)

        return function, (nnx.to_pure_dict(state), *args), kwargs

    @property
    def key(self) -> Any:
        return getattr(self.fn, "__func__", self.fn), str(nnx.split(self.owner)[0])


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


def _hashable(x: Any) -> bool:
    try:
        hash(x)
    except TypeError:
        return False
    return True


def make_private(obj: Any, policy: Policy, execute: Execute) -> Any:
    """``obj`` made private: see ``comet_jax.private``."""
    if isinstance(obj, type):
        if issubclass(obj, nn.Module):
            obj.apply = Private(obj.apply, policy, execute)  # type: ignore[assignment]
            return obj
        if issubclass(obj, nnx.Module):
            obj.__call__ = PrivateModule(obj.__call__, policy, execute)  # type: ignore[operator]
            return obj
    elif isinstance(obj, nn.Module):
        return PrivateInstance(obj, Private(obj.apply, policy, execute, obj))
    elif isinstance(obj, nnx.Module):
        call = type(obj).__call__  # type: ignore[operator]
        return PrivateModule(call.__get__(obj), policy, execute, obj)
    elif callable(obj):
        return Private(obj, policy, execute)
    raise CometError(f"private() takes a Flax module, its class, or a function, not {type(obj).__name__}")


def share_module(module: nnx.Module, f: Callable[[Any], Any]) -> nnx.Module:
    """A copy of an nnx module whose arrays are ``f`` of them."""
    graphdef, state = nnx.split(module)
    return nnx.merge(graphdef, jax.tree.map(f, state))

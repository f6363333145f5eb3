"""The table of rules. Adding an operation is adding a function.

A rule takes the scope, the node and the terms of its inputs, at least one of them not ``Known`` and not all of them
of one owner (such nodes are computed in the clear by whoever knows the inputs), and returns the terms of its outputs.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from comet_jax.rules.terms import Term

Rule = Callable[..., "Term | Sequence[Term]"]
F = TypeVar("F", bound=Rule)
RULES: dict[str, Rule] = {}
# Operations whose inputs may have axes of one element where the output has more.
ELEMENTWISE: set[str] = set()


def rule(*names: str, elementwise: bool = False) -> Callable[[F], F]:
    """Register a rule for the operations ``names``."""

    def register(f: F) -> F:
        for name in names:
            if name in RULES:
                raise ValueError(f"there is a rule for {name} already")
            RULES[name] = f
            if elementwise:
                ELEMENTWISE.add(name)
        return f

    return register

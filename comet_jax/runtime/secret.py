"""A secret array as the user's code sees it: a shape, a dtype, an owner, and no value."""

from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from comet_jax.errors import SecretLeakError


@dataclass(frozen=True, eq=False)
class Shares:
    """A value that exists as shares: its scale, its ring's bits, and what this process holds of it.

    ``held``: in one process both parties' shares, in a party's process its own, elsewhere None. ``centred``: likewise
    for the value without its mean over the last axis, if it was sealed so.
    """

    scale: float
    ring: int
    held: Any
    centred: Any = None
    has_centred: bool = False


@dataclass(frozen=True, eq=False)
class Secret:
    """An array that no server may see. Made by ``share`` and by private functions; read by ``reveal``.

    ``owner`` is the role that shared it, or None for a result. ``payload`` is the owner's value where this process
    is the owner, ``Shares`` for a result, and None where this process has nothing.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    owner: str | None
    session: Any = field(repr=False)
    payload: Any = field(repr=False, default=None)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))

    def __repr__(self) -> str:
        shape = ",".join(map(str, self.shape))
        return f"Secret({self.dtype}[{shape}], {'of ' + self.owner if self.owner else 'shared'})"

    def _refuse(self, what: str) -> NoReturn:
        raise SecretLeakError(
            f"{self!r} was used {what}, which would show it to this program. Keep it inside a @private function, "
            "where jnp.where and lax.select choose by a secret, or reveal it to a role that may see it."
        )

    def __bool__(self):
        self._refuse("as a Python bool")

    def __int__(self):
        self._refuse("as a Python int")

    def __float__(self):
        self._refuse("as a Python float")

    def __index__(self):
        self._refuse("as an index")

    def __array__(self, *args, **kwargs):
        self._refuse("as a NumPy array")

    def __iter__(self):
        self._refuse("in a loop")


def is_secret(leaf: Any) -> bool:
    """Whether ``leaf`` is a secret."""
    return isinstance(leaf, Secret)

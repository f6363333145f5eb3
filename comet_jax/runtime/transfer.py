"""Shares on their way from an owner to the parties: a key for party 0, from which its shares follow, and for party 1
the differences. So an owner sends little more than the size of its data, once."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import DTypeLike

from comet_jax.errors import CometError
from comet_jax.runtime.link import Link
from comet_jax.runtime.messages import Message
from comet_jax.runtime.roles import PARTIES
from comet_jax.runtime.session import STATIC, random_elements
from comet_jax.sharing import chacha
from comet_jax.sharing.groups import Group

Specs = Mapping[int, tuple[tuple[int, ...], Group]]
"""Number of an array -> its shape and group."""


def send_shares(
    links: Mapping[str, Link], what: str, run: int, elements: Mapping[int, tuple[np.ndarray, Group]], timeout: float
) -> None:
    """At an owner: share ``elements`` (number -> ring elements and their group) between the parties."""
    key = chacha.new_key()
    links[PARTIES[0]].send(what, {"run": run}, {"key": key}, timeout=timeout)
    rest = {}
    for i, (x, group) in elements.items():
        rest[str(i)] = group.sub(x, random_elements(key, chacha.nonce(STATIC, i), x.shape, group))
    links[PARTIES[1]].send(what, {"run": run}, rest, timeout=timeout)


def receive_shares(link: Link, party: int, what: str, run: int, specs: Specs, timeout: float) -> dict[int, np.ndarray]:
    """At a party: its shares of what the owner at the other end of ``link`` shares, as ``specs`` says.

    Raises ``CometError`` for another run, and for arrays that are missing or of another shape or type.
    """
    message = link.receive(what, timeout=timeout)
    if message.fields.get("run") != run:
        raise CometError(f"{link.peer} sent {what} for run {message.fields.get('run')} where {run} was next")
    if party == 0:
        key = array(link.peer, message, "key", (8,), np.uint32)
        return {i: random_elements(key, chacha.nonce(STATIC, i), shape, g) for i, (shape, g) in specs.items()}
    return {i: array(link.peer, message, str(i), tuple(shape), group.dtype) for i, (shape, group) in specs.items()}


def array(peer: str, message: Message, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """The array ``name`` of a message from ``peer``, if it is what was expected; else ``CometError``."""
    found = message.arrays.get(name)
    if found is None or found.shape != shape or found.dtype != dtype:
        got = "nothing" if found is None else f"{found.dtype}{list(found.shape)}"
        raise CometError(
            f"{peer} sent {got} as {name!r} of {message.kind!r}, where {np.dtype(dtype)}{list(shape)} was due: it is "
            "not used, and this session ends. Give all roles the same program and shapes"
        )
    return found

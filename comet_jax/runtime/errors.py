"""Errors of everything between processes: who is at the other end, whether it lives, whether it agrees.

All of them derive from `comet_jax.errors.CometError`. Their messages name the role at the other end, say what
was seen, and say what to do; they never contain a value of a tensor.
"""

from __future__ import annotations

from comet_jax.errors import CometError


class CredentialsError(CometError):
    """A key or certificate is missing, readable by others, expired, or belongs to another role."""


class LinkError(CometError):
    """A message or a connection is not what was expected; the link is closed and cannot be used again."""


class PeerLostError(LinkError):
    """The process at the other end ended, stopped answering, or said that it gave up.

    Attributes:
        role: the role of the lost peer, as its certificate names it ("party1").
    """

    def __init__(self, message: str, role: str) -> None:
        super().__init__(message)
        self.role = role


class HandshakeError(CometError):
    """Two processes that are about to work together hold different programs, policies or versions."""


class TranscriptError(CometError):
    """The parties saw different openings: somebody changed or dropped data between them. Nothing was revealed."""


class StockError(CometError):
    """Dealt material was about to be used twice, out of order, in the wrong session, or has run out."""


class DryStockError(StockError):
    """All dealt material is used. All roles of a session run dry at the same run."""

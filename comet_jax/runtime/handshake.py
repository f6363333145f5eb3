"""Before any data moves: do both ends hold the same program? Before any reveal: did both see the same openings?

`shake` compares program, policy, versions and session of two processes, and fails on both sides, naming the
field and both values. Two parties with different programs would add shares that do not belong together; at best
the result is noise, at worst an opening carries a mask twice.

`compare_transcripts` is the guard against an active attacker on the parties' link: he cannot read shares, but he
could shift openings and read secrets off a revealed output. Both parties hash all openings and flags, exchange
the hashes over a TLS link, and raise on a difference *before* anything is revealed. Parties are semi-honest, so
a plain exchange is enough; no commitment is needed.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import re
import types
from collections.abc import Mapping
from typing import Any

from comet_jax.runtime.errors import HandshakeError, TranscriptError
from comet_jax.runtime.link import Link, printable

PACKAGES = ("comet_jax", "jax", "jaxlib", "numpy")
"""Packages whose versions both ends must share: another XLA may round, or order collectives, differently."""

_ADVICE = types.MappingProxyType(
    {
        "program": "compile the same model, shapes and policy at both ends",
        "policy": "give both ends the same Policy",
        "versions": "install the same versions at both ends",
        "session": "use the session id that was agreed for this run at both ends",
        "role": "give each process its own role's credentials",
    }
)


@dataclasses.dataclass(frozen=True)
class Hello:
    """What a process says about itself.

    Attributes:
        role: its role ("party0").
        program: SHA-256 of the compiled program, 64 hex digits.
        policy: the policy's canonical text or digest.
        session: the session's id.
        versions: package -> version, with "python".
    """

    role: str
    program: str
    policy: str
    session: str
    versions: Mapping[str, str]


def hello(role: str, program: str, policy: str, session: str) -> Hello:
    """The `Hello` of this process, with the versions installed here."""
    return Hello(role, program, policy, session, installed_versions())


def installed_versions() -> dict[str, str]:
    """Versions of `PACKAGES` as installed here, and Python's "major.minor"."""
    found = {name: importlib.metadata.version(name.replace("_", "-")) for name in PACKAGES}
    return found | {"python": ".".join(platform.python_version_tuple()[:2])}


def shake(link: Link, mine: Hello, timeout: float | None = None) -> Hello:
    """Exchange `Hello`s over `link` and insist that they agree; returns the peer's.

    Raises:
        HandshakeError: a field differs (both sides raise it), or the peer's hello is malformed.
        LinkError: the link broke.
    """
    if mine.role != link.role:
        raise HandshakeError(f"this process says it is {mine.role}, but its certificate says {link.role}")
    if not re.fullmatch(r"[0-9a-f]{64}", mine.program):
        raise HandshakeError(f"program is {mine.program!r}: give its SHA-256 as 64 lower-case hex digits")
    link.send("hello", dataclasses.asdict(mine) | {"versions": dict(mine.versions)}, timeout=timeout)
    fields = link.receive("hello", timeout=timeout).fields
    theirs = _parse(fields, link.peer)
    # Both sides hold both hellos here, so both find the same difference; neither needs to report it.
    if theirs.role != link.peer:
        raise _mismatch("role", link, link.peer, theirs.role, f"certificate of {link.peer}")
    for package in sorted(mine.versions.keys() | theirs.versions.keys()):
        ours, other = mine.versions.get(package, "none"), theirs.versions.get(package, "none")
        if ours != other:
            raise _mismatch("versions", link, f"{package} {ours}", f"{package} {other}")
    for field in ("session", "policy", "program"):
        if getattr(mine, field) != getattr(theirs, field):
            raise _mismatch(field, link, getattr(mine, field), getattr(theirs, field))
    return theirs


def compare_transcripts(link: Link, digest: bytes, label: str = "", timeout: float | None = None) -> None:
    """Return only if the peer's transcript digest equals ours.

    Args:
        link: the control link between the parties.
        digest: SHA-256 of all openings and flags so far, 32 bytes.
        label: which reveal this is for; both ends must be at the same one.
        timeout: seconds.

    Raises:
        TranscriptError: the digests or labels differ. Reveal nothing.
        LinkError: the link broke, or the peer sent no digest. Reveal nothing.
    """
    if len(digest) != 32:
        raise TranscriptError(f"a transcript digest has 32 bytes, not {len(digest)}: pass a SHA-256")
    link.send("transcript", {"digest": digest.hex(), "label": label}, timeout=timeout)
    fields = link.receive("transcript", timeout=timeout).fields
    if fields.get("label") != label:
        raise TranscriptError(
            f"{link.role} is about to do {label!r}, {link.peer} {printable(fields.get('label'))!r}: the parties "
            f"are out of step. Nothing was revealed; start a new session"
        )
    if fields.get("digest") != digest.hex():
        raise TranscriptError(
            f"{link.role} and {link.peer} saw different openings before {label!r} ({digest.hex()[:16]}... here, "
            f"{printable(fields.get('digest'))[:16]}... there): data changed between the parties. Nothing was "
            f"revealed. Check the tunnel that carries the party link; start a new session"
        )


def _parse(fields: Mapping[str, Any], peer: str) -> Hello:
    """A `Hello` from received JSON; its values are checked for type only."""
    names = [field.name for field in dataclasses.fields(Hello)]
    versions = fields.get("versions")
    texts = [fields.get(name) for name in names if name != "versions"]
    if fields.keys() != set(names) or not all(isinstance(text, str) for text in texts):
        raise HandshakeError(f"the hello of {peer} is malformed: it needs {names}; is it another version?")
    if not isinstance(versions, dict) or not all(isinstance(text, str) for text in versions.values()):
        raise HandshakeError(f"the hello of {peer} is malformed: versions maps package names to versions")
    return Hello(**fields)


def _mismatch(field: str, link: Link, ours: str, theirs: str, here: str = "") -> HandshakeError:
    return HandshakeError(
        f"{field} differs: {here or link.role} has {printable(ours)!r}, {link.peer} has {printable(theirs)!r}. No "
        f"data was sent: {_ADVICE[field]}"
    )

"""Who is who: one self-signed certificate per role, pinned by every other role.

Parties, dealer, client and model owner are distinct organisations without a common authority, so there is no
certificate chain to trust. Each makes a key and a self-signed certificate with `create`, keeps the key, and
gives the certificate to the others, who compare `fingerprint`s over another channel (a phone). A role's
directory then holds its own `<role>.key` and the `<role>.crt` of everybody.

The *exact bytes* of a certificate identify a role (see `link.py`); names inside it, chains and authorities
decide nothing. Keys are Ed25519: they only sign the TLS 1.3 handshake, whose session keys come from a fresh
Diffie-Hellman exchange, so a key stolen later opens no recorded traffic.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import os
import stat
import types
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from comet_jax.runtime.errors import CredentialsError
from comet_jax.runtime.roles import ROLES as ROLES


@dataclasses.dataclass(frozen=True)
class Credentials:
    """What one role needs to prove who it is and to recognise the others.

    Attributes:
        role: the role that holds `key`.
        key: path of its private key (PEM); the key itself is only ever read by OpenSSL.
        certificate: path of its own certificate (PEM).
        pinned: role -> certificate (DER bytes) of every *other* role found in the directory.
        own: its own certificate (DER bytes).
    """

    role: str
    key: Path
    certificate: Path
    pinned: Mapping[str, bytes]
    own: bytes

    def fingerprint(self, role: str) -> str:
        """SHA-256 (hex) of the certificate of `role`, to compare over another channel."""
        return hashlib.sha256(self.own if role == self.role else self.certificate_of(role)).hexdigest()

    def certificate_of(self, role: str) -> bytes:
        """The pinned certificate (DER) of `role`.

        Raises:
            CredentialsError: no certificate of that role is pinned.
        """
        if role not in self.pinned:
            raise CredentialsError(
                f"{self.role} has no certificate of {role!r} in {self.key.parent} (it knows "
                f"{sorted(self.pinned)}): copy {role}.crt there from the organisation that runs {role!r}"
            )
        return self.pinned[role]

    def role_of(self, certificate: bytes) -> str | None:
        """The role whose pinned certificate (DER) is exactly `certificate`; None when nobody's is."""
        return next((role for role, pinned in self.pinned.items() if pinned == certificate), None)


def create(directory: str | os.PathLike[str], roles: Sequence[str] = ROLES, days: int = 365) -> None:
    """Write `<role>.key` (PEM, mode 0600) and `<role>.crt` (PEM) for each role into `directory`.

    Making all roles at once is for tests and for one machine. In production each organisation calls this for
    its own role and hands over the `.crt` alone.

    Args:
        directory: created (mode 0700) when missing.
        roles: names such as "party0"; letters, digits, "-" and "_".
        days: how long the certificates are valid.

    Raises:
        CredentialsError: a role's name cannot be a file name, or its key or certificate exists already
            (replacing it would cut off everybody who pinned it).
    """
    directory = Path(directory)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for role in roles:
        if not role.replace("-", "").replace("_", "").isalnum():
            raise CredentialsError(f"role {role!r} is not a name: use letters, digits, '-' and '_'")
        for path in (directory / f"{role}.key", directory / f"{role}.crt"):
            if path.exists():
                raise CredentialsError(
                    f"{path} exists: the others pinned it, so it is not replaced. Delete it first if they "
                    f"are ready to pin a new one, or choose another directory"
                )
    for role in roles:
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        # Created with its final mode: a key that is readable by others for an instant is a leaked key.
        handle = os.open(directory / f"{role}.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
        certificate = _self_signed(key, role, days)
        (directory / f"{role}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def load(directory: str | os.PathLike[str], role: str) -> Credentials:
    """The key of `role` and the certificates of everybody in `directory`.

    Raises:
        CredentialsError: a file is missing or malformed, the key can be read by other users or does not
            belong to the certificate, a certificate names another role than its file does, or has expired.
    """
    directory = Path(directory)
    key, certificate = directory / f"{role}.key", directory / f"{role}.crt"
    for path in (key, certificate):
        if not path.is_file():
            raise CredentialsError(
                f"{path} is missing: make it with comet_jax.runtime.credentials.create({str(directory)!r}, "
                f"roles=({role!r},)), or name the directory that holds the credentials of {role!r}"
            )
    if stat.S_IMODE(key.stat().st_mode) & 0o077:
        raise CredentialsError(f"{key} can be read by other users: chmod 600 it (and consider it leaked)")
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise CredentialsError(f"{key} is not an unencrypted PEM private key ({error})") from None
    own = _read(certificate)
    if own.public_key() != private.public_key():
        raise CredentialsError(f"{key} and {certificate} do not belong together: restore the matching pair")
    others = {path.stem: _read(path) for path in sorted(directory.glob("*.crt")) if path.stem != role}
    der = serialization.Encoding.DER
    pinned = {name: other.public_bytes(der) for name, other in others.items()}
    return Credentials(role, key, certificate, types.MappingProxyType(pinned), own.public_bytes(der))


def _self_signed(key: Ed25519PrivateKey, role: str, days: int) -> x509.Certificate:
    """A certificate of `role` that is nobody's authority."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, role)])
    now = datetime.datetime.now(datetime.UTC)
    # CA:FALSE, so that no role can sign a certificate that OpenSSL would accept for another role.
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # An hour back: clocks of different organisations differ.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, algorithm=None)
    )


def _read(path: Path) -> x509.Certificate:
    """The certificate in `path`, checked against the role in the file's name and against the clock."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise CredentialsError(f"{path} is not a PEM certificate ({error}): copy it again") from None
    names = [str(a.value) for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [path.stem]:
        raise CredentialsError(f"{path} is a certificate of {names}, not of {path.stem!r}: a mixed-up copy?")
    if certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        raise CredentialsError(
            f"{path} expired on {certificate.not_valid_after_utc:%Y-%m-%d}: {path.stem} must make a new key "
            f"and certificate, and everybody must pin the new certificate"
        )
    return certificate

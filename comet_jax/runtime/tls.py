"""TLS 1.3 between two pinned certificates: the socket under a link.

Both sides prove possession of their key, and each side then compares the other's certificate, byte for byte,
with the pinned one. OpenSSL's own verification runs too (it is what makes the proof of possession mandatory),
but it only says "some pinned certificate"; the comparison says which role.

Session resumption is off, so that every connection makes a fresh Diffie-Hellman exchange: recorded traffic stays
closed to whoever steals a key later.
"""

from __future__ import annotations

import contextlib
import socket
import ssl

from comet_jax.runtime.credentials import Credentials
from comet_jax.runtime.errors import LinkError


def secure(raw: socket.socket, credentials: Credentials, *, server: bool, timeout: float) -> tuple[ssl.SSLSocket, str]:
    """Run the handshake on a connected TCP socket; return the TLS socket (non-blocking) and the peer's role.

    Takes over `raw`: it is closed on any error.

    Args:
        raw: a connected TCP socket.
        credentials: who we are and whom we know.
        server: True on the side that accepted the connection.
        timeout: seconds that the handshake may take.

    Raises:
        LinkError: the other side has no pinned certificate, speaks no TLS 1.3, or refused ours.
        OSError: the connection broke or timed out before that was known.
    """
    tls = raw
    try:
        raw.settimeout(timeout)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = _context(credentials, server).wrap_socket(raw, server_side=server)
        certificate = tls.getpeercert(binary_form=True)
        role = credentials.role_of(certificate) if certificate else None
        if role is None:
            raise LinkError(_stranger(credentials, "shows a certificate that is not pinned"))
        tls.setblocking(False)
        return tls, role
    except ssl.SSLCertVerificationError as error:
        quietly_close(tls)
        what = f"shows a certificate that is not accepted ({error.verify_message})"
        raise LinkError(_stranger(credentials, what)) from None
    except ssl.SSLError as error:
        quietly_close(tls)
        raise LinkError(
            _stranger(credentials, f"speaks no TLS 1.3 or does not accept us ({error.reason or error})")
        ) from None
    except BaseException:
        quietly_close(tls)
        raise


def quietly_close(sock: socket.socket) -> None:
    """Close `sock`, whatever state it is in."""
    with contextlib.suppress(OSError):
        sock.close()


def _context(credentials: Credentials, server: bool) -> ssl.SSLContext:
    """TLS 1.3 only, both sides authenticated, no resumption, nobody trusted but the pinned certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Certificates are pinned by their bytes; host names mean nothing here.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(credentials.certificate, credentials.key)
    if credentials.pinned:
        context.load_verify_locations(cadata=b"".join(credentials.pinned.values()))
    if server:
        context.num_tickets = 0
    return context


def _stranger(credentials: Credentials, what: str) -> str:
    return (
        f"the other side {what}; {credentials.role} knows {sorted(credentials.pinned)}: check the address, and "
        f"that both organisations hold each other's current .crt file"
    )

"""Where the roles are: addresses and credentials, the same for every command that plays a role."""

from dataclasses import dataclass
from pathlib import Path

from comet_jax.errors import CometError
from comet_jax.runtime import credentials
from comet_jax.runtime.session import Session


@dataclass(frozen=True, kw_only=True)
class Network:
    """Addresses of the parties and this role's folders."""

    party0: str = "127.0.0.1:7100"
    """Where party 0 listens for the other roles, as host:port."""
    party1: str = "127.0.0.1:7101"
    """Where party 1 listens for the other roles, as host:port."""
    collectives: str = "127.0.0.1:7102"
    """Where the two parties meet for their openings, as host:port of party 0."""
    keys: Path = Path("keys")
    """Folder with this role's key and everybody's certificates: see `comet-jax keys`."""
    state: Path = Path("state")
    """Folder that records which dealt material was used. Keep it; never share or restore it."""
    patience: float = 60.0
    """Seconds to wait for the other roles to start."""

    def options(self) -> list[str]:
        """These settings as a command line."""
        pairs = {"party0": self.party0, "party1": self.party1, "collectives": self.collectives}
        pairs |= {"keys": str(self.keys), "state": str(self.state), "patience": str(self.patience)}
        return [part for name, value in pairs.items() for part in (f"--{name}", value)]

    def session(self, role: str, runs: int) -> Session:
        """A session as ``role`` for at most ``runs`` runs of a program."""
        addresses = {
            "party0": _address(self.party0, "--party0"),
            "party1": _address(self.party1, "--party1"),
            "party0/jax": _address(self.collectives, "--collectives"),
        }
        return Session.connect(
            role=role,
            addresses=addresses,
            credentials=self.keys,
            state=self.state / role,
            stock=runs,
            timeout=self.patience,
        )


def _address(text: str, option: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise CometError(f"{option} is {text!r}: give host:port, such as 192.0.2.7:7100")
    return host, int(port)


def keys(*, folder: Path = Path("keys"), roles: tuple[str, ...] = credentials.ROLES) -> None:
    """Make keys and certificates, by default of all roles, for trials on one machine.

    Between organisations each makes its own role's key on its own machine (`--roles party0`) and gives the others the
    .crt file alone; they compare fingerprints over another channel.

    Args:
        folder: where to write them.
        roles: whose.
    """
    credentials.create(folder, roles)
    for role in roles:
        print(f"{folder / role}.crt  SHA-256 {credentials.load(folder, role).fingerprint(role)}")

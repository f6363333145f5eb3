"""The collectives between two parties' processes, by ``jax.distributed``.

JAX 0.10 neither encrypts nor authenticates them: between organisations they need a tunnel. Its own detection of dead
processes is slower than the watchdog's, and its limits here only bound what the watchdog does not see.
"""

import contextlib
from collections.abc import Iterator

import jax

from comet_jax.errors import CometError
from comet_jax.runtime.spmd import OnMesh


@contextlib.contextmanager
def collectives(address: tuple[str, int], party: int, timeout: float) -> Iterator[OnMesh]:
    """The layout of two parties in two processes, of which this one is ``party``.

    ``address``: where party 0 coordinates. Leaving it without an error waits for the other party to leave too.
    """
    where = f"{address[0]}:{address[1]}"
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            where,
            2,
            party,
            local_device_ids=[0],
            coordinator_bind_address=where if party == 0 else None,
            initialization_timeout=int(timeout),
            heartbeat_timeout_seconds=30,
            shutdown_timeout_seconds=5,
        )
    except jax.errors.JaxRuntimeError as error:
        raise CometError(
            f"the parties' collectives cannot start at {where} ({_first_line(error)}): the address 'party0/jax' must "
            "be a free port of party 0's machine that party 1 can reach"
        ) from error
    except RuntimeError as error:
        raise CometError(
            "a party's session must be the first thing that JAX does in its process, and the only one: open it before "
            f"any array is made or model is initialised ({_first_line(error)})"
        ) from error
    yield OnMesh([next(d for d in jax.devices() if d.process_index == p) for p in (0, 1)], (party,))
    jax.distributed.shutdown()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]

"""What one exchange between the two parties costs, collective by collective and size by size.

A private program is a chain of dependent openings, so the number that matters is the time of one exchange
*inside* a compiled program, where each exchange waits for the one before it. This benchmark starts two
processes joined by `jax.distributed` (gloo on CPU, NCCL on GPU), compiles a chain of exchanges with each of
`ppermute`, `all_gather` and `psum`, and prints medians as JSON:

    python benchmarks/collectives.py --sizes 4 65536 8388608

Each link of the chain adds what arrived to what was sent, as an opening does, so nothing can be removed or
reordered by the compiler. Times include that one addition.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import statistics
import subprocess
import sys
import time

import tyro

PARTIES = 2


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure exchanges between two processes of this machine."""

    sizes: tuple[int, ...] = (1, 64 * 1024, 8 * 1024 * 1024)
    """Bytes sent by each party in one exchange (below 4: uint8 elements, else uint32)."""
    collectives: tuple[str, ...] = ("ppermute", "all_gather", "psum")
    chain: int = 50
    """Dependent exchanges inside one compiled program."""
    repeats: int = 9
    """Timed runs of the program; the median is reported."""
    taskset: bool = False
    """Pin process i to core i (this starves the I/O thread of gloo: compare)."""
    xla_flags: str = ""
    """XLA_FLAGS of both processes."""
    env: tuple[str, ...] = ()
    """More environment, as NAME=VALUE."""
    worker: int | None = None
    """Internal: which of the two processes this is."""
    address: str = ""
    """Internal: where process 0 coordinates."""


def exchange(name: str, x):
    """One exchange: `x` of this party plus `x` of the other, by the collective `name`."""
    import jax

    if name == "ppermute":
        return x + jax.lax.ppermute(x, "party", [(0, 1), (1, 0)])
    if name == "all_gather":
        both = jax.lax.all_gather(x, "party")
        return both[0] + both[1]
    if name == "psum":
        return jax.lax.psum(x, "party")
    raise ValueError(f"unknown collective {name!r}: use ppermute, all_gather or psum")


def measure(options: Options, name: str, size: int) -> list[float]:
    """Seconds per exchange, one figure per timed run of a chain of `options.chain` exchanges."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    mesh = jax.make_mesh((PARTIES,), ("party",), axis_types=(jax.sharding.AxisType.Auto,))
    dtype = np.uint8 if size < 4 else np.uint32
    local = np.full((1, max(1, size // dtype().itemsize)), options.worker, dtype)
    x = jax.make_array_from_process_local_data(NamedSharding(mesh, P("party")), local, (PARTIES, local.shape[1]))

    def chain(x):
        for _ in range(options.chain):
            # A value that differs per party and step, so that a sum of equal terms cannot be folded.
            x = exchange(name, x) ^ jax.lax.axis_index("party").astype(dtype)
        return x

    program = jax.jit(jax.shard_map(chain, mesh=mesh, in_specs=P("party"), out_specs=P("party"), check_vma=False))
    jnp.asarray(program(x).addressable_data(0)).block_until_ready()
    seconds = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        program(x).block_until_ready()
        seconds.append((time.perf_counter() - start) / options.chain)
    return seconds


def work(options: Options) -> None:
    """Body of one of the two processes; process 0 prints the JSON."""
    # Gloo writes "[Gloo] Rank 0 is connected ..." to stdout from C++; keep stdout for the JSON.
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(options.address, num_processes=PARTIES, process_id=options.worker)
    rows = []
    for size in options.sizes:
        for name in options.collectives:
            times = measure(options, name, size)
            median = statistics.median(times)
            rows.append(
                {
                    "collective": name,
                    "bytes": size,
                    "median_us": round(median * 1e6, 1),
                    "best_us": round(min(times) * 1e6, 1),
                    "worst_us": round(max(times) * 1e6, 1),
                    "megabytes_per_second": round(size / median / 1e6, 3),
                }
            )
    if options.worker == 0:
        about = {"backend": jax.default_backend(), "jax": jax.__version__, "cores": os.cpu_count()}
        about |= {"taskset": options.taskset, "xla_flags": options.xla_flags, "env": options.env}
        print(
            json.dumps({"about": about, "chain": options.chain, "rows": rows}, indent=1),
            file=report,
            flush=True,
        )
    jax.distributed.shutdown()


def free_port() -> int:
    """A TCP port nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launch(options: Options) -> int:
    """Start both processes, wait for both, return the first bad exit status (0 if none)."""
    address = f"127.0.0.1:{free_port()}"
    env = os.environ | dict(pair.split("=", 1) for pair in options.env)
    if options.xla_flags:
        env["XLA_FLAGS"] = options.xla_flags
    processes = []
    for i in range(PARTIES):
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", str(i), "--address", address]
        if options.taskset:
            command = ["taskset", "-c", str(i), *command]
        processes.append(subprocess.Popen(command, env=env))
    return max(abs(p.wait()) for p in processes)


def main() -> None:
    """Command line."""
    options = tyro.cli(Options, description=__doc__)
    if options.worker is None:
        raise SystemExit(launch(options))
    work(options)


if __name__ == "__main__":
    main()

"""One party of a feed-forward layer in SPU (SEMI2K, 64-bit field). Runs in SPU's own environment; ``benchmarks.peers``
starts it.

Weights are masked once, in the run that is not timed, as ours are. Triples come from a trusted first party, within the
timed region. Prints one JSON object.
"""

import json
import os
import pickle
import re
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from shapes import inputs, reference

SENT = re.compile(rb"total send bytes (\d+), recv bytes \d+, send actions (\d+)")


def main(rank: str, addresses: str, shape: str, tokens: str, runs: str, where: str) -> None:
    """``addresses``: HOST:PORT of both parties, with a comma between. ``where``: a folder that both parties see."""
    folder = Path(where)
    answer = os.dup(1)
    log = os.memfd_create("log")
    os.dup2(log, 1)  # SPU prints what it sent
    import jax
    import spu
    from spu.utils import frontend

    config = spu.RuntimeConfig(protocol=spu.ProtocolKind.SEMI2K, field=spu.FieldType.FM64)
    config.fxp_fraction_bits = 18
    config.enable_pphlo_profile = True
    link = spu.link.Desc()
    link.recv_timeout_ms = 200_000
    for i, address in enumerate(addresses.split(",")):
        link.add_party(f"party{i}", address)
    context = spu.link.create_brpc(link, int(rank))
    runtime = spu.Runtime(context, config)

    clear = inputs(shape, int(tokens))
    names = list(clear)

    def ffn(x, w1, b1, w2, b2):
        once = spu.experimental.make_cached_var
        return jax.nn.relu(x @ once(w1) + b1) @ once(w2) + b2

    secret = [spu.Visibility.VIS_SECRET] * len(names)
    program, _ = frontend.compile(
        frontend.Kind.JAX, ffn, tuple(clear.values()), {}, names, secret, lambda o: [f"y{i}" for i in range(len(o))]
    )
    # The first party makes all shares and leaves the other's in ``folder``: it is one measurement on one machine.
    io = spu.Io(2, config)
    if rank == "0":
        shares = {name: io.make_shares(value, spu.Visibility.VIS_SECRET) for name, value in clear.items()}
        for i in range(2):
            (folder / f"shares{i}").write_bytes(pickle.dumps({name: both[i] for name, both in shares.items()}))
    context.barrier()
    for name, share in pickle.loads((folder / f"shares{rank}").read_bytes()).items():
        runtime.set_var(name, share)
    seconds = []
    for _ in range(1 + int(runs)):
        context.barrier()
        began = time.perf_counter()
        runtime.run(program)
        seconds.append(time.perf_counter() - began)
    sent, actions = map(int, SENT.findall(os.pread(log, os.fstat(log).st_size, 0))[-1])
    (folder / f"result{rank}").write_bytes(pickle.dumps(runtime.get_var(program.output_names[0])))
    context.barrier()
    results = [pickle.loads((folder / f"result{i}").read_bytes()) for i in range(2)]
    error = np.abs(np.asarray(io.reconstruct(results)) - reference(clear)).max()
    figures = {"rounds": actions, "online_bytes": sent, "wall_s": statistics.median(seconds[1:])}
    os.write(answer, (json.dumps(figures | {"max_abs_err": float(error)}) + "\n").encode())
    context.stop_link()  # sends what is pending: without it the other party waits
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])

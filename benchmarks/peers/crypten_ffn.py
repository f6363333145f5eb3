"""One party of a feed-forward layer in CrypTen. Runs in CrypTen's own environment; ``benchmarks.peers`` starts it.

Its triples come from a "trusted first party" and are made within the timed region. Prints one JSON object.
"""

import json
import os
import statistics
import sys
import time
import types

import numpy as np
from shapes import inputs, reference


def load():
    """torch and CrypTen; CrypTen 0.4.1 imports a module of torch's exporter that newer releases do not have."""
    import torch

    sys.modules.setdefault("torch.onnx._internal.registration", types.SimpleNamespace(registry=None))
    import crypten

    return torch, crypten


def main(rank: str, addresses: str, shape: str, tokens: str, runs: str, _: str) -> None:
    """``addresses``: HOST:PORT of both parties, with a comma between."""
    first = addresses.split(",")[0]
    os.environ.update(WORLD_SIZE="2", RANK=rank, RENDEZVOUS=f"tcp://{first}", DISTRIBUTED_BACKEND="gloo")
    torch, crypten = load()
    from crypten import communicator
    from crypten.config import cfg

    torch.set_num_threads(1)
    crypten.init()
    cfg.communicator.verbose = True  # or nothing is counted
    link, clear = communicator.get(), inputs(shape, int(tokens))
    held = {name: crypten.cryptensor(torch.from_numpy(value), src=0) for name, value in clear.items()}
    seconds, result = [], None
    for _ in range(1 + int(runs)):
        link.barrier()
        link.reset_communication_stats()
        began = time.perf_counter()
        hidden = (held["x"].matmul(held["w1"]) + held["b1"]).relu()
        result = hidden.matmul(held["w2"]) + held["b2"]
        seconds.append(time.perf_counter() - began)
        counted = link.comm_rounds, link.comm_bytes // 2  # bytes sent and received
    error = np.abs(result.get_plain_text().numpy() - reference(clear)).max()
    figures = {"rounds": counted[0], "online_bytes": counted[1], "wall_s": statistics.median(seconds[1:])}
    print(json.dumps(figures | {"max_abs_err": float(error)}), flush=True)
    os._exit(0)  # gloo's threads may hang at exit


if __name__ == "__main__":
    main(*sys.argv[1:])

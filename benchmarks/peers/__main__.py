"""A feed-forward layer in another system, over the links of ``benchmarks.links``: what our figures are read beside.

    python -m venv spu && spu/bin/pip install spu==0.9.5
    python -m benchmarks.peers spu spu/bin/python
    python -m venv crypten && crypten/bin/pip install torch==2.13.0 omegaconf onnx pyyaml scipy pandas future
    crypten/bin/pip install --no-deps crypten==0.4.1
    python -m benchmarks.peers crypten crypten/bin/python --shapes ffn1b --tokens 1

Each system needs an environment of its own (Python 3.11). Bytes are those that one party sends, as the system itself
counts them. Seconds are medians over runs after one that is not counted.
"""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from benchmarks.links import LINKS, NotPermittedError, joined, link_named
from comet_jax.commands.local import Place
from comet_jax.errors import CometError

HERE = Path(__file__).resolve().parent
PORTS = (7100, 7101)


@dataclass(frozen=True, kw_only=True)
class Options:
    """A feed-forward layer in another system, over links of given rate and latency."""

    system: tyro.conf.Positional[Literal["spu", "crypten"]]
    """Which one."""
    python: tyro.conf.Positional[Path]
    """The Python of an environment that it is installed in."""
    shapes: tuple[Literal["ffn", "ffn1b"], ...] = ("ffn", "ffn1b")
    """OPT-125m's and OPT-1.3B's."""
    tokens: tuple[int, ...] = (1, 16)
    """Rows of the input."""
    links: tuple[str, ...] = ("loopback", *LINKS)
    """loopback, lan, metro, wan, or MBPS/RTT_MS."""
    runs: int = 3
    """Timed runs, after one that is not."""
    timeout: Annotated[float, tyro.conf.arg(help="Seconds that one case may take.")] = 600.0


def measured(options: Options, shape: str, tokens: int, link: str) -> dict[str, Any]:
    """The first party's figures of one case. Raises ``CometError`` with what a party said when it failed."""
    with _places(link) as places, tempfile.TemporaryDirectory() as folder:
        addresses = ",".join(f"{place.address}:{port}" for place, port in zip(places, PORTS, strict=True))
        script = HERE / f"{options.system}_ffn.py"
        what = (addresses, shape, str(tokens), str(options.runs), folder)
        parties = [
            subprocess.Popen(
                (*place.prefix, "env", "OMP_NUM_THREADS=1", options.python.absolute(), script, str(rank), *what),
                cwd=folder,  # SPU leaves files where it runs
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, place in enumerate(places)
        ]
        try:
            said = [party.communicate(timeout=options.timeout) for party in parties]
        except subprocess.TimeoutExpired:
            raise CometError(f"{shape} with {tokens} tokens over {link} took more than {options.timeout} s") from None
        finally:
            for party in parties:
                party.kill()
        for rank, (_, error) in enumerate(said):
            if parties[rank].returncode:
                raise CometError(f"party {rank} failed: {error[-2000:]}")
    return {"system": options.system, "shape": shape, "tokens": tokens, "link": link, **json.loads(said[0][0])}


@contextmanager
def _places(link: str) -> Iterator[list[Place]]:
    if link == "loopback":
        yield [Place("127.0.0.1", ())] * 2
        return
    with joined(link_named(link), ("party0", "party1")) as places:
        yield [places["party0"], places["party1"]]


def main() -> None:
    """Command line."""
    options = tyro.cli(Options, description=__doc__)
    try:
        with Console(stderr=True).status("") as status:
            for shape in options.shapes:
                for tokens in options.tokens:
                    for link in options.links:
                        status.update(f"{options.system}: {shape}, {tokens} tokens, over {link}")
                        print(json.dumps(measured(options, shape, tokens, link)), flush=True)
    except CometError as error:
        raise SystemExit(f"skipped: {error}" if isinstance(error, NotPermittedError) else str(error)) from None


if __name__ == "__main__":
    main()

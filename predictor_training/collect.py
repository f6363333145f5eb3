"""Inputs of feed-forward layers, streamed to disk: what predictors are trained on.

Hidden activations are four times as large and a function of the inputs, so they are computed again where they are
needed. Inputs are kept as float16, in shards of a fixed number of calls; a run that was stopped goes on after the last
whole shard.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.progress import Progress

from comet_jax.errors import CometError
from predictor_training.layers import Example, Model
from predictor_training.tasks import batches

SHARD = 64  # calls
Observe = Callable[[Sequence[Any]], Sequence[Any]]


def collect(
    model: Model,
    examples: Iterable[Example],
    calls: int,
    folder: Path,
    progress: Progress,
    batch: int = 16,
    gates: tuple[str, Observe] | None = None,
) -> "Activations":
    """Run ``calls`` examples and write the inputs of all layers to ``folder``.

    ``gates``: a name for them, and what observes the model with its gates, if it was trained with some.

    Raises ``CometError`` for a folder of another model, and for inputs that are not finite as float16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name, observe = gates or ("", model.observe)
    facts = {"model": model.digest, "gates": name, "sites": [f.site for f in model.ffns]}
    note = folder / "model.json"
    if note.exists() and json.loads(note.read_text()) != facts:
        raise CometError(f"{folder} holds activations of another model, or with other gates: give another --folder")
    note.write_text(json.dumps(facts))
    shards = -(-calls // SHARD)
    task = progress.add_task(f"collect {folder.name}", total=shards)
    stream, hashed, seen = iter(examples), sha256(name.encode()), 0
    for i in range(shards):
        mine = list(islice(stream, min(SHARD, calls - i * SHARD)))
        for leaf in jax.tree.leaves(mine):
            hashed.update(np.ascontiguousarray(leaf).tobytes())
        seen += len(mine)
        paths = [folder / f"{i:05}.{k}.npy" for k in range(len(model.ffns))]
        if mine and not all(_has(p, len(mine)) for p in paths):
            _write(model, observe, mine, paths, batch)
        progress.advance(task)
    (folder / "data.json").write_text(json.dumps({"sha256": hashed.hexdigest(), "calls": seen}))
    return Activations(folder, seen)


def _has(path: Path, calls: int) -> bool:
    return path.exists() and len(np.load(path, mmap_mode="r")) == calls


def _write(model: Model, observe: Observe, examples: list[Example], paths: list[Path], batch: int) -> None:
    found = zip(*(observe(b) for b in batches(examples, batch)))
    for path, parts, ffn in zip(paths, found, model.ffns):
        with np.errstate(over="ignore"):
            x = np.concatenate([np.asarray(p).astype(np.float16) for p in parts])
        if not np.isfinite(x).all():
            raise CometError(f"{ffn.site}: an input of the layer is not finite, or beyond 65504")
        np.save(part := path.with_suffix(".part.npy"), x)
        part.rename(path)


@dataclass(frozen=True)
class Activations:
    """Collected inputs, read from disk when asked for."""

    folder: Path
    calls: int

    @classmethod
    def open(cls, folder: Path, model: Model) -> "Activations":
        """What ``collect`` wrote. Raises ``CometError`` where there is nothing, or another model's."""
        try:
            facts, data = (json.loads((folder / f).read_text()) for f in ("model.json", "data.json"))
        except OSError as error:
            raise CometError(f"{folder} holds no activations yet: run `collect` first ({error})") from error
        if facts["model"] != model.digest:
            raise CometError(f"{folder} holds activations of another model")
        return cls(folder, data["calls"])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the examples."""
        return json.loads((self.folder / "data.json").read_text())["sha256"]

    def tokens(self, site: int) -> int:
        """Tokens of one call."""
        return prod(self._shard(site, 0).shape[2:-1])

    def inputs(self, site: int, layer: int, calls: Iterable[int]) -> np.ndarray:
        """Inputs of a layer in some calls: float32[len(calls), ..., width]."""
        return np.stack([self._shard(site, c // SHARD)[c % SHARD, layer] for c in calls]).astype(np.float32)

    def chunks(self, site: int, layer: int, size: int = 16) -> Iterator[np.ndarray]:
        """All inputs of a layer, in order."""
        for first in range(0, self.calls, size):
            yield self.inputs(site, layer, range(first, min(first + size, self.calls)))

    def _shard(self, site: int, shard: int) -> Any:
        return np.load(self.folder / f"{shard:05}.{site}.npy", mmap_mode="r")


def enough(activations: Activations, site: int, gates: int, width: int) -> None:
    """Raises ``CometError`` for fewer than 32 tokens for each of the numbers that a score or a gate depends on."""
    have, needed = activations.calls * activations.tokens(site), 32 * max(gates, width)
    if have < needed:
        calls = -(-needed // activations.tokens(site))
        raise CometError(
            f"{have:,} tokens are too few for {gates} gates of {width} inputs: at least {needed:,} are needed, "
            f"{calls:,} calls of this length, and a hundred times as many are better. Ask `collect` for more --calls"
        )

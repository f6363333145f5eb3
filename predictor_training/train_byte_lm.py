"""Train the bundled byte-level language model: ``python -m predictor_training.train_byte_lm --text FOLDER``.

Every text file under the given folders is read as bytes; each 20th file is held out. AdamW with a warm-up, a constant
rate and a linear decay over the last fifth. Resumes from ``--state`` where that file exists.

The bundled checkpoint was made from the sources of Python 3.11's documentation (PSF licence) as Debian's package
python3.11-doc has them, 10.4 MB to train on and 0.7 MB held out:

    python -m predictor_training.train_byte_lm --text /usr/share/doc/python3.11/html/_sources --rate 2e-3
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import serialization
from rich.progress import Progress

from comet_jax.models import byte_lm


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Options of the command line."""

    text: tuple[Path, ...]
    pattern: str = "*.txt"
    output: Path = byte_lm.CHECKPOINT
    state: Path | None = None
    steps: int = 3000
    batch: int = 16
    rate: float = 1.5e-3
    warmup: int = 100
    seed: int = 0
    save_every: int = 250


def read_corpus(folders: tuple[Path, ...], pattern: str) -> tuple[np.ndarray, np.ndarray]:
    """Bytes to train on and bytes held out, uint8[n] each; files in the order of their names."""
    files = sorted(p for folder in folders for p in (folder.rglob(pattern) if folder.is_dir() else [folder]))
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for i, path in enumerate(files):
        parts[i % 20 == 7].append(path.read_bytes() + b"\n")
    train, held_out = (np.frombuffer(b"".join(p), np.uint8) for p in parts)
    if min(len(train), len(held_out)) < 100_000:
        raise SystemExit(
            f"{len(train):,} bytes to train on and {len(held_out):,} held out, in {len(files)} files: "
            "too little text. Give more folders with --text, or another --pattern."
        )
    return train, held_out


def loss(params, model, windows):
    """Mean cross-entropy in nats a byte; windows: int32[batch, context + 1]."""
    logits = jax.vmap(lambda t: model.apply(params, t))(windows[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:]).mean()


def evaluate(params, model, data: np.ndarray, context: int, windows: int = 128) -> float:
    """Loss on evenly spread windows of ``data``."""
    starts = np.linspace(0, len(data) - context - 1, windows).astype(int)
    batch = np.stack([data[s : s + context + 1] for s in starts]).astype(np.int32)
    f = jax.jit(lambda p, b: loss(p, model, b))
    return float(np.mean([f(params, batch[i : i + 16]) for i in range(0, windows, 16)]))


def main(args: Arguments) -> None:
    """Train, and write a checkpoint now and then and at the end."""
    train, held_out = read_corpus(args.text, args.pattern)
    config = byte_lm.ByteLMConfig()
    model = byte_lm.ByteLM(config)
    decay = args.steps // 5
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0.0, args.rate, args.warmup),
            optax.constant_schedule(args.rate),
            optax.linear_schedule(args.rate, 0.02 * args.rate, decay),
        ],
        [args.warmup, args.steps - decay],
    )
    matrices = lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.95, weight_decay=0.1, mask=matrices)
    )
    params = model.init(jax.random.key(args.seed), jnp.zeros(config.context, jnp.int32))
    state, first = optimiser.init(params), 0
    if args.state and args.state.exists():
        saved: Any = serialization.from_bytes((first, params, state), args.state.read_bytes())
        first, params, state = saved

    @jax.jit
    def step(params, state, windows):
        value, gradient = jax.value_and_grad(loss)(params, model, windows)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    started = time.time()
    with Progress() as progress:
        task = progress.add_task("training", total=args.steps, completed=first)
        for i in range(first, args.steps):
            # Windows depend on the step alone, so a resumed run sees what an unbroken one would.
            starts = np.random.default_rng((args.seed, i)).integers(0, len(train) - config.context - 1, args.batch)
            windows = np.stack([train[s : s + config.context + 1] for s in starts]).astype(np.int32)
            params, state, value = step(params, state, windows)
            progress.update(task, advance=1, description=f"loss {float(value):.3f}")
            if (i + 1) % args.save_every == 0 or i + 1 == args.steps:
                held = evaluate(params, model, held_out, config.context)
                progress.console.print(f"step {i + 1}: held out {held:.4f} nats/byte, {time.time() - started:.0f} s")
                byte_lm.save(args.output, config, params, steps=str(i + 1), held_out_nats_per_byte=f"{held:.4f}")
                if args.state:
                    args.state.write_bytes(serialization.to_bytes((i + 1, params, state)))


if __name__ == "__main__":
    main(tyro.cli(Arguments))

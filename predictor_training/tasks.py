"""What predictors are trained for: a function, its weights, examples to learn from, and a loss."""

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from comet_jax.errors import CometError
from comet_jax.models import byte_lm
from predictor_training.layers import Example
from predictor_training.train_byte_lm import read_corpus

PYTHON_DOCUMENTATION = Path("/usr/share/doc/python3.11/html/_sources")


@dataclass(frozen=True, eq=False)
class Task:
    """``fn(weights, *example)``, and three streams of examples that share none: each call starts a stream anew.

    One example is the arguments of one call, all of the same shapes. ``train``: what predictors are fitted on, as many
    as are asked for. ``calibration``: what thresholds are chosen on. ``held_out``: what figures are reported on.
    ``loss(output, *example)``: a scalar in nats.
    """

    fn: Callable[..., Any]
    weights: Any
    train: Callable[[], Iterator[Example]]
    calibration: Callable[[], Iterator[Example]]
    held_out: Callable[[], Iterator[Example]]
    loss: Callable[..., Any]

    @property
    def example(self) -> Example:
        """One, for shapes."""
        for example in self.calibration():
            return example
        raise CometError("the model gives no examples")


def next_token_loss(logits, tokens):
    """Mean cross-entropy of the next token: logits [T, vocabulary], tokens int[T] -> scalar."""
    if jnp.ndim(tokens) != 1 or jnp.shape(logits)[:-1] != jnp.shape(tokens):
        raise CometError(
            f"the model makes {jnp.shape(logits)} of {jnp.shape(tokens)}, which is no prediction of next tokens: give "
            "a loss of its own beside the examples, loss(output, *example) -> nats"
        )
    return optax.softmax_cross_entropy_with_integer_labels(logits[:-1], tokens[1:]).mean()


def load(
    name: str,
    held_out: int,
    text: tuple[Path, ...] = (PYTHON_DOCUMENTATION,),
    pattern: str = "*.txt",
    weights: Path | None = None,
) -> Task:
    """The task ``byte_lm``, or of ``module:function``.

    The function returns ``fn, weights, examples``, and a loss after them unless the model predicts next tokens. Of the
    examples the first ``held_out`` calibrate, as many again are reported on, and the rest is trained on: give them in
    an order that keeps what belongs together apart from the rest (no text in two parts).
    """
    if name == "byte_lm":
        return byte_lm_task(text, pattern, held_out, weights or byte_lm.CHECKPOINT)
    module, _, function = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise CometError(f"--model {name}: {error}. It is byte_lm, or the module:function of your own") from error
    return of(make, held_out)


def of(make: Callable[[], tuple], held_out: int) -> Task:
    """The task of a function that returns ``fn, weights, examples`` and maybe a loss; called anew for each stream."""
    fn, weights, _, *rest = make()

    def part(first: int, last: int | None) -> Iterator[Example]:
        for example in islice(make()[2], first, last):
            yield example if isinstance(example, tuple) else (example,)

    n = held_out
    streams = (partial(part, 2 * n, None), partial(part, 0, n), partial(part, n, 2 * n))
    return Task(fn, weights, *streams, rest[0] if rest else next_token_loss)


def byte_lm_task(text: tuple[Path, ...], pattern: str, held_out: int, path: Path = byte_lm.CHECKPOINT) -> Task:
    """The bundled language model and its own text; of the part held out from it, one half calibrates."""
    config, weights = byte_lm.load(path)
    trained_on, rest = read_corpus(text, pattern)
    half = len(rest) // 2
    return Task(
        byte_lm.ByteLM(config).apply,
        weights,
        partial(_random_windows, trained_on, config.context),
        partial(_windows, rest[:half], config.context, held_out),
        partial(_windows, rest[half:], config.context, held_out),
        next_token_loss,
    )


def _random_windows(data: np.ndarray, length: int) -> Iterator[Example]:
    draw = np.random.default_rng(0)
    while True:
        start = draw.integers(0, len(data) - length)
        yield (data[start : start + length].astype(np.int32),)


def _windows(data: np.ndarray, length: int, count: int) -> Iterator[Example]:
    """``count`` evenly spread windows, fewer where they would overlap."""
    count = min(count, len(data) // length)
    for start in np.linspace(0, len(data) - length, count).astype(int):
        yield (data[start : start + length].astype(np.int32),)


def batches(examples: Iterable[Example], size: int) -> Iterator[list[np.ndarray]]:
    """The leaves of ``size`` examples stacked; the last batch may be smaller."""
    examples = iter(examples)
    while found := list(islice(examples, size)):
        yield [np.stack(leaves) for leaves in zip(*map(jax.tree.leaves, found), strict=True)]

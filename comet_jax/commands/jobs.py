"""What the roles do together: every role runs the same script, with values only where it has them.

Two jobs: ``text``, in which the bundled language model continues a prompt, and the benchmark cases.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import comet_jax as cj
from comet_jax import cases
from comet_jax.errors import CometError
from comet_jax.models import byte_lm

TEXT = "text"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to run. All roles must be given the same."""

    job: str = TEXT
    """`text`, or a case of `comet-jax bench`."""
    tokens: int | None = None
    """Positions of the model's window, or tokens of a case: by default 64, or the case's own."""
    runs: int = 24
    """Bytes to write, or timed runs of a case."""
    ring: Literal[32, 64] = 32
    """Bits of the ring."""
    gating: tyro.conf.OmitArgPrefixes[cases.Gating] = cases.DENSE
    """How the feed-forward layers are gated."""

    def case(self) -> cases.Case:
        """The case to run."""
        return cases.gated(cases.make(self.job, self.tokens), self.gating)

    def options(self) -> list[str]:
        """These settings as a command line."""
        tokens = [] if self.tokens is None else ["--tokens", str(self.tokens)]
        own = ["--job", self.job, *tokens, "--runs", str(self.runs), "--ring", str(self.ring)]
        return [*own, *self.gating.options()]


@dataclass(frozen=True)
class Written:
    """One byte of text at the client: the logits that led to it, and how long the client waited for them."""

    byte: int
    logits: np.ndarray
    seconds: float


def check_prompt(prompt: str, job: Job) -> bytes:
    """The prompt as bytes. Raises ``CometError`` where it does not fit the window."""
    text, room = prompt.encode(), window(job) - job.runs
    if not 0 < len(text) <= room:
        raise CometError(
            f"a prompt of {len(text)} bytes in a window of {window(job)} from which {job.runs} are to be written: "
            f"give 1 to {room} bytes, or another --tokens or --runs"
        )
    return text


def window(job: Job) -> int:
    """Positions of the language model's window."""
    context, length = byte_lm.ByteLMConfig().context, 64 if job.tokens is None else job.tokens
    if not 0 < job.runs < length <= context:
        raise CometError(
            f"--tokens {length} with --runs {job.runs}: the window has more than the runs, up to {context}"
        )
    return length


def write_text(
    session: cj.Session, job: Job, prompt: bytes = b"", each: Callable[[Written], None] = lambda _: None
) -> list[Written]:
    """Continue ``prompt``, which only the client gives; what was written, at the client.

    The window is always full: the servers learn neither the prompt's length nor which position is read.
    """
    length, text, written = window(job), list(prompt), []
    policy = byte_lm.policy(job.ring)
    if job.gating.gate is not None:
        predictor = byte_lm.predictor(job.gating.block, owner=session.holds("model"))
        policy = replace(policy, gates=(job.gating.by(predictor),))
    model = cj.private(byte_lm.ByteLM(byte_lm.ByteLMConfig()), policy=policy)
    weights = cj.share(_language_model(session), owner="model")
    for _ in range(job.runs):
        start = time.perf_counter()
        logits = cj.reveal(model.apply(weights, cj.share(_padded(session, text, length), owner="client")))
        if session.holds("client"):
            row = np.asarray(logits)[len(text) - 1]
            text.append(int(row.argmax()))
            written.append(Written(text[-1], row, time.perf_counter() - start))
            each(written[-1])
    return written


def _language_model(session: cj.Session) -> Any:
    if session.holds("model"):
        return byte_lm.load()[1]
    config = byte_lm.ByteLMConfig()
    tokens = jax.ShapeDtypeStruct((config.context,), jnp.int32)
    return jax.eval_shape(byte_lm.ByteLM(config).init, jax.random.key(0), tokens)


def _padded(session: cj.Session, text: list[int], length: int) -> Any:
    if not session.holds("client"):
        return jax.ShapeDtypeStruct((length,), jnp.int32)
    return _filled(text, length)


def _filled(text: list[int], length: int) -> np.ndarray:
    """The text in a full window."""
    return np.array(text + [ord(" ")] * (length - len(text)), np.int32)


def in_the_clear(prompt: bytes, count: int, length: int) -> list[Written]:
    """``write_text`` by the model's owner alone, without any secret: what to compare with."""
    config, params = byte_lm.load()
    apply, text, written = jax.jit(byte_lm.ByteLM(config).apply), list(prompt), []
    for _ in range(count):
        start = time.perf_counter()
        row = np.asarray(apply(params, _filled(text, length)))[len(text) - 1]
        text.append(int(row.argmax()))
        written.append(Written(text[-1], row, time.perf_counter() - start))
    return written


def run_case(session: cj.Session, job: Job) -> dict[str, float]:
    """Run a benchmark case once to compile and ``job.runs`` times to measure; the client's figures, at the client.

    Seconds of the parts of a run are in ``session.reports``, of each role its own.
    """
    case = job.case()
    policy = case.policy(job.ring)
    function = cj.private(case.function, policy=policy)
    weights = cj.share(case.weights if session.holds("model") else shapes(case.weights), owner="model")
    x = cj.share(case.x if session.holds("client") else shapes(case.x), owner="client")
    if case.sealed:
        x = cj.seal(x, policy)
    waits, result = [], None
    for _ in range(job.runs + 1):
        start = time.perf_counter()
        result = cj.reveal(function(weights, x))
        waits.append(time.perf_counter() - start)
    if not session.holds("client"):
        return {}
    plain, plain_wall = _timed_plain(case, job.runs)
    return {
        "plain_wall_s": plain_wall,
        "compile_s": waits[0] - statistics.median(waits[1:]),
        "max_abs_err": float(np.abs(np.asarray(result) - plain).max(initial=0.0)),
    }


def _timed_plain(case: cases.Case, runs: int) -> tuple[np.ndarray, float]:
    """The function in float32 under ``jit``: its result and the median of its seconds."""
    function, seconds = jax.jit(case.function), []
    weights, x = jax.device_put((case.weights, case.x))
    plain = function(weights, x).block_until_ready()
    for _ in range(runs):
        start = time.perf_counter()
        function(weights, x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return np.asarray(plain), statistics.median(seconds)


def shapes(tree: Any) -> Any:
    """The shapes and types of a tree of arrays."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)

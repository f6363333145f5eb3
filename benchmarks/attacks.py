"""What opened gates tell about a prompt: attacks on the bundled language model, by an adversary who has its weights.

The adversary sees, for each layer and token, which gates were opened, in an order that it does not know. So it looks at
what no order changes: how many gates are open, and, where the order lives longer than a token, how many two tokens have
in common. It guesses one byte after the other: knowing all bytes before, it computes what each of the 256 candidates
would show, and takes the one that fits best. (Where every guess is right, nothing before has to be known but the first
byte.) How what is shown follows from what the model does it learns beforehand, on text of its own: a template attack
(Chari, Rao, Rohatgi, CHES 2002). So it is not misled by a policy that hides, and says no more than there is.

    flags = attacks.opened(active, "counts", seed=0)     # or of a private run: bool[layers, tokens, gates]
    attacks.table()                                      # policies and what each of them gives away

Nothing here is part of an inference: everything is computed in the clear.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import binomtest, mannwhitneyu

from comet_jax.errors import CometError
from comet_jax.models import byte_lm
from comet_jax.predictors import Layer
from comet_jax.predictors.reference import scores

Policy = Literal["dense", "counts", "overlaps", "nothing"]
POLICIES: dict[Policy, str] = {
    "dense": "dense",
    "counts": "flags: counts",
    "overlaps": "flags: overlaps",
    "nothing": "nothing",
}
"""What is opened, and what it is called. Nothing; flags in a new order for each token; flags in one order for all
tokens of a session; sets of one size, in an order that is drawn for each."""

TEXT = (
    "The patient reports chest pain since Monday and takes two tablets of warfarin every evening. "
    "Please transfer the remaining amount to the account of my sister before the end of the month. "
    "Both companies agreed to keep the terms of the merger secret until the board has met in Zurich. "
    "I have not told anybody at work that the second test was positive as well. "
    "The new engine failed at full load, so the launch will have to wait for another three weeks. "
    "Her lawyer believes that the witness can be persuaded to change the earlier statement. "
)
"""Sentences that the bundled model was not trained on."""
WINDOW = 24
_BYTES = np.arange(256)


@dataclass(frozen=True, eq=False)
class Seen:
    """A window of text and what the model does at each position of it.

    ``tokens`` int32[T]. ``active`` bool[layers, T, gates]: which gates are open, in the model's own order.
    ``logits`` float32[T, 256]: of the next byte. ``shown`` float32[layers, T, 256, 1 + T]: what each candidate would
    show at a position, all before it as they are; None where only the text itself was computed. See ``shows``.
    """

    tokens: np.ndarray
    active: np.ndarray
    logits: np.ndarray
    shown: np.ndarray | None


def look(params: Any, tokens: np.ndarray, layers: Sequence[Layer] | None = None, *, candidates: bool = True) -> Seen:
    """The bundled model at ``tokens``, int32[T], and at all candidates for each of them.

    ``layers``: a predictor for each layer, whose gates are looked at; by default a gate is a neuron of the feed-forward
    layer and open where it is positive.
    """
    gates = None if layers is None else jax.tree.map(lambda *x: np.stack(x), *[(p.a, p.b, p.bias) for p in layers])
    others = np.tile(_BYTES if candidates else _BYTES[:0], (len(tokens), 1))
    every = np.concatenate([np.asarray(tokens)[:, None], others], 1)
    active, logits, shown = map(np.asarray, _forward(params["params"], every, gates))
    return Seen(np.asarray(tokens), active, logits, shown[:, :, 1:] if candidates else None)


@jax.jit
def _forward(p, every, gates):
    """``every`` int32[T, V]: candidates of each position, the first of which are the text that the others follow."""
    length = every.shape[0]
    x = p["tokens"]["embedding"][every] + p["positions"][:length, None]
    before = jnp.tril(jnp.ones((length, length), bool), -1)

    def block(x, layer):
        w, gate = layer
        x, active = _block(w, x, before, gate)
        truly = active[:, 0].astype(jnp.float32)
        common = jnp.where(before[:, None], jnp.einsum("tvg,ug->tvu", active.astype(jnp.float32), truly), 0)
        return x, (active[:, 0], jnp.concatenate([active.sum(-1, keepdims=True), common], -1))

    x, (active, shown) = jax.lax.scan(block, x, (p["blocks"], gates))
    return active, _norm(p["norm"], x[:, 0]) @ p["head"]["kernel"], shown


def _block(w, x, before, gate):
    """A block of the model for x [T, V, d], of which x[:, 0] is what later positions attend to; its gates too."""
    length, count, _ = x.shape
    heads = byte_lm.ByteLMConfig().heads
    first = _norm(w["norm1"], x)
    q, k, v = jnp.moveaxis(_dense(w["qkv"], first).reshape(length, count, 3, heads, -1), 2, 0)
    past = jnp.einsum("tvhd,uhd->tvhu", q, k[:, 0])
    own = (q * k).sum(-1, keepdims=True)
    attended = jnp.concatenate([jnp.where(before[:, None, None], past, -jnp.inf), own], -1)
    attended = jax.nn.softmax(attended / np.sqrt(q.shape[-1]))
    mixed = jnp.einsum("tvhu,uhd->tvhd", attended[..., :-1], v[:, 0]) + attended[..., -1:] * v
    mixed = mixed.reshape(x.shape)
    x = x + _dense(w["out"], mixed)
    h = _norm(w["norm2"], x)
    up = _dense(w["up"], h)
    active = up > 0 if gate is None else _asked(gate, h, first, mixed)
    return x + _dense(w["down"], jax.nn.relu(up)), active


def _asked(gate, h, first, mixed):
    """Which gates a predictor opens that reads the layer's input, or what attention has opened."""
    read = h if len(gate[0]) == h.shape[-1] else jnp.concatenate([first, mixed], -1)
    return scores(Layer("", np.arange(0), *gate), read) >= 0


def _dense(w, x):
    return x @ w["kernel"] + w["bias"]


def _norm(w, x):
    return nn.LayerNorm().apply({"params": w}, x)


def windows(text: str = TEXT, length: int = WINDOW) -> list[np.ndarray]:
    """``text`` cut into windows, int32[length] each."""
    found = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    return list(found[: len(found) // length * length].reshape(-1, length))


# What is opened.


def opened(active: np.ndarray, policy: Policy, seed: int, room: int | None = None, epoch: int = 1) -> np.ndarray:
    """What a policy opens of ``active``, bool[layers, T, gates]: as many flags, none if dense.

    ``seed``: of the secret orders. ``room``: of a policy that reveals nothing, how many gates are opened for a token,
    by default a quarter: the first that are active, and others where they are fewer. ``rules/active_sets.py`` prefers
    the largest scores, which changes nothing of what is opened; each token is a call of its own. ``epoch``: how many
    tokens in a row share an order, each with gates that none before of them has opened.
    """
    random, (depth, length, gates) = np.random.default_rng(seed), active.shape
    if policy == "dense":
        return active[..., :0]
    if policy == "nothing":
        active = _of_one_size(active, gates // 4 if room is None else room, epoch)
    order = random.random((depth, 1 if policy == "overlaps" else length, active.shape[-1])).argsort(-1)
    order = order[:, np.arange(order.shape[1]) // epoch * epoch]
    return np.take_along_axis(active, np.broadcast_to(order, active.shape), -1)


def _of_one_size(active: np.ndarray, room: int, epoch: int) -> np.ndarray:
    chosen = np.zeros(active.shape, bool)
    for t in range(active.shape[1]):
        before = chosen[:, t // epoch * epoch : t].any(1)  # of this epoch
        rank = np.where(before, 2, ~active[:, t]).argsort(-1, kind="stable")
        np.put_along_axis(chosen[:, t], rank[..., :room], True, -1)
    return chosen


def shows(flags: np.ndarray, length: int) -> np.ndarray:
    """What no order hides in opened flags: float64[layers, T, 1 + T].

    How many gates are open at a position, then how many of them are open at each position before it (others are 0).
    ``flags``: bool[layers, T, gates], in the order in which they were opened; with one row, which all T tokens share,
    it counts for all of them.
    """
    flags = np.broadcast_to(flags, (flags.shape[0], length, flags.shape[-1])).astype(np.float64)
    common = np.einsum("ltg,lug->ltu", flags, flags) * np.tri(length, k=-1)
    return np.concatenate([flags.sum(-1, keepdims=True), common], -1)


# What that tells.


@dataclass(frozen=True, eq=False)
class Template:
    """How what is shown follows from what the model does: seen = slope * shown + offset, give or take ``spread``.

    Each float64[layers, 1 or 2]: for counts, and for common gates where the adversary looks at them.
    """

    slope: np.ndarray
    offset: np.ndarray
    spread: np.ndarray

    @classmethod
    def fit(cls, seen: Sequence[np.ndarray], shown: Sequence[np.ndarray], kinds: int) -> "Template":
        """By least squares, from the adversary's own windows: ``seen`` and ``shown`` are both as of ``shows``."""
        found = []
        for kind in range(kinds):
            pairs = [_pairs(np.stack(a), kind) for a in (shown, seen)]
            x, y = (a - a.mean(-1, keepdims=True) for a in pairs)
            slope = (x * y).mean(-1) / np.maximum((x * x).mean(-1), 1e-9)
            offset = pairs[1].mean(-1) - slope * pairs[0].mean(-1)
            found.append((slope, offset, np.sqrt(((y - slope[:, None] * x) ** 2).mean(-1))))
        slope, offset, spread = (np.stack(a, -1) for a in zip(*found))
        return cls(slope, offset, np.maximum(spread, 0.5))  # what is seen is whole numbers

    def fits(self, seen: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """How well each candidate fits: log-likelihoods float64[T, V], up to a constant of each row.

        ``seen`` [layers, T, 1 + T], ``shown`` [layers, T, V, 1 + T].
        """
        length, kinds = seen.shape[1], self.slope.shape[-1]
        column = np.minimum(np.arange(1 + (length if kinds == 2 else 0)), 1)
        slope, offset, spread = (a[:, column][:, None, None] for a in (self.slope, self.offset, self.spread))
        off = (seen[:, :, None, : len(column)] - slope * shown[..., : len(column)] - offset) / spread
        told = np.concatenate([np.ones((length, 1)), np.tri(length, k=-1)], -1)[:, None, : len(column)]
        return -0.5 * (off**2 * told).sum((0, -1))


def _pairs(shows: np.ndarray, kind: int) -> np.ndarray:
    """Counts, or numbers of common gates, of several windows: [W, layers, T, 1 + T] to [layers, n]."""
    found = shows[..., 0] if kind == 0 else shows[..., 1:][..., np.tri(shows.shape[2], k=-1, dtype=bool)]
    return np.moveaxis(found, 1, 0).reshape(shows.shape[1], -1)


def fit(own: Sequence[Seen], flags: Sequence[np.ndarray], overlaps: bool) -> Template:
    """What an adversary learns from ``own`` windows and the ``flags`` opened for them, by the policy that is attacked.

    ``overlaps``: whether to look at what positions have in common, which says something only where an order lasts.
    """
    seen = [shows(f, len(w.tokens)) for w, f in zip(own, flags)]
    return Template.fit(seen, [shows(w.active, len(w.tokens)) for w in own], 1 + overlaps)


@dataclass(frozen=True)
class Guesses:
    """Guessed bytes of some windows, the first of each left out: how many were right, of how many.

    ``gates``: by what gates show alone. ``both``: with the model's own probabilities. ``model``: by those alone.
    """

    count: int
    gates: int
    both: int
    model: int
    better: int
    """Right with the gates and wrong without them, of those that differ."""
    worse: int

    def p_model(self) -> float:
        """How likely gates add so much to the model's own guesses, or more, if they say nothing (a sign test)."""
        return float(binomtest(self.better, max(1, self.better + self.worse), 0.5, "greater").pvalue)


def guess(text: Sequence[Seen], flags: Sequence[np.ndarray], template: Template, seed: int = 0) -> Guesses:
    """Guess each byte of ``text`` from ``flags``, all bytes before it being known. ``seed``: decides between equals."""
    random, rows = np.random.default_rng(seed), []
    for window, opened_flags in zip(text, flags):
        if window.shown is None:
            raise CometError("these windows were computed without candidates: look(..., candidates=True)")
        told = template.fits(shows(opened_flags, len(window.tokens)), window.shown)[1:]
        told = told - told.max(-1, keepdims=True) + 1e-9 * random.random(told.shape)
        prior = np.asarray(jax.nn.log_softmax(window.logits[:-1]), np.float64)
        right = [found.argmax(-1) == window.tokens[1:] for found in (told, told + prior, prior)]
        rows.append(np.stack(right))
    gates, both, model = np.concatenate(rows, -1)
    total = lambda x: int(x.sum())
    return Guesses(len(gates), total(gates), total(both), total(model), total(both & ~model), total(model & ~both))


def blind(text: Sequence[Seen], flags: Sequence[np.ndarray], template: Template, rounds: int, seed: int = 0):
    """The same guesses from rows of ``flags`` that belong to other windows and positions: ``Guesses``, one a round.

    What they get right is chance: 1 in 256, or as often as the bytes occur that an attack without news likes to guess.
    If what is opened says nothing of the prompt, the attack's own guesses are one more such round (a permutation test).
    """
    random = np.random.default_rng(seed)
    rows, ends = np.concatenate(flags, 1), np.cumsum([f.shape[1] for f in flags])[:-1]
    mixed = (np.split(random.permutation(rows, axis=1), ends, 1) for _ in range(rounds))
    return [guess(text, m, template, seed) for m in mixed]


def same_prompt(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> float:
    """Whether two sessions had the same prompt, from counts: the area under the ROC curve, 0.5 for a blind guess.

    ``first[i]`` and ``second[i]``: what was opened for prompt i in two sessions. The model is not needed.
    """
    counts = lambda runs: [f.sum(-1, dtype=np.float64) for f in runs]
    near = -np.array([[np.abs(a - b).sum() for b in counts(second)] for a in counts(first)])
    same = np.eye(len(near), dtype=bool)
    return area(near[same], near[~same])[0]


def which_prompt(text: Sequence[Seen], flags: Sequence[np.ndarray], template: Template) -> float:
    """How often the adversary tells which of two prompts that it knows was asked; 0.5 for a blind guess."""
    fits = np.array(
        [
            [template.fits(shows(f, len(w.tokens)), shows(w.active, len(w.tokens))[:, :, None]).sum() for w in text]
            for f in flags
        ]
    )
    margins = np.array([fits[i, i] - fits[i, j] for i, j in permutations(range(len(text)), 2)])
    return float(np.mean((margins > 0) + 0.5 * (margins == 0)))


def same_byte(text: Sequence[Seen], flags: Sequence[np.ndarray], overlaps: bool) -> tuple[float, float]:
    """Whether two positions hold the same byte, from flags alone: area under the ROC curve, and a p-value.

    By what they have in common, as a cosine (``overlaps``), or by how near their counts are.
    """
    near, same = [], []
    for window, opened_flags in zip(text, flags):
        length = len(window.tokens)
        seen, before = shows(opened_flags, length), np.tri(length, k=-1, dtype=bool)
        counts = seen[..., 0]
        if overlaps:
            found = (seen[..., 1:] / np.sqrt(np.maximum(counts[:, :, None] * counts[:, None], 1))).sum(0)
        else:
            found = -np.abs(counts[:, :, None] - counts[:, None]).sum(0)
        near.append(found[before])
        same.append((window.tokens[:, None] == window.tokens)[before])
    scored, truly = np.concatenate(near), np.concatenate(same)
    return area(scored[truly], scored[~truly])


def area(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float]:
    """The area under the ROC curve, and how likely that or more is if scores say nothing (Mann and Whitney)."""
    found = mannwhitneyu(positive, negative, alternative="greater")
    p = float(found.pvalue)
    return float(found.statistic) / (len(positive) * len(negative)), 1.0 if np.isnan(p) else p


COLUMNS = {
    "bytes": "bytes recovered from gates alone",
    "bytes_blind": "the same from gates of other text",
    "bytes_with_model": "with the model's own guesses",
    "bytes_model_alone": "by the model's own guesses alone",
    "same_prompt": "same prompt in two sessions (area under ROC)",
    "which_prompt": "which of two prompts (chance: 50%)",
    "same_byte": "same byte at two positions (area under ROC)",
}


def table(
    text: str = TEXT,
    *,
    attacked: int = 6,
    layers: Sequence[Layer] | None = None,
    room: int | None = None,
    policies: Sequence[Policy] = tuple(POLICIES),
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """What each policy gives away of ``text``: policy -> column (see ``COLUMNS``) -> a number between 0 and 1.

    The last ``attacked`` windows of the text are attacked; on those before, the adversary learns. ``layers``: gates of
    a predictor, a layer each; by default those of the ReLU itself. ``room``: see ``opened``.
    """
    params, cut = byte_lm.load()[1], windows(text)
    if attacked < 2 or len(cut) < attacked + 2:
        raise CometError(
            f"{len(cut)} windows of {WINDOW} bytes, {attacked} of them attacked: it takes at least two to attack, and "
            "two others to learn from"
        )
    own = [look(params, w, layers, candidates=False) for w in cut[:-attacked]]
    victims = [look(params, w, layers) for w in cut[-attacked:]]
    return {POLICIES[policy]: _row(own, victims, policy, room, seed) for policy in policies}


def _row(own: Sequence[Seen], victims: Sequence[Seen], policy: Policy, room: int | None, seed: int) -> dict[str, float]:
    """One policy's row of the table."""
    runs = iter(range(1000 * seed, 1000 * (seed + 1)))
    shown = lambda of: [opened(w.active, policy, next(runs), room) for w in of]
    # Of a policy that says nothing the adversary tries all that there is.
    overlaps = policy in ("overlaps", "nothing")
    template, flags = fit(own, shown(own), overlaps), shown(victims)
    found = guess(victims, flags, template, seed)
    return {
        "bytes": found.gates / found.count,
        "bytes_blind": float(np.mean([g.gates for g in blind(victims, flags, template, 10, seed)])) / found.count,
        "bytes_with_model": found.both / found.count,
        "bytes_model_alone": found.model / found.count,
        "same_prompt": same_prompt(shown(victims), flags),
        "which_prompt": which_prompt(victims, flags, template),
        "same_byte": same_byte(victims, flags, overlaps)[0],
    }

"""Calibrates the bundled models and cases: writes comet_jax/models/checkpoints/*.ranges.json.

    python benchmarks/calibrate.py            # all of them, about ten minutes
    python benchmarks/calibrate.py byte_lm

Run it with every JAX that should find the ranges: files keep the graphs of earlier runs beside the new ones. Language
models read text of this repository, MiniLM the sentences below, the cases of random weights random inputs.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

import comet_jax as cj
from comet_jax import cases
from comet_jax.errors import CometError
from comet_jax.models import bert, byte_lm, minilm

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "comet_jax" / "models" / "checkpoints"
SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "A patient presented with acute chest pain and shortness of breath.",
    "The defendant shall indemnify the plaintiff against all losses arising from the breach.",
    "Shares fell sharply after the company reported lower earnings than analysts had expected.",
    "How do I reset my password?",
    "!!!!!!",
    "42",
    "Die Katze sitzt auf der warmen Matte und schläft.",
    "x = [i ** 2 for i in range(10) if i % 3 == 0]",
    "Photosynthesis converts light energy into chemical energy in plants, algae and some bacteria.",
    "Call me at 555-0123 tomorrow, please.",
    "Biopsy results confirmed a benign tumour; no further treatment is needed at this time.",
    "To be, or not to be, that is the question.",
    "The treaty was signed in 1648 and ended thirty years of war in Europe.",
    "Mix the flour, two eggs and a pinch of salt, then bake for forty minutes at 180 degrees.",
    "http://example.org/index.html?q=1&lang=en",
    "I am so happy for you!!! :-)",
    "No.",
    "the the the the the the the the",
    "Quarterly revenue rose 12.5% to $3.4 billion, beating the consensus estimate of $3.1 billion.",
]


def windows(tokens: int, count: int) -> Iterator[np.ndarray]:
    """Pieces of this repository's text, as bytes."""
    text = b"\n".join((ROOT / name).read_bytes() for name in ("README.md", "LICENSE", "comet_jax/README.md"))
    for start in np.linspace(0, len(text) - tokens, count, dtype=int):
        yield np.frombuffer(text[start : start + tokens], np.uint8).astype(np.int32)


def of_byte_lm() -> cj.Calibration:
    config, params = byte_lm.load()
    inputs = [*windows(64, 24), *windows(1, 4)]
    return cj.calibrate(byte_lm.ByteLM(config).apply, *((params, x) for x in inputs), policy=_fresh(byte_lm.policy()))


def of_minilm() -> cj.Calibration:
    config, params = minilm.load()
    read = minilm.tokenizer()
    examples = [(params, np.array(read.encode(s).ids, np.int32)) for s in SENTENCES]
    policy = _fresh(minilm.policy(published=("bert/words",)))
    found = cj.calibrate(bert.SentenceEncoder(config).apply, *examples, policy=policy)
    # The largest of its values is one feature of the first and last token, nearly the same in every sentence: 226 over
    # 3,000 of them. It needs no such margin, and every bit of the residual's scale counts.
    at_most = lambda r: r and cj.Range(*(min(v, 256.0) for v in (r.smallest, r.largest, r.room)))
    assert found.policy.ranges
    graphs = tuple((digest, tuple(map(at_most, ranges))) for digest, ranges in found.policy.ranges.graphs)
    return replace(found, policy=replace(found.policy, ranges=cj.Ranges(graphs)))


def of_case(name: str) -> cj.Calibration:
    made = cases.make(name, min(32, cases.CASES[name][1]))
    r, policy = np.random.default_rng(1), _fresh(made.policy(32))
    others = [r.normal(0, 1, made.x.shape).astype(np.float32) for _ in range(2)]
    return cj.calibrate(made.function, *((made.weights, x) for x in (made.x, *others)), policy=policy)


def _fresh(policy: cj.Policy) -> cj.Policy:
    return cj.Policy(ring=policy.ring, numbers=policy.numbers, published=policy.published)


MAKERS = {
    "byte_lm": of_byte_lm,
    "minilm": of_minilm,
    **{name: lambda name=name: of_case(name) for name in ("layer", "opt125m", "gpt2")},
}


def main(names: list[str]) -> None:
    for name in names or MAKERS:
        try:
            found = MAKERS[name]()
        except CometError as error:
            print(f"{name}: left out: {error}")
            continue
        print(f"{name}\n{found}\n")
        path = FOLDER / f"{name}.ranges.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        assert found.policy.ranges
        path.write_text(json.dumps({**before, **json.loads(found.policy.ranges.json())}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

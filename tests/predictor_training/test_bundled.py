"""The gates that come with the bundled language model: for its weights, and as good as they say."""

import pydoc_data.topics

import numpy as np
import pytest

from comet_jax.models import byte_lm
from comet_jax.predictors.artifact import Predictor
from predictor_training import evaluate
from predictor_training.layers import Model
from predictor_training.tasks import next_token_loss

FOLDER = byte_lm.CHECKPOINT.parent
# By artifact: the weights that it is for, and the part by which the loss may grow.
BUNDLED = {
    "byte_lm.gates": ("byte_lm", 0.003),
    "byte_lm.blocks": ("byte_lm", 0.05),
    "byte_lm.sparse.gates": ("byte_lm.sparse", 0.003),
    "byte_lm.sparse.blocks": ("byte_lm.sparse", 0.03),
}


def windows(length):
    text = np.frombuffer("".join(pydoc_data.topics.topics.values()).encode(), np.uint8)
    return [(text[s : s + length].astype(np.int32),) for s in np.linspace(0, len(text) - length, 24).astype(int)]


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_gates_keep_the_loss(name):
    checkpoint, growth = BUNDLED[name]
    config, weights = byte_lm.load(FOLDER / f"{checkpoint}.safetensors")
    predictor = Predictor.load(FOLDER / f"{name}.safetensors")
    examples = windows(config.context)
    model = Model.of(byte_lm.ByteLM(config).apply, weights, examples[0])
    dense, _ = evaluate.run(model, next_token_loss, {}, examples)
    gated, notes = evaluate.run(model, next_token_loss, evaluate.predicted(model, predictor), examples)
    figures, claimed = evaluate.summary(sum(notes.values()).sum(0), 4 * len(examples)), predictor.facts["evaluation"]
    assert gated <= dense * (1 + growth)
    assert figures["kept"] == pytest.approx(claimed["kept"], rel=0.3)
    assert figures["count_recall"] == pytest.approx(claimed["count_recall"], rel=0.1)
    assert figures["kept"] <= predictor.sites[0].capacity


def test_the_sparse_weights_lose_nothing_with_their_gates():
    examples = windows(128)
    plain, sparse = (byte_lm.load(FOLDER / f"byte_lm{name}.safetensors") for name in ("", ".sparse"))
    of = lambda found: Model.of(byte_lm.ByteLM(found[0]).apply, found[1], examples[0])
    dense, _ = evaluate.run(of(plain), next_token_loss, {}, examples)
    gates = evaluate.predicted(of(sparse), Predictor.load(FOLDER / "byte_lm.sparse.gates.safetensors"))
    gated, notes = evaluate.run(of(sparse), next_token_loss, gates, examples)
    assert gated <= dense
    assert evaluate.summary(sum(notes.values()).sum(0), 4 * len(examples))["kept"] < 0.05


@pytest.mark.parametrize("name", BUNDLED)
def test_the_public_part_is_beside_it_and_names_no_place(name):
    whole, public = (Predictor.load(FOLDER / f"{name}.{ending}") for ending in ("safetensors", "json"))
    assert public.layers is None
    assert public.digest == whole.digest
    assert (FOLDER / f"{name}.safetensors").stat().st_size < 1.5e6
    assert "/tmp" not in public.manifest()

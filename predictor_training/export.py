"""The artifact: one file for the model's owner, and its public part for the other roles."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from comet_jax.predictors.artifact import Predictor


def export(predictor: Predictor, figures: Mapping[str, Any], output: Path) -> Predictor:
    """Write ``output`` (safetensors) and the manifest beside it (.json), with ``figures`` among the facts."""
    whole = replace(predictor, facts={**predictor.facts, "evaluation": dict(figures)})
    whole.save(output)
    output.with_suffix(".json").write_text(whole.manifest())
    return whole

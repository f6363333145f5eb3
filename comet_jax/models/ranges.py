"""The calibrated ranges that come with bundled models and cases; ``benchmarks/calibrate.py`` makes them."""

from importlib import resources

from comet_jax.policy import Ranges


def bundled(name: str) -> Ranges:
    """The ranges of ``name``. A JAX that traces the model to another graph falls back to the policy's numbers."""
    file = resources.files("comet_jax.models").joinpath("checkpoints", f"{name}.ranges.json")
    return Ranges.from_json(file.read_text(), required=False)

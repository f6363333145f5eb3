"""Private inference of Flax models between two parties: see ``private``, ``share``, ``reveal``, ``Session``."""

from comet_jax.api import calibrate, explain, fastest, private, reveal, seal, share
from comet_jax.calibration import Calibration
from comet_jax.errors import CapturedWeightsError, CometError, SecretLeakError, UnsupportedOperationError
from comet_jax.ir.variant import Variant
from comet_jax.passes.explain import LINKS, Link
from comet_jax.policy import Gate, Numbers, Policy, Range, Ranges
from comet_jax.predictors import Predictor
from comet_jax.runtime.secret import Secret
from comet_jax.runtime.session import Session

__version__ = "0.1.0"

__all__ = [
    "LINKS",
    "Calibration",
    "CapturedWeightsError",
    "CometError",
    "Gate",
    "Link",
    "Numbers",
    "Policy",
    "Predictor",
    "Range",
    "Ranges",
    "Secret",
    "SecretLeakError",
    "Session",
    "UnsupportedOperationError",
    "Variant",
    "calibrate",
    "explain",
    "fastest",
    "private",
    "reveal",
    "seal",
    "share",
]

"""Settings of all tests: two CPU devices for the parties, and reproducible property tests."""

import jax
from hypothesis import HealthCheck, settings

# Before any backend starts: `Session.devices()` needs a device for each party.
jax.config.update("jax_num_cpu_devices", 2)

settings.register_profile(
    "default",
    deadline=None,  # first examples compile
    derandomize=True,
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")

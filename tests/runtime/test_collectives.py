"""Where the parties' processes meet."""

import jax
import pytest

from comet_jax.errors import CometError
from comet_jax.runtime.collectives import collectives


def test_a_process_that_used_jax_before_its_session_is_told_so():
    jax.devices()
    with pytest.raises(CometError, match="must be the first thing that JAX does"), collectives(("127.0.0.1", 1), 0, 5):
        pass

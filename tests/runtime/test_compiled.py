"""The stages of a private function: what is compiled ahead is what runs, and says what it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import comet_jax as cj
from comet_jax.runtime import spmd


def network(w, x):
    x, _ = jax.lax.scan(lambda x, w: (jax.nn.relu(x @ w), None), x, w["layers"])
    return x @ w["last"]


WEIGHTS = {"layers": np.full((2, 3, 3), 0.25, np.float32), "last": np.ones((3, 2), np.float32)}
X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


def test_trace_lower_compile():
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), WEIGHTS)
    lowered = cj.private(network).trace(shapes, cj.seal(jax.ShapeDtypeStruct(X.shape, X.dtype))).lower()
    compiled = lowered.compile()
    assert compiled.cost_analysis() == lowered.cost_analysis()
    assert compiled.as_text().startswith("HloModule")
    assert compiled.seconds.keys() == {"load", "unpack", "offline", "online", "expand", "correct", "pack"}
    assert all(seconds > 0 for seconds in compiled.seconds.values())


@pytest.mark.parametrize("make", [cj.Session.simulated, cj.Session.devices])
def test_a_session_compiles_nothing_that_was_not_compiled_ahead(make, monkeypatch):
    """The shapes that are worked out ahead are those of the run."""
    ahead, late = [], []
    stage = spmd.Executable.stage
    call = spmd.Executable.__call__

    def watched(self, *args):
        before = len(ahead)
        out = call(self, *args)
        late.extend(ahead[before:])
        return out

    monkeypatch.setattr(spmd.Executable, "stage", lambda self, *args: (ahead.append(self), stage(self, *args))[1])
    monkeypatch.setattr(spmd.Executable, "__call__", watched)
    with make():
        w, x = cj.share(WEIGHTS, owner="model"), cj.seal(cj.share(X, owner="client"))
        found = cj.reveal(cj.private(network)(w, x))
    np.testing.assert_allclose(found, network(jax.tree.map(jnp.asarray, WEIGHTS), X), atol=5e-3)
    assert len(ahead) == 8  # seven programs, and one to load each shape of weights
    assert late == []

"""The example in the README does what it says."""

import re
from pathlib import Path

import numpy as np

README = Path(__file__).parent.parent / "README.md"


def test_the_example(capsys):
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert code is not None
    rng = np.random.default_rng(0)
    dense = lambda n, m: {"kernel": rng.normal(0, n**-0.5, (n, m)).astype(np.float32), "bias": np.zeros(m, np.float32)}
    # Flax counts modules as they are made: the outer one first.
    params = {"params": {"Dense_1": dense(8, 64), "Dense_0": dense(64, 2)}}
    patient = rng.normal(size=8).astype(np.float32)
    names = {"params": params, "patient": patient}
    exec(code[1], names)
    plain = names["Classifier"]().apply(params, patient)
    printed = np.array(re.findall(r"-?\d+\.\d+", capsys.readouterr().out), float)
    np.testing.assert_allclose(printed, plain, atol=0.01)

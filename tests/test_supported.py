"""The page of what is supported is what the rules say today."""

import importlib.util
from pathlib import Path

import jax
import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "supported.py"


@pytest.mark.skipif(jax.__version_info__ >= (0, 11), reason="newer JAX has other primitives: the page is of the older")
def test_the_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("supported", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    supported = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(supported)
    assert supported.PAGE.read_text() == supported.page(), "run `python benchmarks/supported.py`"

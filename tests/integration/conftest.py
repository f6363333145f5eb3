"""Credentials and a compilation cache that all fleets share, and a maker of fleets."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest

from comet_jax.runtime import credentials

sys.path.insert(0, str(Path(__file__).parent))  # the tests read what the processes run

from fleet import Fleet


@pytest.fixture(scope="session")
def common(tmp_path_factory):
    """A folder with the credentials of every role and compiled programs."""
    folder = tmp_path_factory.mktemp("fleets")
    credentials.create(folder / "keys")
    return folder


@pytest.fixture
def fleet(common, tmp_path):
    """Starts five processes that run a scenario, and ends them after the test."""
    with contextlib.ExitStack() as stack:

        def start(scenario: str, **options) -> Fleet:
            return stack.enter_context(Fleet(tmp_path, common / "keys", common / "cache", scenario, **options))

        yield start

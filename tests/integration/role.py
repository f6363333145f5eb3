"""One role of a private inference: `python role.py ROLE FOLDER`, five times with one FOLDER; see fleet.py.

The folder's settings.json has the addresses and the name of a scenario; what this role learns goes to ROLE.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # what all tests share

import breaking
import jax
import numpy as np
import scenarios

import comet_jax as cj


def plain(x):
    """Results as JSON: arrays as lists; what this role does not learn is None."""
    return x.tolist() if isinstance(x, np.ndarray) else x


def main() -> None:
    role, folder = sys.argv[1], Path(sys.argv[2])
    settings = json.loads((folder / "settings.json").read_text())
    jax.config.update("jax_compilation_cache_dir", settings["cache"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    breaking.sabotage(folder)
    session = cj.Session.connect(
        role=role,
        addresses={name: tuple(address) for name, address in settings["addresses"].items()},
        credentials=settings["keys"],
        state=folder / f"state-{role}",
        **settings["options"],
    )
    with session:
        results = getattr(scenarios, settings["scenario"])(session)
    (folder / f"{role}.json").write_text(json.dumps(jax.tree.map(plain, results)))


if __name__ == "__main__":
    main()

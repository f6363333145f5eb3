"""Inputs of a feed-forward layer and its result in double precision, for every system alike."""

import numpy as np

SHAPES = {"ffn": (768, 3072), "ffn1b": (2048, 8192)}
"""OPT-125m's and OPT-1.3B's: width and hidden neurons."""


def inputs(shape: str, tokens: int) -> dict[str, np.ndarray]:
    """x, w1, b1, w2, b2 in float32."""
    d, h = SHAPES[shape]
    r = np.random.default_rng(0)
    sizes = {
        "x": ((tokens, d), 1.0),
        "w1": ((d, h), d**-0.5),
        "b1": ((h,), 0.1),
        "w2": ((h, d), h**-0.5),
        "b2": ((d,), 0.1),
    }
    return {name: r.normal(0, scale, size).astype(np.float32) for name, (size, scale) in sizes.items()}


def reference(given: dict[str, np.ndarray]) -> np.ndarray:
    """relu(x w1 + b1) w2 + b2."""
    v = {name: value.astype(np.float64) for name, value in given.items()}
    return np.maximum(v["x"] @ v["w1"] + v["b1"], 0) @ v["w2"] + v["b2"]

"""ReLU, and smooth activations by a Fourier series between two linear pieces."""

import math
from collections.abc import Callable

import numpy as np

from comet_jax.gadgets.bits import compare, open_to_compare, open_truncated
from comet_jax.gadgets.series import smallest_fit
from comet_jax.ir.program import Builder, Var
from comet_jax.protocols.fourier import Fourier
from comet_jax.protocols.linear import Combine
from comet_jax.protocols.opening import Lift, Open


def relu(b: Builder, x: Var, *, shift: int, width: int, ring: int) -> Var:
    """[max(x / 2^shift, 0)] in Z_2^ring; three rounds.

    Equal to truncating max(x, 0): the truncation rounds a negative x to at most zero.
    """
    w = open_truncated(b, x, shift=shift, width=width)
    y = b.emit(Lift(ring), w)
    return compare(b, w, (0,)).gate((1,), w, y)


def smooth(
    b: Builder,
    x: Var,
    *,
    shift: int,
    width: int,
    ring: int,
    scale: float,
    function: Callable[[np.ndarray], np.ndarray],
    limit: float,
    tolerance: float,
    parity: str = "even",
) -> tuple[Var, float]:
    """[f(x)] for f that is 0 below -limit and x above limit (GELU, SiLU, softplus); four rounds.

    ``scale``: of x / 2^shift. ``parity``: of h = f(x) - x/2. Returns the wire, in Z_2^ring, and its scale,
    ``2 scale``. With p = [x >= -limit], q = [x >= limit]: ``2 f = (p + q) x + 2 (p - q) h``.
    """
    edge = round(limit * scale)
    w = open_to_compare(b, x, shift=shift, largest=2.0 ** (min(width, x.bits - shift) - 2) + edge)
    y = b.emit(Lift(ring), w)
    bits = math.floor(math.log2(scale))
    period = min(bits + math.ceil(math.log2(2.9 * limit * scale / 2.0**bits)), w.bits)
    # The table of cosines has 2^16 entries: where x is finer than that, the series reads a coarser opening of it.
    coarser = max(0, period - 16)
    period -= coarser
    v = b.emit(Open(period, shift + coarser), x) if coarser else w
    precise = ring == 64
    coefficient, fraction = (18, 18) if precise else (11, 12)
    # The comparison may err by its ignored bits, so the series must hold a little beyond the limit.
    low = max(0, bits - 8)
    margin = limit + 4 * 2.0**low / scale
    rest = lambda v: (function(v) - v / 2) * (scale / 2.0**bits)
    series = smallest_fit(
        rest,
        -margin,
        margin,
        unit=2.0**coarser / scale,
        period=period,
        scale=coefficient,
        parity=parity,
        tolerance=tolerance,
    )
    h = b.emit(Fourier(series, fraction, ring), v)
    height = bits + 2 + math.ceil(math.log2(limit)) + 1
    hw = open_truncated(b, h, shift=coefficient + fraction - bits, width=height)
    z = compare(b, w, (-edge, edge), low=low)
    linear = z.gate((1, 1), w, y)
    curved = z.gate((2, -2), hw, b.emit(Lift(ring), hw))
    return b.emit(Combine((1, 1)), linear, curved), 2 * scale


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """GELU's tanh form, float64."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_erf(x: np.ndarray) -> np.ndarray:
    """GELU with the error function, float64."""
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


def silu(x: np.ndarray) -> np.ndarray:
    """x times the logistic function of x, float64."""
    return x / (1 + np.exp(-x))


def softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + exp(x)), float64."""
    return np.logaddexp(0.0, x)


def mish(x: np.ndarray) -> np.ndarray:
    """x tanh(softplus(x)), float64."""
    return x * np.tanh(softplus(x))


# Where each function is linear to within about 2e-4 (5e-4 for mish): the limits, by name.
SMOOTH = {
    "gelu_tanh": (gelu_tanh, 4.0),
    "gelu_erf": (gelu_erf, 4.0),
    "silu": (silu, 11.0),
    "softplus": (softplus, 9.0),
    "mish": (mish, 10.0),
}
PARITY = {"mish": "both"}  # of what is left without x / 2; even for the others

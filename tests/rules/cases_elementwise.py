"""Cases of functions of single elements: edge values, and what lies beyond the domains that have a limit."""

import jax
import jax.numpy as jnp
import numpy as np
from cases import Case
from jax import lax

SPREAD = np.concatenate(
    [np.linspace(-30, 30, 21), np.linspace(-6, 6, 21), [0.0, -0.0, 2.0**-9, 2.75, -2.75, 5, -5, 9, -10, 0.3]]
).astype(np.float32)
# Up to the largest result at 32 bits.
EXPONENTS = np.concatenate([np.linspace(-31, 3.46, 41), [0, -0.0, 2.0**-9, -16, -17]]).astype(np.float32)
POSITIVE = np.concatenate([np.geomspace(2.0**-12, 31, 31), 2.0 ** np.arange(-12, 5)]).astype(np.float32)
MODERATE = np.array([0.1, 0.5, 0.9, 1, 1.5, 2, 3], np.float32)
COEFFICIENTS = np.array([2, -1, 0.5], np.float32)
SCORES = np.linspace(-9, 9, 15, dtype=np.float32).reshape(3, 5)
SOME = np.tri(3, 5, 1, dtype=bool)
ROOTS = np.array([0, 2.0**-16, 2.0**-12, 1e-3, 0.02, 0.3, 2, 31], np.float32)
HALVES = np.concatenate([np.arange(-9, 10) / 2, [2.25, -2.25, 7 / 8, -7 / 8, 1 - 2.0**-9, 30, -30]]).astype(np.float32)

# Rules of primitives that older JAX has not.
NEWER = {"log2", "polynomial"}

SATURATING = [
    Case("tanh and erf", lambda x: (jnp.tanh(x), lax.erf(x), lax.erfc(x)), (SPREAD,), steps=0, approximation=5e-4),
    Case("within the limit", lambda x: jnp.tanh(x / 16), (SPREAD,), steps=0, approximation=3e-4, rings=(32,)),
    Case("logistic", lambda x: (jax.nn.sigmoid(x), 1 / (1 + jnp.exp(-x))), (SPREAD,), steps=0, approximation=3e-4),
    Case("glu", lambda x: jax.nn.glu(x.reshape(2, 26)), (SPREAD,), approximation=2e-2, rings=(64,)),
    Case("softplus", lambda x: (jax.nn.softplus(x), jnp.log(1 + jnp.exp(x))), (SPREAD,), approximation=1e-3),
    Case("mish", jax.nn.mish, (SPREAD,), approximation=1e-3, rings=(64,)),
    Case(
        "beyond the limit, in little room",
        lambda x: jnp.tanh(x / 5),
        (SPREAD,),
        steps=0,
        approximation=5e-4,
        rings=(32,),
    ),
    Case("sin and cos", lambda x: (jnp.sin(x), jnp.cos(x)), (SPREAD,), steps=0, approximation=3e-4),
    Case("tan", jnp.tan, (SPREAD[np.abs(np.cos(SPREAD)) > 0.2],), steps=16, approximation=6e-3, rings=(64,)),
]

EXPONENTIALS = [
    Case("exp", lambda x: (jnp.exp(x), jnp.exp2(x), jnp.expm1(x)), (EXPONENTS,), steps=0, approximation=8e-3),
    Case("exp of a tenth", lambda x: jnp.exp(x / 10), (SPREAD,), steps=0, approximation=4e-3, rings=(32,)),
    Case("sinh and cosh", lambda x: (jnp.sinh(x), jnp.cosh(x)), (SPREAD[26:38],), steps=0, approximation=2e-2),
]

POLYNOMIAL = Case("polyval", lambda x, w: jnp.polyval(w, x), (MODERATE,), (COEFFICIENTS,), steps=16)
LOGARITHMS = [
    Case("log", lambda x: (jnp.log(x), jnp.log2(x), jnp.log1p(x)), (POSITIVE,), steps=0, approximation=3e-4),
    Case("powers", lambda x: (x**2.5, 2.0**x, x**2.0, x**-1.0), (MODERATE,), steps=16, approximation=2e-2, rings=(64,)),
    Case("power with a root", lambda x: (x**0.5, x**-0.5), (MODERATE,), steps=16, approximation=1e-3, rings=(32,)),
    Case("power of owned", lambda x, w: (x**w, w**x), (MODERATE,), (MODERATE[::-1].copy(),), steps=16, rings=(64,)),
    Case("cbrt", jnp.cbrt, (SPREAD,), steps=4, approximation=1e-3, rings=(32,)),
    *([POLYNOMIAL] if hasattr(lax, "polynomial_p") else []),
]

ROUNDING = [
    Case("floor", lambda x: (jnp.floor(x), jnp.ceil(x), jnp.round(x)), (HALVES,), steps=0),
    Case("floor of a third", lambda x: jnp.floor(x / 3 + 0.25), (HALVES,), steps=0, rings=(32,)),
    Case("sign", jnp.sign, (HALVES,), steps=0),
    Case("is_finite", jnp.isfinite, (HALVES,), steps=0, rings=(32,)),
    Case("stop_gradient", lax.stop_gradient, (HALVES,), rings=(32,)),
]

COMPOSED = [
    Case("parts of very different size", lambda x: (x + 0.01 * x, x - x / 64), (SPREAD,), steps=3, rings=(32,)),
    Case("elu", jax.nn.elu, (SPREAD,), steps=6, approximation=1e-3, rings=(32,)),
    Case(
        "leaky relu and hard swish",
        lambda x: (jax.nn.leaky_relu(x), jax.nn.hard_swish(x)),
        (SPREAD / 2,),
        steps=8,
        rings=(32,),
    ),
    Case("silu of an eighth", lambda x: jax.nn.silu(x / 8), (SPREAD,), approximation=1e-3, rings=(32,)),
    Case("softmax of an eighth", lambda x: jax.nn.softmax(x / 8), (SCORES,), approximation=1e-3, rings=(32,)),
    Case("softmax over columns", lambda x: jax.nn.softmax(x, axis=0), (SCORES,), approximation=1e-3, rings=(64,)),
    Case("softmax of some", lambda x: jax.nn.softmax(x, where=SOME), (SCORES,), approximation=1e-3, rings=(32,)),
    Case("small roots", lambda x: jnp.sqrt(x), (ROOTS,), steps=0, approximation=3e-4, rings=(32,)),
]

LOGS = [
    Case("log_softmax", lambda x: (jax.nn.log_softmax(x), jnp.log(jax.nn.softmax(x))), (SCORES,), approximation=4e-4),
    Case(
        "log_softmax over columns", lambda x: jax.nn.log_softmax(x, axis=0), (SCORES,), approximation=4e-4, rings=(64,)
    ),
    Case(
        "log_softmax of small and coarse scores",
        lambda x: (jax.nn.log_softmax(x / 100), jax.nn.log_softmax((x > 0) * 1.0)),
        (SCORES,),
        approximation=4e-4,
        rings=(32,),
    ),
    Case(
        "log_softmax of some",
        lambda x: jnp.where(SOME, jax.nn.log_softmax(x, where=SOME), 0.0),
        (SCORES,),
        approximation=4e-4,
        rings=(64,),
    ),
    Case(
        "logsumexp",
        lambda x: (
            jax.nn.logsumexp(x, -1, keepdims=True),
            jax.nn.logsumexp(x, -1, where=SOME),
            x - jnp.log(jnp.exp(x).sum(0)),
        ),
        (SCORES,),
        approximation=4e-4,
    ),
]

ELEMENTWISE = {
    "logarithms of sums": LOGS,
    "composed": COMPOSED,
    "saturating": SATURATING,
    "exponentials": EXPONENTIALS,
    "logarithms": LOGARITHMS,
    "rounding": ROUNDING,
}

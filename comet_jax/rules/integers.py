"""Division of secret integers by public ones, by counting: exact, for integers of known range."""

import numpy as np

from comet_jax.protocols.linear import Combine, Sum, Table
from comet_jax.protocols.selection import ToArithmetic
from comet_jax.rules.arithmetic import multiply_by_public, sub, up_to
from comet_jax.rules.comparison import reached
from comet_jax.rules.registry import rule
from comet_jax.rules.scope import Scope
from comet_jax.rules.terms import Joint, Known, Scaled, Term

MOST = 256  # thresholds that are compared with at most


def _divisor(y: Term) -> int:
    found = np.unique(y.value) if isinstance(y, Known) else ()
    if len(found) != 1 or found[0] == 0:
        raise ValueError("a secret integer can be divided by one public integer other than zero only")
    return int(found[0])


def _counted(s: Scope, x: Joint, steps: int, *, down: bool) -> Joint:
    """x / steps rounded down, or towards zero: how many multiples of ``steps`` it reaches."""
    found = s.calibrated(x)
    most = int(found.largest) // steps if found else MOST
    if 2 * most + 1 > MOST:
        raise ValueError(
            f"dividing a secret integer compares it with each multiple of the divisor, {MOST} at most: its range is "
            "unknown or too wide. Calibrate it, or divide before sharing"
        )
    up = steps * np.arange(1, most + 1)
    below = -steps * np.arange(most + 1) if down else -up + 1
    thresholds = np.concatenate([up, below]).astype(np.float64)

    def make():
        if not len(thresholds):
            return Scaled(s.scale_by(x.raw.var, np.array(0)), 1.0)
        bits = s.b.emit(ToArithmetic(s.numbers.ring), reached(s, x, thresholds))
        total = s.b.emit(Sum((len(x.shape),)), bits)
        return Scaled(s.b.emit(Combine((1,), Table(np.array(-len(below), np.int64))), total), 1.0)

    return s.result(x.shape, make, range=up_to(most + down))


def quotient(s: Scope, x: Term, y: Term) -> Joint:
    """x / y rounded towards zero, as ``lax.div`` has it."""
    divisor = _divisor(y)
    found = _counted(s, s.joint(x), abs(divisor), down=False)
    return found if divisor > 0 else multiply_by_public(s, found, np.array(-1))


@rule("rem", elementwise=True)
def remainder(s: Scope, node, x: Term, y: Term):
    if node.outputs[0].dtype.kind not in "iu":
        raise ValueError(
            "a remainder of secret real numbers has no private rule: of a public y write `x - y * jnp.floor(x / y)`"
        )
    joint, divisor = s.joint(x), abs(_divisor(y))
    out = sub(s, node, joint, multiply_by_public(s, _counted(s, joint, divisor, down=False), np.array(divisor)))
    return s.result(out.shape, lambda: out.raw, range=up_to(divisor - 1))


@rule("shift_right_arithmetic", "shift_right_logical", elementwise=True)
def shift_right(s: Scope, node, x: Term, y: Term):
    """x / 2^y rounded down; for a logical shift x must not be negative."""
    if node.op == "shift_right_logical" and node.outputs[0].dtype.kind != "u":
        raise ValueError("a logical shift of a signed secret shows its sign bit: use an arithmetic one, `>>`")
    return _counted(s, s.joint(x), 1 << _shift(y), down=True)


@rule("shift_left", elementwise=True)
def shift_left(s: Scope, node, x: Term, y: Term):
    return multiply_by_public(s, s.joint(x), np.array(1 << _shift(y)))


def _shift(y: Term) -> int:
    found = np.unique(y.value) if isinstance(y, Known) else ()
    if len(found) != 1 or not 0 <= found[0] < 32:
        raise ValueError("a secret integer can be shifted by one public number of bits only")
    return int(found[0])

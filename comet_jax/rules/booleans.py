"""Logic on secret booleans, each an opened bit: not, xor and choices by public bits are free, a product is a round."""

from collections.abc import Callable
from math import prod

import numpy as np

from comet_jax.gadgets.bits import at_least, open_truncated
from comet_jax.ir.program import Var
from comet_jax.policy import Range
from comet_jax.protocols.booleans import And, Xor
from comet_jax.protocols.comparison import BIT
from comet_jax.protocols.linear import Rearrange, Sum, Table
from comet_jax.protocols.lookup import non_zero
from comet_jax.protocols.opening import Open
from comet_jax.protocols.selection import Parity, ToArithmetic
from comet_jax.rules.registry import rule
from comet_jax.rules.scope import Scope
from comet_jax.rules.terms import Joint, Known, Scaled, Term

ONE = Range(1.0, 1.0, 1.0)


def boolean(s: Scope, shape: tuple[int, ...], flag: Callable[[], Var]) -> Joint:
    """A boolean from its opened bit."""
    make = lambda: Scaled(s.b.emit(ToArithmetic(s.numbers.ring), flag()), 1.0)
    return s.result(shape, make, flag=flag, range=ONE)


def bit_of(s: Scope, x: Term) -> Var:
    """The opened bit of a secret boolean."""
    joint = s.joint(x)
    flag = joint.flag or s.boolean(joint.shape, lambda: s.rescale(joint.raw, 1.0)).flag
    assert flag is not None
    return flag()


def _table(bits: np.ndarray) -> Table:
    return Table(np.asarray(bits, np.int64))


def _refuse_integers(node) -> None:
    if node.inputs[0].dtype.kind != "b":
        raise ValueError(f"`{node.op}` of the bits of secret integers is not supported: use it on booleans")


@rule("not")
def invert(s: Scope, node, x: Joint):
    if node is not None:
        _refuse_integers(node)
    return boolean(s, x.shape, lambda: s.b.emit(Xor(flip=_table(np.array(1))), bit_of(s, x)))


def _one_public(x: Term, y: Term) -> tuple[Term, Table] | None:
    """The secret one of two booleans and the bits of the other, if that is public."""
    if isinstance(x, Known):
        x, y = y, x
    return (x, _table(y.value)) if isinstance(y, Known) else None


@rule("xor", elementwise=True)
def exclusive(s: Scope, node, x: Term, y: Term):
    _refuse_integers(node)
    shape = node.outputs[0].shape
    if found := _one_public(x, y):
        secret, bits = found
        return boolean(s, shape, lambda: s.b.emit(Xor(flip=bits), bit_of(s, secret)))
    return boolean(s, shape, lambda: s.b.emit(Xor(), bit_of(s, x), bit_of(s, y)))


@rule("and", elementwise=True)
def both(s: Scope, node, x: Term, y: Term):
    _refuse_integers(node)
    shape = node.outputs[0].shape
    if found := _one_public(x, y):
        secret, bits = found
        return boolean(s, shape, lambda: s.b.emit(Xor(keep=bits), bit_of(s, secret)))
    return boolean(s, shape, lambda: s.b.emit(Open(1), s.b.emit(And(), bit_of(s, x), bit_of(s, y))))


@rule("or", elementwise=True)
def either(s: Scope, node, x: Term, y: Term):
    """Not (not x and not y)."""
    _refuse_integers(node)
    no = lambda t: Known(~t.value) if isinstance(t, Known) else invert(s, None, s.joint(t))
    return invert(s, None, both(s, node, no(x), no(y)))


def choose_bits(s: Scope, which: Term, no: Term, yes: Term, shape: tuple[int, ...]) -> Joint:
    """no ^ which (no ^ yes)."""
    if isinstance(which, Known):
        keep = np.broadcast_to(which.value.astype(bool), shape)
        part = lambda t, here: (
            s.b.emit(Xor(keep=_table(here)), bit_of(s, t)) if not isinstance(t, Known) else _table(here & t.value)
        )

        def flag():
            parts = [part(no, ~keep), part(yes, keep)]
            bits = [p for p in parts if not isinstance(p, Table)]
            public = [p for p in parts if isinstance(p, Table)]
            return s.b.emit(Xor(flip=public[0] if public else None), *bits)

        return boolean(s, shape, flag)
    # A public boolean among secrets is a mask of the other's bits.
    if isinstance(no, Known) or isinstance(yes, Known):

        def flag():
            z = bit_of(s, which)
            first = _masked(s, s.b.emit(Xor(flip=_table(np.array(1))), z), no)
            second = _masked(s, z, yes)
            return s.b.emit(Xor(), first, second)

        return boolean(s, shape, flag)

    def flag():
        z, a, b = (bit_of(s, t) for t in (which, no, yes))
        chosen = s.b.emit(Open(1), s.b.emit(And(), z, s.b.emit(Xor(), a, b)))
        return s.b.emit(Xor(), a, chosen)

    return boolean(s, shape, flag)


def _masked(s: Scope, z: Var, x: Term) -> Var:
    if isinstance(x, Known):
        return s.b.emit(Xor(keep=_table(x.value)), z)
    return s.b.emit(Open(1), s.b.emit(And(), z, bit_of(s, x)))


@rule("reduce_or")
def any_of(s: Scope, node, x: Joint):
    """Whether the number of set bits differs from zero."""
    _refuse_integers(node)
    axes, shape = tuple(node.params["axes"]), node.outputs[0].shape
    bits = max(1, prod(x.shape[i] for i in axes).bit_length())

    def flag():
        wide = bits if bits <= 12 else bits + 2
        count = s.b.emit(Sum(axes), s.b.emit(ToArithmetic(wide), bit_of(s, x)))
        if bits <= 12:
            return s.b.emit(Open(1), s.b.emit(non_zero(bits, BIT), s.b.emit(Open(bits), count)))
        found = at_least(s.b, open_truncated(s.b, count, shift=0, width=wide), (1,))
        return s.b.emit(Rearrange("reshape", (shape,)), found)

    return boolean(s, shape, flag)


@rule("reduce_and")
def all_of(s: Scope, node, x: Joint):
    _refuse_integers(node)
    return invert(s, None, any_of(s, node, invert(s, None, x)))


@rule("reduce_xor")
def parity_of(s: Scope, node, x: Joint):
    """The low bit of the number of set bits."""
    _refuse_integers(node)
    axes = tuple(node.params["axes"])

    def flag():
        count = s.b.emit(Sum(axes), s.b.emit(ToArithmetic(2), bit_of(s, x)))
        return s.b.emit(Open(1), s.b.emit(Parity(), count))

    return boolean(s, node.outputs[0].shape, flag)

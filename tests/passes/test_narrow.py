"""Narrowing changes the rings of wires and what is sent and dealt, never a result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_parties import TwoParties

import comet_jax as cj
from comet_jax.gadgets.bits import at_least, open_truncated
from comet_jax.ir.program import Builder, Program, Scan, Var
from comet_jax.passes.narrow import narrow
from comet_jax.protocols.bilinear import Bilinear
from comet_jax.protocols.fourier import Fourier, fit
from comet_jax.protocols.linear import Combine, Rearrange, Resize, Scale, Sum, Table
from comet_jax.protocols.opening import HighBits, Lift, Open, Reveal
from comet_jax.protocols.public import PublicProduct
from comet_jax.protocols.selection import Gate, ToArithmetic
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Opened, Shared

RUNS, SHAPE = 50, (2, 3)
MATMUL = (((1,), (0,)), ((), ()))


def _product(b: Builder, x: Var) -> Var:
    w = b.input(Opened((3, 3), Group(x.bits), static=True))
    return b.emit(Bilinear(MATMUL), b.emit(Open(x.bits), x), w)


def _product_of_two(b: Builder, x: Var) -> Var:
    opened = b.emit(Open(x.bits), x)
    turned = b.emit(Rearrange("transpose", ((1, 0),)), opened)
    square = b.emit(Bilinear(MATMUL), opened, turned)
    return b.emit(Rearrange("broadcast", (SHAPE, (0,))), b.emit(Sum((1,)), square))


def _gated(b: Builder, x: Var) -> Var:
    w = open_truncated(b, x, shift=2, width=10)
    y = b.emit(Lift(x.bits), w)
    z = at_least(b, w, (0,))
    bit = b.emit(Rearrange("reshape", (SHAPE,)), b.emit(ToArithmetic(x.bits), z))
    return b.emit(Combine((1, 5)), b.emit(Gate((1,)), z, w, y), bit)


def _public(b: Builder, x: Var) -> Var:
    table = PublicProduct.of(np.arange(9).reshape(3, 3) - 4, MATMUL, table_first=False)
    return b.emit(Scale(Table(np.array([3, -1, 7]))), b.emit(table, x))


def _high(b: Builder, x: Var) -> Var:
    return b.emit(HighBits(4), b.emit(Scale(Table(np.array(1 << 8))), x))


BODIES = {
    "weights": _product,
    "secrets": _product_of_two,
    "gate": _gated,
    "public": _public,
    "high bits": _high,
}


def program(body, ring: int) -> Program:
    """``body`` on values of eight bits, then read through a truncation to ten bits."""
    b = Builder()
    y = body(b, b.input(Shared(SHAPE, Group(ring))))
    return b.finish(b.emit(Reveal(), b.emit(Lift(32), open_truncated(b, y, shift=3, width=20))))


def values(p: Program) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(-100, 100, (RUNS, *v.shape)) for v in p.inputs]


@pytest.mark.parametrize("ring", [32, 64])
@pytest.mark.parametrize("name", BODIES)
def test_results_are_the_same(name, ring):
    wide = program(BODIES[name], ring)
    slim = narrow(wide)
    assert [v.wire for v in slim.outputs] == [v.wire for v in wide.outputs]
    assert [v.wire for v in slim.inputs] == [v.wire for v in wide.inputs]
    assert slim.round_count == wide.round_count
    runs = [TwoParties(p).run(values(p), seed=1) for p in (wide, slim)]
    for run in runs:
        np.testing.assert_array_equal(run.outputs[0], run.ideal[0])
    # The truncation at the end rounds by a coin, which differs between the two.
    gap = Group(32).decode(Group(32).sub(*(np.asarray(r.outputs[0]) for r in runs)))
    assert np.abs(gap).max() <= 1
    assert np.abs(Group(32).decode(np.asarray(runs[0].outputs[0]))).max() > 1
    assert _bits(slim) < _bits(wide) or name in ("public", "high bits")


def _bits(p: Program) -> int:
    """Bits that are opened and dealt, without padding."""
    opened = sum(i.bits for r in p.rounds for i in p.message(r).items)
    return opened + sum(i.bits for i in p.supply.dealt.values())


def test_a_factor_is_opened_in_the_ring_that_its_widest_reader_needs():
    b = Builder()
    x = b.input(Shared((4,), Group(32)))
    opened = b.emit(Open(32), x)
    square = b.emit(Bilinear(), opened, opened)
    for shift, width in ((4, 10), (6, 13)):
        b.emit(Lift(32), open_truncated(b, square, shift=shift, width=width))
    outs = [op.outputs[0] for op in b.ops if isinstance(op.protocol, Lift)]
    slim = narrow(b.finish(*(b.emit(Reveal(), o) for o in outs)))
    opens = [op.protocol for op in slim.ops if isinstance(op.protocol, Open)]
    assert [o.width for o in opens] == [19, 10, 13]


def test_what_a_loop_hands_on_is_as_wide_as_its_next_step_reads():
    inner = Builder()
    x = inner.input(Shared((3,), Group(32)))
    w = inner.emit(Lift(32), open_truncated(inner, x, shift=5, width=12))
    body = inner.finish(inner.emit(Scale(Table(np.array(32))), w))
    b = Builder()
    start = b.input(Shared((3,), Group(32)))
    (end,) = b.emit_all(Scan(body, 3, 1), start)
    out = b.emit(Reveal(), b.emit(Lift(32), open_truncated(b, end, shift=2, width=8)))
    wide = b.finish(out)
    slim = narrow(wide)
    (loop,) = (op for op in slim.ops if isinstance(op.protocol, Scan))
    assert [v.bits for v in loop.inputs + loop.outputs] == [17, 17]
    assert slim.offline_bytes < wide.offline_bytes
    run = TwoParties(slim).run([np.arange(-RUNS, RUNS).reshape(-1, 1) * np.array([1, 2, 3])], seed=2)
    np.testing.assert_array_equal(run.outputs[0], run.ideal[0])


def test_a_series_is_dealt_in_the_ring_that_is_read():
    series, _ = fit(np.cos, -1.0, 1.0, unit=2.0**-8, period=10, terms=4, scale=8)
    b = Builder()
    w = open_truncated(b, b.input(Shared((5,), Group(32))), shift=0, width=12)
    y = b.emit(Fourier(series, 8, 32), w)
    out = b.emit(Reveal(), b.emit(Lift(32), open_truncated(b, y, shift=8, width=11)))
    wide = b.finish(out)
    slim = narrow(wide)
    dealt = lambda p: sum(i.bits for (k, _), i in p.supply.dealt.items() if isinstance(p.ops[k].protocol, Fourier))
    assert (dealt(wide), dealt(slim)) == (5 * 8 * 32, 5 * 8 * 19)
    steps = np.random.default_rng(1).integers(-256, 256, (RUNS, 5))
    run = TwoParties(slim).run([steps], seed=3)
    np.testing.assert_array_equal(run.outputs[0], run.ideal[0])
    found = Group(32).decode(np.asarray(run.outputs[0])) / 2.0**8
    np.testing.assert_allclose(found, np.cos(steps * 2.0**-8), atol=0.02)


def test_a_shared_result_keeps_its_ring():
    lowered = cj.private(lambda x: x * 2.0).trace(cj.seal(jax.ShapeDtypeStruct((4,), jnp.float32))).lower()
    assert [v.bits for v in lowered.program.inputs + lowered.program.outputs] == [32, 32]
    assert not any(isinstance(op.protocol, Resize) for op in lowered.program.ops)

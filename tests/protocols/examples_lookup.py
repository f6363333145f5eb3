"""Examples of look-ups, of the choice that follows one, and of series at windows of a wire."""

import numpy as np
from examples import MASK, Collection, full, room

from comet_jax.gadgets.bits import open_truncated
from comet_jax.protocols.difference import Subtract
from comet_jax.protocols.fourier import Fourier, fit
from comet_jax.protocols.linear import Table
from comet_jax.protocols.lookup import Lookup, Select, non_zero
from comet_jax.protocols.opening import Lift, Open
from comet_jax.protocols.secret_tables import OneHot, SecretTable
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Shared


def lookups(t: Collection) -> None:
    """All of them."""
    for k in (32, 64):
        _series(t, k)
    _tables(t)
    _secret_tables(t)
    _choices(t)
    _differences(t)


def _series(t: Collection, k: int) -> None:
    series, _ = fit(np.cos, -3.0, 3.0, unit=2.0**-8, period=11, terms=5, scale=10)
    scaled = lambda b, v: b.emit(Fourier(series, 11, k, (5, 2, -1)), b.emit(Open(16, 2), v))
    values = (Shared((2, 3), Group(k)), full(Group(15)))
    t.add(f"series {k} of windows", Fourier, [values], scaled, rounds=1, dealt=18 * 10 * k)
    # A longer period, whose cosines come of two tables.
    fine, _ = fit(lambda x: 1 / x, 0.5, 3.0, unit=2.0**-16, period=18, terms=4, scale=10, relative=True)
    long = lambda b, v: b.emit(Fourier(fine, 11, k, (3, 0)), open_truncated(b, v, shift=1, width=21))
    t.add(f"series {k} of 18 bits", Fourier, [(Shared((2,), Group(k)), room(21, 1))], long, rounds=1, dealt=4 * 8 * k)


def _numbers(bits: int) -> Table:
    return Table(np.random.default_rng(bits).integers(0, 1 << 40, 1 << bits))


def _counts(bits: int):
    return Shared((2, 3), Group(bits)), (0, (1 << bits) - 1)


def _tables(t: Collection) -> None:
    for bits, group in ((3, Group(1, xor=True)), (7, Group(5)), (4, Group(40))):
        step = Lookup(_numbers(bits), group)
        look = lambda b, v, step=step: b.emit(step, b.emit(Open(v.bits), v))
        t.add(f"look-up {bits}", Lookup, [_counts(bits)], look, rounds=1, dealt=6 * group.bits << bits)
    zero = lambda b, v: b.emit(non_zero(7, Group(1, xor=True)), b.emit(Open(7), v))
    t.add("non-zero", Lookup, [_counts(7)], zero, rounds=1, dealt=6 << 7)
    step = Lookup(_numbers(4), Group(6, xor=True), (8, 3, -2))
    digits = lambda b, v: b.emit(step, b.emit(Open(12, 5), v))
    t.add("look-up of digits", Lookup, [_counts(20)], digits, rounds=1, dealt=18 * 16 * 6)


def _secret_tables(t: Collection) -> None:
    for bits, group in ((3, Group(5)), (4, Group(2, xor=True)), (2, Group(40))):
        step = OneHot(group)
        look = lambda b, v, step=step: b.emit(step, b.emit(Open(v.bits), v))
        t.add(f"one-hot {bits}", OneHot, [_counts(bits)], look, rounds=1, dealt=6 * group.bits << bits)
        some = lambda b, v, z, step=step: b.emit(step, b.emit(Open(v.bits), v), b.emit(Open(1), z))
        given = [_counts(bits), _counts(1)]
        t.add(f"one-hot {bits}, some", OneHot, given, some, rounds=1, dealt=12 * group.bits << bits)
    for entries, group in ((5, Group(7)), (7, Group(1)), (1, Group(40))):

        def read(b, v, table, group=group):
            y, opened = b.emit(Open(3), v), b.emit(Open(group.bits), table)
            return b.emit_all(SecretTable(3, -2), y, b.emit(OneHot(group), y), opened)

        table = Shared((entries,), group), full(group)
        t.add(f"secret table {entries}", SecretTable, [_counts(3), table], read, rounds=1, dealt=6 * group.bits << 3)

        def late(b, v, table, group=group):
            y, opened = b.emit(Open(3), v), b.emit(Open(group.bits), table)
            return b.emit_all(SecretTable(3, -2, 8 - opened.shape[0]), y, b.emit(OneHot(group), y), opened)

        t.add(f"late table {entries}", SecretTable, [_counts(3), table], late, rounds=1, dealt=6 * group.bits << 3)

        def some(b, v, z, table, group=group):
            y, opened, bit = b.emit(Open(3), v), b.emit(Open(group.bits), table), b.emit(Open(1), z)
            return b.emit_all(SecretTable(3, -2), y, b.emit(OneHot(group), y, bit), opened, bit)

        given = [_counts(3), _counts(1), table]
        t.add(f"secret table {entries}, some", SecretTable, given, some, rounds=1, dealt=12 * group.bits << 3)


def _choices(t: Collection) -> None:
    cases, weights = (((0, 2),), ((0, 0), (1, 1)), ((0, 0), (1, 0), (2, 2))), (3, -6, 1 << 9)
    words, values = (Shared((2, 3), Group(3, xor=True)), (0, 7)), (Shared((2, 3), Group(20)), room(11, 2))
    for bits in (11, 20, 50):
        step = Select(cases, weights, bits)
        choose = lambda b, u, v, step=step: b.emit(step, b.emit(Open(3), u), open_truncated(b, v, shift=2, width=11))
        sizes = [(1 << n, bits - s) for n, s in ((1, 0), (2, 1), (3, 9))]
        dealt = 2 * sum(entries * (2 * k + max(0, k - 11)) for entries, k in sizes)
        t.add(f"select {bits}", Select, [words, values], choose, rounds=1, dealt=dealt)


def _differences(t: Collection) -> None:
    row = (Shared((2,), Group(5)), (0, 31))
    for name, where in (("", None), (" of some", MASK)):
        less = lambda b, u, v, where=where: b.emit(
            Lift(12), b.emit(Subtract(7, 100), b.emit(Open(12, where=where), u), b.emit(Open(5), v))
        )
        t.add(f"subtract{name}", Subtract, [_counts(12), row], less, rounds=1, dealt=0)

"""Every wire in the smallest ring that its readers read.

Of a value that is opened as ``m`` bits after ``s`` are dropped, no more than ``m + s`` bits matter, and of all that
it was computed from by sums and products, no more than that either. So a product whose result is truncated to a known
range lives in a ring that just holds it, and the factors of the product are opened in that ring instead of the full
one. Nothing is lost: the results are the same bit for bit. The demand runs backwards, from what is read; the program
is then written anew, forwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from comet_jax.ir.program import Builder, Op, Program, Scan, Var
from comet_jax.protocols.linear import Resize
from comet_jax.protocols.protocol import Protocol
from comet_jax.sharing.groups import Group


@dataclass(frozen=True)
class _Step:
    """An operation as it will be: its protocol, and how many bits it takes of each input."""

    protocol: "Protocol | Scan"
    bits: tuple[int, ...]


def narrow(program: Program) -> Program:
    """``program`` on narrower wires; its inputs and outputs are what they were."""
    return _rewrite(program, [v.bits for v in program.inputs], [v.bits for v in program.outputs])


def _demand(program: Program, outputs: Sequence[int]) -> tuple[dict[int, int], dict[int, _Step]]:
    """How many low bits of each wire are read, and the step of each operation, if ``outputs`` bits of the results are.

    ``outputs``: at most the bits that the results have.
    """
    read: dict[int, int] = {}
    steps: dict[int, _Step] = {}

    def reads(v: Var, bits: int) -> None:
        read[v.id] = max(read.get(v.id, 0), bits)

    for v, bits in zip(program.outputs, outputs, strict=True):
        reads(v, bits)
    for i in reversed(range(len(program.ops))):
        op = program.ops[i]
        steps[i] = _step(op, [read.get(v.id, 1) for v in op.outputs])
        for v, bits in zip(op.inputs, steps[i].bits, strict=True):
            reads(v, bits)
    return read, steps


def _step(op: Op, read: list[int]) -> _Step:
    wires = tuple(v.wire for v in op.inputs)
    if isinstance(op.protocol, Scan):
        return _scan(op.protocol, op.inputs, read)
    found = op.protocol.narrowed(read[0], *wires) if len(read) == 1 else None
    return _Step(*found) if found else _Step(op.protocol, tuple(w.group.bits for w in wires))


def _scan(scan: Scan, inputs: tuple[Var, ...], read: list[int]) -> _Step:
    """What a step hands on is read by the next: widen until it holds all that is read of it."""
    carried, fixed, _ = scan.parts(scan.body.inputs)
    while True:
        inner, _ = _demand(scan.body, read)
        wider = [max(bits, inner.get(v.id, 0)) for bits, v in zip(read, carried)] + read[scan.carries :]
        if wider == read:
            break
        read = wider
    taken = [inner.get(v.id, v.bits) for v in fixed]
    bits = (*read[: scan.carries], *taken, *(v.bits for v in scan.parts(inputs)[2]))
    return _Step(replace(scan, body=_rewrite(scan.body, bits, read)), bits)


def _rewrite(program: Program, inputs: Sequence[int], outputs: Sequence[int]) -> Program:
    """``program`` with ``inputs`` bits on its inputs and ``outputs`` bits on its results."""
    b, new = Builder(), {}

    def take(v: Var, bits: int) -> Var:
        var = new[v.id]
        return var if var.bits == bits else b.emit(Resize(bits), var)

    for v, bits in zip(program.inputs, inputs, strict=True):
        new[v.id] = b.input(v.wire if v.bits == bits else replace(v.wire, group=Group(bits)))
    _, steps = _demand(program, outputs)
    for i, op in enumerate(program.ops):
        with b.site(op.site, op.operation):
            made = b.emit_all(steps[i].protocol, *map(take, op.inputs, steps[i].bits))
        new.update({v.id: o for v, o in zip(op.outputs, made)})
    return b.finish(*map(take, program.outputs, outputs))

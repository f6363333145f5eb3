"""What a plan costs and reveals, by operation of the model. Counted from the program; nothing is run."""

import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from comet_jax.ir.program import Program, Scan
from comet_jax.passes.lower import Lowered
from comet_jax.protocols.opening import Reveal


@dataclass(frozen=True)
class Row:
    """The cost of one operation at one place in the model, ``times`` over (a scan's body).

    ``rounds``: how many rounds it opens something in; others may share them. Bytes are one party's, and dealt ones.
    """

    site: str
    operation: str
    protocols: str
    rounds: int
    openings: int
    online_bytes: float
    offline_bytes: float
    times: int


@dataclass(frozen=True)
class Explanation:
    """The costs of a private call. Print it, or take its fields; ``json()`` for programs.

    ``online_bytes``: sent by one party (both send the same). ``offline_bytes``: sent by the dealer. Rows count bits
    without padding, so they add up to slightly less.
    """

    rounds: int
    online_bytes: int
    offline_bytes: int
    operations: tuple[Row, ...]
    reveals: tuple[str, ...]

    def json(self) -> str:
        """All fields as JSON."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        table = Table(title=None, box=None, pad_edge=False)
        for name in ("site", "operation", "protocols"):
            table.add_column(name, overflow="fold")
        for name in ("rounds", "online", "offline"):
            table.add_column(name, justify="right")
        for r in self.operations:
            site = r.site if r.times == 1 else f"{r.site} x{r.times}"
            row = (str(r.rounds * r.times), _size(r.online_bytes * r.times), _size(r.offline_bytes * r.times))
            table.add_row(site, r.operation, r.protocols, *row)
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(table)
        total = (
            f"{self.rounds} rounds, {_size(self.online_bytes)} sent by each party, "
            f"{_size(self.offline_bytes)} from the dealer"
        )
        return "\n".join([console.export_text().rstrip(), "", total, *self.reveals])


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def explain(lowered: Lowered) -> Explanation:
    """Explain a lowered function."""
    program = lowered.program
    reveals = [
        "Parties see: openings under single-use masks (uniform), public inputs and shapes. The dealer sees nothing.",
        "Revealed on purpose: nothing but what `reveal` is called on.",
        str(lowered.proof),
    ]
    if lowered.policy.published:
        reveals.append(f"Published by its owner: parameters matching {', '.join(lowered.policy.published)}.")
    rows = tuple(_rows(program, 1))
    return Explanation(program.round_count, program.online_bytes, program.offline_bytes, rows, tuple(reveals))


def _rows(program: Program, times: int) -> Iterable[Row]:
    found: dict[tuple[str, str], list[int]] = {}
    round_of = {i: n for n, r in enumerate(program.rounds) for i in r.opened}
    for i, op in enumerate(program.ops):
        if isinstance(op.protocol, Scan):
            yield from _rows(op.protocol.body, times * op.protocol.length)
            continue
        place = op.site or ("result" if isinstance(op.protocol, Reveal) else "inputs")
        found.setdefault((place, op.operation), []).append(i)
    for (site, operation), steps in found.items():
        opened = [i for i in steps if i in round_of]
        online = sum(program.ops[i].outputs[0].wire.item.bits for i in opened)  # type: ignore[union-attr]
        mine = set(steps)
        dealt = sum(item.bits for (k, _), item in program.supply.dealt.items() if k in mine)
        names = dict.fromkeys(type(program.ops[i].protocol).__name__ for i in steps)
        rounds = len({round_of[i] for i in opened})
        yield Row(site, operation, " ".join(names), rounds, len(opened), online / 8, dealt / 8, times)

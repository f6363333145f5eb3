"""What a plan costs and reveals, by operation of the model. Counted from the program; nothing is run."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from comet_jax.ir.program import Op, Program, Scan
from comet_jax.passes.lower import Lowered
from comet_jax.protocols.opening import Reveal
from comet_jax.protocols.protocol import Opening
from comet_jax.rules.scope import Place


@dataclass(frozen=True)
class Link:
    """The connection of the two parties: seconds that a message takes to arrive, and bits a second each way."""

    latency: float
    bandwidth: float

    def seconds(self, rounds: float, bytes_: float) -> float:
        """How long that many rounds and bytes of one party take, if nothing else does."""
        return rounds * self.latency + 8 * bytes_ / self.bandwidth


LINKS = {"lan": Link(0.2e-3, 5e9), "wan": Link(1e-3, 1e9), "far": Link(20e-3, 100e6)}
"""5 Gbps and 0.4 ms there and back, 1 Gbps and 2 ms, 100 Mbps and 40 ms."""


@dataclass(frozen=True)
class Row:
    """The cost of one operation at one place in the model, ``times`` over (a scan's body).

    ``rounds``: how many rounds it opens something in; others may share them. Bytes are one party's, and dealt ones.
    ``opened_bits``: bits an element of each kind of opening. ``products``: ring multiplications of one party online.
    ``fraction``: fraction bits of the result, None where it has no fixed scale; ``headroom``: bits of magnitude that
    the ring has left above its largest calibrated value, None without calibration.
    """

    site: str
    operation: str
    protocols: str
    rounds: int
    openings: int
    online_bytes: float
    offline_bytes: float
    times: int
    opened_bits: tuple[int, ...] = ()
    products: int = 0
    fraction: float | None = None
    headroom: float | None = None


@dataclass(frozen=True)
class GateView:
    """What a gate shows in one call. ``views``: role -> what it comes to see, and what of it is linkable to what.

    ``bits``: disclosed to both parties.
    """

    site: str
    reveals: str
    bits: int
    views: dict[str, str]

    def __str__(self) -> str:
        seen = "\n".join(f"  {role}: {what}" for role, what in self.views.items())
        return f"Gate {self.site} reveals {self.reveals}, {self.bits:,} bits a call:\n{seen}"


@dataclass(frozen=True)
class Saving:
    """What a pass made of a figure: "narrow: 10.1 -> 9.9 million bytes online"."""

    by: str
    what: str
    before: int
    after: int

    def __str__(self) -> str:
        return f"{self.by}: {self.before:,} -> {self.after:,} {self.what}"


@dataclass(frozen=True)
class Average:
    """What a call costs on average over an epoch of ``calls``; see ``Explanation`` for the figures."""

    calls: int
    rounds: float
    online_bytes: float
    offline_bytes: float
    renewal_bytes: float

    def __str__(self) -> str:
        return (
            f"a call of an epoch of {self.calls}, on average: {self.rounds:g} rounds, {size(self.online_bytes)} sent "
            f"by each party, {size(self.offline_bytes)} from the dealer, {size(self.renewal_bytes)} to share afresh"
        )


@dataclass(frozen=True)
class Renewal:
    """What a shuffle by the parties takes ahead of an epoch, in place of their owner's sharing of weights.

    ``online_bytes``: sent by one party (both send the same), openings before and after it included. ``offline_bytes``:
    sent by the dealer. ``sharing_bytes``: what the owner's sharing takes, ahead of the first epoch.
    """

    online_bytes: int
    offline_bytes: int
    sharing_bytes: int

    def __str__(self) -> str:
        return (
            f"of these {size(self.online_bytes)} are sent by each party and {size(self.offline_bytes)} by the dealer, "
            f"none by the owner, whose first sharing takes {size(self.sharing_bytes)}"
        )


@dataclass(frozen=True)
class Explanation:
    """The costs of a private call. Print it, or take its fields; ``json()`` for programs, ``plot()`` for people.

    ``online_bytes``: sent by one party (both send the same). ``offline_bytes``: sent by the dealer. Rows count bits
    without padding, so they add up to slightly less. ``saved``: what passes of the compiler made of these figures.
    ``gates``: what each gate shows to whom. ``renewal_bytes``: to share weights afresh ahead of an epoch's first call,
    which this is; ``average``: over all calls of the epoch, where it has several. ``renewal``: where the parties do it.
    ``variant``: which protocols are in use, of those that do the same. ``layers``: the attention and feed-forward
    layers that were found, by the paths that gates name them by.
    """

    rounds: int
    online_bytes: int
    offline_bytes: int
    operations: tuple[Row, ...]
    reveals: tuple[str, ...]
    saved: tuple[Saving, ...] = ()
    gates: tuple[GateView, ...] = ()
    variant: str = ""
    layers: tuple[str, ...] = ()
    renewal_bytes: int = 0
    average: Average | None = None
    renewal: Renewal | None = None

    def seconds(self, link: Link) -> float:
        """Communication online over ``link``; local work comes on top."""
        return link.seconds(self.rounds, self.online_bytes)

    def json(self) -> str:
        """All fields as JSON."""
        return json.dumps(asdict(self))

    def table(self) -> Table:
        """The operations as a rich table."""
        table = Table(title=None, box=None, pad_edge=False)
        for name in ("site", "operation", "protocols"):
            table.add_column(name, overflow="fold")
        for name in ("rounds", "online", "offline", "bits", "products", "scale", "room"):
            table.add_column(name, justify="right")
        for r in self.operations:
            site = r.site if r.times == 1 else f"{r.site} x{r.times}"
            table.add_row(
                *(site, r.operation, r.protocols, str(r.rounds * r.times)),
                *(size(r.online_bytes * r.times), size(r.offline_bytes * r.times)),
                *(" ".join(map(str, r.opened_bits)), _count(r.products * r.times)),
                *("" if x is None else f"{x:.{digits}f}" for x, digits in ((r.fraction, 0), (r.headroom, 1))),
            )
        return table

    def __rich__(self) -> Table:
        return self.table()

    def __str__(self) -> str:
        total = (
            f"{self.rounds} rounds, {size(self.online_bytes)} sent by each party, "
            f"{size(self.offline_bytes)} from the dealer"
        )
        times = ", ".join(f"{self.seconds(link):.3g} s ({name})" for name, link in LINKS.items())
        saved = [str(s) for s in self.saved]
        renewal = [f"{size(self.renewal_bytes)} to share weights afresh, ahead of time"] if self.renewal_bytes else []
        renewal += [str(found) for found in (self.renewal, self.average) if found]
        notes = [f"communication: {times}", *renewal, f"variant: {self.variant}", *saved]
        notes += [*self.reveals, *map(str, self.gates)]
        return "\n".join([as_text(self.table()), "", *self.layers, total, *notes])

    def plot(self, ax: Any = None) -> Any:
        """Online bytes by site, one colour an operation, on matplotlib axes (new ones by default), which it returns."""
        from matplotlib import pyplot

        ax = pyplot.subplots(figsize=(8, 0.5 + 0.3 * len({r.site for r in self.operations})))[1] if ax is None else ax
        sites = list(dict.fromkeys(r.site for r in self.operations if r.online_bytes))
        left = dict.fromkeys(sites, 0.0)
        for operation in dict.fromkeys(r.operation for r in self.operations if r.online_bytes):
            rows = [r for r in self.operations if r.operation == operation and r.online_bytes]
            sizes = {s: sum(r.online_bytes * r.times for r in rows if r.site == s) / 1e3 for s in sites}
            ax.barh(sites, [sizes[s] for s in sites], left=[left[s] for s in sites], label=operation)
            left = {s: left[s] + sizes[s] for s in sites}
        ax.invert_yaxis()
        ax.set_xlabel("KB sent by each party online")
        ax.legend()
        return ax


def as_text(table: Table) -> str:
    """A rich table as plain text of 120 columns."""
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text().rstrip()


def size(count: float) -> str:
    """A number of bytes, for people."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def _count(count: float) -> str:
    for unit in ("", "K", "M"):
        if count < 1000:
            return f"{count:.3g}{unit}" if count else ""
        count /= 1000
    return f"{count:.3g}G"


def explain(lowered: Lowered, uncalibrated: Lowered | None = None, later: Sequence[Lowered] = ()) -> Explanation:
    """Explain a lowered function; ``uncalibrated``: the same without its policy's ranges, to compare.

    ``later``: the same for the later calls of its epoch.
    """
    program = lowered.program
    reveals = [
        "Parties see: openings under single-use masks (uniform), public inputs and shapes. The dealer sees nothing.",
        f"Revealed on purpose: {'what the gates below show, and ' if lowered.policy.gates else 'nothing but '}"
        "what `reveal` is called on.",
        str(lowered.proof),
    ]
    if lowered.policy.published:
        reveals.append(f"Published by its owner: parameters matching {', '.join(lowered.policy.published)}.")
    if lowered.policy.ranges:
        reveals.append("Public by calibration: how large each activation got on the examples, to a power of two.")
    rows = tuple(_rows(program, 1, lowered.places))
    saved = _savings(lowered.wide, program)
    if uncalibrated:
        before = uncalibrated.program.online_bytes
        saved.append(Saving("calibrate", "bytes online: as many bits as values need", before, program.online_bytes))
    counts = program.round_count, program.online_bytes, program.offline_bytes
    gates, variant = tuple(_gates(lowered)), str(lowered.policy.variant)
    layers = tuple(map(str, lowered.layers))
    average = _average([lowered, *later]) if later else None
    notes = tuple(reveals), tuple(saved), gates, variant, layers
    return Explanation(*counts, rows, *notes, lowered.renewal_bytes, average, _renewal(lowered))


def _renewal(lowered: Lowered) -> Renewal | None:
    if lowered.shuffle is None:
        return None
    dealt = lowered.shuffle.program.offline_bytes
    return Renewal((lowered.renewal_bytes - dealt) // 2, dealt, lowered.sharing_bytes)


def _average(calls: Sequence[Lowered]) -> Average:
    programs = [c.program for c in calls]
    mean = lambda figures: sum(figures) / len(calls)
    return Average(
        len(calls),
        mean(p.round_count for p in programs),
        mean(p.online_bytes for p in programs),
        mean(p.offline_bytes for p in programs),
        mean(c.renewal_bytes for c in calls),
    )


_BEYOND = {
    "turns": "Blocks beyond the room, by turns of the tokens, are shown as well, though not computed",
    "scores": "Blocks beyond the room, those of the smallest scores, are not shown, nor how many they are",
}


def _gates(lowered: Lowered) -> Iterable[GateView]:
    nothing = "nothing of it"
    for site, bits in lowered.proof.disclosed:
        gate = next(g for g in lowered.policy.gates if any(s.site == site for s in g.predictor.sites))
        blocks = gate.predictor.site(site).gates
        result, shuffled = "", gate.renewal == "shuffle"
        made = "shuffled by both parties, so that neither knows how," if shuffled else "shared afresh"
        if gate.reveals == "flags":
            parties = (
                f"which of {blocks} blocks each token uses, in an order that only the owner knows. A token's set is "
                "linkable to all others in the session, and its size to the token: whoever has the model, "
                f"or can query it, recovers the prompt from that. {_BEYOND[gate.overflow]}"
            )
        else:
            parties = (
                "a uniformly random set of blocks, of a size known beforehand. It is linkable to nothing: "
                f"order and weights are {made} for each call"
            )
        if gate.epoch > 1:
            parties = (
                f"in each of {gate.epoch} calls, an epoch, a uniformly random set of the blocks that none before has "
                "touched, of a size known beforehand; those of earlier calls are computed again. It is linkable to "
                f"nothing but the epoch's other sets, and they say nothing: order and weights are {made} for each epoch"
            )
            result = "; a result that it is shown depends on what earlier calls of the epoch asked for"
        yield GateView(
            site,
            gate.reveals,
            bits,
            {
                "party 0, party 1": parties,
                "dealer": f"{nothing}; together with a tap on the parties' link, all of it",
                "model owner": f"{nothing}; it draws the {'first order' if shuffled else 'order'}{result}",
                "client": f"{nothing}{result}",
                "network": f"{nothing}, if the parties' link is a tunnel; without one, what the parties see",
            },
        )


def _savings(wide: Program, program: Program) -> list[Saving]:
    return [
        Saving("schedule", "rounds: independent openings share a message", program.openings, program.round_count),
        Saving("narrow", "bytes online: every wire in its smallest ring", wide.online_bytes, program.online_bytes),
        Saving("narrow", "bytes dealt", wide.offline_bytes, program.offline_bytes),
    ]


def _rows(program: Program, times: int, places: Mapping[tuple[str, str], Place]) -> Iterable[Row]:
    found: dict[tuple[str, str], list[int]] = {}
    round_of = {i: n for n, r in enumerate(program.rounds) for i in r.opened}
    for i, op in enumerate(program.ops):
        if isinstance(op.protocol, Scan):
            yield from _rows(op.protocol.body, times * op.protocol.length, places)
            continue
        place = op.site or ("result" if isinstance(op.protocol, Reveal) else "inputs")
        found.setdefault((place, op.operation), []).append(i)
    for (site, operation), steps in found.items():
        opened = [i for i in steps if i in round_of]
        online = sum(program.item(i).bits for i in opened)
        mine = set(steps)
        dealt = sum(item.bits for (k, _), item in program.supply.dealt.items() if k in mine)
        names = dict.fromkeys(type(program.ops[i].protocol).__name__ for i in steps)
        at = places.get((site, operation))
        yield Row(
            *(site, operation, " ".join(names), len({round_of[i] for i in opened}), len(opened)),
            *(online / 8, dealt / 8, times, tuple(program.item(i).group.bits for i in opened)),
            sum(_products(program.ops[i]) for i in steps),
            *((at.fraction, at.headroom) if at else ()),
        )


def products(program: Program) -> int:
    """Ring multiplications of one party online, those of each step of a loop; sums and moves count for none."""
    inner = (op.protocol for op in program.ops if isinstance(op.protocol, Scan))
    return sum(map(_products, program.ops)) + sum(scan.length * products(scan.body) for scan in inner)


def _products(op: Op) -> int:
    """Those of one step of the program itself."""
    if isinstance(op.protocol, Scan | Opening):
        return 0
    return op.protocol.products(*(v.wire for v in op.inputs))

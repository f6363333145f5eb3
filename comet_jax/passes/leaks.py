"""The leak check: all that crosses between the parties is uniform, whatever the secrets are.

It believes no protocol's name. Each step of a program is traced as the dealer and as a party run it (``deal``;
``send`` and ``receive``; ``offline`` and ``online``), and read with hiding.py. What cannot be traced, does something
that is not known to be local, or does not match one of these signatures is refused:

- *An opening* draws one mask, uniform in the opened group, whole, and deals nothing. Its message is a function of its
  sender's share plus its sender's share of that very mask, reduced into the group.
- *A sparse opening* draws two roots, one a party, and a mask for its dummies. A party's mask is grown from its own
  root by ``sharing.ggm.Tree``. Its message is its share plus rows of that mask, by numbers that ``Slots`` made, and
  the tree's co-path at the slots. All this is compared, operation by operation, with what it should be, and only that
  the co-path tells nothing of the active rows is believed of that tree: its docstring has the sources, tests try all
  choices of a few leaves.
- *Any other step* draws no mask and sends nothing. An opened wire that it makes is computed from opened values, and
  its mask from their masks. It deals each array once.
- *A disclosure* shows its input and nothing else: its message is its sender's share plus a dealt sharing of zero that
  nothing else uses. It must carry the name of a gate that the policy has; a policy without gates has none.
- *A shuffle* of weights draws a mask, uniform in their ring and as large as its message, and words of 64 bits, which
  each party has for itself; it deals one array, and tells party 1 another one. What it tells is a function of words
  alone. Its message is a function of the weights' public forms, of words and of what was told, plus its sender's share
  of that very mask: of no share of a weight, and not of what is dealt. Its result is covered by the dealt array. That
  words give uniform orders, and that each party's two are independent of the one that both make, is argued in
  protocols/shuffle.py.
- *Flags* come in from an earlier program, and go out to a later one, at the parties alone, and only those of a gate
  that the policy lets carry them: what comes in is joined to what that gate shows, and what goes out is what it shows
  or has joined. That a set leaves out the blocks of earlier ones is not seen here: rules/active_sets.py argues it.
- *A weight* is opened once, at its full ring, before the program runs; loading it gives it a mask of its own.
- *An output* is a step's share plus a dealt sharing of zero that nothing else uses, unless it stays at the parties.

Argument. Take the openings in order of their rounds. The mask of an opening is drawn by it alone and reaches others
only along the wire that it opens, thus only later steps (wires are single assignment, and a step has the material of
its own name only; a wire that every step of a scan takes was opened before all of them, and a step deals functions of
its mask afresh). So the rest of its message, and all earlier messages, are independent of the mask, and the message is
uniform given them: all messages are *jointly* uniform. A shuffle's mask reaches no wire; the one array that is dealt
from it is shared. Of a sparse opening seeds reach the other party too, and with them the masks of what is known to be
zero; given these, all other masks are pseudorandom, as keystreams are. The dealer's shares are uniform at each party
alone, as each dealt array is shared with a keystream of its own; in a scan, one of each step's own. Whoever receives an
output sees two shares that are uniform but for their sum.

Not proved here: that dealt arrays and results are right (tests compare all protocols with their ideal functionality);
that keystreams are uniform and used once (dealer/stock.py); that the interpreters and XLA send only these messages
(runtime/crossing.py counts them in each compiled program); what the coins of truncation and timing tell.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp

from comet_jax.errors import CometError
from comet_jax.ir.jaxprs import Graph, alike, flatten
from comet_jax.ir.program import Op, Program, Scan, Var
from comet_jax.passes.hiding import Word, follow
from comet_jax.protocols.disclosure import Disclose
from comet_jax.protocols.protocol import Dealer, Opening, Party, Protocol
from comet_jax.protocols.shuffle import WORDS, Shuffle
from comet_jax.protocols.slots import Slots
from comet_jax.protocols.sparse_opening import OpenSparse
from comet_jax.protocols.stash import Joined
from comet_jax.sharing.ggm import ROOT, Tree, packed
from comet_jax.sharing.groups import Group
from comet_jax.sharing.packing import Item
from comet_jax.sharing.wires import Disclosed, Mask, Opened, OpenedShare, Seen, Share, Shared, Wire

# What a local step may do. An operation that is not here may be harmless; it is refused until somebody has looked.
_LOCAL_NAMES = (
    "abs add and argmax argmin bitcast_convert_type broadcast_in_dim clamp concatenate cond convert_element_type "
    "copy cumsum div dot_general dynamic_slice dynamic_update_slice eq exp gather ge gt iota le lt max min mul ne "
    "neg not optimization_barrier or pad platform_index population_count reduce_and reduce_max reduce_min "
    "reduce_or reduce_sum rem reshape rev round scan scatter scatter-add scatter_add select_n shift_left "
    "shift_right_arithmetic shift_right_logical sign slice sort split square squeeze sub transpose xor "
)
LOCAL = frozenset(_LOCAL_NAMES.split())


class LeakError(CometError):
    """A program would show more than it may; nothing was run."""


@dataclass(frozen=True)
class Proof:
    """What was checked: openings in a run (a scan's count at each step), weights, and outputs.

    ``disclosed``: how many bits each gate shows in a run.
    """

    openings: int
    weights: int
    outputs: int
    disclosed: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        shown = "; ".join(f"{count:,} bits by the gate of {gate}" for gate, count in self.disclosed)
        return (
            f"Checked: {self.openings} openings, each under a fresh mask of full width; {self.weights} weights under "
            f"their own; {self.outputs} outputs shared afresh."
        ) + (f" Disclosed to both parties: {shown}." if shown else "")


def check(
    program: Program, gates: frozenset[str] = frozenset(), kept: frozenset[str] = frozenset(), *, leaves: bool = True
) -> Proof:
    """Return only if ``program`` reveals nothing but its outputs and flags of ``gates``; else raise ``LeakError``.

    ``kept``: those of the gates whose flags the parties carry from program to program. ``leaves``: whether the outputs
    leave the parties; what stays there is shares as any wire's.
    """
    checking = _Check({}, gates, kept)
    with jax.enable_x64(True):
        openings = checking.program(program, leaves=leaves)
    weights = sum(isinstance(v.wire, Opened) for v in program.inputs)
    disclosed = tuple(sorted(checking.disclosed.items()))
    outputs = {v.id for v in program.outputs if not isinstance(v.wire, Disclosed)}
    return Proof(openings, weights, len(outputs), disclosed)


@dataclass
class _Check:
    """``seen``: which outputs are shared afresh, by the step's signature. Equal steps are traced once.

    ``gates``: whose flags may be disclosed; ``kept``: whose may be carried; ``disclosed``: the bits shown in a run.
    """

    seen: dict[tuple, frozenset[int]]
    gates: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()
    disclosed: dict[str, int] = field(default_factory=dict)

    def program(
        self, program: Program, leaves: bool = False, given: frozenset[int] = frozenset(), times: int = 1
    ) -> int:
        """The number of openings. ``leaves``: the outputs leave the parties. ``given``: inputs checked already."""
        known: dict[int, Wire] = {}
        afresh: set[int] = set()
        openings, gate_of = 0, _gates(program)
        for v in program.inputs:
            if isinstance(v.wire, Disclosed) and v.id not in given:
                carried = v.wire.below is None and gate_of.get(v.id) in self.kept
                _require("an input", carried, f"%{v.id} is disclosed, and not by a gate that carries its flags")
            else:
                allowed = v.id in given or _is_input(v.wire)
                _require("an input", allowed, f"%{v.id} is neither shared nor a weight opened at its whole ring")
            _define("an input", known, v)
        steps = [i for r in program.rounds for i in (*r.local, *r.opened)]
        _require("the schedule", sorted(steps) == list(range(len(program.ops))), "a step is not run exactly once")
        for i, op in enumerate(program.ops):
            where = f" at {op.site} {op.operation}".rstrip() if op.site or op.operation else ""
            place = f"step {i}, {type(op.protocol).__name__}{where}"
            for v in op.inputs:
                _require(place, known.get(v.id) == v.wire, f"%{v.id} is used before it exists, or as another type")
            if isinstance(op.protocol, Scan):
                _check_scan(place, op, op.protocol)
                fixed = frozenset(v.id for v in op.protocol.parts(op.protocol.body.inputs)[1])
                length = op.protocol.length
                openings += length * self.program(op.protocol.body, given=fixed, times=times * length)
            else:
                masks, dealt = (of.get(i, {}) for of in program.supply.by_step)
                afresh |= {op.outputs[j].id for j in self.step(place, op, masks, dealt)}
                if isinstance(op.protocol, Disclose):
                    bits = times * program.item(i).bits
                    self.disclosed[op.protocol.gate] = self.disclosed.get(op.protocol.gate, 0) + bits
                openings += isinstance(op.protocol, Opening) and not isinstance(op.protocol, Disclose)
            for v in op.outputs:
                numbered = isinstance(v.wire, Disclosed) and v.wire.below is not None
                _require(place, not numbered or type(op.protocol) is Slots, "it may number one slot twice")
                _define(place, known, v)
        last = [isinstance(v.wire, Disclosed) for v in program.outputs]
        _require("the outputs", last == sorted(last), "a disclosed wire would leave as a result")
        for v in program.outputs:
            _require("an output", known.get(v.id) == v.wire, f"%{v.id} does not exist")
            if isinstance(v.wire, Disclosed):
                carried = v.wire.below is None and gate_of.get(v.id) in self.kept
                _require("an output", carried, f"%{v.id} is disclosed, and not by a gate that carries its flags")
            elif leaves:
                _require("an output", v.id in afresh, f"%{v.id} leaves without being shared afresh (Reveal)")
        return openings

    def step(self, place: str, op: Op, masks: dict[str, Item], dealt: dict[str, Item]) -> frozenset[int]:
        """Check one step. Returns which of its outputs are shared afresh."""
        protocol, inputs, outputs = op.protocol, tuple(v.wire for v in op.inputs), tuple(v.wire for v in op.outputs)
        assert isinstance(protocol, Protocol)
        key = (protocol, inputs, outputs, *masks.items(), *dealt.items())
        if key not in self.seen:
            _require(place, protocol.outputs(*inputs) == outputs, "its outputs are not of its protocol's types")
            _require(place, not set(masks) & set(dealt), "a mask and a dealt array share a name")
            if isinstance(protocol, Disclose):
                _require(place, protocol.gate in self.gates, f"the policy has no gate of {protocol.gate}")
                _check_disclosure(place, protocol, inputs, outputs, masks, dealt)
                self.seen[key] = frozenset()
            elif isinstance(protocol, Shuffle):
                _check_shuffle(place, protocol, inputs, outputs, masks, dealt)
                self.seen[key] = frozenset()
            elif isinstance(protocol, OpenSparse):
                _check_sparse(place, protocol, inputs, outputs, masks, dealt)
                self.seen[key] = frozenset()
            elif isinstance(protocol, Opening):
                _check_opening(place, protocol, inputs, outputs, masks, dealt)
                self.seen[key] = frozenset()
            else:
                self.seen[key] = _check_local(place, protocol, inputs, outputs, masks, dealt)
        return self.seen[key]


def _gates(program: Program) -> dict[int, str]:
    """The gate of each disclosed wire that is a gate's own: what it shows, what that is joined to, and the result."""
    found: dict[int, str] = {}
    for op in program.ops:
        if isinstance(op.protocol, Scan):
            body = op.protocol.body
            inner = _gates(body)
            outer = zip((*body.inputs, *body.outputs), (*op.inputs, *op.outputs))
            found.update({v.id: inner[step.id] for step, v in outer if step.id in inner})
        elif isinstance(op.protocol, Disclose | Joined):
            found.update({v.id: op.protocol.gate for v in (*op.inputs, *op.outputs) if isinstance(v.wire, Disclosed)})
    return found


def _require(place: str, holds: bool, reason: str) -> None:
    if not holds:
        raise LeakError(f"{place}: {reason}. Nothing was run: this program could show a secret")


def _define(place: str, known: dict[int, Wire], v: Var) -> None:
    _require(place, v.id not in known, f"%{v.id} is made twice")
    known[v.id] = v.wire


def _is_input(wire: Wire) -> bool:
    if isinstance(wire, Shared):
        return True
    return (
        isinstance(wire, Opened)
        and wire.static
        and not wire.headroom
        and wire.where is None
        and wire.group in (Group(32), Group(64))
    )


def _check_scan(place: str, op: Op, scan: Scan) -> None:
    types = lambda vs: [v.wire for v in vs]
    (carries, fixed, stacked), given = scan.parts(types(scan.body.inputs)), scan.parts(types(op.inputs))
    made, results = types(scan.body.outputs), types(op.outputs)
    threaded = (carries, made[: scan.carries], given[0], results[: scan.carries])
    _require(place, all(t == carries for t in threaded), "the wires that it threads through differ in type")
    alone = all(isinstance(w, Shared) for w in made[: scan.carries])
    alone = alone and all(isinstance(w, Shared | Disclosed) for w in made)
    _require(place, alone, "an opened wire would pass from step to step, or out")
    _require(place, fixed == given[1], "what every step takes differs in type from what it is")
    slices = [*zip(given[2], stacked, strict=True), *zip(results[scan.carries :], made[scan.carries :], strict=True)]
    same = lambda a, b: type(a) is type(b) and a.group == b.group and a.shape == (scan.length, *b.shape)
    _require(place, all(same(a, b) for a, b in slices), "it would not take, or make, one slice a step")


class _Recorder(Dealer):
    """Hands out given masks, each once, and keeps what is shared."""

    def __init__(self, place: str, masks: dict[str, Item], arrays: Mapping[str, Any], dealt: dict[str, Item]):
        self.place, self.masks, self.arrays, self.dealt = place, dict(masks), arrays, dict(dealt)
        self.shared: dict[str, Any] = {}
        self.told: dict[str, Any] = {}

    def mask(self, name: str, item: Item):
        _require(self.place, self.masks.pop(name, None) == item, f"the mask {name!r} is drawn twice, or not as planned")
        return self.arrays.get(name)

    def both(self, name: str, item: Item):
        _require(self.place, f"{name} 0" in self.arrays, f"the words {name!r} of each party are not for this step")
        self.mask(name, item)
        return self.arrays[f"{name} 0"], self.arrays[f"{name} 1"]

    def share(self, name: str, value, item: Item):
        self._planned(name, value, item)
        self.shared[name] = value

    def tell(self, name: str, value, item: Item):
        self._planned(name, value, item)
        self.told[name] = value

    def _planned(self, name: str, value, item: Item):
        planned = self.dealt.pop(name, None) == item and value.shape == item.shape
        _require(self.place, planned, f"the array {name!r} is dealt twice, or not as planned")


@dataclass(frozen=True)
class _Traced:
    """A step's results by name: their words, shapes and types, and the input that each is, if it is one unchanged."""

    words: dict[str, Word]
    types: dict[str, tuple]
    same: dict[str, str | None]


def _trace(
    place: str,
    fn: Callable[[dict], dict],
    leaves: Mapping[str, tuple],
    masks: Mapping[str, int],
    distinct: frozenset[str] = frozenset(),
) -> _Traced:
    """Trace ``fn`` on arrays of the given (shape, group).

    ``masks``: bits of those leaves that are uniform. ``distinct``: leaves that hold numbers, no two of them equal.
    """
    names: list[str] = []

    def run(given):
        out = fn(given)
        names.extend(out)
        return list(out.values())

    graph = _flat(place, run, leaves)
    words = follow(graph, _known(leaves, masks, distinct), masks)
    inputs = dict(zip(graph.inputs, leaves))
    types = {n: (v.shape, v.dtype) for n, v in zip(names, graph.outputs)}
    return _Traced(dict(zip(names, words)), types, {n: inputs.get(v) for n, v in zip(names, graph.outputs)})


def _known(leaves: Mapping[str, tuple], masks: Collection[str], distinct: Collection[str]) -> list[Word]:
    covered = lambda n: frozenset({n} & set(masks))
    return [Word(frozenset({n}), g.bits, covered(n), distinct=n in distinct) for n, (_, g) in leaves.items()]


def _flat(place: str, fn: Callable[[dict], list], leaves: Mapping[str, tuple]) -> Graph:
    """The graph of ``fn`` on arrays of the given (shape, group), if it is known to be local."""
    run = lambda *arrays: fn(dict(zip(leaves, arrays)))
    try:
        graph = flatten(run, *(jax.ShapeDtypeStruct(shape, g.dtype) for shape, g in leaves.values()))
    except LeakError:
        raise
    except Exception as e:  # anything: what cannot be followed is refused, a collective outside an opening too
        raise LeakError(f"{place}: it cannot be followed as a local step ({type(e).__name__}: {e})") from e
    _check_operations(place, graph)
    return graph


def _check_operations(place: str, graph: Graph) -> None:
    for node in graph.nodes:
        _require(place, node.op in LOCAL and not node.effects, f"`{node.op}` is not known to be local")
        for inner in node.graphs:
            _check_operations(place, inner)


def _deal(
    place: str,
    protocol,
    inputs,
    outputs,
    masks: dict[str, Item],
    dealt: dict[str, Item],
    words: frozenset[str] = frozenset(),
) -> _Traced:
    """The dealer's work: "out j" is the mask of an opened output, "share name" what is shared.

    ``words``: the masks of which it may take each party's own, "name 0" and "name 1", and nothing else; where there are
    any it may tell party 1 something, "told name".
    """
    leaves = {f"in {k}": (w.shape, w.group) for k, w in enumerate(inputs) if isinstance(w, Opened)}
    whole = {name: (item.shape, item.group) for name, item in masks.items() if name not in words}
    parts = {f"{n} {i}": (masks[n].shape, masks[n].group) for n in sorted(words & masks.keys()) for i in (0, 1)}
    own = {**whole, **parts}

    def run(arrays):
        dealer = _Recorder(place, masks, arrays, dealt)
        found = protocol.deal(
            dealer, *(Mask(w, arrays[f"in {k}"]) if f"in {k}" in arrays else w for k, w in enumerate(inputs))
        )
        _require(place, not dealer.masks and not dealer.dealt, "it does not deal what was planned")
        _require(place, not dealer.told or bool(words), "it tells party 1 something, and is no shuffle")
        types = tuple(o.wire if isinstance(o, Mask) else o for o in found)
        _require(place, types == outputs, "the dealer makes other wires than the parties")
        opened = {f"out {j}": o.r for j, o in enumerate(found) if isinstance(o, Mask)}
        sent = {f"share {n}": x for n, x in dealer.shared.items()}, {f"told {n}": x for n, x in dealer.told.items()}
        return {**opened, **sent[0], **sent[1]}

    return _trace(place, run, {**leaves, **own}, {})


_INDEX = ((), Group(32))


def _check_opening(place: str, protocol, inputs, outputs, masks: dict[str, Item], dealt: dict[str, Item]) -> None:
    source, others, (wire,) = inputs[0], inputs[1:], outputs
    alone = isinstance(source, Shared) and all(isinstance(w, Disclosed) for w in others)
    _require(place, alone and isinstance(wire, Opened) and not wire.static, "it does not open one shared wire")
    item = protocol.item(*inputs)
    _require(place, masks == {"r": wire.item}, f"its mask is not one, uniform in {wire.group}, of its wire's shape")
    _require(place, not dealt, "an opening deals nothing but its mask")
    dealing = _deal(place, protocol, inputs, outputs, masks, dealt)
    _require(place, dealing.same["out 0"] == "r", "the opened wire's mask is not the one that was drawn")

    def run(leaf):
        seen = [Seen(w, leaf[f"v {k}"]) for k, w in enumerate(others)]  # type: ignore[arg-type]
        party, args = Party(leaf["index"]), [Share(source, leaf["x"]), *seen]
        sent = protocol.send(party, {"r": leaf["r"]}, *args)
        w = protocol.receive({"r": leaf["r"]}, *args, leaf["c"])
        _require(place, w.wire == wire and w.x is None, "it receives another wire than it opens")
        masks = {"mask": w.mask, "early": protocol.mask({"r": leaf["r"]})}
        return {"sent": sent, "value": w.value, **masks, **protocol.coins(party, *args)}

    shown = {f"v {k}": (w.shape, w.group) for k, w in enumerate(others)}
    distinct = frozenset(f"v {k}" for k, w in enumerate(others) if w.below is not None)
    arrays = {"x": (source.shape, source.group), "r": (wire.shape, wire.group), "c": (item.shape, item.group)}
    seen = _trace(place, run, {"index": _INDEX, **arrays, **shown}, {"r": wire.group.bits}, distinct)
    _check_message(place, seen, item, "r", "its message is not a share plus its mask")
    _require(place, item.group == wire.group, f"its message is not of {wire.group}")
    _require(place, seen.words["value"].leaves <= {"c", *shown}, "the opened value is not what was received")
    own = seen.same["mask"] == seen.same["early"] == "r"
    _require(place, own, "the wire keeps another mask than it was opened under")


def _check_shuffle(place: str, protocol, inputs, outputs, masks: dict[str, Item], dealt: dict[str, Item]) -> None:
    (wire,) = outputs
    weights = all(isinstance(w, Opened) and w.static and _is_input(w) and w.group == wire.group for w in inputs)
    _require(
        place, bool(inputs) and weights and isinstance(wire, Shared), "it does not shuffle weights of one ring alone"
    )
    item = protocol.item(*inputs)
    drawn = masks.keys() == {"r", "own"} and masks["own"].group == WORDS and masks["own"].where is None
    _require(
        place, drawn and masks["r"] == item, f"it draws other masks than words and one of {wire.group} for its message"
    )
    _require(place, item.group == wire.group and item.where is None, f"its message is not of {wire.group}")
    rest = dealt.get("rest") == Item(wire.shape, wire.group) and dealt.keys() == {"rest", "last"}
    _require(place, rest, "it deals something else than what is told and one array as large as its result")
    dealing = _deal(place, protocol, inputs, outputs, masks, dealt, frozenset({"own"}))
    _require(
        place, dealing.words.keys() == {"share rest", "told last"}, "it does not share one array and tell the other"
    )
    _require(
        place, dealing.words["told last"].leaves <= {"own 0", "own 1"}, "what it tells is no function of words alone"
    )

    def run(leaf):
        early = [OpenedShare(w, leaf[f"c {k}"], None) for k, w in enumerate(inputs)]
        late = [OpenedShare(w, None, None, leaf[f"x {k}"]) for k, w in enumerate(inputs)]
        party = Party(leaf["index"])
        material = protocol.offline(party, {name: leaf[name] for name in ("r", "own", "last", "rest")}, *early)
        w = protocol.receive(material, *late, leaf["sum"])
        _require(place, isinstance(w, Share) and w.wire == wire, "it makes another wire than planned")
        return {"sent": protocol.send(party, material, *late), "share": w.x, **protocol.coins(party, *late)}

    leaves = {f"{part} {k}": (w.shape, w.group) for k, w in enumerate(inputs) for part in "cx"}
    leaves |= {name: (i.shape, i.group) for name, i in (*masks.items(), *dealt.items(), ("sum", item))}
    uniform = {"r": wire.group.bits, "rest": wire.group.bits}
    seen = _trace(place, run, {"index": _INDEX, **leaves}, uniform)
    _check_message(place, seen, item, "r", "its message is not covered by its mask")
    public = {"index", "r", "own", "last", *(f"c {k}" for k in range(len(inputs)))}
    _require(place, seen.words["sent"].leaves <= public, "its message depends on more than public forms and own words")
    whole = "rest" in seen.words["share"].masks and seen.words["share"].bits <= wire.group.bits
    _require(place, whole, "its result is not shared afresh")
    coins = seen.words.keys() == {"sent", "share"}
    _require(place, coins, "it notes coins, and has none")


def _check_message(place: str, seen: _Traced, item: Item, mask: str, otherwise: str) -> None:
    """What is sent is covered by ``mask``, and is of its item's group and shape."""
    _require(place, mask in seen.words["sent"].masks, otherwise)
    _require(place, seen.words["sent"].bits <= item.group.bits, f"its message is not reduced into {item.group}")
    typed = seen.types["sent"] == (item.shape, item.group.dtype)
    _require(place, typed, f"its message is not an array of {item.group}")


def _check_sparse(place: str, protocol, inputs, outputs, masks: dict[str, Item], dealt: dict[str, Item]) -> None:
    """How masks grow from roots, and which seeds are sent, is written down here a second time, and compared."""
    (source, slots), (wire,) = inputs, outputs
    typed = isinstance(source, Shared) and isinstance(slots, Disclosed) and isinstance(wire, Opened)
    alone = typed and not (wire.static or wire.headroom or wire.where) and len(wire.shape) == 3
    _require(place, alone, "it does not open one shared wire in slots")
    tree, group, size = Tree(wire.shape[0] * wire.shape[1]), wire.group, wire.shape[2]
    numbered = slots.below == tree.leaves + slots.shape[0] and source.shape == (*slots.shape, size)
    _require(place, numbered, "its slots are not of its wire's blocks")
    spare, root = (source.shape, group), (ROOT.shape, ROOT.group)
    drawn = masks == {"root": ROOT, "spare": Item(*spare)} and not dealt
    _require(place, drawn, "what it draws is not a root of each party's own, and masks for dummies")

    # Ahead of time: both parties' masks grow from their roots, and the dealer's is their sum.
    rows = lambda seeds: tree.elements(seeds, size, group)

    def deals(a):
        dealer = _Recorder(place, masks, a, dealt)
        (made,) = protocol.deal(dealer, *inputs)
        _require(place, not dealer.masks and made.wire == wire, "it does not deal what was planned")
        return [made.r]

    def prepared(a):
        made = protocol.offline(Party(a["index"]), {"root": a["root"], "spare": a["spare"]}, None, None)
        return [made["rows"], made["seeds"]]

    def expected(a):
        seeds = tree.grown(a["root"])
        return [jnp.concatenate([rows(seeds), a["spare"]]), seeds]

    def summed(a):
        roots = jnp.concatenate([a[name][None] for name in ("root 0", "root 1")])
        return [group.add(*jax.vmap(lambda root: rows(tree.grown(root)))(roots)).reshape(wire.shape)]

    _require_same(place, "the dealer's mask is not grown from roots", deals, summed, {"root 0": root, "root 1": root})
    own = {"index": _INDEX, "root": root, "spare": spare}
    _require_same(place, "a party's mask is not grown from its root", prepared, expected, own)

    # Online: one row of the mask covers each row of the share; beside them, seeds of the co-path alone.
    held = {"rows": ((slots.below, size), group), "seeds": ((tree.nodes, 4), ROOT.group)}
    leaves = {"index": _INDEX, "x": (source.shape, source.group), "v": (slots.shape, slots.group), **held}
    args = lambda a: ({name: a[name] for name in held}, Share(source, a["x"]), Seen(slots, a["v"]))
    graph, item = _flat(place, lambda a: [protocol.send(Party(a["index"]), *args(a))], leaves), protocol.item(*inputs)
    typed = item.group == group and (graph.outputs[0].shape, graph.outputs[0].dtype) == (item.shape, group.dtype)
    _require(place, typed, f"its message is not an array of {group}")
    joined = graph.producers.get(graph.outputs[0])
    parts = joined is not None and joined.op == "concatenate" and len(joined.inputs) == 2
    _require(place, parts, "its message is not masked rows and then seeds")
    masked, seeds = (replace(graph, outputs=(part,)).pruned() for part in joined.inputs)  # type: ignore[union-attr]
    (word,) = follow(masked, _known(leaves, {"rows"}, {"v"}), {"rows": group.bits})
    _require(place, "rows" in word.masks, "its message is not a share plus rows of its mask")
    _require(place, word.bits <= group.bits, f"its message is not reduced into {group}")
    copath = lambda a: [packed(tree.punctured(a["seeds"], tree.marked(a["v"]), tree.most(*slots.shape)), group)]
    _require(place, alike(seeds, _flat(place, copath, leaves)), "it sends other seeds than those of its tree's co-path")

    def received(a):
        w = protocol.receive(*args(a), a["c"])
        _require(place, w.wire == wire and w.x is None, "it receives another wire than it opens")
        return {"value": w.value, **protocol.coins(Party(a["index"]), *args(a)[1:])}

    leaves["c"] = (item.shape, group)
    seen = _trace(place, received, leaves, {})
    _require(place, seen.words["value"].leaves <= {"c", "v", *held}, "the opened value is not what was received")
    whole = lambda a: [a["rows"][: tree.leaves].reshape(wire.shape)]
    for mask in (lambda a: [protocol.receive(*args(a), a["c"]).mask], lambda a: [protocol.mask(args(a)[0])]):
        _require_same(place, "the wire keeps another mask than it was opened under", mask, whole, leaves)


def _require_same(place: str, otherwise: str, fn: Callable, reference: Callable, leaves: Mapping[str, tuple]) -> None:
    """Both compute the same of the same arrays, operation by operation."""
    _require(place, alike(_flat(place, fn, leaves), _flat(place, reference, leaves)), otherwise)


def _check_disclosure(place: str, protocol, inputs, outputs, masks: dict[str, Item], dealt: dict[str, Item]) -> None:
    (source,), (wire,) = inputs, outputs
    alone = isinstance(source, Shared) and wire == Disclosed(source.shape, source.group)
    _require(place, alone, "it does not disclose one shared wire")
    item = Item(source.shape, source.group)
    _require(place, not masks and dealt == {"zero": item}, "it deals something else than one sharing of zero")
    dealing = _deal(place, protocol, inputs, outputs, masks, dealt)
    _require(place, dealing.words["share zero"].zero, "what it deals is not a sharing of zero")

    def run(leaf):
        party, x, material = Party(leaf["index"]), Share(source, leaf["x"]), {"zero": leaf["zero"]}
        sent, w = protocol.send(party, material, x), protocol.receive(material, x, leaf["c"])
        _require(place, w.wire == wire, "it shows another wire than it discloses")
        return {"sent": sent, "value": w.v, **protocol.coins(party, x)}

    own = (source.shape, source.group)
    leaves = {"index": _INDEX, "x": own, "zero": own, "c": own}
    seen = _trace(place, run, leaves, {"zero": source.group.bits})
    _check_message(place, seen, item, "zero", "its message is not a share plus a sharing of zero")
    _require(place, seen.words["value"].leaves <= {"c"}, "what it shows is not what was received")


def _check_local(
    place: str, protocol, inputs, outputs, masks: dict[str, Item], dealt: dict[str, Item]
) -> frozenset[int]:
    _require(place, not masks, "only an opening draws a mask")
    dealing = _deal(place, protocol, inputs, outputs, masks, dealt)
    leaves: dict[str, tuple] = {"index": _INDEX, **{f"dealt {n}": (i.shape, i.group) for n, i in dealt.items()}}
    for k, w in enumerate(inputs):
        parts = "x" if isinstance(w, Shared) else "v" if isinstance(w, Disclosed) else "cx" if w.static else "cr"
        leaves.update({f"{part} {k}": (w.shape, w.group) for part in parts})

    def run(leaf):
        pairs = [_arguments(w, lambda part, k=k: leaf.get(f"{part} {k}")) for k, w in enumerate(inputs)]
        early, late = [e for e, _ in pairs], [x for _, x in pairs]
        party, material = Party(leaf["index"]), {n: leaf[f"dealt {n}"] for n in dealt}
        out: dict[str, Any] = {}
        if any(isinstance(w, Opened) for w in outputs):  # before inputs exist, its mask or a weight's form is known
            out.update(_results(place, outputs, protocol.online(party, material, *early), "early"))
        material = protocol.offline(party, material, *early)
        out.update(_results(place, outputs, protocol.online(party, material, *late), "late"))
        return {**out, **{f"coin {n}": x for n, x in protocol.coins(party, *late).items()}}

    uniform = {f"dealt {n}": item.group.bits for n, item in dealt.items()}
    seen = _trace(place, run, leaves, uniform)
    for name, word in seen.words.items():
        part, j, _ = name.split(" ") if name[:2] in ("c ", "r ", "x ", "v ") else ("", "", "")
        kind = Disclosed if part == "v" else Opened
        own = all(leaf[:2] == f"{part} " and isinstance(inputs[int(leaf[2:])], kind) for leaf in word.leaves)
        what = "disclosed" if part == "v" else "opened"
        _require(place, own or not part, f"its {what} output {j} is not made of {what} wires alone")
    fresh = lambda n, j: _is_afresh(n, dealt[n], f"share {j} late", outputs[j], dealing, seen)
    return frozenset(j for j in range(len(outputs)) if any(fresh(n, j) for n in dealt))


def _arguments(w: Wire, get: Callable[[str], Any]) -> tuple[Any, Any]:
    """An input as a party has it before the run, and in it."""
    if isinstance(w, Shared):
        return None, Share(w, get("x"))
    if isinstance(w, Disclosed):
        return None, Seen(w, get("v"))
    if w.static:
        return OpenedShare(w, get("c"), None), OpenedShare(w, None, None, get("x"))
    return OpenedShare(w, None, get("r")), OpenedShare(w, get("c"), get("r"))


def _results(place: str, outputs: tuple[Wire, ...], found: Sequence[Any], when: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for j, (wire, o) in enumerate(zip(outputs, found, strict=True)):
        if isinstance(wire, Shared):
            out[f"share {j} {when}"] = o
        elif isinstance(wire, Disclosed):
            out[f"v {j} {when}"] = o
        else:
            _require(place, o.wire == wire, "it makes other wires than planned")
            out.update({f"{part} {j} {when}": getattr(o, part) for part in "crx" if getattr(o, part) is not None})
    return out


def _is_afresh(name: str, item: Item, result: str, wire: Wire, dealing: _Traced, seen: _Traced) -> bool:
    """Whether a result is a share plus the dealt array ``name``, which shares zero and is in no other result."""
    word, leaf = seen.words.get(result), f"dealt {name}"
    whole = item == Item(wire.shape, wire.group) and dealing.words[f"share {name}"].zero
    alone = all(leaf not in w.leaves for n, w in seen.words.items() if n != result)
    return word is not None and whole and alone and leaf in word.masks and word.bits <= wire.group.bits

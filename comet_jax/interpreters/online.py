"""What each party runs: ``offline`` on material alone, then ``online`` on shares.

Both are traced once and run alike at both parties (SPMD over an axis of two), which differ in their shares only. The
one thing that crosses between parties is ``exchange``: one collective a round.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from comet_jax.interpreters.material import Tree
from comet_jax.ir.program import Program, Round, Scan
from comet_jax.protocols.protocol import Opening, Party
from comet_jax.sharing.wires import Disclosed, Opened, OpenedShare, Seen, Share, Shared, Wire

AXIS = "party"


# Over gloo a permutation is the quicker collective up to about 8 KB (50 us against 80), a gather beyond (4 times).
SMALL_MESSAGE = 2048


def party_index() -> jax.Array:
    """0 or 1: which party runs this."""
    return lax.axis_index(AXIS)


def exchange(words: jax.Array) -> jax.Array:
    """Send uint32 words to the other party and receive its words: the only communication there is.

    One collective, in which each party sends its words once.
    """
    if words.size <= SMALL_MESSAGE:
        return lax.ppermute(words, AXIS, [(0, 1), (1, 0)])
    return lax.all_gather(words, AXIS)[1 - party_index()]


def offline(program: Program, party: Party, masks: Tree, dealt: Tree, statics) -> Tree:
    """All work of a party that needs no input. Returns its material for ``online``.

    ``masks``, ``dealt``: this party's shares, as trees. ``statics``: the public opened form of each static input, in
    the order of the program's inputs, None for the others. A scan's body may take a wire that is known already.
    """
    known: dict[int, Any] = {}
    for v, c in zip(program.inputs, statics, strict=True):
        as_it_is = c is None or isinstance(c, OpenedShare)
        known[v.id] = c if as_it_is else OpenedShare(v.wire, c, None)  # type: ignore[arg-type]
    materials: Tree = {}
    for i, op in enumerate(program.ops):
        inputs = [known[v.id] for v in op.inputs]
        if isinstance(op.protocol, Scan):
            carries, fixed, stacked = op.protocol.parts(inputs)

            def step(_, x, body=op.protocol.body, before=(*carries, *fixed)):
                masks, dealt, stacked = x
                return None, offline(body, party, masks, dealt, [*before, *stacked])

            stacked = [None if o is None else o.c for o in stacked]
            materials[i] = lax.scan(step, None, (masks.get(i, {}), dealt.get(i, {}), stacked))[1]
            known.update({v.id: None for v in op.outputs})
            continue
        material = {**masks.get(i, {}), **dealt.get(i, {})}
        wire = op.outputs[0].wire
        if isinstance(op.protocol, Opening):
            material = op.protocol.offline(party, material, *inputs)  # type: ignore[attr-defined]
            out = [OpenedShare(wire, None, op.protocol.mask(material)) if isinstance(wire, Opened) else None]
        else:
            # What it makes of opened wires is a mask now, rearranged.
            made = isinstance(wire, Opened)
            out = op.protocol.online(party, material, *inputs) if made else [None] * len(op.outputs)
            material = op.protocol.offline(party, material, *inputs)
        materials[i] = material
        known.update({v.id: o for v, o in zip(op.outputs, out)})
    return materials


def online(
    program: Program, party: Party, materials: Tree, inputs, coins: Tree | None = None
) -> tuple[list[jax.Array], list]:
    """Run the program on this party's shares.

    ``inputs``: one array an input, this party's share of it, or what both know; in a scan's body, an input may be a
    wire as it is. Returns this party's shares of the outputs, and the transcript: for each round the two messages,
    uint32[2, words], party 0's first (for a scan, one more axis).
    ``coins``: a dictionary that is filled with the run's coins and opened values, by operation. Party 0's are what
    ``ideal`` needs to repeat the run (``Recorded``).
    """
    values: dict[int, Any] = {}
    for v, x in zip(program.inputs, inputs, strict=True):
        values[v.id] = x if isinstance(x, Share | OpenedShare | Seen) else _value(v.wire, x)
    transcript: list = []
    for round_ in program.rounds:
        for i in round_.local:
            op = program.ops[i]
            args = [values[v.id] for v in op.inputs]
            if isinstance(op.protocol, Scan):
                out, messages, noted = _scan(op.protocol, party, materials[i], args, coins)
                transcript.extend(messages)
            else:
                out = op.protocol.online(party, materials[i], *args)
                noted = op.protocol.coins(party, *args)
            if coins is not None:
                coins[i] = noted
            for v, o in zip(op.outputs, out):
                values[v.id] = o if isinstance(v.wire, Opened) else _value(v.wire, o)
        if round_.opened:
            transcript.append(_open(program, round_, party, materials, values, coins))
    return [values[v.id].x for v in program.outputs], transcript


def _value(wire: Wire, x: jax.Array) -> Share | OpenedShare | Seen:
    if isinstance(wire, Shared):
        return Share(wire, x)
    return Seen(wire, x) if isinstance(wire, Disclosed) else OpenedShare(wire, None, None, x)


def _open(program: Program, round_: Round, party: Party, materials, values, coins):
    layout = program.message(round_)
    sent = []
    for i in round_.opened:
        op = program.ops[i]
        assert isinstance(op.protocol, Opening)
        sent.append(op.protocol.send(party, materials[i], *(values[v.id] for v in op.inputs)))
    mine = layout.pack(sent)
    theirs = exchange(mine)
    for i, own, other in zip(round_.opened, sent, layout.unpack(theirs)):
        op, args = program.ops[i], [values[v.id] for v in program.ops[i].inputs]
        assert isinstance(op.protocol, Opening)
        w = op.protocol.receive(materials[i], *args, program.item(i).group.add(own, other))
        values[op.outputs[0].id] = w
        if coins is not None:
            opened = {"opened": w.value} if isinstance(w, OpenedShare) else {}
            noted = op.protocol.coins(party, *args)  # type: ignore[attr-defined]
            coins[i] = {**noted, **opened, **op.protocol.secrets(materials[i])}
    return jnp.where(party.index == 0, jnp.stack([mine, theirs]), jnp.stack([theirs, mine]))


def _scan(scan: Scan, party: Party, materials, args, coins):
    carries, fixed, stacked = scan.parts(args)

    def step(carry, x):
        material, slices = x
        noted = None if coins is None else {}
        out, messages = online(scan.body, party, material, [*carry, *fixed, *slices], noted)
        return out[: scan.carries], (out[scan.carries :], messages, noted)

    xs = (materials, [a.x for a in stacked])
    carry, (made, messages, noted) = lax.scan(step, [a.x for a in carries], xs, length=scan.length)
    return [*carry, *made], messages, noted

"""A plan: one function, lowered for given inputs, with the programs of every role.

The same traced functions serve every runtime; only how two parties are laid out differs (``Layout`` of runtime/spmd).
``runtime/compiled.py`` compiles them.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from comet_jax.errors import CometError
from comet_jax.interpreters import ideal as ideal_world
from comet_jax.interpreters.deal import deal
from comet_jax.interpreters.material import KINDS, blocks, cut, pack_dealt
from comet_jax.interpreters.online import exchange, offline, online, party_index
from comet_jax.ir.program import Program
from comet_jax.passes.lower import Lowered
from comet_jax.protocols.protocol import Party
from comet_jax.rules.scope import Encoding
from comet_jax.rules.terms import Env, Known
from comet_jax.runtime.crossing import Messages, planned
from comet_jax.runtime.secret import Secret, Shares
from comet_jax.sharing import fixed_point
from comet_jax.sharing.wires import Disclosed, Opened, Shared


@dataclass(frozen=True, eq=False)
class Plan:
    """A lowered function and its programs.

    The program's inputs by position: ``static`` are weights, ``shared`` those that are only shared, ``flags`` what the
    parties carry from call to call. ``renewed`` are those of the first two that are shared once an epoch, ``kept`` the
    shared ones that are shared once as weights are, ``fresh`` those of each run. ``again``: lowers the function for
    another call of an epoch.
    """

    lowered: Lowered
    again: Callable[[int], Lowered] | None = None

    @property
    def call(self) -> int:
        """Which call of an epoch this is the plan of."""
        return self.lowered.call

    @property
    def epoch(self) -> int:
        """How many calls share what is renewed."""
        return self.lowered.epoch

    @cached_property
    def _calls(self) -> dict[int, "Plan"]:
        return {self.call: self}

    def at(self, call: int) -> "Plan":
        """The plan for another call of an epoch. All but flags goes into it at the same positions."""
        if call not in self._calls:
            assert self.again is not None, "a plan that was made for one call alone"
            found = self._calls[call] = Plan(self.again(call))
            inputs = lambda plan: [
                (v.wire, e.scale, e.static, e.renewed, e.owner) if isinstance(e, Encoding) else (v.wire, e)
                for v, e in zip(plan.program.inputs, plan.lowered.encodings)
            ]
            assert inputs(found) == inputs(self), "calls of an epoch take other inputs"
        return self._calls[call]

    @cached_property
    def shuffle(self) -> "Plan | None":
        """How the parties renew an epoch's order, where they do it themselves: its inputs are those at ``renewed``."""
        return None if self.lowered.shuffle is None else Plan(self.lowered.shuffle)

    @property
    def program(self) -> Program:
        """The two-party program."""
        return self.lowered.program

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that the parties must agree on: program, scales, results, policy."""
        results = [(r.shape, str(r.dtype), r.scale) for r in self.lowered.results]
        inputs = [
            (e.owner, e.static, e.scale, e.name, e.renewed) if isinstance(e, Encoding) else e
            for e in self.lowered.encodings
        ]
        shuffle = "" if self.shuffle is None else self.shuffle.program.digest
        text = f"{self.program.digest} {inputs} {results} {self.lowered.policy} {shuffle}"
        return sha256(text.encode()).hexdigest()

    @cached_property
    def static(self) -> tuple[int, ...]:
        """Positions of the weights."""
        return tuple(i for i, v in enumerate(self.program.inputs) if isinstance(v.wire, Opened))

    @cached_property
    def shared(self) -> tuple[int, ...]:
        """Positions of the inputs that are shared and not opened."""
        return tuple(i for i, v in enumerate(self.program.inputs) if isinstance(v.wire, Shared))

    @cached_property
    def flags(self) -> tuple[int, ...]:
        """Positions of what both parties know from the epoch's previous call."""
        return tuple(i for i, v in enumerate(self.program.inputs) if isinstance(v.wire, Disclosed))

    @property
    def renewed(self) -> tuple[int, ...]:
        """Positions of what is shared afresh for each epoch."""
        return self.lowered.renewed

    @cached_property
    def kept(self) -> tuple[int, ...]:
        """Positions of the inputs that are shared once, and not opened.

        Where the parties renew an order themselves, an owner of weights sends nothing after its first sharing. That
        shares serve several runs tells nobody more: what is opened of them is masked anew in each.
        """
        if not self.lowered.policy.shuffles:
            return ()
        encodings, owners = self.lowered.encodings, self._owners
        mine = lambda e: isinstance(e, Encoding) and e.owner in owners
        return tuple(i for i in self.shared if i not in self.renewed and mine(encodings[i]))

    @cached_property
    def fresh(self) -> tuple[int, ...]:
        """Positions of the inputs that are shared anew for each run."""
        return tuple(i for i in self.shared if i not in self.renewed and i not in self.kept)

    @cached_property
    def _owners(self) -> frozenset[str]:
        """Those of weights."""
        return frozenset(self.lowered.encodings[i].owner for i in self.static)  # type: ignore[union-attr]

    def parted(self, outputs: list[Any]) -> tuple[list[Any], list[Any]]:
        """The program's outputs as those that are results, and the flags for the next call."""
        results = sum(isinstance(v.wire, Shared) for v in self.program.outputs)
        return outputs[:results], outputs[results:]

    def _by_input(self, positions: tuple[int, ...], values) -> list[Any]:
        out: list[Any] = [None] * len(self.program.inputs)
        for i, x in zip(positions, values, strict=True):
            out[i] = x
        return out

    def messages(self, name: str, *args: Any) -> Messages:
        """What a party sends in one call of its program ``name`` with ``args``, which have an axis for both parties."""
        if name == "online":
            return planned(self.program)
        if name != "load" or not args[0].size:
            return Counter()
        return Counter({args[0].size * args[0].dtype.itemsize // 2: 1})

    # What each role runs. Traced under 64-bit types, which the rings need.

    def load(self, x: jax.Array, r: jax.Array) -> jax.Array:
        """At a party: a weight's public form, from this party's shares of it and of its mask. One exchange."""
        mine = (x + r).reshape(-1)
        words = jax.lax.bitcast_convert_type(mine, jnp.uint32).reshape(-1)
        theirs = exchange(words).reshape(-1, mine.dtype.itemsize // 4)
        other = jax.lax.bitcast_convert_type(theirs.squeeze(-1) if mine.dtype.itemsize == 4 else theirs, mine.dtype)
        return (mine + other).reshape(x.shape)

    def unpack(self, mask_words, dealt_words):
        """At a party: its words for one run as arrays, those of one width together."""
        supply = self.program.supply
        return {"masks": blocks(supply, "masks", mask_words), "dealt": blocks(supply, "dealt", dealt_words)}

    def offline(self, found, opened, places):
        """At a party: material for one run. ``found``: unpacked. ``opened``: the public forms of the weights.

        ``places``: where each array begins, as ``starts`` has them.
        """
        masks, dealt = (cut(self.program.supply, kind, found[kind], places[kind]) for kind in KINDS)
        return offline(self.program, Party(party_index()), masks, dealt, self._by_input(self.static, opened))

    def online(self, material, weights, inputs):
        """At a party: the run. Returns its shares of the outputs and the transcript.

        ``inputs``: its shares of what is not a weight, then the flags that the parties know.
        """
        every = self._by_input(self.static, weights)
        for i, x in zip((*self.shared, *self.flags), inputs, strict=True):
            every[i] = x
        return online(self.program, Party(party_index()), material, every)

    def expand(self, masks, dealt):
        """At the dealer: the words of both parties' masks and of party 0's dealt arrays, as arrays by width."""
        supply = self.program.supply
        return [blocks(supply, "masks", words) for words in masks], blocks(supply, "dealt", dealt)

    def correct(self, found, masks, places):
        """At the dealer: party 1's dealt arrays, from what ``expand`` made and the weights' masks."""
        supply = self.program.supply
        first, second = (cut(supply, "masks", of, places["masks"]) for of in found[0])
        dealt = cut(supply, "dealt", found[1], places["dealt"])
        return deal(self.program, (first, second), dealt, self._by_input(self.static, masks))

    def pack(self, corrections):
        """At the dealer: the words that it sends to party 1."""
        return pack_dealt(self.program.supply, corrections)

    @cached_property
    def ideal(self) -> Callable[..., list[jax.Array]]:
        """The program in the ideal world, on integers of all inputs, with coins from a keystream's key."""
        return jax.jit(lambda key, inputs: ideal_world.ideal(self.program, ideal_world.Drawn(key), inputs))

    def encode(self, position: int, env: Env) -> np.ndarray:
        """At an owner: the integers of one program input."""
        e = self.lowered.encodings[position]
        assert isinstance(e, Encoding)
        try:
            values = e.compute(env)
        except IndexError as error:
            raise CometError(f"{e.name or 'an input'} of {e.owner}: {error}") from error
        return fixed_point.encode(values, e.scale, e.group, name=f"{e.name or 'an input'} of {e.owner}")

    def is_weight(self, position: int) -> bool:
        """Whether the graph's input at ``position`` belongs to an owner of weights."""
        return self.lowered.inputs[position] in self._owners

    def results(self, session: Any, shares: Any, envs: dict[str, Env]) -> list[Any]:
        """The graph's outputs: secrets for what was computed on shares, in order, and what somebody knew anyway."""
        out, remaining = [], iter(shares if shares is not None else [None] * len(self.program.outputs))
        for r in self.lowered.results:
            if r.known is None:
                assert r.scale is not None
                payload = Shares(r.scale, self.program.outputs[0].bits, next(remaining))
                out.append(Secret(r.shape, r.dtype, None, session, payload))
            elif isinstance(r.known, Known):
                out.append(r.known.value)
            else:
                env = envs.get(r.known.owner)
                value = None if env is None else np.asarray(r.known.at(env))
                out.append(Secret(r.shape, r.dtype, r.known.owner, session, value))
        return out

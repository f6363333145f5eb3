"""A loop as one ``Scan``: its body is lowered once, for all steps alike.

What one owner knows of a step, or everybody, is computed by them before the program runs, step by step; the body takes
a slice of it where it meets shares. What is the same in all steps (weights) enters the body as a wire that was opened
once outside it. Carries that nobody knows are threaded through as shares, at one scale each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import numpy as np

from comet_jax.ir.jaxprs import Graph, Node, Value
from comet_jax.ir.program import Program, Scan, Var
from comet_jax.protocols.linear import Rearrange
from comet_jax.rules.knowledge import NOBODY, after_steps, together, who_knows
from comet_jax.rules.scope import Encoding, Scope, centre
from comet_jax.rules.terms import PUBLIC, Env, Joint, Known, Owned, Scaled, Term, deepest
from comet_jax.sharing.wires import Shared

T = TypeVar("T")
Form = tuple[int, str]  # which output of the body, and "raw" or "centred"


@dataclass(frozen=True)
class Loop:
    """A body to be run ``length`` times on constants, carries and slices of stacked arrays."""

    body: Graph
    length: int
    reverse: bool
    consts: tuple[Term, ...]
    inits: tuple[Term, ...]
    stacked: tuple[Term, ...]

    @property
    def order(self) -> range:
        """The places of the slices, in the order of the steps."""
        return range(self.length)[:: -1 if self.reverse else 1]

    @property
    def terms(self) -> tuple[Term, ...]:
        """All that goes into the loop."""
        return (*self.consts, *self.inits, *self.stacked)

    def parts(self, xs: Sequence[T]) -> tuple[Sequence[T], Sequence[T], Sequence[T]]:
        """One thing an input of the body: those of constants, carries, slices."""
        first, last = len(self.consts), len(self.consts) + len(self.inits)
        return xs[:first], xs[first:last], xs[last:]

    @property
    def carried_in(self) -> Sequence[Value]:
        """What a step takes from the one before."""
        return self.parts(self.body.inputs)[1]

    @property
    def carried_out(self) -> Sequence[Value]:
        """What a step hands on."""
        return self.body.outputs[: len(self.inits)]


@dataclass
class _Body:
    """The body, lowered: its scope, its outputs, and outer wires by the body's inputs that stand for them."""

    scope: Scope
    outputs: list[Term]
    carried: dict[Form, Var]
    fixed: dict[Var, Var]
    stacked: dict[Var, Var]


class Rolled:
    """One loop among secrets. Raises ``VaryingError`` where its steps are not alike."""

    def __init__(self, outer: Scope, loop: Loop):
        self.outer, self.loop = outer, loop
        carries = len(loop.inits)
        known = after_steps(loop.body, [who_knows(t) for t in loop.terms], len(loop.consts), carries)
        self.carry_known = [together((who_knows(t), k)) for t, k in zip(loop.inits, known)]
        self.known = [*self.carry_known, *known[carries:]]
        # Before, inside and after the loop: calibration gives all of them the same room.
        self.scales = [1.0 if v.dtype.kind in "iub" else outer.scale_of(v) for v in loop.carried_out]
        has_mean = lambda t: (t if isinstance(t, Joint) else outer.joint(t)).make_centred is not None
        self.centred = {i for i, t in enumerate(loop.inits) if self.known[i] == NOBODY and has_mean(t)}
        # A carry whose mean cannot be left out may take others with it.
        while True:
            self.lowered = self._lower()
            kept = {i for i in self.centred if self.lowered.scope.joint(self.lowered.outputs[i]).make_centred}
            if kept == self.centred:
                break
            self.centred = kept

    def results(self, node: Node) -> list[Term]:
        """The terms of the carries after the last step, and of what the steps make, stacked."""
        demands = self._demands(node)
        emitted = cache(lambda: self._emit(demands))

        def joint(i: int, value: Value) -> Joint:
            form = lambda name: lambda: emitted()[i, name]
            if value.dtype.kind == "b":
                return self.outer.boolean(value.shape, form("raw"))
            extra = {"make_centred": form("centred")} if i in self.centred else {}
            return self.outer.result(value.shape, form("raw"), **extra)

        known = lambda i, value: self._known(i, value) if self.known[i] != NOBODY else joint(i, value)
        return [known(i, v) for i, v in enumerate(node.outputs)]

    def _demands(self, node: Node) -> set[Form]:
        """The forms of the results that later nodes may ask for."""
        found: set[Form] = set()
        for i, value in enumerate(node.outputs):
            ops = {n.op for n in self.outer.consumers.get(value, [])}
            if self.known[i] != NOBODY or not ops:
                continue
            if i in self.centred and ("layer_norm_core" in ops or "add" in ops):
                found.add((i, "centred"))
            if i not in self.centred or ops != {"layer_norm_core"}:
                found.add((i, "raw"))
        return found

    # What somebody knows: computed step by step, in an environment of each step's own.

    def _known(self, i: int, value: Value) -> Term:
        owner, carries = self.known[i], len(self.loop.inits)

        def compute(env: Env) -> Any:
            steps = self._steps(env, owner)
            if i < carries:
                return _value(self.lowered.outputs[i], steps[-1])
            made = [np.asarray(_value(self.lowered.outputs[i], step)) for step in steps]
            return np.stack(made[::-1] if self.loop.reverse else made)

        if owner == PUBLIC and not any(isinstance(t, Owned) and t.owner == PUBLIC for t in self.loop.terms):
            return Known(np.asarray(compute(Env({}))))
        found = Owned(owner, tuple(value.shape), np.dtype(value.dtype), compute, depth=deepest(self.loop.terms))
        return replace(found, range=self.outer.calibrated(value))

    def _steps(self, env: Env, owner: str) -> list[Env]:
        key = (self, "steps")
        if key not in env.cache:
            _, carried, slices = self.loop.parts(self.loop.body.inputs)
            mine = lambda known: known in (owner, PUBLIC)
            stacks = {v: _value(t, env) for v, t in zip(slices, self.loop.stacked) if mine(who_knows(t))}
            places = [i for i, known in enumerate(self.carry_known) if mine(known)]
            carry = {carried[i]: _value(self.loop.inits[i], env) for i in places}
            steps = []
            for k in self.loop.order:
                steps.append(Env({**carry, **{v: a[k] for v, a in stacks.items()}}, env))
                carry = {carried[i]: _value(self.lowered.outputs[i], steps[-1]) for i in places}
            env.cache[key] = steps
        return env.cache[key]

    # What nobody knows.

    def _lower(self) -> _Body:
        from comet_jax.passes.lower import lower_nodes

        scope = Scope(self.outer.numbers, ranges=self.outer.ranges, places=self.outer.places, outer=self.outer)
        body = _Body(scope, [], {}, {}, {})
        _, carried, slices = self.loop.parts(self.loop.body.inputs)
        each = lambda f, *lists: [f(*pair) for pair in zip(*lists)]
        terms = [
            *each(lambda t: self._inside(body, t) if isinstance(t, Joint) else t, self.loop.consts),
            *each(lambda i, v: self._carry(body, i, v), range(len(carried)), carried),
            *each(lambda t, v: self._sliced(body, t, v), self.loop.stacked, slices),
        ]
        body.outputs = lower_nodes(scope, self.loop.body, dict(zip(self.loop.body.inputs, terms)))
        return body

    def _of_step(self, owner: str, v: Value, name: str = "") -> Owned:
        found = self.outer.calibrated(v)
        depth = self.outer.depth + 1
        return Owned(owner, tuple(v.shape), np.dtype(v.dtype), lambda env: env.input(v), name, None, found, depth)

    def _carry(self, body: _Body, i: int, v: Value) -> Term:
        if self.carry_known[i] != NOBODY:
            return self._of_step(self.carry_known[i], v)

        def form(name: str):
            def make() -> Scaled:
                if (i, name) not in body.carried:
                    body.carried[i, name] = body.scope.b.input(Shared(tuple(v.shape), body.scope.ring))
                return Scaled(body.carried[i, name], self.scales[i])

            return make

        if v.dtype.kind == "b":
            return body.scope.boolean(v.shape, form("raw"))
        extra = {"make_centred": form("centred")} if i in self.centred else {}
        return body.scope.result(v.shape, form("raw"), range=body.scope.calibrated(v), **extra)

    def _sliced(self, body: _Body, t: Term, v: Value) -> Term:
        if not isinstance(t, Joint):
            return self._of_step(who_knows(t), v, getattr(t, "name", ""))
        shape = tuple(v.shape)

        def form(get):
            def make() -> Scaled:
                x = get()
                var = self.outer.b.emit(Rearrange("reverse", ((0,),)), x.var) if self.loop.reverse else x.var
                found = next((inner for inner, outer in body.stacked.items() if outer is var), None)
                if found is None:
                    found = body.scope.b.input(Shared(shape, var.wire.group))
                    body.stacked[found] = var
                return Scaled(found, x.scale)

            return make

        if v.dtype.kind == "b":
            return body.scope.boolean(shape, form(lambda: t.raw))
        extra = {"make_centred": form(lambda: t.centred)} if t.make_centred and shape else {}
        return body.scope.result(shape, form(lambda: t.raw), range=t.range, **extra)

    def _inside(self, body: _Body, x: Joint) -> Joint:
        """x in the body: each form that the body asks for is made outside, once."""

        def enter(var: Var) -> Var:
            found = next((inner for inner, outer in body.fixed.items() if outer is var), None)
            if found is None:
                found = body.scope.b.input(var.wire)
                body.fixed[found] = var
            return found

        def form(get):
            def make(*_) -> Scaled:
                return replace(f := get(), var=enter(f.var))

            return make

        within = lambda y: None if y is None else self._inside(body, y)
        affine = x.affine and replace(x.affine, base=within(x.affine.base))
        masked = x.masked and replace(x.masked, base=within(x.masked.base))
        flag = x.flag
        return Joint(
            x.shape,
            form(lambda: x.raw),
            form(lambda: x.operand),
            form(lambda: x.centred) if x.make_centred else None,
            affine=affine,
            masked=masked,
            inverse=within(x.inverse),
            flag=flag and (lambda: enter(flag())),
            range=x.range,
        )

    def _emit(self, forms: set[Form]) -> dict[Form, Scaled]:
        """Emit the scan for ``forms`` and those that the body needs of its own carries."""
        carries = len(self.loop.inits)
        while True:
            body = self._lower()
            made = {(i, name): self._made(body, i, name) for i, name in sorted(forms)}
            if set(body.carried) <= forms:
                break
            forms = forms | set(body.carried)
        keys = [k for k in sorted(forms) if k[0] < carries]
        last = [k for k in sorted(forms) if k[0] >= carries]
        handed_on = [after for _, after in body.scope.carried if after]
        program = body.scope.b.finish(*(made[k].var for k in (*keys, *last)), *handed_on)
        # A form that the body hands on without reading it still needs an input.
        first = [body.carried.get(k) or body.scope.b.input(made[k].var.wire) for k in keys]
        used = {v for op in program.ops for v in op.inputs} | set(program.outputs)
        fixed = {inner: var for inner, var in body.fixed.items() if inner in used}
        stacked = {inner: var for inner, var in body.stacked.items() if inner in used}
        for inner, e in body.scope.encodings.values():
            if inner not in used:
                continue
            if e.source.depth is not None and e.source.depth <= self.outer.depth:
                if e.renewed:
                    raise ValueError(
                        "a layer of which every step of a loop uses the same weights cannot be gated without revealing "
                        "anything: each use needs an order of its own"
                    )
                fixed[inner] = self.outer.encode(e.source, e.scale, static=e.static)
            else:
                stacked[inner] = self._every_step(e)
        of_steps = lambda v: self.outer.b.input(replace(v.wire, shape=(self.loop.length, *v.shape)))
        stacked |= {before: of_steps(before) for before, _ in body.scope.carried if before}
        inputs = (*first, *fixed, *stacked)
        scan = Scan(Program(inputs, program.ops, program.outputs), self.loop.length, len(keys), len(fixed))
        starts = [self._start(*k) for k in keys]
        outs = self.outer.b.emit_all(scan, *starts, *fixed.values(), *stacked.values())
        stacks = iter(outs[len(outs) - len(handed_on) :])
        for before, after in body.scope.carried:
            self.outer.carried.append((stacked.get(before), next(stacks) if after else None))  # type: ignore[arg-type]
        found = {k: replace(made[k], var=v, where=None) for k, v in zip((*keys, *last), outs)}
        if self.loop.reverse:
            back = Rearrange("reverse", ((0,),))
            found |= {k: replace(found[k], var=self.outer.b.emit(back, found[k].var)) for k in last}
        return found

    def _made(self, body: _Body, i: int, name: str) -> Scaled:
        """One form of an output of the body; a carry's at its own scale."""
        out = body.scope.joint(body.outputs[i])
        got = out.raw if name == "raw" else out.centred
        assert got is not None
        return body.scope.rescale(got, self.scales[i]) if i < len(self.scales) else got

    def _start(self, i: int, name: str) -> Var:
        """What the first step takes of a carry."""
        init, scale = self.loop.inits[i], self.scales[i]
        mean = lambda a: a - a.mean(-1, keepdims=True) if name == "centred" else a
        if isinstance(init, Known):
            return self.outer.constant(mean(np.asarray(init.value)), scale)
        if isinstance(init, Owned):
            return self.outer.encode(centre(init) if name == "centred" else init, scale)
        got = init.raw if name == "raw" else init.centred
        assert got is not None
        return self.outer.rescale(got, scale).var

    def _every_step(self, e: Encoding) -> Var:
        """The outer input that holds an encoding of every step."""
        source = e.source

        def compute(env: Env) -> np.ndarray:
            return np.stack([np.asarray(source.at(step)) for step in self._steps(env, source.owner)])

        shape = (self.loop.length, *source.shape)
        stacked = Owned(source.owner, shape, source.dtype, compute, source.name, depth=deepest(self.loop.terms))
        order = e.order and replace(e.order, axis=e.order.axis + 1)
        return self.outer.encode(stacked, e.scale, static=e.static, order=order)


def _value(t: Term, env: Env) -> Any:
    assert not isinstance(t, Joint), "a step's value is somebody's"
    return t.value if isinstance(t, Known) else t.at(env)

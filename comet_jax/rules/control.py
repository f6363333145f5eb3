"""Scan: a stack of layers stays a loop in every program, so that size and compile time do not grow with depth."""

from functools import cache

import numpy as np

from comet_jax.ir.jaxprs import Graph, Node, Value
from comet_jax.ir.program import Program, Scan, Var
from comet_jax.rules.registry import rule
from comet_jax.rules.scope import Encoding, Scope
from comet_jax.rules.terms import Env, Joint, Known, Owned, Scaled, Term
from comet_jax.sharing.wires import Opened, Shared

Form = tuple[int, str]  # which carry, and "raw" or "centred"


@rule("scan")
def scan(s: Scope, node: Node, *terms: Term):
    p, body = node.params, node.params["body"]
    consts, carries = p["num_consts"], p["num_carry"]
    if len(node.outputs) > carries:
        raise ValueError("a scan over secrets that stacks outputs has no private rule yet: carry what you need")
    inits = [
        s.joint(t) if not isinstance(t, Known) else _refuse_public(i) for i, t in enumerate(terms[consts:][:carries])
    ]
    layers = _Layers(s, body, terms[:consts], terms[consts + carries :], inits, p["length"], bool(p.get("reverse")))
    wanted = cache(lambda: layers.emit(_demands(s.consumers, node.outputs, layers.centred)))

    def carried(i: int) -> Joint:
        form = lambda name: lambda: Scaled(wanted()[i, name], layers.scales[i])
        extra = {"make_centred": form("centred")} if i in layers.centred else {}
        return s.result(node.outputs[i].shape, form("raw"), **extra)

    return [carried(i) for i in range(carries)]


def _refuse_public(i: int):
    raise ValueError(f"carry {i} of a scan over secrets starts public and ends secret: share its first value")


def _demands(consumers: dict[Value, list[Node]], outputs, centred: set[int]) -> set[Form]:
    """The forms of the results that later nodes may ask for. ``centred``: the carries that have this form."""
    found: set[Form] = set()
    for i, value in enumerate(outputs):
        ops = {n.op for n in consumers.get(value, [])}
        if i in centred and ("layer_norm_core" in ops or "add" in ops):
            found.add((i, "centred"))
        if i not in centred or ops != {"layer_norm_core"}:
            found.add((i, "raw"))
    return found


class _Layers:
    """The body of one scan, lowered for a set of forms of its carries.

    ``centred``: the carries that can be handed on without their mean: sums of linear layers (pre-norm stacks), not
    results of a normalisation's scale and shift (post-norm stacks).
    """

    def __init__(self, outer: Scope, body: Graph, consts, stacked, inits: list[Joint], length: int, reverse: bool):
        self.outer, self.body, self.inits, self.carries, self.length = outer, body, inits, len(inits), length
        self.consts, self.stacked = consts, stacked
        self.order = range(length)[::-1] if reverse else range(length)
        for term in stacked:
            if not isinstance(term, Owned):
                raise ValueError("a scan over secrets runs over its owner's arrays (stacked weights) only")
        # Before, inside and after the loop: calibration gives all of them the same room.
        self.scales = [outer.scale_of(v) for v in body.outputs[: self.carries]]
        self.centred = {i for i, x in enumerate(inits) if x.make_centred}
        self._drop_what_cannot_be_centred()

    def _drop_what_cannot_be_centred(self) -> None:
        # A carry that drops out may take others with it.
        while True:
            outputs = self._lower(set())[2]
            kept = {i for i in self.centred if isinstance(x := outputs[i], Joint) and x.make_centred}
            if kept == self.centred:
                return
            self.centred = kept

    def _lower(self, forms: set[Form]):
        """Lower the body; returns its scope, the wires of the carry forms in use, its outputs, and the new forms."""
        from comet_jax.passes.lower import lower_nodes

        scope = Scope(self.outer.numbers, ranges=self.outer.ranges)
        carried: dict[Form, Var] = {}

        def carry(i: int) -> Joint:
            value = self.body.inputs[len(self.consts) + i]

            def form(name):
                def make():
                    if (i, name) not in carried:
                        carried[i, name] = scope.b.input(Shared(value.shape, scope.ring))
                    return Scaled(carried[i, name], self.scales[i])

                return make

            extra = {"make_centred": form("centred")} if i in self.centred else {}
            return scope.result(value.shape, form("raw"), range=scope.calibrated(value), **extra)

        slices = [
            Owned(t.owner, v.shape, v.dtype, lambda env, v=v: env.input(v), t.name, range=scope.calibrated(v))
            for t, v in zip(self.stacked, self.body.inputs[len(self.consts) + self.carries :])
        ]
        terms = [*self.consts, *map(carry, range(self.carries)), *slices]
        env = dict(zip(self.body.inputs, terms))
        outputs = lower_nodes(scope, self.body, env)
        wires = {}
        for i, name in sorted(forms):
            out = scope.joint(outputs[i])
            got = out.raw if name == "raw" else out.centred
            assert got is not None
            wires[i, name] = scope.rescale(got, self.scales[i]).var
        return scope, carried, outputs, wires

    def emit(self, forms: set[Form]) -> dict[Form, Var]:
        """Emit the scan for ``forms`` and those that the body needs of its own carries."""
        while True:
            scope, carried, _, wires = self._lower(forms)
            if set(carried) <= forms:
                break
            forms = forms | set(carried)
        keys = sorted(forms)
        first = []
        for i, name in keys:
            form = self.inits[i].raw if name == "raw" else self.inits[i].centred
            assert form is not None
            first.append(self.outer.rescale(form, self.scales[i]).var)
        # A form that the body hands on without reading it still needs an input.
        inputs = [carried.get(k) or scope.b.input(wires[k].wire) for k in keys]
        encoded = list(scope.encodings.values())
        stacks = [self._stack(e) for _, e in encoded]
        program = scope.b.finish(*(wires[k] for k in keys))
        body = Program((*inputs, *(v for v, _ in encoded)), program.ops, program.outputs)
        outs = self.outer.b.emit_all(Scan(body, self.length, len(keys)), *first, *stacks)
        return dict(zip(keys, outs))

    def _stack(self, e: Encoding) -> Var:
        """The outer input that holds an encoding of every layer."""
        shape = (self.length, *e.shape)
        inputs = self.body.inputs[len(self.consts) + self.carries :]

        def compute(env: Env):
            if _LAYERS not in env.cache:
                env.cache[_LAYERS] = {}
            layers = env.cache[_LAYERS].setdefault(id(self), [])
            if not layers:
                arrays = [t.at(env) for t in self.stacked]
                layers += [Env({v: a[k] for v, a in zip(inputs, arrays)}, env) for k in self.order]
            return np.stack([np.asarray(e.compute(layer)) for layer in layers])

        wire = Opened(shape, e.group, static=True) if e.static else Shared(shape, e.group)
        var = self.outer.b.input(wire)
        stacked = Encoding(e.owner, e.name, e.static, e.scale, e.group, shape, compute)
        self.outer.encodings[(id(self), id(e))] = (var, stacked)
        return var


_LAYERS = "layers"

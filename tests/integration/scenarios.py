"""What the roles do together in the integration tests: the same function in every process.

Each is given the session and returns what this role learns. A role that is not the owner passes shapes, not values.
"""

from __future__ import annotations

import jax
import numpy as np
import sockets
from gates import exact

import comet_jax as cj

WIDTH, LAYERS, TOKENS = 4, 2, 3


def network(weights, x):
    """A dense layer, a scan over residual layers with ReLU, and a dense layer."""

    def layer(x, w):
        return x + jax.nn.relu(x @ w["in"]) @ w["out"], None

    x, _ = jax.lax.scan(layer, x @ weights["first"], weights["layers"])
    return x @ weights["last"]


def head(weights, x):
    """A second program."""
    return jax.nn.relu(x @ weights["head"])


def weights(seed: int = 0):
    random = np.random.default_rng(seed)
    draw = lambda *shape: random.normal(0, 0.4, shape).astype(np.float32)
    layers = {k: draw(LAYERS, WIDTH, WIDTH) for k in ("in", "out")}
    return {"first": draw(WIDTH, WIDTH), "layers": layers, "last": draw(WIDTH, WIDTH), "head": draw(WIDTH, 2)}


def prompt(seed: int = 0):
    return np.random.default_rng(100 + seed).normal(0, 1, (TOKENS, WIDTH)).astype(np.float32)


def shared(session, owner: str, value):
    """``value`` as a secret of ``owner``; at other roles from its shapes alone."""
    if not session.holds(owner):
        value = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), value)
    return cj.share(value, owner=owner)


def plain() -> dict:
    """What ``everything`` gives, in floating point."""
    w, x = weights(), [prompt(i) for i in range(3)]
    runs = [np.asarray(network(w, x)) for x in x]
    results = {"runs": runs, "chained": head(w, runs[0]), "sealed": head(w, x[1]), "others": head(weights(1), x[1])}
    return jax.tree.map(np.asarray, results)


def everything(session) -> dict:
    """Several runs, plans, rings and sets of weights in one session; a result as an input; a sealed input."""
    held, others = shared(session, "model", weights()), shared(session, "model", weights(1))
    private = cj.private(network)
    runs = [private(held, shared(session, "client", prompt(i))) for i in range(3)]
    results = {"runs": runs, "chained": cj.private(head)(held, runs[0])}
    policy = cj.Policy(ring=64)
    private, sealed = cj.private(head, policy=policy), cj.seal(shared(session, "client", prompt(1)), policy)
    results["sealed"], results["others"] = private(held, sealed), private(others, sealed)
    return cj.reveal(results, to="client")


def transcendental(session) -> dict:
    """Functions whose tables and coefficients are computed from real numbers."""
    functions = {
        "softmax": jax.nn.softmax,
        "gelu": jax.nn.gelu,
        "norm": lambda x: (x - x.mean(-1, keepdims=True)) / jax.numpy.sqrt(x.var(-1, keepdims=True) + 1e-5),
    }
    x = cj.seal(shared(session, "client", prompt()))
    return cj.reveal(cj.private(lambda x: {name: f(x) for name, f in functions.items()})(x), to="client")


def gated(session) -> dict:
    """A scan of layers behind gates of both kinds, two runs each; others than the owner hold a manifest."""
    layers = weights()["layers"]
    predictor = exact("layers/in", layers["in"])
    if not session.holds("model"):
        predictor = cj.Predictor(predictor.sites)
    results = {}
    for reveals in ("flags", "nothing"):
        private = cj.private(network, policy=cj.Policy(gates=(cj.Gate(predictor=predictor, reveals=reveals),)))
        held = shared(session, "model", weights())
        runs = [private(held, shared(session, "client", prompt(i))) for i in range(2)]
        results[reveals] = [cj.reveal(y, to="client") for y in runs]
    return {**results, "shown": [[f.flags.tolist() for f in r.flags] for r in session.reports]}


def epochs(session, renewal="owner") -> dict:
    """A scan of layers behind gates that reveal nothing, in epochs of two calls that together compute every block."""
    layers = weights()["layers"]
    predictor = exact("layers/in", layers["in"], capacity=0.5)
    if not session.holds("model"):
        predictor = cj.Predictor(predictor.sites)
    gate = cj.Gate(predictor=predictor, reveals="nothing", epoch=2, renewal=renewal)
    private, held = cj.private(network, policy=cj.Policy(gates=(gate,))), shared(session, "model", weights())
    runs = [private(held, shared(session, "client", prompt(i))) for i in range(4)]
    traffic = {peer: link.traffic()["sent"].get("renewed", 0) for peer, link in session.links.items()}
    return {
        "runs": [cj.reveal(y, to="client") for y in runs],
        "shown": [[f.flags.tolist() for f in r.flags] for r in session.reports],
        "renewal": [r.renewal_bytes for r in session.reports],
        "traffic": traffic,
    }


def shuffled(session) -> dict:
    """The same, where the parties renew the order themselves."""
    before = sockets.sent(session)
    found = epochs(session, "shuffle")
    plan = next(iter(session.plans.values()))[0]
    size = lambda i: int(np.prod(plan.program.inputs[i].shape)) * 4
    opened = [*plan.static, *plan.renewed]  # when they are loaded first; for the shuffle, or after it
    online = sum(r.online_bytes for r in session.reports) + plan.shuffle.program.online_bytes
    links = {peer: link.traffic()["sent"] for peer, link in session.links.items()}
    return found | {
        "links": links,
        "sent": sockets.sent(session) - before,
        "planned": online + sum(map(size, opened)),
        "messages": sum(r.rounds for r in session.reports) + plan.shuffle.program.round_count + len(opened),
        "offline": plan.shuffle.program.offline_bytes,
    }


def counted(session) -> dict:
    """One program twice, with the bytes that really travelled during the second run."""
    held, private = shared(session, "model", weights()), cj.private(network)
    for run in range(2):
        before = sockets.sent(session)
        cj.reveal(private(held, shared(session, "client", prompt(run))), to="client")
    traffic = {peer: link.traffic()["sent"] for peer, link in session.links.items()}
    report = session.reports[-1]
    return {
        "sent": sockets.sent(session) - before,
        "rounds": report.rounds,
        "online": report.online_bytes,
        "offline": report.offline_bytes,
        "traffic": traffic,
    }


def small(session, x=None) -> None:
    """One small program twice, for failures."""
    held, private = shared(session, "model", weights()), cj.private(head)
    for run in range(2):
        value = cj.reveal(private(held, shared(session, "client", prompt(run) if x is None else x)), to="client")
        if value is not None:
            print("revealed", run, flush=True)


def hostile(session) -> None:
    """The client's numbers are not finite."""
    x = prompt()
    x[1, 2] = np.nan
    small(session, x)


def different(session) -> None:
    """Party 1 has another program than the others."""
    held = shared(session, "model", weights())
    function = (lambda w, x: head(w, x) + 1) if session.role == "party1" else head
    cj.reveal(cj.private(function)(held, shared(session, "client", prompt())), to="client")


def misshapen(session) -> None:
    """The client's input has another shape than the others were told."""
    x = prompt()[:2] if session.role == "client" else prompt()
    small(session, x)

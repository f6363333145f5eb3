"""From functions to flat graphs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from comet_jax.ir.jaxprs import Graph, flatten

X = jax.ShapeDtypeStruct((3,), jnp.float32)


@jax.custom_vjp
def doubled(x):
    return x + x


doubled.defvjp(lambda x: (x + x, None), lambda _, g: (g + g,))

FUNCTIONS = {
    "jit": jax.jit(lambda x: x * 2 + 1),
    "jit in jit": jax.jit(lambda x: jax.jit(jnp.cos)(x) * x),
    "custom_jvp": jax.nn.relu,
    "custom_vjp": lambda x: doubled(x) * x,
    "remat": jax.checkpoint(lambda x: jnp.sin(x) + jax.jit(jnp.exp)(x)),
    "vmap": jax.vmap(lambda x: jax.nn.silu(x)),
    "scan": lambda x: jax.lax.scan(lambda c, y: (jax.jit(jnp.tanh)(c) + y, c * y), x, jnp.stack([x, -x]))[0],
    "scan in reverse": lambda x: jax.lax.scan(lambda c, y: (c * 2 + y, c), x, jnp.stack([x, -x]), reverse=True)[1],
    "cond": lambda x: jax.lax.cond(x[0] > 0, jnp.sin, lambda x: -x, x),
    "switch": lambda x: jax.lax.switch(x.argmax(), [jnp.sin, jax.jit(jnp.cos), lambda x: x], x),
    "while": lambda x: jax.lax.while_loop(lambda v: v.sum() < 9, lambda v: v * v + 1, x),
}
GRAPHS = {"scan": 1, "cond": 2, "while": 2, "switch": 3}
CALLS = {"jit", "pjit", "closed_call", "remat", "checkpoint", "custom_jvp_call", "custom_vjp_call"}


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_graph_computes_what_the_function_does_and_has_no_calls(name):
    fn = FUNCTIONS[name]
    graph = flatten(lambda x: jax.tree.leaves(fn(x)), X)
    x = np.float32([0.5, -1.0, 2.0])
    for got, wanted in zip(graph.evaluate(x), jax.tree.leaves(fn(x)), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert not CALLS & set(ops(graph))
    inner = [g for n in graph.nodes for g in n.graphs]
    assert not any(CALLS & set(ops(g)) for g in inner)
    assert len(inner) == next((n for control, n in GRAPHS.items() if control in name), 0)


def test_random_keys_are_values_of_a_graph():
    """Made inside or captured; dead ones, of an inactive dropout, are dropped."""
    captured = jax.random.key(1)

    def fn(x):
        jax.random.split(jax.random.key(0))
        keys = jax.random.split(captured)
        noise = jax.lax.map(lambda k: jax.random.normal(k, x.shape), keys)
        return [x + noise[0] + jax.random.uniform(jax.random.PRNGKey(2), x.shape)]

    x = np.float32([1, 2, 3])
    graph = flatten(fn, X)
    np.testing.assert_allclose(graph.evaluate(x)[0], fn(x)[0], rtol=1e-6)
    assert ops(graph).count("random_seed") == 1
    assert str(graph) == str(flatten(fn, X))


def test_dead_code_is_dropped_and_effects_are_kept():
    def fn(x):
        jnp.sin(x)
        jax.debug.print("{}", x)
        return [x + 1]

    nodes = flatten(fn, X).nodes
    assert [n.effects for n in nodes if n.op != "add"] == [True]
    assert "sin" not in [n.op for n in nodes]


def test_nodes_know_the_users_line_and_the_module():
    def fn(x):
        with jax.named_scope("block"):
            return [jax.nn.relu(x)]

    (node,) = (n for n in flatten(fn, X).nodes if n.op == "max")
    assert node.where == f"{__file__}:{fn.__code__.co_firstlineno + 2}"
    assert node.site.startswith("block")


def test_a_graph_prints_the_same_each_time():
    fn = lambda x: [jax.lax.scan(lambda c, y: (c * y, None), x, jnp.ones((2, 3)))[0] + 1.5]
    text = str(flatten(fn, X))
    assert text == str(flatten(fn, X))
    assert text.splitlines() == [
        "graph(v0:float32[3])",
        "  v1:float32[2, 3] = broadcast_in_dim 1",
        "  v2:float32[3] = scan v0 v1",
        "    graph(v0:float32[3], v1:float32[3])",
        "      v2:float32[3] = mul v0 v1",
        "      return v2",
        "  v3:float32[3] = add v2 1.5",
        "  return v3",
    ]

"""Two-party programs: what they print, and when."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

import comet_jax as cj
from comet_jax.ir.program import Builder
from comet_jax.protocols.linear import Combine
from comet_jax.protocols.opening import Open, Reveal
from comet_jax.runtime.plan import Plan
from comet_jax.sharing.groups import Group
from comet_jax.sharing.wires import Shared

X = jax.ShapeDtypeStruct((2, 4), jnp.float32)
W = {"w": jax.ShapeDtypeStruct((4, 3), jnp.float32)}
DENSE = """\
program(%0:shared[z32 2x4], %1:static[z32 4x3])
  %2:opened[z32 2x4] = Open(width=32, shift=0, headroom=False, where=None) %0  # dense dot_general
  %3:shared[z32 2x3] = Bilinear(dimension_numbers=(((1,), (0,)), ((), ())), where=None) %2 %1  # dense dot_general
  %4:shared[z32 2x3] = Reveal() %3
  return %4:shared[z32 2x3]"""


def dense(p, x):
    with jax.named_scope("dense"):
        return x @ p["w"]


def plan(fn, *args, **policy) -> Plan:
    return Plan(cj.private(fn, policy=cj.Policy(**policy)).trace(*args).lower())


def test_a_small_program_in_print():
    text = cj.private(dense).trace(W, X).lower().as_text()
    assert text == DENSE


def test_an_operation_is_emitted_once_and_only_if_it_is_needed():
    b = Builder()
    x = b.input(Shared((2,), Group(32)))
    once, again = (b.emit(Combine((2,)), x) for _ in range(2))
    assert once is again
    b.emit(Combine((3,)), x)
    assert [op.protocol for op in b.finish(once).ops] == [Combine((2,))]


def test_openings_of_one_depth_are_one_message():
    b = Builder()
    x, y = b.input(Shared((3,), Group(32))), b.input(Shared((5,), Group(32)))
    total = b.emit(Combine((1, 1)), *(b.emit(Reveal(), v) for v in (x, x)))
    for v in (x, y, total):
        b.emit(Open(32), v)
    program = b.finish(*b.ops[-1].outputs, *b.ops[-2].outputs, *b.ops[-3].outputs)
    assert program.round_count == 1
    assert program.online_bytes == 4 * (3 + 5 + 3)


def test_the_digest_is_of_everything_that_parties_must_agree_on():
    causal = np.tril(np.ones((4, 4), bool))
    masked = lambda keep: lambda x: jax.nn.softmax(jnp.where(keep, x, -1e9))
    square = cj.seal(jax.ShapeDtypeStruct((4, 4), jnp.float32))
    digests = [
        plan(dense, W, X).digest,
        plan(dense, W, X, ring=64).digest,
        plan(dense, W, X, published=("^w",)).digest,
        plan(dense, W, jax.ShapeDtypeStruct((3, 4), jnp.float32)).digest,
        plan(lambda p, x: 2 * dense(p, x), W, X).digest,
        plan(lambda x: x + 1.0, square).digest,
        plan(lambda x: x + 1.5, square).digest,
        plan(masked(causal), square).digest,
        plan(masked(causal[::-1]), square).digest,
    ]
    assert len(set(digests)) == len(digests)
    assert plan(dense, W, X).digest == digests[0]


SCRIPT = """
import jax, jax.numpy as jnp, numpy as np, comet_jax as cj
from comet_jax.runtime.plan import Plan
def f(p, x):
    x = jax.lax.scan(lambda x, w: (x + jax.nn.gelu(x @ w), None), x, p["layers"])[0]
    x = jax.nn.softmax(jnp.where(np.tri(4, dtype=bool), x @ x.T, -1e9)) @ x
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["scale"] @ p["out"]
shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
p = {"layers": shape(2, 4, 4), "scale": shape(4), "out": shape(4, 3)}
print(Plan(cj.private(f).trace(p, shape(4, 4)).lower()).digest)
"""


def test_two_processes_agree_on_the_digest():
    def digest(seed):
        env = {**os.environ, "PYTHONHASHSEED": seed, "JAX_PLATFORMS": "cpu"}
        run = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    first = digest("1")
    assert len(first) == 64
    assert first == digest("2")

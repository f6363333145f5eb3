"""Every rule against float32, in both rings. A group of cases is one private function: compilation dominates.

At 32 bits two parties run it, at 64 the ideal world: what a rule emits is the same protocols in either ring. That two
parties equal the ideal world bit for bit is shown of each protocol in both (tests/protocols), and of random programs.
"""

import jax
import numpy as np
import pytest
from cases_elementwise import NEWER
from ideal_world import Ideal
from rule_cases import GROUPS, Case

import comet_jax as cj
from comet_jax.rules import registry


def together(cases: list[Case]):
    """All cases of a group as one function of their inputs and weights."""

    def function(weights, inputs):
        return [c.function(*x, *w) for c, w, x in zip(cases, weights, inputs)]

    return function


def by_two_parties(cases: list[Case], policy: cj.Policy) -> list[np.ndarray]:
    with cj.Session.simulated():
        weights = cj.share([c.weights for c in cases], owner="model")
        inputs = [[cj.seal(x, policy) for x in cj.share(c.inputs, owner="client")] for c in cases]
        return jax.tree.leaves(cj.reveal(cj.private(together(cases), policy=policy)(weights, inputs)))


def in_the_ideal_world(cases: list[Case], policy: cj.Policy) -> list[np.ndarray]:
    arguments = [list(c.weights) for c in cases], [list(c.inputs) for c in cases]
    return Ideal(together(cases), arguments, ("model", "sealed"), policy).results()


@pytest.mark.parametrize(("ring", "run"), [(32, by_two_parties), (64, in_the_ideal_world)], ids=["32", "64"])
@pytest.mark.parametrize("group", GROUPS)
def test_rules_agree_with_float32(group, ring, run):
    cases, policy = [c for c in GROUPS[group] if ring in c.rings], cj.Policy(ring=ring)
    results, wrong = iter(run(cases, policy)), []
    for case in cases:
        for i, wanted in enumerate(case.plain()):
            got = next(results)
            assert got.shape == wanted.shape
            assert got.dtype == wanted.dtype
            error = np.abs(np.float64(got) - np.float64(wanted)).max(initial=0.0)
            if not error <= case.bound(policy.numbers):
                wrong.append(f"{case.name} [{i}]: off by {error:.3g}, allowed {case.bound(policy.numbers):.3g}")
    assert next(results, None) is None
    assert not wrong, "\n".join(wrong)


def test_every_rule_has_a_case(monkeypatch):
    """By what lowering the cases really calls, not by their names."""
    called = set()

    def watched(name, rule):
        return lambda *args: (called.add(name), rule(*args))[1]

    for name, rule in list(registry.RULES.items()):
        monkeypatch.setitem(registry.RULES, name, watched(name, rule))
    shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
    for cases in GROUPS.values():
        weights = [[shape(w) for w in c.weights] for c in cases]
        inputs = [[cj.seal(shape(x)) for x in c.inputs] for c in cases]
        cj.private(together(cases)).trace(weights, inputs).lower()
    missing = {name for name in NEWER if not hasattr(jax.lax, f"{name}_p")}
    # Gated layers are a policy's, not a primitive's: test_gating.py has them.
    assert called == set(registry.RULES) - missing - {"gated_ffn"}

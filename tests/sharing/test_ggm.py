"""Trees of seeds against plain Python, for every choice of active leaves of small ones."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from comet_jax.sharing.ggm import Tree, packed, packed_size, unpacked
from comet_jax.sharing.groups import Group

ROOT = (0x01234567, 0x89ABCDEF, 0xDEADBEEF, 42)
QUARTERS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
QUARTERS += ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))


def chacha(key, *nonce, counter=0):
    """A block of ChaCha20 with a key of 128 bits, 16 integers."""
    start = [int.from_bytes(b"expand 16-byte k"[i : i + 4], "little") for i in (0, 4, 8, 12)]
    start += [*key, *key, counter, *nonce]
    x = list(start)
    for _ in range(10):
        for a, b, c, d in QUARTERS:
            for i, j, k, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                x[i] = (x[i] + x[j]) % 2**32
                x[k] ^= x[i]
                x[k] = (x[k] << n | x[k] >> (32 - n)) % 2**32
    return [(a + b) % 2**32 for a, b in zip(x, start)]


def seed(level: int, index: int):
    """That of a node: its place among its parent's children says which half it is."""
    if level == 0:
        return ROOT
    at = 4 * (index % 2)
    return tuple(chacha(seed(level - 1, index // 2), index // 2, level - 1, 0)[at : at + 4])


def copath(depth: int, leaves: int, active: set[int]) -> list[tuple[int, int]]:
    """Level and index of the largest subtrees without an active leaf."""

    def without(level, index):
        span = 1 << (depth - level)
        return not active & set(range(index * span, index * span + span))

    found = []
    for level in range(depth + 1):
        for index in range(-(-leaves // (1 << (depth - level)))):
            if without(level, index) and (level == 0 or not without(level - 1, index // 2)):
                found.append((level, index))
    return found


@pytest.mark.parametrize("leaves", range(1, 9))
def test_every_choice_of_active_leaves(leaves):
    tree = Tree(leaves)
    depth, most, root = len(tree.widths) - 1, tree.most(leaves), np.array(ROOT, np.uint32)
    plain = {(level, i): seed(level, i) for level, width in enumerate(tree.widths) for i in range(width)}
    seeds = jax.jit(tree.grown)(root)
    np.testing.assert_array_equal(seeds, np.array(list(plain.values()), np.uint32))
    sets = np.array(list(product((False, True), repeat=leaves)))
    given = jax.jit(jax.vmap(lambda a: tree.punctured(seeds, a, most)))(sets)
    again = np.asarray(jax.jit(jax.vmap(tree.regrown))(given, sets))
    lengths = {n: 0 for n in range(leaves + 1)}
    for chosen, sent, found in zip(sets, np.asarray(given), again[:, -leaves:]):
        active = set(np.flatnonzero(chosen).tolist())
        path = copath(depth, leaves, active)
        above = {(level, i >> (depth - level)) for i in active for level in range(depth + 1)}
        assert not above & set(path)
        expected = [plain[node] for node in path] + [(0,) * 4] * (most - len(path))
        np.testing.assert_array_equal(sent, np.array(expected, np.uint32).reshape(-1, 4))
        np.testing.assert_array_equal(found[~chosen], np.asarray(seeds)[-leaves:][~chosen])
        assert not (found[chosen] == np.asarray(seeds)[-leaves:][chosen]).all(1).any()
        # Nothing that has an active leaf below it is among what was sent.
        assert not {plain[node] for node in above} & set(map(tuple, sent.tolist()))
        lengths[len(active)] = max(lengths[len(active)], len(path))
    for n in range(leaves + 1):
        assert tree.most(n) == max(lengths[k] for k in range(n + 1))


def test_large_trees_are_grown_in_steps():
    tree, leaves = Tree(1500), 1500
    grown = jax.jit(tree.grown)(np.array(ROOT, np.uint32))
    seeds = np.asarray(grown)
    starts, depth = np.cumsum((0, *tree.widths)), len(tree.widths) - 1
    for i in (0, 1, 511, 512, leaves - 1):
        for level in (depth - 1, depth):
            node = i >> (depth - level)
            assert tuple(seeds[starts[level] + node].tolist()) == seed(level, node)
    for count in (1, leaves // 8):
        chosen = np.zeros(leaves, bool)
        chosen[np.random.default_rng(count).choice(leaves, count, replace=False)] = True
        sent = tree.punctured(grown, jnp.asarray(chosen), tree.most(count))
        found = np.asarray(jax.jit(tree.regrown)(sent, chosen))
        np.testing.assert_array_equal(found[-leaves:][~chosen], seeds[-leaves:][~chosen])


def test_the_longest_copath_of_active_leaves_that_lie_evenly():
    assert Tree(1024).most(128) == 128 * 3  # each in a subtree of eight leaves
    assert Tree(12288).most(1536) == 1536 * 3


def test_elements_of_leaves():
    tree = Tree(3)
    seeds = tree.grown(jnp.array(ROOT, jnp.uint32))
    blocks = [chacha(seed(2, i), i, 2, 1) + chacha(seed(2, i), i, 2, 1, counter=1) for i in range(3)]
    words = np.array(blocks, np.uint32)
    np.testing.assert_array_equal(tree.elements(seeds, 20, Group(32)), words[:, :20])
    np.testing.assert_array_equal(tree.elements(seeds, 20, Group(11)), words[:, :20] % 2**11)
    with jax.enable_x64(True):
        wide = words.astype(np.uint64)[:, ::2] | words.astype(np.uint64)[:, 1::2] << np.uint64(32)
        np.testing.assert_array_equal(tree.elements(seeds, 10, Group(64)), wide[:, :10])


@pytest.mark.parametrize("bits", [1, 7, 27, 32, 33, 64])
def test_seeds_travel_as_elements(bits):
    group, seeds = Group(bits), np.random.default_rng(bits).integers(0, 1 << 32, (5, 4), dtype=np.uint32)
    with jax.enable_x64(True):
        elements = packed(jnp.asarray(seeds), group)
        assert elements.shape == (packed_size(5, group),)
        assert (elements.size - 1) * bits < 5 * 128 <= elements.size * bits
        assert elements.dtype == group.dtype
        assert int(elements.max()) < 1 << bits
        np.testing.assert_array_equal(unpacked(elements, 5, group), seeds)

"""ChaCha20 (RFC 8439) as a keystream of uint32 words, on any XLA backend.

Every mask and every share comes from here. Keys are 256 bits from the operating system's generator; a (key, nonce)
pair gives one keystream and is used once. The round loop stays rolled: unrolled, it takes XLA minutes to compile.
On the host OpenSSL's ChaCha20 makes the same words, 20 times faster than the compiled loop on a CPU.
"""

import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

CONSTANTS = np.frombuffer(b"expand 32-byte k", dtype="<u4")
SHORT = np.frombuffer(b"expand 16-byte k", dtype="<u4")  # for keys of 128 bits


def new_key() -> np.ndarray:
    """A fresh 256-bit key from the operating system, uint32[8]."""
    return np.frombuffer(os.urandom(32), dtype="<u4").astype(np.uint32)


def nonce(*words: int) -> np.ndarray:
    """A 96-bit nonce from up to three public counters, uint32[3]."""
    if len(words) > 3 or any(not 0 <= w < 1 << 32 for w in words):
        raise ValueError(f"a nonce is at most three 32-bit counters, not {words}")
    return np.array((*words, 0, 0, 0)[:3], np.uint32)


def draw(key: np.ndarray, nonce: np.ndarray, words: int) -> np.ndarray | jax.Array:
    """``keystream`` outside compiled code: by OpenSSL where arrays live on the host, else on the device."""
    if jax.default_backend() != "cpu":
        # A copy: the transfer may still read it when the caller overwrites its key.
        return keystream(np.array(key), nonce, words)
    _check(words)
    little = lambda x: np.asarray(x, "<u4").tobytes()
    # OpenSSL takes the block counter, zero here, in front of the nonce.
    cipher = Cipher(algorithms.ChaCha20(little(key), bytes(4) + little(nonce)), mode=None).encryptor()
    # Encrypting zeros gives the keystream; into one buffer, so that it is not copied.
    out = np.zeros(words, "<u4")
    if words:
        cipher.update_into(out.view(np.uint8).data, out.view(np.uint8).data)
    return out.astype(np.uint32, copy=False)


def _check(words: int) -> None:
    if words > 16 << 32:
        raise ValueError(f"{words} words is beyond one keystream of 2^32 blocks")


def _rotate(x: jax.Array, n: int) -> jax.Array:
    return (x << np.uint32(n)) | (x >> np.uint32(32 - n))


def _quarter(a, b, c, d):
    a = a + b
    d = _rotate(d ^ a, 16)
    c = c + d
    b = _rotate(b ^ c, 12)
    a = a + b
    d = _rotate(d ^ a, 8)
    c = c + d
    b = _rotate(b ^ c, 7)
    return a, b, c, d


def _double_round(_, rows):
    # Rows of the 4x4 state: a column round, the same on diagonals by rotating rows, and back.
    a, b, c, d = _quarter(*rows)
    b, c, d = jnp.roll(b, -1, 0), jnp.roll(c, -2, 0), jnp.roll(d, -3, 0)
    a, b, c, d = _quarter(a, b, c, d)
    return a, jnp.roll(b, 1, 0), jnp.roll(c, 2, 0), jnp.roll(d, 3, 0)


@partial(jax.jit, static_argnames="words")
def keystream(key: jax.Array, nonce: jax.Array, words: int, counter: int = 0) -> jax.Array:
    """``words`` words of the keystream from block ``counter`` on, uint32[words], in RFC 8439 order.

    ``key`` is uint32[8] and ``nonce`` uint32[3], both little endian as in the RFC.
    """
    _check(words)
    blocks = -(-words // 16)
    column = lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.uint32)[:, None], (4, blocks))
    count = jnp.arange(blocks, dtype=jnp.uint32) + jnp.uint32(counter)
    last = jnp.concatenate([count[None], jnp.broadcast_to(nonce[:, None], (3, blocks))])
    return _blocks((column(CONSTANTS), column(key[:4]), column(key[4:]), last)).reshape(-1)[:words]


def keystreams(keys: jax.Array, nonces: jax.Array, words: int) -> jax.Array:
    """``words`` words of the keystream of each of n keys of 128 bits, uint32[n, words].

    ``keys`` is uint32[n, 4] and ``nonces`` uint32[n, 3]. As in Bernstein's specification a short key stands in the
    state twice, beside constants of its own, so that no such stream is one of a long key.
    """
    each, n = -(-words // 16), len(keys)
    column = lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.uint32).T[:, :, None], (x.shape[1], n, each))
    count = jnp.broadcast_to(jnp.arange(each, dtype=jnp.uint32), (1, n, each))
    key, last = column(keys), jnp.concatenate([count, column(nonces)])
    start = (column(np.broadcast_to(SHORT, (n, 4))), key, key, last)
    return _blocks(tuple(x.reshape(4, -1) for x in start)).reshape(n, -1)[:, :words]


def _blocks(start: tuple[jax.Array, ...]) -> jax.Array:
    """The blocks of n states, given as the rows of their 4x4 matrices, each uint32[4, n]: uint32[n, 16]."""
    end = jax.lax.fori_loop(0, 10, _double_round, start)
    return jnp.concatenate([a + b for a, b in zip(end, start)]).T

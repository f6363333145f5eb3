"""The bytes of a message: a small JSON header and named arrays behind it.

    magic "CJX1" | sequence u64 | header length u32 | payload length u64 | header (JSON) | raw array bytes

    header = {"kind": "stock", "fields": {...}, "arrays": [["r", "uint32", [2, 3]], ...]}

Integers are big-endian, array bytes little-endian in C order. There is no pickle: a receiver builds nothing but
JSON values and arrays of the plain types in `DTYPES`. Lengths are checked against limits before any memory is
taken, and the payload must be exactly what the header's shapes say.

The sequence number starts at 0 and counts the messages of one direction of one link. TLS already refuses bytes
that were changed, dropped or replayed on the wire; the number catches the same mistakes in *our* code above it
(a message sent twice, one swallowed after a timeout), which would desynchronise single-use material.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from comet_jax.runtime.errors import LinkError

MAGIC = b"CJX1"
PREFIX = struct.Struct("!4sQIQ")
"""Magic, sequence, header length, payload length."""

DTYPES = frozenset(
    ["bool", "float16", "float32", "float64"] + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)
"""The array types a message may carry."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """The largest message a link accepts or sends.

    Attributes:
        header: bytes of JSON.
        payload: bytes of all arrays together.
    """

    header: int = 1 << 20
    payload: int = 1 << 30


@dataclasses.dataclass(frozen=True)
class Message:
    """One received message.

    Attributes:
        kind: what it is ("stock", "hello", ...); traffic is counted by it.
        fields: JSON values.
        arrays: name -> array; freshly allocated, writable, owned by the receiver.
    """

    kind: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Header:
    """A parsed header: what the payload will contain.

    Attributes:
        kind: see `Message`.
        fields: see `Message`.
        arrays: (name, dtype, shape) in payload order.
    """

    kind: str
    fields: dict[str, Any]
    arrays: tuple[tuple[str, np.dtype, tuple[int, ...]], ...]


def encode(message: Message, sequence: int, limits: Limits) -> list[memoryview]:
    """The bytes of `message` as flat byte views, without copying arrays that are already C-contiguous.

    Raises:
        LinkError: an array type outside `DTYPES`, a field that is not JSON, or more bytes than `limits`.
    """
    described, payload = [], []
    for name, value in message.arrays.items():
        array = np.asarray(value)
        if array.dtype.name not in DTYPES:
            raise LinkError(
                f"array {name!r} of message {message.kind!r} has dtype {array.dtype}: a message carries only "
                f"{sorted(DTYPES)}; convert it first"
            )
        described.append([name, array.dtype.name, list(array.shape)])
        flat = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(-1)
        payload.append(flat.view(np.uint8).data)
    header = {"kind": message.kind, "fields": dict(message.fields), "arrays": described}
    try:
        text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise LinkError(f"fields of message {message.kind!r} are not JSON ({error}): send arrays as arrays") from None
    size = sum(len(view) for view in payload)
    _check_sizes(len(text), size, limits, f"message {message.kind!r}")
    return [memoryview(PREFIX.pack(MAGIC, sequence, len(text), size) + text), *payload]


def parse_prefix(prefix: bytes, expected: int, limits: Limits) -> tuple[int, int]:
    """Header and payload length of the message that starts with `prefix` (`PREFIX.size` bytes).

    Raises:
        LinkError: not our format, not message number `expected`, or larger than `limits`.
    """
    magic, sequence, header, payload = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise LinkError(f"the message starts with {magic!r}, not {MAGIC!r}: not a comet_jax link of this version")
    if sequence != expected:
        what = "was replayed or reordered" if sequence < expected else "follows a dropped one"
        raise LinkError(f"message number {sequence} arrived where {expected} was due: it {what}")
    _check_sizes(header, payload, limits, "the message")
    return header, payload


def parse_header(text: bytes, payload: int) -> Header:
    """The header in `text`; the shapes in it must take exactly `payload` bytes.

    Raises:
        LinkError: malformed JSON, unknown array types, impossible shapes, repeated names, or a size that
            differs from `payload`.
    """
    try:
        header = json.loads(text, object_pairs_hook=_no_repeats, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise LinkError(f"the message's header is malformed: {error}") from None
    if not isinstance(header, dict) or header.keys() != {"kind", "fields", "arrays"}:
        raise LinkError("the message's header is malformed: it needs exactly kind, fields and arrays")
    kind, fields, described = header["kind"], header["fields"], header["arrays"]
    if not isinstance(kind, str) or not isinstance(fields, dict) or not isinstance(described, list):
        raise LinkError("the message's header is malformed: kind is a string, fields an object, arrays a list")
    arrays = tuple(_parse_array(item) for item in described)
    if len({name for name, _, _ in arrays}) != len(arrays):
        raise LinkError(f"message {kind!r} names an array twice")
    size = sum(dtype.itemsize * math.prod(shape) for _, dtype, shape in arrays)
    if size != payload:
        raise LinkError(f"the arrays of message {kind!r} take {size} bytes, but {payload} were announced")
    return Header(kind, fields, arrays)


def allocate(dtype: np.dtype, shape: tuple[int, ...]) -> tuple[np.ndarray, memoryview]:
    """An uninitialised array and the flat bytes to receive it into.

    Raises:
        LinkError: numpy cannot make such an array.
    """
    try:
        array = np.empty(shape, dtype)
    except (ValueError, MemoryError) as error:
        raise LinkError(f"an array of shape {shape} cannot be made here: {error}") from None
    return array, array.reshape(-1).view(np.uint8).data


def check_values(name: str, array: np.ndarray) -> None:
    """Refuse bytes that are no value of the array's type (a bool other than 0 and 1).

    Raises:
        LinkError: there is such a byte.
    """
    if array.dtype == np.bool_ and (array.reshape(-1).view(np.uint8) > 1).any():
        raise LinkError(f"array {name!r} is bool but holds bytes other than 0 and 1")


def _check_sizes(header: int, payload: int, limits: Limits, what: str) -> None:
    if header > limits.header:
        raise LinkError(f"{what} has a header of {header} bytes; the limit is {limits.header}")
    if payload > limits.payload:
        raise LinkError(
            f"{what} carries {payload} bytes; the limit is {limits.payload}: send it in parts, or raise "
            f"Limits.payload at both ends"
        )


def _parse_array(item: Any) -> tuple[str, np.dtype, tuple[int, ...]]:
    if not isinstance(item, list) or len(item) != 3:
        raise LinkError("the message's header is malformed: an array is [name, dtype, shape]")
    name, dtype, shape = item
    if not isinstance(name, str) or not isinstance(dtype, str) or dtype not in DTYPES:
        raise LinkError(f"array {str(name)[:80]!r} has no plain type: {str(dtype)[:80]!r}")
    # type(n) is int: JSON's true is an int to isinstance.
    if not isinstance(shape, list) or len(shape) > 32 or not all(type(n) is int and n >= 0 for n in shape):
        raise LinkError(f"array {name[:80]!r} has no shape: {str(shape)[:80]}")
    return name, np.dtype(dtype).newbyteorder("<"), tuple(shape)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")

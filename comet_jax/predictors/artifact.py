"""The artifact of trained predictors: what is public of them, and what only the model's owner holds.

A predictor says which neurons of a feed-forward layer matter for a token: ``(x A) B + bias >= 0``, one score a gate. x
is the layer's input, or what the attention before it has opened; A and B are low-rank. A gate stands for ``block``
neurons, which ``order`` brings together. Scores are scaled so that they stay between -1 and 1, which is what their
fixed-point form holds.

One file has it all: safetensors, with a manifest (JSON) among its metadata; arrays that float16 holds exactly are
stored in it. Sites, shapes, ranks and capacities are
public: they are the shape of the program that both parties run. The arrays are the owner's. ``manifest()`` is what the
other roles need; ``Predictor.load`` reads either. A layer is recognised by the hash of its first weight, so predictors
cannot serve other weights than those that they were trained for.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from comet_jax.errors import CometError

FORMAT = "comet_jax predictor 1"


@dataclass(frozen=True)
class Site:
    """What is public of the predictors of one site: a layer, or a scanned stack of ``layers``.

    ``site``: the path of the first weight. ``width``, ``neurons``: its shape. ``block``: neurons a gate, of which there
    are neurons / block. ``rank``: of the predictor. ``capacity``: the part of the gates that there is room for, over
    all tokens of a call together; more than that are cut, of the tokens with most. ``ahead``: widths of what predictors
    read in place of the layer's input: the input of the attention before it and its heads' results, which are opened
    earlier. ``fills``: what is left out counts as its mean, not as zero.
    """

    site: str
    activation: str
    width: int
    neurons: int
    layers: int
    block: int
    rank: int
    capacity: float
    ahead: tuple[int, ...] = ()
    fills: bool = False

    def __post_init__(self):
        object.__setattr__(self, "ahead", tuple(self.ahead))  # JSON has lists
        if not isinstance(self.site, str) or not isinstance(self.activation, str):
            raise CometError(f"a site {self.site!r} with the activation {self.activation!r}: both are names")
        sizes = (self.width, self.neurons, self.layers, self.block, self.rank, *self.ahead)
        if any(type(n) is not int or n < 1 for n in sizes) or self.neurons % self.block:
            raise CometError(
                f"{self.site}: {self.layers} layers of {self.neurons} neurons in blocks of {self.block}, width "
                f"{self.width}, rank {self.rank}, reading {self.read}: these must be whole, and blocks must divide the "
                "neurons"
            )
        if type(self.fills) is not bool:
            raise CometError(f"{self.site}: whether it fills is true or false, not {self.fills!r}")
        if type(self.capacity) not in (int, float) or not 0 < self.capacity <= 1:
            raise CometError(f"{self.site}: a capacity of {self.capacity}, which must be above 0 and at most 1")

    @property
    def gates(self) -> int:
        """Gates of one token."""
        return self.neurons // self.block

    @property
    def read(self) -> tuple[int, ...]:
        """Widths of what a predictor reads of one token."""
        return self.ahead or (self.width,)


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer's predictor: ``order`` int32[neurons], ``a`` [read, rank], ``b`` [rank, gates], ``bias`` [gates].

    ``fill`` [neurons], of a site that fills: each neuron's mean activation where it is left out, in the model's order.
    """

    fingerprint: str
    order: np.ndarray
    a: np.ndarray
    b: np.ndarray
    bias: np.ndarray
    fill: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Predictor:
    """Predictors of a model's sites. ``layers``: by site, one a layer; None where only the manifest is held.

    ``facts``: metrics, hashes of data and model, settings: anything that JSON holds.
    """

    sites: tuple[Site, ...]
    layers: Mapping[str, tuple[Layer, ...]] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        names = [site.site for site in self.sites]
        if not names or len(set(names)) < len(names):
            raise CometError(f"a predictor needs sites, each once: here are {', '.join(names) or 'none'}")
        held = self.layers
        for site in () if held is None else self.sites:
            found = held.get(site.site, ()) if held else ()
            if len(found) != site.layers:
                raise CometError(f"{site.site}: {len(found)} layers where {site.layers} are needed")
            for i, layer in enumerate(found):
                _check(f"{site.site}, layer {i}", site, layer)

    @property
    def digest(self) -> str:
        """SHA-256 of what is public."""
        return sha256(self.manifest().encode()).hexdigest()

    def __repr__(self) -> str:
        return f"Predictor({len(self.sites)} sites, {self.digest})"

    def site(self, name: str) -> Site:
        """The site called ``name``. Raises ``CometError`` where there is none."""
        for site in self.sites:
            if site.site == name:
                return site
        raise CometError(f"the predictor has no site {name}: it has {', '.join(s.site for s in self.sites)}")

    def layer(self, name: str, weight: np.ndarray) -> Layer:
        """The predictor of the layer with the first ``weight``, [width, neurons], at the model's owner."""
        if self.layers is None:
            raise CometError(f"this process holds the predictor's manifest only, and has to share the layers of {name}")
        wanted = fingerprint(weight)
        for layer in self.layers[self.site(name).site]:
            if layer.fingerprint == wanted:
                return layer
        raise CometError(
            f"the predictor of {name} was trained for other weights: no layer of it has hash {wanted[:16]}"
        )

    def manifest(self) -> str:
        """What all roles need, as JSON."""
        return json.dumps({"format": FORMAT, "sites": [asdict(s) for s in self.sites], "facts": dict(self.facts)})

    def save(self, path: Path) -> None:
        """Write arrays and manifest to one file."""
        if self.layers is None:
            raise CometError("a predictor without its arrays cannot be saved: write its manifest() instead")
        tensors = {
            f"{site.site}/{i}/{name}": _compact(getattr(layer, name))
            for site in self.sites
            for i, layer in enumerate(self.layers[site.site])
            for name in _names(site)
        }
        prints = {s.site: [layer.fingerprint for layer in self.layers[s.site]] for s in self.sites}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, metadata={"manifest": self.manifest(), "fingerprints": json.dumps(prints)})

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """The predictor in a file, or of a manifest (``.json``). Raises ``CometError`` that says what is wrong."""
        path = Path(path)
        try:
            if path.suffix == ".json":
                return cls(*_parsed(path.read_text()))
            with safe_open(path, "numpy") as f:
                meta = f.metadata() or {}
                if not {"manifest", "fingerprints"} <= meta.keys():
                    raise ValueError("its metadata has no manifest, so it is some other model's file")
                sites, _, facts = _parsed(meta["manifest"])
                prints: dict[str, list[str]] = json.loads(meta["fingerprints"])
                layers = {s.site: tuple(_layer(f, s, i, m) for i, m in enumerate(prints[s.site])) for s in sites}
            return cls(sites, layers, facts)
        except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError, CometError) as error:
            raise CometError(f"{path} holds no predictor that can be used: {error}") from error


def fingerprint(weight: np.ndarray) -> str:
    """SHA-256 of a layer's first weight, [width, neurons], as float32."""
    return sha256(np.ascontiguousarray(weight, np.float32).tobytes()).hexdigest()


def _parsed(text: str) -> tuple[tuple[Site, ...], None, dict[str, Any]]:
    found = json.loads(text)
    if found.get("format") != FORMAT:
        raise CometError(f"a predictor of the format {found.get('format')!r}, where {FORMAT!r} is read")
    return tuple(Site(**s) for s in found["sites"]), None, dict(found["facts"])


def _names(site: Site) -> tuple[str, ...]:
    """The arrays of one of a site's layers."""
    return ("order", "a", "b", "bias", *(("fill",) if site.fills else ()))


def _compact(array: np.ndarray) -> np.ndarray:
    """Integers as int32, numbers as float16 where that loses nothing, else as float32."""
    array = np.asarray(array)
    if array.dtype.kind in "iu":
        return np.ascontiguousarray(array, np.int32)
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return np.ascontiguousarray(half if np.array_equal(half, array) else array.astype(np.float32))


def _layer(file: Any, site: Site, i: int, fingerprint: str) -> Layer:
    order, *numbers = (file.get_tensor(f"{site.site}/{i}/{name}") for name in _names(site))
    kinds = [x.dtype.kind for x in (order, *numbers)]
    if kinds != ["i", *"f" * len(numbers)]:
        raise ValueError(
            f"{site.site}, layer {i}: {', '.join(_names(site))} have the types {order.dtype}, {numbers[0].dtype}, ..."
        )
    return Layer(fingerprint, order, *(x.astype(np.float32) for x in numbers))


def _check(place: str, site: Site, layer: Layer) -> None:
    shapes = {
        "order": (site.neurons,),
        "a": (sum(site.read), site.rank),
        "b": (site.rank, site.gates),
        "bias": (site.gates,),
    }
    if site.fills:
        shapes["fill"] = (site.neurons,)
    for name, shape in shapes.items():
        array = np.asarray(getattr(layer, name))
        if array.shape != shape:
            raise CometError(f"{place}: {name} should be {shape} and is {array.shape}")
        if not np.isfinite(array).all():
            raise CometError(f"{place}: {name} holds a value that is not finite")
    if not np.array_equal(np.sort(layer.order), np.arange(site.neurons)):
        raise CometError(f"{place}: its order does not name each of {site.neurons} neurons once")

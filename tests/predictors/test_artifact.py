"""The artifact of predictors: what is written is read, and a file that cannot be used says why."""

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from comet_jax.errors import CometError
from comet_jax.predictors.artifact import FORMAT, Layer, Predictor, Site, fingerprint
from comet_jax.predictors.reference import neurons, scores

SITE = Site(
    "params/up/kernel", "relu", width=4, neurons=6, layers=2, block=2, rank=3, capacity=0.5, ahead=(3, 2), fills=True
)
WEIGHTS = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)


def layer(i: int, exact: bool = True) -> Layer:
    draw = np.random.default_rng(i)
    number = lambda *shape: draw.normal(size=shape).astype(np.float16 if exact else np.float32).astype(np.float32)
    order = draw.permutation(6).astype(np.int32)
    return Layer(fingerprint(WEIGHTS[i]), order, number(5, 3), number(3, 3), number(3), number(6))


def predictor(exact: bool = True) -> Predictor:
    return Predictor((SITE,), {SITE.site: (layer(0, exact), layer(1, exact))}, {"loss": 1.5, "sites": {"a": [1]}})


@pytest.fixture
def path(tmp_path):
    predictor().save(tmp_path / "gates.safetensors")
    return tmp_path / "gates.safetensors"


def rewritten(path, tensors=None, **metadata):
    """The file with other tensors or metadata; None leaves one out."""
    meta = {"manifest": predictor().manifest(), "fingerprints": json.dumps({SITE.site: [layer(0).fingerprint] * 2})}
    meta = {k: v for k, v in (meta | metadata).items() if v is not None}
    kept = {k: v for k, v in (load_file(path) | (tensors or {})).items() if v is not None}
    save_file(kept, path, metadata=meta)
    return path


@pytest.mark.parametrize("exact", [True, False])
def test_what_is_saved_is_loaded(tmp_path, exact):
    ours = predictor(exact)
    ours.save(tmp_path / "new" / "gates.safetensors")
    theirs = Predictor.load(str(tmp_path / "new" / "gates.safetensors"))
    assert (theirs.sites, theirs.facts, theirs.digest) == (ours.sites, ours.facts, ours.digest)
    for i in (0, 1):
        a, b = ours.layer(SITE.site, WEIGHTS[i]), theirs.layer(SITE.site, WEIGHTS[i])
        assert a.fingerprint == b.fingerprint
        for name in ("order", "a", "b", "bias", "fill"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
            assert getattr(b, name).dtype == (np.int32 if name == "order" else np.float32)


def test_numbers_of_half_precision_are_stored_in_it(tmp_path):
    for exact, kind in ((True, np.float16), (False, np.float32)):
        predictor(exact).save(tmp_path / "gates.safetensors")
        assert load_file(tmp_path / "gates.safetensors")[f"{SITE.site}/0/a"].dtype == kind


def test_a_manifest_has_the_public_part_alone(tmp_path):
    (tmp_path / "gates.json").write_text(predictor().manifest())
    found = Predictor.load(tmp_path / "gates.json")
    assert found.layers is None
    assert (found.sites, found.digest) == ((SITE,), predictor().digest)
    with pytest.raises(CometError, match="manifest only"):
        found.layer(SITE.site, WEIGHTS[0])
    with pytest.raises(CometError, match="without its arrays"):
        found.save(tmp_path / "again.safetensors")


def test_a_layer_is_found_by_its_weights_alone():
    assert predictor().layer(SITE.site, WEIGHTS[1]).fingerprint == fingerprint(WEIGHTS[1])
    assert fingerprint(np.asfortranarray(WEIGHTS[1])) == fingerprint(WEIGHTS[1].astype(np.float64))
    with pytest.raises(CometError, match="trained for other weights"):
        predictor().layer(SITE.site, WEIGHTS[1] + 1e-3)
    with pytest.raises(CometError, match="has no site other: it has params/up/kernel"):
        predictor().layer("other", WEIGHTS[1])


def test_the_reference_opens_whole_blocks_in_the_models_order():
    one, x = layer(0), np.random.default_rng(5).normal(size=(7, 5)).astype(np.float32)
    flags = np.asarray(scores(one, x) >= 0)
    found = np.asarray(neurons(one, flags))
    for gate in range(3):
        assert (found[:, one.order[2 * gate : 2 * gate + 2]] == flags[:, gate, None]).all()


@pytest.mark.parametrize("keep", [0, 7, 300, -1])
def test_a_truncated_file(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CometError, match=r"gates.safetensors holds no predictor"):
        Predictor.load(path)


def test_a_file_that_is_not_there(tmp_path):
    for name in ("gates.safetensors", "gates.json"):
        with pytest.raises(CometError, match=f"{name} holds no predictor"):
            Predictor.load(tmp_path / name)


def test_another_models_file(tmp_path):
    save_file({"x": np.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CometError, match="no manifest, so it is some other model's"):
        Predictor.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("{", "holds no predictor"),
        ("[]", "holds no predictor"),
        ("3", "holds no predictor"),
        ('{"format": "other"}', "'other', where 'comet_jax predictor 1' is read"),
        (json.dumps({"format": FORMAT}), "sites"),
        (json.dumps({"format": FORMAT, "sites": [], "facts": {}}), "needs sites"),
        (json.dumps({"format": FORMAT, "sites": [asdict(SITE)] * 2, "facts": {}}), "each once"),
        (json.dumps({"format": FORMAT, "sites": [asdict(SITE) | {"more": 1}], "facts": {}}), "more"),
        (json.dumps({"format": FORMAT, "sites": [{"site": "x"}], "facts": {}}), "missing"),
        (json.dumps({"format": FORMAT, "sites": [3], "facts": {}}), "holds no predictor"),
        (json.dumps({"format": FORMAT, "sites": [asdict(SITE)], "facts": 3}), "holds no predictor"),
    ],
)
def test_a_manifest_that_is_none(path, manifest, said):
    path.with_suffix(".json").write_text(manifest)
    for bad in (rewritten(path, manifest=manifest), path.with_suffix(".json")):
        with pytest.raises(CometError, match=re.escape(said)):
            Predictor.load(bad)


@pytest.mark.parametrize(
    "wrong",
    [
        {"neurons": 7},
        {"block": 4},
        {"rank": 0},
        {"width": -1},
        {"layers": 1.5},
        {"layers": True},
        {"capacity": 0},
        {"capacity": -0.1},
        {"capacity": 1.1},
        {"capacity": float("nan")},
        {"capacity": "all"},
        {"site": 3},
        {"activation": None},
    ],
)
def test_sizes_that_cannot_be(path, wrong):
    with pytest.raises(CometError):
        replace(SITE, **wrong)
    manifest = json.dumps({"format": FORMAT, "sites": [asdict(SITE) | wrong], "facts": {}})
    with pytest.raises(CometError, match=r"gates.safetensors holds no predictor"):
        Predictor.load(rewritten(path, manifest=manifest))


def test_sizes_that_can_just_be():
    assert replace(SITE, capacity=1).capacity == 1
    assert replace(SITE, block=6).gates == 1


@pytest.mark.parametrize("marks", [None, "{", "[]", "{}", '{"params/up/kernel": ["x"]}', '{"params/up/kernel": 2}'])
def test_fingerprints_that_do_not_fit(path, marks):
    with pytest.raises(CometError, match=r"gates.safetensors holds no predictor"):
        Predictor.load(rewritten(path, fingerprints=marks))


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("a", None, "params/up/kernel/1/a"),
        ("order", None, "params/up/kernel/1/order"),
        ("a", np.zeros((3, 4), np.float32), "layer 1: a should be (5, 3) and is (3, 4)"),
        ("b", np.zeros((3, 6), np.float32), "layer 1: b should be (3, 3)"),
        ("bias", np.zeros(6, np.float32), "layer 1: bias should be (3,)"),
        ("bias", np.zeros(3, np.int32), "int32"),
        ("order", np.zeros(6, np.float32), "float32"),
        ("a", np.full((5, 3), np.nan, np.float32), "not finite"),
        ("b", np.full((3, 3), np.inf, np.float16), "not finite"),
        ("fill", np.full(6, np.nan, np.float16), "fill holds a value that is not finite"),
        ("fill", np.zeros(3, np.float32), "layer 1: fill should be (6,) and is (3,)"),
        ("order", np.array([0, 1, 2, 3, 4, 4], np.int32), "each of 6 neurons once"),
        ("order", np.array([1, 2, 3, 4, 5, 6], np.int32), "each of 6 neurons once"),
    ],
)
def test_tensors_that_cannot_be(path, name, array, said):
    with pytest.raises(CometError, match=re.escape(said)):
        Predictor.load(rewritten(path, {f"{SITE.site}/1/{name}": array}))


@pytest.mark.parametrize("bias", [9.0, -9.0])
def test_gates_that_are_always_or_never_open(tmp_path, bias):
    always = replace(layer(0), bias=np.full(3, bias, np.float32))
    Predictor((SITE,), {SITE.site: (always, layer(1))}).save(tmp_path / "gates.safetensors")
    found = Predictor.load(tmp_path / "gates.safetensors").layer(SITE.site, WEIGHTS[0])
    assert (np.asarray(scores(found, np.zeros((2, 5)))) >= 0).all() == (bias > 0)


def test_layers_that_are_missing():
    with pytest.raises(CometError, match="1 layers where 2 are needed"):
        Predictor((SITE,), {SITE.site: (layer(0),)})

"""Exports: they score without the package as the package does, bit for bit, or they are not there."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from jax import export as stablehlo

from astroad_jax import config, data, files, preprocess
from astroad_jax.app import bundle, exporting, lowering, partition, raw, scoring, standalone, verifying
from astroad_jax.engine import catalog, rundir, score, search
from astroad_jax.engine.train import pick
from astroad_jax.errors import DataError, ExportError
from astroad_jax.preprocess import samples
from tests import runs, toy

SLOTS = 8
TRAINED_OTHERWISE = ("mcdsvdd-weighted", "dasvdd-published", "dasvdd-fixed")  # and scored alike
VARIANTS = [name for name in toy.VARIANTS if name not in TRAINED_OTHERWISE]
FIRST = ["autoencoder", "vae", "vae-ivar", "mcdsvdd", "conv_autoencoder", "wgan_gp"]  # every kind of score and of scaling
OTHERS = [name for name in VARIANTS if name not in FIRST]
SCALES = {  # the others have quantiles, and images asinh
    "vae": {"scale": "quantile", "nan": "median"},
    "deep_svdd": {"scale": "minmax", "nan": "lowest"},
    "mcdsvdd": {"scale": "gcn"},
    "dasvdd": {"scale": "standard", "nan": "median"},
    "conv_autoencoder": {"scale": "asinh", "crop": 10, "size": 8},
    "ganomaly": {"scale": "linear", "nan": "lowest"},
}
ALONE = """
import sys
for name in ("astroad_jax", "flax", "optax", "orbax", "pydantic", "pyarrow", "sklearn", "astropy", "tensorflow", "tqdm"):
    sys.modules[name] = None  # cannot be imported
import runpy
import numpy as np
for directory in sys.argv[1:]:
    held = np.load(f"{directory}.objects.npz")
    score = runpy.run_path(f"{directory}/load.py")["load"]()
    np.savez(f"{directory}.scores.npz", **score(held["x"], held["id"]))
"""


def as_read(name: str, x: np.ndarray) -> np.ndarray:
    """Rows of the toy problem as a variant's objects, before anything is cut from them."""
    x = toy.shaped(name, x)
    return np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge") if SCALES.get(name, {}).get("crop") else x


def model_of(name: str) -> bundle.Bundle:
    """A variant with random weights, which takes no training."""
    batches, rng = toy.feed(name), np.random.default_rng(0)
    made = toy.method(name, batches)
    shapes = rundir.abstract_state(made, pick(batches.data, next(batches.batches(0))))
    drawn = lambda leaf: rng.uniform(0.05, 0.5, leaf.shape) if leaf.dtype.kind == "f" else np.ones(leaf.shape)  # noqa: E731
    state = jax.tree.map(lambda leaf: drawn(leaf).astype(leaf.dtype), shapes)
    x = as_read(name, toy.mixture(200)[0])
    settings = config.load(None, [f"score.slots={SLOTS}"])
    settings = settings.model_copy(
        update={"method": toy.VARIANTS[name], "preprocess": config.Preprocess(**SCALES.get(name, {}))}
    )
    features = tuple(f"f{i}" for i in range(toy.WIDTH)) if x.ndim == 2 else ("spectrum",) if x.ndim == 3 else ("image",)
    units = ("mag", *[""] * (len(features) - 1))
    schema = bundle.Schema(
        features, units, x.shape[1:], toy.shape(name), ("a", "b", "c"), toy.plan(name, batches, toy.EPOCHS)
    )
    calibration = np.linspace(0, 3, 50).astype(np.float32)
    return bundle.Bundle(settings, schema, preprocess.fit(x, settings.preprocess), made, state, "0" * 64, calibration)


def objects(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the toy problem, some broken, under strings as ids."""
    x = as_read(name, np.concatenate([toy.outliers(), toy.mixture(9, seed=5)[0]]))
    flat = x.reshape(len(x), -1)
    flat[0, 0], flat[1, 1], flat[2], flat[3] = np.nan, np.inf, np.nan, 30
    return x, np.array([f"{i:03d}" for i in range(len(x))])


def as_columns(model: bundle.Bundle, x: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
    features = model.schema.features
    named = {features[0]: x} if len(features) == 1 else dict(zip(features, x.T))
    return {"object_id": ids, **named}


def export_all(home: Path, names: list[str]) -> Path:
    """Variants exported, and their objects' scores: ours from Parquet, and those of a process without the package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "FEWER", ())  # programs for fewer slots take long to compile
        for name in names:
            model, (x, ids) = model_of(name), objects(name)
            exporting.write(model, home / name)
            np.savez(home / f"{name}.objects.npz", x=x, id=ids)
            columns, scorer = as_columns(model, x, ids), model.scorer()
            scoring.score(model, [data.memory("objects", columns)], home / f"{name}.ours", scorer=scorer)
            score_in_two_calls(model, columns, scorer, home / f"{name}.resumed")
            if importlib.util.find_spec("pandas"):  # which comes with LSDB
                score_frames(model, columns, scorer, home / f"{name}.frames.parquet")
    places = [str(home / name) for name in names]
    subprocess.run([sys.executable, "-c", ALONE, *places], env={**os.environ, "PYTHONPATH": ""}, cwd=home, check=True)
    return home


def score_in_two_calls(model: bundle.Bundle, columns: dict[str, np.ndarray], scorer: Callable, out: Path) -> None:
    """Half of the objects are scored when the call is broken off; the same call goes on."""
    half = len(columns["object_id"]) // 2
    parts = [data.memory(name, {k: v[rows] for k, v in columns.items()}) for name, rows in halves(half).items()]
    seen = []

    def breaking(*given):
        seen.append(given)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return scorer(*given)

    with pytest.raises(KeyboardInterrupt):
        scoring.score(model, parts, out, scorer=breaking)
    assert scoring.score(model, parts, out, scorer=scorer).skipped == 1


def halves(half: int) -> dict[str, slice]:
    return {"a": slice(None, half), "b": slice(half, None)}


def score_frames(model: bundle.Bundle, columns: dict[str, np.ndarray], scorer: Callable, out: Path) -> None:
    """What LSDB calls with each partition of a catalogue, two of them."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    frame = pd.DataFrame({name: values.tolist() for name, values in columns.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "serve", lambda *given: partition.Served("", model, scorer))
        scored = [partition.score_partition(frame.iloc[rows], run="RUN") for rows in halves(len(frame) // 3).values()]
    pq.write_table(pa.Table.from_pandas(pd.concat(scored), preserve_index=False), out)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_all(tmp_path_factory.mktemp("exports"), FIRST)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return export_all(tmp_path_factory.mktemp("others"), OTHERS)


WAYS = ("exported", "resumed", "LSDB")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FIRST)
def test_every_way_to_score_gives_the_same_bits(exported, name, way):
    check_scores(exported, name, way)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OTHERS)
def test_every_way_to_score_gives_the_same_bits_for_every_method(others, name, way):
    check_scores(others, name, way)


def scores_of(home: Path, name: str, way: str) -> dict[str, np.ndarray]:
    if way == "exported":
        with np.load(home / f"{name}.scores.npz") as held:
            return {column: held[column] for column in held.files}
    if way == "resumed":
        found = catalog.read_scores(home / f"{name}.resumed")
    else:
        pytest.importorskip("pandas", reason="it comes with LSDB: pip install '.[test,lsdb]'")
        table = pq.read_table(home / f"{name}.frames.parquet")
        found = {column: table[column].to_numpy() for column in table.column_names}
    del found["object_id"]
    return found


def check_scores(home: Path, name: str, way: str) -> None:
    ours, theirs = catalog.read_scores(home / f"{name}.ours"), scores_of(home, name, way)
    del ours["object_id"]
    assert set(theirs) == set(ours)
    assert 0 < np.isnan(ours["score"]).sum() < len(ours["score"])
    for column, values in ours.items():
        absent = np.isnan(values)
        np.testing.assert_array_equal(theirs[column][~absent], values[~absent], err_msg=column)
        whole = way == "exported" and theirs[column].dtype.kind in "iu"
        assert (theirs[column][absent] == -1 if whole else np.isnan(theirs[column][absent])).all(), column
    assert theirs["flags"].dtype == np.uint32
    assert np.ptp(ours["score"][~np.isnan(ours["score"])]) > 0


@pytest.mark.parametrize("name", ["autoencoder", "wgan_gp"])
def test_what_an_export_holds(exported, name):
    """Its own files and no others, weights without optimisers, and numbers of rows by platform."""
    note = files.read_sealed(exported / name / "manifest.json")
    assert sorted(path.name for path in (exported / name).iterdir()) == sorted([*note["files"], "manifest.json"])
    assert note["features"] == list(model_of(name).schema.features)
    assert set(note["rows"]) == set(lowering.PLATFORMS)
    assert note["rows"]["cpu"] == (SLOTS if name == "wgan_gp" else score.reference_rows("cpu"))
    with np.load(exported / name / "weights.npz") as held:
        assert held.files == note["weights"]
    assert not any("opt" in weight or "generator" in weight for weight in note["weights"])  # its average decides
    assert note["weights"][0] == "key"
    assert "params/fill" in note["weights"]
    readme = (exported / name / "README.md").read_text()
    assert ("`f0` (mag), `f1`," in readme) == (name == "autoencoder")
    tried = {"autoencoder": score.CPU_ROWS + 1 + 1, "wgan_gp": SLOTS + 8 + 1}[name]  # more than a call takes, and one alone
    assert f"every column of {tried} objects" in readme
    for word in (*note["features"], *note["columns"], *note["flags"].values()):
        assert word in readme
    assert config.load(exported / name / "config.toml").score.slots == SLOTS


def test_images_are_cropped_before_they_reach_the_function(exported, monkeypatch):
    directory, model = exported / "conv_autoencoder", model_of("conv_autoencoder")
    note = files.read_sealed(directory / "manifest.json")
    assert (note["raw_shape"], note["window"]) == ([12, 12, 1], [[1, 11], [1, 11]])
    assert "`window`" in (directory / "README.md").read_text()
    function = stablehlo.deserialize(bytearray((directory / "scores.stablehlo").read_bytes()))
    assert function.in_avals[-2].shape[1:] == (10, 10, 1)
    monkeypatch.setattr(score, "LARGEST", 64 * 100)  # numbers in a call
    assert lowering.rows(model) == {"cpu": 48, "cuda": 64, "tpu": 64}


def test_exports_are_verified(exported):
    found = verifying.verify(exported / "vae-ivar")
    assert found == ("export", len(FILES), [])


def test_the_function_takes_any_number_of_objects(exported):
    directory, model = exported / "autoencoder", model_of("autoencoder")
    function = stablehlo.deserialize(bytearray((directory / "scores.stablehlo").read_bytes()))
    assert set(function.platforms) == {"cpu", "cuda", "tpu"}
    x = toy.mixture(7)[0]
    with np.load(directory / "weights.npz") as held:
        weights = [held[name] for name in held.files]
    expected = model.scorer()(model.state, x, np.arange(7))
    for count in (1, 7):
        found = function.call(weights, x[:count], np.zeros((count, 2), np.uint32))
        np.testing.assert_allclose(found["score"], expected["score"][:count], rtol=1e-5)
        np.testing.assert_array_equal(found["flags"], expected["flags"][:count])


@pytest.mark.parametrize("name", ["vae", "mcdsvdd"])
def test_an_export_checks_itself(exported, capsys, name):
    main = runpy.run_path(str(exported / name / "load.py"))["main"]
    assert not main([])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(files.read_sealed(exported / name / "manifest.json")["columns"])
    assert all("16 of 16 objects as at export" in line for line in lines)
    assert not main([str(exported / f"{name}.objects.npz"), str(exported / f"{name}.again.npz")])
    with np.load(exported / f"{name}.again.npz") as again, np.load(exported / f"{name}.scores.npz") as first:
        np.testing.assert_array_equal(again["score"], first["score"])


def test_a_check_that_finds_other_scores_fails(exported, tmp_path, capsys, monkeypatch):
    copy = shutil.copytree(exported / "vae", tmp_path / "copy")
    with np.load(copy / "check.npz") as kept:
        held = dict(kept)
    np.savez(copy / "check.npz", **held | {"p_value": held["p_value"] + 1e-9})
    note = files.read_sealed(copy / "manifest.json")
    files.write_sealed(
        copy / "manifest.json", note | {"files": note["files"] | {"check.npz": files.sha256(copy / "check.npz")}}
    )
    monkeypatch.setattr(sys, "argv", ["load.py"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(copy / "load.py"), run_name="__main__")
    assert ended.value.code == 1
    off = [line for line in capsys.readouterr().out.splitlines() if "16 of 16" not in line]
    assert [line.split()[0] for line in off] == ["p_value"]


SPOILT = {  # words, what is in the file, what is said
    "one": (["in.npz"], {"x": np.zeros(1)}, r"expected OBJECTS.npz SCORES.npz, or nothing, got 1"),
    "three": (["in.npz", "out.npz", "more"], {"x": np.zeros(1)}, "got 3"),
    "columns": (["in.npz", "out.npz"], {"f0": np.zeros(1), "f1": np.zeros(1)}, r"no array x, only \['f0', 'f1'\]: store"),
    "npy": (["in.npz", "out.npz"], np.zeros(1), "cannot be read as an npz"),
    "zip": (["in.npz", "out.npz"], b"PK\x03\x04" + b"0" * 50, "cannot be read as an npz"),
    "empty": (["in.npz", "out.npz"], b"", "cannot be read as an npz"),
    "absent": (["in.npz", "out.npz"], None, "cannot be read as an npz.*No such file"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_words_and_files_that_cannot_be_taken_are_said(exported, tmp_path, monkeypatch, name):
    words, content, said = SPOILT[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["load.py", *words])
    if isinstance(content, dict):
        np.savez("in.npz", **content)
    elif content is not None:
        with open("in.npz", "wb") as stream:
            stream.write(content) if isinstance(content, bytes) else np.save(stream, content)
    with pytest.raises(SystemExit, match=f"error: .*{said}"):
        runpy.run_path(str(exported / "vae" / "load.py"), run_name="__main__")
    assert not Path("out.npz").exists()


@pytest.fixture(scope="module")
def score_them(exported):
    """Scores that rest on random numbers, which belong to the id."""
    return runpy.run_path(str(exported / "vae" / "load.py"))["load"]()


def test_what_is_masked_is_missing(score_them):
    x, ids = objects("vae")
    x, ids = x[4:], ids[4:]
    hidden = np.zeros(x.shape, bool)
    hidden[1, 0] = hidden[2] = True
    found = score_them(np.ma.masked_array(np.where(hidden, -999, x), hidden), ids)
    expected = score_them(np.where(hidden, np.nan, x).astype(np.float32), ids)
    assert (found["flags"] & 7)[:4].tolist() == [0, 1, 5, 0]
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert score_them(np.ma.masked_array(np.full(x.shape, 1), hidden), ids)["flags"][1] & 1  # integers have no NaN


def test_ids_draw_the_same_however_they_are_stored(score_them):
    x, ids = objects("vae")
    by_text, by_number = score_them(x, ids)["score"], score_them(x, np.arange(len(x)))["score"]
    sound = ~np.isnan(by_text)
    assert (by_text != by_number)[sound].all()  # or ids would show nothing here
    for same in (ids.tolist(), np.char.encode(ids, "utf-8"), np.ma.masked_array(np.char.encode(ids, "utf-8"))):
        np.testing.assert_array_equal(score_them(x, same)["score"], by_text)
    for same in (list(range(len(x))), np.arange(len(x), dtype=">u2"), np.ma.masked_array(np.arange(len(x)))):
        np.testing.assert_array_equal(score_them(x, same)["score"], by_number)


@pytest.mark.parametrize(
    ("ids", "got"),
    [
        (np.arange(3).astype(object), "got object"),
        (np.array(["a", "b", "c"], object), "got object"),
        (np.arange(3.0), "got float64"),
        (np.zeros(3, bool), "got bool"),
        (np.ma.masked_array([1, 2, 3], [0, 1, 0]), "none of them masked, got int64"),
    ],
)
def test_ids_that_are_neither_integers_nor_strings_are_refused(score_them, ids, got):
    with pytest.raises(ValueError, match=rf"ids must be integers or strings, .*{got}: .*convert them with \.astype"):
        score_them(np.zeros((3, toy.WIDTH)), ids)


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes(content[: len(content) // 2] if how == "cut" else content)
    if how == "gone":
        path.unlink()


FILES = ("load.py", "prepare.py", "scores.stablehlo", "weights.npz", "scaler.npz", "calibration.npz", "check.npz")
FILES += ("config.toml", "README.md", "manifest.json")


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
@pytest.mark.parametrize("name", FILES)
def test_what_is_damaged_is_refused(exported, tmp_path, name, how):
    load = runpy.run_path(str(exported / "vae-ivar" / "load.py"))["load"]
    copy = shutil.copytree(exported / "vae-ivar", tmp_path / "copy")
    damaged(copy / name, how)
    with pytest.raises(ValueError, match=name) as error:
        load(copy)
    assert str(copy) in str(error.value)
    if (name, how) != ("load.py", "gone"):
        assert any(name in problem for problem in verifying.verify(copy).problems)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"seal": "0"}, "manifest.json has changed"),
        ({"null_flags": 0}, "manifest.json has changed"),
        (["a list"], "manifest.json cannot be read"),
    ],
)
def test_a_manifest_that_was_edited_is_refused(exported, tmp_path, change, word):
    tools = runpy.run_path(str(exported / "autoencoder" / "load.py"))
    note = json.loads((exported / "autoencoder" / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(note | change if isinstance(change, dict) else change))
    with pytest.raises(ValueError, match=word):
        tools["read_manifest"](tmp_path)


def test_a_manifest_that_reaches_out_of_its_directory_is_refused(exported, tmp_path):
    tools = runpy.run_path(str(exported / "autoencoder" / "load.py"))
    (tmp_path / "secret").write_text("")
    (tmp_path / "here").mkdir()
    files.write_sealed(tmp_path / "here" / "manifest.json", {"files": {"../secret": files.sha256(tmp_path / "secret")}})
    with pytest.raises(ValueError, match="../secret"):
        tools["read_manifest"](tmp_path / "here")


def test_what_an_export_cannot_do_is_said(exported):
    tools = runpy.run_path(str(exported / "autoencoder" / "load.py"))
    note = tools["read_manifest"](exported / "autoencoder")
    with pytest.raises(ValueError, match="for tpu, and JAX runs on cpu here: set JAX_PLATFORMS"):
        tools["compiled"](exported / "autoencoder", {**note, "rows": {"tpu": 1}})
    with pytest.warns(UserWarning, match="xla_gone"):
        tools["compiled"](exported / "autoencoder", {**note, "compiler_options": {"cpu": {"xla_gone": "1"}}})
    score_them = tools["load"]()
    for x, ids in (
        (np.zeros((2, 3)), [1, 2]),
        (np.zeros((2, toy.WIDTH)), [1]),
        (np.zeros((2, toy.WIDTH)), np.zeros((2, 1), int)),
        (np.zeros((0, toy.WIDTH)), np.zeros(0, int)),
    ):
        with pytest.raises(ValueError, match="expected objects .*: bring them"):
            score_them(x, ids)


# Scaling


@pytest.mark.parametrize("nan", ["flag", "median"])
def test_spectra_are_scaled_as_the_package_does_bit_for_bit(nan):
    rng = np.random.default_rng(0)
    x = (rng.gamma(1, size=(300, 2, 30)) - 0.3).astype(np.float32)
    x[:, 1][rng.random((300, 30)) < 0.1] = 0
    scaler = preprocess.fit(x, config.Preprocess(scale="spectrum", nan=nan))
    prepare = runpy.run_path(str(Path(standalone.__file__).parent / "prepare.py"))["prepare"]
    for count in (200, 1):
        tried = samples.draw(scaler, x.shape[1:], count, broken=True)
        expected, expected_flags = preprocess.apply(scaler, tried)
        null_flags = sum(bit for bit in (1, 2, 4, 8) if preprocess.unusable(scaler, np.array([bit]))[0])
        with np.errstate(over="ignore", invalid="ignore"):
            found, flags = prepare(scaler.params, null_flags, tried)
        assert found.dtype == np.float32
        assert flags.dtype == np.uint32
        np.testing.assert_array_equal(flags, expected_flags)
        np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))
        assert len(np.unique(flags)) > 3 or count == 1


# What must not come out


@pytest.fixture(scope="module")
def model():
    return model_of("autoencoder")


def off(by):
    """Scores of a few objects moved, in the function to be exported."""
    right = score.scores_of_rows

    def wrong(method):
        whole = right(method)

        def moved(key, state, x, bits):
            found = whole(key, state, x, bits)
            return {**found, "score": found["score"] + by * (x[:, 0] > 0.9)}

        return moved

    return wrong


def test_an_export_of_other_scores_is_not_left_behind(model, tmp_path, monkeypatch):
    monkeypatch.setattr(score, "scores_of_rows", off(np.float32(1e-6)))
    with pytest.raises(ExportError, match=f"score of .* of {score.CPU_ROWS + 1} objects"):
        exporting.write(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_model_that_gives_no_score_is_not_exported(model, tmp_path):
    """Nothing would show whether the export gives its scores."""
    lost = model._replace(state=jax.tree.map(lambda leaf: leaf + np.nan if leaf.dtype.kind == "f" else leaf, model.state))
    with pytest.raises(ExportError, match="no object a score"):
        exporting.write(lost, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_export_of_another_scaling_is_not_left_behind(model, tmp_path, monkeypatch):
    real = raw.with_scaling
    moved = lambda method, scaler: real(method, scaler._replace(kind="none"))  # noqa: E731
    expected = model.scorer()
    monkeypatch.setattr(bundle.Bundle, "scorer", lambda *_, **__: expected)
    monkeypatch.setattr(raw, "with_scaling", moved)
    with pytest.raises(ExportError, match=f"flags of .* of {score.CPU_ROWS + 1} objects"):
        exporting.write(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_score_that_is_no_null_is_not_taken_for_one():
    """-1 stands for null among integers alone."""
    due = {"score": np.array([np.nan, 1]), "nearest_class": np.array([np.nan, 2])}
    given = {"score": np.array([np.nan, 1]), "nearest_class": np.array([-1, 2])}
    assert not exporting.differences(given, due)
    (problem,) = exporting.differences(given | {"score": np.array([-1.0, 1])}, due)
    assert "score of 1 of 2 objects" in problem
    (problem,) = exporting.differences(given | {"nearest_class": np.array([0, 2])}, due)
    assert "nearest_class of 1 of 2 objects" in problem


def test_objects_that_got_no_row_are_not_passed_over(model, tmp_path, monkeypatch):
    whole = catalog.read_scores
    monkeypatch.setattr(catalog, "read_scores", lambda path: {name: values[1:] for name, values in whole(path).items()})
    with pytest.raises(ExportError, match="were not scored") as error:
        exporting.write(model, tmp_path / "out")
    assert f"{score.CPU_ROWS + 1} rows" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_written_over(model, tmp_path):
    (tmp_path / "other").write_text("")
    with pytest.raises(DataError, match="holds other things"):
        exporting.write(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_is_an_export(exported, tmp_path):
    copy = shutil.copytree(exported / "vae-ivar", tmp_path / "copy")
    assert exporting.is_export(copy)
    (copy / "__pycache__").mkdir()
    assert exporting.is_export(copy)
    (copy / "mine").write_text("")
    assert not exporting.is_export(copy)
    assert not exporting.is_export(exported / "vae-ivar.ours")
    assert not exporting.is_export(tmp_path)


def loading(asked: list, model: bundle.Bundle, run: Path, overrides: list[str]) -> bundle.Bundle:
    asked.append((run, overrides))
    return model


def test_the_verb(model, tmp_path, monkeypatch):
    """On a model without training; the README's own command has a run's. An earlier export is replaced.

    What the run's own tables called their columns has no say in the objects that it is tried on.
    """
    asked = []
    words = ("export", tmp_path / "run", "--out", tmp_path / "model", "--set", "score.slots=4")
    for columns in ({"ignore": ("object_id",)}, {"id": "star", "ra": "f0", "dec": "f1", "label": "f2"}):
        settings = model.settings.model_copy(update={"data": config.Data(**columns)})
        monkeypatch.setattr(bundle, "load", partial(loading, asked, model._replace(settings=settings)))
        ended = runs.astroad(*words)
        assert ended.code == 0, ended
        assert f"checked {score.CPU_ROWS + 2} objects" in ended.out
        assert asked.pop() == (tmp_path / "run", ["score.slots=4"])
        assert files.read_sealed(tmp_path / "model" / "manifest.json")["identity"] == model.identity()
        assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_is_no_run_is_not_exported(tmp_path):
    ended = runs.astroad("export", tmp_path, "--out", tmp_path / "other")
    assert ended.code == 2
    assert "no trained model here" in ended.err
    assert not list(tmp_path.iterdir())

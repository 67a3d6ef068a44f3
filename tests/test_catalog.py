"""Score directories: nothing lost, nothing made up, the same bytes whoever the neighbours are."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from astroad_jax import files
from astroad_jax.app import bundle, evaluation, scoring
from astroad_jax.data import partition_of
from astroad_jax.engine import catalog
from astroad_jax.engine.partitions import BAD_COMPONENT, BAD_SCORE
from astroad_jax.preprocess.scaler import OUTSIDE
from tests import runs
from tests.data_files import cut, write

SETTINGS = ["method.name=vae", "method.samples=2", "train.epochs=2"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def sky():
    return runs.survey()


@pytest.fixture(scope="module")
def run(home, sky):
    """A model whose scores draw random numbers, so that what they depend on shows."""
    assert runs.train(runs.table(home / "sky.parquet", sky), home / "run", *SETTINGS).code == 0
    return home / "run"


@pytest.fixture(scope="module")
def whole(home, run):
    """Scores of the training table."""
    assert runs.astroad("score", run, home / "sky.parquet", "--out", home / "whole").code == 0
    return home / "whole"


def score(run, out, *inputs) -> runs.Outcome:
    return runs.astroad("score", run, *inputs, "--out", out)


def scores_of(directory) -> dict:
    """Object id -> its row of numbers, as bytes."""
    table = catalog.read_scores(directory)
    numbers = [name for name in table if name not in ("object_id", "label")]
    assert {"score", "p_value", "flags"} <= set(numbers)
    rows = zip(*(table[name].tolist() for name in numbers))
    return dict(zip(table["object_id"].tolist(), map(repr, rows), strict=True))


def test_columns_types_and_metadata(whole, sky, run):
    table = pq.read_table(whole / "sky.parquet")
    assert table.column_names[:5] == ["object_id", "ra", "dec", "label", "score"]
    assert table.column_names[-2:] == ["p_value", "flags"]
    assert str(table.schema.field("flags").type) == "uint32"
    np.testing.assert_array_equal(table["object_id"].to_numpy(), sky["object_id"])
    assert sky["object_id"].min() > 2**53
    assert runs.digest(run).encode() in table.schema.metadata[b"astroad_jax"]
    found = catalog.read_scores(whole)
    assert found["label"].tolist() == sky["label"].tolist()
    assert found["p_value"].min() > 0
    assert found["p_value"].max() <= 1
    order = np.argsort(found["score"])
    assert (np.diff(found["p_value"][order]) <= 0).all()  # stranger, less probable


def damaged(sky) -> dict[str, np.ndarray]:
    """The survey with one row of every kind of trouble."""
    sky = {name: values.copy() for name, values in sky.items()}
    features = [name for name, values in sky.items() if values.dtype == np.float64 and name not in ("ra", "dec")]
    for name in features:
        sky[name][0] = np.nan
    sky["skew"][1], sky["skew"][2], sky["iqr"][3], sky["iqr"][4] = np.nan, np.inf, -np.inf, 1e300
    sky["object_id"][6] = sky["object_id"][5]
    return sky


def test_bad_rows_get_a_null_score_and_a_flag_and_are_counted(run, sky, tmp_path):
    ended = score(run, tmp_path / "scores", runs.table(tmp_path / "bad.parquet", damaged(sky)))
    assert ended.code == 0
    assert f"rows {runs.ROWS}  scored {runs.ROWS - 5}  null 5  quarantined 0 files" in ended.out
    table = pq.read_table(tmp_path / "scores" / "bad.parquet")
    null = [value is None for value in table["score"].to_pylist()]
    assert null == [True] * 5 + [False] * (runs.ROWS - 5)
    assert [value is None for value in table["p_value"].to_pylist()] == null
    flags = table["flags"].to_numpy()
    assert (flags & ~np.uint32(OUTSIDE)).tolist() == [1 | 4, 1, 2, 2, 2, 16, 16] + [0] * (runs.ROWS - 7)
    assert "flag   2  3 rows: infinite value in the input, or one that overflows float32" in ended.out
    named = json.loads(table.schema.metadata[b"flags"])
    assert named == {str(bit): name for bit, name in scoring.FLAG_NAMES.items()}
    assert {"1", "2", "4", "8", "16", "32", "64", "128"} < set(named)
    # the strangest are found among those that have a score
    top = evaluation.strangest(catalog.read_scores(tmp_path / "scores"), 3)
    assert len(top) == 3
    assert all(np.isfinite(row["score"]) for row in top)


def test_a_score_that_is_not_finite_is_null_and_flagged(tmp_path):
    chunk = catalog.Chunk(
        {"object_id": np.arange(3)},
        np.zeros((3, 2), np.float32),
        np.array([4, 0, 0], np.uint32),
    )
    partition = catalog.Partition("p", "memory", lambda: iter([chunk, chunk]))

    def scorer(state, x, ids):
        return {"part": np.float32([1, 2, np.inf]), "score": np.float32([1, np.nan, 3])}

    report = catalog.score_catalog(scorer, None, [partition], tmp_path, identity={}, unusable=lambda flags: flags > 0)
    assert report == catalog.Report(6, 2, 4, {4: 2, BAD_SCORE: 2, BAD_COMPONENT: 2}, {}, {}, 0)
    table = pq.read_table(tmp_path / "p.parquet").slice(0, 3)
    assert table["score"].to_pylist() == [None, None, 3.0]
    assert table["part"].to_pylist() == [None, None, None]
    assert table["flags"].to_pylist() == [4, BAD_SCORE, BAD_COMPONENT]
    assert table.column_names == ["object_id", "score", "part", "flags"]


@pytest.mark.parametrize("kind", ["parquet", "csv", "fits", "hdf5", "npz"])
def test_every_format_gives_the_same_scores(run, whole, sky, tmp_path, kind):
    """FITS is big-endian; ids beyond 2^53 and all digits of the features survive in all of them."""
    path = write(tmp_path, kind, sky, "again")
    assert score(run, tmp_path / "scores", path).code == 0
    assert scores_of(tmp_path / "scores") == scores_of(whole)


def test_scores_depend_on_the_object_alone(run, whole, sky, tmp_path):
    order = np.random.default_rng(1).permutation(runs.ROWS)
    parts = {"permuted": [order], "halves": [slice(0, 101), slice(101, None)], "one": [slice(7, 8)]}
    expected = scores_of(whole)
    for name, pieces in parts.items():
        inputs = [
            runs.table(tmp_path / f"{name}-{i}.parquet", {key: column[rows] for key, column in sky.items()})
            for i, rows in enumerate(pieces)
        ]
        assert score(run, tmp_path / name, *inputs).code == 0
        found = scores_of(tmp_path / name)
        assert found == {key: expected[key] for key in found}
        assert len(found) == (1 if name == "one" else runs.ROWS)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_scores_do_not_depend_on_the_batch_size(run, whole, home, tmp_path, batch_size):
    setting = f"score.batch_size={batch_size}"
    assert score(run, tmp_path / "scores", home / "sky.parquet", "--set", setting).code == 0
    assert (tmp_path / "scores" / "sky.parquet").read_bytes() == (whole / "sky.parquet").read_bytes()


def test_text_ids_keep_their_zeros(run, sky, tmp_path):
    ids = np.array([f"{i:08d}" for i in range(runs.ROWS)])
    path = runs.table(tmp_path / "text.parquet", {**sky, "object_id": ids})
    assert score(run, tmp_path / "scores", path, write(tmp_path, "csv", {**sky, "object_id": ids}, "csv")).code == 0
    table = pq.read_table(tmp_path / "scores" / "text.parquet")
    assert table["object_id"].to_pylist() == ids.tolist()
    both = catalog.read_scores(tmp_path / "scores")
    assert both["object_id"].dtype.kind == "U"
    assert both["object_id"][: runs.ROWS].tolist() == ids.tolist()


def spoilt(tmp_path, sky) -> dict[str, tuple[Path, str]]:
    """Inputs that cannot be scored, with words of the reason."""
    short = {name: values for name, values in sky.items() if name != "skew"}
    paths = {
        "short": (runs.table(tmp_path / "short.parquet", short), "'skew'"),
        "text": (runs.table(tmp_path / "text.parquet", {**sky, "skew": sky["skew"].astype(str)}), "not numeric"),
        "shape": (write(tmp_path, "npz", {**sky, "skew": np.zeros((runs.ROWS, 3))}, "shape"), "array"),
        "cut": (runs.table(tmp_path / "cut.parquet", sky), "cannot be read as"),
        "cutfits": (write(tmp_path, "fits", sky, "cutfits"), "cut short"),
        "rows": (runs.table(tmp_path / "rows.parquet", {k: v[:0] for k, v in sky.items()}), "empty"),
        "bytes": (tmp_path / "bytes.csv", "empty"),
        "absent": (tmp_path / "absent.fits", "no such file"),
        "page": (tmp_path / "page.fits", "cannot be read as"),
        "kind": (tmp_path / "kind.xyz", "suffix"),
    }
    cut(paths["cut"][0]), cut(paths["cutfits"][0])
    paths["bytes"][0].write_text("")
    paths["page"][0].write_text("<html>404</html>")
    paths["kind"][0].write_text("1,2")
    return paths


def test_inputs_that_cannot_be_scored_are_set_aside_with_the_reason(run, sky, whole, home, tmp_path):
    bad = spoilt(tmp_path, sky)
    inputs = [path for path, _ in bad.values()]
    good = runs.table(tmp_path / "good.parquet", sky)
    ended = score(run, tmp_path / "scores", *inputs[:5], home / "sky.parquet", *inputs[5:], good)
    assert ended.code == 3
    assert f"rows {2 * runs.ROWS}  scored {2 * runs.ROWS}  null 0  quarantined {len(bad)} files" in ended.out
    book = files.read_sealed(tmp_path / "scores" / "manifest.json")
    for path, words in bad.values():
        entry = book["quarantined"][partition_of(path)]
        assert entry["input"] == str(path)
        assert words in entry["reason"], path.name
        assert f"quarantined {partition_of(path)}" in ended.err
    assert "Traceback" not in ended.err
    assert sorted(book["partitions"]) == ["good", "sky"]
    assert scores_of(tmp_path / "scores") == scores_of(whole)
    assert sorted(runs.contents(tmp_path / "scores")) == ["good.parquet", "manifest.json", "sky.parquet"]

    # put right, it is scored by the same command
    runs.table(tmp_path / "cut.parquet", sky)
    ended = score(run, tmp_path / "scores", bad["cut"][0])
    assert ended.code == 0
    assert f"rows {3 * runs.ROWS}" in ended.out
    assert "quarantined by earlier calls: " in ended.out
    assert "cut" not in files.read_sealed(tmp_path / "scores" / "manifest.json")["quarantined"]


def test_an_input_that_went_bad_takes_its_scores_with_it(run, sky, tmp_path):
    path = runs.table(tmp_path / "sky.parquet", sky)
    assert score(run, tmp_path / "scores", path).code == 0
    path.write_bytes(path.read_bytes()[:1000])
    assert score(run, tmp_path / "scores", path).code == 3
    assert sorted(runs.contents(tmp_path / "scores")) == ["manifest.json"]


def test_one_input_under_many_names(run, sky, tmp_path, monkeypatch):
    path = runs.table(tmp_path / "sky.parquet", sky)
    monkeypatch.chdir(tmp_path)
    for spelling in (path, "sky.parquet", "./sky.parquet", tmp_path / ".." / tmp_path.name / "sky.parquet"):
        assert score(run, tmp_path / "scores", spelling).code == 0


def test_what_a_killed_call_has_scored_is_kept(tmp_path):
    """Notes of every process outlive it, and the next call puts them into the manifest."""
    chunk = catalog.Chunk({"object_id": np.arange(2)}, np.zeros((2, 1), np.float32), np.zeros(2, np.uint32))
    calls, same = [], {"identity": {"model": 1}, "unusable": lambda flags: flags > 0}

    def scorer(state, x, ids):
        calls.append(len(x))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {"score": np.float32([1, 2])}

    partitions = [catalog.Partition(name, name, lambda: iter([chunk])) for name in "abcd"]
    with pytest.raises(KeyboardInterrupt):
        catalog.score_catalog(scorer, None, partitions, tmp_path, **same)
    (tmp_path / ".manifest.0.jsonl").rename(tmp_path / ".manifest.7.jsonl")  # another process of that call
    report = catalog.score_catalog(scorer, None, partitions, tmp_path, **same)
    assert (report.rows, report.skipped, len(calls)) == (8, 2, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(f"{name}.parquet" for name in "abcd"), "manifest.json"]


def test_objects_without_ids_are_those_of_their_own_table(run, sky, tmp_path, caplog):
    """Row numbers say which rows of the training table were trained on, and nothing about another table."""
    anonymous = {name: values for name, values in sky.items() if name != "object_id"}
    paths = [runs.table(tmp_path / f"{name}.parquet", anonymous) for name in ("trained", "new")]
    assert runs.train(paths[0], tmp_path / "run").code == 0
    assert "its objects are numbered by row" in caplog.text
    model = bundle.load(tmp_path / "run")
    held = []
    for path in paths:
        scoring.score(model, [path], tmp_path / path.stem)
        held.append(evaluation.evaluate(model, tmp_path / "run", tmp_path / path.stem).measures["held_out_rows"])
    assert held[0] < runs.ROWS
    assert held[1] == runs.ROWS


def test_the_id_column_of_the_run_is_missed(run, sky, tmp_path):
    named = {("MYID" if name == "object_id" else name): values for name, values in sky.items()}
    path = runs.table(tmp_path / "sky.parquet", named)
    assert runs.train(path, tmp_path / "run", "data.id=MYID").code == 0
    other = {("MyId" if name == "MYID" else name): values for name, values in named.items()}
    refused = score(tmp_path / "run", tmp_path / "scores", runs.table(tmp_path / "other.parquet", other))
    assert refused.code == 3
    assert "this table has no ids" in refused.err
    assert score(tmp_path / "run", tmp_path / "scores", tmp_path / "other.parquet", "--set", "data.id=MyId").code == 0
    np.testing.assert_array_equal(catalog.read_scores(tmp_path / "scores")["object_id"], sky["object_id"])


def test_what_may_change_after_training(run, whole, tmp_path):
    copy = shutil.copytree(whole, tmp_path / "scores")
    ended = runs.astroad("evaluate", run, copy, "--set", "score.false_alarm_rate=0.1")
    assert re.search(r"asked_false_alarm_rate +0.1\n", ended.out)
    assert re.search(r"threshold +[0-9]", ended.out)
    refused = runs.astroad("evaluate", run, copy, "--set", "train.epochs=3")
    assert refused.code == 2
    assert "this cannot change after training" in refused.err


def test_too_few_calibration_rows_draw_no_line(run, whole, tmp_path):
    copy = shutil.copytree(whole, tmp_path / "scores")
    ended = runs.astroad("evaluate", run, copy, "--set", "score.false_alarm_rate=0.001")
    assert re.search(r"calibration_rows_needed +999\n", ended.out)
    assert re.search(r"threshold +-\n", ended.out)
    assert "above_threshold" not in ended.out  # nothing is measured at a line that is not there


def test_nothing_scored_is_nothing_to_evaluate(run, tmp_path):
    assert score(run, tmp_path / "scores", tmp_path / "absent.fits").code == 3
    failed = runs.astroad("evaluate", run, tmp_path / "scores")
    assert failed.code == 2
    assert "no input was scored" in failed.err


def test_another_model_may_not_write_here(run, whole, home, tmp_path):
    copy = shutil.copytree(whole, tmp_path / "scores")
    other = shutil.copytree(run, tmp_path / "run")
    text = (other / "config.toml").read_text()
    (other / "config.toml").write_text(text.replace("seed = 0", "seed = 5"))
    refused = score(other, copy, home / "sky.parquet")
    assert refused.code == 5
    assert "config.toml" in refused.err
    bundle.seal(other)
    before = runs.contents(copy)
    refused = score(other, copy, home / "sky.parquet")
    assert refused.code == 2
    assert "this directory holds scores of another model" in refused.err
    assert "{'seed': 0}" in refused.err
    assert "{'seed': 5}" in refused.err
    assert runs.contents(copy) == before


def test_scoring_again_leaves_whole_files_alone_and_replaces_the_others(run, whole, home, sky, tmp_path):
    out, extra = shutil.copytree(whole, tmp_path / "scores"), runs.table(tmp_path / "extra.parquet", sky)
    assert score(run, out, home / "sky.parquet", extra).code == 0
    expected, when = runs.contents(out), (out / "sky.parquet").stat().st_mtime_ns
    assert score(run, out, home / "sky.parquet", extra).code == 0
    assert runs.contents(out) == expected
    assert (out / "sky.parquet").stat().st_mtime_ns == when
    for harm in (lambda p: p.unlink(), lambda p: cut(p), lambda p: p.write_bytes(p.read_bytes()[:-1] + b"?")):
        harm(out / "extra.parquet")
        assert score(run, out, home / "sky.parquet", extra).code == 0
        assert runs.contents(out) == expected


def test_an_input_that_changed_is_scored_anew(run, sky, tmp_path):
    path = runs.table(tmp_path / "sky.parquet", sky)
    assert score(run, tmp_path / "scores", path).code == 0
    before = scores_of(tmp_path / "scores")
    runs.table(path, {**sky, "skew": sky["skew"][::-1].copy()})
    os.utime(path, ns=(1, 1))
    assert score(run, tmp_path / "scores", path).code == 0
    assert scores_of(tmp_path / "scores") != before


def harm_manifest(out):
    path = out / "manifest.json"
    path.write_text(path.read_text().replace('"null": 0', '"null": 7'))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda out: cut(out / "sky.parquet"), "missing or damaged"),
        (lambda out: (out / "sky.parquet").unlink(), "missing or damaged"),
        (harm_manifest, "does not match its checksum"),
        (lambda out: (out / "manifest.json").write_text("{}"), "does not match its checksum"),
    ],
)
def test_a_damaged_score_directory_is_named(run, whole, sky, tmp_path, harm, words):
    out = shutil.copytree(whole, tmp_path / "scores")
    harm(out)
    other = runs.table(tmp_path / "other.parquet", sky)
    for failed in (runs.astroad("evaluate", run, out), score(run, out, other)):
        assert failed.code == 5, failed
        assert words in failed.err
        assert str(out) in failed.err


def test_inputs_that_would_share_a_score_file_are_refused(run, home, sky, tmp_path):
    (tmp_path / "b").mkdir()
    other = runs.table(tmp_path / "b" / "sky.parquet", sky)
    refused = score(run, tmp_path / "scores", home / "sky.parquet", other)
    assert refused.code == 2
    assert "two inputs would write the same score file" in refused.err
    assert str(other) in refused.err
    assert score(run, tmp_path / "scores", home / "sky.parquet").code == 0
    refused = score(run, tmp_path / "scores", other)
    assert refused.code == 2
    assert "comes from another input" in refused.err


def test_a_score_directory_in_use_is_refused(run, home, tmp_path):
    (tmp_path / "scores").mkdir()
    with files.lock(tmp_path / "scores"):
        refused = score(run, tmp_path / "scores", home / "sky.parquet")
    assert refused.code == 2
    assert f"process {os.getpid()} on" in refused.err


def test_files_with_and_without_labels_or_positions_are_read_together(run, sky, tmp_path):
    bare = {name: values for name, values in sky.items() if name not in ("label", "ra", "dec", "kind")}
    inputs = [runs.table(tmp_path / "a.parquet", sky), runs.table(tmp_path / "b.parquet", bare)]
    assert score(run, tmp_path / "scores", *inputs).code == 0
    table = catalog.read_scores(tmp_path / "scores")
    assert set(table["label"][runs.ROWS :].tolist()) == {""}
    assert np.isnan(table["ra"][runs.ROWS :]).all()
    assert runs.astroad("evaluate", run, tmp_path / "scores").code == 0


def test_ids_of_different_types_are_not_read_together(run, sky, tmp_path):
    inputs = [runs.table(tmp_path / "a.parquet", sky)]
    inputs.append(runs.table(tmp_path / "b.parquet", {**sky, "object_id": sky["object_id"].astype(str)}))
    assert score(run, tmp_path / "scores", *inputs).code == 0
    failed = runs.astroad("evaluate", run, tmp_path / "scores")
    assert failed.code == 2
    assert "object_id" in failed.err


@pytest.mark.slow
def test_killed_while_scoring_the_same_command_finishes_to_the_same_bytes(run, sky, home, tmp_path):
    inputs = []
    for i in range(12):
        rows = slice(20 * i, 20 * i + 20)
        inputs.append(runs.table(tmp_path / f"part{i:02d}.parquet", {key: column[rows] for key, column in sky.items()}))
    assert score(run, tmp_path / "unbroken", *inputs).code == 0
    out = tmp_path / "scores"
    for done in (1, 6):
        process = runs.start(home, "score", run, *inputs, "--out", out)
        ended = runs.stop_when(process, lambda: len(list(out.glob("part*.parquet"))) >= done, signal.SIGKILL)  # noqa: B023
        assert ended.code in (-signal.SIGKILL, 0), ended
    (out / ".part09.parquet.1.tmp").write_bytes(b"half a file")
    assert score(run, out, *inputs).code == 0
    assert runs.contents(out) == runs.contents(tmp_path / "unbroken")


# What evaluation makes of labels.


def test_a_label_unseen_in_training_is_scored_and_counted_as_an_anomaly(run, sky, tmp_path):
    labels = sky["label"].astype("U12")
    labels[:30] = "SN Ia"
    labels[30:40] = ""
    assert score(run, tmp_path / "scores", runs.table(tmp_path / "new.parquet", {**sky, "label": labels})).code == 0
    model, table = bundle.load(run), catalog.read_scores(tmp_path / "scores")
    positive = evaluation.anomalous(model, table)
    np.testing.assert_array_equal(positive, (labels == "SN Ia") | (labels == "anomaly"))
    found = evaluation.evaluate(model, run, tmp_path / "scores", held_out_only=False)
    assert found.measures["held_out_rows"] == runs.ROWS
    assert found.measures["anomalies"] == positive.sum()
    assert found.measures["inliers"] == runs.ROWS - positive.sum() - (labels == "").sum()
    assert 0 <= found.measures["auroc"] <= 1


def test_rows_that_all_trained_leave_nothing_to_measure(run, sky, tmp_path):
    rows = np.isin(sky["object_id"], bundle.load_arrays(run / "split.npz")["train"])
    path = runs.table(tmp_path / "train.parquet", {name: values[rows] for name, values in sky.items()})
    assert score(run, tmp_path / "scores", path).code == 0
    ended = runs.astroad("evaluate", run, tmp_path / "scores")
    assert ended.code == 2
    assert "there is nothing to measure" in ended.err
    assert runs.astroad("evaluate", run, tmp_path / "scores", "--all").code == 0


def test_evaluation_leaves_out_what_was_learnt_from(run, whole, sky, tmp_path):
    model = bundle.load(run)
    parts = bundle.load_arrays(run / "split.npz")
    expected = np.isin(sky["object_id"], parts["test"])
    assert 0 < expected.sum() < runs.ROWS
    for ids in (sky["object_id"], sky["object_id"].astype(np.uint64), sky["object_id"].astype(str)):
        np.testing.assert_array_equal(~evaluation._used(model, parts, ids, None), expected)
    assert evaluation.evaluate(model, run, whole).measures["held_out_rows"] == expected.sum()


def test_a_model_without_labels_calls_nothing_an_anomaly(run, sky):
    model = bundle.load(run)
    model = model._replace(schema=model.schema._replace(classes=("",)))
    anonymous = model.settings.model_copy(update={"data": model.settings.data.model_copy(update={"anomalies": ()})})
    assert evaluation.anomalous(model._replace(settings=anonymous), sky) is None
    np.testing.assert_array_equal(evaluation.anomalous(model, sky), sky["label"] == "anomaly")
    assert evaluation.anomalous(model, {"object_id": sky["object_id"]}) is None


def test_features_in_other_units_are_refused_with_the_differences(sky, tmp_path):
    """What names no unit is taken as it is."""
    from astropy.table import Table

    def table(name: str, **units: str) -> Path:
        held = Table({key: values for key, values in sky.items() if key != "kind"})
        for key, unit in units.items():
            held[key].unit = unit
        held.write(tmp_path / f"{name}.fits")
        return tmp_path / f"{name}.fits"

    assert runs.train(table("trained", skew="mag", iqr="mag"), tmp_path / "run", "data.ignore=[]", *SETTINGS).code == 0
    bare, same, other = table("bare"), table("same", iqr="mag"), table("other", skew="Jy", iqr="mag")
    ended = score(tmp_path / "run", tmp_path / "scores", bare, same, other)
    assert ended.code == 3
    assert "quarantined 1 files" in ended.out
    assert "expected: skew in mag" in ended.err
    assert "got: skew in Jy" in ended.err
    assert "iqr" not in ended.err

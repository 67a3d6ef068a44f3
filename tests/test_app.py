"""The verbs as functions: what they make of ordinary and of odd tables."""

from __future__ import annotations

import json
import logging
import re
import tomllib

import numpy as np
import pytest

from astroad_jax import config, data
from astroad_jax.app import bundle, evaluation, inspection, known, launch, quickstart, scoring, split, streaming, training
from astroad_jax.data import mock
from astroad_jax.engine import catalog
from astroad_jax.errors import ConfigError, DataError, MismatchError
from astroad_jax.preprocess.scaler import OUTSIDE
from tests import runs
from tests.data_files import write

FAST = ["method.hidden=[8]", "method.latent=2", "method.norm=false", "method.pretrain_epochs=1", "train.epochs=1"]


def settings(*overrides: str) -> config.Run:
    return config.load(None, [*runs.TINY, "train.epochs=2", *overrides])


def fit(columns: dict[str, np.ndarray], out, *overrides: str) -> bundle.Bundle:
    """Train on arrays in memory and load the result."""
    training.train(data.memory("sky", columns), settings(*overrides), out)
    return bundle.load(out)


def scored(model: bundle.Bundle, columns: dict[str, np.ndarray], out) -> tuple[catalog.Report, dict[str, np.ndarray]]:
    report = scoring.score(model, [data.memory("sky", columns)], out)
    return report, catalog.read_scores(out) if report.rows else {}


# The mock survey


def test_mock_survey_is_a_function_of_its_seed():
    one, same, other = mock.survey(100, seed=3), mock.survey(100, seed=3), mock.survey(100, seed=4)
    for name in one:
        np.testing.assert_array_equal(one[name], same[name])
    assert not np.array_equal(one["skew"], other["skew"])


def test_mock_survey_shapes_and_ids():
    sky = mock.survey(500)
    assert set(sky) == {"object_id", "ra", "dec", "label", "kind", *mock.FEATURES}
    assert {values.shape for values in sky.values()} == {(500,)}
    assert {sky[name].dtype for name in mock.FEATURES} == {np.dtype(np.float64)}
    assert sky["object_id"].dtype == np.int64
    assert sky["object_id"].min() > 2**53
    assert len(np.unique(sky["object_id"])) == 500
    assert (sky["ra"] >= 0).all()
    assert (sky["ra"] < 360).all()
    assert (np.abs(sky["dec"]) <= 90).all()


@pytest.mark.parametrize(("rows", "fraction"), [(600, 0.05), (600, 0.0), (40, 0.05), (30, 0.02), (1, 0.0), (0, 0.0)])
def test_mock_survey_plants_the_share_asked_for(rows, fraction):
    sky = mock.survey(rows, anomaly_fraction=fraction, missing_fraction=0.1)
    planted = sky["label"] == "anomaly"
    assert planted.sum() == round(fraction * rows)
    np.testing.assert_array_equal(planted, sky["kind"] != "")
    kinds = [(sky["kind"] == name).sum() for name in mock.KINDS]
    assert max(kinds) - min(kinds) <= 1
    assert set(sky["label"][~planted].tolist()) <= set(mock.CLASSES)
    missing = np.stack([np.isnan(sky[name]) for name in mock.FEATURES])
    assert missing.sum() == round(0.1 * rows)
    assert missing.any(axis=0).sum() == round(0.1 * rows)


# Odd tables


def test_a_class_of_one_and_constant_columns_are_trained_on(tmp_path):
    columns = runs.survey(flat=np.ones(runs.ROWS), zero=np.zeros(runs.ROWS))
    columns["label"] = columns["label"].astype("U12")
    columns["label"][0] = "only one"
    model = fit(columns, tmp_path / "run", "method.name=mcdsvdd", "method.pretrain_epochs=1")
    assert "only one" in model.schema.classes
    assert {"flat", "zero"} <= set(model.schema.features)
    parts = bundle.load_arrays(tmp_path / "run" / "split.npz")
    assert columns["object_id"][0] in parts["train"]
    report, table = scored(model, columns, tmp_path / "scores")
    assert (report.scored, report.null) == (runs.ROWS, 0)
    assert np.isfinite(table["score"]).all()


@pytest.mark.parametrize(
    ("change", "overrides", "words"),
    [
        ({"label": None}, ["method.name=mcdsvdd", "data.anomalies=[]"], "learns from class labels"),
        ({}, ["data.anomalies=['anomally']"], "no row has this label"),
        ({}, ["data.label=clas"], "clas"),
        ({}, ["data.features=['skewness']"], "did you mean 'skew'"),
        ({}, ["data.id=skew"], "cannot be the id"),
        ({"skew": np.full(runs.ROWS, np.nan)}, ["preprocess.nan=median"], "skew"),
        ({"skew": np.full(runs.ROWS, np.nan)}, [], "skew"),
        ({"skew": np.where(np.arange(runs.ROWS) % 3, np.nan, 1.0)}, [], "most training rows are unusable"),
        ({"object_id": np.arange(runs.ROWS) // 2}, [], "not unique"),
        ({}, ["data.stream=true", "train.balance=true"], "train.balance"),
        ({}, ["train.batch_size=0"], "train.batch_size"),
        ({}, ["method.hidden=8"], "hidden"),
    ],
)
def test_what_cannot_be_trained_on_is_said_before_training(tmp_path, change, overrides, words):
    columns = runs.survey(**{name: values for name, values in change.items() if values is not None})
    columns = {name: values for name, values in columns.items() if name not in change or change[name] is not None}
    with pytest.raises((DataError, ConfigError), match=re.escape(words)):
        fit(columns, tmp_path / "run", "method.name=deep_svdd", *overrides)
    assert not (tmp_path / "run").exists()


def test_rows_without_a_value_are_counted_or_given_one(tmp_path, caplog):
    columns = runs.survey()
    columns["skew"][:24] = np.nan
    source, flagging = data.memory("sky", columns), settings("method.name=autoencoder")
    with caplog.at_level(logging.WARNING):
        training._load(source, data.find_roles(source, flagging.data), flagging)
    assert re.search(r"\d+ of \d+ training rows left out \(\d+ missing value", caplog.text)
    model = fit(columns, tmp_path / "run", "method.name=autoencoder", "preprocess.nan=lowest")
    report, table = scored(model, columns, tmp_path / "scores")
    assert (report.scored, report.null) == (runs.ROWS, 0)
    assert set((table["flags"][:24] & ~np.uint32(OUTSIDE)).tolist()) == {1}


# Held-out rows for the learning rate

PLATEAU = ["method.name=vae", "method.likelihood=learnt", "method.hidden=[8]", "method.latent=2", "method.plateau=1"]


@pytest.mark.parametrize("options", [["train.feed=tf.data"], ["data.stream=true"]])
def test_validation_rows_are_kept_apart(tmp_path, options):
    """They neither train nor calibrate, the evaluation leaves them out, and the stage sees them however rows are fed."""
    columns = runs.survey()
    path = runs.table(tmp_path / "sky.parquet", columns)
    chosen = settings(*PLATEAU, "data.validation_fraction=0.25", f"data.path={path}", *options)
    fitted = training.train(data.open_source(path), chosen, tmp_path / "run")
    assert all(np.isfinite(row["validation"]) for row in fitted.metrics)
    model = bundle.load(tmp_path / "run")
    parts = bundle.load_arrays(tmp_path / "run" / "split.npz")
    scoring.score(model, [path], tmp_path / "scores")
    table = catalog.read_scores(tmp_path / "scores")
    seen = evaluation._seen(model, tmp_path / "run", tmp_path / "scores", table)
    trained = np.concatenate([rows.ids for rows in known.training_rows(model, tmp_path / "run", parts, str(path))])
    if "data.stream=true" in options:
        expected = split.hash_parts(columns["object_id"], columns["label"], chosen)
        assert 0.1 < (expected == split.VALIDATION).mean() < 0.3
        np.testing.assert_array_equal(seen, expected != split.TEST)
        np.testing.assert_array_equal(trained, columns["object_id"][expected == split.TRAIN])
        return
    sizes = {name: len(parts[name]) for name in ("train", "validation", "calibration", "test")}
    assert sum(sizes.values()) == runs.ROWS == len(np.unique(np.concatenate([parts[name] for name in sizes])))
    assert sizes["validation"] == pytest.approx(0.25 * (sizes["train"] + sizes["validation"]), abs=1)
    np.testing.assert_array_equal(np.sort(table["object_id"][~seen]), np.sort(parts["test"]))
    np.testing.assert_array_equal(trained, parts["train"])


@pytest.mark.parametrize("options", [[], ["data.stream=true"]])
def test_a_validation_part_without_rows_is_refused(tmp_path, options):
    path = runs.table(tmp_path / "sky.parquet", runs.survey())
    chosen = settings(*PLATEAU, "data.validation_fraction=0.0001", f"data.path={path}", *options)
    with pytest.raises(DataError, match="no row is left to validate on"):
        training.train(data.open_source(path), chosen, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [[], ["data.stream=true"]])
@pytest.mark.parametrize("method", [["method.name=autoencoder"], ["method.name=mcdsvdd"], [*PLATEAU, "method.plateau=0"]])
def test_validation_rows_that_nothing_would_look_at_are_refused(tmp_path, method, options):
    path = runs.table(tmp_path / "sky.parquet", runs.survey())
    chosen = settings(*method, "data.validation_fraction=0.25", f"data.path={path}", *options)
    with pytest.raises(ConfigError, match="nothing would look at the validation rows"):
        training.train(data.open_source(path), chosen, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Streaming


def test_a_streamed_table_trains_a_usable_model(tmp_path):
    columns = runs.survey()
    path = runs.table(tmp_path / "sky.parquet", columns)
    chosen = settings("method.name=autoencoder", "data.stream=true", "data.shuffle_rows=100", f"data.path={path}")
    training.train(data.open_source(path), chosen, tmp_path / "run")
    model = bundle.load(tmp_path / "run")
    report = scoring.score(model, [path], tmp_path / "scores")
    assert report.scored == runs.ROWS
    table = catalog.read_scores(tmp_path / "scores")
    parts = split.hash_parts(columns["object_id"], columns["label"], chosen)
    assert set(parts[columns["label"] == "anomaly"].tolist()) == {split.TEST}
    seen = evaluation._seen(model, tmp_path / "run", tmp_path / "scores", table)
    np.testing.assert_array_equal(seen, parts != split.TEST)
    assert evaluation.evaluate(model, tmp_path / "run", tmp_path / "scores").measures["auroc"] > 0.6


def test_a_streamed_table_may_be_sorted_by_class(tmp_path):
    """Classes, scales and calibration come from the whole file, not from its head."""
    columns = runs.survey(rows=600)
    order = np.argsort(columns["label"], kind="stable")
    columns = {name: values[order] for name, values in columns.items()}
    path = runs.table(tmp_path / "sky.parquet", columns)
    chosen = settings("method.name=mcdsvdd", "data.stream=true", "data.shuffle_rows=100", f"data.path={path}")
    source = data.open_source(path)
    seen = streaming.survey(source, data.find_roles(source, chosen.data), chosen)
    classes = set(columns["label"].tolist()) - {"anomaly"}
    assert set(seen.classes) == classes
    assert len(seen.sample) == 100
    held = columns["label"][np.isin(columns["object_id"], seen.calibration[1])]
    assert set(held.tolist()) == classes
    columns["object_id"][3] = columns["object_id"][400]
    twice = data.open_source(runs.table(tmp_path / "twice.parquet", columns))
    with pytest.raises(DataError, match="not unique"):
        streaming.survey(twice, data.find_roles(twice, chosen.data), chosen)


def test_streamed_rows_without_a_value_are_counted(tmp_path, caplog):
    columns = runs.survey()
    columns["skew"][::3] = np.nan
    source = data.open_source(runs.table(tmp_path / "sky.parquet", columns))
    streamed = settings("method.name=autoencoder", "data.stream=true")
    with caplog.at_level(logging.WARNING):
        training._stream(source, data.find_roles(source, streamed.data), streamed)
    assert re.search(r"\d+ of \d+ training rows left out \(\d+ missing value", caplog.text)
    columns["skew"][5:] = np.nan
    source = data.open_source(runs.table(tmp_path / "holes.parquet", columns))
    with pytest.raises(DataError, match="most training rows are unusable"):
        training._stream(source, data.find_roles(source, streamed.data), streamed)


def test_reservoir_is_uniform_and_repeatable():
    def drawn(seed: int) -> np.ndarray:
        reservoir = streaming.Reservoir(50, seed, 0)
        for start in range(0, 1000, 37):
            rows = np.arange(start, min(start + 37, 1000))
            reservoir.add(rows, rows * 2)
        rows, doubled = reservoir.rows()
        np.testing.assert_array_equal(doubled, rows * 2)
        return rows

    assert len(drawn(0)) == 50
    np.testing.assert_array_equal(drawn(0), drawn(0))
    often = np.bincount(np.concatenate([drawn(seed) for seed in range(200)]) // 100, minlength=10)
    assert often.min() > 850  # 1,000 expected in each tenth of the stream, standard deviation 30


# Inspection


def inspected(columns: dict[str, np.ndarray], path, **given) -> tuple[dict, config.Run]:
    chosen = config.Data(**given)
    found = inspection.inspect(data.open_source(runs.table(path, columns)), chosen)
    return found, inspection.suggest(found, chosen)


def test_inspection_counts_what_matters(tmp_path):
    columns = runs.survey(flat=np.ones(runs.ROWS), empty=np.full(runs.ROWS, np.nan))
    columns["skew"][:3] = np.nan
    columns["iqr"][2:5] = np.inf
    columns["object_id"][9] = columns["object_id"][8]
    found, suggested = inspected(columns, tmp_path / "sky.parquet")
    rows = {row["column"]: row for row in found["columns"]}
    # The empty column makes no row incomplete: it is to be ignored.
    assert (found["rows"], found["duplicate_ids"], found["complete_rows"]) == (runs.ROWS, 1, runs.ROWS - 5)
    assert (rows["skew"]["missing"], rows["iqr"]["infinite"]) == (3, 3)
    assert rows["flat"]["remarks"] == "constant"
    assert "ignore it" in rows["empty"]["remarks"]
    assert sum(found["labels"].values()) == runs.ROWS
    assert suggested.data.ignore == ("empty",)
    assert suggested.method["name"] == "mcdsvdd"
    assert suggested.train.balance


def test_inspection_of_images(tmp_path):
    """A missing pixel an image does not empty the column."""
    images = np.random.default_rng(0).random((50, 4, 4)).astype(np.float32)
    images[:, 1, 1] = np.nan
    source = data.memory("m", {"object_id": np.arange(50), "image": images})
    found = inspection.inspect(source, config.Data())
    assert (found["rows"], found["complete_rows"], found["empty_rows"]) == (50, 0, 0)
    assert found["columns"][0]["remarks"] == ""
    assert found["columns"][0]["missing"] == 50


def test_inspection_sees_what_float32_cannot_tell(tmp_path):
    columns = runs.survey(jd=2459000.5 + np.linspace(0, 0.1, runs.ROWS), broken=np.full(runs.ROWS, "--"))
    found, _ = inspected(columns, tmp_path / "sky.parquet")
    rows = {row["column"]: row["remarks"] for row in found["columns"]}
    assert "subtract an offset" in rows["jd"]
    assert not any("offset" in remark for name, remark in rows.items() if name != "jd")
    assert found["left_out"]["broken"] == "text"


def test_two_tables_give_one_configuration(tmp_path):
    paths = [runs.table(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    ended = runs.astroad("inspect", *paths)
    assert config.parse(config.Run, tomllib.loads(ended.out), "inspect").data.path == str(paths[0])
    assert f'# path = "{paths[1]}"' in ended.out


def test_calibration_rows_are_drawn_from_all_classes_alike():
    labels = np.array(["big"] * 1000 + [f"small {i}" for i in range(100) for _ in range(5)])
    shares = []
    for seed in range(20):
        parts = split.split(labels, settings("data.anomalies=[]", f"train.seed={seed}"))
        assert set(labels[parts.train]) == set(labels)
        shares.append(np.mean(labels[parts.calibration] != "big") / np.mean(labels[parts.train] != "big"))
    assert np.mean(shares) == pytest.approx(1, abs=0.15)


def test_labels_that_name_rows_are_refused():
    with pytest.raises(DataError, match="does not hold classes"):
        split.split(np.array([f"object {i}" for i in range(40)]), settings("data.anomalies=[]"))


def test_suggestion_keeps_what_was_given(tmp_path):
    columns = runs.survey(cls=np.where(np.arange(runs.ROWS) % 2, "a", "b"))
    found, suggested = inspected(columns, tmp_path / "sky.parquet", label="cls", ignore=("skew",), anomalies=("b",))
    assert suggested.data.label == "cls"
    assert suggested.data.ignore == ("skew",)
    assert suggested.data.anomalies == ("b",)
    assert suggested.method["name"] == "deep_svdd"  # one class is left
    assert "skew" not in {row["column"] for row in found["columns"]}


def test_suggested_configuration_loads_and_trains(tmp_path):
    path = runs.table(tmp_path / "sky.parquet")
    ended = runs.astroad("inspect", path)
    assert ended.code == 0
    text = ended.out.partition("# a configuration to start from\n")[2]
    (tmp_path / "run.toml").write_text(text)
    assert config.load(tmp_path / "run.toml").data.path == str(path)
    assert runs.astroad("train", tmp_path / "run.toml", *FAST, "--out", tmp_path / "run").code == 0
    assert bundle.load(tmp_path / "run").settings.method["name"] == "mcdsvdd"


# Quickstart


def test_quickstart_on_the_mock_survey(tmp_path):
    tour = quickstart.quickstart(None, tmp_path / "tour", FAST)
    assert (tour.report.rows, tour.report.null) == (4000, 8)
    assert tour.evaluation.measures["anomalies"] + tour.evaluation.measures["null_anomalies"] == 80
    assert {figure.name for figure in tour.evaluation.figures} == {"scores.png", "training.png", "roc.png"}
    assert all(figure.stat().st_size > 1000 for figure in tour.evaluation.figures)
    saved = json.loads((tour.scores / "evaluation.json").read_text())
    assert saved["measures"]["rows"] == 4000
    assert len(saved["strangest"]) == evaluation.LISTED
    assert saved["strangest"][0]["object_id"] > 2**53


def test_quickstart_on_a_table_with_classes(tmp_path):
    path = write(tmp_path, "csv", runs.survey())
    ended = runs.astroad("quickstart", "--data", path, "--out", tmp_path / "tour", *FAST)
    assert ended.code == 0
    assert "strangest objects" in ended.out
    model = bundle.load(tmp_path / "tour" / "run")
    assert model.settings.data.path == str(path)
    assert model.settings.method["name"] == "mcdsvdd"
    assert model.settings.train.balance
    assert "anomaly" in model.schema.classes  # nobody said that these are no class


def test_quickstart_and_inspect_choose_alike(tmp_path):
    """Labels of one class and of nobody knows what, as numbers: one class is no reason for several."""
    columns = runs.survey()
    columns["label"] = np.where(columns["label"] == "RRL", 1.0, np.nan)
    source = data.open_source(runs.table(tmp_path / "sky.parquet", columns))
    chosen = quickstart.choose(source, ["train.epochs=3"], mocked=False)
    assert chosen.method["name"] == "deep_svdd"
    assert (chosen.train.epochs, chosen.train.balance) == (3, False)
    assert quickstart.choose(source, ["method.name=vae"], mocked=False).method["name"] == "vae"


def test_quickstart_on_a_table_without_labels(tmp_path):
    columns = {name: values for name, values in runs.survey().items() if name not in ("label", "kind")}
    path, out = write(tmp_path, "fits", columns), tmp_path / "tour"
    tour = quickstart.quickstart(str(path), out, FAST)
    model = bundle.load(tour.run)
    assert model.settings.method["name"] == "deep_svdd"
    assert not model.settings.train.balance
    assert model.schema.classes == ("",)
    assert (tour.report.scored, tour.report.null) == (runs.ROWS, 0)
    assert "label" not in catalog.read_scores(tour.scores)
    assert "auroc" not in tour.evaluation.measures
    assert [figure.name for figure in tour.evaluation.figures] == ["scores.png", "training.png"]
    with pytest.raises(MismatchError, match=r"train\.seed: was 0, now 1"):
        quickstart.quickstart(str(path), out, [*FAST, "train.seed=1"])


# Clusters


@pytest.mark.parametrize(
    "given", [("host:1", "", ""), ("host:1", "two", "0"), ("", "2", "0"), ("host:1", "2", ""), ("host:1", "2", "-1")]
)
def test_half_a_cluster_is_an_error(monkeypatch, given):
    monkeypatch.delenv("ASTROAD_CLUSTER", raising=False)
    for name, value in zip(launch.VARIABLES, given):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="half a cluster") as error:
        launch.join_cluster()
    assert "ASTROAD_COORDINATOR" in error.value.where


def test_a_lone_process_joins_nothing(monkeypatch):
    for name in (*launch.VARIABLES, "ASTROAD_CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    launch.join_cluster()
    assert launch.is_primary()


def test_quickstart_of_a_numbered_table_by_a_relative_path_measures_held_out_rows(tmp_path, monkeypatch):
    """Rows are known by their numbers within one table, whatever that is called by."""
    columns = {name: values for name, values in runs.survey().items() if name != "object_id"}
    runs.table(tmp_path / "survey.parquet", columns)
    monkeypatch.chdir(tmp_path)
    ended = runs.astroad("quickstart", "--data", "survey.parquet", "--out", "tour", *runs.TINY)
    assert ended.code == 0, ended
    (held,) = re.findall(r"held_out_rows +(\d+)", ended.out)
    assert int(held) < 0.4 * len(columns["label"])


def test_what_was_done_before_is_said(tmp_path):
    path = runs.table(tmp_path / "survey.parquet", runs.survey())
    train = ("train", "--data", str(path), "--out", str(tmp_path / "run"), *runs.TINY)
    score = ("score", str(tmp_path / "run"), str(path), "--out", str(tmp_path / "scores"))
    for command, said in ((train, "nothing was done"), (score, "1 inputs were scored before")):
        first, again = runs.astroad(*command), runs.astroad(*command)
        assert first.code == again.code == 0, (first, again)
        assert said not in first.out
        assert said in again.out
    refused = runs.astroad("score", str(tmp_path / "run"), str(path), "--out", str(tmp_path / "run"))
    assert refused.code == 2
    assert "holds a run" in refused.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "survey.parquet"], "a table is given as --data survey.parquet"),
        (["train", "--data", "survey.parquet", "epochs=2"], "did you mean 'train.epochs'?"),
    ],
)
def test_what_is_put_in_the_wrong_place_is_shown_its_own(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = runs.astroad(*arguments)
    assert ended.code == 2
    assert said in ended.err

"""``astroad select``: who is taken, in what order, and what is said of them."""

from __future__ import annotations

import re

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from astroad_jax.analysis import calibrate
from astroad_jax.app import bundle, selecting
from astroad_jax.engine import catalog
from tests import runs


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    columns = runs.survey()
    columns["skew"][3] = np.nan
    columns["label"][-25:] = "anomaly"
    for name in (name for name, values in columns.items() if values.dtype.kind == "f" and name not in ("ra", "dec")):
        columns[name][-25:] = np.where(np.arange(25) % 2, 1e3, -1e3)
    sky = runs.table(home / "sky.parquet", columns)
    assert (
        runs.train(sky, home / "run", "method.name=autoencoder", "train.epochs=30", "data.calibration_fraction=0.4").code
        == 0
    )
    assert runs.astroad("score", home / "run", sky, "--out", home / "scores").code == 0
    return home


def test_by_false_alarms(home, tmp_path):
    ended = runs.astroad("select", home / "run", home / "scores", "--rate", "0.1", "--out", tmp_path / "strange.parquet")
    assert ended.code == 0
    model, table = bundle.load(home / "run"), catalog.read_scores(home / "scores")
    line = calibrate.threshold(model.calibration, 0.1)
    taken = pq.read_table(tmp_path / "strange.parquet")
    expected = np.flatnonzero(table["score"] > line.value)
    assert sorted(taken["object_id"].to_pylist()) == sorted(table["object_id"][expected].tolist())
    assert (np.diff(taken["score"].to_numpy()) <= 0).all()
    assert taken["p_value"].to_numpy().max() <= 0.1
    found = selecting.select(model, home / "scores", alarm=0.1).measures
    assert found["scored"] == runs.ROWS - 1
    assert found["expected_false"] == pytest.approx(line.rate * (runs.ROWS - 1))
    low, high = found["expected_false_interval"]
    assert low < found["expected_false"] < high
    assert re.search(rf"taken +{len(expected)}\n", ended.out)


def test_by_false_discoveries(home, tmp_path):
    ended = runs.astroad("select", home / "run", home / "scores", "--fdr", "0.3", "--out", tmp_path / "strange.csv")
    assert ended.code == 0
    table = catalog.read_scores(home / "scores")
    expected = table["object_id"][calibrate.benjamini_hochberg(table["p_value"], 0.3)]
    assert set(table["object_id"][-25:].tolist()) <= set(expected.tolist())
    assert sorted(pa_csv.read_csv(tmp_path / "strange.csv")["object_id"].to_pylist()) == sorted(expected.tolist())
    assert re.search(rf"expected_false +{0.3 * len(expected):.4g}\n", ended.out)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "one rate is wanted"),
        (["--fdr", "0.1", "--rate", "0.1"], "one rate is wanted"),
        (["--fdr", "1.5"], "one rate is wanted"),
        (["--rate", "0.0001"], "at least 9999"),
        (["--fdr", "0.1", "--out", "strange.txt"], "written as Parquet or CSV"),
    ],
)
def test_what_cannot_be_selected(home, options, words):
    failed = runs.astroad("select", home / "run", home / "scores", *options)
    assert failed.code == 2
    assert words in failed.err


def test_scores_of_another_model(home, tmp_path):
    assert runs.train(home / "sky.parquet", tmp_path / "run", "method.name=autoencoder", "train.epochs=1").code == 0
    failed = runs.astroad("select", tmp_path / "run", home / "scores", "--rate", "0.1")
    assert failed.code == 2
    assert "another model" in failed.err

"""Directories, patterns and HATS catalogues are as many inputs as they have files."""

from __future__ import annotations

import pytest

from astroad_jax import data, files
from astroad_jax.engine import catalog
from astroad_jax.errors import DataError
from tests import runs

PARTS = ("dataset/Norder=0/Dir=0/Npix=4.parquet", "dataset/Norder=1/Dir=0/Npix=17/part0.parquet")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A survey in one file, in a directory of directories, and as a HATS catalogue within a collection."""
    home = tmp_path_factory.mktemp("home")
    sky = runs.survey()
    runs.table(home / "sky.parquet", sky)
    assert runs.train(home / "sky.parquet", home / "run", "method.name=autoencoder", "train.epochs=1").code == 0
    halves = [{name: values[rows] for name, values in sky.items()} for rows in (slice(0, 100), slice(100, None))]
    for half, part in zip(halves, PARTS):
        for base in (home / "collection" / "sky", home / "plain"):
            (base / part).parent.mkdir(parents=True, exist_ok=True)
            runs.table(base / part, half)
    (home / "collection" / "sky" / "hats.properties").write_text("obs_collection=sky\n")
    (home / "collection" / "sky" / "dataset" / "_metadata").write_bytes(b"PAR1")
    margin = home / "collection" / "margin" / PARTS[0]
    margin.parent.mkdir(parents=True)
    runs.table(margin, halves[0])
    (home / "collection" / "collection.properties").write_text("# made here\nhats_primary_table_url = sky\n")
    (home / "plain" / ".hidden.parquet").write_bytes(b"")
    (home / "plain" / "_metadata.parquet").write_bytes(b"")
    return home


HATS = ["Norder_0_Dir_0_Npix_4", "Norder_1_Dir_0_Npix_17_part0"]
CASES = {
    "collection": HATS,
    "collection/sky": HATS,
    "plain": [f"dataset_{name}" for name in HATS],
    "plain/*/Norder=*/*/*.parquet": [f"dataset_{name}" for name in HATS[:1]],
    "plain/**/*.parquet": ["_metadata", *(f"dataset_{name}" for name in HATS)],
    "sky.parquet": ["sky"],
}


@pytest.mark.parametrize("path", CASES)
def test_inputs_behind_a_path(home, path):
    found = data.spread(home / path)
    assert [name for name, _ in found] == CASES[path]


def test_a_survey_in_pieces_scores_as_in_one(home, tmp_path):
    ended = runs.astroad("score", home / "run", home / "collection", "--out", tmp_path / "pieces")
    assert ended.code == 0
    assert "2 inputs" in ended.err
    assert runs.astroad("score", home / "run", home / "sky.parquet", "--out", tmp_path / "whole").code == 0
    pieces, whole = catalog.read_scores(tmp_path / "pieces"), catalog.read_scores(tmp_path / "whole")
    assert pieces["object_id"].tolist() == whole["object_id"].tolist()
    assert pieces["score"].tolist() == whole["score"].tolist()
    ended = runs.astroad("score", home / "run", home / "collection", "--out", tmp_path / "pieces")
    assert "2 inputs were scored before" in ended.out


def test_a_bad_piece_is_set_aside_alone(home, tmp_path):
    for i in range(3):
        (tmp_path / "sky" / f"{i}").mkdir(parents=True)
        runs.table(tmp_path / "sky" / f"{i}" / "part.parquet")
    (tmp_path / "sky" / "1" / "part.parquet").write_bytes(b"PAR1")
    ended = runs.astroad("score", home / "run", tmp_path / "sky", "--out", tmp_path / "scores")
    assert ended.code == 3
    assert f"rows {2 * runs.ROWS}" in ended.out
    book = files.read_sealed(tmp_path / "scores" / "manifest.json")
    assert list(book["partitions"]) == ["0_part", "2_part"]
    assert list(book["quarantined"]) == ["1_part"]


@pytest.mark.parametrize(
    ("make", "path", "words"),
    [
        (lambda home: (home / "empty").mkdir(), "empty", "no table here"),
        (lambda home: None, "none/*.parquet", "no table here"),
        (lambda home: (home / "c").mkdir() or (home / "c" / "collection.properties").write_text(""), "c", "no catalogue"),
        (
            lambda home: (
                (home / "c").mkdir() or (home / "c" / "collection.properties").write_text("hats_primary_table_url=../x")
            ),
            "c",
            "names no catalogue here",
        ),
    ],
)
def test_where_there_is_nothing_to_score(tmp_path, make, path, words):
    make(tmp_path)
    with pytest.raises(DataError, match=words):
        data.spread(tmp_path / path)

"""What is said of a scoring call before its first row is read."""

from __future__ import annotations

import numpy as np
import pytest

from astroad_jax.app import estimate
from astroad_jax.engine.catalog import Partition
from astroad_jax.errors import DataError
from tests import runs


class Counted:
    def __init__(self, rows: int | None):
        self.num_rows = rows


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([100, 200], 300),
        ([100, None], 200),  # of as many bytes, it will have as many
        ([100, DataError("truncated")], 200),
        ([DataError("truncated")], 0),
        ([], 0),
    ],
)
def test_objects_are_counted_where_they_can_be(rows, expected):
    def open_(path):
        found = rows[int(path)]
        if isinstance(found, DataError):
            raise found
        return Counted(found)

    partitions = [Partition(f"p{i}", str(i), lambda: iter(()), size=1000) for i in range(len(rows))]
    assert estimate.count_rows(partitions, open_) == expected
    unknown = Partition("u", "directory", lambda: iter(()), size=0)
    assert estimate.count_rows([*partitions, unknown], open_) == 0


def test_text_is_not_read_to_count_its_rows():
    opened = []
    partitions = [Partition(path, path, lambda: iter(()), size=100) for path in ("a.csv", "b.ECSV", "c.csv.gz", "d.fits")]
    assert estimate.count_rows(partitions, lambda path: (opened.append(path), Counted(3))[1]) == 12
    assert opened == ["d.fits"]


def test_of_many_inputs_few_are_opened():
    opened = []
    partitions = [Partition(f"p{i}", str(i), lambda: iter(()), size=10) for i in range(1000)]
    assert estimate.count_rows(partitions, lambda path: (opened.append(path), Counted(7))[1]) == 7000
    assert len(opened) == estimate.LOOKED_AT


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.01, "1 s"), (89.4, "89 s"), (600, "10 min"), (3601, "60 min"), (9000, "2.5 h")]
)
def test_durations_are_written_short(seconds, words):
    assert estimate.in_words(seconds) == words


def test_a_call_says_how_long_it_will_take(tmp_path):
    table = runs.table(tmp_path / "sky.parquet", {**runs.survey(), "object_id": np.arange(runs.ROWS)})
    assert runs.train(table, tmp_path / "run").code == 0
    ended = runs.astroad("score", tmp_path / "run", table, "--out", tmp_path / "scores")
    again = runs.astroad("score", tmp_path / "run", table, "--out", tmp_path / "scores")
    assert "input" not in again.err  # nothing is left to do
    assert f"1 input; {table.stat().st_size / 1e9:.3g} GB; about {runs.ROWS} objects; 1 s for the scores alone" in ended.err

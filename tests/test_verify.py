"""``astroad verify`` and ``astroad status``: nothing damaged goes unseen, and nobody need guess how far a call is."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest

from astroad_jax import files
from astroad_jax.engine import progress
from tests import runs


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    sky = runs.table(home / "sky.parquet")
    assert runs.train(sky, home / "run", "method.name=autoencoder", "train.epochs=1").code == 0
    assert runs.astroad("score", home / "run", sky, "--out", home / "scores").code == 0
    return home


@pytest.fixture
def copy(home, tmp_path):
    shutil.copytree(home / "run", tmp_path / "run")
    shutil.copytree(home / "scores", tmp_path / "scores")
    return tmp_path


def test_sound_directories(home):
    ended = runs.astroad("verify", home / "run", home / "scores")
    assert ended.code == 0
    assert re.search(r"run: run, \d+ checked, 0 wrong", ended.out)
    assert "scores: scores, 2 checked, 0 wrong" in ended.out


def flip(path) -> None:
    """Turn one bit."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def newest(home):
    step = sorted((home / "run" / "checkpoints").glob("step_*"))[-1]
    return next(path for path in sorted((step / "arrays").rglob("*")) if path.is_file() and path.stat().st_size > 20)


HARMED = {
    "a checkpoint": ("run", newest),
    **{f"{name}": ("run", lambda home, name=name: home / "run" / name) for name in (
        "config.toml", "provenance.json", "metrics.jsonl", "model.json", "preprocess.npz", "split.npz", "calibration.npz",
        "manifest.json",
    )},
    "scores": ("scores", lambda home: home / "scores" / "sky.parquet"),
    "the manifest of scores": ("scores", lambda home: home / "scores" / "manifest.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", HARMED)
@pytest.mark.parametrize("harm", [flip, lambda path: path.unlink()], ids=["flipped", "missing"])
def test_a_flipped_bit_or_a_missing_file_is_named(copy, case, harm):
    directory, find = HARMED[case]
    path = find(copy)
    if harm is not flip and path == copy / "scores" / "manifest.json":
        pytest.skip("without it this is no score directory")
    harm(path)
    ended = runs.astroad("verify", copy / directory)
    if harm is not flip and path == copy / "run" / "manifest.json":
        assert "unfinished run" in ended.out
        return
    assert ended.code == 5
    assert path.name in ended.err
    assert runs.astroad("verify", copy / ("scores" if directory == "run" else "run")).code == 0


def test_scores_that_nobody_wrote_down(copy):
    shutil.copy(copy / "scores" / "sky.parquet", copy / "scores" / "more.parquet")
    ended = runs.astroad("verify", copy / "scores")
    assert ended.code == 5
    assert "more.parquet: not in the manifest" in ended.err


@pytest.mark.parametrize("verb", ["verify", "status"])
def test_what_is_no_directory_of_ours(tmp_path, verb):
    ended = runs.astroad(verb, tmp_path)
    assert ended.code == 2
    assert str(tmp_path) in ended.err


def test_status_of_what_is_done(home):
    ended = runs.astroad("status", home / "run")
    assert re.search(r"kind +run\nstate +finished\n", ended.out)
    assert re.search(r"newest_checkpoint +step_", ended.out)
    ended = runs.astroad("status", home / "scores")
    assert re.search(r"kind +scores\nstate +finished\n", ended.out)
    assert re.search(rf"rows +{runs.ROWS}\n", ended.out)


def test_status_of_what_is_under_way_and_of_what_was_stopped(copy):
    clock = iter(range(0, 1000, 10))
    told = progress.Progress(
        copy / "scores" / "progress.jsonl",
        [progress.Sized("a", 100), progress.Sized("b", 300)],
        show=False,
        clock=clock.__next__,
    )
    told.begin("a")
    told.add(50, 0.5)
    told.end("a")
    with files.lock(copy / "scores"):
        ended = runs.astroad("status", copy / "scores")
    assert re.search(rf"state +working\nby +process {os.getpid()} on ", ended.out)
    assert re.search(r"this_call_inputs +1 of 2\n", ended.out)
    line = json.loads((copy / "scores" / "progress.jsonl").read_text().splitlines()[-1])
    assert (line["rows"], line["rows_per_second"], line["seconds_left"]) == (50, 2.5, 60)  # 100 bytes took 20 seconds
    ended = runs.astroad("status", copy / "scores")
    assert re.search(r"state +stopped", ended.out)
    told.close(finished=True)
    assert re.search(r"state +finished", runs.astroad("status", copy / "scores").out)


def test_time_left_goes_by_bytes_and_leaves_out_what_was_done_before(tmp_path):
    now = [0.0]
    inputs = [progress.Sized("a", 1000), progress.Sized("b", 100), progress.Sized("c", 300)]
    told = progress.Progress(tmp_path / "progress.jsonl", inputs, show=False, clock=lambda: now[0])
    assert told.left() is None
    told.end("a", skipped=True)
    assert told.left() is None
    told.begin("b")
    now[0] = 10.0
    told.add(5, 0.5)
    assert told.left() == pytest.approx(10 / 50 * 350)
    told.end("b")
    now[0] = 20.0
    told.begin("c")
    assert told.left() == pytest.approx(20 / 100 * 300)

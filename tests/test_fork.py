"""Runs that begin at a checkpoint of another: as if trained so from nothing, or refused."""

from __future__ import annotations

import itertools
import re
import shutil

import numpy as np
import pytest

from astroad_jax import faults, files
from astroad_jax.engine import checkpoint
from astroad_jax.errors import CorruptError
from tests import runs

SETTINGS = [
    "method.name=deep_svdd", "method.pretrain_epochs=2", "train.epochs=3",
    "train.checkpoint_every=4", "train.keep_checkpoints=99",
]  # fmt: skip


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    return runs.table(tmp_path_factory.mktemp("sky") / "sky.parquet")


@pytest.fixture(scope="module")
def run(sky, tmp_path_factory):
    """A run of three stages, the length of whose first does not go by train.epochs, with every checkpoint kept."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert runs.train(sky, out, *SETTINGS).code == 0
    return out


def forked(sky, out, origin, *settings) -> runs.Outcome:
    return runs.train(sky, out, "--from", origin, *SETTINGS, *settings)


def checkpoints(run) -> list:
    return sorted((run / "checkpoints").glob("step_*"))


def stages(run) -> dict[int, list]:
    """Checkpoints by the stage they are of."""
    found: dict[int, list] = {}
    for path in checkpoints(run):
        found.setdefault(files.read_sealed(path / "manifest.json")["position"]["stage"], []).append(path)
    return found


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_same_training_from_any_stage_ends_in_the_same_bytes(sky, run, tmp_path, stage):
    origin, out = stages(run)[stage][0], tmp_path / "out"
    assert forked(sky, out, origin).code == 0
    assert runs.digest(out) == runs.digest(run)
    found, expected = runs.contents(out), runs.contents(run)
    assert [name for name in expected if found[name] != expected[name]] == ["manifest.json", "provenance.json"]
    position = files.read_sealed(origin / "manifest.json")["position"]
    begun = files.read_sealed(out / "provenance.json")["begun_at"]
    assert {name: begun[name] for name in position} == position
    if stage == 2:  # the same command, and that without --from, leave it as it is
        assert forked(sky, out, origin).code == 0
        assert runs.train(sky, out, *SETTINGS).code == 0
        assert runs.contents(out) == found


@pytest.mark.parametrize("epochs", [2, 4])
def test_other_epochs_end_as_if_trained_so_from_nothing(sky, run, tmp_path, epochs):
    """Fewer, from before the end; and more, from the run's end, for which its directory stands."""
    setting = f"train.epochs={epochs}"
    assert runs.train(sky, tmp_path / "anew", *SETTINGS, setting).code == 0
    length = files.read_lines(tmp_path / "anew" / "metrics.jsonl")[-1]["total_step"]
    origin = [path for path in checkpoints(run) if int(path.name[5:]) <= length][-1] if epochs < 3 else run
    assert forked(sky, tmp_path / "run", origin, setting).code == 0
    assert runs.digest(tmp_path / "run") == runs.digest(tmp_path / "anew") != runs.digest(run)
    for out in ("run", "anew"):
        assert runs.astroad("score", tmp_path / out, sky, "--out", tmp_path / f"{out}-scores").code == 0
    assert runs.contents(tmp_path / "run-scores") == runs.contents(tmp_path / "anew-scores")


def test_another_learning_rate_goes_on_from_what_was_learned(sky, run, tmp_path):
    """The last stage stands still from there on."""
    origin = stages(run)[2][0]
    assert forked(sky, tmp_path / "run", origin, "method.learning_rate=1e-12").code == 0
    rows = [files.read_lines(at / "metrics.jsonl") for at in (run, tmp_path / "run")]
    behind = sum(row["total_step"] <= int(origin.name[5:]) for row in rows[0])
    assert rows[0][:behind] == rows[1][:behind]
    assert [row["total_step"] for row in rows[0]] == [row["total_step"] for row in rows[1]]
    assert all(one["loss"] != other["loss"] for one, other in zip(rows[0][behind:], rows[1][behind:]))


def test_status_names_the_last_checkpoint_before_a_complaint(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    assert "complaint" not in runs.astroad("status", copy).out
    *_, right, newest = checkpoints(copy)
    note = files.read_sealed(newest / "manifest.json")
    files.write_sealed(newest / "manifest.json", {**note, "complaints": {"svdd": "mode collapse"}})
    told = runs.astroad("status", copy).out
    assert re.search(rf"last_checkpoint_before +{right.name}", told)
    assert "stage svdd: mode collapse" in told


def at(number: int):
    return lambda run, tmp_path: checkpoints(run)[number]


def damaged(run, tmp_path):
    origin = shutil.copytree(run, tmp_path / "copy") / "checkpoints" / checkpoints(run)[0].name
    data = next(path for path in sorted((origin / "arrays").rglob("*")) if path.is_file())
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    return origin


REFUSED = {
    "another model": (at(0), ["method.latent=3"], 2, "method.latent: was 2, now 3"),
    "another seed": (at(0), ["train.seed=3"], 2, "train.seed: was 0, now 3"),
    "another method": (at(0), ["method.name=mcdsvdd"], 2, "method.name: was"),
    "other scaling": (at(0), ["preprocess.scale=linear"], 2, "preprocess.scale"),
    "beyond the end": (at(-1), ["train.epochs=1"], 2, "raise train.epochs"),
    "nothing there": (lambda run, tmp_path: tmp_path, [], 2, "no checkpoint here"),
    "damaged": (damaged, [], 5, "does not match its checksums"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_begin_there_is_refused_before_anything_is_written(sky, run, tmp_path, case):
    where, changed, code, words = REFUSED[case]
    failed = forked(sky, tmp_path / "out", where(run, tmp_path), *changed)
    assert (failed.code, words in failed.err) == (code, True), failed
    assert not (tmp_path / "out").exists()


def test_stages_behind_a_checkpoint_keep_their_length(sky, run, tmp_path):
    changed = "method.pretrain_epochs=1"
    failed = forked(sky, tmp_path / "out", checkpoints(run)[-1], changed)
    assert (failed.code, "the stages before this checkpoint had another length" in failed.err) == (2, True)
    assert forked(sky, tmp_path / "out", checkpoints(run)[0], changed).code == 0
    assert runs.train(sky, tmp_path / "anew", *SETTINGS, changed).code == 0
    assert runs.digest(tmp_path / "out") == runs.digest(tmp_path / "anew")


def test_other_data_and_another_beginning_are_refused(sky, run, tmp_path):
    columns = runs.survey()
    columns["skew"][np.flatnonzero(columns["label"] == "CEP")[:20]] += 0.5
    failed = forked(runs.table(tmp_path / "other.parquet", columns), tmp_path / "out", checkpoints(run)[0])
    assert (failed.code, "the training data" in failed.err) == (2, True)
    same = shutil.copy(sky, tmp_path / "same.parquet")  # what the data are counts, not where they lie
    assert forked(same, tmp_path / "out", checkpoints(run)[-1]).code == 0
    failed = forked(same, tmp_path / "out", checkpoints(run)[1])
    assert (failed.code, "where it began" in failed.err) == (2, True)


def test_stopped_anywhere_before_it_has_its_checkpoint(sky, run, tmp_path):
    """The same command ends as if nothing had been; without --from it never takes half a beginning for a run."""
    origin, refused = checkpoints(run)[-2], 0
    for count in itertools.count(1):
        out = tmp_path / str(count)
        faults.arm(f"*:full@{count}")
        try:
            assert forked(sky, out, origin).code != 0
        finally:
            faults.arm("")
        if not checkpoint.is_empty(out / "checkpoints"):
            break
        if (out / "provenance.json").exists():
            failed = runs.train(sky, out, *SETTINGS)
            assert (failed.code, "give --from again" in failed.err) == (2, True)
            refused += 1
        assert forked(sky, out, origin).code == 0
        assert runs.contents(out)["metrics.jsonl"] == runs.contents(run)["metrics.jsonl"]
        assert runs.digest(out) == runs.digest(run)
    assert refused > 0
    assert count - refused > 1


def test_a_copy_that_is_not_whole_is_not_left_there(run, tmp_path):
    harmed = damaged(run, tmp_path)
    with pytest.raises(CorruptError):
        checkpoint.adopt(harmed, tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())
    kept = checkpoint.adopt(checkpoints(run)[0], tmp_path / "new")
    assert checkpoint.check(kept) == checkpoint.check(checkpoints(run)[0])

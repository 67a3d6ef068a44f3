"""Runs that are killed, stopped, resumed, diverge, or are asked for something else."""

from __future__ import annotations

import os
import shutil
import signal

import numpy as np
import pytest

from astroad_jax import config, files
from astroad_jax.app import training
from astroad_jax.engine.signals import asked_to_stop
from astroad_jax.errors import DivergedError
from tests import runs

OFTEN = "train.checkpoint_every=6"
METHODS = {
    "mcdsvdd": ["method.name=mcdsvdd", "train.balance=true", "method.norm=true", "train.epochs=6", OFTEN],
    "dasvdd": ["method.name=dasvdd", "method.gamma_runs=3", "train.epochs=8", OFTEN],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Home of the processes that are started here."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def sky(home):
    return runs.table(home / "sky.parquet")


@pytest.fixture(scope="module", params=METHODS)
def unbroken(request, home, sky):
    """A method's settings, and the run and scores of a process that nobody disturbs: this one."""
    settings = METHODS[request.param]
    out, scores = home / request.param, home / f"{request.param}-scores"
    assert runs.train(sky, out, *settings).code == 0
    assert runs.astroad("score", out, sky, "--out", scores).code == 0
    return settings, out, scores


@pytest.mark.slow
def test_stopped_anywhere_a_run_goes_on_to_the_same_bytes(home, sky, unbroken, tmp_path):
    """Killed while it writes a checkpoint, killed and asked to stop at random moments, and finished in this process."""
    settings, whole, scores = unbroken
    out = tmp_path / "run"
    command = ("train", "--data", sky, "--out", out, *runs.TINY, *settings)
    rng = np.random.default_rng(runs.lines(whole / "metrics.jsonl"))
    goal = 0

    def writing() -> bool:
        return any(out.glob("checkpoints/.step_*.tmp"))

    def trained() -> bool:
        return runs.lines(out / "metrics.jsonl") >= goal

    plan = ((writing, 0.05, signal.SIGKILL), (trained, 0.1, signal.SIGKILL), (trained, 0.0, signal.SIGTERM))
    for moment, reach, how in plan:
        goal = runs.lines(out / "metrics.jsonl") + int(rng.integers(1, 4))
        ended = runs.stop_when(runs.start(home, *command), moment, how, rng.uniform(0, reach))
        assert ended.code == (4 if how == signal.SIGTERM else -how), ended
    assert "training was stopped" in ended.err
    assert "the same command resumes" in ended.err
    assert "Traceback" not in ended.err
    refused = runs.astroad("score", out, sky, "--out", tmp_path / "none")
    assert (refused.code, "this run is not finished" in refused.err) == (2, True)
    assert runs.lines(out / "metrics.jsonl") < runs.lines(whole / "metrics.jsonl")

    assert runs.train(sky, out, *settings).code == 0
    assert not any(out.rglob(".*"))  # locks and torn files are gone
    assert runs.digest(out) == runs.digest(whole)
    assert runs.contents(out) == runs.contents(whole)
    assert runs.astroad("score", out, sky, "--out", tmp_path / "scores").code == 0
    assert runs.contents(tmp_path / "scores") == runs.contents(scores)


def test_the_first_signal_is_a_flag_and_the_second_acts():
    before = signal.getsignal(signal.SIGTERM)
    with asked_to_stop() as flag:
        assert not flag.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag.is_set()
        assert signal.getsignal(signal.SIGTERM) == before
    assert signal.getsignal(signal.SIGTERM) == before


# One finished run, which the tests below copy and then disturb.


@pytest.fixture(scope="module")
def finished(home, sky):
    out = home / "autoencoder"
    assert runs.train(sky, out, "method.name=autoencoder", OFTEN).code == 0
    return out


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def again(sky, run, *settings) -> runs.Outcome:
    return runs.train(sky, run, "method.name=autoencoder", OFTEN, *settings)


def test_a_finished_run_is_left_as_it_is(sky, run, finished):
    assert again(sky, run).code == 0
    assert runs.contents(run) == runs.contents(finished)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.seed=1", "train.seed: was 0, now 1"),
        ("method.latent=3", "method.latent: was 2, now 3"),
        ("train.epochs=9", "train.epochs: was 3, now 9"),
        ("method.name=vae", "method.name: was 'autoencoder', now 'vae'"),
    ],
)
def test_resuming_with_another_configuration_is_refused(sky, run, finished, setting, words):
    refused = again(sky, run, setting)
    assert refused.code == 2
    assert "this directory holds another run" in refused.err
    assert words in refused.err
    assert runs.contents(run) == runs.contents(finished)


def test_a_run_begun_before_a_hyper_parameter_existed_goes_on(sky, run, finished):
    """As if `weight_decay` were new: the run was made with what is its default."""
    path = run / "config.toml"
    lines = path.read_text().splitlines(keepends=True)
    older = [line for line in lines if not line.startswith("weight_decay =")]
    assert len(older) == len(lines) - 1
    path.write_text("".join(older))
    assert again(sky, run).code == 0
    assert runs.contents(run) == runs.contents(finished)
    path.write_text("".join(older))
    refused = again(sky, run, "method.weight_decay=0.5")
    assert refused.code == 2
    assert "method.weight_decay" in refused.err


def test_resuming_with_other_data_is_refused(sky, run, finished, tmp_path):
    whole = sky.read_bytes()
    columns = runs.survey()
    columns["skew"][np.flatnonzero(columns["label"] == "CEP")[:20]] += 0.5
    try:
        runs.table(sky, columns)  # the same path, other values
        refused = again(sky, run)
    finally:
        sky.write_bytes(whole)
    assert refused.code == 2
    assert "the training data" in refused.err
    assert runs.contents(run) == runs.contents(finished)


def test_a_run_directory_in_use_is_refused(sky, run):
    with files.lock(run):
        refused = again(sky, run)
    assert refused.code == 2
    assert f"process {os.getpid()} on" in refused.err


@pytest.mark.parametrize("verb", ["train", "score"])
def test_a_directory_that_cannot_be_written_is_an_error_before_the_work(sky, run, tmp_path, verb):
    blocked = tmp_path / "file"
    blocked.write_text("")
    for out in (blocked, blocked / "below"):
        failed = again(sky, out) if verb == "train" else runs.astroad("score", run, sky, "--out", out)
        assert failed.code == 2
        assert "cannot write" in failed.err
        assert str(out) in failed.err
        assert "step" not in failed.err


def test_a_damaged_last_checkpoint_is_trained_again(sky, run, finished, tmp_path, caplog):
    newest = sorted((run / "checkpoints").glob("step_*"))[-1]
    data = next(path for path in sorted((newest / "arrays").rglob("*")) if path.is_file())
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    refused = runs.astroad("score", run, sky, "--out", tmp_path / "none")
    assert refused.code == 2
    assert "this run is not finished" in refused.err
    assert again(sky, run).code == 0
    assert newest.name in caplog.text
    assert runs.contents(run) == runs.contents(finished)
    assert runs.digest(run) == runs.digest(finished)


DAMAGE = {
    "all checkpoints": (lambda run: [p.unlink() for p in run.glob("checkpoints/*/manifest.json")], 5, "step_"),
    "no checkpoint": (lambda run: shutil.rmtree(run / "checkpoints"), 5, "no checkpoint"),
    "schema": (lambda run: (run / "model.json").write_text("{}"), 5, "model.json"),
    "calibration": (lambda run: (run / "calibration.npz").write_bytes(b"PK"), 5, "calibration.npz"),
    "scaler": (lambda run: (run / "preprocess.npz").write_bytes(b""), 5, "preprocess.npz"),
    "no calibration": (lambda run: (run / "calibration.npz").unlink(), 2, "calibration.npz"),
    "no configuration": (lambda run: (run / "config.toml").unlink(), 2, "config.toml"),
    "no run": (lambda run: shutil.rmtree(run), 2, "no trained model here"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_run_is_not_scored_with(sky, run, tmp_path, case):
    harm, code, words = DAMAGE[case]
    harm(run)
    failed = runs.astroad("score", run, sky, "--out", tmp_path / "scores")
    assert failed.code == code
    assert words in failed.err


def test_divergence_is_named_and_the_checkpoints_before_it_stay(sky, tmp_path):
    out = tmp_path / "run"
    failed = runs.train(sky, out, "method.name=deep_svdd", "method.learning_rate=1e38", "train.epochs=2")
    assert failed.code == 2
    assert "diverged" in failed.err
    assert "stage 'svdd'" in failed.err
    assert "lower the learning rate" in failed.err
    kept = sorted((out / "checkpoints").glob("step_*"))
    assert kept
    assert not (out / "calibration.npz").exists()
    assert not (out / ".lock").exists()


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([0.5, 0.5, 0.5], "the same score"),
        ([0.5, 0.5 + 1e-8, np.nan], "the same score"),
        ([0.0, 0.0], "the same score"),
        ([np.nan, np.inf], "no score"),
        ([0.5, 0.50001], ""),
        ([0.5], ""),
    ],
)
def test_scores_that_tell_nothing_are_refused(tmp_path, scores, words):
    if not words:
        return training._check_scores(np.float32(scores), tmp_path)
    with pytest.raises(DivergedError, match=words):
        training._check_scores(np.array(scores), tmp_path)
    return None


def test_too_few_rows_to_calibrate_on_is_said_before_training(tmp_path):
    columns = {name: values[:6] for name, values in runs.survey().items()}
    data = runs.table(tmp_path / "single.parquet", {**columns, "label": np.array(list("abcdef"))})
    failed = runs.train(data, tmp_path / "run", "method.name=autoencoder", "data.anomalies=[]")
    assert failed.code == 2
    assert "no row is left to calibrate" in failed.err
    assert "data.calibration_fraction" in failed.err
    assert not (tmp_path / "run").exists()


def test_the_configuration_of_a_run_trains_the_same_run(sky, run, tmp_path):
    assert runs.astroad("train", run / "config.toml", "--out", tmp_path / "copy").code == 0
    assert runs.digest(tmp_path / "copy") == runs.digest(run)
    assert config.load(run / "config.toml") == config.load(tmp_path / "copy" / "config.toml")


@pytest.mark.parametrize(
    "settings",
    [
        ["method.name=mcdsvdd", "train.balance=true", "method.pretrain_epochs=1"],
        ["method.name=autoencoder", "train.remainder=drop"],
    ],
    ids=["balanced", "dropped"],
)
def test_resident_and_tf_data_feeds_give_the_same_model(sky, tmp_path, settings):
    for feed in ("resident", "tf.data"):
        assert runs.train(sky, tmp_path / feed, *settings, "train.epochs=2", f"train.feed={feed}").code == 0
    assert runs.digest(tmp_path / "resident") == runs.digest(tmp_path / "tf.data")
    one, other = (runs.contents(tmp_path / feed) for feed in ("resident", "tf.data"))
    assert one["metrics.jsonl"] == other["metrics.jsonl"]
    assert one["calibration.npz"] == other["calibration.npz"]

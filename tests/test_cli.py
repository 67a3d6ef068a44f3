"""The command line: what it imports, what it prints, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from astroad_jax import __version__, cli, config, errors
from astroad_jax.app import inspection
from astroad_jax.app.reference import describe
from astroad_jax.methods import METHODS, configure
from tests import runs

VERBS = ("quickstart", "inspect", "keys", "train", "score", "hats", "evaluate", "rank", "explain", "export")
HEAVY = ("jax", "tensorflow", "sklearn", "matplotlib", "scipy", "pandas", "pyarrow", "orbax", "flax", "astropy")
PROBE = """
import json, sys
from typer.testing import CliRunner
from astroad_jax.cli import app
results = [CliRunner().invoke(app, words) for words in json.loads(sys.argv[1])]
print(json.dumps([[r.exit_code for r in results], sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def test_help_and_version_import_nothing_heavy(tmp_path):
    asked = [["--help"], ["--version"], [], *[[verb, "--help"] for verb in VERBS]]
    command = [sys.executable, "-c", PROBE, json.dumps(asked)]
    output = subprocess.run(command, env=runs.environment(tmp_path), cwd=runs.ROOT, capture_output=True, check=True)
    codes, modules = json.loads(output.stdout)
    assert [code for code, words in zip(codes, asked) if words] == [0] * (len(asked) - 1)
    assert not set(HEAVY) & set(modules)


def test_help_documents_verbs_and_exit_codes():
    ended = runs.astroad("--help")
    text = " ".join(ended.out.split())
    for word in VERBS:
        assert word in text
    documented = {errors.EXIT_OK: "done", errors.EXIT_BUG: "a defect", errors.EXIT_INPUT: "input or configuration"}
    documented |= {errors.EXIT_QUARANTINED: "quarantined", errors.EXIT_INTERRUPTED: "interrupted"}
    documented |= {errors.EXIT_CORRUPT: "checksums"}
    assert sorted(documented) == list(range(6))
    for code, words in documented.items():
        assert f"{code} " in text
        assert words in text


def test_version():
    assert runs.astroad("--version").out == f"astroad_jax {__version__}\n"


# exit code 2, what and how to put it right; {tmp} stands for a directory
MISTAKES = {
    "no verb of that name": (["trian"], ["No such command 'trian'"]),
    "unknown option": (["train", "--date", "x"], ["No such option", "--data"]),
    "no table": (["train", "--out", "{tmp}/run"], ["no table to train on", "data.path", "--data"]),
    "absent table": (["train", "--data", "{tmp}/a.fits", "--out", "{tmp}/run"], ["no such file", "{tmp}/a.fits"]),
    "absent configuration": (["train", "{tmp}/run.toml"], ["no such configuration file", "{tmp}/run.toml"]),
    "unknown key": (["train", "train.epoch=3"], ["unknown key 'train.epoch'", "did you mean 'epochs'"]),
    "no override": (["train", "train.epochs=3", "epochs"], ["key=value", "train.epochs=20"]),
    "unknown method": (["train", "method.name=mcsvd", "--data", "{sky}", "--out", "{tmp}/run"], ["'mcdsvdd'"]),
    "unknown hyper-parameter": (
        ["train", "method.latnt=3", "--data", "{sky}", "--out", "{tmp}/run"],
        ["unknown key 'latnt'", "did you mean 'latent'"],
    ),
    "no run": (["score", "{tmp}/run", "{sky}"], ["no trained model here", "{tmp}/run", "astroad train"]),
    "no inputs": (["score", "{tmp}/run"], ["Missing argument"]),
    "no scores": (["evaluate", "{run}", "{tmp}/scores"], ["no score directory", "{tmp}/scores", "astroad score"]),
    "inspect what is not there": (["inspect", "{tmp}/a.csv"], ["no such file", "{tmp}/a.csv"]),
    "inspect a directory": (["inspect", "{tmp}"], ["{tmp}"]),
    "inspect with a wrong column": (["inspect", "{sky}", "--set", "data.label=lable"], ["'label'"]),
    "quickstart with a wrong key": (["quickstart", "train.epch=1", "--out", "{tmp}/q"], ["did you mean 'epochs'"]),
}


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    return runs.table(tmp_path_factory.mktemp("sky") / "sky.parquet")


@pytest.fixture(scope="module")
def run(tmp_path_factory, sky):
    out = tmp_path_factory.mktemp("run")
    ended = runs.train(sky, out, "method.name=autoencoder", "train.epochs=1")
    assert ended.code == 0
    assert f"model   {out}" in ended.out
    assert "loss" in ended.out
    return out


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_explained_without_a_traceback(tmp_path, sky, run, case):
    words, expected = MISTAKES[case]
    places = {"tmp": tmp_path, "sky": sky, "run": run}
    ended = runs.astroad(*[word.format(**places) for word in words])
    assert ended.code == errors.EXIT_INPUT, ended
    assert "Traceback" not in ended.err
    for part in expected:
        assert part.format(**places) in ended.err


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(errors.DataError):
        runs.astroad("inspect", tmp_path / "absent.csv", "--debug")


def test_score_and_evaluate(tmp_path, sky, run):
    out = tmp_path / "scores"
    ended = runs.astroad("score", run, sky, "--out", out)
    first, *flags = ended.out.splitlines()
    assert (ended.code, first) == (0, f"rows {runs.ROWS}  scored {runs.ROWS}  null 0  quarantined 0 files")
    assert all(line.startswith("flag  64  ") for line in flags)
    ended = runs.astroad("evaluate", run, out)
    assert ended.code == 0
    assert "strangest objects" in ended.out
    assert "auroc" in ended.out
    assert f"figure  {out / 'roc.png'}" in ended.out
    everything = runs.astroad("evaluate", run, out, "--all")
    assert f"held_out_rows          {runs.ROWS}" in everything.out


def test_quarantine_is_exit_code_3(tmp_path, sky, run):
    (tmp_path / "bad.csv").write_text("<html>")
    ended = runs.astroad("score", run, tmp_path / "bad.csv", sky, "--out", tmp_path / "scores")
    assert ended.code == errors.EXIT_QUARANTINED
    assert "quarantined bad: " in ended.err
    assert str(tmp_path / "bad.csv") in ended.err


def test_inspect_prints_counts_and_a_configuration(sky, tmp_path):
    ended = runs.astroad("inspect", sky, "--set", 'data.ignore=["kind"]')
    assert ended.code == 0
    assert f"{runs.ROWS} rows, 20 features" in ended.out
    assert "id: object_id  ra: ra  dec: dec  label: label" in ended.out
    assert "duplicate ids 0" in ended.out
    (tmp_path / "run.toml").write_text(ended.out)
    assert config.load(tmp_path / "run.toml").data.path == str(sky)


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (KeyboardInterrupt(), errors.EXIT_INTERRUPTED, "interrupted"),
        (OSError(28, "No space left on device", "/x"), errors.EXIT_INPUT, "No space left on device"),
        (errors.Interrupted("stopped"), errors.EXIT_INTERRUPTED, "stopped"),
        (errors.CorruptError("damaged", where="w"), errors.EXIT_CORRUPT, "damaged\n  in: w"),
        (errors.BusyError("busy"), errors.EXIT_INPUT, "busy"),
    ],
)
def test_every_ending_has_its_code(sky, monkeypatch, raised, code, words):
    def fail(*_):
        raise raised

    monkeypatch.setattr(inspection, "inspect", fail)
    ended = runs.astroad("inspect", sky)
    assert ended.code == code
    assert words in ended.err


def test_a_defect_is_shown_whole_and_is_exit_code_1(monkeypatch, capsys):
    def broken():
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == errors.EXIT_BUG
    text = capsys.readouterr().err
    assert "ZeroDivisionError: a defect" in text
    assert "please report" in text


def test_paths_with_blanks_quotes_and_other_letters(tmp_path):
    folder = tmp_path / """sky "é" '%20' # survey"""
    folder.mkdir()
    data = runs.table(folder / "my table é.parquet")
    ended = runs.train(data, folder / "run", "method.name=autoencoder", "train.epochs=1")
    assert ended.code == 0
    assert runs.astroad("train", folder / "run" / "config.toml", "--out", folder / "run").code == 0
    assert runs.astroad("score", folder / "run", data, "--out", folder / "scores").code == 0
    data = data.rename(folder / "my\\table.parquet")
    assert runs.astroad("score", folder / "run", data, "--out", folder / "scores").code == 0
    refused = runs.train(data, folder / "run\\2", "method.name=autoencoder")
    assert refused.code == 2
    assert "backslash" in refused.err


def test_message_has_all_its_parts():
    error = errors.AstroadError("what", where="here", expected=0, got=[1], fix="this")
    assert str(error) == "what\n  in: here\n  expected: 0\n  got: [1]\n  fix: this"
    assert str(errors.AstroadError("what")) == "what"
    assert errors.did_you_mean("epoch", ["epochs", "seed"]) == "did you mean 'epochs'?"
    assert errors.did_you_mean("zzz", ["epochs", "seed"]) == "known: epochs, seed"


@pytest.mark.parametrize("method", METHODS)
def test_keys_are_a_configuration_of_defaults_that_says_what_each_means(method, tmp_path):
    ended = runs.astroad("keys", method)
    (tmp_path / "run.toml").write_text(ended.out)
    chosen = config.load(tmp_path / "run.toml")
    assert configure(chosen.method) == configure({"name": method})
    assert chosen.model_copy(update={"method": {"name": method}}) == config.load(None, [f"method.name={method}"])
    models = [config.Data, config.Spectra, config.Preprocess, config.Train, config.Score, type(configure(chosen.method))]
    silent = [(model.__name__, key) for model in models for key in model.model_fields if not describe(model, key)]
    assert {key for _, key in silent} <= {"name"}


@pytest.mark.parametrize("likelihood", ["fixed", "ivar", "learnt"])
def test_editing_one_key_leads_to_the_network_that_goes_with_it(likelihood, tmp_path):
    """Defaults that another key changes are shown, not set."""
    text = runs.astroad("keys", "vae").out
    assert "# hidden = [512, 256, 128]\n" in text
    (tmp_path / "run.toml").write_text(text.replace('likelihood = "fixed"', f'likelihood = "{likelihood}"'))
    chosen = configure(config.load(tmp_path / "run.toml").method)
    assert chosen == configure({"name": "vae", "likelihood": likelihood})


def test_keys_say_what_they_may_be():
    text = runs.astroad("keys", "vae").out
    assert "# (weighted_mse | probability) of spectra: which score is the score\n# score_by =" in text
    assert "# (rest | observed) frame of the grid" in text


def test_keys_of_no_method():
    ended = runs.astroad("keys", "fanogram")
    assert ended.code == errors.EXIT_INPUT
    assert "fanogan" in ended.err


def test_hats_without_lsdb_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lsdb", None)
    ended = runs.astroad("hats", tmp_path / "run", tmp_path / "sky", "--workers", "2")
    assert ended.code == errors.EXIT_INPUT
    assert "pip install 'astroad_jax[lsdb]'" in ended.err

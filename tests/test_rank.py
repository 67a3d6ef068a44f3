"""``astroad rank``: asked in a terminal or told, what it shows, stores and writes; and what it refuses."""

from __future__ import annotations

import csv
import shutil
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from astroad_jax import cli, data, errors, files, preprocess
from astroad_jax.analysis import active, outliers, plots, portraits
from astroad_jax.analysis.ranks import combined_rank
from astroad_jax.app import album, asking, bundle, labels, ranking, scoring
from astroad_jax.engine import catalog
from tests import runs
from tests.data_files import write


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A trained run, its table (one id twice, one object without a value), and scores of it."""
    home = tmp_path_factory.mktemp("rank")
    columns = runs.survey()
    runs.table(home / "train.parquet", columns)
    assert runs.train(home / "train.parquet", home / "run", "method.name=autoencoder", "train.epochs=1").code == 0
    columns["object_id"][5] = columns["object_id"][6]
    columns["skew"][7] = np.nan
    runs.table(home / "sky.parquet", columns)
    assert runs.astroad("score", home / "run", home / "sky.parquet", "--out", home / "scores").code == 0
    return home


@pytest.fixture(scope="module")
def model(home):
    return bundle.load(home / "run")


@pytest.fixture(scope="module")
def objects(home, model):
    return ranking.open_objects(model, [home / "scores"])


@pytest.fixture
def here(home, tmp_path, monkeypatch):
    """An empty directory to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rank(home, *words) -> runs.Outcome:
    return runs.astroad("rank", home / "scores", "--run", home / "run", *words)


def typed(home, monkeypatch, text: str, *words) -> runs.Outcome:
    """The same with somebody at the terminal who types this."""
    monkeypatch.setattr(asking, "check_terminal", lambda there: None)
    command = ["rank", str(home / "scores"), "--run", str(home / "run"), *map(str, words)]
    result = CliRunner().invoke(cli.app, command, input=text)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return runs.Outcome(result.exit_code, result.stdout, result.stderr)


def shown(out: str) -> list[int]:
    return [int(line.split()[1]) for line in out.splitlines() if line.startswith("object ")]


# In the terminal


def test_answers_are_stored_and_the_next_call_goes_on(home, objects, here, monkeypatch):
    ended = typed(home, monkeypatch, "5 double\n7\ns\n0\nq\n", "--who", "ada", "--every", 2)
    assert ended.code == 0, ended
    first = shown(ended.out)
    strangest = objects.ids[active.ranked(objects.score, objects.ids)]
    assert first[:3] == strangest[:3].tolist()
    assert "an answer is a digit" in ended.out
    assert "shown 4  labelled 2" in ended.out
    held = labels.history(here / "labels.sqlite")
    assert held["object_id"].tolist() == [first[0], first[2]]
    assert (held["label"].tolist(), held["comment"].tolist()) == ([5, 0], ["double", ""])
    assert set(held["who"].tolist()) == {"ada"}
    again = typed(home, monkeypatch, "", "--no-pictures")
    assert again.code == 0
    assert "labelled 2" in again.out
    assert not {first[0], first[2]} & set(shown(again.out))
    for key in first:
        assert (here / "pictures" / f"{key}.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((here / "pictures").iterdir())) == len(first)


def test_what_is_shown_of_an_object(home, objects, here, monkeypatch):
    ended = typed(home, monkeypatch, "q\n", "--pictures", "p")
    row = int(np.nanargmax(objects.score))
    text = " ".join(ended.out.split())
    assert f"object {objects.ids[row]} position {objects.table['ra'][row]:.6f} {objects.table['dec'][row]:+.6f}" in text
    assert f"relevance 5 score {objects.score[row]:.5g} p_value {objects.table['p_value'][row]:.5g}" in text
    assert f"picture p/{objects.ids[row]}.png" in text
    flags = int(objects.table["flags"][row])
    assert (f"flags {flags}: {scoring.FLAG_NAMES[64]}" if flags == 64 else f"flags {flags}") in text
    assert "rows that repeat an id: 1" in text
    assert "without a score 1" in text


def test_ctrl_c_keeps_every_label(home, here, monkeypatch):
    given = iter(["3", "4"])

    def read(prompt):
        for text in given:
            return text
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", read)
    ended = typed(home, monkeypatch, "", "--no-pictures")
    assert ended.code == errors.EXIT_INTERRUPTED
    assert "interrupted" in ended.err
    assert labels.latest(here / "labels.sqlite").label.tolist() == [3, 4]


def test_answers_that_are_no_utf8_are_asked_for_again(home, here, monkeypatch):
    """Bytes that cannot be read at all, and those that Python lets through as they are."""
    given = iter([UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "5 \udcff", "4 é", "q"])

    def read(prompt):
        text = next(given)
        if isinstance(text, Exception):
            raise text
        return text

    monkeypatch.setattr("builtins.input", read)
    ended = typed(home, monkeypatch, "", "--no-pictures")
    assert ended.code == 0, ended
    assert ended.out.count("an answer is a digit") == 2
    held = labels.history(here / "labels.sqlite")
    assert (held["label"].tolist(), held["comment"].tolist()) == ([4], ["é"])


def test_objects_are_read_in_groups_though_none_is_labelled(home, here, monkeypatch):
    fetched, fetch = [], album.fetch
    monkeypatch.setattr(album, "fetch", lambda *given: (fetched.append(len(given[-1])), fetch(*given))[1])
    ended = typed(home, monkeypatch, "s\n" * 7 + "q\n", "--every", 3)
    assert len(shown(ended.out)) == 8
    assert fetched == [3, 3, 3]


def test_a_closed_input_is_no_terminal(home, here, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(typer.Exit) as ended:
        cli.rank([home / "scores"], home / "run")
    assert ended.value.exit_code == errors.EXIT_INPUT
    assert "no terminal" in capsys.readouterr().err
    cli.rank([home / "scores"], home / "run", export=here / "r.csv")
    assert (here / "r.csv").exists()


def test_top_ends_the_session(home, here, monkeypatch):
    ended = typed(home, monkeypatch, "1\n" * 9, "--no-pictures", "--top", 3)
    assert len(shown(ended.out)) == 3
    assert "shown 3  labelled 3" in ended.out


def test_labels_turn_the_ranking(home, model, objects):
    label = np.full(len(objects.ids), -1)
    order = active.ranked(ranking.relevance(model, objects, label), objects.ids)
    label[order[:10]] = 0
    turned = ranking.relevance(model, objects, label)
    expected = active.relevance(objects.features, objects.score, label, seed=0)
    np.testing.assert_array_equal(turned, expected)
    assert active.ranked(turned, objects.ids)[0] != order[0]


# Told


def test_export_holds_the_ranking(home, objects, here):
    key = objects.ids[np.nanargmax(objects.score)]
    ended = rank(home, "--label", f"{key}=0", "--label", f"{objects.ids[0]}=5", "--export", "r.parquet")
    assert ended.code == 0, ended
    table = pq.read_table(here / "r.parquet")
    assert table.column_names == ["object_id", "ra", "dec", "class", "score", "p_value", "flags", "relevance", "label"]
    assert table["object_id"].type == "int64"
    assert table["object_id"].to_numpy().min() > 2**53
    relevance = table["relevance"].to_pylist()
    assert relevance[-1] is None
    assert sorted(relevance[:-1], reverse=True) == relevance[:-1]
    assert len(relevance) == len(set(table["object_id"].to_pylist())) == runs.ROWS - 1
    given = dict(zip(table["object_id"].to_pylist(), table["label"].to_pylist()))
    assert {name: value for name, value in given.items() if value is not None} == {key: 0, objects.ids[0]: 5}
    assert rank(home, "--label", f"{key}=-1", "--export", "r.csv", "--top", 4).code == 0
    with open(here / "r.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4
    assert str(key) in {row["object_id"] for row in rows}
    assert {row["label"] for row in rows} <= {"", "5"}


def test_without_labels_the_export_is_the_ranking_by_score(home, objects, here):
    ended = rank(home, "--export", "r.parquet", "--scale", "rank")
    assert "not there yet" in ended.out
    found = pq.read_table(here / "r.parquet")["object_id"].to_pylist()
    assert found == objects.ids[active.ranked(objects.score, objects.ids)].tolist()
    assert not (here / "labels.sqlite").exists()
    assert not (here / "pictures").exists()


def test_a_label_reaches_further_with_a_smaller_alpha(home, model, objects, here):
    """With none the forest decides for all; as the library has it."""
    labels.append(here / "labels.sqlite", objects.ids[:4], np.array([5, 0, 5, 0]))
    known = np.full(len(objects.ids), -1.0)
    known[:4] = 5, 0, 5, 0
    for alpha in (1.0, 0.0):
        assert rank(home, "--export", "r.parquet", "--alpha", alpha).code == 0
        seed = model.settings.train.seed
        expected = active.relevance(objects.features, objects.score, known, seed=seed, alpha=alpha)
        found = pq.read_table(here / "r.parquet")
        assert found["object_id"].to_pylist() == objects.ids[active.ranked(expected, objects.ids)].tolist()
    assert "--alpha" in rank(home, "--export", "r.parquet", "--alpha", "-1").err


def test_ranking_by_the_local_outlier_factor(home, model, objects, here):
    factor = outliers.lof_of_sample(objects.features)
    expected = {"lof": factor, "combined": combined_rank(objects.score, factor)}
    expected["any"] = combined_rank(objects.score, factor, rule="max")
    for by, values in expected.items():
        found = ranking.open_objects(model, [home / "scores"], by)
        np.testing.assert_array_equal(found.ids, objects.ids)
        np.testing.assert_array_equal(found.features, objects.features)
        np.testing.assert_array_equal(found.score, values)
        assert np.isnan(values).sum() == 1
        assert set(found.components) >= {"lof", "combined"}
        assert rank(home, "--by", by, "--export", f"{by}.parquet").code == 0
        table = pq.read_table(here / f"{by}.parquet")
        assert table["object_id"].to_pylist() == objects.ids[active.ranked(values, objects.ids)].tolist()
        np.testing.assert_array_equal(table[by].to_numpy(), np.sort(values)[::-1][np.r_[1 : len(values), 0]])


def test_labels_outlive_their_objects(home, objects, here):
    """Labels of objects that are not scored here are kept and counted; so are those of objects scored anew."""
    labels.append(here / "labels.sqlite", np.array([1, 2, objects.ids[3]]), np.array([1, 2, 3]))
    ended = rank(home, "--export", "r.csv")
    assert "labels of objects that are not among these: 2 (kept)" in ended.out
    assert "labelled 1" in ended.out
    again = here / "again"
    assert runs.astroad("score", home / "run", home / "sky.parquet", "--out", again).code == 0
    ended = runs.astroad("rank", again, "--run", home / "run", "--export", "s.csv")
    assert "labelled 1" in ended.out
    assert (here / "r.csv").read_bytes() == (here / "s.csv").read_bytes()
    assert len(labels.latest(here / "labels.sqlite").ids) == 3


MISTAKES = {
    "nobody to ask": ([], "no terminal"),
    "label out of range": (["--label", "{id}=6"], "0 to 5"),
    "label that is no number": (["--label", "{id}=high"], "0 to 5"),
    "label without an id": (["--label", "=3"], "ID=VALUE"),
    "label without a value": (["--label", "{id}"], "ID=VALUE"),
    "unknown id": (["--label", "12=3"], "no object here has this id"),
    "id of another type": (["--label", "a12=3"], "an integer such as"),
    "one good, one bad": (["--label", "{id}=3", "--label", "12=3"], "no object here has this id"),
    "export of no known format": (["--export", "r.fits"], ".parquet or .csv"),
    "unknown column": (["--by", "scor", "--export", "r.csv"], "did you mean 'score'"),
    "unknown scale": (["--scale", "log", "--export", "r.csv"], "minmax, rank"),
    "label file of another kind": (["--labels", "{home}/words.sqlite", "--export", "r.csv"], "another type"),
    "directory for labels that is not there": (["--labels", "a/b.sqlite", "--label", "{id}=3"], "cannot write labels"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_explained_and_store_nothing(home, objects, here, case):
    if not (home / "words.sqlite").exists():
        labels.append(home / "words.sqlite", np.array(["a"]), np.array([1]))
    words, expected = MISTAKES[case]
    ended = rank(home, *[word.format(id=objects.ids[0], home=home) for word in words])
    assert ended.code == errors.EXIT_INPUT, ended
    assert expected in ended.err
    assert "fix: " in ended.err
    assert "Traceback" not in ended.err
    assert not list(here.iterdir())


def test_a_damaged_label_file_is_exit_code_5(home, here):
    (here / "labels.sqlite").write_bytes(b"")
    ended = rank(home, "--export", "r.csv")
    assert ended.code == errors.EXIT_CORRUPT
    assert "label file is damaged" in ended.err


def test_no_scores_or_no_run(home, here):
    for words in (["nowhere", "--run", home / "run"], [home / "scores", "--run", "nowhere"], ["--run", home / "run"]):
        ended = runs.astroad("rank", *words, "--export", "r.csv")
        assert ended.code == errors.EXIT_INPUT
        assert "Traceback" not in ended.err


# Score directories, one and several


def change_book(directory, change) -> None:
    book = files.read_sealed(directory / "manifest.json")
    change(book)
    files.write_sealed(directory / "manifest.json", book)


def test_scores_of_another_run_are_refused(home, model, here):
    shutil.copytree(home / "scores", here / "scores")
    change_book(here / "scores", lambda book: book["identity"].update(model="0" * 64))
    with pytest.raises(errors.MismatchError, match="another model"):
        ranking.open_objects(model, [here / "scores"])


def test_tables_that_changed_or_went_are_refused(home, model, here):
    for name in ("b", "c"):
        shutil.copy(home / "sky.parquet", here / f"{name}.parquet")
        scoring.score(model, [here / f"{name}.parquet"], here / name)
    runs.table(here / "b.parquet", runs.survey(seed=5))
    (here / "c.parquet").unlink()
    for name, words in (("b", "has changed"), ("c", "not where it was")):
        with pytest.raises(errors.DataError, match=words):
            ranking.open_objects(model, [here / name])
    scoring.score(model, [data.memory("sky", runs.survey())], here / "memory")
    with pytest.raises(errors.DataError, match="in memory"):
        ranking.open_objects(model, [here / "memory"])


def test_other_objects_under_the_same_stamp_are_refused(home, model, here):
    """A table exchanged for another with the stamp that the manifest has."""
    runs.table(here / "b.parquet")
    scoring.score(model, [here / "b.parquet"], here / "b")
    runs.table(here / "b.parquet", runs.survey(seed=5, object_id=np.arange(runs.ROWS)))
    stamp = scoring.partition(model, here / "b.parquet").stamp
    change_book(here / "b", lambda book: book["partitions"]["b"].update(stamp=stamp))
    with pytest.raises(errors.DataError, match="not the one that was scored"):
        ranking.open_objects(model, [here / "b"])


def test_nothing_scored_or_all_null_or_one_object(model, here):
    columns = runs.survey()
    (here / "bad.csv").write_text("<html>")
    scoring.score(model, [here / "bad.csv"], here / "none")
    with pytest.raises(errors.DataError, match="no input was scored"):
        ranking.open_objects(model, [here / "none"])
    runs.table(here / "null.parquet", {**columns, "skew": np.full(runs.ROWS, np.nan)})
    scoring.score(model, [here / "null.parquet"], here / "null")
    with pytest.raises(errors.DataError, match="nothing to rank"):
        ranking.open_objects(model, [here / "null"])
    runs.table(here / "one.parquet", {name: values[:1] for name, values in columns.items()})
    scoring.score(model, [here / "one.parquet"], here / "one")
    one = ranking.open_objects(model, [here / "one"])
    assert ranking.relevance(model, one, np.array([-1])).tolist() == [2.5]
    assert ranking.relevance(model, one, np.array([4])) == pytest.approx(2.5 * (0.1 + 0.85 * 4 / 5))
    ended = asking.converse(
        model, one, np.array([4]), asking.Options(here / "l", None), lambda _: pytest.fail("asked"), print
    )
    assert ended.asked == 0


def test_several_directories_are_one_ranking(home, model, objects, here):
    columns = runs.survey()
    for name, rows in (("a", slice(0, 100)), ("b", slice(100, 240))):
        part = {key: values[rows] for key, values in columns.items() if key != "label" or name == "a"}
        runs.table(here / f"{name}.parquet", part)
        scoring.score(model, [here / f"{name}.parquet"], here / name)
    both = ranking.open_objects(model, [here / "a", here / "b", here / "a"])
    assert both.ids.tolist() == columns["object_id"].tolist()
    assert (both.table["label"][100:] == "").all()
    whole = dict(zip(objects.ids.tolist(), objects.features))
    for key, features in list(zip(both.ids.tolist(), both.features))[8:]:
        np.testing.assert_array_equal(features, whole[key])
    x = album.fetch(model, both, [239, 0, 150])
    assert sorted(x) == [0, 150, 239]
    chunk = next(iter(scoring.partition(model, here / "b.parquet").chunks()))
    np.testing.assert_array_equal(x[150], preprocess.apply(model.scaler, chunk.x[50:51])[0][0])


def test_objects_without_ids_of_their_own(model, here):
    columns = {name: values for name, values in runs.survey().items() if name != "object_id"}
    for name in "ab":
        runs.table(here / f"{name}.parquet", columns)
        scoring.score(model, [here / f"{name}.parquet"], here / name, progress=False)
    with pytest.raises(errors.DataError, match="cannot be told apart"):
        ranking.open_objects(model, [here / "a", here / "b"])
    assert ranking.open_objects(model, [here / "a"]).ids.tolist() == list(range(runs.ROWS))
    runs.table(here / "ids.parquet")
    scoring.score(model, [here / "ids.parquet"], here / "ids")
    with pytest.raises(errors.DataError, match="cannot be told apart"):
        ranking.open_objects(model, [here / "ids", here / "a"])
    texts = runs.survey()
    texts["object_id"] = np.array([f"{i:05d}" for i in range(runs.ROWS)])
    runs.table(here / "t.parquet", texts)
    scoring.score(model, [here / "t.parquet"], here / "t")
    with pytest.raises(errors.MismatchError, match="different types"):
        ranking.open_objects(model, [here / "a", here / "t"])
    assert ranking.row_of(ranking.open_objects(model, [here / "t"]), "00012") == 12


@pytest.mark.parametrize(("ids", "bound"), [(None, True), (np.arange(runs.ROWS), False)])
def test_labels_of_row_numbers_are_of_one_table(home, model, here, ids, bound):
    """Row 17 of a table is not row 17 of another; an object 17 is."""
    columns = {name: values for name, values in runs.survey().items() if name != "object_id" or ids is not None}
    for name in "ab":
        runs.table(here / f"{name}.parquet", columns if ids is None else {**columns, "object_id": ids})
        scoring.score(model, [here / f"{name}.parquet"], here / name)

    def call(name: str, *words) -> runs.Outcome:
        return runs.astroad("rank", here / name, "--run", home / "run", *words)

    assert call("a", "--label", "17=5", "--export", "a.csv").code == 0
    assert labels.latest(here / "labels.sqlite").table == (str(here / "a.parquet") if bound else "")
    assert "labelled 1" in call("a", "--export", "a.csv").out
    for words in (["--export", "b.csv"], ["--label", "17=0"]):
        ended = call("b", *words)
        assert ended.code == (errors.EXIT_INPUT if bound else 0), ended
        assert ("one table only" in ended.err) == bound
    assert labels.latest(here / "labels.sqlite").label.tolist() == [5 if bound else 0]
    assert call("b", "--label", "17=0", "--labels", "b.sqlite", "--export", "b.csv").code == 0


def test_the_embedding_is_kept_and_a_damaged_or_old_one_made_again(home, model, objects, here, monkeypatch):
    shutil.copytree(home / "scores", here / "scores")
    kept = here / "scores" / ranking.CACHE
    assert kept.exists()
    with monkeypatch.context() as patch:
        patch.setattr(ranking, "_embedded", lambda *_: pytest.fail("computed again"))
        again = ranking.open_objects(model, [here / "scores"])
    np.testing.assert_array_equal(again.features, objects.features)
    whole = kept.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:900] + b"\x00" * 50 + whole[950:]):
        kept.write_bytes(content)
        again = ranking.open_objects(model, [here / "scores"])
        np.testing.assert_array_equal(again.features, objects.features)
    change_book(here / "scores", lambda book: book["partitions"]["sky"].update(sha256="0"))
    monkeypatch.setattr(ranking, "_embedded", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ranking.open_objects(model, [here / "scores"])


def test_null_scores_have_no_features(objects):
    null = np.isnan(objects.score)
    assert null.sum() == 1
    assert np.isnan(objects.features[null]).all()
    assert np.isfinite(objects.features[~null]).all()


@pytest.mark.parametrize("name", ["a/7.png", "../x", "é", "x" * 300, ".hidden"])
def test_any_id_is_a_file_name(name):
    made = album.file_name(name)
    assert made != name
    assert made != album.file_name(f"{name}?")
    assert len(made) < 120
    assert not set("/\\") & set(made)
    assert album.file_name("J12.3+4-5_6") == "J12.3+4-5_6"


# Pictures


@pytest.mark.parametrize(
    ("features", "shape", "kind", "expected"),
    [
        (("spectrum",), (2, 1000), "spectrum", {"frame": "rest", "flux": "flux (unit norm)"}),
        (("spectrum",), (2, 1000), "none", {"frame": "rest", "flux": "flux"}),
        (("spectrum",), (2, 900), "none", {"flux": "flux"}),
        (("skew", "iqr"), (2,), "quantile", {"flux": "flux"}),
    ],
)
def test_axes_say_what_is_known_of_a_spectrum(model, features, shape, kind, expected):
    schema, scaler = model.schema._replace(features=features, shape=shape), model.scaler._replace(kind=kind)
    found = album.axes(model._replace(schema=schema, scaler=scaler))
    assert len(found.pop("grid", np.zeros(0))) == (1000 if "frame" in expected else 0)
    assert found == expected


RNG = np.random.default_rng(0)
SPECTRUM = np.stack([RNG.normal(1, 0.1, 300), np.where(np.arange(300) % 50, 4.0, 0.0)])
PORTRAITS = {
    "image": (RNG.uniform(-1, 1, (12, 12, 3)), {}),
    "one band": (RNG.uniform(-1, 1, (12, 12, 1)), {}),
    "features": (RNG.normal(size=5), {"names": list("abcde")}),
    "many features": (RNG.normal(size=152), {"names": [f"feature {i}" for i in range(152)]}),
    "spectrum": (SPECTRUM, {"grid": np.linspace(3600, 7556, 300), "title": "39627763589581458"}),
    "masked spectrum": (np.stack([SPECTRUM[0], np.zeros(300)]), {}),
    "flat spectrum": (np.ones((2, 9)), {}),
    "line": (RNG.normal(size=64), {"names": ["flux"]}),
    "light curves": (RNG.normal(size=(3, 40)), {}),
}


@pytest.mark.parametrize("kind", PORTRAITS)
@pytest.mark.parametrize("rebuilt", [False, True])
def test_portraits(tmp_path, kind, rebuilt):
    x, options = PORTRAITS[kind]
    path = tmp_path / "p.png"
    portraits.portrait(path, x, 0.9 * x if rebuilt else None, **options)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 3000


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (SPECTRUM, {}, ["pixel", "flux"]),
        (SPECTRUM, {"grid": np.arange(300)}, ["wavelength [Angstrom]", "flux"]),
        (SPECTRUM, {"grid": np.arange(300), "frame": "rest"}, ["rest wavelength [Angstrom]"]),
        (SPECTRUM, {"frame": "rest", "flux": "flux (unit norm)"}, ["pixel", "flux (unit norm)"]),
        (np.zeros((9, 4)), {"title": "7"}, ["7"]),
        (np.zeros((5, 4, 3)).reshape(20, 3), {"title": "7"}, ["7 (first 9 of 20 rows)"]),
        (np.zeros((20, 3)), {}, ["(first 9 of 20 rows)"]),
    ],
)
def test_what_portraits_say(tmp_path, monkeypatch, x, options, words):
    texts = []

    def save(figure, path):
        texts.extend(
            [figure.get_suptitle(), *(text for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel()))]
        )
        plots.save(figure, path)

    monkeypatch.setattr(portraits, "save", save)
    portraits.portrait(tmp_path / "p.png", x, **options)
    assert set(words) <= set(texts)


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (np.zeros(3), {"rebuilt": np.zeros(4)}, "another shape"),
        (np.zeros((2, 5)), {"grid": np.zeros(4)}, "grid"),
        (np.float32(1), {}, "no object"),
        (np.zeros((2, 0)), {}, "no object"),
    ],
)
def test_portraits_of_nothing(tmp_path, x, options, words):
    with pytest.raises(errors.DataError, match=words) as error:
        portraits.portrait(tmp_path / "p.png", x, **options)
    assert error.value.fix


def test_images_are_ranked_and_drawn(tmp_path, monkeypatch):
    """From a table of images to the picture of the strangest, with what the model makes of it."""
    rng = np.random.default_rng(0)
    columns = {"object_id": np.array([f"{i:04d}" for i in range(60)]), "image": rng.normal(size=(60, 6, 6, 1))}
    sky = write(tmp_path, "npz", columns)
    tiny = ["method.name=autoencoder", "method.hidden=[8]", "method.latent=2", "train.epochs=1", "train.batch_size=32"]
    assert runs.astroad("train", "--data", sky, "--out", tmp_path / "run", *tiny).code == 0
    assert runs.astroad("score", tmp_path / "run", sky, "--out", tmp_path / "scores").code == 0
    monkeypatch.chdir(tmp_path)
    ended = typed(tmp_path, monkeypatch, "5\nq\n")
    assert ended.code == 0, ended
    table = catalog.read_scores(tmp_path / "scores")
    first = table["object_id"][np.argmax(table["score"])]
    assert labels.latest(tmp_path / "labels.sqlite").ids.tolist() == [first]
    assert (tmp_path / "pictures" / f"{first}.png").stat().st_size > 3000
    ended = runs.astroad("rank", "scores", "--run", "run", "--label", "0007=4", "--export", "r.csv")
    assert ended.code == 0
    assert '"0007"' in (tmp_path / "r.csv").read_text()

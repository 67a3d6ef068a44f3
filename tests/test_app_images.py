"""Images all the way: inspected, trained on, scored, evaluated, streamed; what is wrong with one is flagged and counted."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from astroad_jax import config, data
from astroad_jax.app import bundle, evaluation, inspection, quickstart, scoring, training
from astroad_jax.engine import catalog
from astroad_jax.errors import DataError, MismatchError
from astroad_jax.preprocess.scaler import CONSTANT, EMPTY, INF_INPUT, NAN_INPUT, OUTSIDE
from tests import runs
from tests.image_files import encode, picture, write_folder

ROWS = 90
DENSE = ["method.hidden=[8]", "method.latent=2", "method.norm=false"]
SEARCH = ["method.width=4", "method.latent=4", "method.n_critic=1", "method.search=latent", "method.iterations=6"]
TINY = [
    "train.batch_size=32",
    "train.epochs=2",
    "data.calibration_fraction=0.2",
    "train.log_every=2",
    "train.steps_per_call=2",
]


def sky(rows: int = ROWS, seed: int = 0) -> dict[str, np.ndarray]:
    """Round sources of 8 x 8 x 3 pixels; the last few are double."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:8, :8] - 3.5
    double = np.arange(rows) >= rows - 8
    shift = np.where(double, 2.0, 0.0)[:, None, None]
    source = np.exp(-((x - shift) ** 2 + y**2) / 4) + np.exp(-((x + shift) ** 2 + y**2) / 4)
    images = rng.normal(size=(rows, 8, 8, 3)) + 20 * source[..., None]
    label = np.where(double, "double", "single")
    return {"object_id": np.arange(rows) + 1000, "image": images.astype(np.float32), "label": label}


def settings(*overrides: str) -> config.Run:
    networks = SEARCH if "method.name=wgan_gp" in overrides else DENSE
    return config.load(None, [*TINY, *networks, "data.anomalies=double", *overrides])


def write(path, columns):
    np.savez(path, **columns)
    return path


def damaged(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The first rows: all NaN, one NaN, constant, an infinite pixel, a hot pixel."""
    images = columns["image"].copy()
    images[0], images[2] = np.nan, 3
    images[1, 2, 3, 0], images[3, 4, 4, 1], images[4, 3, 3, 2] = np.nan, -np.inf, 1e4
    return {**columns, "image": images}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs of three methods on one table of images."""
    home = tmp_path_factory.mktemp("images")
    path = write(home / "sky.npz", sky())
    options = {"dasvdd": ["preprocess.scale=asinh"], "autoencoder": ["preprocess.crop=6", "preprocess.size=4"]}
    options["wgan_gp"] = options["dasvdd"]
    for name, overrides in options.items():
        training.train(data.open_source(path), settings(f"method.name={name}", *overrides), home / name)
    return home


KINDS = [("dasvdd", "asinh", (8, 8, 3)), ("autoencoder", "linear", (4, 4, 3)), ("wgan_gp", "asinh", (8, 8, 3))]


@pytest.mark.parametrize(("name", "kind", "shape"), KINDS)
def test_bad_images_get_a_null_score_and_a_flag_and_are_counted(trained, tmp_path, name, kind, shape):
    model = bundle.load(trained / name)
    assert model.identity()["scale"] == kind
    assert model.schema.raw_shape == (8, 8, 3)
    assert model.schema.shape == model.schema.plan.shape == shape
    columns = sky()
    report = scoring.score(model, [write(tmp_path / "bad.npz", damaged(columns))], tmp_path / "scores")
    assert (report.rows, report.scored, report.null, report.quarantined) == (ROWS, ROWS - 4, 4, {})
    table = catalog.read_scores(tmp_path / "scores")
    expected = [NAN_INPUT | EMPTY, NAN_INPUT, CONSTANT, INF_INPUT]
    assert (table["flags"][:4] & ~np.uint32(OUTSIDE)).tolist() == expected
    assert table["flags"][4] == OUTSIDE
    assert np.isnan(table["score"]).tolist() == [True] * 4 + [False] * (ROWS - 4)
    assert (table["flags"] & 15 != 0).sum() == 4
    assert report.flags[NAN_INPUT] == 2
    whole = scoring.score(model, [write(tmp_path / "bad.npz", columns)], tmp_path / "whole")
    assert whole.scored == ROWS
    np.testing.assert_array_equal(catalog.read_scores(tmp_path / "whole")["score"][5:], table["score"][5:])


def test_a_search_spends_nothing_on_images_without_a_score(trained):
    model, columns = bundle.load(trained / "wgan_gp"), damaged(sky())
    found = model.scorer()(model.state, *(model.prepare(columns["image"])[0], columns["object_id"]))
    assert found["iterations"][:5].tolist() == [0, 0, 0, 0, 6]
    assert (found["iterations"][5:] == 6).all()


def test_a_search_is_given_several_times_its_slots(trained, monkeypatch):
    model = bundle.load(trained / "wgan_gp")
    assert scoring._at_once(model) == 2**16
    monkeypatch.setattr(scoring, "AT_ONCE", 8 * 8 * 3 * 4 * 20)
    assert scoring._at_once(model) == 4 * 64
    wide = model.settings.model_copy(update={"score": config.Score(slots=100)})
    assert scoring._at_once(model._replace(settings=wide)) == 400


@pytest.mark.parametrize("count", [1, 3])
def test_a_few_images_are_searched_alone(trained, tmp_path, count):
    model, columns = bundle.load(trained / "wgan_gp"), sky()
    few = {name: values[:count] for name, values in columns.items()}
    for name, rows in (("few", few), ("all", columns)):
        scoring.score(model, [write(tmp_path / f"{name}.npz", rows)], tmp_path / name)
    whole, part = (catalog.read_scores(tmp_path / name)["score"] for name in ("all", "few"))
    np.testing.assert_array_equal(part, whole[:count])


@pytest.mark.parametrize("limit", [1, 8 * 8 * 3 * 4 * 7])
def test_scores_do_not_depend_on_how_many_images_fit_into_memory(trained, tmp_path, monkeypatch, limit):
    model = bundle.load(trained / "dasvdd")
    path = write(tmp_path / "sky.npz", sky())
    scoring.score(model, [path], tmp_path / "whole")
    monkeypatch.setattr("astroad_jax.data.source.BYTES", limit)
    scoring.score(model, [path], tmp_path / "read")
    assert (tmp_path / "whole" / "sky.parquet").read_bytes() == (tmp_path / "read" / "sky.parquet").read_bytes()
    for name in ("AT_ONCE", "AT_ONCE_CPU"):
        monkeypatch.setattr(scoring, name, 8 * 8 * 3 * 4 * 20)
    sizes = [len(chunk.x) for chunk in scoring._chunks(model, data.open_source(path))]
    assert sizes == [16] * 5 + [10]
    scoring.score(model, [path], tmp_path / "parts")
    whole, parts = (catalog.read_scores(tmp_path / name) for name in ("whole", "parts"))
    for name, values in whole.items():
        np.testing.assert_array_equal(parts[name], values)


def test_held_out_images_are_evaluated(trained, tmp_path):
    model = bundle.load(trained / "dasvdd")
    scoring.score(model, [trained / "sky.npz"], tmp_path / "scores")
    measures = evaluation.evaluate(model, trained / "dasvdd", tmp_path / "scores").measures
    assert (measures["rows"], measures["null_scores"], measures["anomalies"]) == (ROWS, 0, 8)
    assert 0 <= measures["auroc"] <= 1


@pytest.mark.parametrize("shape", [(9, 8, 3), (8, 8, 1), (4, 4, 3)])
def test_images_of_another_shape_are_quarantined(trained, tmp_path, shape):
    model = bundle.load(trained / "autoencoder")
    other = write(tmp_path / "other.npz", {"object_id": np.arange(5), "image": np.zeros((5, *shape))})
    report = scoring.score(model, [other, trained / "sky.npz"], tmp_path / "scores")
    assert report.rows == ROWS
    assert "another shape" in report.quarantined["other"]


@pytest.mark.parametrize("overrides", [[], ["preprocess.scale=asinh", "preprocess.size=4"]])
def test_streamed_images_train_a_usable_model(tmp_path, overrides):
    columns = damaged(sky(200))
    path = write(tmp_path / "sky.npz", columns)
    chosen = settings("method.name=autoencoder", "data.stream=true", "data.shuffle_rows=60", *overrides)
    training.train(data.open_source(path), chosen, tmp_path / "run")
    model = bundle.load(tmp_path / "run")
    assert model.schema.raw_shape == (8, 8, 3)
    assert model.schema.shape == ((4, 4, 3) if overrides else (8, 8, 3))
    report = scoring.score(model, [path], tmp_path / "scores")
    assert (report.scored, report.null) == (196, 4)


def test_inspection_counts_bad_images(tmp_path, monkeypatch):
    path = write(tmp_path / "bad.npz", damaged(sky()))
    expected = inspection.inspect(data.open_source(path), config.Data())
    assert (expected["rows"], expected["complete_rows"], expected["empty_rows"]) == (ROWS, ROWS - 3, 1)
    (column,) = expected["columns"]
    assert (column["missing"], column["infinite"], column["highest"]) == (8 * 8 * 3 + 1, 1, 1e4)
    monkeypatch.setattr("astroad_jax.data.source.BYTES", 1)
    assert inspection.inspect(data.open_source(path), config.Data()) == expected


def test_a_directory_from_one_end_to_the_other(tmp_path, caplog):
    """Two classes of pictures of two sizes, one of them damaged; resized on reading in every verb."""
    files = {
        f"{kind}/{i}.png": encode(picture(i, 8 + 4 * (i % 2), 8 + 4 * (i % 2)), "png") for kind in "ab" for i in range(30)
    }
    folder = write_folder(tmp_path / "survey", {**files, "a/7.png": b"not a picture"})
    with caplog.at_level(logging.WARNING):
        tour = quickstart.quickstart(
            str(folder), tmp_path / "tour", [*TINY, "data.size=8", "data.anomalies=b", "method.pretrain_epochs=1"]
        )
    assert (tour.report.rows, tour.report.null) == (60, 1)
    assert "a/7.png" in caplog.text
    model = bundle.load(tour.run)
    assert model.settings.data.size == 8
    assert model.scaler.kind == "linear"
    again = scoring.score(model, [folder], tmp_path / "scores")
    assert (again.scored, again.skipped) == (59, 0)
    assert scoring.score(model, [folder], tmp_path / "scores").skipped == 1
    (folder / "b" / "3.png").write_bytes(encode(picture(5), "png"))
    assert scoring.score(model, [folder], tmp_path / "scores").skipped == 0
    table = catalog.read_scores(tmp_path / "scores")
    assert table["object_id"][7] == "a/15.png"
    assert table["object_id"][np.isnan(table["score"])].tolist() == ["a/7.png"]


def test_from_the_command_line(tmp_path):
    folder = write_folder(tmp_path / "survey", {f"{i}.jpg": encode(picture(i, 12, 12)) for i in range(40)})
    found = runs.astroad("inspect", folder, "--set", "data.size=8")
    assert found.code == 0
    assert "folder, 40 rows, 1 features" in found.out
    assert "size = 8" in found.out
    ended = runs.astroad(
        "train", *TINY, "method.name=autoencoder", "data.size=8", "--data", folder, "--out", tmp_path / "run"
    )
    assert ended.code == 0, ended
    ended = runs.astroad("score", tmp_path / "run", folder, "--out", tmp_path / "scores")
    assert ended.code == 0
    assert "rows 40  scored 40  null 0" in ended.out


def test_mostly_unusable_images_are_refused(tmp_path):
    columns = sky()
    columns["image"][10:] = 5
    with pytest.raises(DataError, match="most training rows are unusable"):
        training.train(data.memory("sky", columns), settings("method.name=autoencoder"), tmp_path / "run")


def test_another_search_on_what_was_learned(trained, tmp_path):
    """A run that begins at another's end has its networks, and the score that it is asked for."""
    source, scale = data.open_source(trained / "sky.npz"), "preprocess.scale=asinh"
    asked = settings("method.name=wgan_gp", scale, "method.iterations=9", "method.search=mu", "method.mu_width=4")
    training.train(source, asked, tmp_path / "anew")
    training.train(source, asked, tmp_path / "begun", origin=trained / "wgan_gp")
    assert runs.digest(tmp_path / "anew") == runs.digest(tmp_path / "begun") == runs.digest(trained / "wgan_gp")
    found = []
    for run in (tmp_path / "anew", tmp_path / "begun", trained / "wgan_gp"):
        assert runs.astroad("score", run, trained / "sky.npz", "--out", tmp_path / "scores" / run.name).code == 0
        found.append(catalog.read_scores(tmp_path / "scores" / run.name)["score"])
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_other_networks_do_not_begin_there(trained, tmp_path):
    source, changed = (
        data.open_source(trained / "sky.npz"),
        settings("method.name=wgan_gp", "preprocess.scale=asinh", "method.blur=true"),
    )
    with pytest.raises(MismatchError, match=r"method\.blur: was False, now True") as raised:
        training.train(source, changed, tmp_path / "begun", origin=trained / "wgan_gp")
    assert "method.n_critic" in str(raised.value)

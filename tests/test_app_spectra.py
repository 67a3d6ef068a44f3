"""The verbs on spectra: coadds and one-object files in, scores with redshifts and reasons out."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow.parquet as pq
import pytest

from astroad_jax import config
from astroad_jax.app import ranking, scoring
from astroad_jax.app.bundle import load, load_arrays
from astroad_jax.preprocess import spectra as grids
from tests import runs
from tests import spectra_files as made
from tests.runs import astroad
from tests.spectra_files import sky, take

TINY = [
    "spectra.bins=24", "method.name=autoencoder", "method.hidden=[8]", "method.latent=2", "method.norm=false",
    "data.calibration_fraction=0.2", "train.batch_size=16", "train.epochs=2", "train.log_every=2", "train.steps_per_call=4",
]  # fmt: skip
COUNT = 60


def survey(folder):
    """Two coadds and their redshifts: one object is noise, one far away, and three have no redshift."""
    folder.mkdir(exist_ok=True)
    objects = sky(COUNT)
    z = objects.z.copy()
    z[7] = 0.9
    for name, rows in (("a", np.arange(40)), ("b", np.arange(40, COUNT))):
        part = take(objects, rows)
        weight = np.where(rows == 5, 1e-4, 40.0).astype(np.float32)[:, None]
        ivar = {f"{arm}_IVAR": np.repeat(weight, size, axis=1) for arm, (_, size) in made.ARMS.items()}
        made.desi(folder, part, f"coadd-{name}.fits", **ivar)
        made.redrock(folder, take(objects._replace(z=z), rows[rows < COUNT - 3]), f"redrock-{name}.fits")
    return folder


def train(path, out, *settings):
    return astroad("train", "--data", path, "--out", out, *TINY, *settings)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A survey, a model of it, and what training said."""
    home = tmp_path_factory.mktemp("spectra")
    folder = survey(home / "sky")
    done = train(folder, home / "run")
    assert done.code == 0, done
    return home


def rows_of(path):
    return pq.read_table(path).to_pydict()


def test_inspect_says_grid_and_reasons(tmp_path):
    done = astroad("inspect", survey(tmp_path / "sky"), "--set", "spectra.bins=24", "--set", "spectra.z_max=0.28")
    assert done.code == 0
    assert "spectra: 24 bins from 3600 to 7556 Angstrom in the rest frame; z 0 to 0.28, S/N above 5" in done.out
    assert "1 median signal-to-noise" in done.out
    assert "3 no row" in done.out
    assert "label: spectype" in done.out
    assert "spectrum" in done.out
    written = tmp_path / "c.toml"
    written.write_text(done.out)
    suggested = config.load(written)
    assert (suggested.spectra.bins, suggested.spectra.z_max) == (24, 0.28)
    assert suggested.method == {"name": "vae", "likelihood": "ivar"}
    assert (suggested.data.validation_fraction, suggested.train.batch_size, suggested.train.epochs) == (0.25, 512, 50)


def test_training_leaves_flagged_objects_out(trained, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert train(trained / "sky", tmp_path / "run").code == 0
    assert f"5 of {COUNT} objects left out" in caplog.text
    for reason in ("1 redshift out of range", "1 median signal-to-noise", "3 no row"):
        assert reason in caplog.text
    parts = load_arrays(tmp_path / "run" / "split.npz")
    ids = np.concatenate([parts[name] for name in ("train", "calibration", "test")])
    out = [5, 7, *range(COUNT - 3, COUNT)]
    assert sorted(ids.tolist()) == sorted(np.delete(sky(COUNT).id, out).tolist())


def test_scores_carry_reasons_and_redshifts(trained, tmp_path):
    """The grid is the run's own: nobody asks for it again."""
    inputs = [trained / "sky" / f"coadd-{name}.fits" for name in "ab"]
    done = astroad("score", trained / "run", *inputs, "--out", tmp_path / "scores")
    assert done.code == 0
    assert f"rows {COUNT}  scored {COUNT - 5}  null 5  quarantined 0" in done.out
    for bit, count in ((grids.REDSHIFT_RANGE, 1), (grids.LOW_SNR, 1), (grids.NO_REDSHIFT_ROW, 3)):
        assert f"flag {bit:3d}  {count} rows: {grids.FLAG_NAMES[bit]}" in done.out
    a, b = (rows_of(tmp_path / "scores" / f"coadd-{name}.parquet") for name in "ab")
    assert a["object_id"] == sky(COUNT).id[:40].tolist()
    assert a["score"][7] is None
    assert a["flags"][7] & grids.REDSHIFT_RANGE
    assert a["score"][5] is None
    assert a["flags"][5] == grids.LOW_SNR
    assert [score is None for score in b["score"]] == [False] * 17 + [True] * 3
    np.testing.assert_allclose(b["z"][:17], sky(COUNT).z[40:57])
    assert min(snr for row, snr in enumerate(a["snr"]) if row != 5) > 5 > a["snr"][5]
    measured = astroad("evaluate", trained / "run", tmp_path / "scores")
    assert measured.code == 0
    assert " z " in measured.out


def test_an_object_scores_the_same_in_every_company(trained, tmp_path):
    pattern = str(trained / "sky" / "coadd-*.fits")
    scores = {}
    for name, given in (("pattern", pattern), ("folder", trained / "sky"), ("file", trained / "sky" / "coadd-b.fits")):
        assert astroad("score", trained / "run", given, "--out", tmp_path / name).code == 0
        paths = sorted((tmp_path / name).glob("*.parquet"))
        assert len(paths) == (1 if name == "file" else 2)  # a coadd is a partition
        scores[name] = {
            row: value for table in map(rows_of, paths) for row, value in zip(table["object_id"], table["score"])
        }
    assert scores["pattern"] == scores["folder"]
    assert scores["file"] == {id: scores["folder"][id] for id in sky(COUNT).id[40:].tolist()}


def test_new_redshifts_are_new_scores(trained, tmp_path):
    folder = survey(tmp_path / "sky")
    call = ("score", trained / "run", folder / "coadd-b.fits", "--out", tmp_path / "scores")
    assert "null 3" in astroad(*call).out
    assert "scored before" in astroad(*call).out
    (folder / "redrock-b.fits").unlink()
    made.redrock(folder, take(sky(COUNT), slice(40, COUNT)), "redrock-b.fits")
    again = astroad(*call)
    assert "null 0" in again.out
    assert "scored before" not in again.out


@pytest.mark.parametrize(
    ("setting", "null"),
    [
        ("spectra.snr_min=0", 1),
        ("spectra.snr_min=100", 40),
        ("spectra.z_max=0.19", 15),
        ("spectra.z_min=0.02", 2),
        ("spectra.coverage=0.5", 2),
        ("spectra.good=0.2", 2),
        ("spectra.air=true", 2),
        ("data.label=object_id", 2),
        ("data.ra=z", 2),
    ],
)
def test_other_settings_of_reading_are_new_scores(trained, tmp_path, setting, null):
    """They may change after training, are scored anew, and are those that `rank` must be told."""
    call = ("score", trained / "run", trained / "sky" / "coadd-a.fits", "--out", tmp_path / "scores")
    assert "null 2" in astroad(*call).out
    assert "scored before" in astroad(*call).out
    again = astroad(*call, "--set", setting)
    assert f"null {null} " in again.out
    assert "scored before" not in again.out
    assert "scored before" in astroad(*call, "--set", setting).out
    rank = ("rank", tmp_path / "scores", "--run", trained / "run", "--export", tmp_path / "ranking.csv")
    refused = astroad(*rank)
    assert refused.code == 2
    if null < 40:
        assert astroad(*rank, "--set", setting).code == 0
        assert len((tmp_path / "ranking.csv").read_text().splitlines()) == 41


@pytest.mark.parametrize("settings", [["spectra.snr_min=3", "spectra.z_max=1"], ["spectra.snr_min=3"], []])
def test_the_embedding_that_is_kept_is_of_these_settings(trained, tmp_path, settings):
    """Left by scores under other settings, it is made again."""
    folder, options = tmp_path / "scores", [word for setting in settings for word in ("--set", setting)]
    for more in (["--set", "spectra.snr_min=0"], options):
        call = ("score", trained / "run", trained / "sky" / "coadd-a.fits", "--out", folder, *more)
        assert astroad(*call).code == 0
        model = load(trained / "run", more[1::2])
        objects = ranking.open_objects(model, [folder])
        np.testing.assert_array_equal(np.isfinite(objects.features).all(axis=1), np.isfinite(objects.score))


def test_tables_of_features_are_scored_anew_by_other_columns_alone(tmp_path):
    table, call = runs.table(tmp_path / "sky.parquet"), ("score", tmp_path / "run", tmp_path / "sky.parquet")
    assert runs.train(table, tmp_path / "run", "method.name=autoencoder", "train.epochs=1").code == 0
    call = (*call, "--out", tmp_path / "scores")
    assert astroad(*call).code == 0
    for setting, anew in (("spectra.snr_min=1", False), ("score.batch_size=64", False), ("data.label=kind", True)):
        assert ("scored before" not in astroad(*call, "--set", setting).out) == anew
    assert set(rows_of(tmp_path / "scores" / "sky.parquet")["label"]) == set(runs.survey()["kind"].astype(str))


def test_a_coadd_without_redshifts_is_quarantined(trained, tmp_path):
    path = made.desi(tmp_path, sky())
    done = astroad("score", trained / "run", path, "--out", tmp_path / "scores")
    assert done.code == 3
    assert "no redshifts" in done.err
    (tmp_path / "z").mkdir()
    made.redrock(tmp_path / "z", sky())
    setting = config.setting("spectra.redshifts", str(tmp_path / "z"))
    assert astroad("score", trained / "run", path, "--out", tmp_path / "more", "--set", setting).code == 0
    other = astroad("score", trained / "run", path, "--out", tmp_path / "scores", "--set", "spectra.bins=30")
    assert other.code == 2
    assert "cannot change after training" in other.err


def test_duplicate_ids(trained, tmp_path):
    objects = take(sky(COUNT), [*range(30), 3])
    made.redrock(tmp_path, objects)
    path = made.desi(tmp_path, objects)
    refused = train(path, tmp_path / "run")
    assert refused.code == 2
    assert "not unique" in refused.err
    assert astroad("score", trained / "run", path, "--out", tmp_path / "scores").code == 0
    flags = rows_of(tmp_path / "scores" / "coadd-a.parquet")["flags"]
    assert [row for row, flag in enumerate(flags) if flag & scoring.DUPLICATE_ID] == [3, 30]


def test_nothing_left_to_train_on(trained, tmp_path):
    for stream in ("false", "true"):
        done = train(trained / "sky", tmp_path / "run", "spectra.z_min=1.5", "spectra.z_max=2", f"data.stream={stream}")
        assert done.code == 2
        assert "none of these objects can be used" in done.err
        assert "redshift out of range" in done.err


def test_streaming(trained, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        done = train(trained / "sky", tmp_path / "run", "data.stream=true", "data.shuffle_rows=32")
    assert done.code == 0, done
    assert f"5 of {COUNT} objects left out" in caplog.text
    done = astroad("score", tmp_path / "run", trained / "sky" / "coadd-a.fits", "--out", tmp_path / "scores")
    assert "null 2" in done.out


def test_a_directory_of_sdss_files(tmp_path):
    folder = tmp_path / "sdss"
    folder.mkdir()
    made.sdss(folder, sky(30))
    (folder / "spec-0266-51630-0009.fits").write_bytes(b"SIMPLE  = nothing of the kind")
    assert train(folder, tmp_path / "run").code == 0
    assert load(tmp_path / "run").settings.spectra.bins == 24
    done = astroad("score", tmp_path / "run", folder, "--out", tmp_path / "scores")
    assert "rows 30  scored 29  null 1" in done.out
    assert grids.FLAG_NAMES[grids.UNREADABLE] in done.out
    one = astroad("score", tmp_path / "run", folder / "spec-0266-51630-0002.fits", "--out", tmp_path / "one")
    assert "rows 1  scored 1" in one.out
    whole = rows_of(tmp_path / "scores" / "sdss.parquet")
    assert rows_of(tmp_path / "one" / "spec-0266-51630-0002.parquet")["score"][0] == whole["score"][1]

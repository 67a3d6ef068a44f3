"""The galaxy experiments run, keep their contract, and count what the papers count."""

from __future__ import annotations

import json

import numpy as np
import pytest

from astroad_jax.data import sky
from astroad_jax.errors import ConfigError, DataError
from experiments import common, galaxy_gans, gan, sim_vs_obs, wgan_mergers

KEYS = {"dataset", "case", "method", "metric", "mean", "std", "runs", "paper"}


def rows_of(out) -> list[dict]:
    rows = json.loads((out / "results.json").read_text())
    assert rows
    assert all(set(row) == KEYS for row in rows)
    return rows


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory):
    """Labelled round and lopsided blobs, and the first as an HDF5 of images and classes."""
    import h5py

    root = tmp_path_factory.mktemp("galaxies")
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(16.0)] * 2, indexing="ij"))
    light = np.exp(-((grid - 7.5) ** 2).sum(0) / (2 * rng.uniform(1.5, 3, (150, 1, 1)) ** 2))
    y = (np.arange(150) >= 110).astype(np.uint8)
    light[y == 1, 10:, 3:6] += 0.6
    x = np.clip(220 * light[..., None] * [1, 0.8, 0.6] + rng.normal(8, 3, (150, 16, 16, 3)), 0, 255).astype(np.uint8)
    np.savez(root / "blobs.npz", x=x, y=y)
    with h5py.File(root / "ten.h5", "w") as file:
        file["images"], file["ans"] = x, np.arange(150) % 10
    return root


@pytest.mark.slow
def test_mergers_run(tmp_path):
    settings = ["train_images=48", "batch_size=16", "test_images=12"]
    wgan_mergers.main(["--smoke", "--out", str(tmp_path), *settings])
    rows = rows_of(tmp_path)
    assert {row["case"] for row in rows} == set(wgan_mergers.PAPER)
    published = {(row["case"], row["metric"]): row["paper"] for row in rows}
    assert published["pre-mergers", "flagged at 90 %"] == 0.80
    assert published["isolated", "flagged at 95 %"] == 0.05
    pictures = {path.name for path in tmp_path.glob("*/*.png")}
    assert {"gallery.png", "scores_companion.png", "scores_subtle.png", "fractions.png", "training.png"} <= pictures
    before = (tmp_path / "runs.jsonl").read_bytes()
    (tmp_path / "runs.jsonl").unlink()  # as if it had been stopped between training and the end
    wgan_mergers.main(["--smoke", "--out", str(tmp_path), *settings])
    assert (tmp_path / "runs.jsonl").read_bytes() == before


def test_groups_are_those_of_the_papers_tables():
    test = {
        "kind": np.array(["isolated", "pair", "pair", "pair", "pair", "hidden_pair", "post_merger"]),
        "flux_ratio": np.array([np.nan, 1.2, 1.7, 5.0, 1.2, 3.0, 2.0]),
        "companion_visible": np.array([False, True, True, True, False, False, False]),
    }
    counts = {name: np.flatnonzero(mask).tolist() for name, mask in wgan_mergers.groups(test).items()}
    assert counts == {
        "isolated": [0],
        "pre-mergers": [1, 2, 3],
        "F < 1.5": [1],
        "1.5 < F < 2": [2],
        "F > 2": [3],
        "isolated pre-mergers": [5],
        "post-mergers": [6],
        "isolated pre-mergers + post-mergers": [5, 6],
    }


@pytest.mark.parametrize(("noise", "norm"), [(False, "flux"), (False, "peak"), (True, "none")])
def test_mock_images_are_scaled_by_what_is_asked(noise, norm):
    settings = wgan_mergers.Settings(size=32, train_images=40, test_images=4, noise=noise, norm=norm)
    train, test = wgan_mergers.survey(settings)
    assert train["stellar_mass"].max() <= 10.75 < test["stellar_mass"].max()
    assert (train["image"] < 0).any() == noise
    x, held = wgan_mergers.scaled(settings, [train["image"], test["image"]])
    assert x.min() == -1
    assert x.max() == 1
    if norm == "peak":
        np.testing.assert_array_equal(held.max(axis=(1, 2, 3)), np.ones(len(held)))  # each has its own
    if norm != "none":
        unit = np.sum if norm == "flux" else np.max
        images = np.stack([image / unit(image) for image in train["image"]])
        images = np.minimum(images / np.quantile([image.max() for image in images], 0.999), 1)
        low, high = np.arcsinh(images.min() / 0.003), np.arcsinh(1 / 0.003)
        np.testing.assert_allclose(x, 2 * (np.arcsinh(images / 0.003) - low) / (high - low) - 1, atol=1e-5)


def test_the_skys_noise_is_that_of_its_images():
    empty = sky.draw(sky.Sky(size=64, redshift=(2.9, 3.0), mass=(10.0, 10.1)), 20, "isolated", seed=0)["image"]
    edges = np.concatenate([empty[:, :8], empty[:, -8:]], axis=1)
    assert np.std(edges) == pytest.approx(wgan_mergers.sky_noise(), rel=0.1)


def test_shares_are_counted_above_the_training_scores_thresholds():
    calibration = np.arange(100.0)
    scores = np.array([10.0, 86.0, 92.0, 99.0])
    masks = {"isolated": np.array([1, 0, 0, 0], bool), "all others": np.array([0, 1, 1, 1], bool)}
    found = wgan_mergers.measured(scores, calibration, masks)
    assert found["all others"] == {
        "flagged at 85 %": 1.0,
        "flagged at 90 %": pytest.approx(2 / 3),
        "flagged at 95 %": pytest.approx(1 / 3),
        "auroc": 1.0,
        "objects": 3,
    }
    assert list(gan.thresholds(calibration)) == [85, 90, 95]


@pytest.mark.slow
def test_one_class_of_galaxies_normal(galaxies, tmp_path):
    methods = 'methods=["conv_autoencoder","conv_autoencoder/knn","pca64/isolation_forest"]'
    settings = ["dataset=blobs", methods, "size=8", "epochs=2", "batch_size=16"]
    galaxy_gans.main(["--data", str(galaxies), "--out", str(tmp_path), "--smoke", *settings])
    rows = {(row["method"], row["metric"]): row for row in rows_of(tmp_path)}
    labels = {label for label, _ in rows}
    assert {"conv_autoencoder", "conv_autoencoder: maximum", "conv_autoencoder/knn", "pca64/isolation_forest"} <= labels
    assert rows["pca64/isolation_forest", "prevalence"]["mean"] == pytest.approx(0.5)
    assert rows["pca64/isolation_forest", "auroc"]["mean"] > 0.7
    pictures = {path.name for path in tmp_path.glob("*/*/*.png")}
    assert pictures == {"roc.png", "scores.png", "gallery.png", "training.png"}


def test_galaxy10_has_the_three_cases_and_no_other_class(galaxies):
    settings = galaxy_gans.Settings(dataset="ten")
    data = common.dataset("ten", galaxies)
    assert data.x.shape == (150, 16, 16, 3)
    cases = galaxy_gans.cases(settings, data.y)
    assert {name: np.unique(data.y[normal]).tolist() for name, normal in cases.items()} == {
        "E": [2, 3],
        "S": [5, 6],
        "S0": [8, 9],
    }
    labels = data.x.copy()
    labels[:] = data.y[:, None, None, None]  # so that an image tells its class
    data = data._replace(x=labels)
    part = galaxy_gans.split(settings, data, cases["S"], seed=0)
    assert set(part.train[:, 0, 0, 0]) | set(part.held[:, 0, 0, 0]) == {5, 6}
    assert set(part.test[part.positive][:, 0, 0, 0]) <= {2, 3, 8, 9}
    assert part.positive.mean() == 0.5
    everything = galaxy_gans.split(settings.model_copy(update={"balance": False}), data, cases["S"], seed=0)
    assert everything.positive.sum() == 60


def test_a_data_set_that_comes_split_keeps_its_split():
    y = np.arange(60) % 2
    x = np.arange(60.0)[:, None, None, None]
    data = common.Dataset(x[:40], y[:40], x[40:], y[40:])
    part = galaxy_gans.split(galaxy_gans.Settings(), data, galaxy_gans.whole(data)[1] == 0, seed=0)
    assert sorted([*part.train.ravel(), *part.held.ravel()]) == list(range(0, 40, 2))
    assert sorted(part.test.ravel()) == list(range(40, 60))
    np.testing.assert_array_equal(part.positive, part.test.ravel() % 2 == 1)


def test_f1_at_a_threshold_and_at_its_best():
    scores, positive = np.array([0.1, 0.2, 0.8, 0.3, 0.9, 0.7]), np.array([0, 0, 0, 1, 1, 1], bool)
    found = galaxy_gans.judged(scores, held=np.linspace(0, 0.75, 76), positive=positive)
    assert found["f1 at 5 % false alarms"] == pytest.approx(2 * 1 / (2 * 1 + 1 + 2))
    assert found["f1 best"] == pytest.approx(6 / 7)
    assert galaxy_gans.best_f1(np.array([3.0, 1.0, 1.0]), np.array([0, 1, 1], bool)) == pytest.approx(0.8)
    assert found["prevalence"] == 0.5


def test_properties_of_simple_images():
    side = np.arange(33) - 16.0
    radius = np.hypot(*np.meshgrid(side, side))
    disc = np.where(radius <= 8, 100.0, 0.0)
    point = np.where(radius == 0, 100.0, 0.0)
    half = np.where(side[None] > 0, disc, 0)
    images = np.stack([disc, point, half])[..., None].repeat(3, -1)
    found = sim_vs_obs.properties(images)
    assert found["half-light radius (pixels)"][0] == pytest.approx(8 / 2**0.5, abs=0.5)
    assert found["half-light radius (pixels)"][1] < 0.5
    assert found["concentration"][0] == pytest.approx(5 * np.log10(2), abs=0.2)  # sqrt(0.8 / 0.2) in radius
    assert found["asymmetry"][0] == pytest.approx(0, abs=1e-6)
    assert found["asymmetry"][2] > 0.9


@pytest.mark.slow
def test_observed_galaxies_against_mocks(galaxies, tmp_path):
    settings = ["observed=blobs", "train_images=48", "batch_size=16", "test_images=20"]
    sim_vs_obs.main(["--smoke", "--data", str(galaxies), "--out", str(tmp_path), *settings])
    found = {row["metric"]: row["mean"] for row in rows_of(tmp_path)}
    assert {"observed beyond 90 %", "auroc of observed against mock", "Kolmogorov-Smirnov distance"} <= set(found)
    assert 0 < found["Kolmogorov-Smirnov distance"] <= 1
    pictures = {path.name for path in tmp_path.glob("*/*.png")}
    assert pictures == {"scores.png", "gallery.png", "fractions.png", "properties.png", "training.png"}


def test_images_of_a_data_set_without_labels(galaxies):
    assert common.images("ten", galaxies).shape == (150, 16, 16, 3)
    with pytest.raises(DataError, match="no such data set"):
        common.images("none", galaxies)


@pytest.mark.parametrize(
    ("setting", "named"),
    [('cases=["SO"]', "SO"), ('methods=["pca64"]', "pca64"), ('methods=["gan"]', "gan"), ('methods=["fanogan/nn"]', "nn")],
)
def test_settings_that_cannot_be_are_refused_first(galaxies, tmp_path, setting, named):
    with pytest.raises(ConfigError, match=named):
        galaxy_gans.main(["--data", str(galaxies), "--out", str(tmp_path), "dataset=blobs", setting])


def test_a_stretch_of_no_width_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="softening"):
        wgan_mergers.main(["--smoke", "--out", str(tmp_path), "softening=0"])


def test_another_setting_is_another_directory(tmp_path):
    base = wgan_mergers.Settings()
    keys = ("model", "epochs")
    places = {
        gan.place(tmp_path, "wgan_gp", base.model_copy(update=change), keys, seed)
        for change in ({}, {"epochs": 3}, {"jobs": 5})
        for seed in (0, 1)
    }
    assert len(places) == 4  # the number of processes changes no result

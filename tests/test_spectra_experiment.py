"""The DESI experiment runs, keeps its contract, goes on where it was, and counts what the paper counts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from astroad_jax.config import Spectra
from astroad_jax.errors import ConfigError, DataError
from experiments import desi_real, desi_vae
from experiments.desi_sky import Survey
from tests import spectra_templates
from tests.test_image_experiments import rows_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return spectra_templates.write(tmp_path_factory.mktemp("templates"))


@pytest.mark.slow
def test_the_experiment_runs_and_resumes(folder, tmp_path):
    command = ["--smoke", "--data", str(folder), "--out", str(tmp_path), "size=200", "bins=150", "epochs=1"]
    desi_vae.main(command)
    rows = {(row["case"], row["method"], row["metric"]): row for row in rows_of(tmp_path)}
    assert rows["validation", "vae", "weighted MSE, GALAXY"]["paper"] == 1.09
    assert rows["training", "lof", "1 % threshold"]["paper"] == 1.44
    assert rows["DESI raw", "vae", "spectra"]["mean"] == 2
    shares = [row["mean"] for (_, _, metric), row in rows.items() if metric == "share in the top 1 % and its own"]
    assert len(shares) == 5 * 6
    assert rows["bad sky", "planted", "objects"]["mean"] == 4
    assert all(0 <= share <= 1 for share in shares)
    pictures = {path.name for path in tmp_path.glob("vae_*/*.png")}
    numbers = ("2_3_elliptical", "4_5_emission_line", "9_weighted_mse", "11_lof", "13_corner", "20_dimensions")
    assert {f"figure_{number}.png" for number in numbers} | {"training.png", "learning.png"} <= pictures
    assert len(json.loads(next(tmp_path.glob("vae_*/table_1.json")).read_text())) == 3
    before = (tmp_path / "results.json").read_bytes()
    desi_vae.main(command)  # nothing is left to do
    assert (tmp_path / "results.json").read_bytes() == before


@pytest.mark.parametrize("change", ["alphas=[]", "alphas=[-1]", "labels_per_round=0", "labels=0"])
def test_settings_that_cannot_be_are_refused_before_any_training(change, tmp_path):
    with pytest.raises(ConfigError, match=change.split("=")[0]):
        desi_vae.main(["--smoke", "--out", str(tmp_path), change])


def scored(kinds: np.ndarray, score: np.ndarray) -> desi_vae.Scored:
    """As little of a scored survey as is counted."""
    count = len(kinds)
    none = np.zeros(count)
    spectype = np.where(np.arange(count) % 10 == 0, "STAR", "GALAXY")
    survey = Survey(np.arange(count), none, none, np.arange(count) + 5.0, spectype, kinds, none)
    train = np.arange(count) % 4 != 0
    return desi_vae.Scored(survey, train, none, none, none[:, None], {"weighted_mse": score}, 2 * score)


def test_a_kind_is_looked_for_in_the_top_percent_and_its_own_share():
    kinds = np.array([""] * 396 + ["bad sky"] * 4)
    score = np.arange(400.0)
    metric = "share in the top 1 % and its own"

    def found() -> dict[tuple[str, str], float]:
        measures = desi_vae.Measures()
        desi_vae.by_kind(measures, scored(kinds, score))
        return {(item["case"], item["metric"]): item["value"] for item in measures}

    score[:10] += 1e4
    kinds[4:10] = "broad lines"  # of other kinds there may be as many as there are: 1 % of 390 and 4 are the top 8
    assert found()["bad sky", metric] == 1.0
    kinds[4] = ""
    score[397] = -1
    assert found()["bad sky", metric] == 0.75
    assert found()["bad sky", f"{metric}, middle third"] == 0.0
    assert found()["bad sky", "median S/N"] == 402.5
    assert found()["bad sky", "objects"] == 4
    held = ("bad sky", f"{metric}, not trained on")  # of these, that of place 396
    assert found()[held] == 0.0  # two others of the 99 are stranger
    score[396] = 2e4
    assert found()[held] == 1.0
    galaxies = ("bad sky", f"{metric}, among galaxies")
    score[398:] = 350  # where many galaxies are
    assert found()[galaxies] == 0.25
    score[:396][np.arange(396) % 10 != 0] = 0  # but not one that is no star
    assert found()["bad sky", metric] < found()[galaxies] == 0.75


def test_errors_by_class_are_of_validation_rows_without_planted_ones():
    kinds = np.full(400, "", "U8")
    kinds[4] = "bad sky"  # a validation row
    score = np.where(np.arange(400) % 10 == 0, 3.0, 1.0)
    score[4] = 1e6
    measures = desi_vae.Measures()
    desi_vae.by_class(measures, scored(kinds, score))
    found = {(item["method"], item["metric"]): item["value"] for item in measures}
    assert found["vae", "weighted MSE, GALAXY"] == 1.0
    assert found["vae", "weighted MSE, STAR"] == 3.0
    assert found["pca", "weighted MSE, STAR"] == 6.0
    assert ("vae", "weighted MSE, QSO") not in found
    assert found["vae", "weighted MSE, all and planted"] > 1e3


def test_thresholds_are_of_training_rows():
    measures, kinds = desi_vae.Measures(), np.full(400, "", "U8")
    kinds[1:20] = "bad sky"
    score = np.where((np.arange(400) % 4 == 0) | (kinds != ""), 1e9, 1.0)
    limits = desi_vae.thresholds(measures, scored(kinds, score))
    assert limits == {"weighted_mse": 1.0}
    assert measures[0]["paper"] == 2.55


def test_a_survey_of_the_users_own(tmp_path):
    wave = np.linspace(3500, 10000, 900)
    rng = np.random.default_rng(0)
    flux = 3 + rng.normal(0, 0.1, (150, 900))
    z = np.where(np.arange(150) < 20, 0.9, 0.1)
    np.savez(tmp_path / "mine.npz", flux=flux, ivar=np.full(flux.shape, 100.0), wavelength=wave, z=z)
    found = desi_vae.find_survey(desi_vae.Settings(survey=str(tmp_path / "mine.npz")), None, Spectra(bins=100))
    assert found.x.shape == (150, 2, 100)
    assert len(desi_vae.usable(found).ids) == 130
    with pytest.raises(DataError, match="too few spectra"):
        desi_vae.usable(found.take(np.arange(100)))


def test_spectra_kept_as_arcsinh_without_noise_are_read(tmp_path):
    rng = np.random.default_rng(1)
    wave = np.linspace(3600, 9800, 1000)
    flux = (2 + np.cos(wave / 400)) + rng.normal(0, 0.05, (4, 1000))
    valid = np.ones(flux.shape, bool)
    valid[:, 300:330] = False
    np.savez(tmp_path / "desi_edr_sv3_100.npz", flux_arcsinh=np.arcsinh(flux), valid=valid, z=np.full(4, 0.1), wave=wave)
    (found,) = desi_real.everything(tmp_path, Spectra(bins=100)).values()
    assert (found.flags == 0).all()
    assert np.median(found.snr) == pytest.approx(40 * np.sqrt(39.56 * 1.1 / 6.2), rel=0.5)  # wider bins, less noise
    assert (found.x[:, 1] == 0).any(axis=1).all()


@pytest.mark.parametrize(
    ("setting", "named"), [('wanted=["dust"]', "dust"), ("train_share=1.5", "train_share"), ("planted=0.5", "planted")]
)
def test_settings_that_cannot_be_are_refused_first(tmp_path, setting, named):
    with pytest.raises(ConfigError, match=named):
        desi_vae.main(["--out", str(tmp_path), setting])


def test_without_data_it_says_what_to_give(tmp_path):
    with pytest.raises(DataError, match="--data DIR"):
        desi_vae.main(["--out", str(tmp_path), "--smoke"])

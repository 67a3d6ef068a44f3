"""The semi-real survey: repeatable, of the right mix and noise, its anomalies what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest

from astroad_jax.analysis import lines
from astroad_jax.config import Spectra
from astroad_jax.errors import DataError
from astroad_jax.preprocess.spectra import LOW_SNR, grid_centres
from experiments import desi_anomalies, desi_objects, desi_sky
from experiments.desi_objects import Exposure
from tests import spectra_templates

SPECTRA = Spectra(bins=500)
SETTINGS = desi_sky.Settings(size=160, planted=0.025, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return spectra_templates.write(tmp_path_factory.mktemp("templates"))


@pytest.fixture(scope="module")
def templates(folder):
    return desi_objects.load(folder)


@pytest.fixture(scope="module")
def survey(folder):
    return desi_sky.make(SETTINGS, folder, SPECTRA)


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_a_survey_is_a_function_of_its_settings(folder, survey):
    again = desi_sky.make(SETTINGS, folder, SPECTRA)
    for one, other in zip(survey, again):
        np.testing.assert_array_equal(one, other)
    other = desi_sky.make(SETTINGS.model_copy(update={"seed": 4}), folder, SPECTRA)
    assert not np.array_equal(survey.x, other.x)


def test_mix_ids_and_quality(survey):
    assert len(np.unique(survey.ids)) == 160
    assert survey.ids.min() > 2**53
    assert {name: int((survey.spectype == name).sum()) for name in ("QSO", "STAR")} == {"QSO": 1, "STAR": 2}
    assert {kind: int((survey.kind == kind).sum()) for kind in desi_anomalies.KINDS} == dict.fromkeys(
        desi_anomalies.KINDS, 4
    )
    assert set(survey.spectype[survey.kind != ""]) == {"GALAXY"}
    assert survey.x.shape == (160, 2, 500)
    assert np.isfinite(survey.x).all()
    assert (survey.x[:, 1] >= 0).all()
    assert np.isin(survey.flags, [0, LOW_SNR]).all()
    assert (survey.flags == 0).mean() > 0.9
    assert np.median(survey.snr) == pytest.approx(10, rel=0.3)
    assert ((survey.z >= 0) & (survey.z <= 0.3)).all()


def test_redshifts_follow_their_law():
    z = desi_sky.redshifts(rng(), 20_000)
    grid = np.linspace(0.01, 0.3, 300)
    law = grid**2 * np.exp(-((grid / 0.16) ** 1.5))
    assert z.mean() == pytest.approx((grid * law).sum() / law.sum(), abs=0.002)


def test_light_is_where_its_redshift_puts_it(templates):
    objects = desi_objects.galaxies(rng(), templates, 3)
    line = desi_objects.NAMES.index("Halpha")
    flux, only = np.ones_like(objects.flux), np.zeros_like(objects.lines)
    flux[:, 500] = 5.0  # one bin
    only[:, line] = 30.0
    z = np.array([0.0, 0.1, 0.3])
    plain = desi_sky.observed(templates.wave, objects._replace(flux=flux, lines=0 * only), z)
    light = desi_sky.observed(templates.wave, objects._replace(flux=flux, lines=only), z)
    peak = desi_sky.PIXELS[plain.argmax(1)]
    np.testing.assert_allclose(peak, templates.wave[500] * (1 + z), atol=0.5)
    np.testing.assert_allclose((light - plain).sum(1) * 0.8 / (1 + z), 30.0, rtol=1e-3)
    np.testing.assert_allclose(desi_sky.PIXELS[(light - plain).argmax(1)], 6564.61 * (1 + z), atol=0.5)


def test_noise_is_what_the_inverse_variance_says(folder):
    noise = desi_sky.noise_vectors(folder)
    assert noise.shape == (2, 7781)
    assert noise[0, 50] == 0  # masked in the file
    assert (noise[1, 100:110] == 0).all()
    light = np.full((40, 7781), 2.0, np.float32)
    ivar = desi_sky.scaled_noise(rng(), noise, light, np.full(40, 0.1), SPECTRA)
    per_bin = np.sqrt((SPECTRA.high - SPECTRA.low) / SPECTRA.bins * 1.1 / 0.8)
    seen = np.median(2 * np.sqrt(ivar) * per_bin, axis=1)
    assert ((seen > 4) & (seen < 120)).all()
    flux, weight = desi_sky.exposed(rng(), light, ivar)
    known = weight > 0
    pulls = ((flux - light) * np.sqrt(weight))[known]
    assert pulls.std() == pytest.approx(1, abs=0.01)
    assert (flux[~known] == 0).all()
    assert 0.001 < (~known).mean() < 0.02
    np.testing.assert_array_equal(weight[known], ivar[known])
    bright = np.where(np.arange(7781) < 100, 1000, light).astype(np.float32)
    dimmed = desi_sky.scaled_noise(rng(), noise, bright, np.full(40, 0.1), SPECTRA)[:, 60:99]
    assert (dimmed < 0.01 * ivar[:, 60:99]).all()  # the photons of what shines


def test_lines_vary_and_old_galaxies_have_none(templates):
    found = desi_objects.galaxies(rng(), templates, 400)
    halpha = found.lines[:, desi_objects.NAMES.index("Halpha")]
    assert 0.15 < (halpha == 0).mean() < 0.55
    ratio = found.lines[halpha > 0, desi_objects.NAMES.index("O3b")] / halpha[halpha > 0]
    assert np.log10(ratio).std() > 0.1
    assert (found.flux > 0).all()
    np.testing.assert_allclose(np.median(found.flux, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("draw", [desi_objects.quasars, desi_objects.stars])
def test_quasars_and_stars_are_upright(templates, draw):
    found = draw(rng(), templates, 60)
    assert np.isfinite(found.flux).all()
    assert (found.flux >= 0).all()
    np.testing.assert_allclose(np.median(found.flux, axis=1), 1, atol=0.2)


def seen(templates, count: int = 30) -> Exposure:
    z = desi_sky.redshifts(rng(), count)
    return Exposure(desi_objects.galaxies(rng(), templates, count), z, z)


def test_extreme_lines(templates):
    before = seen(templates)
    after = desi_anomalies.extreme_lines(rng(), templates, before)
    wide = after.objects.lines[:, desi_objects.NAMES.index("Halpha")]
    level = before.objects.flux[:, np.argmin(np.abs(templates.wave - 6564.61))]
    low, high = desi_anomalies.EXTREME
    assert ((wide / level >= low) & (wide / level <= high)).all()
    np.testing.assert_array_equal(after.objects.flux, before.objects.flux)


def test_broad_lines(templates):
    before = seen(templates)
    after = desi_anomalies.broad_lines(rng(), templates, before)
    gain = lines.wings(templates.wave, after.objects.flux) - lines.wings(templates.wave, before.objects.flux)
    assert np.median(gain) > 20
    far = np.abs(templates.wave - 5700) < 50
    np.testing.assert_allclose(after.objects.flux[:, far], before.objects.flux[:, far], rtol=0.02)


def test_wrong_redshifts(templates):
    before = seen(templates, 300)
    after = desi_anomalies.wrong_redshift(rng(), templates, before)
    by = np.abs(after.z - after.z_true)
    assert ((by >= desi_anomalies.WRONG_BY[0]) & (by <= desi_anomalies.WRONG_BY[1])).all()
    assert ((after.z >= 0.01) & (after.z <= 0.3)).all()
    assert set(after.objects.spectype) == {"GALAXY"}
    assert (after.objects.subtype != "").mean() == pytest.approx(desi_anomalies.WRONG_STARS, abs=0.1)


def test_a_camera_step_is_one_factor_in_one_arm():
    flux, ivar = np.full((20, 7781), 3.0, np.float32), np.full((20, 7781), 4.0, np.float32)
    after, weight = desi_anomalies.camera_step(rng(), desi_sky.PIXELS, flux, ivar)
    ratio = after / flux
    assert (ratio[:, (desi_sky.PIXELS > 5800) & (desi_sky.PIXELS < 7550)] == 1).all()
    assert all(len(np.unique(row)) == 2 for row in ratio)
    np.testing.assert_allclose(after * np.sqrt(weight), flux * np.sqrt(ivar), rtol=1e-5)


def test_bad_sky_is_not_flagged(folder):
    ivar = np.repeat(desi_sky.noise_vectors(folder), 10, axis=0)
    flux = np.where(ivar > 0, 1, 0).astype(np.float32)
    after, weight = desi_anomalies.bad_sky(rng(), desi_sky.PIXELS, flux, ivar)
    np.testing.assert_array_equal(weight, ivar)
    np.testing.assert_array_equal(after[ivar == 0], flux[ivar == 0])
    strongest = np.abs(after - flux)[:, 5000::200].max(1)
    assert (strongest > 0.5 * desi_anomalies.SKY[0]).all()
    assert (strongest < desi_anomalies.SKY[1] + desi_anomalies.DIP_DEPTH[1]).all()
    assert len(np.unique(strongest)) == len(strongest)


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(DataError, match="no templates"):
        desi_objects.load(tmp_path)
    with pytest.raises(DataError, match="no templates"):
        desi_objects.load(None)
    with pytest.raises(DataError, match="no noise"):
        desi_sky.noise_vectors(tmp_path)
    np.savez(tmp_path / "desi_edr_raw_3.npz", wavelength=np.ones((1, 5)), ivar=np.ones((1, 5)), mask=np.zeros((1, 5), bool))
    with pytest.raises(DataError, match="DESI's pixels"):
        desi_sky.noise_vectors(tmp_path)
    for name in (desi_objects.GALAXIES, desi_objects.OTHERS):
        (tmp_path / f"{name}.npz").write_bytes((folder / f"{name}.npz").read_bytes())
    np.savez(tmp_path / f"{desi_objects.OTHERS}.npz", wave=np.ones(3))
    with pytest.raises(DataError, match="templates are missing"):
        desi_objects.load(tmp_path)


def test_grid_is_the_packages(survey):
    assert survey.x.shape[2] == len(grid_centres(SPECTRA))

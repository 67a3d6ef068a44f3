"""Spectra to the common grid: a dense overlap matrix, SpectRes, closed forms, and everything wrong with a spectrum."""

from __future__ import annotations

import re

import numpy as np
import pytest

from astroad_jax import config, preprocess
from astroad_jax.config import Spectra
from astroad_jax.errors import ConfigError, DataError
from astroad_jax.preprocess import resample_flux, spectra, wavelengths
from astroad_jax.preprocess.spectra import ALL_BAD, LOW_SNR, MOSTLY_BAD, NO_REDSHIFT, NOT_COVERED, REDSHIFT_RANGE
from tests.conftest import ROOT

NAN, INF = np.nan, np.inf
WAVE = np.linspace(3600, 9824, 1600)
SMALL = Spectra(bins=150)
# input wavelengths, output edges: finer, coarser, shifted, logarithmic, alike, pixels wider than bins, bins that stick out
GRIDS = {
    "coarser": (np.arange(100.0, 200), np.linspace(103.3, 197.1, 14)),
    "finer": (np.arange(100.0, 140), np.linspace(101.7, 138.2, 200)),
    "same": (np.arange(100.0, 140), np.arange(99.5, 140)),
    "halves": (np.arange(100.0, 140), np.arange(100.0, 139, 0.5)),
    "logarithmic": (np.geomspace(100, 300, 77), np.linspace(105, 290, 31)),
    "uneven": (np.cumsum(np.random.default_rng(0).uniform(0.5, 1.5, 80)), np.linspace(5, 60, 23)),
    "sticking out": (np.arange(100.0, 140), np.linspace(90, 150, 25)),
    "one bin": (np.arange(100.0, 140), np.array([100.2, 133.3])),
}


def overlaps(edges: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """(bins, pixels) widths over which they overlap: the plain definition."""
    low = np.maximum(grid[:-1, None], edges[None, :-1])
    high = np.minimum(grid[1:, None], edges[None, 1:])
    return np.maximum(high - low, 0)


def sample(count: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(5, 2, (count, width)).astype(np.float32), rng.uniform(0.5, 2, (count, width)).astype(np.float32)


# Resampling


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("name", GRIDS)
def test_resampling_is_the_dense_overlap_matrix(name: str, own: bool):
    wave, grid = GRIDS[name]
    flux, ivar = sample(3, len(wave))
    stretch = np.array([1.0, 1.01, 1.07])[:, None] if own else np.ones((3, 1))
    edges = wavelengths.pixels(wave * stretch if own else wave).edges
    grids = grid * np.array([1.0, 1.003, 0.99])[:, None]
    found = resample_flux.resample(flux, ivar, edges, grids)
    for i in range(3):
        w = overlaps(edges[i] if own else edges, grids[i])
        covered = w.sum(1)
        np.testing.assert_allclose(found.covered[i], covered, atol=1e-9)
        fed = covered > 1e-9
        np.testing.assert_allclose(found.flux[i][fed], (w @ flux[i])[fed] / covered[fed], rtol=1e-9)
        variance = (w**2 @ (1 / ivar[i].astype(float)))[fed] / covered[fed] ** 2
        share = covered[fed] / np.diff(grids[i])[fed]
        np.testing.assert_allclose(found.ivar[i][fed], share / variance, rtol=1e-8)
        assert not found.ivar[i][~fed].any()


@pytest.mark.parametrize("name", GRIDS)
def test_integrated_flux_is_conserved(name: str):
    wave, grid = GRIDS[name]
    flux, ivar = sample(4, len(wave), seed=1)
    place = wavelengths.pixels(wave)
    found = resample_flux.resample(flux, ivar, place.edges, grid)
    before = overlaps(place.edges, grid[[0, -1]])[0] @ flux.T.astype(float)
    np.testing.assert_allclose((found.flux * found.covered).sum(1), before, rtol=1e-12)


def test_integrated_flux_is_conserved_to_the_rest_frame():
    """To a part in a million, on whole spectra as they come: float32, and each with a redshift of its own."""
    flux, ivar = sample(20, 7781, seed=2)
    wave, z = 3600 + 0.8 * np.arange(7781), np.random.default_rng(0).uniform(0, 0.3, 20)
    found = spectra.to_grid(wave, flux, ivar, z, Spectra())
    place = wavelengths.pixels(wave)
    for i in range(20):
        before = overlaps(place.edges, np.array([3600, 7556]) * (1 + z[i]))[0] @ flux[i].astype(float)
        assert (found.flux[i].astype(float) * 3.956).sum() == pytest.approx(before, rel=1e-6)


def test_a_bad_pixel_has_no_part_in_the_ivar():
    wave, grid = np.arange(100.0, 130), np.linspace(100.3, 128.7, 8)
    flux, ivar = sample(40, 30, seed=3)
    ivar[np.random.default_rng(1).random(ivar.shape) < 0.3] = 0
    edges = wavelengths.pixels(wave).edges
    found = resample_flux.resample(flux, ivar, edges, grid)
    w = overlaps(edges, grid)
    good = ivar > 0
    seen = good @ w.T
    variance = np.where(good, 1 / np.where(good, ivar, 1).astype(float), 0) @ (w**2).T / np.where(seen > 0, seen, 1) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.where(seen > 1e-6, seen / np.diff(grid) / variance, 0)
    np.testing.assert_allclose(found.ivar, expected, rtol=1e-6, atol=1e-12)
    assert (seen == 0).any()
    np.testing.assert_array_equal(found.ivar > 0, seen > 1e-6)
    clean = resample_flux.resample(flux, np.ones_like(ivar), edges, grid)
    np.testing.assert_array_equal(found.flux, clean.flux)


@pytest.mark.parametrize(("share", "expected"), [(4, 4.0), (3, 2.25), (2, 1.0), (1, 0.25), (0, 0.0)])
def test_ivar_of_a_bin_of_four_pixels(share: int, expected: float):
    """All good: their number. A part good: that of the part's mean, times the part."""
    ivar = np.zeros((1, 8))
    ivar[0, 4 : 4 + share] = 1
    found = resample_flux.resample(np.ones((1, 8)), ivar, np.arange(9.0), np.array([0.0, 4, 8]))
    assert found.ivar[0, 1] == pytest.approx(expected)


def test_resampling_is_that_of_spectres():
    spectres = pytest.importorskip("spectres")
    flux, ivar = sample(3, 1600, seed=4)
    z = np.array([0.0, 0.11, 0.29])
    found = spectra.to_grid(WAVE, flux, ivar, z, SMALL)
    for i in range(3):
        rest = spectra.rest_frame(WAVE[None], flux[i : i + 1].astype(float), ivar[i : i + 1].astype(float), z[i : i + 1])
        wave, f, w = (values[0] for values in rest)
        mean, error = spectres.spectres(spectra.grid_centres(SMALL), wave, f, spec_errs=1 / np.sqrt(w), verbose=False)
        np.testing.assert_allclose(found.flux[i], mean, rtol=2e-6)
        np.testing.assert_allclose(found.ivar[i], 1 / error**2, rtol=2e-6)


def test_huge_variances_stay_where_they_are():
    """A pixel of almost no weight must not take away the precision of the bins after it."""
    flux, ivar = sample(1, 40)
    grid = np.linspace(100.3, 138.7, 11)
    edges = wavelengths.pixels(np.arange(100.0, 140)).edges
    before = resample_flux.resample(flux, ivar, edges, grid)
    flux[0, 2], ivar[0, 2] = 1e20, 1e-30
    after = resample_flux.resample(flux, ivar, edges, grid)
    np.testing.assert_array_equal(after.ivar[0, 1:], before.ivar[0, 1:])
    np.testing.assert_array_equal(after.flux[0, 1:], before.flux[0, 1:])
    assert 0 < after.ivar[0, 0] < 1e-20


# Wavelengths


@pytest.mark.parametrize(
    ("air", "vacuum"),
    [(3727.092, 3728.15), (4861.325, 4862.683), (5006.843, 5008.24), (5889.95, 5891.583), (6562.801, 6564.614)],
)
def test_lines_in_air_and_vacuum(air: float, vacuum: float):
    """[O II], H beta, [O III], Na D and H alpha, as the SDSS and NIST list them."""
    assert wavelengths.air_to_vacuum(air) == pytest.approx(vacuum, abs=0.006)
    assert wavelengths.air_to_vacuum(5006.843) == pytest.approx(5008.240, abs=0.001)


def test_air_is_that_of_the_iau_and_is_undone():
    vacuum = np.linspace(2010, 11000, 200)
    morton = vacuum / (1.0 + 2.735182e-4 + 131.4182 / vacuum**2 + 2.76249e8 / vacuum**4)
    air = wavelengths.vacuum_to_air(vacuum)
    np.testing.assert_allclose(air, morton, rtol=8e-7)
    np.testing.assert_allclose(wavelengths.air_to_vacuum(air), vacuum, rtol=1e-14)
    for convert in (wavelengths.air_to_vacuum, wavelengths.vacuum_to_air):
        np.testing.assert_array_equal(convert(np.array([500.0, 1900.0, NAN])), [500.0, 1900.0, NAN])


def test_air_moves_the_lines():
    wave = np.linspace(3500, 9900, 6401)
    vacuum = 6564.6 * 1.1
    flux = (1 + 50 * np.exp(-0.5 * ((wave - wavelengths.vacuum_to_air(vacuum)) / 3) ** 2)).astype(np.float32)[None]
    centres = spectra.grid_centres(Spectra())
    peak = {}
    for air in (True, False):
        found = spectra.to_grid(wave, flux, np.ones_like(flux), np.array([0.1]), Spectra(air=air, snr_min=0))
        line = np.maximum(found.flux[0] - 1.2, 0)
        peak[air] = (line * centres).sum() / line.sum()
    assert peak[True] == pytest.approx(6564.6, abs=0.1)
    assert peak[True] - peak[False] == pytest.approx(1.82, abs=0.1)


@pytest.mark.parametrize(
    ("wave", "words"),
    [
        ([1.0, 3, 2, 4], "must increase"),
        ([4.0, 3, 2, 1], "must increase"),
        ([1.0, 2, 2, 3], "two pixels have the same(.|\n)*keep one"),
        ([0.0, 1, 2, 3], "must be positive"),
        ([1.0, NAN, 2, 3], "missing at the end"),
        ([1.0, NAN, NAN, NAN], "at least two"),
        ([NAN, NAN, NAN, NAN], "at least two"),
    ],
)
def test_wavelengths_that_are_none(wave: list, words: str):
    one = np.ones((2, 4))
    for given in (np.array(wave), np.array([[1.0, 2, 3, 4], wave])):
        with pytest.raises(DataError, match=words) as error:
            spectra.to_grid(given, one, one, np.zeros(2), Spectra(low=1, high=3), "a.npz")
        assert ("spectrum 1 of 2" in str(error.value)) == (given.ndim == 2)
        assert "a.npz" in str(error.value)


def lacking(*pixels: int) -> np.ndarray:
    """Wavelengths of DESI's kind without some pixels."""
    return np.delete(3600 + 0.8 * np.arange(400), pixels)


# wavelengths -> pixels that lie beside a hole
STEPS = {
    "even": (lacking(), []),
    "rounded": (lacking().astype(np.float32), []),
    "logarithmic, over a factor of 250": (np.geomspace(1000, 250_000, 300), []),
    "coarser from one pixel on": (np.append(lacking(), lacking()[-1] + 3.2 * np.arange(1, 200)), []),
    "finer from one pixel on": (np.append(3.2 * np.arange(1, 200), 640 + 0.8 * np.arange(200)), []),
    "one lacking": (lacking(100), [99, 100]),
    "six lacking": (lacking(*range(100, 106)), [99, 100]),
    "two holes": (lacking(100, 101, 300), [99, 100, 297, 298]),
    "one left between two holes": (lacking(100, 101, 103, 104), [99, 100, 101]),
    "the second": (lacking(1), [0, 1]),
    "the last but one": (lacking(398), [397, 398]),
    "two pixels": (np.array([3600.0, 3700]), []),
    "three pixels": (np.array([3600.0, 3601, 3700]), [1, 2]),
}


@pytest.mark.parametrize("case", STEPS)
def test_holes_are_found_by_the_steps_around_them(case: str):
    wave, beside = STEPS[case]
    assert np.flatnonzero(wavelengths.pixels(wave).gap).tolist() == beside
    padded = np.stack([np.append(wave, [NAN] * 9), np.append(wave * 1.1, [NAN] * 9)])
    for gap in wavelengths.pixels(padded).gap:
        assert np.flatnonzero(gap[: len(wave)]).tolist() == beside
        assert gap[len(wave) :].all()


@pytest.mark.parametrize("shapes", [((4,), (2, 5), (2, 5), (2,)), ((4,), (2, 4), (4,), (2,)), ((4,), (2, 4), (2, 4), (3,))])
def test_shapes_that_do_not_go_together(shapes: tuple):
    wave, flux, ivar, z = (np.ones(shape) for shape in shapes)
    with pytest.raises(DataError, match="do not go together"):
        spectra.to_grid(np.cumsum(wave, -1), flux, ivar, z, SMALL)


# Steps


def test_rest_frame_keeps_flux_and_signal_to_noise():
    flux, ivar = sample(2, 1600)
    z = np.array([0.0, 0.25])
    wave, moved, weight = spectra.rest_frame(WAVE[None], flux, ivar, z)
    np.testing.assert_allclose(wave[1], WAVE / 1.25)
    np.testing.assert_allclose(np.trapezoid(moved, wave), np.trapezoid(flux, WAVE), rtol=1e-6)
    np.testing.assert_allclose(moved * np.sqrt(weight), flux * np.sqrt(ivar), rtol=1e-6)
    np.testing.assert_array_equal(moved[0], flux[0])


def test_bad_pixels():
    flux = np.array([[1, 0, NAN, INF, 2, 2, 2, 2, 2, -3]])
    ivar = np.array([[1, 1, 1, 1, 0, -1, NAN, INF, 1, 1]])
    mask = np.array([[0, 0, 0, 0, 0, 0, 0, 0, 4, 0]])
    assert spectra.bad_pixels(flux, ivar, mask)[0].tolist() == [False] + [True] * 8 + [False]
    assert spectra.bad_pixels(flux, ivar)[0].tolist() == [False] + [True] * 7 + [False] * 2


@pytest.mark.parametrize("own", [False, True])
def test_interpolation_is_numpys(own: bool):
    rng = np.random.default_rng(0)
    wave = np.cumsum(rng.uniform(0.5, 1.5, (6, 40)), axis=1) if own else np.cumsum(rng.uniform(0.5, 1.5, 40))
    flux, bad = rng.normal(size=(6, 40)), rng.random((6, 40)) < 0.4
    bad[0], bad[1], bad[2, :20], bad[3, 20:] = False, True, True, True
    flux[bad] = NAN
    found = spectra.interpolate(wave, flux, bad)
    assert not found[1].any()
    for i in (0, 2, 3, 4, 5):
        own_wave = wave[i] if own else wave
        expected = np.interp(own_wave, own_wave[~bad[i]], flux[i][~bad[i]])
        np.testing.assert_allclose(found[i], expected, rtol=1e-12)


@pytest.mark.parametrize("kind", [np.int16, np.int64, np.uint8, np.float16])
def test_interpolation_of_integers_is_not_one(kind: type):
    flux, bad = np.array([[1, 9, 9, 2]], kind), np.array([[False, True, True, False]])
    np.testing.assert_allclose(spectra.interpolate(np.arange(4.0), flux, bad), [[1, 4 / 3, 5 / 3, 2]], rtol=1e-6)


def test_median_signal_to_noise():
    flux = np.array([[1, 2, 3, 4, 9], [1, -2, 3, 0, 0], [1, 1, 1, 1, 1]], float)
    ivar = np.array([[1, 1, 1, 1, 0], [4, 4, 4, 0, 0], [0, 0, 0, 0, 0]], float)
    np.testing.assert_array_equal(spectra.median_snr(flux, ivar), np.array([2.5, 2, NAN], np.float32))


@pytest.mark.parametrize("scale", [1e-17, 1, 1e15])
def test_unit_norm_takes_the_ivar_along(scale: float):
    flux, ivar = sample(3, 50)
    flux, ivar = flux * np.float32(scale), ivar / np.float32(scale) ** 2
    unit, weight, norm = spectra.unit_norm(flux, ivar)
    np.testing.assert_allclose(np.linalg.norm(unit.astype(float), axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(unit * np.sqrt(weight.astype(float)), flux * np.sqrt(ivar.astype(float)), rtol=1e-5)
    np.testing.assert_allclose(norm[:, 0], np.linalg.norm(flux.astype(float), axis=1), rtol=1e-6)
    nothing = spectra.unit_norm(np.zeros((1, 5)), np.ones((1, 5)))
    assert nothing[2] == 0
    assert not nothing[0].any()


# The whole step


@pytest.mark.parametrize("own", [False, True])
def test_independent_of_the_batch(own: bool):
    """Bit for bit: alone, in any batch, in any order; and a shared grid is as good as one's own."""
    flux, ivar = sample(60, 1600, seed=5)
    rng = np.random.default_rng(6)
    ivar[rng.random(ivar.shape) < 0.05], flux[3] = 0, NAN
    z = rng.uniform(0, 0.3, 60)
    z[7] = NAN
    wave = np.tile(WAVE, (60, 1)) if own else WAVE
    whole = spectra.to_grid(wave, flux, ivar, z, SMALL)
    shared = spectra.to_grid(WAVE, flux, ivar, z, SMALL)
    turned = spectra.to_grid(wave[::-1] if own else wave, flux[::-1], ivar[::-1], z[::-1], SMALL)
    for rows in ([0], [3], [7], [59], [2, 50, 11]):
        part = spectra.to_grid(wave[rows] if own else wave, flux[rows], ivar[rows], z[rows], SMALL)
        for mine, theirs, same, back in zip(part, whole, shared, turned):
            np.testing.assert_array_equal(mine, theirs[rows])
            np.testing.assert_array_equal(mine, same[rows])
            np.testing.assert_array_equal(mine, back[::-1][rows])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    flux, ivar = sample(9, 1600, seed=7)
    z = np.linspace(0, 0.3, 9)
    whole = spectra.to_grid(WAVE, flux, ivar, z, SMALL)
    monkeypatch.setattr(spectra, "BLOCK", 3200)
    for mine, theirs in zip(spectra.to_grid(WAVE, flux, ivar, z, SMALL), whole):
        np.testing.assert_array_equal(mine, theirs)


def test_bad_pixels_weigh_nothing_and_are_interpolated():
    flux, ivar = np.tile(np.linspace(1, 3, 1600, dtype=np.float32), (2, 1)), np.full((2, 1600), 100, np.float32)
    flux[0, 300:330], flux[0, 400] = NAN, 0
    ivar[0, 500:520] = 0
    flux[0, 500:520] = 1e6  # a cosmic ray that the mask has found
    found = spectra.to_grid(WAVE, flux, ivar, np.zeros(2), SMALL)
    np.testing.assert_allclose(found.flux[0], found.flux[1], rtol=1e-6)
    bad = np.zeros(1600, bool)
    bad[300:330] = bad[400] = bad[500:520] = True
    share = overlaps(wavelengths.pixels(WAVE).edges, spectra.grid_edges(SMALL)) @ bad / np.diff(spectra.grid_edges(SMALL))
    np.testing.assert_array_equal(found.ivar[0] == 0, share > 1 - 1e-9)
    np.testing.assert_array_equal(found.ivar[0] < found.ivar[1], share > 0)
    assert (found.ivar[0] == 0).any()
    assert not found.flags.any()


def test_shorter_spectra_are_padded():
    """What lies behind a spectrum's last wavelength is not looked at."""
    flux, ivar = sample(2, 1600, seed=8)
    short = WAVE[:1300]
    wave = np.stack([WAVE, np.append(short, np.full(300, NAN))])
    flux[1, 1300:], ivar[1, 1300:] = 1e9, 5
    z = np.array([0.1, 0.1])
    both = spectra.to_grid(wave, flux, ivar, z, SMALL)
    alone = spectra.to_grid(short, flux[1:, :1300], ivar[1:, :1300], z[1:], SMALL)
    for mine, theirs in zip(both, alone):
        np.testing.assert_allclose(mine[1:], theirs, rtol=1e-12)


@pytest.mark.parametrize("keep", [slice(0, 1000), slice(300, 1600)])
def test_wavelengths_that_do_not_reach(keep: slice):
    flux, ivar = sample(1, 1600, seed=9)
    part = (WAVE[keep], flux[:, keep], ivar[:, keep], np.array([0.05]))
    found, whole = spectra.to_grid(*part, SMALL), spectra.to_grid(WAVE, flux, ivar, part[3], SMALL)
    assert found.flags.tolist() == [NOT_COVERED]
    fed = found.ivar[0] > 0
    assert 0 < fed.sum() < 150
    inner = fed & (np.roll(fed, 1) & np.roll(fed, -1))
    np.testing.assert_allclose(found.flux[0][inner], whole.flux[0][inner], rtol=1e-6)
    ends = np.flatnonzero(fed)[[0, -1]]
    assert set(found.flux[0][~fed]) <= set(found.flux[0][ends])
    lenient = SMALL.model_copy(update={"coverage": 0.5})
    assert spectra.to_grid(*part, lenient).flags.tolist() == [0]


def test_a_hole_in_the_wavelengths_is_no_pixel():
    flux, ivar = sample(2, 1600, seed=10)
    keep = np.ones(1600, bool)
    keep[200:300] = False
    z = np.array([0.0, 0.1])
    for own in (False, True):
        wave = np.tile(WAVE[keep], (2, 1)) if own else WAVE[keep]
        found = spectra.to_grid(wave, flux[:, keep], ivar[:, keep], z, SMALL)
        assert found.flags.tolist() == [NOT_COVERED] * 2
        assert (found.ivar == 0).sum(1).min() >= 12
        hole = (spectra.grid_centres(SMALL) > WAVE[202]) & (spectra.grid_centres(SMALL) < WAVE[297])
        assert not found.ivar[0, hole].any()
        assert (
            spectra.to_grid(wave, flux[:, keep], ivar[:, keep], z, Spectra(bins=150, coverage=0.8)).flags.tolist() == [0] * 2
        )


@pytest.mark.parametrize(
    ("z", "flag"),
    [
        (0.0, 0),
        (0.3, 0),
        (NAN, NO_REDSHIFT),
        (INF, NO_REDSHIFT),
        (-INF, NO_REDSHIFT),
        (-0.001, REDSHIFT_RANGE),
        (-1.0, REDSHIFT_RANGE),
        (-7.0, REDSHIFT_RANGE),
        (0.31, REDSHIFT_RANGE),
        (7e5, REDSHIFT_RANGE | NOT_COVERED | ALL_BAD),
        (1e7, REDSHIFT_RANGE),
        (1e30, REDSHIFT_RANGE),
        (1e300, REDSHIFT_RANGE),
    ],
)
def test_redshifts(z: float, flag: int):
    flux, ivar = sample(1, 1700)
    found = spectra.to_grid(np.linspace(3500, 10000, 1700), flux, ivar, np.array([z]), Spectra(bins=50))
    assert found.flags.tolist() == [flag]
    assert np.isfinite(found.flux).all()
    assert np.isfinite(found.ivar).all()
    lost = not np.isfinite(z) or z <= -1 or z > 1e6 or bool(flag & ALL_BAD)
    assert (not found.ivar.any()) == lost
    assert np.isnan(found.snr[0]) == lost
    seen = spectra.to_grid(np.linspace(3500, 10000, 1700), flux, ivar, np.array([z]), Spectra(bins=50, frame="observed"))
    assert seen.flags.tolist() == [0]


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"ivar": 0}, ALL_BAD),
        ({"ivar": NAN}, ALL_BAD),
        ({"ivar": -1}, ALL_BAD),
        ({"flux": NAN}, ALL_BAD),
        ({"flux": 0}, ALL_BAD),
        ({"flux": INF}, ALL_BAD),
        ({"ivar": 1e-4}, LOW_SNR),
        ({"flux": -5}, LOW_SNR),
        ({"flux": 5}, 0),
    ],
)
def test_spectra_that_are_not_fit(change: dict, flag: int):
    flux, ivar = sample(3, 1600)
    flux[1] = change.get("flux", flux[1])
    ivar[1] = change.get("ivar", ivar[1])
    found = spectra.to_grid(WAVE, flux, ivar, np.full(3, 0.1), SMALL)
    assert found.flags.tolist() == [0, flag, 0]
    assert found.flags.dtype == np.uint32
    assert np.isfinite(found.flux).all()
    assert np.isfinite(found.ivar).all()
    assert (found.ivar[1] > 0).any() == (flag != ALL_BAD)


def test_the_cut_on_signal_to_noise():
    flux, ivar = np.full((3, 1600), 10, np.float32), np.full((3, 1600), 1e-3, np.float32)
    ivar[2] = 0
    snr = spectra.to_grid(WAVE, flux, ivar, np.zeros(3), SMALL).snr
    assert snr[0] == pytest.approx(10 * np.sqrt(1e-3 * 26.373 / np.diff(WAVE)[0]), rel=0.04)
    for cut, flags in ((0, [0, 0, ALL_BAD]), (0.5, [0, 0, ALL_BAD]), (3, [LOW_SNR, LOW_SNR, ALL_BAD])):
        settings = Spectra(bins=150, snr_min=cut)
        assert spectra.to_grid(WAVE, flux, ivar, np.zeros(3), settings).flags.tolist() == flags


@pytest.mark.parametrize(
    ("good", "share", "flag"),
    [
        (1.0, 0.5, 0),
        (0.51, 0.5, 0),
        (0.44, 0.5, MOSTLY_BAD),  # as where one of three cameras is bad
        (0.007, 0.5, MOSTLY_BAD),
        (0.44, 0.4, 0),
        (0.007, 0.0, 0),
        (0.0, 0.5, ALL_BAD),
        (0.0, 0.0, ALL_BAD),
        (0.95, 1.0, MOSTLY_BAD),
    ],
)
def test_the_cut_on_good_pixels(good: float, share: float, flag: int):
    flux, ivar = np.full((1, 1600), 10, np.float32), np.ones((1, 1600), np.float32)
    ivar[0, round(good * (WAVE < 7556).sum()) :] = 0
    settings = Spectra(bins=150, good=share)
    assert spectra.to_grid(WAVE, flux, ivar, np.zeros(1), settings).flags.tolist() == [flag]


def test_no_spectra():
    found = spectra.to_grid(WAVE, np.zeros((0, 1600)), np.zeros((0, 1600)), np.zeros(0), SMALL)
    assert [len(part) for part in found] == [0] * 4
    assert found.flux.shape == (0, 150)


def test_inputs_are_left_alone():
    flux, ivar = sample(2, 1600)
    flux[0, 5], ivar[1, 7] = NAN, 0
    given = (WAVE.copy(), flux, ivar, np.array([0.1, NAN]))
    before = [values.copy() for values in given]
    spectra.to_grid(*given, SMALL)
    for mine, theirs in zip(given, before):
        np.testing.assert_array_equal(mine, theirs)


def test_every_flag_has_a_bit_of_its_own_and_excludes():
    from astroad_jax.app.scoring import FLAG_NAMES

    bits = list(spectra.FLAG_NAMES)
    assert min(bits) >= 256
    assert all(bit & (bit - 1) == 0 for bit in bits)
    assert sum(bits) == spectra.EXCLUDED
    assert set(bits) < set(preprocess.FLAG_NAMES) < set(FLAG_NAMES)
    listed = re.findall(r"^\| ([\d, ]+) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(int(bit) for cell in listed for bit in cell.split(",")) == sorted(FLAG_NAMES)
    assert len(FLAG_NAMES) == len(preprocess.FLAG_NAMES) + 3
    scaler = preprocess.Scaler("none", "median", {})
    assert preprocess.unusable(scaler, np.array([0, 1, *bits], np.uint32)).tolist() == [False, False] + [True] * len(bits)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("spectra.high=3600", "high must be above low"),
        ("spectra.z_max=-0.5", "z_max must not be below"),
        ("spectra.bins=0", "spectra.bins"),
        ("spectra.z_min=-1", "spectra.z_min"),
        ("spectra.low=nan", "spectra.low"),
        ("spectra.frame=lab", "rest"),
        ("spectra.snr=3", "did you mean 'snr_min'"),
    ],
)
def test_settings_that_cannot_be(text: str, words: str):
    with pytest.raises(ConfigError, match=words):
        config.load(None, [text])

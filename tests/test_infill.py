"""Infill by principal components, and the scaling of spectra built on it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from astroad_jax import config, preprocess
from astroad_jax.config import Preprocess
from astroad_jax.errors import ConfigError, CorruptError, DataError
from astroad_jax.preprocess import flux as flux_scaling
from astroad_jax.preprocess import infill
from astroad_jax.preprocess.scaler import CONSTANT, EMPTY, INF_INPUT, NAN_INPUT

NAN, INF, ALL = np.nan, np.inf, "all"
POLICIES = ("flag", "median", "lowest", "error")


def family(rows: int, width: int = 120, rank: int = 3, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Spectra of a smooth mean and `rank` smooth components, each on a scale of its own."""
    rng = np.random.default_rng(seed)
    place = np.linspace(0, 1, width)
    shapes = np.stack([np.cos(np.pi * (k + 1) * place) for k in range(rank)])
    x = 2 + 0.3 * place + rng.normal(size=(rows, rank)) * (0.5 / (1 + np.arange(rank))) @ shapes
    x += noise * rng.normal(size=x.shape)
    return (x * rng.lognormal(size=(rows, 1), sigma=1)).astype(np.float32)


def holes(shape: tuple[int, int], share: float, seed: int = 1) -> np.ndarray:
    """(N, W) bool good pixels: single bad ones, and a run in every second spectrum; every fifth spectrum is complete."""
    rng = np.random.default_rng(seed)
    good = rng.random(shape) > share
    for i in range(0, shape[0], 2):
        start = rng.integers(0, shape[1] - 10)
        good[i, start : start + 10] = False
    good[::5] = True
    return good


def plain(x: np.ndarray, good: np.ndarray, components: int, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """The textbook loop: full SVD, then least squares row by row. Mean and vectors; spectra of norm 1 in every round."""
    filled = np.where(good, x, (x * good).sum(1, keepdims=True) / good.sum(1, keepdims=True)).astype(float)
    for _ in range(iterations):
        filled /= np.linalg.norm(filled, axis=1, keepdims=True)
        mean = filled.mean(0)
        vectors = np.linalg.svd(filled - mean, full_matrices=False)[2][:components]
        design = np.concatenate([mean[None], vectors])
        for i in range(len(x)):
            solved = np.linalg.lstsq(design[:, good[i]].T, filled[i, good[i]], rcond=None)[0]
            filled[i, ~good[i]] = (solved @ design)[~good[i]]
    return mean, vectors


def spectra(x: np.ndarray, good: np.ndarray, ivar: float = 4.0) -> np.ndarray:
    return np.stack([np.where(good, x, NAN), np.where(good, ivar, 0)], axis=1).astype(np.float32)


# Infill


@pytest.mark.parametrize(("share", "scale"), [(0.1, 1), (0.5, 1e-17), (0.3, 1e30)])
def test_exact_combinations_are_recovered(share: float, scale: float):
    x = family(200)
    good = holes(x.shape, share)
    basis = infill.fit(np.where(good, x * np.float32(scale), NAN), good, components=3, iterations=40)
    new = family(50, seed=7)
    missing = holes(new.shape, 0.7, seed=8)
    filled = infill.fill(basis, np.where(missing, new * np.float32(scale), NAN), missing)
    np.testing.assert_allclose(filled / np.float32(scale), new, rtol=2e-2)
    error = np.abs(filled / np.float32(scale) / new - 1)
    assert np.median(error[~missing]) < 1e-3
    np.testing.assert_array_equal(filled[missing], (new * np.float32(scale))[missing])


@pytest.mark.parametrize("width", [40, 120])
def test_the_fit_is_that_of_the_textbook_loop(width: int):
    """With small noise the shrinkage is negligible; both ways to the eigenvectors."""
    x = family(60, width, noise=0.005)
    good = holes(x.shape, 0.15)
    mean, vectors = plain(x, good, 3, 8)
    basis = infill.fit(x, good, 3, 8)
    np.testing.assert_allclose(basis.mean, mean, atol=1e-4)
    np.testing.assert_allclose(np.abs(basis.vectors @ vectors.T), np.eye(3), atol=2e-3)


@pytest.mark.parametrize("width", [30, 200])
def test_complete_spectra_give_their_covariance(width: int):
    x = family(300, width, rank=4, noise=0.01)
    unit = x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.cov(unit.T, bias=True))
    basis = infill.fit(x, np.ones(x.shape, bool), 4, 20)
    np.testing.assert_allclose(basis.mean, unit.mean(0), rtol=1e-5)
    np.testing.assert_allclose(basis.variance, values[::-1][:4], rtol=1e-4)
    assert basis.noise == pytest.approx(values[:-4].sum() / width, rel=1e-3)
    for mine, theirs in zip(basis.vectors, vectors[:, ::-1].T):
        assert abs(mine @ theirs) == pytest.approx(1, abs=1e-4)
        assert mine[np.abs(mine).argmax()] > 0


def test_infill_of_noisy_spectra_is_as_good_as_their_noise():
    x, clean = family(1000, noise=0.05), family(1000)
    good = holes(x.shape, 0.1)
    basis = infill.fit(x, good, 10, 10)
    filled = infill.fill(basis, x, good)
    scale = np.abs(clean).mean(1, keepdims=True) / 2
    error = ((filled - clean) / scale)[~good].std()
    interpolated = np.stack([np.interp(np.arange(120), np.flatnonzero(g), row[g]) for row, g in zip(x, good)])
    assert error < 0.5 * ((interpolated - clean) / scale)[~good].std()
    assert error < 0.03


@pytest.mark.parametrize("few", [1, 2, 5])
def test_few_good_pixels_give_nearly_a_scaled_mean(few: int):
    """Of one good pixel the most that can be had is the level; nothing runs away."""
    x = family(500, noise=0.05)
    basis = infill.fit(x, np.ones(x.shape, bool), 10, 1)
    good = np.zeros(x.shape, bool)
    good[:, 60 : 60 + few] = True
    filled = infill.fill(basis, x, good)
    assert (np.abs(filled / (x * np.ones(1))).max(1) < 10).mean() > 0.95
    level = x[:, 60] / basis.mean[60]
    away = np.abs(filled / (level[:, None] * basis.mean) - 1)
    assert np.median(away) < 0.25


def test_fewer_spectra_than_components():
    x = family(3)
    good = holes(x.shape, 0.1)
    basis = infill.fit(x, good, 10, 5)
    assert basis.vectors.shape == (2, 120)
    assert np.isfinite(infill.fill(basis, x, good)).all()
    one = infill.fit(x[:1], good[:1], 10, 5)
    assert one.vectors.shape == (0, 120)
    np.testing.assert_allclose(infill.fill(one, 3 * x[:1], good[:1]), 3 * x[:1], rtol=1e-4)


def test_a_pixel_that_is_never_good_is_like_its_neighbours():
    x = family(50)
    good = np.ones(x.shape, bool)
    good[:, 40:43] = False
    basis = infill.fit(x, good, 3, 20)
    np.testing.assert_allclose(infill.fill(basis, x, good)[:, 41], x[:, 41], rtol=0.02)


def test_the_fit_does_not_depend_on_the_pieces(monkeypatch: pytest.MonkeyPatch):
    x = family(100, noise=0.02)
    good = holes(x.shape, 0.2)
    whole = infill.fit(x, good, 3, 10)
    monkeypatch.setattr(infill, "CHUNK", 7 * 120)
    for mine, theirs in zip(infill.fit(x, good, 3, 10), whole):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=2e-6)


def test_the_fit_repeats_bit_for_bit():
    x = family(100, noise=0.02)
    good = holes(x.shape, 0.2)
    for mine, theirs in zip(infill.fit(x, good, 5, 5), infill.fit(x.copy(), good.copy(), 5, 5)):
        np.testing.assert_array_equal(mine, theirs)


def test_spectra_that_are_all_alike():
    x = np.tile(family(1), (20, 1))
    good = holes(x.shape, 0.2)
    basis = infill.fit(x, good, 10, 5)
    np.testing.assert_allclose(infill.fill(basis, x, good), x, rtol=1e-3)


def test_nothing_to_learn_from():
    with pytest.raises(DataError, match="nothing to learn"):
        infill.fit(np.zeros((3, 5)), np.ones((3, 5), bool))


# The scaling


def fitted(x: np.ndarray, **options) -> preprocess.Scaler:
    return preprocess.fit(x, Preprocess(**options))


@pytest.mark.parametrize(
    ("shape", "kind"), [((2, 50), "spectrum"), ((50,), "quantile"), ((3, 50), "quantile"), ((2, 9, 3), "linear")]
)
def test_spectra_are_known_by_their_shape(shape: tuple, kind: str):
    assert preprocess.kind_for(Preprocess(), shape) == kind


def test_unit_norm_and_ivar():
    x = family(100, noise=0.05)
    good = holes(x.shape, 0.1)
    z, flags = preprocess.apply(fitted(spectra(x, good)), spectra(x, good))
    assert not flags.any()
    assert z.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(z[:, 0].astype(float), axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(z[:, 1] > 0, good)
    norm = np.linalg.norm(x.astype(float), axis=1)
    np.testing.assert_allclose(z[:, 0] * norm[:, None], x, rtol=0.2)
    np.testing.assert_allclose(np.sqrt(z[:, 1].max(1) / 4), norm, rtol=0.02)
    ratio = z[:, 0] * np.sqrt(z[:, 1])
    np.testing.assert_allclose(ratio[good], (x * 2)[good], rtol=1e-5)


@pytest.mark.parametrize("width", [1, 2, 17, 119, 1000])
def test_independent_of_the_batch(width: int):
    """Bit for bit: alone, in any batch, in any order and memory layout."""
    x = family(70, width, noise=0.05)
    good = holes(x.shape, 0.2) if width > 10 else np.ones(x.shape, bool)
    raw = spectra(x, good)
    scaler = fitted(raw, iterations=2)
    z, flags = preprocess.apply(scaler, raw)
    for rows in ([0], [1], [69], [3, 2], list(range(50)), list(range(33))):
        part, own = preprocess.apply(scaler, raw[rows])
        np.testing.assert_array_equal(part, z[rows])
        np.testing.assert_array_equal(own, flags[rows])
    np.testing.assert_array_equal(preprocess.apply(scaler, np.asfortranarray(raw))[0], z)
    np.testing.assert_array_equal(preprocess.apply(scaler, raw[::-1])[0], z[::-1])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    x = family(40)
    raw = spectra(x, holes(x.shape, 0.2))
    scaler = fitted(raw, iterations=2)
    whole = preprocess.apply(scaler, raw)[0]
    monkeypatch.setattr(flux_scaling, "BLOCK", 240)
    monkeypatch.setattr(infill, "BLOCK", 120)
    np.testing.assert_array_equal(preprocess.apply(scaler, raw)[0], whole)
    np.testing.assert_array_equal(preprocess.apply(fitted(raw, iterations=2), raw)[0], whole)


BAD = {
    "fine": ({}, 0),
    "missing flux where bad": ({(0, 3): NAN, (1, 3): 0}, 0),
    "infinite flux where bad": ({(0, 3): INF, (1, 3): 0}, 0),
    "negative ivar": ({(1, 3): -1}, 0),
    "missing flux": ({(0, 3): NAN}, NAN_INPUT),
    "missing ivar": ({(1, 3): NAN}, NAN_INPUT),
    "infinite flux": ({(0, 3): -INF}, INF_INPUT),
    "infinite ivar": ({(1, 3): INF}, INF_INPUT),
    "both": ({(0, 3): NAN, (0, 4): INF}, NAN_INPUT | INF_INPUT),
    "all masked": ({(1, ALL): 0}, EMPTY),
    "all missing": ({(0, ALL): NAN}, NAN_INPUT | EMPTY),
    "nothing at all": ({(0, ALL): NAN, (1, ALL): NAN}, NAN_INPUT | EMPTY),
    "no flux": ({(0, ALL): 0}, CONSTANT),
    "beyond float32": ({(0, ALL): 1e30, (1, ALL): 1e30}, INF_INPUT),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("case", BAD)
def test_every_flag(case: str, policy: str):
    """What cannot be used is flagged, and never put to 0 without a word; its neighbours are as they were."""
    change, flag = BAD[case]
    raw = spectra(family(30), np.ones((30, 120), bool))
    scaler = fitted(raw, nan=policy)
    before = preprocess.apply(scaler, raw)[0]
    for (plane, pixel), value in change.items():
        raw[1, plane, slice(None) if pixel == ALL else pixel] = value
    z, flags = preprocess.apply(scaler, raw)
    assert flags.tolist() == [0, flag] + [0] * 28
    assert flags.dtype == np.uint32
    np.testing.assert_array_equal(np.delete(z, 1, 0), np.delete(before, 1, 0))
    null = bool(flag & ~NAN_INPUT) or (bool(flag) and policy in ("flag", "error"))
    assert preprocess.unusable(scaler, flags).tolist() == [False, null] + [False] * 28
    assert np.isfinite(z).all()
    assert (not z[1].any()) == null
    if change and not null:
        assert z[1, 1, 3] == 0
        assert z[1, 0, 3] == pytest.approx(before[1, 0, 3], rel=0.05)


@pytest.mark.parametrize("nan", ["flag", "median"])
def test_what_has_no_score_has_no_part_in_the_fit(nan: str):
    good = holes((60, 120), 0.1)
    raw = spectra(family(60), good)
    bad = np.tile(raw[:4], (4, 1, 1))
    bad[0, 0, 3], bad[1, 1], bad[2, 0], bad[3, 1, 3] = INF, 0, 0, INF
    both = np.concatenate([bad[:4], raw])
    mine, theirs = fitted(both, nan=nan, iterations=3).params, fitted(raw, nan=nan, iterations=3).params
    for key, value in theirs.items():
        np.testing.assert_allclose(mine[key], value, rtol=1e-4, atol=1e-6)


def test_same_under_jit():
    x = family(40, noise=0.05)
    raw = spectra(x, holes(x.shape, 0.2))
    scaler = fitted(raw, nan="median")
    raw[3, 1], raw[4, 0, 7], raw[4, 1, 7] = 0, NAN, 1
    scale = jax.jit(lambda params, x: preprocess.apply(scaler._replace(params=params), x, jnp))
    with jax.numpy_rank_promotion("raise"):
        z, flags = scale(scaler.params, raw)
    expected, expected_flags = preprocess.apply(scaler, raw)
    np.testing.assert_allclose(z[:, 0], expected[:, 0], atol=2e-5)
    np.testing.assert_allclose(z[:, 1], expected[:, 1], rtol=1e-3)
    np.testing.assert_array_equal(flags, expected_flags)
    assert (z.dtype, flags.dtype) == (np.float32, np.uint32)


def test_no_rows_to_scale():
    scaler = fitted(spectra(family(9), np.ones((9, 120), bool)))
    z, flags = preprocess.apply(scaler, np.zeros((0, 2, 120)))
    assert (z.shape, flags.shape) == ((0, 2, 120), (0,))


def test_saved_and_loaded(tmp_path):
    x = family(30)
    raw = spectra(x, holes(x.shape, 0.2))
    scaler = fitted(raw)
    preprocess.save(scaler, tmp_path / "scaler.npz")
    again = preprocess.load(tmp_path / "scaler.npz")
    assert again.kind == "spectrum"
    np.testing.assert_array_equal(preprocess.apply(again, raw)[0], preprocess.apply(scaler, raw)[0])
    preprocess.save(again, tmp_path / "again.npz")
    assert (tmp_path / "scaler.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()


@pytest.mark.parametrize(
    "change", [{"noise": None}, {"mean": None}, {"vectors": np.zeros((3, 7))}, {"variance": np.zeros(9)}]
)
def test_foreign_npz(change: dict, tmp_path):
    scaler = fitted(spectra(family(30), np.ones((30, 120), bool)))
    stored = {"kind": np.array("spectrum"), "nan": np.array("flag"), **scaler.params} | change
    np.savez(tmp_path / "scaler.npz", **{key: value for key, value in stored.items() if value is not None})
    with pytest.raises(CorruptError):
        preprocess.load(tmp_path / "scaler.npz")


@pytest.mark.parametrize(
    ("x", "nan", "words"),
    [
        (np.zeros((5, 3, 9)), "flag", "is for spectra"),
        (np.zeros((5, 9)), "flag", "is for spectra"),
        (np.zeros((0, 2, 9)), "flag", "is for spectra"),
        (np.zeros((5, 2, 9)), "flag", "no spectrum to fit"),
        (np.full((5, 2, 9), NAN), "median", "no spectrum to fit"),
        (np.where(np.eye(9)[3] > 0, NAN, np.ones((5, 2, 9))), "error", "missing values.*\n.*spec\n.*got: 5"),
    ],
)
def test_what_cannot_be_fitted(x: np.ndarray, nan: str, words: str):
    with pytest.raises(DataError, match=words):
        preprocess.fit(x, Preprocess(scale="spectrum", nan=nan), names=("spec",))


@pytest.mark.parametrize("shape", [(3, 2, 119), (3, 1, 120), (3, 120)])
def test_another_shape_than_was_fitted(shape: tuple):
    with pytest.raises(DataError, match="shape that the scaling was fitted on"):
        preprocess.apply(fitted(spectra(family(9), np.ones((9, 120), bool))), np.ones(shape))


def test_inputs_are_left_alone():
    x = family(9)
    raw = spectra(x, holes(x.shape, 0.2))
    before = raw.copy()
    preprocess.apply(fitted(raw), raw)
    np.testing.assert_array_equal(raw, before)


@pytest.mark.parametrize("key", ["components=3", "iterations=2"])
def test_settings_of_spectra_are_not_given_to_others(key: str):
    with pytest.raises(ConfigError, match="are for spectra"):
        config.load(None, [f"preprocess.{key}", "preprocess.scale=minmax"])
    config.load(None, [f"preprocess.{key}"])

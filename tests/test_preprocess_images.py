"""Scaling of images: closed forms, resampling against dense integrals, and everything that can be wrong with an image."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from astroad_jax import config, preprocess
from astroad_jax.config import Preprocess
from astroad_jax.errors import ConfigError, CorruptError, DataError
from astroad_jax.preprocess import images, resample
from astroad_jax.preprocess.scaler import CONSTANT, EMPTY, FLAT_BAND, INF_INPUT, NAN_INPUT, OUTSIDE, PADDED

KINDS = ("linear", "asinh")
POLICIES = ("flag", "median", "lowest", "error")
FRAMES = {"whole": {}, "crop": {"crop": 5}, "shrink": {"size": 3}, "grow": {"size": 13}, "both": {"crop": 6, "size": 4}}
NAN, INF = np.nan, np.inf


def sky(count: int = 40, side: int = 8, bands: int = 3, seed: int = 0) -> np.ndarray:
    """Noise of another level in every band, and a bright smooth source in the middle."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    source = np.exp(-(x**2 + y**2) / side)[..., None]
    noise = rng.normal(size=(count, side, side, bands)) * (1 + np.arange(bands))
    return (noise + rng.uniform(20, 80, (count, 1, 1, 1)) * source).astype(np.float32)


def fitted(x: np.ndarray, **options) -> preprocess.Scaler:
    return preprocess.fit(x, Preprocess(**options))


# Resampling


def dense(image: np.ndarray, size: int) -> np.ndarray:
    """Mean over each new pixel of an image ``(H, W)`` that is constant over each old one: exact, on a common grid."""
    fine = np.repeat(np.repeat(image.astype(np.float64), size, 0), size, 1)
    step = len(image)
    return fine.reshape(size, step, size, step).mean((1, 3))


@pytest.mark.parametrize(("old", "new"), [(8, 8), (8, 4), (8, 2), (8, 1), (8, 5), (7, 3), (13, 12), (5, 1)])
def test_shrinking_is_the_overlap_integral(old: int, new: int):
    x = np.random.default_rng(0).uniform(size=(2, old, old, 3)).astype(np.float32)
    found = resample.resize(x, new)
    for image, made in zip(x, found):
        for band in range(3):
            np.testing.assert_allclose(made[..., band], dense(image[..., band], new), rtol=1e-5)
    np.testing.assert_allclose(found.mean((1, 2)), x.mean((1, 2)), rtol=1e-5)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_shrinking_by_integers_averages_blocks_and_keeps_the_mean(factor: int):
    x = np.random.default_rng(1).integers(0, 256, (3, 12, 12, 2)).astype(np.float32)
    found = resample.resize(x, 12 // factor)
    np.testing.assert_allclose(found, x.reshape(3, 12 // factor, factor, 12 // factor, factor, 2).mean((2, 4)), rtol=1e-6)
    np.testing.assert_allclose(found.mean((1, 2), dtype=np.float64), x.mean((1, 2), dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize(("old", "new"), [(4, 8), (5, 7), (3, 12), (1, 6)])
def test_growing_is_linear_between_centres(old: int, new: int):
    x = np.random.default_rng(2).normal(size=(1, old, old, 1)).astype(np.float32)
    places = (np.arange(new) + 0.5) * old / new - 0.5
    rows = np.stack([np.interp(places, np.arange(old), column) for column in x[0, ..., 0].T], axis=1)
    expected = np.stack([np.interp(places, np.arange(old), row) for row in rows])
    np.testing.assert_allclose(resample.resize(x, new)[0, ..., 0], expected, atol=1e-6)


@pytest.mark.parametrize("grow", ["linear", "cubic"])
@pytest.mark.parametrize(("old", "new"), [(9, 4), (4, 9), (6, 6), (2, 5), (100, 7)])
def test_weights_add_up_to_one(old: int, new: int, grow: str):
    weights = resample.matrix(old, new, grow)
    assert weights.shape == (new, old)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-12)
    ones = np.ones((1, old, old, 1), np.float32)
    np.testing.assert_allclose(resample.resize(ones, new, grow=grow), 1, rtol=1e-6)


@pytest.mark.parametrize(("old", "new", "expected"), [(8, 4, 1), (7, 3, 4), (4, 8, 9)])
def test_a_bad_pixel_touches_what_it_overlaps(old: int, new: int, expected: int):
    bad = np.zeros((1, old, old, 1), bool)
    bad[0, 2, 2, 0] = True
    assert resample.touched(bad, new).sum() >= expected
    assert resample.touched(bad, new).sum() < new**2
    assert not resample.touched(np.zeros_like(bad), new).any()


# Closed forms


def test_linear_is_affine_between_the_training_limits_of_each_band():
    x = sky()
    z, flags = preprocess.apply(fitted(x), x)
    low, high = x.min((0, 1, 2)), x.max((0, 1, 2))
    np.testing.assert_allclose(z, 2 * (x - low) / (high - low) - 1, atol=1e-6)
    assert z.dtype == np.float32
    assert (z.min((0, 1, 2)) == -1).all()
    assert (z.max((0, 1, 2)) == 1).all()
    assert not flags.any()


@pytest.mark.parametrize("softening", [0.0, 0.5, 30.0])
def test_asinh(softening: float):
    x = sky()
    scaler = fitted(x, scale="asinh", softening=softening)
    a = scaler.params["softening"].ravel()
    if softening:
        np.testing.assert_array_equal(a, np.float32(softening))
    y = np.arcsinh(x.astype(np.float64) / a)
    low, high = y.min((0, 1, 2)), y.max((0, 1, 2))
    np.testing.assert_allclose(preprocess.apply(scaler, x)[0], 2 * (y - low) / (high - low) - 1, atol=1e-5)


def test_softening_is_the_noise_and_not_the_source():
    x = sky(60, 40)
    np.testing.assert_allclose(fitted(x, scale="asinh").params["softening"].ravel(), [1, 2, 3], rtol=0.2)
    padded = np.pad(x, ((0, 0), (8, 8), (8, 8), (0, 0)))
    np.testing.assert_allclose(fitted(padded, scale="asinh").params["softening"].ravel(), [1, 2, 3], rtol=0.25)


def test_softening_is_sampled_within_bounds(monkeypatch: pytest.MonkeyPatch):
    x = sky(400, 16)
    expected = fitted(x, scale="asinh").params["softening"]
    for limit in (20_000, 3000, 100):
        monkeypatch.setattr(images, "SAMPLE", limit)
        frame = images.Frame(16, 16, 3, 0, 0)
        assert images._sample(x, frame)[..., 0].size <= limit
        np.testing.assert_allclose(fitted(x, scale="asinh").params["softening"], expected, rtol=0.2 if limit > 100 else 1)
    np.testing.assert_array_equal(fitted(x, scale="asinh").params["low"], fitted(x, scale="asinh").params["low"])


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_frames(kind: str, frame: str):
    """Crop, stretch, resize, limits: in that order, and the limits are those of what comes out."""
    x, options = sky(), FRAMES[frame]
    scaler = fitted(x, scale=kind, **options)
    crop, size = options.get("crop", 8), options.get("size", 0)
    top = (8 - crop) // 2
    y = x[:, top : top + crop, top : top + crop]
    if kind == "asinh":
        y = np.arcsinh(y / scaler.params["softening"])
    y = resample.resize(y, size) if size else y
    z, flags = preprocess.apply(scaler, x)
    low, high = y.min((0, 1, 2)), y.max((0, 1, 2))
    np.testing.assert_allclose(z, 2 * (y - low) / (high - low) - 1, atol=1e-5)
    assert z.shape[1:] == images.shape(scaler.frame)
    assert not flags.any()


def test_oblong_images_are_cropped_to_squares():
    x = np.random.default_rng(0).normal(size=(20, 9, 6, 2)).astype(np.float32)
    scaler = fitted(x, crop=4)
    np.testing.assert_array_equal(scaler.params["high"].ravel(), x[:, 2:6, 1:5].max((0, 1, 2)))
    assert preprocess.apply(fitted(x), x)[0].shape == x.shape


def test_a_constant_band_carries_nothing():
    x = sky()
    x[..., 1] = 7
    for kind in KINDS:
        scaler = fitted(x, scale=kind)
        z, flags = preprocess.apply(scaler, x)
        assert not z[..., 1].any()
        assert not flags.any()
        other = x.copy()
        other[0, 2, 2, 1] = 8
        assert preprocess.apply(scaler, other)[1].tolist() == [OUTSIDE] + [0] * 39


# What can be wrong with an image


def bad_images(x: np.ndarray) -> np.ndarray:
    bad = np.stack([x[0]] * 9)
    bad[1] = 0
    bad[2] = 255
    bad[3] = [1, 2, 3]
    bad[4, 3, 3, 1] = NAN
    bad[5, 3, 3, 1] = INF
    bad[6, 3, 3, 0], bad[6, 4, 4, 2] = NAN, -INF
    bad[7] = NAN
    bad[8, 3, 3, 2] = 1e6
    return bad


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_flag(kind: str, policy: str, frame: str):
    """Good, zero, saturated, one colour, a NaN, an infinity, both, nothing, a hot pixel."""
    x = sky()
    scaler = fitted(x, scale=kind, nan=policy, **FRAMES[frame])
    z, flags = preprocess.apply(scaler, bad_images(x))
    expected = [0, CONSTANT, CONSTANT, CONSTANT, NAN_INPUT, INF_INPUT, NAN_INPUT | INF_INPUT, NAN_INPUT | EMPTY, OUTSIDE]
    assert (flags & ~np.uint32(OUTSIDE))[:8].tolist() == expected[:8]
    assert flags[8] == OUTSIDE
    assert flags[[0, 4, 7]].tolist() == [0, NAN_INPUT, NAN_INPUT | EMPTY]
    assert flags[2] & OUTSIDE
    imputes = policy in ("median", "lowest")
    null = [False, True, True, True, not imputes, True, True, True, False]
    assert preprocess.unusable(scaler, flags).tolist() == null
    assert np.isfinite(z).all()
    assert np.abs(z).max() <= 1
    assert not z[null].any()
    assert z[8].max() == 1


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_dead_band_is_flagged(kind: str, frame: str):
    """Dead, saturated, without a finite pixel; no flag for a band that is constant in training too, or for all bands."""
    x = sky()
    scaler = fitted(x, scale=kind, nan="median", **FRAMES[frame])
    bad = np.stack([x[0]] * 5)
    bad[1, ..., 1], bad[2, ..., 2], bad[3, ..., 0], bad[4] = 0, x[..., 2].max(), NAN, 0
    flags = preprocess.apply(scaler, bad)[1] & ~np.uint32(OUTSIDE)
    assert flags.tolist() == [0, FLAT_BAND, FLAT_BAND, FLAT_BAND | NAN_INPUT, CONSTANT]
    assert preprocess.unusable(scaler, flags).tolist() == [False, False, False, False, True]
    x[..., 1] = 7
    assert not (preprocess.apply(fitted(x, scale=kind, **FRAMES[frame]), x)[1] & FLAT_BAND).any()


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_beyond_the_edge_of_a_survey_is_flagged(kind: str, side: str):
    """In all bands, in one, on less than an eighth; no flag where training is padded as well, nor for a dead band."""
    x = sky(side=16)
    scaler = fitted(x, scale=kind)
    bad = np.stack([x[0]] * 5)
    strips = {"top": np.s_[:2], "bottom": np.s_[-7:], "left": np.s_[:, :9], "right": np.s_[:, -2:]}
    bad[1][strips[side]], bad[2][strips[side]][..., 1], bad[3][:1], bad[4][..., 2] = 0, -3, 0, 0
    flags = preprocess.apply(scaler, bad)[1] & ~np.uint32(OUTSIDE)
    assert flags.tolist() == [0, PADDED, PADDED, 0, FLAT_BAND]
    assert not preprocess.unusable(scaler, flags).any()
    x[:2, :2, :, 1] = 0
    assert preprocess.apply(fitted(x, scale=kind), bad)[1][2] & PADDED
    x[2, :2, :, 1] = 0
    assert not preprocess.apply(fitted(x, scale=kind), bad)[1][2] & PADDED


def test_a_scaling_that_was_kept_before_padding_was_looked_for_tells_of_none():
    x = sky()
    scaler = fitted(x)
    x[0, :3] = 0
    older = scaler._replace(params={key: value for key, value in scaler.params.items() if key != "unpadded"})
    np.testing.assert_array_equal(preprocess.apply(older, x)[0], preprocess.apply(scaler, x)[0])
    assert [preprocess.apply(each, x)[1][0] & PADDED for each in (older, scaler)] == [0, PADDED]


def test_only_what_the_crop_shows_counts():
    x = sky()
    scaler = fitted(x, crop=4)
    other = x.copy()
    other[:, 0, 0], other[:, 7, 7], other[:, 1] = NAN, INF, 1e9
    z, flags = preprocess.apply(scaler, other)
    assert not flags.any()
    np.testing.assert_array_equal(z, preprocess.apply(scaler, x)[0])
    again = fitted(other, crop=4)
    for key, value in scaler.params.items():
        np.testing.assert_array_equal(again.params[key], value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("policy", "fill"), [("median", np.median), ("lowest", np.min)])
def test_missing_pixels_become_the_bands_own(kind: str, policy: str, fill):
    x = sky()
    scaler = fitted(x, scale=kind, nan=policy)
    holes = x.copy()
    holes[5, 2, 2] = NAN
    filled = x.copy()
    filled[5, 2, 2] = fill(x, axis=(0, 1, 2))
    z, flags = preprocess.apply(scaler, holes)
    np.testing.assert_array_equal(z, preprocess.apply(scaler, filled)[0])
    assert flags[5] == NAN_INPUT
    if policy == "lowest":
        np.testing.assert_array_equal(z[5, 2, 2], -1)


def test_training_pixels_that_are_not_finite_take_no_part():
    x = sky()
    holes = np.concatenate([x, np.full_like(x[:3], NAN), np.full_like(x[:3], INF)])
    holes[40:, 0, 0] = x[0, 0, 0]
    for options in ({}, {"size": 4}, {"nan": "lowest"}):
        expected, found = fitted(x, **options), fitted(holes, **options)
        for key in ("low", "high"):
            np.testing.assert_array_equal(found.params[key], expected.params[key])


def test_overflow_is_flagged():
    x = sky()
    scaler = fitted(x, scale="asinh", softening=1e-30)
    other = x[:3].astype(np.float64)
    other[0, 1, 1, 1], other[1, 1, 1, 1] = 1e39, 1e30
    z, flags = preprocess.apply(scaler, other)
    assert flags.tolist() == [INF_INPUT, INF_INPUT, 0]
    assert np.isfinite(z).all()


@pytest.mark.parametrize(
    ("x", "options", "error", "words"),
    [
        (np.zeros((0, 8, 8, 3)), {}, DataError, r"is for images[\s\S]*\(0, 8, 8, 3\)"),
        (np.zeros((4, 8, 8, 0)), {}, DataError, "is for images"),
        (np.zeros((4, 8, 8)), {"scale": "linear"}, DataError, r"is for images[\s\S]*axis of 1"),
        (np.zeros((4, 8)), {"scale": "asinh"}, DataError, "is for images"),
        (np.zeros((4, 8)), {"crop": 2}, ConfigError, "are no images"),
        (np.zeros((4, 8, 8)), {"size": 2}, ConfigError, "are no images"),
        (sky(), {"crop": 9}, ConfigError, "larger than the images"),
        (sky()[:, :6], {"size": 4}, ConfigError, "distort"),
        (np.where(np.arange(3) == 1, NAN, sky()), {}, DataError, r"bands \[1\] of 3"),
        (np.where(np.arange(8)[:, None, None] % 2, NAN, sky()), {"size": 4}, DataError, r"bands \[0, 1, 2\]"),
        (np.where(np.arange(40)[:, None, None, None] < 7, NAN, sky()), {"nan": "error"}, DataError, "7 training images"),
        (np.repeat(sky()[:, :, :1], 8, 2), {"scale": "asinh"}, ConfigError, r"bands \[0, 1, 2\][\s\S]*softening"),
    ],
)
def test_what_cannot_be_fitted(x: np.ndarray, options: dict, error: type, words: str):
    with pytest.raises(error, match=words):
        preprocess.fit(x, Preprocess(**options), ("image",))


@pytest.mark.parametrize("shape", [(8, 8, 4), (8, 8, 1), (9, 8, 3), (16, 16, 3), (8, 8), (192,)])
def test_images_of_another_shape(shape: tuple[int, ...]):
    with pytest.raises(DataError, match=r"shape that the scaling was fitted on[\s\S]*\(8, 8, 3\)"):
        preprocess.apply(fitted(sky()), np.zeros((2, *shape)))


@pytest.mark.parametrize(
    "options",
    [
        {"scale": "gcn", "crop": 3},
        {"scale": "quantile", "size": 3},
        {"softening": 1.0},
        {"scale": "linear", "softening": 1.0},
        {"scale": "asinh", "softening": -1.0},
        {"scale": "asinh", "softening": INF},
        {"crop": -1},
    ],
)
def test_settings_that_do_not_go_together(options: dict):
    with pytest.raises(ValidationError):
        Preprocess(**options)
    with pytest.raises(ConfigError, match="preprocess"):
        config.load(None, [f"preprocess.{key}={value}" for key, value in options.items()])


@pytest.mark.parametrize(("shape", "kind"), [((8, 8, 3), "linear"), ((8, 8), "quantile"), ((8,), "quantile")])
def test_auto(shape: tuple[int, ...], kind: str):
    x = np.random.default_rng(0).normal(size=(10, *shape))
    assert fitted(x).kind == kind


# Exactness


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["flag", "lowest"])
def test_independent_of_the_batch(kind: str, policy: str, frame: str, monkeypatch: pytest.MonkeyPatch):
    """Bit for bit: alone, in any batch, in any order and memory layout, from any block."""
    x = sky(60)
    x[::7, 2:5, 3] = NAN
    scaler = fitted(x, scale=kind, nan=policy, **FRAMES[frame])
    z, flags = preprocess.apply(scaler, x)
    alone = [preprocess.apply(scaler, x[i : i + 1]) for i in range(0, 60, 7)]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in alone]), z[::7])
    np.testing.assert_array_equal(np.concatenate([part[1] for part in alone]), flags[::7])
    np.testing.assert_array_equal(preprocess.apply(scaler, np.asfortranarray(x))[0], z)
    np.testing.assert_array_equal(preprocess.apply(scaler, x[::-1])[0], z[::-1])
    monkeypatch.setattr(images, "BLOCK", 500)
    np.testing.assert_array_equal(preprocess.apply(scaler, x)[0], z)
    again = fitted(x, scale=kind, nan=policy, **FRAMES[frame])
    assert all((again.params[key] == value).all() for key, value in scaler.params.items())


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_same_under_jit(kind: str, frame: str):
    x = np.concatenate([sky(16), bad_images(sky())])
    scaler = fitted(sky(), scale=kind, **FRAMES[frame])
    scale = jax.jit(lambda params, x: preprocess.apply(scaler._replace(params=params), x, jnp))
    with jax.numpy_rank_promotion("raise"):
        z, flags = scale(scaler.params, x)
        one, _ = scale(scaler.params, x[5:6])
    expected, expected_flags = preprocess.apply(scaler, x)
    np.testing.assert_allclose(z, expected, atol=2e-6)
    np.testing.assert_array_equal(flags, expected_flags)
    np.testing.assert_array_equal(one[0], z[5])
    assert (z.dtype, flags.dtype) == (np.float32, np.uint32)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
def test_any_type_of_number(dtype: type):
    x = np.clip(sky() + 50, 0, 255).astype(dtype)
    scaler = fitted(x)
    np.testing.assert_array_equal(preprocess.apply(scaler, x)[0], preprocess.apply(scaler, x.astype(np.float32))[0])


def test_one_image_and_none():
    x = sky(1)
    scaler = fitted(x, scale="asinh", crop=6, size=3)
    z, flags = preprocess.apply(scaler, x)
    assert (z.shape, flags.tolist()) == ((1, 3, 3, 3), [0])
    z, flags = preprocess.apply(scaler, x[:0])
    assert (z.shape, flags.shape) == ((0, 3, 3, 3), (0,))


def test_fit_and_apply_leave_their_input_alone():
    x = bad_images(sky())
    before = x.copy()
    scaler = fitted(x, nan="median", size=4)
    preprocess.apply(scaler, x)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded(kind: str, frame: str, tmp_path):
    scaler = fitted(sky(), scale=kind, nan="median", **FRAMES[frame])
    preprocess.save(scaler, tmp_path / "scaler.npz")
    again = preprocess.load(tmp_path / "scaler.npz")
    assert (again.kind, again.nan, again.frame) == (kind, "median", scaler.frame)
    x = sky(5, seed=9)
    np.testing.assert_array_equal(preprocess.apply(again, x)[0], preprocess.apply(scaler, x)[0])
    preprocess.save(again, tmp_path / "again.npz")
    assert (tmp_path / "scaler.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()


@pytest.mark.parametrize(
    "change",
    [{"kind": "linear"}, {"kind": "fourier"}, {"low": None}, {"fill": None}, {"softening": None}, {"frame": None}]
    + [{"frame": np.array([8, 8])}, {"frame": np.array([8, 8, 4, 0, 0])}],
)
def test_foreign_npz(change: dict, tmp_path):
    scaler = fitted(sky(), scale="asinh")
    stored = {"kind": np.array("asinh"), "nan": np.array("flag"), "frame": np.array(scaler.frame), **scaler.params} | change
    np.savez(tmp_path / "scaler.npz", **{key: value for key, value in stored.items() if value is not None})
    if change == {"kind": "linear"}:
        assert preprocess.load(tmp_path / "scaler.npz").kind == "linear"
        return
    with pytest.raises(CorruptError):
        preprocess.load(tmp_path / "scaler.npz")

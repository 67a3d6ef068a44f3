"""The mock sky: same bits however it is cut, flux and noise as asked, kinds that are what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from astroad_jax.data import sky_camera, sky_light, sky_match
from astroad_jax.data.sky import KINDS, Noise, Sky, draw, stream
from astroad_jax.data.sky_parameters import half_light
from astroad_jax.errors import DataError

QUIET = Sky(size=48, gain=math.inf, noise=Noise((0.0,)))
MERGERS = {"flux_ratio", "separation", "phase"}  # NaN where they mean nothing


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_depends_on_its_number_alone(kind: str):
    sky = Sky(size=25, bands=3, noise=Noise((0.01, 0.02, 0.03), 0.8), psf_beta=3.0)
    whole = draw(sky, 37, kind, 5)
    for start, count in ((0, 37), (11, 20), (30, 2), *((i, 1) for i in range(37))):
        same(draw(sky, count, kind, 5, start), {name: value[start : start + count] for name, value in whole.items()})
    assert (draw(sky, 2, kind, 6)["image"] != whole["image"][:2]).any()


def test_nothing_is_drawn_of_nothing():
    table = draw(Sky(), 0, "pair", 0)
    assert {name: value.shape[1:] for name, value in table.items()} == dict.fromkeys(table, ()) | {"image": (64, 64, 1)}
    assert all(len(value) == 0 for value in table.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bands", [1, 3])
def test_columns_are_there_and_finite(kind: str, bands: int):
    table = draw(Sky(size=32, bands=bands), 60, kind, 0)
    assert table["image"].shape == (60, 32, 32, bands)
    assert table["image"].dtype == np.float32
    assert table["object_id"].dtype == np.int64
    assert table["object_id"].min() > 2**53
    assert len(np.unique(table["object_id"])) == 60
    assert set(table["kind"]) == {kind}
    absent = {name for name, value in table.items() if value.dtype.kind == "f" and not np.isfinite(value).all()}
    assert absent <= ({"isolated": MERGERS, "post_merger": {"separation"}}.get(kind) or set())
    assert table["companion_visible"].dtype == bool
    assert not table["companion_visible"].any() or kind == "pair"
    assert (table["disturbance"] >= 0).all()
    assert (table["disturbance"] <= 1).all()
    assert (table["r_eff"] >= 1).all()
    assert ((table["ellipticity"] >= 0) & (table["ellipticity"] < 1)).all()
    if kind != "isolated":
        assert (np.sign(table["phase"]) == (1 if kind == "post_merger" else -1)).all()


def test_a_visible_pair_is_detected_and_a_hidden_one_is_not():
    noisy = Sky(size=48, noise=Noise((0.05,), 0.5))
    pairs, hidden = draw(noisy, 200, "pair", 1), draw(noisy, 200, "hidden_pair", 1)
    assert 0.3 < pairs["companion_visible"].mean() < 1  # at this noise some companions drown
    assert not hidden["companion_visible"].any()
    assert 0.1 < (hidden["separation"] < 24).mean() < 0.5  # these are too faint, the others outside
    assert (hidden["disturbance"] == 0).mean() == pytest.approx(0.5, abs=0.15)
    assert (draw(QUIET, 50, "hidden_pair", 1)["separation"] > 24).all()  # without noise nothing is too faint


def test_flux_ratios_fall_into_the_bins_of_the_paper():
    ratio = np.concatenate([draw(QUIET._replace(size=16), 500, "pair", seed)["flux_ratio"] for seed in (0, 1)])
    assert ((ratio >= 1) & (ratio <= 10)).all()
    assert (ratio > 2).mean() == pytest.approx(0.45, abs=0.05)
    assert (ratio < 1.5).mean() == pytest.approx(0.42, abs=0.05)


def test_pairs_have_the_asked_flux_ratio_and_separation():
    """Two small galaxies far apart: their light and its centre are where the columns say."""
    sky = QUIET._replace(
        size=96, flux_ratio=(3.0, 3.0), separation=(36.0, 36.0), mass=(10, 10.2), redshift=(2.5, 3), pixel_scale=0.25
    )
    table = draw(sky, 20, "pair", 2)
    np.testing.assert_allclose(table["flux_ratio"], 3)
    np.testing.assert_allclose(table["separation"], 36)
    axis = np.arange(96)
    image = table["image"][..., 0]
    radius = np.hypot(axis - 47.5, axis[:, None] - 47.5)
    near, far = image * (radius < 22), image * (radius >= 22)
    np.testing.assert_allclose(near.sum((1, 2)) / far.sum((1, 2)), 3, rtol=0.06)
    x, y = (far * axis).sum((1, 2)) / far.sum((1, 2)), (far * axis[:, None]).sum((1, 2)) / far.sum((1, 2))
    np.testing.assert_allclose(np.hypot(x - 47.5, y - 47.5), 36, atol=2.0)


@pytest.mark.parametrize(
    ("n", "r_eff", "q", "width"),
    [(0.7, 4, 0.3, 81), (1, 4, 0.5, 121), (1, 1, 0.2, 41), (2.5, 3, 0.7, 301), (4, 2, 0.6, 401)],
)
def test_flux_of_a_sersic_profile_is_its_total(n: float, r_eff: float, q: float, width: int):
    """Wherever in its pixel the centre is; but for what is outside the canvas."""
    places = width // 2 + np.array([0.0, 0.25, 0.5, -0.4]), width // 2 + np.array([0.0, 0.5, 0.1, 0.3])
    ones = np.ones(4)
    flux = sky_light.pixels(sky_light.sersic(r_eff * ones, n * ones, q * ones, 0.6 * ones), *places, 0, width).sum((1, 2))
    from scipy.special import gammainc

    b = sky_light.sersic_b(n)
    inside = gammainc(2 * n, b * (width / 2 / r_eff) ** (1 / n))  # the circle's; corners hold a little more
    assert inside > 0.97
    np.testing.assert_allclose(flux, inside, atol=(0.005 if q > 0.25 else 0.01) + (1 - inside) / 2)


def test_b_and_half_light_radius():
    from scipy.special import gammainc

    n = np.array([1, 1.5, 2.5, 4, 6])
    np.testing.assert_allclose(gammainc(2 * n, sky_light.sersic_b(n)), 0.5, atol=1e-4)
    bulge, n, ratio = np.array([0.0, 1.0, 0.4]), np.array([2.0, 4.0, 3.0]), np.array([0.2, 0.3, 0.5])
    radius = half_light(bulge, n, ratio)
    np.testing.assert_allclose(radius[:2], [1, 0.3], rtol=0.01)
    b, x = sky_light.sersic_b(n), radius / ratio
    light = bulge * gammainc(2 * n, b * x ** (1 / n)) + (1 - bulge) * gammainc(2, sky_light.sersic_b(1) * radius)
    np.testing.assert_allclose(light, 0.5, atol=0.01)


@pytest.mark.parametrize("kind", ["isolated", "post_merger"])
def test_flux_of_a_galaxy_is_in_its_image(kind: str):
    """With arms, lopsidedness, twist, tails and all; small galaxies in a large frame."""
    sky = QUIET._replace(size=128, mass=(10, 11), pixel_scale=0.12)
    table = draw(sky, 40, kind, 3)
    small = table["r_eff"] < 6
    assert small.sum() > 15
    np.testing.assert_allclose(table["image"].sum((1, 2, 3))[small] / table["flux"][small], 1, atol=0.02)
    np.testing.assert_allclose(table["flux"], 10 ** (-0.4 * (table["magnitude"] - sky.zero_point)))


def test_bands_have_the_colour_of_the_column():
    table = draw(QUIET._replace(bands=3), 30, "isolated", 0)
    assert 0.3 < np.median(table["colour"]) < 0.9
    i, r, g = table["image"].sum((1, 2)).T
    np.testing.assert_allclose(-2.5 * np.log10(g / r), table["colour"], atol=0.03)  # less of the disc is in the frame
    assert (i > r).all()


@pytest.mark.parametrize(("fwhm", "beta"), [(0, math.inf), (3, math.inf), (3, 3.0), (4.5, 2.5)])
def test_psf_keeps_flux_and_has_its_width(fwhm: float, beta: float):
    sky = Sky(psf_fwhm=fwhm, psf_beta=beta)
    low, width = sky_camera.canvas(sky)
    light = np.zeros((2, 1, width, width), np.float32)
    light[0, 0, width // 2, width // 2] = 3.0
    light[1, 0] = np.random.default_rng(0).random((width, width))
    seen = sky_camera.convolve(sky, light)
    assert low < 0
    np.testing.assert_allclose(seen.sum((1, 2, 3)), light.sum((1, 2, 3)), rtol=1e-5)
    profile = seen[0, 0, width // 2] / seen[0].max()
    at = np.interp(fwhm / 2, np.arange(width // 2), profile[width // 2 : width // 2 * 2])
    assert at == pytest.approx(0.5 if fwhm else 1, abs=0.06)  # of a straight line between pixels


@pytest.mark.parametrize(("sigma", "length"), [((0.05,), 0.0), ((0.02,), 0.5), ((0.02, 0.04, 0.03), 1.0), ((0.1,), 2.5)])
def test_noise_is_as_asked(sigma: tuple[float, ...], length: float):
    sky = Sky(size=64, bands=len(sigma) if len(sigma) > 1 else 1, gain=math.inf, noise=Noise(sigma, length))
    low, width = sky_camera.canvas(sky)
    dice = [np.random.default_rng(k) for k in range(60)]
    noise = sky_camera.expose(sky, np.zeros((60, sky.bands, width, width), np.float32), dice)
    assert noise.shape == (60, sky.bands, 64, 64)
    np.testing.assert_allclose(noise.std((0, 2, 3)), sigma, rtol=0.03)
    for d in (1, 2, 3):
        rho = (noise[..., d:] * noise[..., :-d]).mean((0, 2, 3)) / noise.var((0, 2, 3))
        np.testing.assert_allclose(rho, math.exp(-(d**2) / (4 * length**2)) if length else 0, atol=0.03)
    found = sky_match.measure_noise(np.moveaxis(noise, 1, -1))
    np.testing.assert_allclose(found.sigma, sigma, rtol=0.15 if length > 2 else 0.05)  # corners are small for long waves
    assert found.correlation == pytest.approx(length, rel=0.2, abs=0.3 if length == 0 else 0)


def test_poisson_noise_has_the_variance_of_source_and_sky():
    sky = Sky(sky=0.1, gain=200.0, noise=Noise((0.0,)))
    _, width = sky_camera.canvas(sky)
    light = np.zeros((200, 1, width, width), np.float32)
    light[..., width // 2 :] = 1.5
    image = sky_camera.expose(sky, light, [np.random.default_rng(k) for k in range(200)])
    for side, level in ((image[..., :32], 0.0), (image[..., 32:], 1.5)):
        assert side.mean() == pytest.approx(level, abs=1e-3)
        assert side.var() == pytest.approx((level + 0.1) / 200, rel=0.02)


def test_a_stream_is_a_table_of_the_same_objects():
    sky, fractions = Sky(size=24), {"isolated": 0.6, "pair": 0.3, "post_merger": 0.1}
    source = stream(sky, 50, fractions, 9)
    whole = next(source.chunks())
    assert list(whole) == list(source.columns)
    assert source.num_rows == len(whole["kind"]) == 50
    assert set(whole["kind"]) == set(fractions)
    assert source.columns["image"].shape == (24, 24, 1)
    assert source.columns["separation"].unit == "pixel"
    for rows in (7, 50, 64):
        parts = list(source.chunks(rows=rows))
        same({name: np.concatenate([part[name] for part in parts]) for name in whole}, whole)
    for row in (0, 13, 49):
        one = draw(sky, 1, whole["kind"][row], 9, start=row)
        same({name: value[0] for name, value in one.items()}, {name: value[row] for name, value in whole.items()})


def test_a_stream_without_images_makes_none(monkeypatch: pytest.MonkeyPatch):
    source = stream(Sky(), 3000, {"isolated": 0.25, "hidden_pair": 0.75}, 0)
    monkeypatch.setattr(sky_light, "render", None)
    parts = list(source.chunks(columns=["kind", "r_eff"]))
    assert [len(part["kind"]) for part in parts] == [1024, 1024, 952]
    assert np.mean(np.concatenate([part["kind"] for part in parts]) == "isolated") == pytest.approx(0.25, abs=0.03)


BAD = [
    ("size", 8), ("bands", 2), ("gain", 0.0), ("sky", -1.0), ("psf_fwhm", 40.0), ("psf_beta", 1.0), ("size_spread", 0.0),
    ("noise", Noise((0.1, 0.2))), ("noise", Noise((math.nan,))), ("noise", Noise((0.1,), 20.0)), ("mass", (11, 10)),
    ("flux_ratio", (0.5, 2.0)), ("redshift", (0.0, 1.0)), ("separation", (5.0, 2.0)), ("balance", (0.0,)),
    ("balance", (2.0,)), ("zero_point", math.nan),
    ("offset", (0.0, 0.0)), ("isolated_mass", 9.0), ("detection", 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_settings_that_cannot_be_are_refused(name: str, value: object):
    with pytest.raises(DataError, match=rf"Sky\.{name}"):
        draw(Sky()._replace(**{name: value}), 1, "isolated", 0)


def test_other_arguments_that_cannot_be_are_refused():
    with pytest.raises(DataError, match="did you mean 'pair'"):
        draw(Sky(), 1, "pairs", 0)
    with pytest.raises(DataError, match="seed"):
        draw(Sky(), 1, "pair", -1)
    for fractions in ({"isolated": 0.5}, {"isolated": 1.5, "pair": -0.5}, {"galaxy": 1.0}):
        with pytest.raises(DataError):
            stream(Sky(), 10, fractions, 0)
    with pytest.raises(DataError, match="not in this table"):
        next(stream(Sky(), 10, {"isolated": 1.0}, 0).chunks(columns=["flavour"]))


def test_a_stretch_can_be_undone():
    how = sky_match.Stretch(white=2.0, beta=20.0)
    counts = draw(Sky(bands=3, noise=Noise((0.02,)), offset=(0.06,)), 8, "isolated", 0)["image"]
    shown = sky_match.stretch(counts, how)
    assert shown.dtype == np.uint8
    assert len(np.unique(shown)) > 100
    back = sky_match.unstretch(shown, how)
    kept = ((shown > 0) & (shown < 255)).all(axis=-1)
    np.testing.assert_array_equal(sky_match.stretch(back, how), shown)
    np.testing.assert_allclose(back[kept], counts[kept], rtol=0.05, atol=0.01)
    assert sky_match.unstretch(np.zeros((1, 4, 4, 3), np.uint8), how).max() == 0


def test_a_sky_is_matched_to_observations():
    """Mocks of an unknown sky stand for the observations; what is measured of them comes back."""
    how = sky_match.Stretch(white=1.0, beta=10.0)
    secret = Sky(size=48, bands=3, gain=math.inf, sky=0.0, psf_fwhm=3.0, zero_point=24.5, pixel_scale=0.08,
                 noise=Noise((0.012, 0.010, 0.008), 0.9), offset=(0.05, 0.04, 0.03), balance=(0.9, 1.0, 1.3))  # fmt: skip
    images = sky_match.stretch(draw(secret, 200, "isolated", 77)["image"], how)
    found = sky_match.like(images, how, count=128)
    np.testing.assert_allclose(found.noise.sigma, secret.noise.sigma, rtol=0.15)
    assert found.noise.correlation == pytest.approx(0.9, rel=0.15)
    np.testing.assert_allclose(found.offset, secret.offset, atol=0.005)
    np.testing.assert_allclose(found.balance, secret.balance, rtol=0.1)
    true, got = (draw(sky, 200, "isolated", 1) for sky in (secret, found))
    assert np.median(got["r_eff"]) == pytest.approx(np.median(true["r_eff"]), rel=0.15)
    assert np.median(got["flux"]) == pytest.approx(np.median(true["flux"]), rel=0.2)
    assert np.log(got["flux"]).std() == pytest.approx(np.log(true["flux"]).std(), rel=0.4)
    assert (found.size, found.bands) == (48, 3)


def test_observations_that_cannot_be_matched_are_refused():
    with pytest.raises(DataError, match="square"):
        sky_match.like(np.ones((2, 20, 30)))
    with pytest.raises(DataError, match="1 of 2 images"):
        sky_match.measure_noise(np.stack([np.ones((20, 20)), np.full((20, 20), np.nan)]))
    with pytest.raises(DataError, match="no image has light"):
        sky_match.like(np.zeros((2, 20, 20)))
    assert sky_match.measure_noise(np.ones((2, 20, 20))) == Noise((0.0,), 0.0)


def test_mocks_are_matched_to_real_galaxies(shared_data):
    """Real SDSS pictures: mocks of the matched sky measure the same."""
    path = shared_data / "galaxies" / "labelled_64.npz"
    if not path.exists():
        pytest.skip(f"no {path}")
    with np.load(path, allow_pickle=False) as file:
        images = file["x"][file["y"] == 0][:300]
    how = sky_match.Stretch(beta=3.0)
    found = sky_match.like(images, how, Sky(sky=0.0, gain=math.inf, psf_fwhm=4.0), count=128)
    mocks = sky_match.stretch(draw(found, 128, "isolated", 1)["image"], how)
    middle = (slice(None), slice(24, 40), slice(24, 40))
    for part in (middle, (slice(None), slice(0, 10), slice(0, 10))):
        assert np.median(mocks[part].mean((1, 2))) == pytest.approx(np.median(images[part].mean((1, 2))), rel=0.3)

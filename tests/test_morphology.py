"""The morphology baseline: what statmorph measures, what it cannot, and the two clusters."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys

import numpy as np
import pytest

from astroad_jax.analysis import morphology
from astroad_jax.analysis.morphology import FEATURES, flagged, measure, two_clusters
from astroad_jax.data.sky import Noise, Sky, draw
from astroad_jax.errors import DataError

INSTALLED = all(importlib.util.find_spec(name) for name in ("statmorph", "photutils"))
measured = pytest.mark.skipif(not INSTALLED, reason="statmorph is not installed (pip install 'astroad_jax[morphology]')")
DEEP = Sky(mass=(11.0, 11.3), redshift=(0.8, 1.0), gain=math.inf, noise=Noise((0.003,)))


def disc(second: float = 0.0, noise: float = 0.003) -> np.ndarray:
    """A round exponential disc, and a second one of `second` times its light ten pixels away."""
    y, x = np.mgrid[:64, :64] - 31.5
    image = np.exp(-np.hypot(x, y) / 4) + second * np.exp(-np.hypot(x - 8, y - 6) / 3)
    return image + noise * np.random.default_rng(0).standard_normal(image.shape)


def bad_images() -> np.ndarray:
    """Two good images, and between them: NaN, nothing, a hole where the galaxy should be, constant, negative."""
    hole = np.roll(disc(), 24, axis=0)
    bad = [np.full((64, 64), np.nan), disc() * 0 + 0.003 * np.random.default_rng(1).standard_normal((64, 64)), hole]
    return np.stack([disc(), *bad, np.full((64, 64), 5.0), -disc(), disc(0.5)])


@measured
def test_a_disc_has_the_morphology_of_a_disc():
    """Conselice (2003): C = 5 log(r80 / r20) is 2.7 for an exponential; no asymmetry; Gini and M20 of a disc."""
    found = measure(disc()[None])
    assert set(found) == {*FEATURES, "r_half", "sersic_n", "sn_per_pixel", "flag"}
    assert found["flag"] == 0
    assert found["flag"].dtype == np.uint8
    assert found["concentration"] == pytest.approx(2.7, abs=0.2)
    assert found["asymmetry"] == pytest.approx(0, abs=0.05)
    assert found["smoothness"] == pytest.approx(0, abs=0.05)
    assert 0.4 < found["gini"] < 0.6
    assert -2.0 < found["m20"] < -1.5
    assert found["sersic_n"] == pytest.approx(1, abs=0.1)
    assert found["r_half"] == pytest.approx(4 * 1.678, rel=0.1)


@measured
def test_a_disturbed_galaxy_is_less_symmetric():
    found = measure(np.stack([disc(), disc(0.3), disc(0.8)]))
    assert found["asymmetry"][0] < 0.1 < found["asymmetry"][1] < found["asymmetry"][2]
    assert (np.diff(found["m20"]) > 0).all()


@measured
def test_mock_pairs_are_less_symmetric_than_isolated_galaxies():
    isolated = draw(DEEP, 4, "isolated", 0)["image"]
    pairs = draw(DEEP._replace(flux_ratio=(1.0, 1.5), separation=(9.0, 12.0)), 4, "pair", 0)["image"]
    found = measure(np.concatenate([isolated, pairs]))
    assert np.median(found["asymmetry"][4:]) > np.median(found["asymmetry"][:4]) + 0.1
    assert np.median(found["m20"][4:]) > np.median(found["m20"][:4]) + 0.3


@measured
def test_what_cannot_be_measured_is_flagged_and_never_raised():
    images = bad_images()
    found = measure(images)
    flags = found["flag"].tolist()
    assert flags[0] == flags[6] == 0
    assert flags[1] == morphology.NOT_FINITE
    assert flags[2] == flags[3] == morphology.NO_SOURCE
    assert min(flags[4:6]) >= 2
    bad = found["flag"] >= 4
    for name in FEATURES:
        assert np.isnan(found[name][bad]).all()
        assert np.isfinite(found[name][~bad]).all()
    alone = measure(images[-1:])
    assert {name: value[0] for name, value in alone.items()} == {name: value[-1] for name, value in found.items()}


@measured
def test_an_answer_of_statmorph_is_a_flag_and_an_error_is_an_error(monkeypatch: pytest.MonkeyPatch):
    import statmorph

    def fails(error: type[Exception]):
        def source(*_, **__):
            raise error("of this image")

        return source

    monkeypatch.setattr(statmorph, "SourceMorphology", fails(AssertionError))
    assert measure(disc()[None])["flag"] == morphology.FAILED
    monkeypatch.setattr(statmorph, "SourceMorphology", fails(TypeError))
    with pytest.raises(TypeError, match="of this image"):
        measure(disc()[None])


@measured
def test_bands_sky_and_units_do_not_matter():
    base = measure(disc()[None])
    for images, options in (
        (np.stack([disc(), disc(), disc()], axis=-1)[None], {}),
        (disc()[None] + 7, {"sky": 7.0}),
        (disc()[None] * 1000, {}),
    ):
        found = measure(images, **options)
        for name in FEATURES:
            np.testing.assert_allclose(found[name], base[name], rtol=1e-4, atol=1e-4, err_msg=name)
    assert abs(measure(disc()[None] + 7, sky=None)["asymmetry"] - base["asymmetry"])[0] < 0.05


@measured
@pytest.mark.slow
def test_processes_do_not_change_anything(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(morphology, "TASK", 1)
    images = np.stack([disc(), disc(0.4)])
    alone, together = measure(images), measure(images, jobs=2)
    for name in alone:
        np.testing.assert_array_equal(alone[name], together[name])


@measured
def test_no_galaxies_and_bad_arguments():
    assert {name: len(value) for name, value in measure(np.zeros((0, 8, 8))).items()} == dict.fromkeys(
        (*FEATURES, "r_half", "sersic_n", "sn_per_pixel", "flag"), 0
    )
    with pytest.raises(DataError, match=r"\(N, H, W\)"):
        measure(disc())
    for option in ({"gain": 0.0}, {"sigma": -1.0}, {"threshold": 0.0}, {"jobs": 0}):
        with pytest.raises(DataError, match=next(iter(option))):
            measure(disc()[None], **option)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "photutils", None)
    with pytest.raises(DataError, match=r"pip install 'astroad_jax\[morphology\]'"):
        measure(disc()[None])


def test_importing_costs_nothing_heavy():
    heavy = "{'statmorph', 'photutils', 'sklearn', 'scipy', 'astropy'}"
    code = f"import sys, astroad_jax.analysis.morphology; print(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "0"


def table(rows: int = 100, strange: int = 15) -> dict[str, np.ndarray]:
    """Features of two groups far apart, the strange ones last, on scales that differ by a thousand."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, len(FEATURES)))
    x[-strange:] += 8
    return dict(zip(FEATURES, x.T * np.geomspace(1e-3, 1, len(FEATURES))[:, None]))


def test_the_smaller_cluster_is_anomalous():
    features = table()
    labels = two_clusters(features)
    assert labels.dtype == np.int8
    assert labels.tolist() == [0] * 85 + [1] * 15
    np.testing.assert_array_equal(two_clusters(np.stack([features[name] for name in FEATURES], axis=1)), labels)
    np.testing.assert_array_equal(two_clusters({**features, "flag": np.zeros(100)}, seed=4), labels)


def test_known_ordinary_galaxies_name_the_cluster():
    """Most of the sample may be anomalous: the training set says which cluster is not."""
    ordinary = np.arange(100) >= 85
    assert two_clusters(table(), ordinary=ordinary).tolist() == [1] * 85 + [0] * 15


def test_rows_without_features_are_left_out():
    features = table()
    features["gini"][[3, 99]] = np.nan
    labels = two_clusters(features)
    assert labels[[3, 99]].tolist() == [-1, -1]
    assert (labels == 1).sum() == 14
    kinds = np.where(np.arange(100) < 85, "isolated", "pair")
    assert flagged(labels, kinds) == {
        "isolated": {"fraction": 0.0, "measured": 84, "unmeasured": 1},
        "pair": {"fraction": 1.0, "measured": 14, "unmeasured": 1},
    }
    assert math.isnan(flagged(np.array([-1]), np.array(["pair"]))["pair"]["fraction"])


def test_clusters_that_cannot_be_are_refused():
    nothing = np.full((5, 5), np.nan)
    with pytest.raises(DataError, match="0 of 5"):
        two_clusters(nothing)
    with pytest.raises(DataError, match="one by one"):
        two_clusters(table(), ordinary=np.ones(3, bool))
    with pytest.raises(DataError, match="none of the ordinary"):
        two_clusters(table(), ordinary=np.zeros(100, bool))
    with pytest.raises(DataError, match="belong together"):
        flagged(np.zeros(3), np.zeros(4))

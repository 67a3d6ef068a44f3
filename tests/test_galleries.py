"""Figures about images and maps: what they count is right, and they are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from astroad_jax.analysis import galleries, maps
from astroad_jax.errors import DataError


def picture(path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 3000


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_gallery_of_images_and_residuals(tmp_path, bands):
    images = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, bands))
    columns = {"input": images, "rebuilt": 0.9 * images, "residual": 0.1 * images}
    galleries.gallery(tmp_path / "g.png", columns, ["a", "b", "c"], title="three")
    assert picture(tmp_path / "g.png")


@pytest.mark.parametrize("counts", [(0, 0), (2, 3)])
def test_gallery_needs_as_many_in_every_column(tmp_path, counts):
    columns = {str(n): np.zeros((count, 4, 4, 1)) for n, count in enumerate(counts)}
    with pytest.raises(DataError, match="gallery"):
        galleries.gallery(tmp_path / "g.png", columns)


def test_what_cannot_be_drawn_is_said(tmp_path):
    with pytest.raises(DataError, match="bands"):
        galleries.gallery(tmp_path / "g.png", {"input": np.zeros((2, 4, 4))})
    with pytest.raises(DataError, match="no property"):
        galleries.fractions(tmp_path / "f.png", {})


def test_fractions_per_bin():
    values = np.array([0.0, 1.0, 1.5, 2.0, 3.0, 4.0, np.nan])
    flagged = np.array([1, 0, 1, 1, 1, 0, 1], bool)
    at, share, low, high = galleries.binned(values, flagged, np.array([0.0, 2.0, 4.0]))
    np.testing.assert_allclose(at, [2.5 / 3, 3.0])
    np.testing.assert_allclose(share, [2 / 3, 2 / 3])  # the upper edge of the last bin belongs to it
    assert ((low < share) & (share < high)).all()


def test_fractions_and_maps_are_drawn(tmp_path):
    rng = np.random.default_rng(1)
    groups = {name: (rng.normal(size=60), rng.random(60) < 0.3) for name in ("pairs", "remnants")}
    groups["absent"] = (np.full(5, np.nan), np.zeros(5, bool))
    galleries.fractions(tmp_path / "f.png", {"mass": groups, "size": groups})
    galleries.scatter(tmp_path / "s.png", rng.normal(size=(50, 2)), np.array(["a"] * 25 + ["b"] * 25))
    assert picture(tmp_path / "f.png")
    assert picture(tmp_path / "s.png")


def test_map_keeps_clusters_apart_and_repeats():
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.normal(size=(60, 80)), 8 + rng.normal(size=(60, 80))]).astype(np.float32)
    places = maps.tsne(x, seed=3, perplexity=15)
    gap = np.linalg.norm(places[:60].mean(0) - places[60:].mean(0))
    assert gap > 2 * max(places[:60].std(0).max(), places[60:].std(0).max())
    np.testing.assert_array_equal(places, maps.tsne(x, seed=3, perplexity=15))


@pytest.mark.parametrize("x", [np.zeros((10, 4)), np.full((200, 4), np.nan)])
def test_map_of_too_few_or_of_nothing_finite(x):
    with pytest.raises(DataError):
        maps.tsne(x, seed=0)


def test_scores_in_ranges_of_properties(tmp_path):
    rng = np.random.default_rng(0)
    values, scores = rng.normal(size=60), rng.uniform(1, 2, 60)
    values[3], scores[4] = np.nan, np.inf
    groups = {"mock": (values[:40], scores[:40]), "observed": (values[40:], scores[40:])}
    galleries.scores_by_property(tmp_path / "p.png", {"size": groups, "one value": {"mock": (np.ones(9), scores[:9])}})
    assert (tmp_path / "p.png").stat().st_size > 1000
    with pytest.raises(DataError, match="no property"):
        galleries.scores_by_property(tmp_path / "p.png", {"size": {"mock": (np.full(3, np.nan), np.ones(3))}})
    with pytest.raises(DataError, match="no property"):
        galleries.scores_by_property(tmp_path / "p.png", {})

"""Ways through a latent space: along one dimension, along a polyline, and what real objects lie there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astroad_jax.errors import DataError

SPAN = (0.005, 0.995)  # quantiles of the codes between which a dimension is gone along


class Track(NamedTuple):
    """Stations of a polyline, and the objects next to each.

    Attributes
    ----------
    places : (S, d) float
        Evenly spaced along its length, both ends among them.
    rows : (S, k) int
        Of the nearest objects, nearest first.
    """

    places: np.ndarray
    rows: np.ndarray


def traversal(codes: np.ndarray, steps: int = 7, span: tuple[float, float] = SPAN) -> np.ndarray:
    """Codes along each latent dimension, the others at their mean: figure 20 of Nicolaou et al.

    Parameters
    ----------
    codes : (N, L) float
        Of the objects that were trained on.
    steps : int
        Odd, so that the middle one is the mean of all codes and the same in every dimension.
    span : (low, high)
        Quantiles reached at the ends (the paper gives no limits): beyond them a decoder only extrapolates. The way from
        the mean to either end is in equal steps.

    Returns
    -------
    (L, steps, L) float32
        Path of each dimension.

    Raises
    ------
    DataError
        An even number of steps, or codes that are none or not finite.
    """
    codes = _finite(codes)
    if steps < 3 or steps % 2 == 0:
        what, fix = "a way through the mean has an odd number of steps", "take one step more"
        raise DataError(what, expected="3, 5, 7, ...", got=steps, fix=fix)
    centre, ends = codes.mean(0), np.quantile(codes, span, axis=0)
    half = np.linspace(0, 1, steps // 2 + 1)[:, None]
    path = np.concatenate([ends[0] + half[:-1] * (centre - ends[0]), centre + half * (ends[1] - centre)])  # (steps, L)
    every = np.broadcast_to(centre, (codes.shape[1], steps, codes.shape[1])).copy()
    index = np.arange(codes.shape[1])
    every[index, :, index] = path.T
    return every.astype(np.float32)


def track(codes: np.ndarray, corners: np.ndarray, stations: int = 5, nearest: int = 30) -> Track:
    """Objects along a polyline: figures 14 to 19 of Nicolaou et al., and the stacks that they propose.

    Parameters
    ----------
    codes : (N, d) float
        In the dimensions that the polyline is drawn in.
    corners : (P, d) float
        Of the polyline, P at least 2.
    nearest : int
        Objects a station (all, where there are fewer), by Euclidean distance; an object may be next to several stations.

    Raises
    ------
    DataError
        No way to go, no objects, or codes that are not finite.
    """
    codes, corners = _finite(codes), _finite(corners)
    lengths = np.linalg.norm(np.diff(corners, axis=0), axis=1)
    if corners.shape[1] != codes.shape[1] or not lengths.sum() > 0 or not len(codes):
        expected = f"two different points or more of {codes.shape[1]} dimensions, and objects"
        got = f"corners {corners.shape}, {len(codes)} objects"
        fix = "give the corners in the dimensions of the codes (`spine` finds some)"
        raise DataError("a track needs a way and objects along it", expected=expected, got=got, fix=fix)
    at = np.concatenate([[0.0], np.cumsum(lengths)])
    where = np.linspace(0, at[-1], stations)
    places = np.stack([np.interp(where, at, axis) for axis in corners.T], axis=1)
    nearest = min(nearest, len(codes))
    squared = ((codes[None] - places[:, None]) ** 2).sum(-1)
    rows = np.argsort(squared, axis=1, kind="stable")[:, :nearest]
    return Track(places, rows)


def spine(codes: np.ndarray, corners: int = 5, span: tuple[float, float] = (0.02, 0.98)) -> np.ndarray:
    """A polyline along a cloud of points, where none is drawn by hand: medians of slices across its longest axis.

    Parameters
    ----------
    codes : (N, d) float
    corners : int
        Slices, even in the first principal component between the quantiles `span`.

    Returns
    -------
    (corners, d) float
        Slices without objects are left out. From low to high in the dimension that varies most.

    Raises
    ------
    DataError
        Fewer than 2 objects, or all in one place between the quantiles.
    """
    codes = _finite(codes)
    centred = codes - np.median(codes, axis=0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    axis = axis * np.sign(axis[np.argmax(np.abs(axis))])
    along = centred @ axis
    edges = np.linspace(*np.quantile(along, span), corners + 1)
    slices = np.clip(np.digitize(along, edges) - 1, -1, corners)
    found = [np.median(codes[slices == i], axis=0) for i in range(corners) if (slices == i).any()]
    if len(found) < 2:
        expected, got = f"two slices with objects between the quantiles {span}", f"{len(found)} of {len(codes)} objects"
        fix = "give more objects, or wider quantiles (span)"
        raise DataError("a cloud of one place has no length", expected=expected, got=got, fix=fix)
    return np.stack(found)


def stack(flux: np.ndarray, ivar: np.ndarray) -> np.ndarray:
    """Mean of spectra, pixel by pixel over those in which the pixel is known: ``(..., k, W) -> (..., W)``.

    Unweighted, as all have unit norm: weighted by inverse variance, the brightest object would be the stack. NaN where no
    spectrum knows the pixel.
    """
    known = np.asarray(ivar) > 0
    total = np.where(known, flux, 0.0).sum(-2)
    with np.errstate(invalid="ignore"):
        return total / np.where(known.any(-2), known.sum(-2), np.nan)


def _finite(codes: np.ndarray) -> np.ndarray:
    codes = np.asarray(codes, np.float64)
    some = codes.ndim == 2 and codes.size > 0
    if not some or not np.isfinite(codes).all():
        got = f"{int((~np.isfinite(codes).all(1)).sum())} rows that are not" if some else f"shape {codes.shape}"
        expected, fix = "finite numbers (N, dimensions), N at least 1", "give some, and leave out flagged objects"
        raise DataError("these codes cannot be used", expected=expected, got=got, fix=fix)
    return codes

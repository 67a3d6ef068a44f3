"""Flux-conserving resampling of many spectra at once.

A spectrum is constant over each of its pixels. The mean of output bin j is ``sum_i w_ij f_i / sum_i w_ij`` with w_ij the
width over which pixel i and bin j overlap, and its variance ``sum_i w_ij^2 s_i^2 / (sum_i w_ij)^2``: the overlap matrix
(Carnall 2017, arXiv:1705.05165, equations 3 and 4), of which nothing but the two pixels that a bin's edges cut
differs from sums over runs of whole pixels. Covariances between bins that share a pixel are left out, as in paper 003.

Each result is a sum over its own pixels in their order, so that it does not depend on the other spectra of the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LEAST = 1e-6  # share of a bin below which its good part is rounding


class Resampled(NamedTuple):
    """Spectra on output bins.

    Attributes
    ----------
    flux : (N, B) float64
        Mean over the part of the bin that pixels cover; beyond the outermost covered bin, its value.
    ivar : (N, B) float64
        Inverse variance, 0 where no good pixel feeds the bin. See `resample` for bins of which a part is good.
    covered : (N, B) float64
        Width of the part of the bin that pixels cover, good or bad.
    """

    flux: np.ndarray
    ivar: np.ndarray
    covered: np.ndarray


class _Cuts(NamedTuple):
    """Where the bins' edges cut the pixels: flat index of the pixel, and the share of it on the left, ``(N, B + 1)``."""

    at: np.ndarray
    left: np.ndarray


def resample(flux: np.ndarray, ivar: np.ndarray, edges: np.ndarray, grid: np.ndarray) -> Resampled:
    """Resample spectra onto bins.

    Flux that pixels bring into the covered range is conserved: ``sum_j flux_j covered_j`` is their integral over it. A
    pixel of ivar 0 keeps its part in the flux (it holds an interpolated value), and has none in the ivar: this is the
    inverse variance of the mean over the bin's good part, times the share of the bin that is good. So it
    is exact where all is good, and falls to 0 with the good part.

    Parameters
    ----------
    flux : (N, W)
        Flux per wavelength, finite everywhere.
    ivar : (N, W)
        Inverse variance; 0 or positive, finite.
    edges : (W + 1,) or (N, W + 1)
        Edges of the pixels, increasing; of width 0 where there is no pixel.
    grid : (B + 1,) or (N, B + 1)
        Edges of the bins, increasing, in the frame of `edges`.
    """
    edges, grid = np.asarray(edges, np.float64), np.asarray(grid, np.float64)
    width, cuts = np.diff(edges), cut(edges, np.broadcast_to(grid, (len(flux), grid.shape[-1])))
    bins = np.diff(grid)
    covered = np.diff(np.clip(grid, edges[..., :1], edges[..., -1:])) * np.ones((len(flux), 1))
    good = ivar > 0
    seen = covered if good.all() else integral(good * width, cuts)
    with np.errstate(over="ignore"):  # no ivar at all in effect
        squares = _squares(_divided(np.square(width), ivar, good), cuts)
        weight = _divided(seen * seen * seen, bins * squares, (seen > LEAST * bins) & (squares > 0))
    reached = covered > 0
    return Resampled(_extended(_divided(integral(flux * width, cuts), covered, reached), reached), weight, covered)


def _divided(above: np.ndarray, below: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Quotients, and 0 elsewhere; divisions that need no warning are many times as fast as those silenced."""
    return np.divide(above, below, out=np.zeros(where.shape), where=where)


def cut(edges: np.ndarray, grid: np.ndarray) -> _Cuts:
    """Find the edges of bins ``(N, B + 1)`` among those of pixels, ``(W + 1,)`` or ``(N, W + 1)``."""
    count = edges.shape[-1] - 1
    inside = np.clip(_locate(edges, grid), 0, count - 1)
    rows = np.arange(len(grid))[:, None]
    own = rows * (count + 1) if edges.ndim == 2 else 0
    flat = np.ravel(edges)
    low, high = flat[inside + own], flat[inside + own + 1]
    left = _divided(grid - low, high - low, high > low)
    return _Cuts(inside + rows * count, np.clip(left, 0.0, 1.0))


def integral(values: np.ndarray, cuts: _Cuts) -> np.ndarray:
    """Integrals over the bins, ``(N, B)``, of the pixels' own integrals `values` ``(N, W)``."""
    part = cuts.left * np.ravel(values)[cuts.at]
    return _runs(values, cuts) + (part[:, 1:] - part[:, :-1])


def _squares(values: np.ndarray, cuts: _Cuts) -> np.ndarray:
    """Like `integral`, with the square of the share of a pixel that lies in the bin."""
    cutted = np.ravel(values)[cuts.at]
    first, last = cuts.left[:, :-1], cuts.left[:, 1:]
    apart = _runs(values, cuts) - cutted[:, :-1] * (first * (2 - first)) + cutted[:, 1:] * last**2
    return np.where(cuts.at[:, 1:] == cuts.at[:, :-1], cutted[:, 1:] * (last - first) ** 2, apart)


def _runs(values: np.ndarray, cuts: _Cuts) -> np.ndarray:
    """Sums over the pixels from that which a bin's lower edge cuts up to, but without, that which its upper edge cuts."""
    sums = np.add.reduceat(np.ravel(values), np.ravel(cuts.at), dtype=np.float64).reshape(cuts.at.shape)[:, :-1]
    return np.where(cuts.at[:, 1:] > cuts.at[:, :-1], sums, 0.0)


def _locate(edges: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Index of the last edge at or below each of the grid's, ``(N, B + 1)``; -1 where all are above.

    Pixels of many spectra are searched at once by putting them one behind the other, each on its own unit of length; as
    that rounds, the pixel found is then compared with the edges themselves.
    """
    if edges.ndim == 1:
        return np.searchsorted(edges, grid, side="right") - 1
    count = edges.shape[1]
    rows = np.arange(len(edges))[:, None]
    low, span = edges[:, :1], edges[:, -1:] - edges[:, :1]
    ladder = (edges - low) / span + 2.0 * rows
    wanted = np.clip((grid - low) / span, -0.5, 1.5 - 2**-20) + 2.0 * rows
    found = np.searchsorted(np.ravel(ladder), np.ravel(wanted), side="right").reshape(grid.shape) - 1 - rows * count
    flat = np.ravel(edges)
    found -= (found >= 0) & (flat[np.maximum(found, 0) + rows * count] > grid)
    return found + (flat[np.minimum(found + 1, count - 1) + rows * count] <= grid) * (found < count - 1)


def _extended(mean: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """The nearest covered bin's value where a bin is not covered; 0 where none is."""
    if covered.all():
        return mean
    size = mean.shape[1]
    first, last = np.argmax(covered, axis=1), size - 1 - np.argmax(covered[:, ::-1], axis=1)
    nearest = np.clip(np.arange(size), first[:, None], last[:, None])
    return np.where(covered.any(axis=1, keepdims=True), np.take_along_axis(mean, nearest, axis=1), 0.0)

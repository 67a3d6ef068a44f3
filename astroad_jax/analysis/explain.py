"""Why an object is strange: residuals in units of the noise, what contributes most, and the most similar known objects.

Arrays in, arrays out; how a score falls apart into contributions is `engine.explain`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from astroad_jax.errors import DataError

WITHIN = 0.6827  # share of a normal distribution that is within one standard deviation
BLOCK = 8192  # known objects that are compared at once


def noise(residuals: np.ndarray) -> np.ndarray:
    """One sigma of every entry, from the residuals of known objects: what 68.27 % of them are within.

    This is the standard deviation of normal residuals around 0. It is the noise and what the model gets wrong of ordinary
    objects together, and an outlier among them does not move it.

    Parameters
    ----------
    residuals : (M, ...) float
        Object less reconstruction; what is not finite does not count.

    Returns
    -------
    (...) float64
        NaN where no residual is finite.

    Raises
    ------
    DataError
        No object.
    """
    if not len(residuals):
        what, fix = "there are no residuals to take a noise level from", "give the residuals of some known objects"
        raise DataError(what, expected="at least one object", got=0, fix=fix)
    size = np.abs(np.asarray(residuals, np.float64))
    known = np.isfinite(size).any(axis=0)
    held = np.where(np.isfinite(size), size, np.nan)
    return np.where(known, np.nanquantile(np.where(known, held, 0.0), WITHIN, axis=0), np.nan)


def in_sigma(x: np.ndarray, rebuilt: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """(x - rebuilt) / sigma, ``(N, ...)``: by how many sigma every entry lies above its reconstruction.

    NaN where sigma is not positive: there, the model has made no error on known objects, and nothing can be said.
    """
    sigma = np.asarray(sigma, np.float64)
    return (np.asarray(x, np.float64) - rebuilt) / np.where(sigma > 0, sigma, np.nan)[None]


def in_own_noise(x: np.ndarray, rebuilt: np.ndarray) -> np.ndarray:
    """(flux - rebuilt) sqrt(ivar) of spectra ``(N, 2, W)``, flux and inverse variance: ``(N, W)``, NaN where masked."""
    flux, ivar = np.moveaxis(np.asarray(x, np.float64), 1, 0)
    return (flux - rebuilt[:, 0]) * np.sqrt(np.where(ivar > 0, ivar, np.nan))


def typical(x: np.ndarray) -> np.ndarray:
    """The median of objects ``(M, ...)``, entry by entry.

    Raises
    ------
    DataError
        No object.
    """
    if not len(x):
        fix = "give some known objects"
        raise DataError("there are no objects to take a median of", expected="at least one", got=0, fix=fix)
    return np.median(x, axis=0)


class Largest(NamedTuple):
    """Of N objects, the K entries that contribute most to the score, up or down.

    Attributes
    ----------
    entry : (N, K) int64
        Places in the flattened object, the largest first.
    value : (N, K) float64
        Contributions; up = makes stranger.
    share : (N, K) float64
        The same over the sum of the sizes of all contributions of the object, so from -1 to 1; 0 where all are 0.
    """

    entry: np.ndarray
    value: np.ndarray
    share: np.ndarray


def largest(contribution: np.ndarray, most: int) -> Largest:
    """The entries of largest contribution in size, of ``(N, ...)`` contributions; of equal ones the first."""
    flat = np.asarray(contribution, np.float64).reshape(len(contribution), -1)
    entry = np.argsort(-np.abs(flat), axis=1, kind="stable")[:, :most]
    value, whole = np.take_along_axis(flat, entry, axis=1), np.abs(flat).sum(axis=1, keepdims=True)
    return Largest(entry, value, np.divide(value, whole, out=np.zeros_like(value), where=whole > 0))


class Neighbours(NamedTuple):
    """The nearest known objects of N objects, nearest first; K of them, or as many as have been looked at.

    Attributes
    ----------
    distance : (N, K) float64
        Euclidean, between embeddings as they are; NaN where there are fewer than K.
    id : (N, K)
        In the ids' own type; 0 or ``""`` where there are fewer.
    x : (N, K, ...) or None
        The objects themselves, where they are kept.
    """

    distance: np.ndarray
    id: np.ndarray
    x: np.ndarray | None


def no_neighbours(count: int, most: int, ids: np.ndarray, shape: Sequence[int] | None) -> Neighbours:
    """Where a search for `most` neighbours of `count` objects begins; objects of `shape` are kept where one is given."""
    kept = None if shape is None else np.full((count, most, *shape), np.nan, np.float32)
    return Neighbours(np.full((count, most), np.nan), np.zeros((count, most), ids.dtype), kept)


def nearer(
    held: Neighbours, codes: np.ndarray, known: np.ndarray, ids: np.ndarray, x: np.ndarray, same: np.ndarray | None = None
) -> Neighbours:
    """The nearest of those held and of more known objects.

    Parameters
    ----------
    codes : (N, D) float
        Embeddings of the objects.
    known, ids, x : (M, D), (M,), (M, ...)
        Embeddings, ids, and the known objects.
    same : (N, M) bool, optional
        Pairs that are one and the same object, which is no neighbour of its own.
    """
    for start in range(0, len(known), BLOCK):
        part = slice(start, start + BLOCK)
        held = _nearer(held, codes, known[part], ids[part], x[part], None if same is None else same[:, part])
    return held


def _nearer(
    held: Neighbours, codes: np.ndarray, known: np.ndarray, ids: np.ndarray, x: np.ndarray, same: np.ndarray | None
) -> Neighbours:
    most = held.distance.shape[1]
    near = _closest(codes, known, same, most)  # (N, k): rows of the known
    apart = np.linalg.norm(codes[:, None].astype(np.float64) - known[near], axis=2)
    if same is not None:
        apart = np.where(np.take_along_axis(same, near, axis=1), np.nan, apart)
    distance = np.concatenate([held.distance, apart], axis=1)
    order = np.argsort(np.where(np.isnan(distance), np.inf, distance), axis=1, kind="stable")[:, :most]

    def merged(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        both = np.concatenate([old, new], axis=1)
        return np.take_along_axis(both, order.reshape(*order.shape, *(1,) * (both.ndim - 2)), axis=1)

    kept = None if held.x is None else merged(held.x, x[near])
    return Neighbours(np.take_along_axis(distance, order, axis=1), merged(held.id, ids[near]), kept)


def _closest(codes: np.ndarray, known: np.ndarray, same: np.ndarray | None, most: int) -> np.ndarray:
    """Rows of the `most` nearest, in rising order of the rows."""
    a, b = codes.astype(np.float64), known.astype(np.float64)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    if same is not None:
        squares = np.where(same, np.inf, squares)
    most = min(most, len(known))
    near = np.argpartition(squares, most - 1, axis=1)[:, :most] if most else np.zeros((len(codes), 0), np.int64)
    return np.sort(near, axis=1)

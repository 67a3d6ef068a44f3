"""Infill of bad pixels by iterative principal components.

Yip et al. (2004, AJ 128, 585), after Connolly & Szalay (1999, AJ 117, 2052): a spectrum is taken as a combination of the
training mean and the first eigenvectors of the training covariance, fitted to its good pixels and read off at its bad
ones. Mean and eigenvectors come from spectra whose bad pixels are so filled, and so the two are repeated in turn. Paper
003 gives neither number of components nor of rounds; 10 and 20 are those of the nearest code (Portillo et al. 2020),
which like this one brings every spectrum to L2 norm 1 in every round.

Deviations. (1) Good pixels weigh alike, whatever their errors, as in that code. (2) The mean has a coefficient of its
own, so that a spectrum need not be normalised before it is fitted, which cannot be done well while pixels are lacking.
(3) Coefficients are shrunk: the fit minimises

    sum_good (x - a mean - sum_k c_k e_k)^2 + noise (a^2 + sum_k c_k^2 / variance_k)

with `noise` the training variance of a pixel beside the components. These are the most probable coefficients if they and
the noise are normal: least squares, as in the sources, where many pixels are good; a scaled mean where hardly any is.

The covariance (W, W) is summed up in pieces and its first eigenvectors are found by subspace iteration: time is linear in
the number of spectra, and memory is that of the data and one piece. Complete spectra are summed once, the others in every
round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from astroad_jax.errors import DataError
from astroad_jax.preprocess.pieces import runs

CHUNK = 2**21  # pixels summed at a time
BLOCK = 2**18  # pixels filled at a time
LEAST_NOISE = 1e-9  # for spectra of norm 1: keeps the equations solvable where there is no noise
SMALL = 64  # widths up to which all eigenvectors are computed
POWERS = 30  # of the subspace iteration at most; the next round goes on from there
SETTLED = 1e-6  # relative change of an eigenvalue at which it ends; the vectors' is about its square root
TINY = 1e-12  # of the trace: added to the diagonal, so that what the spectra do not span stays a direction

Array = Any  # of NumPy or of jax.numpy


class Basis(NamedTuple):
    """What infill learns, in units of spectra of L2 norm 1.

    Attributes
    ----------
    mean : (W,) float32
    vectors : (K, W) float32
        Orthonormal, in falling order of variance; the largest entry of each is positive.
    variance : (K,) float32
        Along each vector.
    noise : () float32
        Variance of a pixel beside the vectors.
    """

    mean: np.ndarray
    vectors: np.ndarray
    variance: np.ndarray
    noise: np.ndarray


class _Sums(NamedTuple):
    """Of spectra less a pivot: their number, sum ``(W,)`` and products ``(W, W)``, float64."""

    count: int
    first: np.ndarray
    second: np.ndarray


def fit(flux: np.ndarray, good: np.ndarray, components: int = 10, iterations: int = 20) -> Basis:
    """Learn mean and eigenvectors from spectra with bad pixels.

    Parameters
    ----------
    flux : (N, W)
        Training spectra, of any scale each; not looked at where bad. Spectra without a good pixel that is not 0
        take no part. A pixel that is bad in all of them takes after the nearest ones that are not.
    good : (N, W) bool
    components : int
        Eigenvectors kept; fewer where the spectra do not span as many.
    iterations : int
        Rounds of filling and learning; without bad pixels one is as good.

    Raises
    ------
    DataError
        No spectrum to learn from.
    """
    some = [(good[part] & (flux[part] != 0)).any(axis=1) for part in runs(*flux.shape, CHUNK)]
    rows = np.flatnonzero(np.concatenate(some or [np.zeros(0, bool)]))
    if not len(rows):
        got = f"{len(flux)} spectra without one"
        raise DataError("nothing to learn the infill of spectra from", expected="a good pixel", got=got, fix="see the flags")
    whole = good.all(axis=1)[rows]
    basis, seen = _start(flux, good, rows)
    pivot, block = basis.mean, np.random.default_rng(0).normal(size=(flux.shape[1], 2 * components + 2))
    fixed = _summed(flux, good, rows[whole], pivot, basis)
    for _ in range(1 if whole.all() else iterations):
        sums = _Sums(*(a + b for a, b in zip(fixed, _summed(flux, good, rows[~whole], pivot, basis))))
        basis, block = _learnt(sums, pivot, components, block)
        basis = basis._replace(mean=_bridged(basis.mean[None], seen)[0], vectors=_bridged(basis.vectors, seen))
    return basis


def fill(basis: Basis, flux: Array, good: Array, xp: Any = np) -> Array:
    """Spectra with their bad pixels filled; each by itself, so that the result does not depend on the batch.

    Parameters
    ----------
    basis : Basis
    flux : (N, W)
        Of any scale; not looked at where bad.
    good : (N, W) bool
        A spectrum of which no pixel is good becomes 0.
    xp : module
        ``numpy``, or ``jax.numpy`` to trace under jit.

    Returns
    -------
    (N, W) float32
        Good pixels as they are.
    """
    if xp is not np:
        return _fill(basis, flux, good, xp)
    filled = np.where(good, flux, 0).astype(np.float32)
    holed = np.flatnonzero(~good.all(axis=1))
    for part in runs(len(holed), flux.shape[1], BLOCK):
        rows = holed[part]
        filled[rows] = _fill(basis, flux[rows], good[rows], np)
    return filled


def _fill(basis: Basis, flux: Array, good: Array, xp: Any) -> Array:
    """See `fill`; float64 in NumPy."""
    kind = np.float64 if xp is np else np.float32
    known = xp.where(good, flux, 0).astype(kind)
    scale = xp.max(xp.abs(known), axis=1, keepdims=True)
    scale = xp.where(scale > 0, scale, 1)  # float32 could not hold the squares of all that it can hold
    guess = _guess(basis, known / scale, good.astype(kind), _alone, xp) * scale
    return xp.where(good, flux, guess).astype(xp.float32)


def _guess(basis: Basis, known: Array, good: Array, product: Callable[[Array, Array, Any], Array], xp: Any) -> Array:
    """(N, W) most probable spectra, from flux that is 0 where bad, and 1 or 0 for good or bad.

    Coefficients are those of the rows of `design`, which have variance 1 each: (good pixels' products + noise) c = right.
    """
    design = xp.concatenate([basis.mean[None], basis.vectors * xp.sqrt(basis.variance)[:, None]]).astype(known.dtype)
    size = len(design)
    upper, place = np.triu_indices(size), np.zeros((size, size), int)
    place[upper] = place.T[upper] = np.arange(len(upper[0]))
    normal = product(design[upper[0]] * design[upper[1]], good, xp)[:, place]
    normal = normal + (basis.noise * xp.eye(size, dtype=known.dtype))[None]
    right = product(design, known, xp)
    return product(design.T, xp.linalg.solve(normal, right[:, :, None])[:, :, 0], xp)


def _alone(table: Array, x: Array, xp: Any) -> Array:
    """``x @ table.T`` by one product of the same shape for every row: BLAS rounds by shape."""
    return xp.matmul(table[None], x[:, :, None])[:, :, 0]


def _together(table: Array, x: Array, xp: Any) -> Array:
    """``x @ table.T`` by one product, which is faster."""
    return x @ table.T


def _start(flux: np.ndarray, good: np.ndarray, rows: np.ndarray) -> tuple[Basis, np.ndarray]:
    """The mean of good pixels, of spectra scaled to a root mean square of 1 / sqrt(W), no vectors; and pixels ever good."""
    width = flux.shape[1]
    total, count = np.zeros(width), np.zeros(width)
    for piece in runs(len(rows), width, CHUNK):
        part = rows[piece]
        use = good[part]
        x = np.where(use, flux[part], 0).astype(np.float64)
        x *= np.sqrt(use.sum(axis=1) / (width * np.square(x).sum(axis=1)))[:, None]
        total, count = total + x.sum(axis=0), count + use.sum(axis=0)
    seen = np.flatnonzero(count)
    mean = _bridged((total / np.maximum(count, 1))[None], seen)[0].astype(np.float32)
    return Basis(mean, np.zeros((0, width), np.float32), np.zeros(0, np.float32), np.float32(LEAST_NOISE)), seen


def _bridged(rows: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Rows interpolated over the pixels that are not seen in any spectrum, where nothing else can be learnt."""
    if len(seen) == rows.shape[1]:
        return rows
    place = np.arange(rows.shape[1])
    return np.array([np.interp(place, seen, row[seen]) for row in rows], rows.dtype).reshape(rows.shape)


def _summed(flux: np.ndarray, good: np.ndarray, rows: np.ndarray, pivot: np.ndarray, basis: Basis) -> _Sums:
    """Sums over spectra, filled and of norm 1; the pivot keeps products of float32, added up in float64, precise."""
    width = flux.shape[1]
    first, second = np.zeros(width), np.zeros((width, width))
    for piece in runs(len(rows), width, CHUNK):
        part = rows[piece]
        use = good[part]
        x = np.where(use, flux[part], 0).astype(np.float32)
        x /= np.abs(x).max(axis=1, keepdims=True)
        if not use.all():
            x = np.where(use, x, _guess(basis, x, use.astype(np.float32), _together, np).astype(np.float32))
        x /= np.sqrt(np.einsum("nw,nw->n", x, x))[:, None]
        x -= pivot
        first += x.sum(axis=0, dtype=np.float64)
        second += x.T @ x
    return _Sums(len(rows), first, second)


def _learnt(sums: _Sums, pivot: np.ndarray, components: int, block: np.ndarray) -> tuple[Basis, np.ndarray]:
    """Mean and eigenvectors of the covariance, and the block of vectors from which the next round's may start."""
    offset = sums.first / sums.count
    covariance = sums.second / sums.count - np.outer(offset, offset)
    kept = min(components, sums.count - 1, len(pivot))
    values, block = _leading(covariance, block, kept)
    vectors, values = block[:, :kept].T, np.maximum(values[:kept], 0)
    vectors = vectors * np.where(vectors[np.arange(kept), np.abs(vectors).argmax(axis=1)] < 0, -1, 1)[:, None]
    noise = max((np.trace(covariance) - values.sum()) / len(pivot), LEAST_NOISE)
    return Basis(*(np.asarray(part, np.float32) for part in (pivot + offset, vectors, values, noise))), block


def _leading(matrix: np.ndarray, block: np.ndarray, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Largest eigenvalues, falling, and their vectors as columns: at least `kept` of them.

    Subspace iteration with Rayleigh-Ritz (Golub & Van Loan, Matrix Computations, section 8.2) from a block of more columns
    than `kept`. A power costs W^2 a column, where all eigenvectors would take W^3; it is made of products alone, which
    share a busy machine's cores better than factorisations do.
    """
    if len(matrix) <= max(SMALL, block.shape[1]):
        values, vectors = np.linalg.eigh(matrix)
        return values[::-1], vectors[:, ::-1]
    matrix = matrix + np.eye(len(matrix)) * TINY * max(np.trace(matrix), TINY)
    before, image = np.zeros(kept), matrix @ block
    for _ in range(POWERS):
        block = _orthonormal(image)
        image = matrix @ block
        values, turn = np.linalg.eigh(block.T @ image)
        values, turn = values[::-1], turn[:, ::-1]
        block, image = block @ turn, image @ turn
        if np.all(np.abs(values[:kept] - before) <= SETTLED * np.abs(values[:kept])):
            break
        before = values[:kept]
    return values, block


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    """An orthonormal basis of what the columns span; the second pass takes away the rounding of the first."""
    for _ in range(2):
        columns = columns / np.sqrt(np.einsum("wk,wk->k", columns, columns))
        values, turn = np.linalg.eigh(columns.T @ columns)
        columns = columns @ (turn / np.sqrt(np.maximum(values, np.finfo(np.float64).eps)))
    return columns

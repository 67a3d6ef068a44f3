"""Classical detectors on vectors: scikit-learn's own (but for the density), turned so that up = stranger.

Each takes training rows ``(N, D)``, inliers as a rule, and a seed, and returns a scorer ``(M, D) -> (M,)``
float64. A row to be scored that is not finite gets NaN; such a row in training is an error. The result is a
function of rows and seed.

====================  =================================================================================
in `DETECTORS`        defaults, and whose
====================  =================================================================================
``isolation_forest``  100 trees of 256 rows: MCDSVDD (appendix) and DASVDD (section 4.2)
``ocsvm``             RBF kernel, nu = 0.01: MCDSVDD (appendix)
``ocsvm_half``        RBF kernel, nu = 0.5: DASVDD (section 4.2); scikit-learn's default
``kde``               Gaussian kernel, bandwidth by 5-fold cross-validation: DASVDD (section 4.2)
``lof``               20 neighbours: scikit-learn's default
``knn``               mean distance to 10 neighbours
``pca``               components for 95% of the variance; a linear autoencoder
====================  =================================================================================

Neither paper gives gamma; 1 / (D var(x)), scikit-learn's "scale", has been its default since 2019. The
contamination that MCDSVDD names for both its baselines moves a threshold and no score, so it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from astroad_jax.errors import DataError

Scorer = Callable[[np.ndarray], np.ndarray]
Detector = Callable[[np.ndarray, int], Scorer]

CHUNK = 1024  # rows whose distances to the training rows are in memory at a time


def isolation_forest(x: np.ndarray, seed: int, *, trees: int = 100, samples: int = 256) -> Scorer:
    """Isolation forest (Liu et al. 2008): score in (0, 1], high where few random cuts isolate the object.

    Parameters
    ----------
    x : (N, D) float
        Training rows.
    seed : int
        Of the forest.
    trees, samples : int
        Number of trees, and of rows each is grown on (all, where there are fewer).

    Raises
    ------
    DataError
        Training rows that are not finite, or fewer than two.
    """
    from sklearn.ensemble import IsolationForest

    x = _training_rows(x)
    forest = IsolationForest(n_estimators=trees, max_samples=min(samples, len(x)), random_state=seed).fit(x)
    return _scorer(lambda rows: -forest.score_samples(rows), x.shape[1])


def ocsvm(
    x: np.ndarray, seed: int, *, nu: float = 0.01, gamma: float | str = "scale", max_rows: int | None = None
) -> Scorer:
    """One-class SVM with RBF kernel (Schoelkopf et al. 1999): distance from the boundary, outside positive.

    Parameters
    ----------
    x : (N, D) float
        Training rows.
    seed : int
        Which rows are kept; the fit itself has no randomness.
    nu : float
        Upper bound on the share of training rows outside, lower bound on that of support vectors; in (0, 1].
    gamma : float or {"scale", "auto"}
        Kernel exp(-gamma |a - b|^2); ``scale`` is 1 / (D var(x)), ``auto`` 1 / D.
    max_rows : int, optional
        Fit on a random subset of so many rows: time and memory grow as N^2 and more.

    Raises
    ------
    DataError
        Training rows that are not finite, or fewer than two.
    """
    from sklearn.svm import OneClassSVM

    x = _subset(_training_rows(x), seed, max_rows)
    machine = OneClassSVM(kernel="rbf", nu=nu, gamma=gamma).fit(x)
    return _scorer(lambda rows: -machine.decision_function(rows), x.shape[1])


def kde(
    x: np.ndarray,
    seed: int,
    *,
    folds: int = 5,
    bandwidths: Sequence[float] | None = None,
    max_rows: int | None = None,
) -> Scorer:
    """Gaussian kernel density: score = -log density.

    Computed exactly, unlike scikit-learn's ``KernelDensity``, whose tree sums bottom out at about 1e-16 of
    the peak: beyond some eight bandwidths from the training rows (every image, that is) it gives all objects
    nearly one score.

    Parameters
    ----------
    x : (N, D) float
        Training rows.
    seed : int
        Of the folds and of the subset.
    folds : int
        Cross-validation that picks the bandwidth with the greatest held-out log-likelihood (N, where N is
        smaller).
    bandwidths : sequence of float, optional
        Standard deviations of the kernel to choose from. By default 16, a constant factor apart, from 0.05 to
        5 times the root mean square, over columns, of the training rows' standard deviations.
    max_rows : int, optional
        Use a random subset of so many rows: the search grows as N^2, and every score as N.

    Raises
    ------
    DataError
        Training rows that are not finite, or fewer than two; no bandwidth to choose from for constant rows.
    """
    x = _subset(_training_rows(x), seed, max_rows)
    candidates = _bandwidths(x) if bandwidths is None else np.asarray(bandwidths, np.float64)
    best = candidates[[np.argmax(_held_out_log_likelihood(x, seed, min(folds, len(x)), candidates))]]
    return _scorer(lambda rows: -_log_density(x, rows, best)[0], x.shape[1])


def _bandwidths(x: np.ndarray) -> np.ndarray:
    if np.ptp(x, axis=0).max() == 0:
        raise DataError("the training rows are all alike, so they give no bandwidth", fix="pass bandwidths")
    return np.sqrt(x.var(axis=0).mean()) * np.geomspace(0.05, 5, 16)


def _held_out_log_likelihood(x: np.ndarray, seed: int, folds: int, bandwidths: np.ndarray) -> np.ndarray:
    """Mean over folds of the summed log density of their rows, for each bandwidth ``(K,)``."""
    from sklearn.model_selection import KFold

    splits = KFold(folds, shuffle=True, random_state=seed).split(x)
    return sum(_log_density(x[train], x[held_out], bandwidths).sum(axis=1) for train, held_out in splits) / folds


def _log_density(x: np.ndarray, rows: np.ndarray, bandwidths: np.ndarray) -> np.ndarray:
    """log of the mean Gaussian kernel about `x` at `rows`, ``(K, M)``; distances serve all K bandwidths."""
    from scipy.special import logsumexp
    from sklearn.metrics.pairwise import euclidean_distances

    norm = np.log(len(x)) + x.shape[1] * np.log(bandwidths[:, None] * np.sqrt(2 * np.pi))
    sums = np.empty((len(bandwidths), len(rows)))
    for start in range(0, len(rows), CHUNK):
        squared = euclidean_distances(rows[start : start + CHUNK], x, squared=True)
        sums[:, start : start + CHUNK] = [logsumexp(squared / (-2 * h**2), axis=1) for h in bandwidths]
    return sums - norm


def lof(x: np.ndarray, seed: int, *, k: int = 20) -> Scorer:
    """Local outlier factor (Breunig et al. 2000) among the training rows; about 1 for an inlier.

    Parameters
    ----------
    x : (N, D) float
        Training rows. More than k identical ones make the factor unreliable; scikit-learn warns of it.
    seed : int
        Not used: there is no randomness.
    k : int
        Neighbours (N - 1, where N is no larger).

    Raises
    ------
    DataError
        Training rows that are not finite, or fewer than two.
    """
    from sklearn.neighbors import LocalOutlierFactor

    x = _training_rows(x)
    factor = LocalOutlierFactor(n_neighbors=min(k, len(x) - 1), novelty=True).fit(x)
    return _scorer(lambda rows: -factor.score_samples(rows), x.shape[1])


def lof_of_sample(x: np.ndarray, *, k: int = 20, jobs: int = -1) -> np.ndarray:
    """Local outlier factor of every row among the others: outlier detection, where `lof` is novelty detection.

    No row is its own neighbour here. That is what `lof` cannot give for the rows it learnt from, and what the DESI paper
    (Nicolaou et al., section 5.2.2) ranks its latents by, as the negative factor (NOF); this one is up = stranger.

    Parameters
    ----------
    x : (N, D) float
        The sample, for instance codes; rows that are not finite have none and are no one's neighbour. More than k identical
        ones make the factor unreliable; scikit-learn warns of it.
    k : int
        Neighbours (N - 1, where N is no larger).
    jobs : int
        Threads; -1 for all cores. The result is the same.

    Returns
    -------
    (N,) float64
        About 1 for an inlier; NaN for rows that are not finite.

    Raises
    ------
    DataError
        No vectors, or fewer than two finite ones.

    Notes
    -----
    A k-d tree: memory grows as N k, time about as N^1.3 at D = 10 (200,000 rows: 0.4 GB, six minutes on one core).
    """
    from sklearn.neighbors import LocalOutlierFactor

    x = np.asarray(x, np.float64)
    finite = np.isfinite(x).all(axis=1) if x.ndim == 2 else np.ones(len(x), bool)
    _check_rows(x[finite])
    factor = LocalOutlierFactor(n_neighbors=min(k, int(finite.sum()) - 1), algorithm="kd_tree", n_jobs=jobs).fit(x[finite])
    scores = np.full(len(x), np.nan)
    scores[finite] = -factor.negative_outlier_factor_
    return scores


def pca(x: np.ndarray, seed: int, *, components: int | float = 0.95) -> Scorer:
    """Principal components: squared distance from the plane of the leading ones.

    Parameters
    ----------
    x : (N, D) float
        Training rows.
    seed : int
        Not used: the decomposition is exact.
    components : int or float
        How many, or the share of the variance that they must explain.

    Raises
    ------
    DataError
        Training rows that are not finite, fewer than two, or all alike.
    """
    from sklearn.decomposition import PCA

    x = _training_rows(x)
    _check_varied(x)
    plane = PCA(components, svd_solver="full").fit(x)
    return _scorer(lambda rows: ((rows - plane.inverse_transform(plane.transform(rows))) ** 2).sum(axis=1), x.shape[1])


def knn(x: np.ndarray, seed: int, *, k: int = 10) -> Scorer:
    """Mean distance to the k nearest training rows (Angiulli & Pizzuti 2002).

    Parameters
    ----------
    x : (N, D) float
        Training rows.
    seed : int
        Not used: there is no randomness.
    k : int
        Neighbours (N, where N is less).

    Raises
    ------
    DataError
        Training rows that are not finite, or fewer than two.
    """
    from sklearn.neighbors import NearestNeighbors

    x = _training_rows(x)
    tree = NearestNeighbors(n_neighbors=min(k, len(x))).fit(x)
    return _scorer(lambda rows: tree.kneighbors(rows)[0].mean(axis=1), x.shape[1])


def whitening(x: np.ndarray, seed: int, components: int) -> Callable[[np.ndarray], np.ndarray]:
    """Leading principal components, each with unit variance over the training rows.

    Parameters
    ----------
    x : (N, D) float32
        Training rows, finite.
    seed : int
        Of the randomised decomposition, which keeps wide images affordable.
    components : int
        How many at most: those that carry no variance but rounding are left out.

    Returns
    -------
    (M, D) -> (M, components) float64

    Raises
    ------
    DataError
        Training rows that are not finite, fewer than two, or all alike.
    """
    from sklearn.decomposition import PCA

    x = np.asarray(x, np.float32)
    _check_rows(x)
    _check_varied(x)
    most = min(components, len(x) - 1, x.shape[1])
    plane = PCA(most, svd_solver="randomized", random_state=seed).fit(x)
    kept = plane.singular_values_ > 1e-5 * plane.singular_values_[0]
    scale = np.sqrt(plane.explained_variance_[kept])
    return lambda rows: plane.transform(np.asarray(rows, np.float32))[:, kept].astype(np.float64) / scale


DETECTORS: dict[str, Detector] = {
    "isolation_forest": isolation_forest,
    "ocsvm": ocsvm,
    "ocsvm_half": partial(ocsvm, nu=0.5),
    "kde": kde,
    "lof": lof,
    "pca": pca,
    "knn": knn,
}


def _training_rows(x: np.ndarray) -> np.ndarray:
    """Training rows as float64, or why they cannot be used."""
    x = np.asarray(x, np.float64)
    _check_rows(x)
    return x


def _check_rows(x: np.ndarray) -> None:
    if x.ndim != 2 or len(x) < 2 or x.shape[1] == 0:
        expected, fix = "(N, D), N >= 2", "give more objects, one vector each"
        raise DataError("a detector needs vectors to learn from", expected=expected, got=f"shape {x.shape}", fix=fix)
    bad = int((~np.isfinite(x).all(axis=1)).sum())
    if bad:
        raise DataError("training rows that are not finite", got=f"{bad} of {len(x)} rows", fix="leave them out")


def _check_varied(x: np.ndarray) -> None:
    if np.ptp(x, axis=0).max() == 0:
        what, fix = "the training rows are all alike, so they have no principal components", "give rows that differ"
        raise DataError(what, got=f"{len(x)} times the same row", fix=fix)


def _subset(x: np.ndarray, seed: int, max_rows: int | None) -> np.ndarray:
    """At most `max_rows` random rows, in their order."""
    if max_rows is None or len(x) <= max_rows:
        return x
    return x[np.sort(np.random.default_rng(seed).choice(len(x), max_rows, replace=False))]


def _scorer(score: Scorer, dimensions: int) -> Scorer:
    """`score` for finite rows, NaN for the others."""

    def scorer(rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, np.float64)
        if rows.ndim != 2 or rows.shape[1] != dimensions:
            expected, fix = f"(M, {dimensions})", "give rows of the features that the detector was fitted on"
            raise DataError("rows unlike those trained on", expected=expected, got=f"shape {rows.shape}", fix=fix)
        scores = np.full(len(rows), np.nan)
        finite = np.isfinite(rows).all(axis=1)
        if finite.any():
            scores[finite] = score(rows[finite])
        return scores

    return scorer

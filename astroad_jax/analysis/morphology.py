"""The morphology baseline: CAS, Gini and M20 of each galaxy, and two k-means clusters of them.

The traditional method to which Margalef-Bentabol et al. (2020, section 4.1.2) compare their search: concentration,
asymmetry and smoothness (Conselice 2003), Gini and M20 (Lotz et al. 2004), measured by statmorph (Rodriguez-Gomez et
al. 2019), which is not installed unless asked for: ``pip install 'astroad_jax[morphology]'``. Measuring takes about
0.3 seconds a galaxy of 64 x 64 pixels on one core.
"""

from __future__ import annotations

import math
import multiprocessing
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from astroad_jax.errors import DataError

FEATURES = ("concentration", "asymmetry", "smoothness", "gini", "m20")
OTHERS = {"r_half": "rhalf_circ", "sersic_n": "sersic_n", "sn_per_pixel": "sn_per_pixel"}  # ours -> statmorph's
NO_SOURCE, NOT_FINITE, FAILED = 5, 6, 7  # flags beyond statmorph's 0 to 4
SMOOTHING = 1.27  # sigma in pixels (FWHM 3) of the kernel with which sources are looked for
SMALLEST = 5  # pixels of a source
TASK = 16  # galaxies handed to a process at a time


class _Settings(NamedTuple):
    """What `measure` was asked for, as its processes need it."""

    psf: np.ndarray | None
    gain: float
    sigma: float | None
    sky: float | None
    threshold: float


def measure(
    images: np.ndarray,
    psf: np.ndarray | None = None,
    *,
    gain: float = math.inf,
    sigma: float | None = None,
    sky: float | None = 0.0,
    threshold: float = 1.5,
    jobs: int = 1,
) -> dict[str, np.ndarray]:
    """Measure the galaxy in the middle of each image.

    Parameters
    ----------
    images : (N, H, W) or (N, H, W, C) array
        On a linear scale; bands are averaged.
    psf : (K, K) array, optional
        Used by the Sersic fit only, and makes it several times slower.
    gain : float
        Electrons a count, for the source's own noise; infinity leaves that out.
    sigma : float, optional
        Standard deviation of the sky's noise; by default that of each image's pixels, clipped at 3 sigma.
    sky : float, optional
        Level to take off first; None for the clipped median of each image.
    threshold : float
        Sigmas above the sky from which a pixel belongs to a source, in the image smoothed to FWHM 3 pixels and with
        sigma as before. A companion that touches the galaxy at this level is measured with it; one that does not is
        masked.
    jobs : int
        Processes. Results do not depend on it. A script that asks for more than one must guard its entry with
        ``if __name__ == "__main__"``.

    Returns
    -------
    dict of (N,) arrays
        `FEATURES`, ``r_half`` (half-light radius, pixels), ``sersic_n``, ``sn_per_pixel``, float64 and NaN where they
        could not be had; ``flag`` (uint8): 0 good, 1 suspect, 2 bad (measured all the same), 4 no flux, all
        statmorph's; 5 no source covers the centre, 6 pixels that are not finite, 7 statmorph gave up.

    Raises
    ------
    DataError
        statmorph or photutils not installed; images of another shape; a setting that cannot be.
    """
    _require()
    images = np.asarray(images)
    if images.ndim not in (3, 4) or 0 in images.shape[1:]:
        raise DataError("images of galaxies are needed", expected="(N, H, W) or (N, H, W, C)", got=f"shape {images.shape}")
    for name, value in (("gain", gain), ("sigma", sigma), ("threshold", threshold), ("jobs", jobs)):
        if value is not None and not value > 0:
            raise DataError("this must be positive", where=name, got=value)
    one = partial(_tasks, _Settings(psf, gain, sigma, sky, threshold))
    tasks = [images[start : start + TASK] for start in range(0, len(images), TASK)]
    if jobs == 1 or len(tasks) < 2:
        rows = [row for task in tasks for row in one(task)]
    else:  # not forked: threads of jax or BLAS may be running here
        with ProcessPoolExecutor(min(jobs, len(tasks)), multiprocessing.get_context("spawn")) as pool:
            rows = [row for task in pool.map(one, tasks) for row in task]
    names = (*FEATURES, *OTHERS, "flag")
    columns = dict(zip(names, np.reshape(np.array(rows, np.float64), (len(images), len(names))).T))
    return columns | {"flag": columns["flag"].astype(np.uint8)}


def two_clusters(
    features: Mapping[str, np.ndarray] | np.ndarray, seed: int = 0, *, ordinary: np.ndarray | None = None
) -> np.ndarray:
    """Split galaxies in two by k-means on standardised features.

    Parameters
    ----------
    features : dict of (N,) arrays with `FEATURES`, or (N, D) array
        From `measure`.
    seed : int
        Of the ten starts, of which the tightest counts.
    ordinary : (N,) bool, optional
        Galaxies known to be ordinary (the training set). The cluster that holds less than half of them is then the
        anomalous one, as in the paper; by default it is the smaller one, which is right while anomalies are few.

    Returns
    -------
    (N,) int8
        1 in the anomalous cluster, 0 in the other, -1 where a feature is not finite.

    Raises
    ------
    DataError
        Fewer than two galaxies with all features; `ordinary` of another length, or none of them measured.
    """
    from sklearn.cluster import KMeans

    x = np.stack([features[name] for name in FEATURES], axis=1) if isinstance(features, Mapping) else features
    x = np.asarray(x, np.float64)
    known = np.isfinite(x).all(axis=1)
    rows = x[known]
    if len(rows) < 2:
        raise DataError("two clusters need two galaxies", expected="all features finite", got=f"{len(rows)} of {len(x)}")
    scale = rows.std(axis=0)
    members = KMeans(2, n_init=10, random_state=seed).fit_predict((rows - rows.mean(axis=0)) / np.where(scale > 0, scale, 1))
    labels = np.full(len(x), -1, np.int8)
    labels[known] = members != _ordinary_cluster(members, known, ordinary)
    return labels


def flagged(labels: np.ndarray, kinds: np.ndarray) -> dict[str, dict[str, float]]:
    """Count the galaxies of each kind in the anomalous cluster.

    Parameters
    ----------
    labels : (N,) int
        From `two_clusters`.
    kinds : (N,) array
        Any names or numbers.

    Returns
    -------
    dict of kind -> {"fraction", "measured", "unmeasured"}
        Share of the measured galaxies that are flagged (NaN where none is measured), and how many there are.
    """
    labels, kinds = np.asarray(labels), np.asarray(kinds)
    if labels.shape != kinds.shape:
        raise DataError("labels and kinds belong together", expected=f"{labels.shape}", got=f"{kinds.shape}")
    table = {}
    for kind in np.unique(kinds):
        own = labels[kinds == kind]
        known = own[own >= 0]
        fraction = float(known.mean()) if len(known) else math.nan
        table[str(kind)] = {"fraction": fraction, "measured": len(known), "unmeasured": len(own) - len(known)}
    return table


def _ordinary_cluster(members: np.ndarray, known: np.ndarray, ordinary: np.ndarray | None) -> int:
    """Number of the cluster that most (known to be ordinary) galaxies are in."""
    if ordinary is None:
        return int(2 * members.sum() > len(members))
    ordinary = np.asarray(ordinary, bool)
    if ordinary.shape != known.shape:
        raise DataError("ordinary galaxies are marked one by one", expected=f"{known.shape}", got=f"{ordinary.shape}")
    own = members[ordinary[known]]
    if not len(own):
        raise DataError("none of the ordinary galaxies could be measured", fix="leave `ordinary` out")
    return int(2 * own.sum() > len(own))


def _require() -> None:
    """Find statmorph and photutils, or say how to get them."""
    try:
        import photutils  # noqa: F401
        import statmorph  # noqa: F401
    except ImportError as error:
        raise DataError(
            "morphology is measured with statmorph and photutils",
            got=f"{error.name} is not installed",
            fix="pip install 'astroad_jax[morphology]'",
        ) from error


def _tasks(settings: _Settings, images: np.ndarray) -> list[list[float]]:
    """Rows of `FEATURES`, `OTHERS` and flag."""
    return [_measure_one(settings, image) for image in images]


def _measure_one(settings: _Settings, image: np.ndarray) -> list[float]:
    image = np.asarray(image, np.float64)
    image = image.mean(axis=-1) if image.ndim == 3 else image
    nothing = [math.nan] * (len(FEATURES) + len(OTHERS))
    if not np.isfinite(image).all():
        return [*nothing, NOT_FINITE]
    level, spread = _clipped(image)
    image = image - (level if settings.sky is None else settings.sky)
    sigma = spread if settings.sigma is None else settings.sigma
    with warnings.catch_warnings():
        for category in _told_by_the_flag():
            warnings.simplefilter("ignore", category)
        segments = _segments(image, settings.threshold * sigma)
        label = 0 if segments is None else _central(segments.data)
        return _statmorph(settings, image, segments, label, sigma) if label else [*nothing, NO_SOURCE]


def _statmorph(settings: _Settings, image: np.ndarray, segments: Any, label: int, sigma: float) -> list[float]:
    from statmorph import SourceMorphology

    weights = np.sqrt(sigma**2 + np.maximum(image, 0) / settings.gain)
    try:
        found = SourceMorphology(image, segments, label, weightmap=weights, psf=settings.psf)
    except (AssertionError, ArithmeticError, IndexError, ValueError):  # its answers to odd images; no others are caught
        return [math.nan] * (len(FEATURES) + len(OTHERS)) + [FAILED]
    values = [float(found[name]) for name in (*FEATURES, *OTHERS.values())]
    return [value if math.isfinite(value) and value != -99 else math.nan for value in values] + [found.flag]


def _told_by_the_flag() -> tuple[type[Warning], ...]:
    """Warnings of statmorph (astropy's, a kind of UserWarning), of photutils, and of numpy over what becomes NaN."""
    from photutils.utils.exceptions import NoDetectionsWarning

    return UserWarning, NoDetectionsWarning, RuntimeWarning


def _segments(image: np.ndarray, threshold: float) -> Any:
    """photutils' segmentation map, or None where there is no source."""
    from photutils.segmentation import detect_sources
    from scipy.ndimage import gaussian_filter

    return detect_sources(gaussian_filter(image, SMOOTHING), threshold, SMALLEST)


def _central(segments: np.ndarray) -> int:
    """Label of the source that covers most of the innermost pixels (2 x 2, or 3 x 3), or 0."""
    middle = tuple(slice((n - 1) // 2 - (n % 2), n // 2 + 1 + (n % 2)) for n in segments.shape)
    counts = np.bincount(segments[middle].ravel())
    counts[0] = 0
    return int(counts.argmax())


def _clipped(image: np.ndarray) -> tuple[float, float]:
    """Median and standard deviation (from the median absolute deviation) of what is left after clipping at 3 sigma."""
    pixels = image.ravel()
    for _ in range(10):
        level = np.median(pixels)
        spread = 1.4826 * np.median(np.abs(pixels - level))
        kept = pixels[np.abs(pixels - level) <= 3 * spread]
        if len(kept) == len(pixels):
            break
        pixels = kept
    return float(level), float(spread)

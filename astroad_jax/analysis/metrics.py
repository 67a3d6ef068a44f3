"""How well scores rank anomalies, and whether one ranking is better than another.

Scores are up = stranger, and an object is flagged where ``score > threshold``. `positive` is True for the
anomalies. A null score (NaN) is not a score: its object takes no part, and `summary` counts how many there
were. A measure that the data do not define (one class only, nothing flagged) is NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

CHUNK = 2**22  # counts held at a time by the bootstrap


def _valid(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (float64) and classes (bool) of the objects that have a score."""
    scores, positive = np.asarray(scores, np.float64), np.asarray(positive, bool)
    if scores.shape != positive.shape or scores.ndim != 1:
        raise ValueError(f"scores and positive must be (N,) arrays, got {scores.shape} and {positive.shape}")
    valid = ~np.isnan(scores)
    return scores[valid], positive[valid]


def _tallies(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores, highest first, and how many anomalies and inliers have each."""
    values, group = np.unique(-scores, return_inverse=True)
    anomalies = np.bincount(group[positive], minlength=len(values))
    return -values, anomalies, np.bincount(group, minlength=len(values)) - anomalies


def _area(anomalies: np.ndarray, inliers: np.ndarray) -> np.ndarray:
    """AUROC from tallies ``(..., K)``, highest score first: P(anomaly above inlier) + P(tie) / 2."""
    above = np.cumsum(anomalies, axis=-1) - 0.5 * anomalies
    pairs = anomalies.sum(axis=-1, dtype=np.float64) * inliers.sum(axis=-1)
    return (above * inliers).sum(axis=-1) / pairs


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: the probability that an anomaly scores above an inlier, ties counting one
    half.

    Returns NaN where either class is absent.
    """
    scores, positive = _valid(scores, positive)
    if positive.all() or not positive.any():
        return float("nan")
    return float(_area(*_tallies(scores, positive)[1:]))


def roc_curve(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of the ROC curve, one for each distinct score.

    Returns
    -------
    false_positive_rate, true_positive_rate : (K + 1,) float64
        Shares of inliers and anomalies with a score of at least the threshold; from (0, 0) to (1, 1). NaN for
        an absent class.
    thresholds : (K + 1,) float64
        Falling, from infinity.
    """
    values, anomalies, inliers = _tallies(*_valid(scores, positive))
    rates = [np.concatenate([[0], np.cumsum(tally)]) for tally in (inliers, anomalies)]
    fpr, tpr = (rate / rate[-1] if rate[-1] else np.full(len(rate), np.nan) for rate in rates)
    return fpr, tpr, np.concatenate([[np.inf], values])


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Precision averaged over the anomalies, sum over distinct scores of (R_k - R_{k-1}) P_k (no
    interpolation).

    A random ranking has the share of anomalies as its expectation. NaN where either class is absent.
    """
    scores, positive = _valid(scores, positive)
    if positive.all() or not positive.any():
        return float("nan")
    _, anomalies, inliers = _tallies(scores, positive)
    precision = np.cumsum(anomalies) / np.cumsum(anomalies + inliers)
    return float((precision * anomalies).sum() / anomalies.sum())


def f1(scores: np.ndarray, positive: np.ndarray, threshold: float) -> float:
    """Harmonic mean of precision and recall when every ``score > threshold`` is flagged."""
    scores, positive = _valid(scores, positive)
    flagged = scores > threshold
    total = flagged.sum() + positive.sum()
    return float(2 * (flagged & positive).sum() / total) if total else float("nan")


def recall_at_k(scores: np.ndarray, positive: np.ndarray, k: int) -> float:
    """Share of the anomalies among the k highest scores; where ties straddle the k-th place, its expectation.

    NaN without anomalies. Anomalies with a null score cannot be found and are not in the denominator.
    """
    scores, positive = _valid(scores, positive)
    if not positive.any():
        return float("nan")
    _, anomalies, inliers = _tallies(scores, positive)
    size = anomalies + inliers
    taken = np.clip(k - (np.cumsum(size) - size), 0, size)
    return float((anomalies * taken / size).sum() / anomalies.sum())


def auroc_interval(
    scores: np.ndarray, positive: np.ndarray, seed: int, samples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the AUROC over the choice of test objects, model and training held
    fixed.

    Anomalies and inliers are resampled separately, so that both classes are always there. The spread over
    training seeds is another thing and not included.

    Returns
    -------
    low, high : float
        NaN where either class is absent.
    """
    scores, positive = _valid(scores, positive)
    if positive.all() or not positive.any():
        return float("nan"), float("nan")
    areas = np.concatenate(list(_bootstrap(scores, positive, seed, samples)))
    low, high = np.quantile(areas, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _bootstrap(scores: np.ndarray, positive: np.ndarray, seed: int, samples: int) -> Iterator[np.ndarray]:
    """AUROC of resampled objects, in chunks."""
    rng = np.random.default_rng(seed)
    values, group = np.unique(-scores, return_inverse=True)
    chunk = max(1, CHUNK // len(scores))
    for start in range(0, samples, chunk):
        rows = min(chunk, samples - start)
        yield _area(*(_resample(rng, group[members], len(values), rows) for members in (positive, ~positive)))


def _resample(rng: np.random.Generator, group: np.ndarray, num_groups: int, rows: int) -> np.ndarray:
    """Tallies ``(rows, num_groups)`` of `rows` draws with replacement from one class."""
    drawn = group[rng.integers(len(group), size=(rows, len(group)))] + num_groups * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * num_groups).reshape(rows, num_groups)


def summary(
    scores: np.ndarray,
    positive: np.ndarray,
    *,
    threshold: float | None = None,
    ks: Sequence[int] = (10, 100),
    seed: int = 0,
    samples: int = 1000,
) -> dict[str, float]:
    """Every measure of one ranking; the time goes into the `samples` of the bootstrap, each as long as N.

    Returns
    -------
    dict
        ``anomalies``, ``inliers`` (with a score), ``null_anomalies``, ``null_inliers`` (without); ``auroc``
        with its 95% bootstrap interval ``auroc_low``, ``auroc_high``; ``average_precision``;
        ``recall_at_{k}``; and, where a threshold is given, ``threshold``, ``f1``, ``recall`` and
        ``false_alarm_rate`` there.
    """
    null, positive = np.isnan(np.asarray(scores, np.float64)), np.asarray(positive, bool)
    low, high = auroc_interval(scores, positive, seed, samples)
    found = {
        "anomalies": int((positive & ~null).sum()),
        "inliers": int((~positive & ~null).sum()),
        "null_anomalies": int((positive & null).sum()),
        "null_inliers": int((~positive & null).sum()),
        "auroc": auroc(scores, positive),
        "auroc_low": low,
        "auroc_high": high,
        "average_precision": average_precision(scores, positive),
    }
    found |= {f"recall_at_{k}": recall_at_k(scores, positive, k) for k in ks}
    return found if threshold is None else found | _at_threshold(scores, positive, threshold)


def _at_threshold(scores: np.ndarray, positive: np.ndarray, threshold: float) -> dict[str, float]:
    valid, classes = _valid(scores, positive)
    flagged = valid > threshold
    recall, alarms = (flagged[c].mean() if c.any() else np.nan for c in (classes, ~classes))
    return {
        "threshold": float(threshold),
        "f1": f1(scores, positive, threshold),
        "recall": float(recall),
        "false_alarm_rate": float(alarms),
    }

"""Whether one method ranks better than another, or the difference is chance.

All tests are two-sided and return a p-value. Which one fits depends on what was repeated: nothing, one test
set and two rankings of it (`delong`); many classes or data sets (`wilcoxon_paired`); folds or splits of one
data set (`corrected_resampled_t`); independent runs (`student_t`).
"""

from __future__ import annotations

import numpy as np


def delong(scores_a: np.ndarray, scores_b: np.ndarray, positive: np.ndarray) -> float:
    """DeLong's test that two rankings of the same objects have the same AUROC.

    The covariance of the two areas comes from structural components (DeLong et al. 1988), computed with
    midranks (Sun & Xu 2014): O(N log N). It is about the choice of objects; the spread over
    training seeds is not in it.

    Parameters
    ----------
    scores_a, scores_b : (N,) float
        Scores, up = stranger. An object without a score in either ranking takes no part.
    positive : (N,) bool
        The anomalies.

    Returns
    -------
    float
        NaN with fewer than two anomalies or two inliers. Where the areas have no sampling variance (both
        rankings perfect, or equal), 1 if they agree and 0 if they differ.
    """
    from scipy.stats import norm

    scores, positive = np.stack([scores_a, scores_b]).astype(np.float64), np.asarray(positive, bool)
    valid = ~np.isnan(scores).any(axis=0)
    scores, positive = scores[:, valid], positive[valid]
    if min(positive.sum(), (~positive).sum()) < 2:
        return float("nan")
    differences = [a - b for a, b in _components(scores, positive)]
    difference = differences[0].mean()
    if all(np.ptp(d) == 0 for d in differences):
        return float(difference == 0)
    error = np.sqrt(sum(d.var(ddof=1) / len(d) for d in differences))
    return float(2 * norm.sf(abs(difference) / error))


def _components(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of inliers below each anomaly ``(2, m)``, and of anomalies above each inlier ``(2, n)``."""
    from scipy.stats import rankdata

    anomalies, inliers = scores[:, positive], scores[:, ~positive]
    m, n = anomalies.shape[1], inliers.shape[1]
    ranks = rankdata(scores, axis=1)
    over_inliers = (ranks[:, positive] - rankdata(anomalies, axis=1)) / n
    over_anomalies = 1 - (ranks[:, ~positive] - rankdata(inliers, axis=1)) / m
    return over_inliers, over_anomalies


def _pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of numbers; those with a NaN are left out."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"expected two (K,) arrays, paired, got {a.shape} and {b.shape}")
    valid = ~(np.isnan(a) | np.isnan(b))
    return a[valid], b[valid]


def wilcoxon_paired(a: np.ndarray, b: np.ndarray) -> float:
    """Wilcoxon's signed-rank test on paired measures, for example the AUROCs of two methods over many
    classes.

    Equal pairs are dropped; all equal is 1. Exact for few pairs: with K of them it cannot go below 2^(1-K),
    so five folds never reach 0.05. Demsar (2006) recommends it over the t-test across data sets. NaN without
    pairs.
    """
    from scipy.stats import wilcoxon

    a, b = _pairs(a, b)
    if len(a) == 0:
        return float("nan")
    different = a != b
    return float(wilcoxon(a[different], b[different]).pvalue) if different.any() else 1.0


def corrected_resampled_t(a: np.ndarray, b: np.ndarray, test_train_ratio: float) -> float:
    """Paired t-test for folds or resampled splits, whose training sets overlap (Nadeau & Bengio 2003).

    t = mean(d) / sqrt((1/K + ratio) var(d)) with K - 1 degrees of freedom, d = a - b.

    Parameters
    ----------
    a, b : (K,) float
        A measure of two methods on the same K splits.
    test_train_ratio : float
        Test rows over training rows: 1 / (K - 1) for K-fold cross-validation, 0.25 for splits of 80 and 20%.
        0 is the ordinary paired t-test, right only where the K pairs are independent and far too sure for
        folds.

    Returns
    -------
    float
        NaN with fewer than two pairs. Where all differences are the same: 1 if they are 0, else 0.
    """
    from scipy.stats import t

    a, b = _pairs(a, b)
    d, num = a - b, len(a)
    if num < 2:
        return float("nan")
    if np.ptp(d) == 0:
        return float(d[0] == 0)
    statistic = d.mean() / np.sqrt((1 / num + test_train_ratio) * d.var(ddof=1))
    return float(2 * t.sf(abs(statistic), num - 1))


def student_t(a: np.ndarray, b: np.ndarray) -> float:
    """Student's t-test on two independent sets of runs, equal variances assumed.

    This is the test behind the p-value in section 5 of the MCDSVDD paper (Perez-Carrasco et al. 2023): 0.736
    +- 0.022 against 0.686 +- 0.051 over five folds gives the 0.0789 stated there. Its folds are neither
    independent of each other nor unpaired; for new comparisons prefer `corrected_resampled_t`.

    NaN with fewer than two runs in either set; without any spread, 1 if the sets agree, else 0.
    """
    from scipy.stats import t

    a, b = (values[~np.isnan(values)] for values in (np.asarray(a, np.float64), np.asarray(b, np.float64)))
    if min(len(a), len(b)) < 2:
        return float("nan")
    if np.ptp(a) == np.ptp(b) == 0:
        return float(a[0] == b[0])
    freedom = len(a) + len(b) - 2
    pooled = (len(a) * a.var() + len(b) * b.var()) / freedom
    statistic = (a.mean() - b.mean()) / np.sqrt(pooled * (1 / len(a) + 1 / len(b)))
    return float(2 * t.sf(abs(statistic), freedom))

"""From scores to p-values: split-conformal calibration on inliers that took no part in training.

If a new inlier is exchangeable with the calibration rows, its p-value is at most alpha with probability at
most alpha, for any method and any distribution of scores (Vovk et al. 2005; Bates et al. 2023). Scores
are up = stranger, so a small p-value is a strange object, and a null score (NaN) has a null p-value.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from astroad_jax.errors import DataError


class Threshold(NamedTuple):
    """Where to draw the line.

    Attributes
    ----------
    value : float
        Objects with ``score > value`` are flagged; infinite where there are too few calibration rows to flag
        anything.
    rate : float
        Share of inliers above it, averaged over calibration sets; at most the rate asked for.
    low, high : float
        Confidence interval (Clopper-Pearson) of the share of inliers that this very line flags.
    calibration_rows : int
        How many scores it rests on.
    """

    value: float
    rate: float
    low: float
    high: float
    calibration_rows: int


def _sorted_scores(calibration: np.ndarray) -> np.ndarray:
    """Calibration scores in rising order, null scores left out."""
    calibration = np.asarray(calibration, np.float64).ravel()
    calibration = np.sort(calibration[~np.isnan(calibration)])
    if len(calibration) == 0:
        raise DataError(
            "no calibration row has a score",
            expected="scores of inliers that were not trained on",
            fix="raise data.calibration_fraction",
        )
    return calibration


def p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """p = (1 + #{calibration scores >= score}) / (n + 1).

    Parameters
    ----------
    scores : (N,) float
        Scores of new objects.
    calibration : (n,) float
        Scores of held-out inliers by the same model; null scores are left out.

    Returns
    -------
    (N,) float64
        In [1 / (n + 1), 1]; NaN for a null score.

    Raises
    ------
    DataError
        No calibration score.
    """
    calibration = _sorted_scores(calibration)
    scores = np.asarray(scores, np.float64)
    reached = len(calibration) - np.searchsorted(calibration, scores, side="left")
    return np.where(np.isnan(scores), np.nan, (1 + reached) / (len(calibration) + 1))


def threshold(calibration: np.ndarray, false_alarm_rate: float, level: float = 0.95) -> Threshold:
    """The lowest line that flags at most a share of the inliers: ``score > value`` exactly where p <= rate.

    The rate holds on average over calibration sets. What one line really flags varies from set to set, which
    the interval tells: with continuous scores the share above the (k + 1)-th largest of n is Beta(k + 1, n -
    k) distributed.

    Parameters
    ----------
    calibration : (n,) float
        Scores of held-out inliers; at least 1 / false_alarm_rate - 1 of them are needed to flag anything.
    false_alarm_rate : float
        Between 0 and 1.
    level : float
        Of the confidence interval.

    Raises
    ------
    DataError
        No calibration score.
    """
    calibration = _sorted_scores(calibration)
    num = len(calibration)
    if not 0 < false_alarm_rate < 1:
        raise ValueError(f"expected a false alarm rate between 0 and 1, got {false_alarm_rate}")
    possible = np.arange(1, num + 2) / (num + 1)  # the p-values there are; compared as `p_values` would be
    allowed = int(np.searchsorted(possible, false_alarm_rate, side="right"))
    if not allowed:
        return Threshold(float("inf"), 0.0, 0.0, 0.0, num)  # this line flags nobody, whatever comes
    value = float(calibration[num - allowed])
    above = int((calibration > value).sum())
    low, high = clopper_pearson(above, num, level)
    return Threshold(value, allowed / (num + 1), low, high, num)


def benjamini_hochberg(p: np.ndarray, rate: float) -> np.ndarray:
    """Which objects to take so that at most a share of the taken ones is false, on average.

    The k smallest p-values are taken, for the largest k with p_(k) <= rate k / m (Benjamini & Hochberg 1995). Conformal
    p-values share their calibration rows, and the guarantee holds for them all the same (Bates et al. 2023, theorem 2),
    where inliers are exchangeable with the calibration rows.

    Parameters
    ----------
    p : (N,) float
        p-values; a null one (NaN) is never taken, and not counted in m.
    rate : float
        Of false discoveries, between 0 and 1.

    Returns
    -------
    (N,) bool
    """
    p = np.asarray(p, np.float64)
    if not 0 < rate < 1:
        raise ValueError(f"expected a false discovery rate between 0 and 1, got {rate}")
    known = np.sort(p[~np.isnan(p)])
    reached = np.flatnonzero(known <= rate * np.arange(1, len(known) + 1) / max(1, len(known)))
    return p <= known[reached[-1]] if len(reached) else np.zeros(len(p), bool)


def rows_needed(false_alarm_rate: float) -> int:
    """Calibration rows without which no line has this rate: 1 / (n + 1) is the smallest p-value."""
    return max(1, math.ceil(1 / false_alarm_rate - 1e-9) - 1)


def clopper_pearson(count: int, num: int, level: float = 0.95) -> tuple[float, float]:
    """Exact confidence interval of the share `count / num`: never too narrow (Clopper & Pearson 1934)."""
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = betaincinv(count, num - count + 1, tail) if count > 0 else 0.0
    high = betaincinv(count + 1, num - count, 1 - tail) if count < num else 1.0
    return float(low), float(high)

"""Conformal p-values and thresholds: closed forms, uniformity, and their agreement with each other."""

from __future__ import annotations

import numpy as np
import pytest

from astroad_jax.analysis import calibrate
from astroad_jax.errors import DataError

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("score", "expected"),
    [(0, 1), (1, 1), (1.5, 4 / 5), (2, 4 / 5), (3, 2 / 5), (3.1, 1 / 5), (INF, 1 / 5), (-INF, 1), (NAN, NAN)],
)
def test_closed_forms(score: float, expected: float):
    for calibration in ([1, 2, 2, 3], [3, NAN, 2, 1, 2]):
        p = calibrate.p_values(np.array([score]), np.array(calibration, float))
        np.testing.assert_array_equal(p, [expected])


def test_p_values_are_uniform_for_exchangeable_rows():
    from scipy.stats import kstest

    rng = np.random.default_rng(0)
    p = [calibrate.p_values(x[:1], x[1:])[0] for x in rng.standard_cauchy((4000, 200))]
    assert kstest(p, "uniform").pvalue > 0.01


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.29, 0.5])
@pytest.mark.parametrize("ties", [False, True])
def test_false_alarms_stay_below_the_rate(rate: float, ties: bool):
    """Averaged over calibration sets, and exactly at floor(rate (n + 1)) / (n + 1) without ties."""
    rng = np.random.default_rng(1)
    alarms = []
    for _ in range(400):
        scores = rng.normal(size=1099)
        scores = np.round(2 * scores) if ties else scores
        alarms.append((scores[99:] > calibrate.threshold(scores[:99], rate).value).mean())
    error = np.std(alarms) / np.sqrt(len(alarms))
    assert np.mean(alarms) <= rate + 3 * error
    assert ties or abs(np.mean(alarms) - rate) < 4 * error


@pytest.mark.parametrize("num", [1, 2, 9, 10, 99, 100, 101])
def test_threshold_is_the_p_value_turned_round(num: int):
    rng = np.random.default_rng(num)
    calibration = np.round(3 * rng.normal(size=num)) / 3
    scores = np.concatenate([calibration, np.round(3 * rng.normal(size=200)) / 3, [INF]])
    p = calibrate.p_values(scores, calibration)
    for rate in np.arange(1, 100) / 100:
        line = calibrate.threshold(calibration, rate)
        finite = np.isfinite(scores) | (line.value < INF)
        np.testing.assert_array_equal((scores > line.value)[finite], (p <= rate)[finite])
        assert line.rate <= rate
        assert line.low <= line.high


def test_monotonic():
    rng = np.random.default_rng(2)
    calibration, scores = rng.normal(size=50), np.sort(rng.normal(size=100))
    assert (np.diff(calibrate.p_values(scores, calibration)) <= 0).all()
    lines = [calibrate.threshold(calibration, rate).value for rate in np.linspace(0.001, 0.999, 99)]
    assert all(a >= b for a, b in zip(lines, lines[1:]))


def test_too_few_rows_flag_nothing():
    line = calibrate.threshold(np.arange(98.0), 0.01)
    assert (line.value, line.rate, line.low) == (INF, 0, 0)
    assert calibrate.threshold(np.arange(99.0), 0.01).value == 98


def test_interval_covers_what_a_line_really_flags():
    """The true rate of a line on uniform scores is 1 - value."""
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        line = calibrate.threshold(rng.random(200), 0.1)
        hits += line.low <= 1 - line.value <= line.high
    assert hits >= 0.93 * 400


def test_float32_scores_compare_exactly():
    calibration = np.random.default_rng(4).normal(size=99).astype(np.float32)
    line = calibrate.threshold(calibration, 0.1)
    assert (calibration > line.value).sum() == 9
    np.testing.assert_array_equal(
        calibrate.p_values(calibration, calibration),
        calibrate.p_values(calibration.astype(float), calibration),
    )


@pytest.mark.parametrize(
    ("count", "num", "low", "high"),
    [
        (0, 10, 0, 1 - 0.025 ** (1 / 10)),
        (10, 10, 0.025 ** (1 / 10), 1),
        (1, 1, 0.025, 1),
        (5, 10, 0.187086, 0.812914),
    ],
)
def test_clopper_pearson(count: int, num: int, low: float, high: float):
    from scipy.stats import binomtest

    interval = calibrate.clopper_pearson(count, num)
    assert interval == pytest.approx((low, high), abs=1e-6)
    assert interval == pytest.approx(tuple(binomtest(count, num).proportion_ci(method="exact")))


@pytest.mark.parametrize("calibration", [[], [NAN, NAN]])
def test_nothing_to_calibrate_on(calibration: list):
    for function in (lambda c: calibrate.p_values(np.zeros(3), c), lambda c: calibrate.threshold(c, 0.1)):
        with pytest.raises(DataError, match="no calibration row"):
            function(np.array(calibration))


@pytest.mark.parametrize("rate", [0, 1, -0.1, NAN])
def test_rates_that_are_none(rate: float):
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibrate.threshold(np.arange(9), rate)


def test_a_line_that_flags_nobody_flags_nobody():
    line = calibrate.threshold(np.arange(10.0), 0.01)
    assert line == calibrate.Threshold(float("inf"), 0.0, 0.0, 0.0, 10)


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.05, 0.01, 0.003, 1 / 3])
def test_rows_needed_are_just_enough(rate):
    rows = calibrate.rows_needed(rate)
    assert np.isfinite(calibrate.threshold(np.arange(float(rows)), rate).value)
    assert rows == 1 or np.isinf(calibrate.threshold(np.arange(rows - 1.0), rate).value)


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_benjamini_hochberg_is_scipys(rate: float):
    from scipy.stats import false_discovery_control

    rng = np.random.default_rng(3)
    for size in (1, 7, 500):
        p = np.round(rng.uniform(0, 1, size) ** 2, 3)
        p[: size // 3] = 0.001
        taken = calibrate.benjamini_hochberg(np.append(p, NAN), rate)
        np.testing.assert_array_equal(taken[:-1], false_discovery_control(p) <= rate)
        assert not taken[-1]


def test_false_discoveries_stay_below_the_rate():
    """With conformal p-values, which share their calibration rows."""
    rng, shares, found = np.random.default_rng(4), [], []
    for _ in range(300):
        calibration, inliers, strange = rng.normal(size=500), rng.normal(size=180), rng.normal(4, 1, size=20)
        p = calibrate.p_values(np.concatenate([inliers, strange]), calibration)
        taken = calibrate.benjamini_hochberg(p, 0.2)
        shares.append(taken[:180].sum() / max(1, taken.sum()))
        found.append(taken[180:].mean())
    assert np.mean(shares) <= 0.2 + 3 * np.std(shares) / np.sqrt(300)
    assert np.mean(found) > 0.5


def test_nothing_to_discover():
    assert not calibrate.benjamini_hochberg(np.array([0.5, NAN, 0.9]), 0.1).any()
    assert not calibrate.benjamini_hochberg(np.array([NAN]), 0.1).any()
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibrate.benjamini_hochberg(np.array([0.5]), 1.0)

"""Measures of a ranking, and tests between two: against scikit-learn, SciPy, brute force and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from astroad_jax.analysis import metrics, significance

NAN, INF = np.nan, np.inf


def draw(seed: int, num: int = 300, share: float = 0.2, shift: float = 1.0, ties: bool = False):
    rng = np.random.default_rng(seed)
    positive = rng.random(num) < share
    scores = rng.normal(size=num) + shift * positive
    return (np.round(scores) if ties else scores), positive


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_like_sklearn(seed: int, ties: bool):
    from sklearn import metrics as sk

    scores, positive = draw(seed, ties=ties)
    assert metrics.auroc(scores, positive) == pytest.approx(sk.roc_auc_score(positive, scores), abs=1e-12)
    expected = sk.average_precision_score(positive, scores)
    assert metrics.average_precision(scores, positive) == pytest.approx(expected, abs=1e-12)
    assert metrics.f1(scores, positive, 0.7) == pytest.approx(sk.f1_score(positive, scores > 0.7), abs=1e-12)
    for ours, theirs in zip(metrics.roc_curve(scores, positive), sk.roc_curve(positive, scores, drop_intermediate=False)):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize(
    ("scores", "positive", "area", "precision"),
    [
        ([3, 2, 1, 0], [1, 1, 0, 0], 1, 1),
        ([0, 1, 2, 3], [1, 1, 0, 0], 0, (1 / 3 + 2 / 4) / 2),
        ([5, 5, 5, 5], [1, 1, 0, 0], 0.5, 0.5),
        ([2, 1, 1, 0], [0, 1, 0, 1], 0.5 / 4, (1 / 3 + 2 / 4) / 2),
        ([INF, 1, 0, -INF], [1, 0, 1, 0], 0.75, (1 + 2 / 3) / 2),
        ([1, 2], [1, 1], NAN, NAN),
        ([1, 2], [0, 0], NAN, NAN),
        ([], [], NAN, NAN),
        ([NAN, 1], [1, 0], NAN, NAN),
        ([NAN, 3, 2, NAN], [1, 1, 0, 0], 1, 1),
    ],
)
def test_closed_forms(scores: list, positive: list, area: float, precision: float):
    scores, positive = np.array(scores, float), np.array(positive, bool)
    assert metrics.auroc(scores, positive) == pytest.approx(area, nan_ok=True)
    assert metrics.average_precision(scores, positive) == pytest.approx(precision, nan_ok=True)
    low, high = metrics.auroc_interval(scores, positive, seed=0, samples=20)
    assert np.isnan(area) == np.isnan(low) == np.isnan(high)


def test_auroc_depends_on_the_order_alone():
    scores, positive = draw(0, ties=True)
    area = metrics.auroc(scores, positive)
    assert metrics.auroc(np.exp(scores), positive) == area
    assert metrics.auroc(-scores, positive) == pytest.approx(1 - area, abs=1e-12)
    assert metrics.auroc(scores, ~positive) == pytest.approx(1 - area, abs=1e-12)
    assert metrics.auroc(scores[::-1], positive[::-1]) == area
    assert metrics.auroc(scores.astype(np.float32), positive) == area


@pytest.mark.parametrize(
    ("k", "expected"), [(0, 0), (1, 1 / 3), (2, 1 / 3 + 1 / 9), (3, 5 / 9), (4, 2 / 3), (5, 1), (99, 1)]
)
def test_recall_at_k_shares_ties(k: int, expected: float):
    """The places 2 to 4 are tied and hold one anomaly of three objects."""
    scores, positive = np.array([9, 5, 5, 5, 1]), np.array([1, 0, 1, 0, 1], bool)
    assert metrics.recall_at_k(scores, positive, k) == pytest.approx(expected)
    assert metrics.recall_at_k(scores[::-1], positive[::-1], k) == pytest.approx(expected)


def test_measures_without_objects():
    nothing = np.zeros(3, bool)
    assert np.isnan(metrics.recall_at_k(np.arange(3), nothing, 2))
    assert np.isnan(metrics.f1(np.zeros(3), nothing, 1))
    assert metrics.f1(np.zeros(3), ~nothing, 1) == 0
    fpr, tpr, _ = metrics.roc_curve(np.arange(3), nothing)
    assert np.isnan(tpr).all()
    assert fpr[-1] == 1


def test_interval_covers_the_truth():
    """For two unit normals one apart the AUROC is Phi(1 / sqrt 2); 95% intervals miss it now and then."""
    from scipy.stats import norm

    truth = norm.cdf(1 / np.sqrt(2))
    hits = 0
    for seed in range(60):
        low, high = metrics.auroc_interval(*draw(seed, num=200), seed=seed, samples=300)
        assert low < high
        hits += low <= truth <= high
    assert 51 <= hits <= 60


def test_interval_is_a_function_of_the_seed(monkeypatch: pytest.MonkeyPatch):
    sample = draw(0)
    first = metrics.auroc_interval(*sample, seed=1)
    assert first == metrics.auroc_interval(*sample, seed=1)
    assert first != metrics.auroc_interval(*sample, seed=2)
    monkeypatch.setattr(metrics, "CHUNK", 7000)
    assert metrics.auroc_interval(*sample, seed=1) == pytest.approx(first, abs=0.02)


def test_summary_counts_everything():
    scores, positive = draw(3)
    scores[:5], positive[:5] = NAN, [1, 1, 0, 0, 0]
    found = metrics.summary(scores, positive, threshold=1.0, ks=(7,))
    assert (found["null_anomalies"], found["null_inliers"]) == (2, 3)
    assert sum(found[key] for key in ("anomalies", "inliers", "null_anomalies", "null_inliers")) == 300
    assert found["auroc_low"] < found["auroc"] < found["auroc_high"]
    assert found["recall_at_7"] == metrics.recall_at_k(scores, positive, 7)
    kept = scores > 1.0
    assert found["recall"] == pytest.approx(kept[5:][positive[5:]].mean())
    assert found["false_alarm_rate"] == pytest.approx(kept[5:][~positive[5:]].mean())
    assert "f1" not in metrics.summary(scores, positive)
    assert np.isnan(metrics.summary(scores, np.zeros(300, bool), threshold=0.0)["recall"])


@pytest.mark.parametrize("shape", [(2,), (3, 1)])
def test_shapes_must_agree(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="must be"):
        metrics.auroc(np.zeros(3), np.zeros(shape))


def two_rankings(seed: int, num: int = 200, better: float = 0.0):
    rng = np.random.default_rng(seed)
    positive = np.arange(num) < num // 4
    common = rng.normal(size=num) + positive
    return common + rng.normal(size=num) + better * positive, common + rng.normal(size=num), positive


def test_delong_matches_its_definition():
    """Against the double sum over all pairs of anomaly and inlier (DeLong et al. 1988), with ties."""
    from scipy.stats import norm

    a, b, positive = two_rankings(0, better=0.5)
    a, b = np.round(a), np.round(b)
    wins = [np.sign(s[positive][:, None] - s[~positive][None]) / 2 + 0.5 for s in (a, b)]
    v10, v01 = np.stack([w.mean(1) for w in wins]), np.stack([w.mean(0) for w in wins])
    covariance = np.cov(v10) / v10.shape[1] + np.cov(v01) / v01.shape[1]
    z = (wins[0].mean() - wins[1].mean()) / np.sqrt([1, -1] @ covariance @ [1, -1])
    assert significance.delong(a, b, positive) == pytest.approx(2 * norm.sf(abs(z)), rel=1e-9)
    assert significance.delong(b, a, positive) == pytest.approx(2 * norm.sf(abs(z)), rel=1e-9)


def test_delong_error_is_the_bootstraps():
    from scipy.stats import norm

    a, b, positive = two_rankings(1, num=400, better=0.4)
    rng = np.random.default_rng(0)
    drawn = [
        np.concatenate([rng.choice(np.flatnonzero(positive == c), (positive == c).sum()) for c in (True, False)])
        for _ in range(800)
    ]
    differences = [metrics.auroc(a[i], positive[i]) - metrics.auroc(b[i], positive[i]) for i in drawn]
    difference = metrics.auroc(a, positive) - metrics.auroc(b, positive)
    error = abs(difference) / norm.isf(significance.delong(a, b, positive) / 2)
    assert np.std(differences) == pytest.approx(error, rel=0.1)


def test_delong_is_uniform_without_a_difference():
    from scipy.stats import kstest

    assert kstest([significance.delong(*two_rankings(seed)) for seed in range(300)], "uniform").pvalue > 0.01


@pytest.mark.parametrize(
    ("a", "b", "positive", "expected"),
    [
        ([4, 3, 2, 1], [4, 3, 2, 1], [1, 1, 0, 0], 1),
        ([4, 3, 2, 1], [9, 8, 1, 0], [1, 1, 0, 0], 1),
        ([4, 3, 2, 1], [1, 2, 3, 4], [1, 1, 0, 0], 0),
        ([4, 3, 2, 1], [4, 3, 2, 1], [1, 0, 0, 0], NAN),
        ([4, NAN, 2, 1], [4, 3, 2, 1], [1, 1, 0, 0], NAN),
    ],
)
def test_delong_extremes(a: list, b: list, positive: list, expected: float):
    assert significance.delong(np.array(a), np.array(b), positive) == pytest.approx(expected, nan_ok=True)


def test_corrected_t():
    """With ratio 0 it is SciPy's paired test; the correction widens the error by sqrt(1 + K ratio)."""
    from scipy.stats import t, ttest_rel

    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 1, 10), rng.normal(0, 1, 10)
    plain = ttest_rel(a, b)
    assert significance.corrected_resampled_t(a, b, 0) == pytest.approx(plain.pvalue)
    wider = abs(plain.statistic) / np.sqrt(1 + 10 / 9)
    assert significance.corrected_resampled_t(a, b, 1 / 9) == pytest.approx(2 * t.sf(wider, 9))
    assert significance.corrected_resampled_t(a, b, 1 / 9) > plain.pvalue


def test_student_t_is_scipys():
    from scipy.stats import ttest_ind

    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 1, 10), rng.normal(0, 1, 7)
    assert significance.student_t(a, b) == pytest.approx(ttest_ind(a, b).pvalue)


def test_student_t_gives_the_papers_p_value():
    """MCDSVDD, section 5: SLSN, AE 0.736 +- 0.022 and MCDSVDD 0.686 +- 0.051, five folds, p = 0.0789."""
    shape = np.array([-1, -1, 0, 1, 1.0])  # unit standard deviation with ddof = 1
    assert significance.student_t(0.736 + 0.022 * shape, 0.686 + 0.051 * shape) == pytest.approx(0.0789, abs=5e-5)


@pytest.mark.parametrize(
    ("a", "b", "wilcoxon", "paired", "student"),
    [
        ([1, 2, 3], [1, 2, 3], 1, 1, 1),
        ([1, 2, 3], [0, 1, 2], 0.25, 0, 0.2878641),
        ([1, 2, 4, 8, 16], [0, 0, 0, 0, 0], 0.0625, 0.0854412, 0.0526409),
        ([1, NAN, 3], [1, 2, NAN], 1, NAN, 1 - 0.2**0.5 / 2.2**0.5),
        ([2, 2, 2], [2, 2, 2], 1, 1, 1),
        ([2, 2, 2], [1, 1, 1], 0.25, 0, 0),
        ([], [], NAN, NAN, NAN),
        ([1], [2], 1, NAN, NAN),
    ],
)
def test_small_samples(a: list, b: list, wilcoxon: float, paired: float, student: float):
    a, b = np.array(a, float), np.array(b, float)
    assert significance.wilcoxon_paired(a, b) == pytest.approx(wilcoxon, nan_ok=True)
    assert significance.corrected_resampled_t(a, b, 0) == pytest.approx(paired, nan_ok=True, abs=1e-6)
    assert significance.student_t(a, b) == pytest.approx(student, nan_ok=True, abs=1e-6)


def test_pairs_must_be_pairs():
    with pytest.raises(ValueError, match="paired"):
        significance.wilcoxon_paired(np.zeros(3), np.zeros(2))

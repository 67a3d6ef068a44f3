"""Classical detectors: sign, determinism, agreement with scikit-learn, and bad rows."""

from __future__ import annotations

import numpy as np
import pytest

from astroad_jax.analysis import outliers, ranks
from astroad_jax.errors import DataError

NAMES = sorted(outliers.DETECTORS)


def cloud(rows: int = 200, columns: int = 3, seed: int = 0) -> np.ndarray:
    """A correlated cloud close to a plane."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, columns)) @ np.diag(np.geomspace(1, 0.1, columns)) + 3


@pytest.mark.parametrize("name", NAMES)
def test_up_is_stranger(name: str):
    """Planted outliers beat 99% of fresh inliers."""
    score = outliers.DETECTORS[name](cloud(), 0)
    inliers, strange = score(cloud(seed=1)), score(np.array([[9.0, 0, 30], [-20, 20, -20]]))
    assert inliers.dtype == np.float64
    assert inliers.shape == (200,)
    assert strange.min() > np.quantile(inliers, 0.99)


@pytest.mark.parametrize("name", NAMES)
def test_deterministic_and_row_by_row(name: str):
    x, rows = cloud(), cloud(40, seed=2)
    score = outliers.DETECTORS[name](x, 7)
    expected = score(rows)
    np.testing.assert_array_equal(outliers.DETECTORS[name](x.copy(), 7)(rows), expected)
    np.testing.assert_allclose(score(rows[::-1])[::-1], expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(score(rows[5:6]), expected[5:6], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(outliers.DETECTORS[name](x.astype(np.float32), 7)(rows), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_bad_rows_have_null_scores(name: str):
    score = outliers.DETECTORS[name](cloud(), 0)
    rows = cloud(4, seed=3)
    expected = score(rows)
    rows[1, 0], rows[2] = np.inf, np.nan
    expected[1:3] = np.nan
    np.testing.assert_allclose(score(rows), expected, rtol=1e-9)
    assert np.isnan(score(rows[1:3])).all()
    assert score(rows[:0]).shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_one_column_and_two_rows(name: str):
    score = outliers.DETECTORS[name](cloud(columns=1), 0)(np.array([[3.0], [60.0]]))
    if name == "pca":  # one component explains a single column, so nothing is left
        np.testing.assert_allclose(score, 0, atol=1e-12)
    else:
        assert score[0] < score[1]
    assert np.isfinite(outliers.DETECTORS[name](cloud(2), 0)(cloud(5))).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((1, 3)), "needs vectors"),
        (np.zeros((5, 0)), "needs vectors"),
        (np.zeros(5), "needs vectors"),
        (np.array([[1.0, 2], [np.nan, 1], [3, np.inf]]), "2 of 3 rows"),
    ],
)
def test_what_cannot_be_learnt_from(name: str, x: np.ndarray, words: str):
    with pytest.raises(DataError, match=words) as error:
        outliers.DETECTORS[name](x, 0)
    assert error.value.fix


@pytest.mark.parametrize("name", ["kde", "pca"])
def test_constant_training_rows(name: str):
    with pytest.raises(DataError, match="all alike") as error:
        outliers.DETECTORS[name](np.full((30, 2), 0.1), 0)
    assert error.value.fix


@pytest.mark.parametrize("shape", [(4, 2), (3,), (2, 3, 1)])
def test_rows_of_another_shape(shape: tuple[int, ...]):
    with pytest.raises(DataError, match=r"expected: \(M, 3\)") as error:
        outliers.lof(cloud(), 0)(np.zeros(shape))
    assert error.value.fix


def test_the_papers_settings():
    """Named defaults are those of the two papers."""
    from sklearn.ensemble import IsolationForest
    from sklearn.svm import OneClassSVM

    x, rows = cloud(400), cloud(10, seed=1)
    forest = IsolationForest(n_estimators=100, max_samples=256, random_state=3).fit(x)
    np.testing.assert_array_equal(outliers.DETECTORS["isolation_forest"](x, 3)(rows), -forest.score_samples(rows))
    for name, nu in {"ocsvm": 0.01, "ocsvm_half": 0.5}.items():
        machine = OneClassSVM(kernel="rbf", nu=nu, gamma="scale").fit(x)
        np.testing.assert_array_equal(outliers.DETECTORS[name](x, 0)(rows), -machine.decision_function(rows))


def test_bandwidth_search_is_grid_search(monkeypatch: pytest.MonkeyPatch):
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.neighbors import KernelDensity

    x, candidates = cloud(103), np.geomspace(0.05, 3, 9)
    folds = KFold(5, shuffle=True, random_state=4)
    search = GridSearchCV(KernelDensity(), {"bandwidth": candidates}, cv=folds).fit(x)
    monkeypatch.setattr(outliers, "CHUNK", 10)
    found = outliers._held_out_log_likelihood(x, 4, 5, candidates)
    np.testing.assert_allclose(found, search.cv_results_["mean_test_score"], rtol=1e-9)
    rows = cloud(9, seed=1)
    expected = -search.best_estimator_.score_samples(rows)
    np.testing.assert_allclose(outliers.kde(x, 4, bandwidths=candidates)(rows), expected, rtol=1e-12)


def test_density_keeps_falling_far_away():
    """At distance r from a single cluster, -log density grows as r^2 / 2 h^2, without a floor."""
    score = outliers.kde(np.zeros((30, 2)), 0, bandwidths=[0.5])
    distance = np.array([0, 1, 10, 100.0])
    expected = distance**2 / (2 * 0.25) + 2 * np.log(0.5 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(score(distance[:, None] * [0.6, 0.8]), expected, rtol=1e-9)


def test_default_bandwidths_bracket_the_best():
    for rows, columns in ((50, 1), (400, 2), (100, 20)):
        x = np.random.default_rng(0).normal(size=(rows, columns)) * 1e-3
        candidates = outliers._bandwidths(x)
        best = np.argmax(outliers._held_out_log_likelihood(x, 0, 5, candidates))
        assert 0 < best < len(candidates) - 1


@pytest.mark.parametrize("detector", [outliers.ocsvm, outliers.kde])
def test_subset_depends_on_the_seed(detector):
    x, rows = cloud(100), cloud(5, seed=1)
    first, again, other = (detector(x, seed, max_rows=20)(rows) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    np.testing.assert_array_equal(detector(x, 0, max_rows=100)(rows), detector(x, 0)(rows))


def test_lof_with_few_rows_uses_all_neighbours():
    from sklearn.neighbors import LocalOutlierFactor

    x, rows = cloud(8), cloud(3, seed=1)
    expected = -LocalOutlierFactor(n_neighbors=7, novelty=True).fit(x).score_samples(rows)
    np.testing.assert_array_equal(outliers.lof(x, 0)(rows), expected)


def lof_by_hand(x: np.ndarray, k: int) -> np.ndarray:
    """Breunig et al. 2000, definitions 3 to 7, from the matrix of distances."""
    distance = np.linalg.norm(x[:, None] - x, axis=-1)
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, axis=1)[:, :k]
    reach = np.maximum(np.take_along_axis(distance, near, 1), np.sort(distance, axis=1)[near, k - 1])
    density = 1 / reach.mean(1)
    return density[near].mean(1) / density


def test_lof_of_a_sample_is_the_papers_outlier_mode():
    """No row is its own neighbour; rows that are not finite have no factor and change no other."""
    x = np.concatenate([cloud(60), [[9.0, 0, 30]]])
    found = outliers.lof_of_sample(x, k=20)
    np.testing.assert_allclose(found, lof_by_hand(x, 20), rtol=1e-6)
    assert found.argmax() == 60
    holes = np.insert(x, 7, np.nan, axis=0)
    np.testing.assert_array_equal(outliers.lof_of_sample(holes, jobs=1), np.insert(found, 7, np.nan))
    np.testing.assert_allclose(outliers.lof_of_sample(x[:5], k=20), lof_by_hand(x[:5], 4), rtol=1e-6)


@pytest.mark.parametrize("x", [np.zeros((1, 3)), np.full((5, 2), np.nan), np.zeros(5)])
def test_a_sample_that_has_no_factor(x):
    with pytest.raises(DataError, match="needs vectors"):
        outliers.lof_of_sample(x)


def test_combined_rank_is_the_mean_of_rank_fractions():
    error, factor = np.array([5.0, 1, 3, np.nan, 2]), np.array([1.5, 1.0, 1.0, 9.0, 7.0])
    expected = [(3 / 3 + 2 / 3) / 2, (0 + 0.5 / 3) / 2, (2 / 3 + 0.5 / 3) / 2, np.nan, (1 / 3 + 3 / 3) / 2]
    np.testing.assert_allclose(ranks.combined_rank(error, factor), expected)
    np.testing.assert_allclose(ranks.combined_rank(np.exp(error), factor), expected)  # ranks alone count
    np.testing.assert_array_equal(ranks.combined_rank(np.array([3.0])), [0.0])
    highest = [3 / 3, 0.5 / 3, 2 / 3, np.nan, 3 / 3]
    np.testing.assert_allclose(ranks.combined_rank(error, factor, rule="max"), highest)
    assert ranks.combined_rank(np.zeros(0)).shape == (0,)


def test_a_rule_that_is_none():
    with pytest.raises(DataError, match="no such rule"):
        ranks.combined_rank(np.zeros(3), rule="median")


@pytest.mark.parametrize("scores", [(), (np.zeros(3), np.zeros(4)), (np.zeros((3, 1)),)])
def test_scores_of_unlike_objects(scores):
    with pytest.raises(DataError, match="not of the same objects"):
        ranks.combined_rank(*scores)


@pytest.mark.parametrize("components", [1, 2, 0.5])
def test_pca_is_the_residual_of_the_svd(components):
    x, rows = cloud(), cloud(6, seed=1)
    _, values, axes = np.linalg.svd(x - x.mean(0), full_matrices=False)
    share = np.cumsum(values**2) / (values**2).sum()
    keep = components if isinstance(components, int) else int(np.searchsorted(share, components)) + 1
    centred = rows - x.mean(0)
    expected = ((centred - centred @ axes[:keep].T @ axes[:keep]) ** 2).sum(1)
    np.testing.assert_allclose(outliers.pca(x, 0, components=components)(rows), expected, rtol=1e-9)


def test_knn_is_the_mean_distance_to_the_nearest():
    x = np.array([[0.0], [1.0], [3.0], [10.0]])
    np.testing.assert_allclose(outliers.knn(x, 0, k=2)(np.array([[0.5], [10.0]])), [0.5, 3.5])


@pytest.mark.parametrize(("rows", "rank"), [(40, 64), (300, 5)])
def test_whitening_has_unit_variance_and_no_noise_for_components(rows, rank):
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(rank, 100))
    x, new = (rng.normal(size=(count, rank)) @ basis for count in (rows, 500))
    project = outliers.whitening(x, 0, 64)
    z = project(x)
    assert z.shape[1] == min(rank, rows - 1, 64)
    np.testing.assert_allclose(z.std(0, ddof=1), 1, rtol=1e-3)
    assert project(new).std() < 30


def test_whitening_of_rows_all_alike():
    with pytest.raises(DataError, match="all alike") as error:
        outliers.whitening(np.full((20, 4), 0.1), 0, 2)
    assert error.value.fix

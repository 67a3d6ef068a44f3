"""Active learning: the formula to the letter, its edges, the labelling loop, and what labels gain."""

from __future__ import annotations

import math

import numpy as np
import pytest

from astroad_jax.analysis import active, plots
from astroad_jax.analysis.active import SKIP, STOP
from astroad_jax.errors import DataError

NAN, INF = np.nan, np.inf


def sample(rows: int = 60, seed: int = 0, labelled: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features, score = rng.normal(size=(rows, 3)).astype(np.float32), rng.gamma(2, size=rows)
    labels = np.full(rows, -1.0)
    labels[rng.choice(rows, labelled, replace=False)] = rng.integers(0, 6, labelled)
    return features, score, labels


def literal(features, score, labels, seed, alpha=1.0, trees=200):
    """The scheme word for word, one object at a time."""
    from sklearn.ensemble import RandomForestRegressor

    teach = sorted((i for i in range(len(score)) if labels[i] != -1), key=lambda i: (*features[i], labels[i]))
    forest = RandomForestRegressor(n_estimators=trees, random_state=seed)
    forest.fit([list(features[i]) for i in teach], [labels[i] for i in teach])
    low, high = min(score), max(score)
    nearest = [min(math.dist(row, features[i]) for i in teach) for row in features.astype(float)]
    mean, found = math.fsum(nearest) / len(nearest), []
    for row, own, distance in zip(features, score, nearest):
        u = forest.predict([list(row)])[0]
        f_u = 0.1 + 0.85 * (u / 5)
        weight = math.tanh(math.exp(alpha * distance / mean) - 1 + math.atanh(f_u))
        found.append((5 - 0) * (own - low) / (high - low) * weight)
    return np.array(found)


@pytest.mark.parametrize(("seed", "alpha", "trees"), [(0, 1.0, 200), (3, 0.5, 30), (7, 0.0, 10)])
def test_the_formula(seed, alpha, trees):
    features, score, labels = sample(24, seed=seed)
    found = active.relevance(features, score, labels, seed=seed, alpha=alpha, trees=trees)
    np.testing.assert_allclose(found, literal(features, score, labels, seed, alpha, trees), rtol=1e-9)


def test_figures_by_hand():
    """One label of 5 on the left of three objects in a line: distances 0, 1, 2, mean 1."""
    found = active.relevance([[0.0], [1.0], [2.0]], [1.0, 2.0, 3.0], [5, -1, -1], seed=0)
    tail = [math.tanh(math.exp(d) - 1 + math.atanh(0.95)) for d in (0, 1, 2)]
    np.testing.assert_allclose(found, [0.0, 2.5 * tail[1], 5 * tail[2]], rtol=1e-12)
    assert active.relevance([[0.0], [1.0]], [2.0, 1.0], [0, -1], seed=0)[0] == pytest.approx(0.5)  # 5 x 0.1


def test_order_of_rows_changes_no_bit(monkeypatch):
    features, score, labels = sample(200, labelled=40)
    features[:5] = features[5:10]  # the same features with other labels and scores
    options = {"trees": 20}
    whole = active.relevance(features, score, labels, seed=1, **options)
    mixed = np.random.default_rng(1).permutation(len(score))
    monkeypatch.setattr(active, "BLOCK", 50)
    np.testing.assert_array_equal(
        active.relevance(features[mixed], score[mixed], labels[mixed], seed=1, **options), whole[mixed]
    )
    assert not np.array_equal(active.relevance(features, score, labels, seed=2, **options), whole)


def test_without_labels_scores_are_as_they_were():
    features, score, _ = sample()
    none = np.full(len(score), -1)
    found = active.relevance(features, score, none, seed=0)
    np.testing.assert_array_equal(found, active.converted(score))
    np.testing.assert_array_equal(active.ranked(found, np.arange(60)), np.argsort(-score, kind="stable"))


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ([1, 2, 3], [0, 2.5, 5]),
        ([4, 4, 4], [2.5, 2.5, 2.5]),
        ([7], [2.5]),
        ([], []),
        ([1, NAN, 3, INF], [0, NAN, 5, NAN]),
        ([NAN, NAN], [NAN, NAN]),
        ([-1.7e308, 0, 1.7e308], [0, 2.5, 5]),
        ([0, 5e-324], [2.5, 2.5]),
    ],
)
def test_conversion(score, expected):
    np.testing.assert_allclose(active.converted(np.array(score, float)), expected, rtol=1e-12)


def test_conversion_by_rank_is_not_ruled_by_one_score():
    score = np.array([1, 2, 3, 3, 1e9])
    assert active.converted(score)[3] < 1e-7
    np.testing.assert_allclose(active.converted(score, "rank"), [0, 1.25, 3.125, 3.125, 5])


def test_nulls_stay_null_and_take_no_part():
    features, score, labels = sample()
    bad = np.array([4, 11, 12])
    keep = np.setdiff1d(np.arange(60), bad)
    score[4], score[11], features[12] = NAN, INF, NAN
    labels[bad], labels[keep[:6]] = 5, [0, 1, 2, 3, 4, 5]
    found = active.relevance(features, score, labels, seed=0)
    assert np.isnan(found[[4, 11]]).all()
    assert found[12] == active.converted(score)[12]  # near to nothing: its own score
    others = active.relevance(features[keep], score[keep], labels[keep], seed=0)
    same = active.converted(score)[keep] / np.where(active.converted(score[keep]) == 0, 1, active.converted(score[keep]))
    np.testing.assert_allclose(found[keep], others * same, rtol=1e-12)
    order = active.ranked(found, np.arange(60))
    assert set(order[-2:].tolist()) == {4, 11}


def test_all_labelled_and_all_in_one_place():
    """No distance at all: the forest alone decides."""
    score, labels = np.array([1.0, 2.0, 3.0]), np.array([5.0, 5.0, 5.0])
    for features in (np.arange(3.0)[:, None], np.zeros((3, 1))):
        np.testing.assert_allclose(active.relevance(features, score, labels, seed=0), [0, 2.5 * 0.95, 5 * 0.95])
    alone = active.relevance(np.zeros((1, 2)), np.ones(1), np.zeros(1), seed=0)
    np.testing.assert_allclose(alone, [0.25])
    assert active.relevance(np.zeros((0, 2)), np.zeros(0), np.zeros(0), seed=0).shape == (0,)


def test_an_object_far_beyond_all_others_overflows_nothing():
    features = np.zeros((3000, 1))
    features[-1] = 1e30
    labels = np.full(3000, -1)
    labels[0] = 0
    found = active.relevance(features, np.arange(3000.0), labels, seed=0)
    assert found[-1] == 5.0
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": [6, -1, -1]}, "outside their range"),
        ({"labels": [-2, -1, -1]}, "outside their range"),
        ({"labels": [NAN, -1, -1]}, "outside their range"),
        ({"score": [1, 2]}, "do not fit"),
        ({"features": [1, 2, 3]}, "do not fit"),
        ({"features": np.zeros((3, 0))}, "do not fit"),
        ({"alpha": -1}, "alpha"),
        ({"alpha": NAN}, "alpha"),
    ],
)
def test_what_cannot_be_ranked(change, words):
    given = {"features": np.zeros((3, 1)), "score": [1, 2, 3], "labels": [1, -1, -1], "alpha": 1.0} | change
    with pytest.raises(DataError, match=words):
        active.relevance(given["features"], given["score"], given["labels"], seed=0, alpha=given["alpha"])


@pytest.mark.parametrize("ids", [np.array([7, 3, 2**60 + 1, 2**60, 1]), np.array(["b", "a", "010", "01", "00"])])
def test_ties_go_by_id_and_nulls_last(ids):
    order = active.ranked(np.array([1.0, 1.0, 2.0, 2.0, NAN]), ids)
    assert order.tolist() == ([3, 2, 1, 0, 4])


# The loop


def answers(*given):
    """An `ask` that gives these in turn, and what it was asked."""
    seen, left = [], list(given)
    return seen, lambda row: (seen.append(row), left.pop(0))[1]


def by_number(labels):
    return np.arange(len(labels))


def test_the_loop_stores_each_label_before_the_next_and_ranks_anew():
    events, rankings = [], []

    def rank(labels):
        rankings.append(labels.copy())
        return np.arange(len(labels))[::-1] if len(rankings) > 1 else np.arange(len(labels))

    seen, ask = answers(5, SKIP, 0, 3, 2, STOP)
    start = np.array([-1.0, 4, -1, -1, -1, -1, -1, -1])
    ended = active.session(
        rank,
        start,
        lambda row: (events.append(("ask", row)), ask(row))[1],
        lambda row, label: events.append(("label", row, label)),
        every=2,
        on_rank=lambda rows: events.append(("next", rows.tolist())),
    )
    assert seen == [0, 2, 3, 7, 6, 5]  # row 1 had a label; then from the end, without the skipped row 2
    assert events[:4] == [("next", [0, 2]), ("ask", 0), ("label", 0, 5), ("ask", 2)]
    assert events[4:7] == [("next", [3, 4]), ("ask", 3), ("label", 3, 0)]
    assert events[7] == ("next", [7, 6])
    assert ended[1:] == (6, 4, 1, 3, True)
    assert ended.labels.tolist() == [5, 4, -1, 0, -1, -1, 2, 3]
    assert start[0] == -1
    assert [(labels != -1).sum() for labels in rankings] == [1, 3, 5]


@pytest.mark.parametrize(
    ("given", "limit", "expected"),
    [
        ((1, 2, 3), None, (3, 3, 0)),
        ((SKIP, SKIP, SKIP), None, (3, 0, 3)),
        ((1, SKIP), 2, (2, 1, 1)),
        ((), 0, (0, 0, 0)),
    ],
)
def test_the_loop_ends_with_the_objects_or_at_the_limit(given, limit, expected):
    _, ask = answers(*given)
    ended = active.session(by_number, np.full(3, -1), ask, lambda *_: None, every=2, limit=limit)
    assert (ended.asked, ended.given, ended.skipped) == expected
    assert not ended.stopped


@pytest.mark.parametrize(
    ("given", "limit", "expected"),
    [
        ([SKIP] * 7, None, [[0, 1, 2], [3, 4, 5], [6]]),
        ([SKIP] * 7, 5, [[0, 1, 2], [3, 4]]),
        ([SKIP, 1, 1, SKIP, 1, 1, 1], None, [[0, 1, 2], [3, 4, 5], [5, 6]]),
        ([SKIP, SKIP, STOP], None, [[0, 1, 2]]),
    ],
)
def test_what_comes_next_is_said_before_it_is_asked(given, limit, expected):
    """In groups, though nothing is ranked anew while objects are passed over."""
    told, (_, ask) = [], answers(*given)

    def asked(row):
        assert row in told[-1]
        return ask(row)

    active.session(
        by_number,
        np.full(7, -1),
        asked,
        lambda *_: None,
        every=3,
        limit=limit,
        on_rank=lambda rows: told.append(rows.tolist()),
    )
    assert told == expected


@pytest.mark.parametrize("bad", [6, -1, "yes"])
def test_the_loop_refuses_what_is_no_answer(bad):
    with pytest.raises(DataError, match="no label"):
        active.session(by_number, np.full(3, -1), lambda row: bad, lambda *_: pytest.fail("stored"))
    with pytest.raises(DataError, match="one label"):
        active.session(by_number, np.full(3, -1), lambda row: 1, lambda *_: None, every=0)


# What labels gain


def mock(seed: int = 0, rows: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ordinary objects about 0; anomalies of two kinds in two corners, equally strange, a quarter of them wanted."""
    rng = np.random.default_rng(seed)
    kind = np.repeat([0, 1, 2], [rows, 150, 450])
    corners = np.zeros((3, 10))
    corners[1, 0], corners[2, 1] = 8, 8
    features = rng.normal(size=(len(kind), 10)) + corners[kind]
    return features, np.linalg.norm(features, axis=1), kind == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_fifty_labels_at_least_double_the_share_of_the_wanted_kind(seed):
    curve = active.simulate(*mock(seed), labels_per_round=10, rounds=5, seed=seed, trees=50)
    assert curve.labels.tolist() == [0, 10, 20, 30, 40, 50]
    assert curve.share[0] == curve.raw_share[0]
    assert 0.1 < curve.raw_share[-1] < 0.4
    assert curve.share[-1] >= 2 * curve.raw_share[-1]
    assert curve.recall[-1] > 1.5 * curve.raw_recall[-1]
    again = active.simulate(*mock(seed), labels_per_round=10, rounds=5, seed=seed, trees=50)
    np.testing.assert_array_equal(again.share, curve.share)


def test_what_is_far_from_every_label_keeps_its_score():
    features, score, wanted = mock()
    features[0], score[0] = 0, 11.0  # a new kind, in a corner of its own
    features[0, 2] = -30
    labels = np.full(len(score), -1)
    shown = active.ranked(score, np.arange(len(score)))[:50]
    labels[shown] = 0  # nothing of what was seen is wanted
    labels[0] = -1
    found = active.relevance(features, score, labels, seed=0)
    assert found[0] == pytest.approx(active.converted(score)[0], rel=1e-6)
    assert active.ranked(found, np.arange(len(score)))[0] == 0
    kinds = features[:, 1] > 4
    near = kinds & (labels == -1)
    assert np.median(found[near] / active.converted(score)[near]) < 0.9


def test_a_simulation_ends_where_nothing_is_left_and_is_drawn(tmp_path):
    features, score, _ = sample(30)
    score[3] = NAN
    curve = active.simulate(features, score, np.arange(30) < 6, labels_per_round=8, rounds=9, seed=0, trees=5)
    assert curve.labels.tolist() == [0, 8, 16, 24, 29]
    assert math.isnan(curve.share[-1])
    assert (curve.recall == 1).all()  # the top 100 holds them all; one has no score
    plots.learning(tmp_path / "learning.png", {"mock": curve})
    assert (tmp_path / "learning.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(DataError, match="no curve"):
        plots.learning(tmp_path / "none.png", {})


def test_a_simulation_needs_something_to_find():
    features, score, _ = sample(10)
    with pytest.raises(DataError, match="no wanted object"):
        active.simulate(features, score, np.zeros(10, bool), labels_per_round=1, rounds=1, seed=0)
    with pytest.raises(DataError, match="below 1") as error:
        active.simulate(features, score, np.ones(10, bool), labels_per_round=0, rounds=1, seed=0)
    assert error.value.fix

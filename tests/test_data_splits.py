"""Splits: proportions, reproducibility, independence of order and company."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

from astroad_jax.data.splits import by_id_hash, stratified, stratified_folds
from astroad_jax.errors import DataError

LABELS = np.repeat(["a", "b", "c", "d"], [1000, 203, 40, 1])


def counts(labels):
    return dict(zip(*np.unique(labels, return_counts=True)))


class TestStratified:
    @pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5, 0.77])
    def test_proportions_match_scikit_learn(self, fraction):
        labels = LABELS[LABELS != "d"]  # scikit-learn refuses a class of one
        _, test = stratified(labels, fraction, seed=0)
        reference = StratifiedShuffleSplit(1, test_size=fraction, random_state=0)
        expected = counts(labels[next(reference.split(labels, labels))[1]])
        got = counts(labels[test])
        assert all(abs(got[name] - expected[name]) <= 1 for name in expected)

    def test_every_row_once(self):
        train, test = stratified(LABELS, 0.3, seed=1)
        assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(LABELS)))

    @pytest.mark.parametrize(
        ("size", "fraction", "tested"), [(1, 0.9, 0), (2, 0.9, 1), (2, 0.2, 0), (5, 0.5, 3), (10, 0.25, 3)]
    )
    def test_rounding(self, size, fraction, tested):
        assert len(stratified(np.zeros(size, int), fraction, seed=0)[1]) == tested

    def test_same_seed_same_split_other_seed_another(self):
        first, again, other = (stratified(LABELS, 0.3, seed)[1] for seed in (4, 4, 5))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_hiding_a_class_leaves_the_others(self):
        _, test = stratified(LABELS, 0.3, seed=0)
        kept = np.flatnonzero(LABELS != "a")
        _, fewer = stratified(LABELS[kept], 0.3, seed=0)
        assert np.array_equal(kept[fewer], test[LABELS[test] != "a"])

    @pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0])
    def test_fraction_is_checked(self, fraction):
        with pytest.raises(DataError, match="between 0 and 1"):
            stratified(LABELS, fraction, seed=0)


class TestFolds:
    @pytest.mark.parametrize("k", [2, 5, 10])
    def test_match_scikit_learn(self, k):
        labels = LABELS[LABELS != "d"]
        folds = stratified_folds(labels, k, seed=0)
        reference = StratifiedKFold(k, shuffle=True, random_state=0).split(labels, labels)
        for (_, test), (_, expected) in zip(folds, reference, strict=True):
            a, b = counts(labels[test]), counts(labels[expected])
            assert all(abs(a[name] - b[name]) <= 1 for name in b)

    def test_every_row_is_tested_once(self):
        folds = stratified_folds(LABELS, 7, seed=0)
        assert np.array_equal(np.sort(np.concatenate([test for _, test in folds])), np.arange(len(LABELS)))
        for train, test in folds:
            assert len(np.intersect1d(train, test)) == 0
            assert len(train) + len(test) == len(LABELS)
        sizes = [len(test) for _, test in folds]
        assert max(sizes) - min(sizes) <= 1

    @pytest.mark.parametrize("k", [0, 1, 5])
    def test_k_is_checked(self, k):
        with pytest.raises(DataError, match="folds"):
            stratified_folds(np.zeros(4), k, seed=0)


class TestIdHash:
    def test_share(self):
        chosen = by_id_hash(np.arange(20_000), 0.3, "test")
        assert abs(chosen.mean() - 0.3) < 0.015

    def test_depends_on_the_id_alone(self):
        ids = np.arange(2**60, 2**60 + 500)
        order = np.random.default_rng(0).permutation(500)
        whole = by_id_hash(ids, 0.4, "s")
        assert np.array_equal(by_id_hash(ids[order], 0.4, "s"), whole[order])
        parts = [by_id_hash(part, 0.4, "s") for part in np.array_split(ids, 7)]
        assert np.array_equal(np.concatenate(parts), whole)

    def test_numbers_and_their_digits_agree(self):
        ids = np.arange(200)
        for form in (ids.astype(np.uint16), ids.astype(">i8"), ids.astype(str), ids.astype("U40")):
            assert np.array_equal(by_id_hash(form, 0.5, "s"), by_id_hash(ids, 0.5, "s"))

    def test_padded_text_is_another_id(self):
        ids = np.arange(200)
        padded = np.char.zfill(ids.astype(str), 6)
        assert not np.array_equal(by_id_hash(padded, 0.5, "s"), by_id_hash(ids, 0.5, "s"))

    def test_salts_are_independent(self):
        a, b = (by_id_hash(np.arange(10_000), 0.5, salt) for salt in ("calibration", "test"))
        assert abs((a & b).mean() - 0.25) < 0.02

    def test_fractions_nest(self):
        ids = np.arange(1000)
        assert not np.any(by_id_hash(ids, 0.1, "s") & ~by_id_hash(ids, 0.2, "s"))

    def test_pinned(self):
        """A split must not move between versions of this package."""
        assert np.flatnonzero(by_id_hash(np.arange(20), 0.3, "pin")).tolist() == [1, 3, 8, 9, 11, 12, 15]

    def test_ids_must_be_exact(self):
        with pytest.raises(DataError, match="integers or text"):
            by_id_hash(np.array([1.0]), 0.5, "s")

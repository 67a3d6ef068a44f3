"""Which rows train, which calibrate, which are held out; anomalies are held out whole."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astroad_jax import config
from astroad_jax.data import splits
from astroad_jax.errors import DataError

TRAIN, CALIBRATION, TEST = 0, 1, 2


class Parts(NamedTuple):
    """Row numbers of a table's three parts."""

    train: np.ndarray
    calibration: np.ndarray
    test: np.ndarray


def split(labels: np.ndarray, settings: config.Run) -> Parts:
    """Stratified parts of the inliers; every anomaly is in the test part.

    Raises
    ------
    DataError
        A label named in ``data.anomalies`` that no row has, or no inlier at all.
    """
    wanted, present = set(settings.data.anomalies), set(labels.tolist())
    if wanted - present:
        raise DataError(
            "no row has this label",
            where="data.anomalies",
            expected=f"labels of the table: {', '.join(sorted(present)) or 'it has none'}",
            got=", ".join(sorted(wanted - present)),
            fix="correct data.anomalies, or name the label column (data.label)",
        )
    anomalous = np.isin(labels, list(wanted)) if wanted else np.zeros(len(labels), bool)
    inliers = np.flatnonzero(~anomalous)
    if len(inliers) < 3:
        raise DataError("too few rows to train on", expected="at least 3 that are no anomalies", got=len(inliers))
    seed = settings.train.seed
    keep, test = splits.stratified(labels[inliers], settings.data.test_fraction, seed)
    train, calibration = splits.stratified(labels[inliers[keep]], settings.data.calibration_fraction, seed + 1)
    rest = np.concatenate([inliers[test], np.flatnonzero(anomalous)])
    return Parts(inliers[keep][train], inliers[keep][calibration], np.sort(rest))


def hash_parts(ids: np.ndarray, labels: np.ndarray | None, settings: config.Run) -> np.ndarray:
    """Part of every object of a table too large to hold: by its id alone, unless its label is an anomaly.

    Returns
    -------
    (N,) int
        `TRAIN`, `CALIBRATION` or `TEST`.
    """
    seed = settings.train.seed
    test = splits.by_id_hash(ids, settings.data.test_fraction, f"test-{seed}")
    held = splits.by_id_hash(ids, settings.data.calibration_fraction, f"calibration-{seed}")
    if labels is not None and settings.data.anomalies:
        test = test | np.isin(labels, list(settings.data.anomalies))
    return np.where(test, TEST, np.where(held, CALIBRATION, TRAIN))

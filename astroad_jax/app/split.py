"""Which rows train, which calibrate, which are held out; anomalies are held out whole."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np

from astroad_jax import config, data, preprocess
from astroad_jax.data import splits
from astroad_jax.errors import DataError

TRAIN, CALIBRATION, TEST, VALIDATION = 0, 1, 2, 3
log = logging.getLogger(__name__)


class Parts(NamedTuple):
    """Row numbers of a table's parts; those for validation are none unless asked for."""

    train: np.ndarray
    calibration: np.ndarray
    test: np.ndarray
    validation: np.ndarray


def labels_of(table: data.Table) -> np.ndarray:
    """(N,) labels of a table's rows, empty where it has none."""
    return table.label if table.label is not None else np.full(len(table.ids), "", "U1")


def report_left_out(source: data.Source, flags: np.ndarray) -> None:
    """Say how many objects their reader excludes and why, and refuse a table of which nothing is left.

    That most are left out is no defect here: the cuts in ``[spectra]`` choose a sample.
    """
    lost, reasons = int(preprocess.excluded(flags).sum()), preprocess.count_flags(flags)
    if lost == len(flags):
        raise DataError(
            "none of these objects can be used",
            where=source.path,
            expected="spectra within the cuts of [spectra], with good pixels",
            got=f"{lost} left out: {reasons}",
            fix="widen the cuts, such as spectra.z_max=0.5 or spectra.snr_min=2, or choose other files",
        )
    if lost:
        log.warning("%d of %d objects left out (%s)", lost, len(flags), reasons)


def split(labels: np.ndarray, settings: config.Run) -> Parts:
    """Parts of the inliers: a stratified test part; of the rest, drawn without regard to class, one that calibrates and
    one that validates.

    Every anomaly is in the test part.

    Raises
    ------
    DataError
        A label named in ``data.anomalies`` that no row has, hardly any inlier, or labels that name rows, not classes.
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
    _check_classes(labels[inliers])
    seed = settings.train.seed
    keep, test = splits.stratified(labels[inliers], settings.data.test_fraction, seed)
    train, calibration = splits.uniform(labels[inliers[keep]], settings.data.calibration_fraction, seed + 1)
    rest = np.concatenate([inliers[test], np.flatnonzero(anomalous)])
    train, calibration = inliers[keep][train], inliers[keep][calibration]
    train, validation = _validation(train, labels, settings)
    return Parts(train, calibration, np.sort(rest), validation)


def _validation(train: np.ndarray, labels: np.ndarray, settings: config.Run) -> tuple[np.ndarray, np.ndarray]:
    """Training rows without those for validation, and those."""
    fraction = settings.data.validation_fraction
    if not fraction:
        return train, train[:0]
    kept, drawn = splits.uniform(labels[train], fraction, settings.train.seed + 2)
    return train[kept], train[drawn]


def _check_classes(labels: np.ndarray) -> None:
    """Refuse labels most of which occur once: a coordinate or a name was taken for a class."""
    _, counts = np.unique(labels, return_counts=True)
    if len(labels) >= 20 and (counts == 1).sum() > len(labels) / 2:
        raise DataError(
            "the label column does not hold classes",
            where="data.label",
            expected="labels that several rows share",
            got=f"{len(counts)} different labels in {len(labels)} rows",
            fix="set data.label to another column, or list this one in data.ignore",
        )


def hash_parts(ids: np.ndarray, labels: np.ndarray | None, settings: config.Run) -> np.ndarray:
    """Part of every object of a table too large to hold: by its id alone, unless its label is an anomaly.

    Returns
    -------
    (N,) int
        `TRAIN`, `CALIBRATION`, `TEST` or `VALIDATION`.
    """
    seed = settings.train.seed
    test = splits.by_id_hash(ids, settings.data.test_fraction, f"test-{seed}")
    held = splits.by_id_hash(ids, settings.data.calibration_fraction, f"calibration-{seed}")
    if labels is not None and settings.data.anomalies:
        test = test | np.isin(labels, list(settings.data.anomalies))
    part = np.where(test, TEST, np.where(held, CALIBRATION, TRAIN))
    if not settings.data.validation_fraction:
        return part
    drawn = splits.by_id_hash(ids, settings.data.validation_fraction, f"validation-{seed}")
    return np.where(drawn & (part == TRAIN), VALIDATION, part)


def class_index(labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Class number of every label, -1 for those that are none of the classes."""
    places = {name: number for number, name in enumerate(classes)}
    return np.array([places.get(label, -1) for label in labels.tolist()], np.int32)

"""What training needs of a table that stays on disk: one pass that samples it, then a feed that reads it anew."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astroad_jax import config, data, preprocess
from astroad_jax.app.checksum import Checksum
from astroad_jax.app.split import (
    CALIBRATION,
    TRAIN,
    VALIDATION,
    class_index,
    hash_parts,
    labels_of,
    report_left_out,
)
from astroad_jax.errors import DataError
from astroad_jax.types import Feed

EXCLUDED = -1  # part of rows that are in none


class Overview(NamedTuple):
    """A table seen once.

    Attributes
    ----------
    sample : (N, ...) float32
        Training rows, at most ``data.shuffle_rows``, drawn from the whole file.
    calibration : (x, ids)
        Calibration rows, likewise.
    validation : (x, labels)
        Validation rows, likewise; none where none are asked for.
    classes : tuple of str
        Labels of the training rows; ``("",)`` where there are none.
    checksum : str
        Of the training rows.
    """

    sample: np.ndarray
    calibration: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    classes: tuple[str, ...]
    checksum: str


class Reservoir:
    """Uniform sample of at most `size` rows of a stream: those of the smallest random numbers."""

    def __init__(self, size: int, seed: int, use: int):
        self.size, self.held = size, []
        self.rng = np.random.Generator(np.random.Philox(key=[seed, use]))

    def add(self, *columns: np.ndarray) -> None:
        """Offer rows."""
        self.held.append((self.rng.random(len(columns[0])), *columns))
        if sum(len(part[0]) for part in self.held) > 2 * self.size:
            self.held = [self._smallest()]

    def _smallest(self) -> tuple[np.ndarray, ...]:
        columns = [np.concatenate(parts) for parts in zip(*self.held)]
        kept = np.sort(np.argsort(columns[0], kind="stable")[: self.size])  # in file order
        return tuple(column[kept] for column in columns)

    def rows(self) -> tuple[np.ndarray, ...]:
        """The sample's columns."""
        return self._smallest()[1:]


def survey(source: data.Source, roles: data.Roles, settings: config.Run) -> Overview:
    """Read a table once: samples of its parts, its classes, and whether its ids are unique.

    Rows that their reader excludes are left out of all of it.

    Raises
    ------
    DataError
        Repeated ids, or no row to train on.
    """
    size, seed = settings.data.shuffle_rows, settings.train.seed
    train, calibration, validation = (Reservoir(size, seed, use) for use in range(3))
    labels, ids, flags, seen = set(), [], [], Checksum()
    for table in data.stream_tables(source, roles, min(size, 65536)):
        part = _parts(table, settings)
        train.add(table.x[part == TRAIN])
        seen.add(table.ids, labels_of(table), table.x, np.flatnonzero(part == TRAIN))
        calibration.add(table.x[part == CALIBRATION], table.ids[part == CALIBRATION])
        rows = part == VALIDATION
        validation.add(table.x[rows], labels_of(table)[rows])
        labels |= set(np.unique(table.label[part == TRAIN]).tolist()) if table.label is not None else set()
        ids.append(table.ids[part != EXCLUDED])
        flags.append(table.flags)
    report_left_out(source, np.concatenate(flags))
    data.check_ids(np.concatenate(ids), source.path)
    (sample,) = train.rows()
    if not len(sample):
        raise DataError("no row is left to train on", where=source.path, fix="check data.anomalies and the fractions")
    classes = tuple(sorted(labels - {""})) or ("",)
    return Overview(sample, calibration.rows(), validation.rows(), classes, str(seen))


def transformed(
    x: np.ndarray, labels: np.ndarray, scaler: preprocess.Scaler, classes: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Columns of the usable rows, preprocessed."""
    x, flags = preprocess.apply(scaler, x)
    usable = ~preprocess.unusable(scaler, flags)
    return {"x": np.asarray(x)[usable], "y": class_index(labels[usable], classes)}


def _parts(table: data.Table, settings: config.Run) -> np.ndarray:
    """Part of every row; `EXCLUDED` where its reader leaves it out."""
    return np.where(preprocess.excluded(table.flags), EXCLUDED, hash_parts(table.ids, table.label, settings))


def feed(
    source: data.Source, roles: data.Roles, settings: config.Run, scaler: preprocess.Scaler, classes: tuple[str, ...]
) -> Feed:
    """Usable training rows, preprocessed on the way."""
    from astroad_jax.data.pipeline import stream_feed

    def transform(table: data.Table) -> dict[str, np.ndarray]:
        rows = _parts(table, settings) == TRAIN
        return transformed(table.x[rows], labels_of(table)[rows], scaler, classes)

    options = settings.train
    return stream_feed(
        source,
        roles,
        transform,
        seed=options.seed,
        batch_size=options.batch_size,
        shuffle_rows=settings.data.shuffle_rows,
    )

"""Batch order as a pure function of (seed, step): what makes a killed run resumable bit for bit.

`batch_indices` says which rows make up batch number `step`; both the in-memory feed and the
tf.data pipelines are built on it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from astroad_jax.errors import DataError

Batch = tuple[np.ndarray, np.ndarray]  # row numbers (B,) int32, and mask (B,) float32
Remainder = Literal["pad", "drop"]


def steps_per_epoch(num_rows: int, batch_size: int, remainder: Remainder = "pad") -> int:
    """Batches in one pass over the data; with ``"drop"`` an incomplete last batch is left out (at least one stays)."""
    whole = num_rows // batch_size
    return max(1, whole if remainder == "drop" else -(-num_rows // batch_size))


def _permutation(seed: int, epoch: int, num_rows: int) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return rng.permutation(num_rows).astype(np.int32)


def batch_indices(seed: int, step: int, num_rows: int, batch_size: int, remainder: Remainder = "pad") -> Batch:
    """Rows of batch `step` when every epoch is a fresh shuffle.

    Parameters
    ----------
    seed, step : int
        The order is a function of these two and of the sizes, nothing else.
    num_rows, batch_size : int
        Sizes of the data and of every batch.
    remainder : {"pad", "drop"}
        Whether the rows that do not fill a last batch come as a padded, masked batch or wait for the next shuffle.

    Returns
    -------
    index : (batch_size,) int32
        Row numbers; padding repeats row 0.
    mask : (batch_size,) float32
        1 for real rows, 0 for padding.
    """
    return _cut(lambda epoch: _permutation(seed, epoch, num_rows), step, num_rows, batch_size, remainder)


def _cut(shuffled: Callable[[int], np.ndarray], step: int, num_rows: int, batch_size: int, remainder: Remainder) -> Batch:
    """Batch `step` of epochs whose order is given."""
    epoch, position = divmod(step, steps_per_epoch(num_rows, batch_size, remainder))
    rows = shuffled(epoch)[position * batch_size : (position + 1) * batch_size]
    index = np.zeros(batch_size, np.int32)
    mask = np.zeros(batch_size, np.float32)
    index[: len(rows)], mask[: len(rows)] = rows, 1.0
    return index, mask


class Classes(NamedTuple):
    """Rows of a table by their class, as `balanced_indices` wants them."""

    rows: np.ndarray  # (N,) row numbers, class by class
    starts: np.ndarray  # (M,) where each class starts
    counts: np.ndarray  # (M,) how many it has


def by_class(labels: np.ndarray) -> Classes:
    """Order rows by class; rows whose label is -1 take no part.

    Raises
    ------
    DataError
        No row has a class.
    """
    labels = np.asarray(labels)
    known = np.flatnonzero(labels >= 0)
    if not len(known):
        raise DataError(
            "no row has a class to balance",
            expected="class numbers, not all of them -1",
            got=f"{len(labels)} rows without one",
            fix="give the rows labels, or set train.balance = false",
        )
    _, inverse, counts = np.unique(labels[known], return_inverse=True, return_counts=True)
    return Classes(known[np.argsort(inverse, kind="stable")], np.cumsum(counts) - counts, counts)


def balanced_indices(seed: int, step: int, classes: Classes, batch_size: int) -> Batch:
    """Rows of batch `step` when every batch holds the classes in equal parts.

    The slots of a batch are dealt to the M classes in turn (where M does not divide the batch, the odd slots go
    round from step to step), and each slot takes a member of its class uniformly, with replacement. The mean of any
    per-row loss over such a batch has the expectation 1/M sum_j 1/N_j sum_{i in j}: eq. 3 of MCDSVDD up to the
    constant factor M.

    Returns
    -------
    index, mask
        As for `batch_indices`; the mask is all ones.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, step]))
    chosen = (np.arange(batch_size) + step * batch_size) % len(classes.counts)
    member = (rng.random(batch_size) * classes.counts[chosen]).astype(np.int64)
    return classes.rows[classes.starts[chosen] + member].astype(np.int32), np.ones(batch_size, np.float32)


class Order(NamedTuple):
    """Which rows make up a batch, as functions of the step."""

    batch: Callable[[int], Batch]
    plain: Callable[[int], Batch]  # every row once an epoch, whatever the balancing
    num_rows: int


def row_order(
    num_rows: int,
    *,
    seed: int,
    batch_size: int,
    remainder: Remainder = "pad",
    labels: np.ndarray | None = None,
) -> Order:
    """Order of shuffled epochs, or, with labels, of batches that hold the classes in equal parts.

    Raises
    ------
    DataError
        Labels of another number than the rows, or none that is a class.
    """
    shuffled = lru_cache(maxsize=2)(lambda epoch: _permutation(seed, epoch, num_rows))  # one serves an epoch's steps

    def plain(step: int) -> Batch:
        return _cut(shuffled, step, num_rows, batch_size, "pad")

    def batch(step: int) -> Batch:
        return _cut(shuffled, step, num_rows, batch_size, remainder)

    if labels is None:
        return Order(batch, plain, num_rows)
    if len(labels) != num_rows:
        fix = "give one label for each row"
        raise DataError("labels to balance do not fit the rows", expected=num_rows, got=len(labels), fix=fix)
    classes = by_class(labels)
    return Order(lambda step: balanced_indices(seed, step, classes, batch_size), plain, num_rows)

"""Batch order as a pure function of (seed, step): what makes a killed run resumable bit for bit.

Nothing here holds state. `batch_indices` says which rows make up batch number `step`; both the in-memory feed and the
tf.data pipelines are built on it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np

Remainder = Literal["pad", "drop"]


def steps_per_epoch(num_rows: int, batch_size: int, remainder: Remainder = "pad") -> int:
    """Batches in one pass over the data; with ``"drop"`` an incomplete last batch is left out (at least one stays)."""
    whole = num_rows // batch_size
    return max(1, whole if remainder == "drop" else -(-num_rows // batch_size))


@lru_cache(maxsize=64)  # one epoch's order serves all its steps; ensembles ask for many seeds in turn
def _shuffled(seed: int, epoch: int, num_rows: int) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return rng.permutation(num_rows).astype(np.int32)


def batch_indices(
    seed: int, step: int, num_rows: int, batch_size: int, remainder: Remainder = "pad"
) -> tuple[np.ndarray, np.ndarray]:
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
    per_epoch = steps_per_epoch(num_rows, batch_size, remainder)
    epoch, position = divmod(step, per_epoch)
    rows = _shuffled(seed, epoch, num_rows)[position * batch_size : (position + 1) * batch_size]
    index = np.zeros(batch_size, np.int32)
    mask = np.zeros(batch_size, np.float32)
    index[: len(rows)], mask[: len(rows)] = rows, 1.0
    return index, mask


def balanced_indices(seed: int, step: int, labels: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of batch `step` when every batch holds the classes in equal parts.

    The slots of a batch are dealt to the M classes in turn (where M does not divide the batch, the odd slots go
    round from step to step), and each slot takes a member of its class uniformly, with replacement. The mean of any
    per-row loss over such a batch has the expectation 1/M sum_j 1/N_j sum_{i in j}: eq. 3 of MCDSVDD up to the
    constant factor M.

    Parameters
    ----------
    labels : (N,) int
        Class index per row; every class present takes part.

    Returns
    -------
    index, mask
        As for `batch_indices`; the mask is all ones.
    """
    by_class, starts, counts = _members(labels.tobytes(), labels.dtype.str)
    rng = np.random.Generator(np.random.Philox(key=[seed, step]))
    chosen = (np.arange(batch_size) + step * batch_size) % len(counts)
    member = (rng.random(batch_size) * counts[chosen]).astype(np.int64)
    return by_class[starts[chosen] + member].astype(np.int32), np.ones(batch_size, np.float32)


@lru_cache(maxsize=64)
def _members(labels: bytes, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows ordered by class, where each class starts, and how many it has."""
    _, inverse, counts = np.unique(np.frombuffer(labels, dtype), return_inverse=True, return_counts=True)
    return np.argsort(inverse, kind="stable"), np.cumsum(counts) - counts, counts

"""Training rows that stay on the device: only row numbers travel each step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np

from astroad_jax.sampling import Remainder, row_order, steps_per_epoch
from astroad_jax.types import Feed


def fingerprint(arrays: dict[str, Any], *options: object) -> str:
    """SHA-256 over names, types, shapes and bytes of arrays, and over what decides their order."""
    digest = hashlib.sha256(repr(options).encode())
    for name in sorted(arrays):
        if isinstance(arrays[name], dict):
            digest.update(fingerprint(arrays[name], name).encode())
            continue
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.data if array.dtype.kind not in "OU" else repr(array.tolist()).encode())
    return digest.hexdigest()


def _stream(order: Callable[[int], tuple[np.ndarray, np.ndarray]], start: int) -> Iterator[dict[str, np.ndarray]]:
    for step in count(start):
        index, mask = order(step)
        yield {"index": index, "mask": mask}


def resident(
    arrays: dict[str, np.ndarray],
    *,
    seed: int,
    batch_size: int,
    balance: bool = False,
    remainder: Remainder = "pad",
    valid: dict[str, np.ndarray] | None = None,
) -> Feed:
    """Feed from arrays that fit on the device.

    Parameters
    ----------
    arrays : dict
        Columns of equal length N: ``x`` and, where there are labels, ``y``.
    balance : bool
        Classes of ``y`` in equal parts in every batch.
    valid : dict, optional
        Held-out columns with the same names, for stages that select on them.
    """
    num_rows = len(arrays["x"])
    labels = arrays["y"] if balance else None
    order = row_order(num_rows, seed=seed, batch_size=batch_size, remainder=remainder, labels=labels)
    data = dict(arrays) if valid is None else {**arrays, "valid": valid}
    return Feed(
        batches=lambda start: _stream(order.batch, start),
        passes=lambda start: _stream(order.plain, start),
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch(num_rows, batch_size, remainder),
        steps_per_pass=steps_per_epoch(num_rows, batch_size),
        data=data,
        fingerprint=fingerprint(data, seed, batch_size, balance, remainder),
    )


def with_valid(feed: Feed, valid: dict[str, np.ndarray]) -> Feed:
    """The same feed with held-out columns for stages that look at a validation loss; `resident` takes them itself."""
    data = {**feed.data, "valid": valid}
    return feed._replace(data=data, fingerprint=fingerprint({"valid": valid}, feed.fingerprint))


def members(
    rows: Sequence[np.ndarray],
    data: dict[str, Any],
    *,
    batch_size: int,
    seeds: Sequence[int],
    labels: Sequence[np.ndarray] | None = None,
    remainder: Remainder = "pad",
) -> Feed:
    """One feed for an ensemble whose members learn from different rows of one table that stays on the device.

    Parameters
    ----------
    rows : sequence of (N_m,) int
        Each member's rows of the table.
    data : dict
        The table, shared by all.
    labels : sequence of (N_m,) int, optional
        Each member's class indices; batches are then balanced.

    Notes
    -----
    An epoch is the longest member's. In plain passes the shorter ones wait out its end with empty masks, so that every
    member sees each of its rows exactly once.
    """
    rows = [np.asarray(own, np.int32) for own in rows]
    orders = [
        row_order(
            len(own),
            seed=seed,
            batch_size=batch_size,
            remainder=remainder,
            labels=None if labels is None else labels[m],
        )
        for m, (own, seed) in enumerate(zip(rows, seeds))
    ]
    longest = max(steps_per_epoch(len(own), batch_size) for own in rows)

    def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
        return _stack([order.batch(step) for order in orders], rows)

    def plain(step: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, position = divmod(step, longest)
        parts = []
        for order in orders:
            own = steps_per_epoch(order.num_rows, batch_size)
            index, mask = order.plain(epoch * own + min(position, own - 1))
            parts.append((index, mask * (position < own)))
        return _stack(parts, rows)

    return Feed(
        batches=lambda start: _stream(batch, start),
        passes=lambda start: _stream(plain, start),
        batch_size=batch_size,
        steps_per_epoch=max(steps_per_epoch(len(own), batch_size, remainder) for own in rows),
        steps_per_pass=longest,
        data=data,
        fingerprint=fingerprint(
            data, batch_size, tuple(seeds), remainder, labels is not None, *[own.tolist() for own in rows]
        ),
        rows_axis=1,
    )


def _stack(parts: list[tuple[np.ndarray, np.ndarray]], rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Members' batches side by side, ``(M, B)``, in row numbers of the common table."""
    index = np.stack([own[index] for own, (index, _) in zip(rows, parts)])
    return index, np.stack([mask for _, mask in parts]).astype(np.float32)

"""Preprocessing of features: fitted on training rows, saved with the model, the same in NumPy and under jit.

An object is a row of any shape; its entries are the features, each with statistics of its own (`images` shares them).
`apply` treats every object by itself, so its result does not depend on the batch. Nothing is imputed unless
the policy says so, and what cannot be used is flagged. The scalings are in `scales`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from astroad_jax.config import Preprocess
from astroad_jax.errors import DataError
from astroad_jax.preprocess.pieces import runs
from astroad_jax.preprocess.scaler import (
    CONSTANT,
    EMPTY,
    IMPUTING,
    INF_INPUT,
    NAN_INPUT,
    OUTSIDE,
    Array,
    Params,
    Scaler,
    flushed,
    sum_flags,
)
from astroad_jax.preprocess.scales import SCALES, limits, quantiles

# Just outside the range of the present values; the authors' code of MCDSVDD puts missing features there.
LOWEST = -1.1
BOUNDED = ("quantile", "minmax")
BLOCK = 2**18  # entries that NumPy scales at a time: bounds the memory, and fits the caches
FIT_BLOCK = 2**24  # entries sorted at a time


def fit(x: np.ndarray, config: Preprocess, names: Sequence[str] = ()) -> Scaler:
    """Learn the scaling from training rows; entries that are not finite take no part in the statistics.

    Parameters
    ----------
    x : (N, ...) float32
        Training rows only; all axes but the first are features.
    config : Preprocess
        ``scale`` and ``nan``. A missing value becomes, under ``median``, the training median of its column;
        under ``lowest``, -1.1 after ``quantile`` and ``minmax``, and otherwise the training minimum less a
        tenth of the range, then scaled (which is 0 where the column is constant in training). Under ``flag``
        and ``error`` the object has no score; ``error`` also refuses training rows that have any.
    names : sequence of str, optional
        Feature names, for the messages.

    Raises
    ------
    DataError
        No rows or no features, a column without any finite value, or NaN under ``error``.
    """
    flat = _flatten(x, np)
    if flat.size == 0:
        raise DataError("nothing to fit the scaling on", expected="a row and a feature", got=f"shape {np.shape(x)}")
    _check_columns(flat, config.nan, names)
    parts = [_statistics(block, config) for block in _sorted_columns(flat)]
    params = {key: np.concatenate([part[key] for part in parts], axis=1) for key in parts[0]}
    return Scaler(config.scale, config.nan, params)


def apply(scaler: Scaler, x: Array, xp: Any = np) -> tuple[Array, Array]:
    """Scale objects; a pure function of each object and the scaler.

    Parameters
    ----------
    scaler : Scaler
        From `fit` or `load`.
    x : (N, ...) array
        Objects with the features that were fitted; taken as float32.
    xp : module
        ``numpy``, or ``jax.numpy`` to trace under jit.

    Returns
    -------
    z : (N, ...) float32
        Scaled, with 0 in the place of everything that is not finite and not imputed.
    flags : (N,) uint32
        Sum of `NAN_INPUT`, `INF_INPUT`, `EMPTY`, `CONSTANT` and `OUTSIDE`; `scaler.unusable` says which of them null the
        score.

    Raises
    ------
    DataError
        Another number of features than was fitted.
    """
    if xp is not np:
        return _apply(scaler, x, xp)
    x = np.asarray(x)
    parts = [_apply(scaler, x[rows], np) for rows in runs(max(len(x), 1), math.prod(x.shape[1:]), BLOCK)]
    return np.concatenate([z for z, _ in parts]), np.concatenate([flags for _, flags in parts])


def check(scaler: Scaler) -> None:
    """Scale one row of zeros; raises something where the scaler cannot be used."""
    _apply(scaler, np.zeros((1, scaler.params["fill"].shape[1])), np)


def _check_columns(flat: np.ndarray, policy: str, names: Sequence[str]) -> None:
    """Refuse columns that have nothing to learn from, and missing values where they are not allowed."""
    empty = np.flatnonzero(~np.isfinite(flat).any(axis=0))
    if len(empty):
        raise DataError(
            "features without any finite value in the training rows",
            got=_listing(empty, names),
            fix="leave them out (data.ignore)",
        )
    missing = np.isnan(flat).sum(axis=0) if policy == "error" else np.zeros(0, int)
    if missing.any():
        raise DataError(
            'missing values, which preprocess.nan = "error" does not allow',
            got=_listing(np.flatnonzero(missing), names, missing),
            fix="remove these rows or features, or set preprocess.nan to flag, median or lowest",
        )


def _listing(columns: np.ndarray, names: Sequence[str], counts: np.ndarray | None = None) -> str:
    """Names of the first ten columns (numbers where there are none), with counts where given."""
    words = [str(names[j]) if len(names) else f"column {j}" for j in columns[:10]]
    if counts is not None:
        words = [f"{word} ({counts[j]} rows)" for word, j in zip(words, columns)]
    return ", ".join(words) + (f" and {len(columns) - 10} more" if len(columns) > 10 else "")


def _sorted_columns(flat: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks ``(B, N)`` of columns, each sorted, with NaN at the end for what is not finite."""
    width = max(1, FIT_BLOCK // len(flat))
    for start in range(0, flat.shape[1], width):
        block = np.array(flat[:, start : start + width].T, order="C")
        block[~np.isfinite(block)] = np.nan
        block.sort(axis=1)
        yield block


def _statistics(block: np.ndarray, config: Preprocess) -> Params:
    """Everything fitted from sorted columns ``(B, N)``, as float32 arrays ``(rows, B)``."""
    count = np.isfinite(block).sum(axis=1)
    params = {"fill": _fill(block, count, config.nan)} | SCALES[config.scale].fit(block, count)
    return {key: value.T.astype(np.float32) for key, value in params.items()}


def _fill(block: np.ndarray, count: np.ndarray, policy: str) -> np.ndarray:
    """What stands for a missing value before scaling, ``(B, 1)``; 0 where the object is flagged anyway."""
    if policy == "median":
        return quantiles(block, count, np.array([0.5]))
    if policy == "lowest":
        low, high = limits(block, count)
        return np.maximum(low - 0.1 * (high - low), np.finfo(np.float32).min)
    return np.zeros((len(block), 1))


def _flatten(x: Array, xp: Any) -> Array:
    """``(N, D)`` float32; in C order, because NumPy's sums over an object depend on the order in memory."""
    if np.ndim(x) < 2:
        raise DataError("objects must be the rows of an array", expected="shape (N, ...)", got=f"shape {np.shape(x)}")
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and flagged
        flat = flushed(xp.reshape(xp.asarray(x, dtype=xp.float32), (len(x), math.prod(x.shape[1:]))), xp)
    return np.ascontiguousarray(flat) if xp is np else flat


def _apply(scaler: Scaler, x: Array, xp: Any) -> tuple[Array, Array]:
    flat = _flatten(x, xp)
    _check_width(scaler, flat)
    nan, finite = xp.isnan(flat), xp.isfinite(flat)
    filled = xp.where(finite, flat, scaler.params["fill"])
    with np.errstate(over="ignore", invalid="ignore"):
        z = SCALES[scaler.kind].apply(scaler.params, filled, xp)
    if scaler.nan == "lowest" and scaler.kind in BOUNDED:
        z = xp.where(nan, xp.float32(LOWEST), z)
    inf = ~(finite | nan) | ~xp.isfinite(z)
    absent = inf if scaler.nan in IMPUTING else inf | nan
    constant = (xp.max(filled, axis=1) == xp.min(filled, axis=1)) & (scaler.kind == "gcn")
    flags = _flags(nan, inf, finite, constant, _beyond(scaler, flat, xp), xp)
    return xp.reshape(xp.where(absent, xp.float32(0), z), np.shape(x)), flags


def _beyond(scaler: Scaler, flat: Array, xp: Any) -> Array:
    """Entries that the scaling moves to the nearest training value: only quantiles do."""
    if scaler.kind != "quantile":
        return xp.zeros(flat.shape, bool)
    reference = scaler.params["quantiles"]
    return (flat < reference[:1]) | (flat > reference[-1:])


def _flags(nan: Array, inf: Array, finite: Array, constant: Array, beyond: Array, xp: Any) -> Array:
    """(N,) uint32 from masks ``(N, D)`` and ``(N,)``."""
    some = xp.any(finite, axis=1)
    found = {
        NAN_INPUT: xp.any(nan, axis=1),
        INF_INPUT: xp.any(inf, axis=1),
        EMPTY: ~some,
        CONSTANT: constant & some,
        OUTSIDE: xp.any(finite & beyond, axis=1),
    }
    return sum_flags(found, xp)


def _check_width(scaler: Scaler, flat: Array) -> None:
    expected = scaler.params["fill"].shape[1]
    if flat.shape[1] != expected:
        raise DataError(
            "the objects do not have the features that the scaling was fitted on",
            expected=f"{expected} features",
            got=f"{flat.shape[1]} features",
            fix="give the columns of the training table, in its order",
        )

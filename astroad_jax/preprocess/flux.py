"""Scaling of spectra: bad pixels infilled by the training spectra's principal components, then flux of L2 norm 1.

A spectrum is an object of shape (2, W): flux, and its inverse variance (ivar), on one grid (`spectra.to_grid` makes them). A
pixel of ivar 0 is bad: its flux is never looked at, and its ivar stays 0. The ivar is multiplied by norm^2, so that
``ivar residual^2`` is what it was. `apply` treats every spectrum by itself, so its result does not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from astroad_jax.config import Preprocess
from astroad_jax.errors import DataError
from astroad_jax.preprocess import infill
from astroad_jax.preprocess.pieces import runs
from astroad_jax.preprocess.scaler import CONSTANT, EMPTY, INF_INPUT, NAN_INPUT, Array, Scaler, sum_flags, unusable
from astroad_jax.preprocess.spectra import unit_norm

KINDS = ("spectrum",)
BLOCK = 2**18  # pixels that NumPy works on at a time: bounds the memory, and fits the caches


def is_spectrum(shape: Sequence[int]) -> bool:
    """Whether an object of this shape is taken for a spectrum: flux and ivar."""
    return len(shape) == 2 and shape[0] == 2


def fit(x: np.ndarray, config: Preprocess, names: Sequence[str] = ()) -> Scaler:
    """Learn the infill from training spectra; see `infill.fit`.

    Parameters
    ----------
    x : (N, 2, W) array
        Training spectra only. Those that `apply` would leave without a score take no part.
    config : Preprocess
        ``nan``, ``components``, ``iterations``. A missing flux of positive ivar, or a missing ivar, leaves the spectrum
        without a score under ``flag`` and ``error``, and is infilled like a bad pixel under ``median`` and ``lowest``;
        ``error`` also refuses training spectra that have any.
    names : sequence of str, optional
        The column that holds them, for the messages.

    Raises
    ------
    DataError
        Not spectra, none that can be used, or NaN under ``error``.
    """
    where = ", ".join(names)
    _check_spectra(np.shape(x), where)
    draft = Scaler("spectrum", config.nan, {})
    good, flags = np.empty((len(x), x.shape[2]), bool), np.empty(len(x), np.uint32)
    for rows in runs(len(x), x.shape[2], BLOCK):
        seen = _seen(x[rows], np)
        good[rows], flags[rows] = seen.good, seen.flags
    if config.nan == "error":
        _check_missing(int(((flags & NAN_INPUT) > 0).sum()), where)
    good[unusable(draft, flags)] = False
    if not good.any():
        raise DataError(
            "no spectrum to fit the scaling on",
            where=where,
            expected="one with a pixel of positive ivar and finite flux that is not 0",
            got=f"{len(x)} spectra, none of them usable",
            fix="see that flux and ivar are in this order, and what flags the spectra have",
        )
    basis = infill.fit(x[:, 0], good, config.components, config.iterations)
    return draft._replace(params={key: np.asarray(value) for key, value in basis._asdict().items()})


def apply(scaler: Scaler, x: Array, xp: Any = np) -> tuple[Array, Array]:
    """Infill and normalise spectra; a pure function of each spectrum and the scaler.

    Parameters
    ----------
    scaler : Scaler
        From `fit` or `scaler.load`.
    x : (N, 2, W) array
        Spectra on the grid that was fitted; taken as float32.
    xp : module
        ``numpy``, or ``jax.numpy`` to trace under jit.

    Returns
    -------
    z : (N, 2, W) float32
        Flux of norm 1, infilled where ivar is 0, and ivar; all zeros for a spectrum that gets no score.
    flags : (N,) uint32
        Sum of `NAN_INPUT`, `INF_INPUT`, `EMPTY` (no good pixel) and `CONSTANT` (no flux but 0).

    Raises
    ------
    DataError
        Another shape than was fitted.
    """
    _check_width(scaler, np.shape(x))
    if xp is not np:
        return _apply(scaler, x, xp)
    x = np.asarray(x)
    z, flags = np.empty(x.shape, np.float32), np.empty(len(x), np.uint32)
    for rows in runs(len(x), x.shape[2], BLOCK):
        z[rows], flags[rows] = _apply(scaler, x[rows], np)
    return z, flags


def check(scaler: Scaler) -> None:
    """Scale one spectrum of zeros; raises something where the scaler cannot be used."""
    _apply(scaler, np.zeros((1, 2, *scaler.params["mean"].shape)), np)


class _Seen(NamedTuple):
    """Flux (0 where bad), ivar (0 where bad) and good pixels ``(N, W)``, and flags ``(N,)``."""

    flux: Array
    ivar: Array
    good: Array
    flags: Array


def _seen(x: Array, xp: Any) -> _Seen:
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and flagged
        flux, ivar = (xp.asarray(x[:, plane], dtype=xp.float32) for plane in (0, 1))
    if xp is np:  # sums over an object depend on the order in memory
        flux, ivar = np.ascontiguousarray(flux), np.ascontiguousarray(ivar)
    weighs = ivar > 0
    good = weighs & xp.isfinite(flux) & xp.isfinite(ivar)
    some = xp.any(good, axis=1)
    found = {
        NAN_INPUT: xp.any(xp.isnan(ivar) | (weighs & xp.isnan(flux)), axis=1),
        INF_INPUT: xp.any(xp.isinf(ivar) | (weighs & xp.isinf(flux)), axis=1),
        EMPTY: ~some,
        CONSTANT: some & ~xp.any(good & (flux != 0), axis=1),
    }
    return _Seen(xp.where(good, flux, 0), xp.where(good, ivar, 0), good, sum_flags(found, xp))


def _apply(scaler: Scaler, x: Array, xp: Any) -> tuple[Array, Array]:
    seen = _seen(x, xp)
    basis = infill.Basis(**scaler.params)
    z = xp.stack(unit_norm(infill.fill(basis, seen.flux, seen.good, xp), seen.ivar, xp)[:2], axis=1)
    overflow = ~xp.all(xp.isfinite(z), axis=(1, 2))
    flags = seen.flags | xp.where(overflow, xp.uint32(INF_INPUT), xp.uint32(0))
    null = unusable(scaler, flags)[:, None, None]
    return xp.where(null, xp.float32(0), z), flags


def _check_spectra(found: tuple[int, ...], where: str) -> None:
    if len(found) != 3 or not is_spectrum(found[1:]) or 0 in found:
        raise DataError(
            "preprocess.scale = spectrum is for spectra",
            where=where,
            expected="an array of shape (N, 2, W), none of them 0: flux, and inverse variance",
            got=f"shape {found}",
            fix="choose another scale, or store flux and ivar as the two rows of one column",
        )


def _check_width(scaler: Scaler, found: tuple[int, ...]) -> None:
    expected = (2, *scaler.params["mean"].shape)
    if tuple(found[1:]) != expected:
        raise DataError(
            "the spectra do not have the shape that the scaling was fitted on",
            expected=f"(flux and ivar, pixels) {expected}",
            got=tuple(found[1:]),
            fix="bring them to the grid of the training spectra ([spectra] in the configuration)",
        )


def _check_missing(count: int, where: str) -> None:
    if count:
        raise DataError(
            'missing values, which preprocess.nan = "error" does not allow',
            where=where,
            got=f"{count} training spectra with any",
            fix="set the ivar of such pixels to 0, which has them infilled, or preprocess.nan to flag, median or lowest",
        )

"""Preprocessing of images: crop, stretch, resize, and each band to [-1, 1]; fitted on training images.

==========  ====================================================================================
name        stretched value of a pixel x, before the band's training range becomes [-1, 1]
==========  ====================================================================================
``linear``  x
``asinh``   asinh(x / softening) of each band (Lupton, Gunn & Szalay 1999, AJ 118, 1406, without
            their constants, which the range takes up): linear below the softening, logarithmic
            above it; meant for fluxes from which the sky is subtracted
==========  ====================================================================================

Only the central `crop` pixels are looked at; what lies outside has no part in statistics, flags or result. Statistics are
one number a band. `apply` treats every image by itself and in one order, so its result does not depend on the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from astroad_jax.config import Preprocess
from astroad_jax.errors import ConfigError, DataError
from astroad_jax.preprocess import resample
from astroad_jax.preprocess.pieces import runs
from astroad_jax.preprocess.scaler import (
    CONSTANT,
    EMPTY,
    FLAT_BAND,
    INF_INPUT,
    NAN_INPUT,
    OUTSIDE,
    PADDED,
    Array,
    Frame,
    Params,
    Scaler,
    flushed,
    sum_flags,
    unusable,
)
from astroad_jax.preprocess.scales import fraction

BLOCK = 2**18  # numbers that NumPy works on at a time: bounds the memory, and fits the caches
SAMPLE = 2**20  # pixels of a band at most from which its median and its noise are taken
ROUNDING = 2.0**-20  # of a limit: what lies no further beyond it may differ by rounding alone
PIXELS = (1, 2, 3)  # the axes of an image in a batch
STRIP = 8  # padding is seen where this part of an image, along a side, is all one value
RARE = 0.05  # and where no more than this share of the training images has any


def fit(x: np.ndarray, config: Preprocess, names: Sequence[str] = ()) -> Scaler:
    """Learn limits (and the softening) of every band; pixels that are not finite take no part.

    Parameters
    ----------
    x : (N, H, W, bands) array
        Training images only.
    config : Preprocess
        ``scale`` (``linear`` or ``asinh``), ``nan``, ``crop``, ``size``, ``softening``. A missing pixel becomes, before
        the stretch, the training median of its band under ``median``, the lowest training value of its band under
        ``lowest``. Under ``flag`` and ``error`` the image has no score; ``error`` also refuses training images with any.
    names : sequence of str, optional
        The column that holds them, for the messages.

    Returns
    -------
    Scaler
        With ``low`` and ``high``, the extremes of the cropped, stretched and resized training pixels, and ``unpadded``, 1
        for a band in which padding is rare.

    Raises
    ------
    DataError
        Not images, none of them, a band without any finite pixel, or NaN under ``error``.
    ConfigError
        A crop larger than the images, a size for images that are not square, no noise to take a softening from.
    """
    where = ", ".join(names)
    frame = _frame(np.shape(x), config, where)
    sample = _sample(x, frame)
    _check_finite(np.isfinite(sample).any(axis=(0, 1, 2)), where)
    noise = np.full(frame.bands, config.softening) if config.softening else _noise(sample)
    softening = {"softening": _a_band(np.where(noise > 0, noise, 1))} if config.scale == "asinh" else {}
    params = {"fill": _a_band(np.nanmedian(sample, axis=(0, 1, 2))), **softening}
    scaler = Scaler(config.scale, config.nan, params, frame)
    seen = _survey(x, scaler)
    _check_missing(seen.missing, config.nan, where)
    _check_finite(seen.low <= seen.high, where)
    if softening:
        _check_noise(noise, seen, where)
    fill = {"fill": _a_band(seen.lowest)} if config.nan == "lowest" else {}
    limits = {"low": _a_band(seen.low), "high": _a_band(seen.high), "unpadded": _a_band(seen.padded <= RARE * len(x))}
    return scaler._replace(params=params | fill | limits)


def apply(scaler: Scaler, x: Array, xp: Any = np) -> tuple[Array, Array]:
    """Scale images; a pure function of each image and the scaler.

    Parameters
    ----------
    scaler : Scaler
        From `fit` or `scaler.load`.
    x : (N, H, W, bands) array
        Images of the shape that was fitted; taken as float32.
    xp : module
        ``numpy``, or ``jax.numpy`` to trace under jit.

    Returns
    -------
    z : (N, h, w, bands) float32
        In [-1, 1], values beyond all training values at the ends, a band that is constant in training 0; all zeros for
        an object that gets no score.
    flags : (N,) uint32
        Sum of `NAN_INPUT`, `INF_INPUT`, `EMPTY`, `CONSTANT` (every band of the image is constant), `OUTSIDE`,
        `FLAT_BAND` (some band is constant which in training is not: dead or saturated; the image has a score) and
        `PADDED` (an eighth of it, along a side, is one value in some band, which is rare in training: beyond the edge of
        a survey or a detector; the image has a score).

    Raises
    ------
    DataError
        Another size or number of bands than was fitted.
    """
    _check_shape(scaler.frame, np.shape(x))
    if xp is not np:
        return _apply(scaler, x, xp)
    x = np.asarray(x)
    z = np.empty((len(x), *shape(scaler.frame)), np.float32)
    flags = np.empty(len(x), np.uint32)
    for rows in runs(len(x), math.prod(x.shape[1:]), BLOCK):
        z[rows], flags[rows] = _apply(scaler, x[rows], np)
    return z, flags


def shape(frame: Frame) -> tuple[int, int, int]:
    """Shape of an image after preprocessing."""
    height, width = (frame.crop, frame.crop) if frame.crop else (frame.height, frame.width)
    return (frame.size, frame.size, frame.bands) if frame.size else (height, width, frame.bands)


def check(scaler: Scaler) -> None:
    """Scale one image of zeros; raises something where the scaler cannot be used."""
    height, width, bands = scaler.frame[:3]
    _apply(scaler, np.zeros((1, height, width, bands)), np)


def _linear(params: Params, x: Array, xp: Any) -> Array:
    return x


def _asinh(params: Params, x: Array, xp: Any) -> Array:
    return xp.arcsinh(x / params["softening"])


STRETCHES: dict[str, Callable[[Params, Array, Any], Array]] = {"linear": _linear, "asinh": _asinh}


def _apply(scaler: Scaler, x: Array, xp: Any) -> tuple[Array, Array]:
    seen = _seen(x, scaler.frame, xp)
    nan, finite = xp.isnan(seen), xp.isfinite(seen)
    y, sound = _stretched(scaler, seen, finite, xp)
    low, high = (_along(scaler.params[key], y, xp) for key in ("low", "high"))
    margin = ROUNDING * xp.maximum(xp.abs(low), xp.abs(high))
    beyond = (y < low - margin) | (y > high + margin)
    some = xp.any(finite, axis=PIXELS)
    flat = _flat(seen, finite, xp)
    constant = xp.all(flat, axis=1)
    varies = xp.reshape(scaler.params["high"] > scaler.params["low"], (1, -1))
    found = {
        NAN_INPUT: xp.any(nan, axis=PIXELS),
        INF_INPUT: xp.any(~(finite | nan), axis=PIXELS) | ~xp.all(xp.isfinite(y), axis=PIXELS),
        EMPTY: ~some,
        CONSTANT: constant & some,
        OUTSIDE: xp.any(sound & beyond, axis=PIXELS),
        FLAT_BAND: xp.any(flat & varies, axis=1) & ~constant,
        PADDED: xp.any(_padded(seen, xp) & ~flat & _unpadded(scaler.params, xp), axis=1),
    }
    flags = sum_flags(found, xp)
    z = xp.where(high > low, xp.clip(2 * fraction(y, low, high, xp) - 1, -1, 1), 0)
    null = xp.reshape(unusable(scaler, flags), (-1, 1, 1, 1))
    return xp.where(null, xp.float32(0), z), flags


def _seen(x: Array, frame: Frame, xp: Any) -> Array:
    """The pixels that are looked at, float32; what float32 cannot hold is infinite, and flagged."""
    with np.errstate(over="ignore"):
        seen = flushed(xp.asarray(crop(x, frame), dtype=xp.float32), xp)
    return np.ascontiguousarray(seen) if xp is np else seen


def crop(x: Array, frame: Frame) -> Array:
    """The central pixels of images ``(N, H, W, bands)`` that a scaling looks at."""
    if not frame.crop:
        return x
    top, left = (frame.height - frame.crop) // 2, (frame.width - frame.crop) // 2
    return x[:, top : top + frame.crop, left : left + frame.crop]


def _stretched(scaler: Scaler, seen: Array, finite: Array, xp: Any) -> tuple[Array, Array]:
    """Stretched and resized pixels, and which of them come from finite pixels alone."""
    params = {key: _along(values, seen, xp) for key, values in scaler.params.items()}
    filled = xp.where(finite, seen, params["fill"])
    with np.errstate(over="ignore", invalid="ignore"):
        y = STRETCHES[scaler.kind](params, filled, xp)
        if not scaler.frame.size:
            return y, finite & xp.isfinite(y)
        y = resample.resize(y, scaler.frame.size, xp)
    if xp is np and finite.all():
        return y, np.isfinite(y)
    return y, ~resample.touched(~finite, scaler.frame.size, xp) & xp.isfinite(y)


def _along(values: Array, images: Array, xp: Any) -> Array:
    """One number a band, repeated along a row of pixels: NumPy is slow where the last axis is all it can loop over."""
    return xp.tile(values, (1, 1, images.shape[2], 1))


def _flat(seen: Array, finite: Array, xp: Any) -> Array:
    """(N, bands) bool: whether a band holds one value, or no finite one."""
    low = xp.min(xp.min(xp.where(finite, seen, xp.inf), axis=1), axis=1)  # an axis at a time: see `_along`
    high = xp.max(xp.max(xp.where(finite, seen, -xp.inf), axis=1), axis=1)
    return high <= low


def _padded(seen: Array, xp: Any) -> Array:
    """(N, bands) bool: whether a strip of the band, along one of the four sides, is one finite value."""
    height, width = (-(-side // STRIP) for side in seen.shape[1:3])
    strips = (seen[:, :height], seen[:, -height:], seen[:, :, :width], seen[:, :, -width:])
    same = [xp.all(xp.all(strip == strip[:, :1, :1], axis=1), axis=1) for strip in strips]
    return same[0] | same[1] | same[2] | same[3]


def _unpadded(params: Params, xp: Any) -> Array:
    """(1, bands) bool: of which bands padding is to be told; of none by a scaling that did not look for it."""
    return xp.reshape(params.get("unpadded", xp.zeros_like(params["low"])) > 0, (1, -1))


class _Survey(NamedTuple):
    """What one pass over the training images finds: per band, and how many images miss pixels."""

    lowest: np.ndarray
    highest: np.ndarray
    low: np.ndarray
    high: np.ndarray
    padded: np.ndarray
    missing: int


def _survey(x: np.ndarray, scaler: Scaler) -> _Survey:
    """Extremes of every band, before (lowest, highest) and after (low, high) stretch and resizing; images with padding."""
    bands = scaler.frame.bands
    least, most = np.full((2, bands), np.inf), np.full((2, bands), -np.inf)
    padded, missing = np.zeros(bands, int), 0
    for rows in runs(len(x), math.prod(x.shape[1:]), BLOCK):
        seen = _seen(x[rows], scaler.frame, np)
        finite = np.isfinite(seen)
        missing += int(np.isnan(seen).any(axis=PIXELS).sum())
        padded += _padded(seen, np).sum(axis=0)
        for place, (values, good) in enumerate(((seen, finite), _stretched(scaler, seen, finite, np))):
            least[place] = np.minimum(least[place], np.where(good, values, np.inf).min(0).min(0).min(0))
            most[place] = np.maximum(most[place], np.where(good, values, -np.inf).max(0).max(0).max(0))
    return _Survey(least[0], most[0], least[1], most[1], padded, missing)


def _a_band(values: np.ndarray) -> np.ndarray:
    """One float32 number a band, in the shape that meets images."""
    return np.asarray(values, np.float32).reshape(1, 1, 1, -1)


def _sample(x: np.ndarray, frame: Frame) -> np.ndarray:
    """Evenly spaced images and rows of them, `SAMPLE` pixels a band at most; NaN for what is not finite."""
    height, width = shape(frame._replace(size=0))[:2]
    every = -(-len(x) * height * width // SAMPLE)
    chosen = x[:: min(every, len(x))]
    lines = -(-len(chosen) * height * width // SAMPLE)
    sample = _seen(chosen, frame, np)[:, ::lines]
    return np.where(np.isfinite(sample), sample, np.float32(np.nan))


def _noise(sample: np.ndarray) -> np.ndarray:
    """Noise level of every band, ``(bands,)``; 0 where there is none to be seen.

    It is taken from the differences between neighbours in a row, to which smooth sources add little: their median size
    over 0.6745 sqrt(2), the standard deviation of normal noise. Differences of exactly 0 do not count: they are padding.
    """
    steps = np.abs(np.diff(sample.astype(np.float64), axis=2))
    bands = (steps[..., band][steps[..., band] > 0] for band in range(sample.shape[-1]))
    return np.array([np.median(seen) / (0.6745 * math.sqrt(2)) if seen.size else 0.0 for seen in bands])


def _frame(found: tuple[int, ...], config: Preprocess, where: str) -> Frame:
    """Geometry of the images, checked."""
    if len(found) != 4 or 0 in found:
        raise DataError(
            f"preprocess.scale = {config.scale} is for images",
            where=where,
            expected="an array of shape (N, height, width, bands), none of them 0",
            got=f"shape {found}",
            fix="choose another scale, or store images with their bands last (a single band as an axis of 1)",
        )
    height, width = found[1:3]
    if config.crop > min(height, width):
        got, expected = f"images of {height} x {width}", f"at least {config.crop} x {config.crop} pixels"
        raise ConfigError("the crop is larger than the images", where="preprocess.crop", expected=expected, got=got)
    if config.size and not config.crop and height != width:
        raise ConfigError(
            "resizing would distort these images",
            where="preprocess.size",
            expected="square images",
            got=f"{height} x {width}",
            fix=f"set preprocess.crop, to {min(height, width)} or less",
        )
    return Frame(*found[1:], config.crop, config.size)


def _check_shape(frame: Frame, found: tuple[int, ...]) -> None:
    if tuple(found[1:]) != frame[:3]:
        raise DataError(
            "the images do not have the shape that the scaling was fitted on",
            expected=f"(height, width, bands) {frame[:3]}",
            got=tuple(found[1:]),
            fix="give images like those of the training table",
        )


def _check_finite(good: np.ndarray, where: str) -> None:
    """Refuse bands that have nothing to learn from."""
    if not good.all():
        fix = "leave these bands out, or crop to where the images have pixels (preprocess.crop)"
        got = f"bands {np.flatnonzero(~good).tolist()} of {len(good)}, counted from 0"
        raise DataError("bands without any finite pixel in the training images", where=where, got=got, fix=fix)


def _check_missing(count: int, policy: str, where: str) -> None:
    if count and policy == "error":
        raise DataError(
            'missing pixels, which preprocess.nan = "error" does not allow',
            where=where,
            got=f"{count} training images with any",
            fix="remove these images, or set preprocess.nan to flag, median or lowest",
        )


def _check_noise(noise: np.ndarray, seen: _Survey, where: str) -> None:
    """A band that varies must have a softening; a constant one becomes 0 whatever it is."""
    silent = np.flatnonzero((noise == 0) & (seen.highest > seen.lowest))
    if len(silent):
        raise ConfigError(
            "no noise to be seen from which a softening could be taken",
            where=where,
            expected="neighbouring pixels that differ",
            got=f"bands {silent.tolist()}, counted from 0, are constant along every row",
            fix="set preprocess.softening, in the images' units",
        )

"""Make the mock sky look like given observations: their noise, sky level, sizes and brightnesses, and their stretch.

What a model learns from mocks and is then asked about real galaxies should differ in the galaxies alone. `like`
therefore measures real and mock images in the same way, and moves the settings until both measure the same.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from astroad_jax.data.sky import check, draw
from astroad_jax.data.sky_parameters import Noise, Sky, per_band
from astroad_jax.errors import DataError

LONGEST = 8.0  # correlation length, pixels: the most the camera makes
SPREADS = (0.2, 5.0)  # how far `like` may go in widening or narrowing a distribution


class Stretch(NamedTuple):
    """How counts become the eight bits of a picture (Lupton et al. 2004): asinh of the intensity, colours kept.

    With I the mean over bands, a band x becomes ``255 x f(I) / I``, ``f(I) = asinh(beta I / white) / asinh(beta)``.

    Attributes
    ----------
    white : float
        Counts shown at full brightness.
    beta : float
        Nearly linear for 1, nearly logarithmic for 1000.
    """

    white: float = 1.0
    beta: float = 30.0


def stretch(images: np.ndarray, how: Stretch) -> np.ndarray:
    """Counts ``(N, H, W, C)`` to uint8; below zero is black, a band above `white` is full."""
    _check_images(images)
    intensity = images.mean(axis=-1, keepdims=True, dtype=np.float64) / how.white
    return np.clip(np.rint(255 * images / how.white * _gain(intensity, how)), 0, 255).astype(np.uint8)


def unstretch(images: np.ndarray, how: Stretch) -> np.ndarray:
    """Undo `stretch`: uint8 ``(N, H, W, C)`` to counts, float32, to eight bits and less what was cut off.

    The stretch of published pictures is often unknown. Mocks that are matched through a guess and shown through the
    same guess still come out right where it is smooth: the guess is undone on the way back.
    """
    _check_images(images)
    shown = images / np.float64(255)
    intensity = np.sinh(shown.mean(axis=-1, keepdims=True) * math.asinh(how.beta)) / how.beta
    return (how.white * shown / _gain(intensity, how)).astype(np.float32)


def _gain(intensity: np.ndarray, how: Stretch) -> np.ndarray:
    """f(I) / I for I in units of white, with its limit at 0."""
    small = np.abs(intensity) < 1e-9
    safe = np.where(small, 1.0, intensity)
    return np.where(small, how.beta, np.arcsinh(how.beta * safe) / safe) / math.asinh(how.beta)


def measure_noise(images: np.ndarray) -> Noise:
    """Noise of images of single objects, from their corners.

    Parameters
    ----------
    images : (N, H, W) or (N, H, W, C) array
        On a linear scale (`unstretch` pictures first); objects in the middle. Neighbours in a minority of the corners
        do no harm: all is medians.

    Returns
    -------
    Noise
        Standard deviation of each band, from the median absolute deviation, and correlation length, from that of the
        differences between neighbouring pixels; at most 8 pixels.

    Raises
    ------
    DataError
        No images, or pixels that are not finite.
    """
    corners = _corners(_with_bands(images))
    spread = _deviation(corners - np.median(corners, axis=(1, 2, 3), keepdims=True), (1, 2, 3))
    steps = [_deviation(np.diff(corners, axis=axis), (1, 2, 3)) for axis in (2, 3)]
    good = spread > 0
    if not good.any():
        return Noise(tuple(np.zeros(spread.shape[-1]).tolist()), 0.0)
    rho = 1 - np.median((steps[0][good] ** 2 + steps[1][good] ** 2) / (4 * spread[good] ** 2))
    length = 1 / (2 * math.sqrt(-math.log(rho))) if 0.02 < rho < 1 else LONGEST * (rho >= 1)
    return Noise(tuple(np.median(spread, axis=0).tolist()), min(length, LONGEST))


def like(
    images: np.ndarray, how: Stretch | None = None, sky: Sky | None = None, *, count: int = 256, rounds: int = 4
) -> Sky:
    """Settings with which mock galaxies resemble observed ones.

    Parameters
    ----------
    images : (N, H, W) or (N, H, W, C) array
        Real galaxies, one in the middle of each image, C of 1 or 3 (i, r, g, or red, green, blue).
    how : Stretch, optional
        Of pictures; images on a linear scale need none.
    sky : Sky, optional
        What is not matched comes from here: PSF, ranges of mass and redshift (with depth and sampling matched, these
        order and colour the galaxies and mean no more). By default without Poisson noise: what of it the
        sky makes is in the measured noise.
    count, rounds : int
        Mock galaxies to compare with, and how often the settings are moved.

    Returns
    -------
    Sky
        With the images' size, bands, noise, offset and balance of bands; ``zero_point`` and ``pixel_scale`` moved
        until the median flux and half-light radius of isolated mocks are the observed ones, ``magnitude_spread`` and
        ``size_spread`` until their scatter is (16th to 84th percentile; no further than factors of 5).

    Raises
    ------
    DataError
        Images that are not square, no images, pixels that are not finite, or no image with light in it.
    """
    linear = _with_bands(images if how is None else unstretch(_with_bands(images), how))
    if linear.shape[1] != linear.shape[2]:
        raise DataError("the mock sky is square", expected="(N, H, H, C)", got=f"shape {linear.shape}")
    observed = _summary(linear)
    sky = (sky or Sky(sky=0.0, gain=math.inf))._replace(
        size=linear.shape[1],
        bands=linear.shape[3],
        noise=measure_noise(linear),
        offset=tuple(observed.level.tolist()),
        balance=(1.0,) * linear.shape[3],
    )
    check(sky)
    for _ in range(rounds):
        sky = _moved(sky, observed, _summary(draw(sky, count, "isolated", 0)["image"]))
    return sky


class _Summary(NamedTuple):
    """What is measured of real and mock images alike."""

    level: np.ndarray  # of the corners, (C,) counts
    colours: np.ndarray  # light over that of the middle band, (C,)
    flux: np.ndarray  # log10, of the middle band: median and scatter, (2,)
    radius: np.ndarray  # log10 half-light radius: median and scatter, (2,)


def _moved(sky: Sky, observed: _Summary, mock: _Summary) -> Sky:
    """One step of settings towards what is observed."""
    (flux, flux_scatter), (radius, radius_scatter) = observed.flux, observed.radius
    (mock_flux, mock_flux_scatter), (mock_radius, mock_radius_scatter) = mock.flux, mock.radius
    return sky._replace(
        offset=tuple((per_band(sky, sky.offset) + observed.level - mock.level).tolist()),
        balance=tuple((per_band(sky, sky.balance) * observed.colours / mock.colours).tolist()),
        zero_point=sky.zero_point + 2.5 * float(flux - mock_flux),
        pixel_scale=sky.pixel_scale * float(10 ** (mock_radius - radius)),
        magnitude_spread=_widened(sky.magnitude_spread, flux_scatter / mock_flux_scatter),
        size_spread=_widened(sky.size_spread, radius_scatter / mock_radius_scatter),
    )


def _widened(spread: float, factor: float) -> float:
    return float(np.clip(spread * factor, *SPREADS))


def _summary(images: np.ndarray) -> _Summary:
    level = np.median(_corners(images), axis=(0, 1, 2, 3))
    images = images - level
    quarter = images.shape[1] // 4
    light = images[:, quarter:-quarter, quarter:-quarter].sum(axis=(1, 2), dtype=np.float64)
    lit = (light > 0).all(axis=1)
    if not lit.any():
        raise DataError("no image has light in it", got=f"{len(light)} images", fix="check their scale")
    middle = images.shape[3] // 2
    colours = np.median(light[lit] / light[lit, middle][:, None], axis=0)
    return _Summary(level, colours, *_flux_and_radius(images[lit, :, :, middle]))


def _flux_and_radius(light: np.ndarray) -> np.ndarray:
    """log10 of flux in the largest circle, and of the radius that holds half of it: median and scatter, ``(2, 2)``."""
    middle = (light.shape[1] - 1) / 2
    axis = np.arange(light.shape[1]) - middle
    radius = np.sqrt(axis[:, None] ** 2 + axis**2).ravel()
    order = np.argsort(radius, kind="stable")[: int((radius <= middle).sum())]
    growth = np.maximum(np.cumsum(light.reshape(len(light), -1)[:, order], axis=1, dtype=np.float64), 1e-30)
    half = radius[order][np.argmax(growth >= growth[:, -1:] / 2, axis=1)]
    low, median, high = np.percentile(np.log10([growth[:, -1], np.maximum(half, 0.5)]), [16, 50, 84], axis=1)
    return np.stack([median, np.maximum((high - low) / 2, 1e-3)], axis=1)


def _corners(images: np.ndarray) -> np.ndarray:
    """The four corners of each image, a fifth of a side each, ``(N, 4, K, K, C)``."""
    k = max(images.shape[1] // 5, 2)
    sides = (slice(None, k), slice(-k, None))
    return np.stack([images[:, rows, columns] for rows in sides for columns in sides], axis=1)


def _deviation(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Standard deviation about zero of what is mostly normal."""
    return 1.4826 * np.median(np.abs(values), axis=axes)


def _with_bands(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    images = images[..., None] if images.ndim == 3 else images
    _check_images(images)
    return images


def _check_images(images: np.ndarray) -> None:
    if images.ndim != 4 or not images.size:
        raise DataError("a batch of images is needed", expected="(N, H, W, C), N >= 1", got=f"shape {images.shape}")
    bad = int((~np.isfinite(images)).any(axis=(1, 2, 3)).sum())
    if bad:
        raise DataError("pixels that are not finite", got=f"{bad} of {len(images)} images", fix="leave these out")

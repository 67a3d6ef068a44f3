"""The mock sky's camera: point spread function and noise, for a batch of images ``(N, C, H, W)`` float32 at a time.

Light is rendered on a canvas wider than the frame, so that light from outside the frame is scattered into it, and
what a Fourier transform carries round the edge stays outside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from astroad_jax.data.sky_parameters import Noise, Sky, per_band

RING = 128  # pixels over which noise correlations are worked out; more than any correlation allowed


def canvas(sky: Sky) -> tuple[int, int]:
    """Coordinate of the canvas' first pixel, and its width: a margin of 2.5 FWHM, and a width that transforms fast."""
    least = max(4, math.ceil(2.5 * sky.psf_fwhm), len(taps(sky.noise)) // 2)
    margin = next(m for m in range(least, least + 64) if _smooth(sky.size + 2 * m))
    return -margin, sky.size + 2 * margin


def _smooth(number: int) -> bool:
    for prime in (2, 3, 5):
        while number % prime == 0:
            number //= prime
    return number == 1


def psf(sky: Sky, width: int) -> np.ndarray:
    """Point spread function sampled at pixel centres, of unit sum, ``(W, W)`` float32 with its peak at [0, 0]."""
    axis = np.minimum(np.arange(width), width - np.arange(width))
    if sky.psf_fwhm == 0:
        light = np.where(axis[:, None] + axis == 0, 1.0, 0.0)
    else:
        square = (axis[:, None] ** 2 + axis**2) / (sky.psf_fwhm / 2) ** 2  # 1 at half maximum
        beta = sky.psf_beta
        light = 2.0**-square if math.isinf(beta) else (1 + (2 ** (1 / beta) - 1) * square) ** -beta
    return (light / light.sum()).astype(np.float32)


def convolve(sky: Sky, light: np.ndarray) -> np.ndarray:
    """Light as it falls on the pixels: convolved with the PSF, round the canvas' edges; its sum is kept."""
    if sky.psf_fwhm == 0:
        return light
    spread = np.fft.rfft2(light) * np.fft.rfft2(psf(sky, light.shape[-1]))
    return np.maximum(np.fft.irfft2(spread, s=light.shape[-2:]), 0)  # rounding may leave -1e-7 of the peak


def taps(noise: Noise) -> np.ndarray:
    """One-dimensional kernel ``(2 R + 1,)`` that gives white noise the asked correlation and leaves its variance.

    The square root of the spectrum of exp(-d^2 / 4 s^2): right for any length s, however short.
    """
    if noise.correlation == 0:
        return np.ones(1, np.float32)
    lag = np.minimum(np.arange(RING), RING - np.arange(RING))
    spectrum = np.fft.rfft(np.exp(-(lag**2) / (4 * noise.correlation**2))).real
    kernel = np.fft.irfft(np.sqrt(np.maximum(spectrum, 0)), RING)
    radius = math.ceil(4 * noise.correlation) + 1
    kernel = np.roll(kernel, radius)[: 2 * radius + 1]
    return (kernel / np.sqrt((kernel**2).sum())).astype(np.float32)


def correlate(white: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Noise ``(N, C, H + 2 R, W + 2 R)`` run through the kernel along both axes: ``(N, C, H, W)``."""
    for axis in (-1, -2):
        length = white.shape[axis] - len(kernel) + 1
        rows = white.swapaxes(axis, -1)
        total = sum(weight * rows[..., k : k + length] for k, weight in enumerate(kernel))
        white = total.swapaxes(axis, -1)
    return white


def expose(sky: Sky, light: np.ndarray, dice: Sequence[np.random.Generator]) -> np.ndarray:
    """Images of the frame: light, offset, and noise of source, sky and camera.

    Parameters
    ----------
    light : (N, C, W, W) float32
        On the canvas, convolved with the PSF, counts.
    dice : N generators
        One for each object; its noise depends on nothing else.

    Returns
    -------
    (N, C, H, W) float32
        Counts. Poisson noise is run through the same kernel as the camera's: where pixels have been resampled, all
        noise is correlated (as the paper's mock images have it).
    """
    kernel = taps(sky.noise)
    frame, wide = _cut(sky, light, 0), _cut(sky, light, len(kernel) // 2)
    image = frame + per_band(sky, sky.offset)[:, None, None]
    sigma = per_band(sky, sky.noise.sigma)[:, None, None]
    if math.isinf(sky.gain) and not sigma.any():
        return image
    white = np.empty_like(wide)
    for k, rng in enumerate(dice):
        white[k] = _white(sky, wide[k], sigma, rng)
    return image + correlate(white, kernel)


def _cut(sky: Sky, light: np.ndarray, border: int) -> np.ndarray:
    """The frame, and `border` pixels around it."""
    margin = (light.shape[-1] - sky.size) // 2 - border
    return light[..., margin : light.shape[-2] - margin, margin : light.shape[-1] - margin]


def _white(sky: Sky, counts: np.ndarray, sigma: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Uncorrelated noise of one object, ``(C, H, W)`` float32, about zero."""
    noise = sigma * rng.standard_normal(counts.shape, dtype=np.float32)
    if math.isinf(sky.gain):
        return noise
    electrons = (counts + sky.sky) * np.float64(sky.gain)
    return noise + ((rng.poisson(electrons) - electrons) / sky.gain).astype(np.float32)

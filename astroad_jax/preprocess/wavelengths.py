"""Wavelengths of spectra: air and vacuum, rest frame, edges of pixels.

All are in Angstrom, in vacuum unless said otherwise, and float64: shared by all objects ``(W,)``, or each its own
``(N, W)``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astroad_jax.errors import DataError

AIR_FROM = 2000.0  # by the IAU's convention wavelengths below this are given in vacuum
GAP = 4.0  # times the mean width; a logarithmic grid over a factor of 4 in wavelength stays below 2
PASSES = 4  # each is exact to a further 5 decimals


class Pixels(NamedTuple):
    """Where pixels lie.

    Attributes
    ----------
    edges : (W + 1,) or (N, W + 1) float64
        Midways between neighbouring wavelengths; the outermost pixels are symmetric. A pixel that is none (padding) has
        width 0.
    gap : (W,) or (N, W) bool
        Pixels more than four times as wide as the mean: no pixels, but neighbours of a hole in the wavelengths.
    """

    edges: np.ndarray
    gap: np.ndarray


def vacuum_to_air(wavelength: np.ndarray) -> np.ndarray:
    """Wavelength in standard air (15 C, 101325 Pa, dry, 450 ppm CO2).

    Ciddor (1996, Appl. Opt. 35, 1566, equation 1), with s the vacuum wavenumber in 1/um::

        n - 1 = 0.05792105 / (238.0185 - s^2) + 0.00167917 / (57.362 - s^2)

    The formula of the IAU's standard (Morton 1991, ApJS 77, 119) differs by less than 0.01 A in the optical. Below 2000 A
    wavelengths are in vacuum by convention, and left alone.
    """
    wavelength = np.asarray(wavelength, np.float64)
    return np.where(wavelength >= AIR_FROM, wavelength / _index(wavelength), wavelength)


def air_to_vacuum(wavelength: np.ndarray) -> np.ndarray:
    """The inverse of `vacuum_to_air`, by repeated substitution, to rounding; wavelengths below 2000 A are left alone."""
    wavelength = np.asarray(wavelength, np.float64)
    vacuum = wavelength
    for _ in range(PASSES):
        vacuum = wavelength * _index(vacuum)
    return np.where(wavelength >= AIR_FROM, vacuum, wavelength)


def _index(vacuum: np.ndarray) -> np.ndarray:
    """Refractive index of standard air; 1 below 2000 A, where the formula's poles are."""
    squared = (1e4 / np.maximum(vacuum, AIR_FROM)) ** 2
    return 1 + 0.05792105 / (238.0185 - squared) + 0.00167917 / (57.362 - squared)


def pixels(wavelength: np.ndarray) -> Pixels:
    """Edges of the pixels with these central wavelengths.

    Parameters
    ----------
    wavelength : (W,) or (N, W)
        Increasing and positive. A spectrum shorter than the others ends in NaN: those pixels get width 0.

    Raises
    ------
    DataError
        Wavelengths that are not positive, do not increase, have NaN before the end, or fewer than two in a spectrum.
    """
    wave = np.asarray(wavelength, np.float64)
    count = _check(wave)
    last = np.take_along_axis(wave, np.maximum(count, 1)[..., None] - 1, axis=-1)
    before = np.take_along_axis(wave, np.maximum(count, 2)[..., None] - 2, axis=-1)
    edges = np.empty((*wave.shape[:-1], wave.shape[-1] + 1))
    edges[..., 1:-1] = (wave[..., 1:] + wave[..., :-1]) / 2
    edges[..., 0] = wave[..., 0] - (wave[..., 1] - wave[..., 0]) / 2
    end = last + (last - before) / 2
    edges = np.where(np.arange(edges.shape[-1]) >= count[..., None], end, edges)
    usual = (edges[..., -1:] - edges[..., :1]) / count[..., None]
    return Pixels(edges, np.diff(edges) > GAP * usual)


def _check(wave: np.ndarray) -> np.ndarray:
    """Pixels that each spectrum has, ``()`` or ``(N,)``; raises where these are no wavelengths."""
    known = np.isfinite(wave)
    count = known.sum(axis=-1)
    wrong = {
        "wavelengths must be positive": (known & ~(wave > 0)).any(axis=-1),
        "wavelengths must increase from pixel to pixel": (np.diff(wave) <= 0).any(axis=-1),
        "wavelengths may only be missing at the end of a spectrum": (known[..., 1:] & ~known[..., :-1]).any(axis=-1),
        "a spectrum must have at least two wavelengths": count < 2,
    }
    for message, rows in wrong.items():
        if rows.any():
            _refuse(message, wave, rows)
    return count


def _refuse(message: str, wave: np.ndarray, rows: np.ndarray) -> None:
    row = "" if wave.ndim == 1 else f"spectrum {int(np.flatnonzero(rows)[0])} of {len(rows)}"
    sample = wave if wave.ndim == 1 else wave[np.flatnonzero(rows)[0]]
    step = np.flatnonzero(~(np.diff(sample) > 0))
    at = max(0, int(step[0]) - 1) if len(step) else 0
    raise DataError(
        message,
        where=row,
        expected="Angstrom, increasing",
        got=f"..., {', '.join(f'{value:g}' for value in sample[at : at + 4])}, ... from pixel {at}",
        fix="sort the pixels by wavelength (flux and ivar with them), and leave none out",
    )

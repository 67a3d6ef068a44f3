"""Wavelengths of spectra: air and vacuum, rest frame, edges of pixels.

All are in Angstrom, in vacuum unless said otherwise, and float64: shared by all objects ``(W,)``, or each its own
``(N, W)``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astroad_jax.errors import DataError

AIR_FROM = 2000.0  # by the IAU's convention wavelengths below this are given in vacuum
HOLE = 1.5  # times the usual step of the neighbourhood: one lacking pixel makes it 2
AROUND = 5  # steps on either side that are the neighbourhood
PASSES = 4  # each is exact to a further 5 decimals


class Pixels(NamedTuple):
    """Where pixels lie.

    Attributes
    ----------
    edges : (W + 1,) or (N, W + 1) float64
        Midways between neighbouring wavelengths; the outermost pixels are symmetric. A pixel that is none (padding) has
        width 0.
    gap : (W,) or (N, W) bool
        No pixels: padding, and the two beside a hole in the wavelengths, whose own width is not known. A hole is a step of
        more than 1.5 times the median of the five on either side and itself, so that steps may change along a spectrum.
    """

    edges: np.ndarray
    gap: np.ndarray


def vacuum_to_air(wavelength: np.ndarray) -> np.ndarray:
    """Wavelength in standard air (15 C, 101325 Pa, dry, 450 ppm CO2).

    Ciddor (1996, Appl. Opt. 35, 1566, equation 1), with s the vacuum wavenumber in 1/um::

        n - 1 = 0.05792105 / (238.0185 - s^2) + 0.00167917 / (57.362 - s^2)

    The formula of the IAU's standard (Morton 1991, ApJS 77, 119) differs by less than 0.01 A in the optical. Below 2000 A
    wavelengths are in vacuum by convention, and left alone. For users who compare spectra with lines as listed in air; the
    package itself only needs the inverse.
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


def pixels(wavelength: np.ndarray, where: str = "") -> Pixels:
    """Edges of the pixels with these central wavelengths.

    Parameters
    ----------
    wavelength : (W,) or (N, W)
        Increasing and positive. A spectrum shorter than the others ends in NaN: those pixels get width 0.
    where : str
        What errors are to name: the file.

    Raises
    ------
    DataError
        Wavelengths that are not positive, do not increase, have NaN before the end, or fewer than two in a spectrum.
    """
    wave = np.asarray(wavelength, np.float64)
    count = _check(wave, where)
    last = np.take_along_axis(wave, np.maximum(count, 1)[..., None] - 1, axis=-1)
    before = np.take_along_axis(wave, np.maximum(count, 2)[..., None] - 2, axis=-1)
    edges = np.empty((*wave.shape[:-1], wave.shape[-1] + 1))
    edges[..., 1:-1] = (wave[..., 1:] + wave[..., :-1]) / 2
    edges[..., 0] = wave[..., 0] - (wave[..., 1] - wave[..., 0]) / 2
    end = last + (last - before) / 2
    edges = np.where(np.arange(edges.shape[-1]) >= count[..., None], end, edges)
    return Pixels(edges, (np.diff(edges) == 0) | _beside_holes(np.diff(wave)))


def _beside_holes(step: np.ndarray) -> np.ndarray:
    """(W,) or (N, W) bool: pixels beside a hole, from the steps between pixels; NaN steps are padding."""
    rows = np.atleast_2d(step)
    beside = np.zeros((len(rows), rows.shape[1] + 1), bool)
    jumps = (rows[:, 1:] > HOLE * rows[:, :-1]) | (rows[:, :-1] > HOLE * rows[:, 1:])
    for row in np.flatnonzero(jumps.any(axis=1)):  # few have any, and none of the others has a hole
        own = rows[row][np.isfinite(rows[row])]
        near = np.lib.stride_tricks.sliding_window_view(np.pad(own, AROUND, mode="reflect"), 2 * AROUND + 1)
        wide = np.flatnonzero(own > HOLE * own.min())  # none else can be a hole
        hole = wide[own[wide] > HOLE * np.median(near[wide], axis=1)]
        beside[row, hole] = beside[row, hole + 1] = True
    return beside.reshape(*step.shape[:-1], rows.shape[1] + 1)


def _check(wave: np.ndarray, where: str) -> np.ndarray:
    """Pixels that each spectrum has, ``()`` or ``(N,)``; raises where these are no wavelengths."""
    known = np.isfinite(wave)
    count = known.sum(axis=-1)
    sort = "sort the pixels by wavelength (flux and ivar with them), and leave none out"
    step = np.diff(wave)
    wrong = [
        ("wavelengths must be positive", known & ~(wave > 0), sort),
        ("wavelengths must increase from pixel to pixel", step < 0, sort),
        ("wavelengths must increase: two pixels have the same", step == 0, "keep one of the pixels that share a wavelength"),
        ("wavelengths may only be missing at the end of a spectrum", known[..., 1:] & ~known[..., :-1], sort),
        ("a spectrum must have at least two wavelengths", (count < 2)[..., None], "leave it out"),
    ]
    for message, found, fix in wrong:
        if found.any():
            _refuse(message, wave, found.any(axis=-1), where, fix)
    return count


def _refuse(message: str, wave: np.ndarray, rows: np.ndarray, where: str, fix: str) -> None:
    row = "" if wave.ndim == 1 else f"spectrum {int(np.flatnonzero(rows)[0])} of {len(rows)}"
    sample = wave if wave.ndim == 1 else wave[np.flatnonzero(rows)[0]]
    step = np.flatnonzero(~(np.diff(sample) > 0))
    at = max(0, int(step[0]) - 1) if len(step) else 0
    raise DataError(
        message,
        where=", ".join(filter(None, [where, row])),
        expected="Angstrom, increasing",
        got=f"..., {', '.join(f'{value:g}' for value in sample[at : at + 4])}, ... from pixel {at}",
        fix=fix,
    )

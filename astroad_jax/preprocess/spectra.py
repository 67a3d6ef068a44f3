"""Spectra of a survey brought to one grid: pure functions on batches, nothing fitted.

The steps of paper 003 (section 4) in order: bad pixels are interpolated, pixels go to the rest frame and are resampled onto
common bins with their flux conserved, and spectra that the sample has no place for are flagged. Infill by principal
components and the unit norm come after, with what is fitted (`infill`, `flux`).

Flux is per wavelength (any unit), ivar its inverse variance in that unit to the -2, wavelengths are in Angstrom. A pixel of
ivar 0 is one whose flux is not known: whatever is written there is a guess, and weighs nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from astroad_jax.config import Spectra
from astroad_jax.errors import DataError
from astroad_jax.preprocess import resample_flux
from astroad_jax.preprocess.pieces import runs
from astroad_jax.preprocess.wavelengths import Pixels, air_to_vacuum, pixels

Array = Any  # of NumPy or of jax.numpy

NO_REDSHIFT = 256
REDSHIFT_RANGE = 512
LOW_SNR = 1024
NOT_COVERED = 2048
ALL_BAD = 4096
NO_REDSHIFT_ROW = 8192
NO_TARGET = 16384
UNREADABLE = 32768
NO_WAVELENGTHS = 65536
MOSTLY_BAD = 131072
FLAG_NAMES = {
    NO_REDSHIFT: "no redshift: missing, or not a finite number",
    REDSHIFT_RANGE: "redshift out of range (spectra.z_min, spectra.z_max)",
    LOW_SNR: "median signal-to-noise not above the cut (spectra.snr_min)",
    NOT_COVERED: "wavelengths do not cover the grid (spectra.low, spectra.high, or a lower spectra.coverage such as 0.94)",
    ALL_BAD: "no good pixel on the grid",
    NO_REDSHIFT_ROW: "no row, or rows that contradict each other, in the companion file of redshifts",
    NO_TARGET: "fibre on no target: blank sky, or broken",
    UNREADABLE: "file of this object cannot be read",
    NO_WAVELENGTHS: "wavelengths missing, no angstroms, or two pixels at one",
    MOSTLY_BAD: "too few good pixels on the grid (spectra.good)",
}
EXCLUDED = sum(FLAG_NAMES)  # of different bits
BLOCK = 2**17  # pixels that are worked on at a time: bounds the memory, and fits the caches
ROUNDING = 1e-6  # share of the grid that may be lacking from a full coverage
FARTHEST = 1e6  # redshift beyond which nothing can be, and numbers overflow


class Gridded(NamedTuple):
    """Spectra on the common grid.

    Attributes
    ----------
    flux : (N, bins) float32
        Finite everywhere, a guess where ivar is 0; all 0 where a spectrum has nothing on the grid (`ALL_BAD`) or cannot be
        shifted (no redshift, one of -1 or less, or one beyond 10^6).
    ivar : (N, bins) float32
    snr : (N,) float32
        Median signal-to-noise of the bins with ivar > 0; NaN where there are none.
    flags : (N,) uint32
        Of `FLAG_NAMES`; every one of them excludes the object.
    """

    flux: np.ndarray
    ivar: np.ndarray
    snr: np.ndarray
    flags: np.ndarray


def grid_edges(settings: Spectra) -> np.ndarray:
    """Edges of the common bins, ``(bins + 1,)`` float64."""
    return np.linspace(settings.low, settings.high, settings.bins + 1)


def grid_centres(settings: Spectra) -> np.ndarray:
    """Central wavelengths of the common bins, ``(bins,)`` float64."""
    edges = grid_edges(settings)
    return (edges[1:] + edges[:-1]) / 2


def to_grid(
    wavelength: np.ndarray, flux: np.ndarray, ivar: np.ndarray, z: np.ndarray, settings: Spectra, where: str = ""
) -> Gridded:
    """Bring spectra to the common grid; each result depends on its own spectrum alone.

    Parameters
    ----------
    wavelength : (W,) or (N, W)
        Observed wavelengths, increasing; in air where ``settings.air``. A spectrum of its own that is shorter
        than the others ends in NaN.
    flux, ivar : (N, W)
        As read; masked pixels have ivar 0 (what else is bad: `bad_pixels`).
    z : (N,)
        Redshifts. Not looked at under ``settings.frame = "observed"``.
    settings : Spectra
        ``Run.spectra``.
    where : str
        What errors are to name: the file.

    Raises
    ------
    DataError
        Shapes that do not go together; wavelengths that do not increase or are not positive.
    """
    wave, flux, ivar, z = (np.asarray(values) for values in (wavelength, flux, ivar, z))
    _check_shapes(wave, flux, ivar, z)
    wave = air_to_vacuum(wave) if settings.air else wave
    place = pixels(wave, where)
    flags, z = check_redshift(z, settings)
    blocks = runs(max(len(flux), 1), flux.shape[1], BLOCK)  # one, empty, where there are no spectra
    found = [_block(wave, place, flux, ivar, z, rows, settings) for rows in blocks]
    on_grid, weight, snr, covered = (np.concatenate(parts) for parts in zip(*found))
    lost = np.isnan(z)
    flags |= _flag(NOT_COVERED, (covered < settings.coverage - ROUNDING) & ~lost)
    flags |= _flag(ALL_BAD, np.isnan(snr) & ~lost)
    flags |= _flag(MOSTLY_BAD, ((weight > 0).mean(axis=1) < settings.good) & ~np.isnan(snr))
    flags |= _flag(LOW_SNR, (snr <= settings.snr_min) & (settings.snr_min > 0))
    return Gridded(on_grid, weight, snr, flags)


def check_redshift(z: np.ndarray, settings: Spectra) -> tuple[np.ndarray, np.ndarray]:
    """Flags ``(N,)`` uint32, and the redshifts to shift by ``(N,)`` float64: NaN where there can be no shift.

    One beyond `FARTHEST` is out of range whatever the settings.
    """
    z = np.asarray(z, np.float64)
    if settings.frame == "observed":
        return np.zeros(len(z), np.uint32), np.zeros(len(z))
    known = np.isfinite(z)
    outside = known & ~((z >= settings.z_min) & (z <= min(settings.z_max, FARTHEST)))
    possible = known & (z > -1) & (z <= FARTHEST)
    return _flag(NO_REDSHIFT, ~known) | _flag(REDSHIFT_RANGE, outside), np.where(possible, z, np.nan)


def rest_frame(
    wavelength: np.ndarray, flux: np.ndarray, ivar: np.ndarray, z: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shift spectra ``(N, W)`` to the rest frame.

    Wavelengths are divided by 1 + z, and flux per wavelength multiplied by it, so that the flux integrated over wavelength
    is the same in both frames; ivar is divided by (1 + z)^2, which leaves the signal-to-noise as it is. (Paper 003 does not
    say whether it scales the flux; after the unit norm it makes no difference.)
    """
    stretch = 1 + np.asarray(z, np.float64)[:, None]
    return wavelength / stretch, *_stretched(flux, ivar, stretch)


def _stretched(flux: np.ndarray, ivar: np.ndarray, stretch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flux per wavelength and its ivar where wavelengths are divided by `stretch` ``(N, 1)``."""
    return flux * stretch, ivar / stretch**2


def bad_pixels(flux: np.ndarray, ivar: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """(N, W) bool: flux not finite or exactly 0, ivar not finite or not positive, or mask set (paper 003, section 4)."""
    with np.errstate(invalid="ignore"):
        bad = ~(np.isfinite(flux) & (flux != 0) & (ivar > 0) & np.isfinite(ivar))
    return bad if mask is None else bad | (np.asarray(mask) != 0)


def interpolate(wavelength: np.ndarray, flux: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Replace bad pixels linearly in wavelength between the nearest good ones; before the first and after the last, by it.

    Parameters
    ----------
    wavelength : (W,) or (N, W)
    flux : (N, W)
    bad : (N, W) bool
        A spectrum that is bad everywhere becomes 0.
    """
    filled = np.where(bad, 0, flux).astype(np.result_type(flux, np.float32), copy=False)  # guesses are no integers
    holes = np.flatnonzero(bad)
    good = np.flatnonzero(~bad)
    if not len(holes) or not len(good):
        return filled
    width = flux.shape[1]
    after = np.searchsorted(good, holes)
    left, right = good[np.maximum(after, 1) - 1], good[np.minimum(after, len(good) - 1)]
    row = holes // width
    on_left, on_right = left // width == row, right // width == row
    left, right = np.where(on_left, left, right), np.where(on_right, right, left)  # one side lacking: the other twice
    wave = np.ravel(wavelength)
    place = (lambda pixel: wave[pixel % width]) if np.ndim(wavelength) == 1 else (lambda pixel: wave[pixel])
    span = place(right) - place(left)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(span > 0, (place(holes) - place(left)) / span, 0.0)
    flat = np.ravel(filled)
    guess = flat[left] * (1 - share) + flat[right] * share
    flat[holes] = np.where(on_left | on_right, guess, 0.0)
    return flat.reshape(flux.shape)


def median_snr(flux: np.ndarray, ivar: np.ndarray) -> np.ndarray:
    """(N,) float32: median of ``flux sqrt(ivar)`` over the pixels with ivar > 0; NaN where there are none."""
    known = ivar > 0
    ratio = np.sort(np.where(known, flux * np.sqrt(np.where(known, ivar, 0)), np.nan).astype(np.float32), axis=1)
    count = known.sum(axis=1, keepdims=True)
    low, high = (np.take_along_axis(ratio, np.maximum(place, 0), axis=1) for place in ((count - 1) // 2, count // 2))
    return np.where(count > 0, (low + high) / 2, np.nan).astype(np.float32)[:, 0]


def unit_norm(flux: Array, ivar: Array, xp: Any = np) -> tuple[Array, Array, Array]:
    """Spectra ``(N, W)`` of L2 norm 1, their ivar times norm^2, and the norms ``(N, 1)``.

    Paper 003 does not name its norm; L2 is that of the nearest code, and the ivar must follow for the weighted error of
    equation 6 to be about 1. A spectrum without any flux is left as it is, its norm 0.
    """
    wide = flux.astype(xp.float64 if xp is np else xp.float32)
    most = xp.max(xp.abs(wide), axis=1, keepdims=True)
    unit = wide / xp.where(most > 0, most, 1)  # float32 could not hold the squares of all that it can hold
    length = xp.sqrt(xp.sum(unit * unit, axis=1, keepdims=True))
    norm = xp.where(most > 0, length * most, 1)
    with np.errstate(over="ignore"):
        weight = (ivar * norm * norm).astype(ivar.dtype)
    return (unit / xp.where(most > 0, length, 1)).astype(flux.dtype), weight, xp.where(most > 0, norm, 0)


def _block(
    wave: np.ndarray, place: Pixels, flux: np.ndarray, ivar: np.ndarray, z: np.ndarray, rows: slice, settings: Spectra
) -> tuple[np.ndarray, ...]:
    """Flux, ivar, signal-to-noise and covered share of a run of spectra."""
    if wave.ndim == 2:
        wave, place = wave[rows], Pixels(place.edges[rows], place.gap[rows])
    flux, ivar, z = flux[rows], ivar[rows], z[rows]
    lost = np.isnan(z)
    stretch = 1 + np.where(lost, 0.0, z)[:, None]
    bad = bad_pixels(flux, ivar, place.gap if place.gap.any() else None)
    # The bins go to the observer's frame rather than the pixels to the rest frame: the same overlaps, and pixels that all
    # spectra share stay shared.
    grid = grid_edges(settings) * stretch
    whole = interpolate(wave, flux, bad)
    made = resample_flux.resample(whole, np.where(bad, 0, ivar), place.edges, grid)
    mean, weight = _stretched(made.flux, made.ivar, stretch)
    empty = (lost | ~(weight > 0).any(axis=1))[:, None]
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and flagged when it is scaled
        mean, weight = (np.where(empty, 0, values).astype(np.float32) for values in (mean, weight))
    return mean, weight, median_snr(mean, weight), _covered(made, place, grid)


def _covered(made: resample_flux.Resampled, place: Pixels, grid: np.ndarray) -> np.ndarray:
    """(N,) share of the grid that pixels cover; holes in the wavelengths are not covered."""
    covered = made.covered.sum(axis=1)
    if place.gap.any():
        holes = np.broadcast_to(np.where(place.gap, np.diff(place.edges), 0.0), (len(grid), place.gap.shape[-1]))
        covered = covered - resample_flux.integral(holes, resample_flux.cut(place.edges, grid)).sum(axis=1)
    return covered / (grid[:, -1] - grid[:, 0])


def _flag(bit: int, rows: np.ndarray) -> np.ndarray:
    return np.where(rows, bit, 0).astype(np.uint32)


def _check_shapes(wave: np.ndarray, flux: np.ndarray, ivar: np.ndarray, z: np.ndarray) -> None:
    fits = (
        flux.ndim == 2
        and flux.shape == ivar.shape
        and wave.shape in (flux.shape, flux.shape[1:])
        and z.shape == flux.shape[:1]
    )
    if not fits:
        raise DataError(
            "wavelengths, flux, ivar and redshifts do not go together",
            expected="(W,) or (N, W), (N, W), (N, W), (N,)",
            got=", ".join(str(values.shape) for values in (wave, flux, ivar, z)),
            fix="give one redshift a spectrum, and flux and ivar for every wavelength",
        )

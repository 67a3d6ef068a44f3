"""Spectra of any survey on one grid: what a file gives, made a `Source` whose objects are ``(2, bins)``.

A reader hands over a `Survey`: the objects' table, and their spectra piece by piece on whatever wavelengths the file
has. Here they are put in order and brought to the grid of ``[spectra]``; nothing of a survey is known here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from astroad_jax.config import Spectra
from astroad_jax.data.source import ROWS, Column, Source, as_text, describe, native, partition_name, reading, select
from astroad_jax.errors import DataError
from astroad_jax.preprocess import spectra as grids

PIECE = 256  # spectra that are resampled at once: as the survey has them they are several times larger
LENGTHS = {"": 1, "angstrom": 1, "angstroms": 1, "a": 1, "aa": 1, "nm": 10, "um": 1e4, "micron": 1e4, "m": 1e10}
PLAUSIBLE = (1e3, 3e5)  # angstroms between which the middle of a spectrum lies, far ultraviolet to thermal infrared
REPRESENTABLE = (1e-6, 1e6)  # flux of which float32 can hold the inverse variance at any signal-to-noise
NOT_PER_LENGTH = re.compile(r"hz|[a-z]*jy\b|maggy|\bmag|electron|photon|count|\badu\b|\bdn\b", re.IGNORECASE)
CAUSES = grids.NO_REDSHIFT_ROW | grids.UNREADABLE  # for which an object has no redshift, and perhaps no pixel
log = logging.getLogger(__name__)


class Raw(NamedTuple):
    """Some objects' spectra as their file has them.

    Attributes
    ----------
    wavelength : (P,) or (N, P) float64
        Angstroms, shared or per object, in any order; NaN or not positive where a row has no pixel (padding).
    flux : (N, P)
        Per unit of wavelength, in any unit.
    ivar : (N, P)
        Inverse variance in the square of the inverse of that unit; 0 where the pixel is masked.
    """

    wavelength: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray


class Survey(NamedTuple):
    """What one input holds.

    Attributes
    ----------
    path, format : str
        As in `Source`.
    table : dict of (N,) arrays
        ``object_id``, ``z`` (NaN where unknown), ``spectype`` (``""`` where unknown), and ``ra`` and ``dec`` in degrees
        where the input has them.
    flags : (N,) uint32
        What the reader knows to be wrong, in the bits of `preprocess.spectra`.
    spectra : (rows) -> iterator of Raw
        All of them in order, at most `rows` at a time; only called when spectra are asked for.
    weighted : bool
        Whether the file has inverse variances; without them a signal-to-noise ratio means nothing.
    """

    path: str
    format: str
    table: dict[str, np.ndarray]
    flags: np.ndarray
    spectra: Callable[[int], Iterator[Raw]]
    weighted: bool = True


def gridded(survey: Survey, settings: Spectra) -> Source:
    """A source of spectra on the grid that the settings describe.

    Its columns are those of the survey's table, and ``snr`` (median signal-to-noise ratio of a pixel), ``spectrum``
    ``(2, bins)`` float32 (flux, inverse variance) and ``flags`` (uint32: what excludes an object). The spectra are read
    and resampled anew whenever one of these three is asked for, which training from a stream does in every epoch; every
    object comes out the same whatever its neighbours.

    Flux is in the file's unit, but for spectra whose mean is not within 10^-6 to 10^6 of it, such as those in cgs units:
    theirs is a power of ten off, for float32 could not hold the ivar. Without inverse variances an ivar is relative to the
    spectrum's own mean square, so that it is the same in any unit.
    """
    table = {name: as_text(values) if values.dtype.kind in "SU" else native(values) for name, values in survey.table.items()}
    made = {
        "snr": Column(np.dtype(np.float32), ()),
        "spectrum": Column(np.dtype(np.float32), (2, settings.bins)),
        "flags": Column(np.dtype(np.uint32), ()),
    }
    known = {name: describe(values) for name, values in table.items()} | made
    num_rows = len(survey.flags)
    if not survey.weighted:
        log.warning("%s has no inverse variances: all pixels weigh the same, and no S/N cut is made", survey.path)

    def chunks(rows: int = ROWS, columns: Sequence[str] | None = None) -> Iterator[dict[str, np.ndarray]]:
        names = select(known, columns, survey.path)
        resampled = _resampled(survey, table["z"], settings, rows) if made.keys() & set(names) else None
        for start in range(0, num_rows, rows):
            part = {name: values[start : start + rows] for name, values in table.items()}
            if resampled is not None:
                with reading(survey.path, survey.format):
                    part |= next(resampled)
            yield {name: part[name] for name in names}

    return Source(partition_name(survey.path, ""), survey.path, survey.format, known, num_rows, chunks)


def _resampled(survey: Survey, z: np.ndarray, settings: Spectra, rows: int) -> Iterator[dict[str, np.ndarray]]:
    """``snr``, ``spectrum`` and ``flags``, `rows` objects at a time."""
    pieces, start = survey.spectra(min(rows, PIECE)), 0
    held: list[dict[str, np.ndarray]] = []
    for stop in [*range(rows, len(z), rows), len(z)]:
        while start < stop:
            raw = next(pieces)
            part = slice(start, start + len(raw.flux))
            held.append(_on_grid(raw, z[part], survey.flags[part], settings, survey))
            start = part.stop
        whole = {name: np.concatenate([piece[name] for piece in held]) for name in held[0]}
        extra = start - stop
        held = [{name: values[len(values) - extra :] for name, values in whole.items()}] if extra else []
        if stop == len(z):
            next(pieces, None)  # to the very end, where some formats check their bytes
        yield {name: values[: len(values) - extra] for name, values in whole.items()}


def _on_grid(raw: Raw, z: np.ndarray, flags: np.ndarray, settings: Spectra, survey: Survey) -> dict[str, np.ndarray]:
    """One piece."""
    count = len(raw.flux)
    snr, spectrum = np.full(count, np.nan, np.float32), np.zeros((count, 2, settings.bins), np.float32)
    raw = _representable(_ordered(raw), survey.weighted)
    fit = _has_grid(raw.wavelength) if raw.wavelength.ndim == 2 else np.ones(count, bool)
    flags = flags | np.where(fit, 0, grids.NO_WAVELENGTHS).astype(np.uint32)
    if fit.any():
        wavelength = raw.wavelength[fit] if raw.wavelength.ndim == 2 else raw.wavelength
        found = grids.to_grid(wavelength, raw.flux[fit], raw.ivar[fit], z[fit], settings, survey.path)
        snr[fit], spectrum[fit, 0], spectrum[fit, 1] = found.snr, found.flux, found.ivar
        flags[fit] |= found.flags
    known = (flags & CAUSES) != 0  # its consequences are no reasons of their own
    flags[known] &= ~np.uint32(grids.NO_REDSHIFT | grids.NO_WAVELENGTHS)
    if not survey.weighted:
        snr[:], flags = np.nan, flags & ~np.uint32(grids.LOW_SNR)
        square = np.square(spectrum[:, 0], dtype=np.float64).mean(axis=1, keepdims=True)
        spectrum[:, 1] /= np.where(square > 0, square, 1)
    return {"snr": snr, "spectrum": spectrum, "flags": flags}


def _ordered(raw: Raw) -> Raw:
    """Pixels by ascending wavelength, those without one at the end as NaN."""
    wavelength = np.array(raw.wavelength, np.float64)
    wavelength[~(np.isfinite(wavelength) & (wavelength > 0))] = np.nan
    if not np.isnan(wavelength).any() and (np.diff(wavelength, axis=-1) > 0).all():
        return raw._replace(wavelength=wavelength)
    order = np.argsort(wavelength, axis=-1, kind="stable")
    rows = np.broadcast_to(order, raw.flux.shape)
    flux, ivar = (np.take_along_axis(np.asarray(values), rows, -1) for values in raw[1:])
    return Raw(np.take_along_axis(wavelength, order, -1), flux, ivar)


def _representable(raw: Raw, weighted: bool) -> Raw:
    """Spectra of which float32 can hold flux and ivar on the grid; nearly all are left as they are."""
    flux = np.asarray(raw.flux, np.result_type(raw.flux, np.float32))
    ivar = np.asarray(raw.ivar, np.result_type(raw.ivar, np.float32))
    with np.errstate(invalid="ignore"):
        known = np.isfinite(flux) & (ivar > 0)
    level = np.abs(np.where(known, flux, 0), dtype=np.float64).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    odd = np.flatnonzero((level > 0) & ((level < REPRESENTABLE[0]) | (level > REPRESENTABLE[1])))
    if len(odd):
        unit = 10.0 ** np.rint(np.log10(level[odd]))[:, None]
        flux, ivar = flux.copy(), ivar.copy()
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows even so is a bad pixel
            flux[odd] = flux[odd] / unit
            if weighted:
                ivar[odd] = ivar[odd] * unit * unit
    return Raw(raw.wavelength, flux, ivar)


def _has_grid(wavelength: np.ndarray) -> np.ndarray:
    """(N,) bool, of wavelengths in order: at least two pixels, no two at one, the middle one where light can be."""
    count = np.isfinite(wavelength).sum(axis=1)
    middle = wavelength[np.arange(len(wavelength)), count // 2]
    plausible = (middle >= PLAUSIBLE[0]) & (middle <= PLAUSIBLE[1])
    return (count >= 2) & ~(np.diff(wavelength, axis=1) == 0).any(axis=1) & plausible


def angstroms(wavelength: np.ndarray, unit: str, where: str) -> np.ndarray:
    """Wavelengths ``(P,)`` in angstroms, float64; values that are not positive are padding, and left out of the judgement.

    Raises
    ------
    DataError
        A unit that is no known length, or numbers that can be no angstroms.
    """
    factor = LENGTHS.get(unit.strip().lower())
    if factor is None:
        fix = "write the wavelengths in angstroms, or correct the unit"
        raise DataError(
            "wavelengths in this unit cannot be used", where=where, expected="Angstrom, nm or um", got=unit, fix=fix
        )
    values = np.asarray(wavelength, np.float64) * factor
    used = values[np.isfinite(values) & (values > 0)]
    if not (used.size and PLAUSIBLE[0] <= np.median(used) <= PLAUSIBLE[1]):
        raise DataError(
            "these numbers are no wavelengths in angstroms",
            where=where,
            expected=f"values around {PLAUSIBLE[0]:g} to {PLAUSIBLE[1]:g}",
            got=f"{used.min():g} to {used.max():g} {unit}".rstrip() if used.size else "no positive number",
            fix="write the wavelengths in angstroms (not their logarithm), or give their unit",
        )
    return values


def check_flux_unit(unit: str, where: str) -> None:
    """Refuse what is no flux per unit of wavelength: the shape of a spectrum depends on it.

    Raises
    ------
    DataError
        Flux per frequency, magnitudes, or counts.
    """
    if NOT_PER_LENGTH.search(unit):
        raise DataError(
            "flux in this unit cannot be used",
            where=where,
            expected="flux per unit of wavelength, such as erg/(s cm2 Angstrom)",
            got=unit,
            fix="convert it: per frequency to per wavelength, counts to calibrated flux",
        )

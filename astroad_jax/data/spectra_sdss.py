"""SDSS spectra, ``spec-PLATE-MJD-FIBER.fits`` (also the ``lite`` files, and those of BOSS and eBOSS), one object a file.

::

    HDU 1   COADD: flux, loglam (log10 of the wavelength in angstroms), ivar, and_mask, or_mask; one row a pixel
    HDU 2   SPECOBJ or SPALL: PLATE, MJD, FIBERID or SPECOBJID, PLUG_RA, PLUG_DEC, Z, CLASS; one row

Wavelengths are in vacuum. Pixels with a bit from 16 on of ``and_mask`` set (bad in every exposure) have no weight. Bits 0 to
15 of SPPIXMASK are of the whole fibre, and exclude nothing: most tell of no harm (a very bright source, say), and where one
does, the pipeline has set the ivar to 0. ``or_mask`` (bad in at least one exposure) excludes nothing: what was bad did not
enter the average, and its lack shows in the ivar.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from astroad_jax.config import Spectra
from astroad_jax.data.hdus import checked_hdus, open_hdus
from astroad_jax.data.source import Source
from astroad_jax.data.spectra import Raw, angstroms
from astroad_jax.data.spectra_single import Head, Kind, number, open_single, plain_name
from astroad_jax.errors import DataError

COLUMNS = ("flux", "loglam", "ivar")
FIBRE_BITS = 16  # of the mask, the lowest ones
POSITIONS = (("PLUG_RA", "FIBER_RA", "RA"), ("PLUG_DEC", "FIBER_DEC", "DEC"))


def open_sdss(path: str, files: Sequence[str], settings: Spectra) -> Source:
    """Open SDSS spectra, one a file; `path` is what the user called them.

    Columns: ``object_id`` (text: plate-mjd-fiber as in the files' names, else SPECOBJID, else the file's name), ``ra``,
    ``dec``, ``z``, ``spectype`` (CLASS), ``snr``, ``spectrum``, ``flags``. A file without the table of HDU 2 has no
    redshift, and is flagged for it.

    Raises
    ------
    DataError
        As `spectra_single.open_single`.
    """
    return open_single(path, files, Kind("sdss", _head, _spectrum), settings)


def _head(path: str) -> Head:
    with checked_hdus(path) as hdus:
        _wavelength(_coadd(hdus, path), path)
        row = _object(hdus)
        ra, dec = (next((number(row[name]) for name in names if name in row), np.nan) for names in POSITIONS)
        return Head(_id(row, path), ra, dec, number(row.get("Z")), str(row.get("CLASS", "")).strip())


def _coadd(hdus: Any, path: str) -> np.ndarray:
    """The table of pixels."""
    for hdu in hdus[1:]:
        names = [name.lower() for name in hdu.columns.names] if hasattr(hdu, "columns") else []
        if all(name in names for name in COLUMNS):
            return hdu.data
    raise DataError(
        "this file holds no SDSS spectrum",
        where=path,
        expected=f"a table with columns {', '.join(COLUMNS)}",
        got=", ".join(hdu.name or "unnamed" for hdu in hdus),
        fix="fetch it again",
    )


def _object(hdus: Any) -> dict[str, Any]:
    """The row that describes the object; empty where there is none."""
    for hdu in hdus[1:]:
        names = hdu.columns.names if hasattr(hdu, "columns") else []
        if "Z" in names and "CLASS" in names and len(hdu.data):
            return {name.upper(): hdu.data[name][0] for name in names}
    return {}


def _id(row: dict[str, Any], path: str) -> str:
    if all(name in row for name in ("PLATE", "MJD", "FIBERID")):
        return f"{int(row['PLATE']):04d}-{int(row['MJD'])}-{int(row['FIBERID']):04d}"
    return str(row.get("SPECOBJID", "")).strip() or plain_name(path)


def _wavelength(pixels: np.ndarray, path: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        return angstroms(10 ** np.array(pixels["loglam"], np.float64), "", f"{path}, 10^loglam")


def _spectrum(path: str) -> Raw:
    with open_hdus(path) as hdus:
        pixels = _coadd(hdus, path)
        flux, ivar = np.array(pixels["flux"], np.float64), np.array(pixels["ivar"], np.float64)
        if "and_mask" in [name.lower() for name in pixels.names]:
            ivar[np.array(pixels["and_mask"]) >> FIBRE_BITS != 0] = 0
        return Raw(_wavelength(pixels, path), flux, ivar)

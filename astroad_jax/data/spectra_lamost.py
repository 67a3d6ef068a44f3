"""LAMOST low-resolution spectra, ``spec-MJD-PLAN_spNN-FFF.fits`` (or ``.fits.gz``), one object a file.

::

    up to DR7   primary image (5, P): flux, inverse variance, wavelength, and-mask, or-mask
    from DR8    a table of one row with vectors FLUX, IVAR, WAVELENGTH, ANDMASK, ORMASK
    both        primary header: OBSID, RA, DEC, Z, CLASS

Wavelengths are in vacuum, in the heliocentric frame, and the flux is relative: only its shape means anything, which is
all that is left after the unit norm. Pixels with any bit of the and-mask set have no weight; the or-mask excludes nothing.
A redshift of -9999 is one that the pipeline did not find. Stars have their radial velocity as redshift, about half of them
below 0, and the spectra begin above 3600 Angstrom, where the usual grid does: ``spectra.z_min=-0.01 spectra.coverage=0.94``
(or a higher ``spectra.low``) keeps them.
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

VECTORS = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK")
UNKNOWN = -9000  # redshifts below are none


def open_lamost(path: str, files: Sequence[str], settings: Spectra) -> Source:
    """Open LAMOST spectra, one a file; `path` is what the user called them.

    Columns: ``object_id`` (OBSID, int64; the files' names where a header lacks it), ``ra``, ``dec``, ``z``, ``spectype``
    (CLASS), ``snr``, ``spectrum``, ``flags``.

    Raises
    ------
    DataError
        As `spectra_single.open_single`.
    """
    return open_single(path, files, Kind("lamost", _head, _spectrum), settings)


def _head(path: str) -> Head:
    with checked_hdus(path) as hdus:
        angstroms(_vectors(hdus, path)[2], "", f"{path}, wavelength")
        header = hdus[0].header
        z, name = number(header.get("Z")), header.get("OBSID", "")
        ra, dec = number(header.get("RA")), number(header.get("DEC"))
        id = int(name) if str(name).strip().isdigit() else plain_name(path)
        return Head(id, ra, dec, z if z > UNKNOWN else np.nan, str(header.get("CLASS", "")).strip())


def _vectors(hdus: Any, path: str) -> list[np.ndarray]:
    """Flux, inverse variance, wavelength and and-mask, ``(P,)`` each."""
    for hdu in hdus[1:]:
        names = hdu.columns.names if hasattr(hdu, "columns") else []
        if set(VECTORS) <= set(names) and len(hdu.data) == 1:
            return [np.array(hdu.data[name][0], np.float64) for name in VECTORS]
    image = hdus[0].data
    if image is not None and image.ndim == 2 and len(image) >= len(VECTORS):
        return list(np.array(image[: len(VECTORS)], np.float64))
    raise DataError(
        "this file holds no LAMOST spectrum",
        where=path,
        expected=f"vectors {', '.join(VECTORS)}, or a primary image of 5 rows",
        got=", ".join(f"{hdu.name or 'unnamed'} {hdu.shape}" if hdu.is_image else hdu.name for hdu in hdus),
        fix="fetch it again",
    )


def _spectrum(path: str) -> Raw:
    with open_hdus(path) as hdus:
        flux, ivar, wavelength, mask = _vectors(hdus, path)
    ivar[mask != 0] = 0
    return Raw(angstroms(wavelength, "", f"{path}, wavelength"), flux, ivar)

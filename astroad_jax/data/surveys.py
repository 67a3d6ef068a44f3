"""Which files hold spectra, told by what is in them, and how one input of several files is opened."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from astroad_jax.config import Spectra
from astroad_jax.data import spectra_arrays, spectra_desi, spectra_lamost, spectra_sdss
from astroad_jax.data.folder import PICTURES, files_below, is_pattern, matches
from astroad_jax.data.hdus import open_hdus, suffix_of
from astroad_jax.data.npz import headers_of
from astroad_jax.data.source import ROWS, Source, partition_name, select
from astroad_jax.data.spectra_single import spectrum_files
from astroad_jax.errors import DataError

ONE_OBJECT = {"sdss": spectra_sdss.open_sdss, "lamost": spectra_lamost.open_lamost}
MANY_OBJECTS = {
    "desi": spectra_desi.open_desi,
    "mmu": spectra_arrays.open_mmu,
    "spectra_npz": spectra_arrays.open_spectra_npz,
}
IN_VACUUM = ("desi", "sdss", "lamost")  # whose wavelengths are never those in air
HDF5 = (".h5", ".hdf5")
LOOKED_AT = 3  # files of a directory that are looked into: the first may be damaged
log = logging.getLogger(__name__)


def spectra_format(path: str) -> str:
    """Format of the spectra that a file, a directory or a pattern holds; ``""`` where it holds something else.

    A file is told by its content: DESI by the extensions of an arm, SDSS by a table with ``loglam``, LAMOST by its
    vectors or by the telescope in its header, the MultimodalUniverse by ``spectrum_flux``, an NPZ by two-dimensional
    ``flux`` with wavelengths to match, and redshifts or ``ivar`` (without both it is a table of arrays that are on one
    grid already). What cannot be read is left to the reader that its suffix names.
    """
    if is_pattern(path) or os.path.isdir(path):
        found = (_format_of(file) for file in _files(path)[:LOOKED_AT])
        return next((format for format in found if format), "")
    return _format_of(path)


def open_spectra(path: str, format: str, settings: Spectra | None) -> Source:
    """Open a file, or all files of a directory or pattern as one source; without settings the grid is the default.

    Raises
    ------
    DataError
        As the format's reader; no such files, or files whose columns differ.
    """
    settings, several = _known(settings or Spectra(), path, format), is_pattern(path) or os.path.isdir(path)
    files = files_of(path, format) if several else [path]
    if not files:
        raise DataError("no file here holds such spectra", where=path, expected=format, got="none", fix="check the path")
    if format in ONE_OBJECT:
        return ONE_OBJECT[format](path, files, settings)
    sources = [MANY_OBJECTS[format](file, settings) for file in files]
    return joined(path, sources) if several else sources[0]


def files_of(path: str, format: str) -> list[str]:
    """Files of a directory or pattern that may hold spectra of a format, sorted."""
    return [file for file in _files(path) if _belongs(file, format)]


def _known(settings: Spectra, path: str, format: str) -> Spectra:
    """The settings, without those that the survey itself settles."""
    if not settings.air or format not in IN_VACUUM:
        return settings
    log.warning("%s: wavelengths of %s are in vacuum, so that spectra.air is not heeded", path, format)
    return settings.model_copy(update={"air": False})


def beside(path: str, settings: Spectra) -> list[str]:
    """Files apart from `path` itself that its spectra depend on: of a pattern every match, and files of redshifts."""
    if is_pattern(path):
        every = matches(path)
        return sorted({*every, *(file for match in every for file in spectra_desi.companions(match, settings))})
    if os.path.isdir(path):
        return [settings.redshifts] if settings.redshifts else []
    return spectra_desi.companions(path, settings)


def joined(path: str, sources: Sequence[Source]) -> Source:
    """Sources one after another.

    Raises
    ------
    DataError
        Sources whose columns differ.
    """
    first = sources[0]
    for other in sources[1:]:
        if other.columns != first.columns:
            odd = sorted(name for name, _ in set(first.columns.items()) ^ set(other.columns.items()))
            raise DataError(
                "these files have different columns",
                where=path,
                expected=f"those of {first.path}",
                got=f"{other.path} differs in {', '.join(dict.fromkeys(odd))}",
                fix="open them one by one, or leave the odd ones out",
            )

    def chunks(rows: int = ROWS, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        names = select(first.columns, columns, path)
        for source in sources:
            yield from source.chunks(rows, names)

    return Source(
        partition_name(path, ""), path, first.format, first.columns, sum(source.num_rows or 0 for source in sources), chunks
    )


def _files(path: str) -> list[str]:
    """Candidates in a directory or of a pattern, without files of redshifts; none where pictures lie in a directory."""
    if is_pattern(path):
        return _coadds([file for file in matches(path) if not _is_redshifts(file)])
    names = files_below(path)
    if any(name.lower().endswith(PICTURES) for name in names):
        return []
    single = [file for file in spectrum_files(path, names) if not _is_redshifts(file)]
    return _coadds(single) or [os.path.join(path, name) for name in names if name.lower().endswith(HDF5)]


def _coadds(files: list[str]) -> list[str]:
    """DESI's coadds where there are any, for their directories have files of other kinds; else all."""
    return [file for file in files if Path(file).name.startswith("coadd-")] or files


def _is_redshifts(file: str) -> bool:
    return Path(file).name.startswith(spectra_desi.REDSHIFT_FILES)


def _belongs(file: str, format: str) -> bool:
    """Whether a file among others is one of a format, by its suffix."""
    if format == "spectra_npz":
        return file.lower().endswith(".npz")
    return file.lower().endswith(HDF5) if format == "mmu" else bool(suffix_of(file))


def _format_of(file: str) -> str:
    try:
        if suffix_of(file):
            return _of_fits(file)
        if file.lower().endswith(HDF5):
            return _of_hdf5(file)
        return _of_npz(file) if file.lower().endswith(".npz") else ""
    except ImportError:
        raise
    except Exception:  # whatever is wrong with it, its reader says it better
        return ""


def _of_fits(file: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a cut file: said better by its reader
        with open_hdus(file) as hdus:
            names = {hdu.name for hdu in hdus}
            for arm in (*spectra_desi.ARMS, spectra_desi.JOINED):
                if len({f"{arm}_WAVELENGTH", f"{arm}_FLUX", f"{arm}_IVAR"} & names) > 1:
                    return "desi"
            if "FIBERMAP" in names and Path(file).name.startswith(spectra_desi.SPECTRA_FILES):
                return "desi"  # a coadd that has lost its arms, which its reader says
            header = hdus[0].header
            maker = f"{header.get('TELESCOP', '')} {header.get('ORIGIN', '')}".upper()
            tables = [{name.upper() for name in hdu.columns.names} for hdu in hdus[1:] if hasattr(hdu, "columns")]
    if any({"FLUX", "LOGLAM"} <= columns for columns in tables):
        return "sdss"
    vectors = any(set(spectra_lamost.VECTORS) <= columns for columns in tables)
    return "lamost" if vectors or ("LAMOST" in maker and header.get("NAXIS") == 2) else ""


def _of_hdf5(file: str) -> str:
    import h5py

    with h5py.File(file, "r") as opened:
        return "mmu" if {"spectrum_flux", "spectrum_lambda"} & set(opened) else ""


def _of_npz(file: str) -> str:
    headers = headers_of(file)
    lower = {name.lower(): header.shape for name, header in headers.items()}
    flux = lower.get("flux", ())
    waves = [lower[name] for name in spectra_arrays.WAVELENGTHS if name in lower]
    more = {*spectra_arrays.COLUMNS["z"], *spectra_arrays.ARRAYS["ivar"]} & set(lower)
    return "spectra_npz" if len(flux) == 2 and more and any(wave in (flux, flux[1:]) for wave in waves) else ""

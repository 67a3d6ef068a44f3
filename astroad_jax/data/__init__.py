"""Reading catalogues: one reader a format, tables with roles, splits, and the pipelines that feed training.

Importing this costs NumPy only. A format's library is imported when a file of that format is opened,
tensorflow when a pipeline is built (`astroad_jax.data.pipeline`).
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from astroad_jax.data.folder import files_below, folder_name, is_pattern, matches
from astroad_jax.data.frame import open_frame, to_frame
from astroad_jax.data.source import ROWS, Column, Source, fitting_rows, memory, partition_name
from astroad_jax.data.table import (
    Roles,
    Table,
    as_labels,
    check_ids,
    check_roles,
    find_roles,
    left_out,
    read_table,
    stream_tables,
)
from astroad_jax.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from astroad_jax.config import Spectra

__all__ = [
    "ROWS",
    "Column",
    "Roles",
    "Source",
    "Table",
    "as_labels",
    "beside",
    "check_ids",
    "check_roles",
    "files_below",
    "find_roles",
    "fitting_rows",
    "left_out",
    "memory",
    "open_frame",
    "open_source",
    "partition_of",
    "read_table",
    "spectra_format",
    "spread",
    "stream_tables",
    "to_frame",
]

# format -> (module, function); suffix -> format
_READERS = {
    "parquet": ("parquet", "open_parquet"),
    "csv": ("text", "open_csv"),
    "ecsv": ("text", "open_ecsv"),
    "fits": ("fits", "open_fits"),
    "hdf5": ("hdf5", "open_hdf5"),
    "npz": ("npz", "open_npz"),
    "folder": ("folder", "open_folder"),
    "tfds": ("tfds", "open_tfds"),
}
_SPECTRA = ("desi", "mmu", "spectra_npz", "sdss", "lamost")  # see `surveys`
_SUFFIXES = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".ecsv": "ecsv",
    ".fits": "fits",
    ".fit": "fits",
    ".fits.gz": "fits",
    ".fit.gz": "fits",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".npz": "npz",
}


def open_source(path: str | Path, *, format: str | None = None, size: int = 0, spectra: Spectra | None = None) -> Source:
    """Open a table, a directory of images, or spectra of any known format.

    Where no format is given, it is told in this order:

    1. ``tfds:name`` is a prepared TensorFlow data set.
    2. What holds spectra is told by its content, whatever its name:

       ``desi``
           FITS with extensions ``B_FLUX``, ``B_WAVELENGTH``, ... : a coadd, joined with its redrock file.
       ``sdss``
           FITS with a table of ``flux`` and ``loglam``: one object, ``spec-PLATE-MJD-FIBER.fits``.
       ``lamost``
           FITS with vectors ``FLUX``, ``IVAR``, ``WAVELENGTH``, ``ANDMASK``, or LAMOST's older image: one object.
       ``mmu``
           HDF5 with ``spectrum_flux`` and ``spectrum_lambda``: the MultimodalUniverse.
       ``spectra_npz``
           NPZ with ``flux`` (N, P), ``wavelength`` or ``wave``, (P,) or (N, P), and redshifts or ``ivar``.

       A directory with files of one of the first four in it, or up to two directories deeper, is one source; so is a
       pattern such as ``"healpix/**/coadd-*.fits"``. Each format's module (``data/spectra_*.py``) has its layout.
    3. Any other directory is one of images, and any other file is what its suffix says.

    Spectra are brought to the grid of `spectra` on reading; the columns then are ``object_id``, ``ra``, ``dec``, ``z``,
    ``spectype``, ``snr``, ``spectrum`` (2, bins), its flux and inverse variance, and ``flags``: see `spectra.gridded`.

    Parameters
    ----------
    path : str or Path
        A file, a directory of images or spectra, a pattern for files of spectra, or ``tfds:name[/split]``.
    format : str, optional
        One of those above, or ``parquet``, ``csv``, ``ecsv``, ``fits``, ``hdf5``, ``npz``, ``folder``: what the path is
        taken for, whatever is in it.
    size : int
        Side in pixels that the images of a directory are brought to on reading; 0: as they are.
    spectra : Spectra, optional
        Grid and cuts (``Run.spectra``); without it the defaults.

    Returns
    -------
    Source
        With at least one row and one column.

    Raises
    ------
    DataError
        Unknown format, missing, empty or damaged file, a directory without images, a table without rows or columns, a
        size for what is no directory of images, spectra that lack what their format needs.
    """
    path = str(path)
    format = format or _guess(path)
    if format not in _READERS and format not in _SPECTRA:
        known = [*_READERS, *_SPECTRA]
        raise DataError("unknown format", where=path, expected=did_you_mean(format, known), got=format)
    if format != "tfds":
        _check_file(path, format)
    options = _options(path, format, size)
    if format in _SPECTRA:
        source = _surveys().open_spectra(path, format, spectra)._replace(name=partition_of(path))
    else:
        module, function = _READERS[format]
        source = getattr(importlib.import_module(f"astroad_jax.data.{module}"), function)(path, **options)
    if not source.columns or source.num_rows == 0:
        raise DataError(
            "this table is empty",
            where=path,
            expected="at least one row and one column",
            got=f"{source.num_rows} rows, {len(source.columns)} columns",
            fix="check how it was written, or leave it out",
        )
    return source


def spectra_format(path: str) -> str:
    """Format of the spectra that a path holds by its content, ``""`` where it holds something else."""
    return _surveys().spectra_format(path)


def beside(path: str, spectra: Spectra) -> list[str]:
    """Files apart from `path` that its spectra depend on: of a pattern every match, of a coadd its redshifts."""
    return _surveys().beside(path, spectra)


def _surveys() -> ModuleType:
    """What knows spectra costs pydantic, and is imported when a path is looked at."""
    return importlib.import_module("astroad_jax.data.surveys")


def _options(path: str, format: str, size: int) -> dict[str, int]:
    """A size for images that have one already would go unheeded."""
    if size and format != "folder":
        raise DataError(
            "only the images of a directory are resized on reading",
            where="data.size",
            expected="a directory of images",
            got=path,
            fix="set data.size = 0; preprocess.size resizes images of any format",
        )
    return {"size": size} if size else {}


def spread(path: str | Path, *, images: bool = False) -> list[tuple[str, str]]:
    """Names and paths of the inputs behind a directory, a pattern or a HATS catalogue (`inputs.spread`).

    What is one input itself is its own, by the name of `partition_of`.
    """
    several = importlib.import_module("astroad_jax.data.inputs").spread(str(path), tuple(_SUFFIXES), images=images)
    return [tuple(item) for item in several] or [(partition_of(path), str(path))]


def partition_of(path: str | Path) -> str:
    """Name of the partition that a file, directory or pattern is, without opening it."""
    name = str(path)
    if name.startswith("tfds:"):
        return partition_name(name.removeprefix("tfds:").replace("/", "-"), "")
    if Path(name).is_dir():
        return folder_name(name)
    ends = [suffix for suffix in sorted(_SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix)]
    return partition_name(name, ends[0] if ends else "")


def _guess(path: str) -> str:
    """Format by prefix, content, kind or suffix."""
    if path.startswith("tfds:"):
        return "tfds"
    held = spectra_format(path)
    if held:
        return held
    if Path(path).is_dir():
        return "folder"
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if path.lower().endswith(suffix):
            return _SUFFIXES[suffix]
    raise DataError(
        "the suffix of this file names no known format",
        where=path,
        expected="one of " + " ".join(_SUFFIXES) + ", a directory of images or spectra, or tfds:name",
        got=Path(path).suffix or "no suffix",
        fix="rename the file, or say which format it has",
    )


def _check_file(path: str, format: str) -> None:
    """Raise `DataError` for what is not there, of the wrong kind, or without anything in it."""
    file = Path(path)
    spectral = format in _SPECTRA
    if spectral and is_pattern(path) and matches(path):
        return
    if not file.exists():
        fix = "check the path" + ("; a pattern may only name files of spectra" if is_pattern(path) else "")
        raise DataError("no such file", where=path, expected="a file", got="nothing", fix=fix)
    if spectral and file.is_dir():
        return
    if file.is_dir() != (format == "folder"):
        kinds = ("a file", "a directory") if file.is_dir() else ("a directory", "a file")
        fix = "check path and format; of the files in a directory, name each one"
        raise DataError(f"this is {kinds[1]}", where=path, expected=f"{kinds[0]} ({format})", got=kinds[1], fix=fix)
    if not file.is_dir() and file.stat().st_size == 0:
        raise DataError("this file is empty", where=path, expected="a table", got="0 bytes", fix="fetch or write it again")

"""Reading catalogues: one reader a format, tables with roles, splits, and the pipelines that feed training.

Importing this costs NumPy only. A format's library is imported when a file of that format is opened,
tensorflow when a pipeline is built (`astroad_jax.data.pipeline`).
"""

from __future__ import annotations

import importlib
from pathlib import Path

from astroad_jax.data.source import Column, Source, memory, partition_name
from astroad_jax.data.table import Roles, Table, as_labels, check_ids, find_roles, left_out, read_table, stream_tables
from astroad_jax.errors import DataError, did_you_mean

__all__ = [
    "Column",
    "Roles",
    "Source",
    "Table",
    "as_labels",
    "check_ids",
    "find_roles",
    "left_out",
    "memory",
    "open_source",
    "partition_of",
    "read_table",
    "stream_tables",
]

# format -> (module, function); suffix -> format
_READERS = {
    "parquet": ("parquet", "open_parquet"),
    "csv": ("text", "open_csv"),
    "ecsv": ("text", "open_ecsv"),
    "fits": ("fits", "open_fits"),
    "hdf5": ("hdf5", "open_hdf5"),
    "npz": ("npz", "open_npz"),
    "tfds": ("tfds", "open_tfds"),
}
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


def open_source(path: str | Path, *, format: str | None = None) -> Source:
    """Open a table of any known format.

    Parameters
    ----------
    path : str or Path
        A file, or ``tfds:name[/split]`` for a prepared TensorFlow data set.
    format : str, optional
        ``parquet``, ``csv``, ``ecsv``, ``fits``, ``hdf5``, ``npz`` or ``tfds``, where the suffix does not
        say.

    Returns
    -------
    Source
        With at least one row and one column.

    Raises
    ------
    DataError
        Unknown format, missing, empty or damaged file, a directory, a table without rows or columns.
    """
    path = str(path)
    format = format or _guess(path)
    if format not in _READERS:
        raise DataError("unknown format", where=path, expected=did_you_mean(format, _READERS), got=format)
    if format != "tfds":
        _check_file(path)
    module, function = _READERS[format]
    source = getattr(importlib.import_module(f"astroad_jax.data.{module}"), function)(path)
    if not source.columns or source.num_rows == 0:
        raise DataError(
            "this table is empty",
            where=path,
            expected="at least one row and one column",
            got=f"{source.num_rows} rows, {len(source.columns)} columns",
            fix="check how it was written, or leave it out",
        )
    return source


def partition_of(path: str | Path) -> str:
    """Name of the partition that a file is, without opening it."""
    name = str(path)
    if name.startswith("tfds:"):
        return partition_name(name.removeprefix("tfds:").replace("/", "-"), "")
    ends = [suffix for suffix in sorted(_SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix)]
    return partition_name(name, ends[0] if ends else "")


def _guess(path: str) -> str:
    """Format by prefix or suffix."""
    if path.startswith("tfds:"):
        return "tfds"
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if path.lower().endswith(suffix):
            return _SUFFIXES[suffix]
    raise DataError(
        "the suffix of this file names no known format",
        where=path,
        expected="one of " + " ".join(_SUFFIXES) + " or tfds:name",
        got=Path(path).suffix or "no suffix",
        fix="rename the file, or say which format it has",
    )


def _check_file(path: str) -> None:
    """Raise `DataError` for what is no readable file with something in it."""
    file = Path(path)
    if file.is_dir():
        raise DataError(
            "this is a directory",
            where=path,
            expected="a file",
            got="a directory",
            fix="name the files in it one by one",
        )
    if not file.exists():
        raise DataError("no such file", where=path, expected="a file", got="nothing", fix="check the path")
    if file.stat().st_size == 0:
        raise DataError("this file is empty", where=path, expected="a table", got="0 bytes", fix="fetch or write it again")

"""HDF5 files: data sets that share their first dimension are the columns."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from astroad_jax.data.source import (
    ROWS,
    TEXT,
    UNREADABLE,
    Column,
    Source,
    as_text,
    native,
    partition_name,
    reading,
    select,
    shared_rows,
)
from astroad_jax.errors import DataError

if TYPE_CHECKING:
    import h5py

TRIAL_SECONDS, TRIAL_RATE = 10.0, 1e6  # allowed for a trial reading, and the least bytes a second on top


class _Place(NamedTuple):
    """Where a column lies: a data set, and a field of it where its type is compound."""

    dataset: str
    field: str


def open_hdf5(path: str) -> Source:
    """Open an HDF5 file; groups are searched, fields of compound data sets are columns of their own.

    A column is called by the last part of its path, or by the whole path where that is not unique. Data sets
    whose first dimension is not the one most of them share (a wavelength grid, say) are no columns. Cut files
    always show; flipped bits only where the writer used ``fletcher32``. Text of variable length cannot have it, and damage
    to it can keep the HDF5 library busy for ever, or end the process: it is read once by a process of its own first (a
    third of a second). Text of fixed length needs none of this.

    Raises
    ------
    DataError
        Not HDF5, cut, or a chunk that fails its checksum.
    """
    with reading(path, "HDF5"), _open(path) as file:
        shapes = _datasets(file)
        num_rows = shared_rows(shapes)
        places = _places(file, [name for name, shape in shapes.items() if shape[0] == num_rows])
        known = {name: _column(file[place.dataset], place.field) for name, place in places.items()}
        loose = [place.dataset for place in places.values() if _is_loose(file[place.dataset], place.field)]
    if loose:
        _try_text(path, loose)

    def chunks(rows: int = ROWS, columns: Sequence[str] | None = None) -> Iterator[dict[str, np.ndarray]]:
        names = select(known, columns, path)
        with reading(path, "HDF5"), _open(path) as file:
            for start in range(0, num_rows, rows):
                stop = min(start + rows, num_rows)
                yield {name: _read(file, places[name], known[name], start, stop) for name in names}

    suffix = ".hdf5" if path.lower().endswith(".hdf5") else ".h5"
    return Source(partition_name(path, suffix), path, "hdf5", known, num_rows, chunks)


TRIAL = """
import sys, h5py
with h5py.File(sys.argv[1], "r") as file:
    for name in sys.argv[2:]:
        for start in range(0, len(file[name]), 65536):
            file[name][start : start + 65536]
"""


def _is_loose(dataset: h5py.Dataset, field: str) -> bool:
    """Whether this is text of variable length."""
    import h5py

    found = h5py.check_string_dtype((dataset.dtype[field] if field else dataset.dtype).base)
    return found is not None and found.length is None


def _try_text(path: str, datasets: list[str]) -> None:
    """Read text of variable length in a process of its own, which may hang or die in our place."""
    limit = TRIAL_SECONDS + os.path.getsize(path) / TRIAL_RATE
    command = [sys.executable, "-c", TRIAL, path, *dict.fromkeys(datasets)]
    try:
        done = subprocess.run(command, timeout=limit, capture_output=True, text=True, check=False)
    except subprocess.TimeoutExpired:
        got = f"still busy after {limit:.0f} seconds"
    else:
        if not done.returncode:
            return
        got = (done.stderr.strip().splitlines() or [f"the reading process died ({done.returncode})"])[-1]
    raise DataError(
        "this file cannot be read as HDF5",
        where=f"{path}, text of variable length in {', '.join(dict.fromkeys(datasets))}",
        expected="a whole HDF5 file",
        got=got,
        fix="it is damaged: fetch or write it again, with text of fixed length if you can",
    )


def _open(path: str) -> h5py.File:
    import h5py

    return h5py.File(path, "r")


def _datasets(file: h5py.File) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every data set with at least one axis."""
    import h5py

    found: dict[str, tuple[int, ...]] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.shape:
            found[name] = item.shape

    file.visititems(visit)
    return found


def _places(file: h5py.File, datasets: list[str]) -> dict[str, _Place]:
    """Column name -> where it lies."""
    places = [_Place(name, field) for name in datasets for field in file[name].dtype.names or [""]]
    short = [place.field or place.dataset.rpartition("/")[2] for place in places]
    counts = Counter(short)
    full = [f"{place.dataset}/{place.field}".rstrip("/") for place in places]
    return {s if counts[s] == 1 else f: place for s, f, place in zip(short, full, places)}


def _column(dataset: h5py.Dataset, field: str) -> Column:
    import h5py

    dtype = dataset.dtype[field] if field else dataset.dtype
    inner = dtype.shape if field else ()
    dtype = dtype.base
    shape = (*dataset.shape[1:], *inner)
    if h5py.check_string_dtype(dtype) is not None or dtype.kind in "SU":
        return Column(TEXT, shape)
    return Column(dtype.newbyteorder("=") if dtype.kind in "biufc" else UNREADABLE, shape)


def _read(file: h5py.File, place: _Place, column: Column, start: int, stop: int) -> np.ndarray:
    dataset = file[place.dataset]
    values = (dataset.fields(place.field) if place.field else dataset)[start:stop]
    return as_text(values) if column.dtype == TEXT else native(values)

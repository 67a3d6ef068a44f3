"""HDF5 files: data sets that share their first dimension are the columns."""

from __future__ import annotations

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

if TYPE_CHECKING:
    import h5py


class _Place(NamedTuple):
    """Where a column lies: a data set, and a field of it where its type is compound."""

    dataset: str
    field: str


def open_hdf5(path: str) -> Source:
    """Open an HDF5 file; groups are searched, fields of compound data sets are columns of their own.

    A column is called by the last part of its path, or by the whole path where that is not unique. Data sets
    whose first dimension is not the one most of them share (a wavelength grid, say) are no columns. Cut files
    always show; flipped bits only where the writer used ``fletcher32``. Text of variable length cannot have it,
    and damage to it can keep the HDF5 library itself busy for ever: store text of fixed length.

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

    def chunks(rows: int = ROWS, columns: Sequence[str] | None = None) -> Iterator[dict[str, np.ndarray]]:
        names = select(known, columns, path)
        with reading(path, "HDF5"), _open(path) as file:
            for start in range(0, num_rows, rows):
                stop = min(start + rows, num_rows)
                yield {name: _read(file, places[name], known[name], start, stop) for name in names}

    suffix = ".hdf5" if path.lower().endswith(".hdf5") else ".h5"
    return Source(partition_name(path, suffix), path, "hdf5", known, num_rows, chunks)


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

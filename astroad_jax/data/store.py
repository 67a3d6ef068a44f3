"""Arrays in one HDF5 file, every chunk with a checksum, and each with a word on what it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astroad_jax import files
from astroad_jax.data.source import as_text, reading
from astroad_jax.errors import DataError

CHUNK = 2**20  # bytes of a chunk, about: a flipped bit costs one


class Held(NamedTuple):
    """One array, and what it is: axes, unit, sign convention."""

    values: np.ndarray
    meaning: str = ""


def write_hdf5(path: Path, arrays: Mapping[str, Held], notes: Mapping[str, str]) -> None:
    """Write arrays to one file, atomically; the same arrays give the same bytes.

    A name may have a group before it, as in ``scores/object_id``. Every data set has Fletcher's checksum, so that reading a
    flipped bit is an error, and an attribute ``meaning``. Text is stored as UTF-8 of fixed length, the only text that can
    have the checksum. Integers and floats keep their type.

    Parameters
    ----------
    path : Path
        Its directory is there.
    arrays : dict of str to Held
        With one axis at least.
    notes : dict of str
        Attributes of the file.

    Raises
    ------
    DataError
        An array without an axis, or of a kind that HDF5 has no checksum for.
    """
    import h5py

    with files.atomic(Path(path)) as tmp, h5py.File(tmp, "w") as file:
        for name, note in notes.items():
            file.attrs[name] = note
        for name, held in arrays.items():
            dataset = _written(file, name, np.asarray(held.values), str(path))
            dataset.attrs["meaning"] = held.meaning


def _written(file: Any, name: str, values: np.ndarray, where: str) -> Any:
    import h5py

    if not values.ndim or values.dtype.kind not in "biufU":
        expected, got = "numbers or text, with one axis at least", f"{values.dtype} of shape {values.shape}"
        fix = "give an array of such a type"
        raise DataError("this cannot be stored", where=f"{where}, {name}", expected=expected, got=got, fix=fix)
    kind = values.dtype
    if kind.kind == "U":
        values = np.char.encode(values, "utf-8")
        kind = h5py.string_dtype("utf-8", max(1, values.dtype.itemsize))
    if not values.size:  # there is nothing to check, and no chunk to do it in
        return file.create_dataset(name, values.shape, kind)
    return file.create_dataset(name, data=values.astype(kind), chunks=_chunks(values), fletcher32=True)


def _chunks(values: np.ndarray) -> tuple[int, ...]:
    """Whole rows, as many as fit."""
    row = max(1, values.itemsize * values[0].size)
    return (max(1, min(len(values), CHUNK // row)), *values.shape[1:])


def read_hdf5(path: Path) -> tuple[dict[str, Held], dict[str, str]]:
    """What `write_hdf5` wrote: arrays, text as ``str``, and the file's notes.

    Raises
    ------
    DataError
        No such file, a damaged one, or another kind.
    """
    import h5py

    found: dict[str, Held] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = _read(item)

    with reading(str(path), "HDF5"), h5py.File(path, "r") as file:
        file.visititems(visit)
        return found, {name: str(note) for name, note in file.attrs.items()}


def _read(dataset: Any) -> Held:
    values = dataset[...]
    return Held(as_text(values) if values.dtype.kind in "SO" else values, str(dataset.attrs["meaning"]))

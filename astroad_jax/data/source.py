"""What every reader returns: a named stream of column dictionaries, and the few rules all readers share.

A value keeps the type it has in its file. The exceptions are the same everywhere:

* byte order becomes the machine's own (JAX refuses any other);
* text becomes NumPy ``str``; a missing text is ``""``;
* a missing float is NaN; a column of integers or booleans with missing values becomes float64 with NaN, one
  without keeps its integers exactly (identifiers beyond 2**53 depend on it).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from astroad_jax.errors import DataError, did_you_mean

ROWS = 65536  # rows per chunk unless asked otherwise
BYTES = 64 * 2**20  # of a chunk, in float32 or what is wider: images come in fewer rows
TEXT = np.dtype("U")  # text of any width: each chunk has its own
UNREADABLE = np.dtype("O")  # a column that is there but has no array form (ragged lists, dates, structures)

# Lower-case names by which an identifier is recognised, the most telling first.
ID_NAMES = (
    "object_id", "objectid", "oid", "source_id", "sourceid", "targetid", "target_id", "objid", "obj_id",
    "objectidps1", "diaobjectid", "coadd_object_id", "specobjid", "galaxy_id", "star_id", "ztf_id", "id",
    "ids", "name",
)  # fmt: skip


class Column(NamedTuple):
    """What one column holds.

    Attributes
    ----------
    dtype : np.dtype
        Native byte order; `TEXT` for strings of any width, `UNREADABLE` where the values have no array form.
    shape : tuple of int
        Shape of ONE row's value: ``()`` for scalars.
    unit : str
        As the file gives it; ``""`` where it gives none.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    unit: str = ""


class Source(NamedTuple):
    """A table that can be read in pieces, any number of times.

    Attributes
    ----------
    name : str
        Partition name: the file's name without its suffix, safe as a file name.
    path : str
        Where it comes from, as errors name it.
    format : str
        ``parquet``, ``csv``, ``ecsv``, ``fits``, ``hdf5``, ``npz``, ``folder``, ``tfds`` or ``memory``; of spectra
        ``desi``, ``sdss``, ``lamost``, ``mmu`` or ``spectra_npz``.
    columns : dict of str to Column
        In file order.
    num_rows : int or None
        None where only a whole pass would tell.
    chunks : (rows=65536, columns=None) -> iterator of dict
        Arrays with a leading axis of at most `rows`, in file order, native byte order; all readable columns,
        or those named. Raises `DataError` for unknown columns and for damage met on the way.
    """

    name: str
    path: str
    format: str
    columns: dict[str, Column]
    num_rows: int | None
    chunks: Callable[..., Iterator[dict[str, np.ndarray]]]


@contextmanager
def reading(path: str, kind: str) -> Iterator[None]:
    """Turn whatever a library raises over a file's bytes into a `DataError` that names the file.

    Damaged bytes surface as almost any exception type from the parsing libraries, so all are caught; the
    original stays attached as the cause. A library that is not installed is not the file's fault.
    """
    try:
        yield
    except (DataError, ImportError):
        raise
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise DataError(
            f"this file cannot be read as {kind}",
            where=path,
            expected=f"a whole {kind} file",
            got=f"{type(error).__name__}: {first_line}",
            fix="it is damaged, cut short or of another format: fetch or write it again",
        ) from error


def fitting_rows(columns: Iterable[Column], most: int = ROWS) -> int:
    """How many rows of these columns make a chunk: at most `most` and `BYTES`, at least one."""
    row = sum(math.prod(column.shape) * max(4, column.dtype.itemsize) for column in columns)
    return max(1, min(most, BYTES // max(1, row)))


def native(array: np.ndarray) -> np.ndarray:
    """Return the array contiguous and in the machine's byte order; same values, same kind."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def as_text(array: np.ndarray) -> np.ndarray:
    """Bytes or str objects (None = missing) to a NumPy str array; bytes are UTF-8."""
    if array.dtype.kind == "U":
        return native(array)
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8")
    values = ["" if v is None else v.decode("utf-8") if isinstance(v, bytes) else str(v) for v in array.ravel()]
    return np.array(values, dtype=str).reshape(array.shape)


def unmask(array: np.ndarray) -> np.ndarray:
    """Plain array of a whole, possibly masked column: missing numbers become NaN, missing text ``""``."""
    if not isinstance(array, np.ma.MaskedArray) or not np.ma.getmaskarray(array).any():
        return np.asarray(array)
    kind = array.dtype.kind
    if kind in "iub":
        return array.astype(np.float64).filled(np.nan)
    if kind in "OSU":
        return np.where(np.ma.getmaskarray(array), "", as_text(np.asarray(array.data)))
    return array.filled(np.nan)


def describe(array: np.ndarray) -> Column:
    """`Column` of an array whose leading axis counts rows."""
    dtype = TEXT if array.dtype.kind in "US" else array.dtype.newbyteorder("=")
    if dtype.kind not in "biufcU":
        dtype = UNREADABLE
    return Column(dtype, tuple(array.shape[1:]))


def partition_name(path: str, suffix: str) -> str:
    """File name without `suffix`, every character that a file name had better not have replaced by ``_``.

    Only the format's own suffix goes: ``dr1.v2.parquet`` is ``dr1.v2``, so that it cannot collide with
    ``dr1.v3``.
    """
    name = Path(path).name
    if suffix and name.lower().endswith(suffix):
        name = name[: -len(suffix)]
    return re.sub(r"[^A-Za-z0-9._+-]", "_", name).lstrip(".") or "table"


def select(known: Mapping[str, Column], asked: Sequence[str] | None, where: str) -> list[str]:
    """Names to read: those asked for, or all that have an array form.

    Raises
    ------
    DataError
        Unknown names, or columns without an array form.
    """
    if asked is None:
        return [name for name, column in known.items() if column.dtype != UNREADABLE]
    missing = [name for name in asked if name not in known]
    if missing:
        hints = "; ".join(f"{name!r}: {did_you_mean(name, known)}" for name in missing)
        raise DataError("columns are not in this table", where=where, expected=list(missing), got=hints)
    ragged = [name for name in asked if known[name].dtype == UNREADABLE]
    if ragged:
        raise DataError(
            "columns have values that are no numbers, text or arrays of one shape",
            where=where,
            got=ragged,
            fix="store them as numbers, text or fixed-size arrays, or leave them out",
        )
    return list(asked)


def shared_rows(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Row count of a file of loose arrays: the first dimension most of them share.

    In a tie, that of an array with more axes (spectra before their wavelength grid), then the largest. Others are no
    columns of the table. 0 where there is no array at all.
    """
    counts = Counter(shape[0] for shape in shapes.values() if shape)
    axes = {rows: max(len(shape) for shape in shapes.values() if shape and shape[0] == rows) for rows in counts}
    return max(counts, key=lambda rows: (counts[rows], axes[rows], rows), default=0)


def memory(
    name: str,
    arrays: Mapping[str, np.ndarray],
    *,
    path: str = "",
    format: str = "memory",
    units: Mapping[str, str] | None = None,
) -> Source:
    """Wrap arrays that are in memory already.

    Parameters
    ----------
    arrays : dict of (N, ...) arrays
        Any byte order; masked arrays and bytes are converted as from a file.
    units : dict of str, optional
        Of the columns that have one.

    Raises
    ------
    DataError
        Columns of different lengths.
    """
    plain = {key: unmask(value) for key, value in arrays.items()}
    plain = {key: as_text(value) if value.dtype.kind in "SU" else native(value) for key, value in plain.items()}
    lengths = {key: len(value) for key, value in plain.items()}
    if len(set(lengths.values())) > 1:
        raise DataError("columns have different lengths", where=path or name, expected="one length", got=lengths)
    known = {key: describe(value)._replace(unit=(units or {}).get(key, "")) for key, value in plain.items()}
    num_rows = next(iter(lengths.values()), 0)

    def chunks(rows: int = ROWS, columns: Sequence[str] | None = None) -> Iterator[dict[str, np.ndarray]]:
        names = select(known, columns, path or name)
        for start in range(0, num_rows, rows):
            yield {key: plain[key][start : start + rows] for key in names}

    return Source(partition_name(name, ""), path or name, format, known, num_rows, chunks)

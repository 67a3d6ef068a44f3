"""FITS tables, memory-mapped; checksums that fail and files that are cut short are errors, not warnings."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from astroad_jax.data.source import (
    ROWS,
    UNREADABLE,
    Column,
    Source,
    describe,
    native,
    partition_name,
    reading,
    select,
)
from astroad_jax.errors import DataError

if TYPE_CHECKING:
    from astropy.io.fits import BinTableHDU, HDUList


def open_fits(path: str) -> Source:
    """Open the first table of a FITS file (ASCII or binary, gzipped or not).

    Every HDU that carries ``CHECKSUM``/``DATASUM`` is verified once, here. Blank-padded text loses its
    padding, as the standard wants it; integers equal to ``TNULL`` (before scaling, as the standard has it) count as
    missing.

    Raises
    ------
    DataError
        Not FITS, no table in it, a failed checksum, or fewer bytes than the headers announce (naming HDU and
        bytes).
    """
    with reading(path, "FITS"):
        with _open(path) as hdus:
            _check_lengths(hdus, path)
        _check_sums(path)
        with _open(path) as hdus:
            index = _first_table(hdus, path)
            known = {name: _column(hdus[index], name) for name in hdus[index].columns.names}
            num_rows = int(hdus[index].header["NAXIS2"])

    def chunks(rows: int = ROWS, columns: Sequence[str] | None = None) -> Iterator[dict[str, np.ndarray]]:
        names = select(known, columns, path)
        with reading(path, "FITS"), _open(path) as hdus:
            for start in range(0, num_rows, rows):
                part = hdus[index].data[start : start + rows]  # slicing first converts only these rows
                yield {name: _values(part, hdus[index], name, known[name]) for name in names}

    suffix = next(s for s in (".fits.gz", ".fit.gz", ".fits", ".fit", "") if path.lower().endswith(s))
    return Source(partition_name(path, suffix), path, "fits", known, num_rows, chunks)


@contextmanager
def _open(path: str, **options: Any) -> Iterator[HDUList]:
    """HDUs of a file that is opened here, because astropy leaves it open where it gives up on what is in it."""
    from astropy.io import fits

    memmap = not path.lower().endswith(".gz")
    with open(path, "rb") as stream, fits.open(stream, memmap=memmap, **options) as hdus:
        yield hdus


def _check_lengths(hdus: HDUList, path: str) -> None:
    """Compare what every header announces with the bytes that are there (gzip has its own check)."""
    if path.lower().endswith(".gz"):
        return
    size = os.path.getsize(path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "File may have been truncated")  # said better below
        hdus.readall()
    for index, hdu in enumerate(hdus):
        info = hdu.fileinfo()
        end = info["datLoc"] + info["datSpan"]
        if end > size:
            raise DataError(
                "this FITS file is cut short",
                where=f"{path}, HDU {index} ({hdu.name or 'unnamed'})",
                expected=f"{end} bytes up to the end of this HDU",
                got=f"{size} bytes",
                fix="fetch or write it again",
            )


def _check_sums(path: str) -> None:
    """Verify all checksums; astropy only warns of those that fail."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with _open(path, checksum=True) as hdus:
            hdus.readall()
    failed = [str(w.message).strip() for w in caught if "verification failed" in str(w.message)]
    if failed:
        raise DataError(
            "this FITS file does not match its checksums",
            where=path,
            expected="the bytes that were written",
            got="; ".join(failed),
            fix="it has changed since it was written: fetch it again",
        )


def _first_table(hdus: HDUList, path: str) -> int:
    from astropy.io import fits

    for index, hdu in enumerate(hdus):
        if isinstance(hdu, fits.BinTableHDU | fits.TableHDU) and not isinstance(hdu, fits.CompImageHDU):
            return index
    found = [f"{hdu.name or 'unnamed'} ({type(hdu).__name__})" for hdu in hdus]
    raise DataError("this FITS file holds no table", where=path, expected="a table HDU", got=found, fix="store a table")


def _column(hdu: BinTableHDU, name: str) -> Column:
    """Type of one column after scaling; whether integers are missing takes a pass over that column."""
    column = describe(np.asarray(hdu.data[:1][name]))._replace(unit=hdu.columns[name].unit or "")
    nulls = _nulls(hdu, name)
    if column.dtype == UNREADABLE or column.dtype.kind not in "iu" or not nulls:
        return column
    starts = range(0, len(hdu.data), ROWS)
    missing = any(np.isin(np.asarray(hdu.data[start : start + ROWS][name]), nulls).any() for start in starts)
    return column._replace(dtype=np.dtype(np.float64)) if missing else column


def _nulls(hdu: BinTableHDU, name: str) -> list[float]:
    """What a missing integer looks like after scaling; empty where there is no such value.

    ``TNULL`` is a stored value. Where the scaling only makes integers unsigned, some writers (astropy among them) give
    the value after scaling instead: both are taken.
    """
    column = hdu.columns[name]
    if column.null in (None, ""):
        return []
    scale, zero = column.bscale or 1, column.bzero or 0
    stored = column.null * scale + zero
    return [stored, column.null] if scale == 1 and zero else [stored]


def _values(part: np.ndarray, hdu: BinTableHDU, name: str, column: Column) -> np.ndarray:
    """One column of a slice: native, its own memory (the map closes with the file)."""
    values = np.array(part[name])
    if values.dtype.kind in "US":
        return np.char.rstrip(values.astype(str))
    nulls = _nulls(hdu, name) if column.dtype.kind == "f" else []
    if nulls:
        return np.where(np.isin(values, nulls), np.nan, values.astype(np.float64))
    return native(values)

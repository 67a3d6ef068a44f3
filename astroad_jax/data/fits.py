"""FITS tables, with or without a cube of images beside them; failed checksums and cut files are errors, not warnings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from astroad_jax.data.cutouts import find_cubes, read_cube
from astroad_jax.data.hdus import check_lengths, check_sums, open_hdus, suffix_of
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
    missing. Image HDUs ``(N, H, W)`` or ``(N, bands, H, W)`` with N the table's rows are columns of images ``(H, W,
    bands)``, memory-mapped too.

    Raises
    ------
    DataError
        Not FITS, no table in it, a failed checksum, fewer bytes than the headers announce (naming HDU and bytes), or
        two columns of one name.
    """
    with reading(path, "FITS"):
        with open_hdus(path) as hdus:
            check_lengths(hdus, path)
        check_sums(path)
        with open_hdus(path) as hdus:
            index = _first_table(hdus, path)
            known = {name: _column(hdus[index], name) for name in hdus[index].columns.names}
            num_rows = int(hdus[index].header["NAXIS2"])
            cubes = find_cubes(hdus, num_rows)
        twice = sorted(known.keys() & cubes.keys())
        if twice:
            raise DataError("an image HDU and a column of the table have one name", where=path, got=twice)
        known |= {name: cube.column for name, cube in cubes.items()}

    def chunks(rows: int = ROWS, columns: Sequence[str] | None = None) -> Iterator[dict[str, np.ndarray]]:
        names = select(known, columns, path)
        with reading(path, "FITS"), open_hdus(path, do_not_scale_image_data=True) as hdus:
            for start in range(0, num_rows, rows):
                stop = min(start + rows, num_rows)
                part = hdus[index].data[start:stop]  # slicing first converts only these rows
                yield {
                    name: read_cube(hdus, cubes[name], start, stop)
                    if name in cubes
                    else _values(part, hdus[index], name, known[name])
                    for name in names
                }

    return Source(partition_name(path, suffix_of(path)), path, "fits", known, num_rows, chunks)


def _first_table(hdus: HDUList, path: str) -> int:
    from astropy.io import fits

    for index, hdu in enumerate(hdus):
        if isinstance(hdu, fits.BinTableHDU | fits.TableHDU) and not isinstance(hdu, fits.CompImageHDU):
            return index
    found = [f"{hdu.name or 'unnamed'} ({type(hdu).__name__})" for hdu in hdus]
    fix = "store a table; of images, one beside them that has their rows, or a directory of one file an object"
    raise DataError("this FITS file holds no table", where=path, expected="a table HDU", got=found, fix=fix)


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

"""CSV (streamed) and ECSV (typed, read whole).

CSV has no types, and a guess from the first lines would break on the ten-millionth. A first pass over the
whole file therefore finds, for every column, the narrowest of int64, float64 and text that holds all its
values *exactly as written*: whole numbers with leading zeros stay text, and a column named like an identifier
is never made a float.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from astroad_jax.data import arrow
from astroad_jax.data.source import ID_NAMES, ROWS, Column, Source, memory, partition_name, reading, select
from astroad_jax.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.csv as pacsv

BLOCK = 1 << 22  # bytes parsed at a time; also the longest line


def open_csv(path: str) -> Source:
    """Open a CSV file with a header line; one pass over it finds types and row count.

    A file that starts like ECSV is read as such, whatever it is called.

    Raises
    ------
    DataError
        Rows with more or fewer fields than the header, text that is not UTF-8, repeated column names.
    """
    if _is_ecsv(path):
        return open_ecsv(path)
    suffix = ".csv.gz" if path.lower().endswith(".gz") else ".csv"
    with reading(path, "CSV"):
        names = _header(path)
        types, known, num_rows = _infer(path, names)

    def chunks(rows: int = ROWS, columns: Sequence[str] | None = None) -> Iterator[dict[str, np.ndarray]]:
        wanted = select(known, columns, path)
        with reading(path, "CSV"), _stream(path, types, wanted) as stream:
            for batch in stream:
                for start in range(0, batch.num_rows, rows):
                    part = batch.slice(start, rows)
                    yield {name: arrow.to_numpy(part.column(name), known[name], path) for name in wanted}

    return Source(partition_name(path, suffix), path, "csv", known, num_rows, chunks)


def open_ecsv(path: str) -> Source:
    """Read an ECSV file whole: types, masks, units and array columns as its header declares them.

    Raises
    ------
    DataError
        Broken header, rows that do not fit it.
    """
    from astropy.table import Column as AstropyColumn
    from astropy.table import Table

    with reading(path, "ECSV"):
        table = Table.read(path, format="ascii.ecsv")
        no_array = np.full(len(table), None)  # times, coordinates: there, but not a column to read
        arrays = {
            name: np.ma.asarray(table[name]) if isinstance(table[name], AstropyColumn) else no_array
            for name in table.colnames
        }
        suffix = ".csv" if path.lower().endswith(".csv") else ".ecsv"
        units = {name: str(table[name].unit or "") for name in table.colnames if hasattr(table[name], "unit")}
        return memory(partition_name(path, suffix), arrays, path=path, format="ecsv", units=units)


def _is_ecsv(path: str) -> bool:
    with open(path, "rb") as stream:
        return stream.read(7) == b"# %ECSV"


def _header(path: str) -> list[str]:
    """Column names.

    Raises
    ------
    DataError
        A name used twice, or an empty one.
    """
    with _stream(path, {}, None) as stream:
        names = list(stream.schema.names)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated or "" in names:
        fix = "write it without the index (index=False in pandas)" if names[0] == "" else "rename them"
        raise DataError("column names must be unique and not empty", where=path, got=repeated or names, fix=fix)
    return names


def _stream(
    path: str, types: dict[str, pa.DataType], names: list[str] | None, *, nulls: bool = False
) -> pacsv.CSVStreamingReader:
    import pyarrow.csv as pacsv

    convert = pacsv.ConvertOptions(column_types=types, include_columns=names, strings_can_be_null=nulls)
    return pacsv.open_csv(path, read_options=pacsv.ReadOptions(block_size=BLOCK), convert_options=convert)


def _infer(path: str, names: list[str]) -> tuple[dict[str, pa.DataType], dict[str, Column], int]:
    """Types, columns and number of rows, from a pass over the whole file as text."""
    import pyarrow as pa

    kinds = dict.fromkeys(names, "null")
    nulls = dict.fromkeys(names, False)
    num_rows = 0
    with _stream(path, dict.fromkeys(names, pa.string()), names, nulls=True) as stream:
        for batch in stream:
            num_rows += batch.num_rows
            for name in names:
                values = batch.column(name)
                nulls[name] |= values.null_count > 0
                kinds[name] = _widen(kinds[name], values, name.lower() in ID_NAMES)
    arrow_types = {"null": pa.float64(), "int": pa.int64(), "float": pa.float64(), "text": pa.string()}
    types = {name: arrow_types[kind] for name, kind in kinds.items()}
    known = {name: Column(arrow.scalar_dtype(types[name], nulls[name]), ()) for name in names}
    return types, known, num_rows


def _widen(kind: str, values: pa.Array, is_id: bool) -> str:
    """Narrowest kind that holds what was seen before and these values too."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = pc.utf8_trim_whitespace(values.drop_null())
    if kind == "text" or len(values) == 0:
        return kind
    if pc.any(pc.match_substring_regex(values, r"^[+-]?0[0-9]+$")).as_py():
        return "text"
    if kind in ("null", "int") and _castable(values, pa.int64()):
        return "int"
    return "float" if not is_id and _castable(values, pa.float64()) else "text"


def _castable(values: pa.Array, target: pa.DataType) -> bool:
    import pyarrow as pa

    try:
        values.cast(target)
    except pa.ArrowInvalid:
        return False
    return True

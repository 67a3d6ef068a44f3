"""Pandas frames: read as any table, and made of score tables; what the partitions of a distributed catalogue are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from astroad_jax.data import arrow
from astroad_jax.data.source import ROWS, UNREADABLE, Column, Source, native, partition_name, select

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def open_frame(frame: pd.DataFrame, path: str, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Source:
    """Wrap a frame that is in memory; its index is left out.

    Parameters
    ----------
    frame : DataFrame
        Columns of NumPy's types in any byte order, of pandas' nullable types, or of Arrow's; it may have no row.
    path : str
        As errors name it.
    shapes : dict of str to tuple of int, optional
        Shape of one row's value in columns of lists; of others it is that of the first value there is.

    Returns
    -------
    Source
        While streaming it raises `DataError` for arrays of another shape.
    """
    import pyarrow as pa

    arrays = {str(name): _arrow(frame[name]) for name in frame.columns}
    known = {name: _column(array, (shapes or {}).get(name, ())) for name, array in arrays.items()}
    table = pa.table({name: array for name, array in arrays.items() if array is not None})

    def chunks(rows: int = ROWS, columns: Sequence[str] | None = None) -> Iterator[dict[str, np.ndarray]]:
        names = select(known, columns, path)
        chosen = table.select(names)
        for batch in chosen.to_batches(max_chunksize=rows) or [_no_rows(chosen.schema)]:
            yield {name: arrow.to_numpy(batch.column(name), known[name], f"{path}, column {name!r}") for name in names}

    return Source(partition_name(path, ""), path, "memory", known, len(frame), chunks)


def to_frame(table: pa.Table, index: Any) -> pd.DataFrame:
    """Frame of an Arrow table, its columns in Arrow's types: a null stays one, an integer beside it an integer."""
    import pandas as pd

    frame = table.to_pandas(types_mapper=pd.ArrowDtype)
    frame.index = index
    return frame


def _arrow(series: pd.Series) -> pa.Array | pa.ChunkedArray | None:
    """A column in Arrow's types, None for values that have none."""
    import pyarrow as pa

    plain = isinstance(series.dtype, np.dtype) and series.dtype.kind != "O"
    try:  # Arrow refuses another byte order than the machine's
        return pa.array(native(series.to_numpy()) if plain else series, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):  # mixed objects, complex numbers
        return None


def _column(array: pa.Array | pa.ChunkedArray | None, shape: tuple[int, ...]) -> Column:
    if array is None:
        return Column(UNREADABLE, ())
    if not arrow.is_list(array.type):
        return Column(arrow.scalar_dtype(array.type, array.null_count > 0), ())
    return arrow.list_column(array.type, next((value for value in array if value.is_valid), None), shape)


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    return pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)

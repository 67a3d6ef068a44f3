"""Parquet files, streamed batch by batch with their page checksums verified."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from astroad_jax.data import arrow
from astroad_jax.data.source import ROWS, Column, Source, partition_name, reading, select

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


def open_parquet(path: str) -> Source:
    """Open a Parquet file; only its footer is read (and, for lists, the first rows).

    Raises
    ------
    DataError
        Damaged or cut file; while streaming also failed page checksums (where the writer stored them) and
        arrays that differ in length from row to row.
    """
    with reading(path, "Parquet"), _open(path) as file:
        known = {field.name: _column(file, field) for field in file.schema_arrow}
        num_rows = file.metadata.num_rows

    def chunks(rows: int = ROWS, columns: Sequence[str] | None = None) -> Iterator[dict[str, np.ndarray]]:
        names = select(known, columns, path)
        with reading(path, "Parquet"), _open(path) as file:
            for batch in file.iter_batches(batch_size=rows, columns=names):
                yield {name: arrow.to_numpy(batch.column(name), known[name], f"{path}, column {name!r}") for name in names}

    return Source(partition_name(path, ".parquet"), path, "parquet", known, num_rows, chunks)


def _open(path: str) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    # Without verification a flipped bit goes unseen, compressed or not. Pre-buffering would hold row groups.
    return pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)


def _column(file: pq.ParquetFile, field: pa.Field) -> Column:
    if arrow.is_list(field.type):
        return arrow.list_column(field.type, _first_value(file, field.name))
    exact = arrow.scalar_dtype(field.type, nulls=False)
    nulls = exact.kind in "biu" and field.nullable and _has_nulls(file, field.name)
    return Column(arrow.scalar_dtype(field.type, nulls), ())


def _has_nulls(file: pq.ParquetFile, name: str) -> bool:
    """Whether values are missing: from the footer, or by reading the column where the footer does not say."""
    paths = [file.schema.column(i).path for i in range(len(file.schema))]
    index = paths.index(name)
    groups = [file.metadata.row_group(i).column(index) for i in range(file.metadata.num_row_groups)]
    if all(group.is_stats_set and group.statistics.has_null_count for group in groups):
        return any(group.statistics.null_count for group in groups)
    return any(batch.column(0).null_count for batch in file.iter_batches(columns=[name]))


def _first_value(file: pq.ParquetFile, name: str) -> pa.Scalar | None:
    for batch in file.iter_batches(batch_size=1024, columns=[name]):
        values = batch.column(0).drop_null()
        if len(values):
            return values[0]
    return None

"""Arrow arrays to NumPy under the package's rules for missing values; what Parquet and CSV share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from astroad_jax.data.source import TEXT, UNREADABLE, Column, as_text, native
from astroad_jax.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


def scalar_dtype(kind: pa.DataType, nulls: bool) -> np.dtype:
    """NumPy type of an Arrow scalar type; `nulls` says whether values are missing."""
    import pyarrow.types as t

    if t.is_dictionary(kind):
        return scalar_dtype(kind.value_type, nulls)
    if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind):
        return TEXT
    if t.is_floating(kind):
        return np.dtype(kind.to_pandas_dtype())
    if t.is_decimal(kind) or t.is_null(kind):
        return np.dtype(np.float64)
    if t.is_integer(kind) or t.is_boolean(kind):
        return np.dtype(np.float64 if nulls else kind.to_pandas_dtype())
    return UNREADABLE


def is_list(kind: pa.DataType) -> bool:
    """Whether each value is an array (of fixed or of variable length)."""
    import pyarrow.types as t

    return t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind)


def list_column(kind: pa.DataType, first: pa.Scalar | None, shape: tuple[int, ...] = ()) -> Column:
    """`Column` of a list type, its shape taken from the first value that is there, unless it is known."""
    inner, axes = kind, 0
    while is_list(inner):
        inner, axes = inner.value_type, axes + 1
    dtype = scalar_dtype(inner, nulls=False)
    if dtype.kind in "biuf" and axes == len(shape):
        return Column(dtype, shape)
    if first is None or dtype.kind not in "biuf":
        return Column(UNREADABLE, ())
    try:
        return Column(dtype, np.shape(first.as_py()))
    except ValueError:  # ragged within the row: it has no shape
        return Column(UNREADABLE, ())


def to_numpy(array: pa.Array, column: Column, where: str) -> np.ndarray:
    """One Arrow array as the declared column.

    Raises
    ------
    DataError
        Lists of another length than the first one, or missing values where the file's statistics deny them.
    """
    import pyarrow.types as t

    if column.shape:
        return _lists(array, column, where)
    if t.is_dictionary(array.type):
        array = array.dictionary_decode()
    return _scalars(array, column.dtype, where)


def _scalars(array: pa.Array, dtype: np.dtype, where: str) -> np.ndarray:
    import pyarrow as pa

    if dtype == TEXT:
        return as_text(array.to_numpy(zero_copy_only=False))
    if dtype.kind in "biu" and array.null_count:
        raise DataError(
            "integers are missing where there should be none",
            where=where,
            expected="no missing value",
            got=f"{array.null_count} missing",
            fix="store the column as float, or fill the gaps",
        )
    if pa.types.is_boolean(array.type) and dtype.kind == "f":
        array = array.cast(pa.int8())
    if pa.types.is_decimal(array.type) or pa.types.is_null(array.type):
        array = array.cast(pa.float64())
    return native(array.to_numpy(zero_copy_only=False)).astype(dtype, copy=False)


def _lists(array: pa.Array, column: Column, where: str) -> np.ndarray:
    """Array of lists as (N, *shape); a missing list is a row of NaN."""
    import pyarrow.compute as pc

    valid = array.is_valid().to_numpy(zero_copy_only=False)
    flat = array.drop_null()
    for size in column.shape:
        lengths = pc.list_value_length(flat)
        if flat.null_count or pc.any(pc.not_equal(lengths, size)).as_py():
            found = sorted({length for length in lengths.to_pylist() if length is not None})
            raise DataError(
                "arrays of a column differ in length",
                where=where,
                expected=f"shape {column.shape} in every row, as in the first",
                got=f"lengths {found[:5]}",
                fix="resample or pad them to one length",
            )
        flat = flat.flatten()
    values = _scalars(flat, column.dtype, where).reshape(-1, *column.shape)
    if valid.all():
        return values
    if column.dtype.kind != "f":
        raise DataError("whole arrays of integers are missing", where=where, fix="store the column as float")
    out = np.full((len(array), *column.shape), np.nan, column.dtype)
    out[valid] = values
    return out

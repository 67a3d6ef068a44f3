"""Tables that verbs write for people: Parquet or CSV, whole or absent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from astroad_jax import files
from astroad_jax.errors import ConfigError

SUFFIXES = (".parquet", ".csv")


def check_format(path: Path, where: str) -> None:
    """Refuse a file of neither format, before the work.

    Raises
    ------
    ConfigError
    """
    if Path(path).suffix not in SUFFIXES:
        expected, fix = "a name that ends in .parquet or .csv", "name the file so"
        raise ConfigError("a table is written as Parquet or CSV", where=where, expected=expected, got=path, fix=fix)


def write(path: Path, columns: Mapping[str, np.ndarray], null: Mapping[str, np.ndarray] | None = None) -> None:
    """Write columns of one length in the format that the name tells.

    Parameters
    ----------
    null : dict of (N,) bool, optional
        Which values are null; of columns that are not named, NaN is.
    """
    import pyarrow as pa

    masks = {name: _missing(values) for name, values in columns.items()} | dict(null or {})
    table = pa.table({name: pa.array(values, mask=masks[name]) for name, values in columns.items()})
    with files.atomic(Path(path)) as tmp:
        if Path(path).suffix == ".csv":
            from pyarrow import csv

            csv.write_csv(table, tmp)
        else:
            import pyarrow.parquet as pq

            pq.write_table(table, tmp, compression="zstd", write_page_checksum=True)


def _missing(values: np.ndarray) -> np.ndarray:
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)

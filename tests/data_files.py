"""Small tables written in every format, and the ways files break."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NUM_ROWS = 50
BIG = 2**53 + 1  # the first integer that float64 cannot hold


def sky(num_rows: int = NUM_ROWS, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns every format can hold: large ids, padded text, positions, labels, floats with a NaN."""
    rng = np.random.default_rng(seed)
    period = rng.lognormal(size=num_rows)
    period[min(3, num_rows - 1)] = np.nan
    return {
        "object_id": BIG + 2 * np.arange(num_rows, dtype=np.int64),
        "code": np.array([f"{i:06d}" for i in range(num_rows)]),
        "ra": rng.uniform(0, 360, num_rows),
        "dec": rng.uniform(-90, 90, num_rows),
        "class": np.array([("RRL", "CEP", "EB")[i % 3] for i in range(num_rows)]),
        "period": period,
        "amplitude": rng.normal(size=num_rows).astype(np.float32).astype(np.float64),
        "num_obs": rng.integers(5, 200, num_rows),
    }


def write_parquet(path: Path, columns: dict[str, np.ndarray]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {name: pa.array(v.tolist(), _list_type(v)) if v.ndim > 1 else v for name, v in columns.items()}
    table = pa.table(arrays)
    pq.write_table(table, path, row_group_size=20, write_page_checksum=True)


def _list_type(values: np.ndarray) -> Any:
    """Nested Arrow lists, one level for every axis but the first."""
    import pyarrow as pa

    kind = pa.from_numpy_dtype(values.dtype)
    for _ in values.shape[1:]:
        kind = pa.list_(kind)
    return kind


def write_csv(path: Path, columns: dict[str, np.ndarray]) -> None:
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    lines = [",".join(columns), *(",".join("" if v != v else str(v) for v in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def write_ecsv(path: Path, columns: dict[str, np.ndarray]) -> None:
    from astropy.table import Table

    Table(columns).write(path, format="ascii.ecsv")


def write_fits(path: Path, columns: dict[str, np.ndarray]) -> None:
    from astropy.io import fits
    from astropy.table import Table

    table = fits.table_to_hdu(Table(columns))
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path, checksum=True)


def write_hdf5(path: Path, columns: dict[str, np.ndarray]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            data = np.char.encode(values, "utf-8") if values.dtype.kind == "U" else values
            file.create_dataset(name, data=data, fletcher32=len(values) > 0)


def write_npz(path: Path, columns: dict[str, np.ndarray]) -> None:
    np.savez_compressed(path, **columns)


WRITERS: dict[str, tuple[str, Callable[[Path, dict[str, np.ndarray]], None]]] = {
    "parquet": (".parquet", write_parquet),
    "csv": (".csv", write_csv),
    "ecsv": (".ecsv", write_ecsv),
    "fits": (".fits", write_fits),
    "fits.gz": (".fits.gz", write_fits),
    "hdf5": (".h5", write_hdf5),
    "npz": (".npz", write_npz),
}
FORMATS = tuple(WRITERS)


def write(folder: Path, kind: str, columns: dict[str, np.ndarray], name: str = "sky") -> Path:
    """Write `columns` in a format and return the path."""
    suffix, writer = WRITERS[kind]
    path = folder / f"{name}{suffix}"
    writer(path, columns)
    return path


def cut(path: Path, share: float = 0.6) -> None:
    """Leave only the first part of a file, ending in the middle of a line of text."""
    data = path.read_bytes()
    end = int(len(data) * share)
    if path.suffix in (".csv", ".ecsv"):
        end = data.rindex(b"\n", 0, end) + 8
    path.write_bytes(data[:end])


def garble(path: Path, seed: int = 0) -> None:
    """Overwrite a long stretch in the middle with noise."""
    data = bytearray(path.read_bytes())
    noise = np.random.default_rng(seed).integers(128, 256, len(data) // 3, dtype=np.uint8).tobytes()
    start = len(data) // 3
    data[start : start + len(noise)] = noise
    path.write_bytes(bytes(data))

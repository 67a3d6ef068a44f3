"""TensorFlow Datasets that are prepared on disk: ``tfds:mnist``, ``tfds:mnist/test``.

A prepared data set describes itself, so neither its building code nor the network is touched unless a
download is asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from astroad_jax.data.source import (
    ROWS,
    TEXT,
    UNREADABLE,
    Column,
    Source,
    as_text,
    native,
    partition_name,
    reading,
    select,
)
from astroad_jax.data.tf import tensorflow
from astroad_jax.errors import DataError, did_you_mean

PREFIX = "tfds:"


def open_tfds(path: str, *, data_dir: str = "", download: bool = False) -> Source:
    """Open a prepared data set; images become float32 columns, the example's key ``object_id``.

    Parameters
    ----------
    path : str
        ``tfds:name[/config][:version][/split]``. Without a split all splits follow one another in
        alphabetical order. A text column ``split`` names each row's.
    data_dir : str
        Where data sets are kept; empty: the environment variable ``TFDS_DATA_DIR``, else
        ``~/tensorflow_datasets``.
    download : bool
        Prepare the data set first, from the network.

    Raises
    ------
    DataError
        Not prepared (with the command that prepares it), no such split, damaged records (each has a CRC).
    """
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets")
    request = path.removeprefix(PREFIX)
    directory, split = _locate(root, request, download)
    tensorflow()
    import tensorflow_datasets as tfds

    with reading(str(directory), "TFDS"):
        builder = tfds.builder_from_directory(str(directory))
        sizes = {name: info.num_examples for name, info in sorted(builder.info.splits.items())}
        known = _columns(builder.info.features)
    if split and split not in sizes:
        raise DataError("no such split", where=path, expected=did_you_mean(split, sizes), got=split)
    sizes = {split: sizes[split]} if split else sizes

    def chunks(rows: int = ROWS, columns: Sequence[str] | None = None) -> Iterator[dict[str, np.ndarray]]:
        names = select(known, columns, path)
        with reading(str(directory), "TFDS"):
            for name, size in sizes.items():
                yield from _read(builder, name, size, known, names, rows)

    name = partition_name(request.replace("/", "-"), "")
    return Source(name, str(directory), "tfds", known, sum(sizes.values()), chunks)


def _locate(root: Path, request: str, download: bool) -> tuple[Path, str]:
    """Directory of the prepared version, and the split asked for (or "")."""
    base, _, last = request.rpartition("/")
    candidates = [(request, "")] + ([(base, last)] if base else [])
    for name, split in candidates:
        directory = _prepared(root, name)
        if directory:
            return directory, split
    name, split = candidates[-1]
    if download:
        return _prepare(root, name), split
    command = f"import tensorflow_datasets as t; t.load('{name}', data_dir='{root}')"
    raise DataError(
        "this data set is not prepared on disk",
        where=f"{PREFIX}{request}",
        expected=f"{root / name} with dataset_info.json in it or in a version below",
        got="nothing there",
        fix=f'set TFDS_DATA_DIR, or prepare it: python -c "{command}"',
    )


def _prepared(root: Path, name: str) -> Path | None:
    """Newest prepared version of ``name[/config][:version]``."""
    name, _, version = name.partition(":")
    found = [p.parent for depth in ("*", "*/*") for p in (root / name).glob(f"{depth}/dataset_info.json")]
    found = [p for p in found if not version or p.name == version]
    return max(found, key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)], default=None)


def _prepare(root: Path, name: str) -> Path:
    tensorflow()
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=str(root))
        builder.download_and_prepare()
    except ImportError:
        raise
    except Exception as error:  # network, disk, checksums, an unknown name: each library its own exceptions
        raise DataError(
            "this data set could not be prepared",
            where=f"{PREFIX}{name}",
            expected=f"a download into {root}",
            got=f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}",
            fix="check the name, the network and the space on disk, and try again",
        ) from error
    return Path(builder.data_dir)


def _columns(features: Any) -> dict[str, Column]:
    """Columns of the top-level features, with the key of each example and its split."""
    known = {name: _column(feature) for name, feature in features.items()}
    return {"object_id": Column(TEXT, ()), **known, "split": Column(TEXT, ())}


def _column(feature: Any) -> Column:
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Image) and None not in feature.shape:
        return Column(np.dtype(np.float32), tuple(feature.shape))
    if not isinstance(feature, tfds.features.Tensor | tfds.features.Scalar | tfds.features.ClassLabel):
        return Column(UNREADABLE, ())
    dtype = np.dtype(feature.np_dtype)
    if None in feature.shape:
        return Column(UNREADABLE, ())
    return Column(TEXT if dtype.kind in "OSU" else dtype, tuple(feature.shape))


def _read(
    builder: Any, split: str, size: int, known: dict[str, Column], names: list[str], rows: int
) -> Iterator[dict[str, np.ndarray]]:
    """Stream one split in the order it was written."""
    import tensorflow_datasets as tfds

    config = tfds.ReadConfig(interleave_cycle_length=1, add_tfds_id=True, try_autocache=False)
    dataset = builder.as_dataset(split=split, shuffle_files=False, read_config=config)
    wanted = {("tfds_id" if name == "object_id" and name not in builder.info.features else name) for name in names}
    dataset = dataset.map(lambda row: {key: row[key] for key in wanted - {"split"}} | {"": 0}).batch(rows)
    seen = 0
    for batch in dataset.as_numpy_iterator():
        count = len(batch[""])
        seen += count
        batch |= {"split": np.full(count, split), "object_id": batch.get("object_id", batch.get("tfds_id"))}
        yield {name: _values(batch[name], known[name]) for name in names}
    if seen != size:
        raise ValueError(f"split {split!r} has {seen} examples, its description says {size}")


def _values(values: np.ndarray, column: Column) -> np.ndarray:
    return as_text(values) if column.dtype == TEXT else native(values).astype(column.dtype, copy=False)

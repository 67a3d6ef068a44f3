"""NumPy ``.npz`` archives, streamed member by member without ever unpickling.

Four layouts are understood:

* *columns*: arrays of one length under the columns' names;
* *matrix*: ``x`` or ``X`` (N, D), with optional ``feature_names`` (D,), ``y``, and ``id``/``ids``/``oid``.
  The matrix becomes D scalar columns (``f0`` ... where no names are given), ``y`` becomes ``label``, the ids
  ``object_id``; other arrays of N rows keep their names. An ``x`` with more axes (images) stays one column;
* *JPEG*: ``jpeg``, the bytes of N files end to end, and ``offsets`` (N + 1,), where each begins: a float32 column
  ``image``, decoded chunk by chunk, with ``y`` and ids as for a matrix;
* *split*: the last two with suffixes (``x_train``, ``y_train``, ``x_test``, ...): the parts follow one another,
  and a text column ``split`` says which is which.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

import numpy as np

from astroad_jax.data import jpeg
from astroad_jax.data.images import Album, Load
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
    shared_rows,
)
from astroad_jax.errors import DataError

SPLITS = ("train", "valid", "val", "test")
MATRIX = ("x", "X", jpeg.BYTES)
RENAMED = {"y": "label", "id": "object_id", "ids": "object_id", "oid": "object_id"}
NAMES = "feature_names"


Packs = dict[str, np.ndarray]  # member of JPEG bytes -> its offsets


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


class _Part(NamedTuple):
    """One run of rows: column name -> (member, column of the matrix or None)."""

    split: str
    num_rows: int
    places: dict[str, tuple[str, int | None]]


def open_npz(path: str) -> Source:
    """Open an ``.npz`` archive; only the members' headers are read.

    Raises
    ------
    DataError
        Damaged archive (the CRC of every member is checked when its last row is read), a ``y`` or id array
        whose length differs from the matrix, repeated feature names, JPEG bytes of which nothing can be decoded.
    """
    album = Album(path)
    with reading(path, "NPZ"):
        headers = headers_of(path)
        packs = _packs(headers, path)
        headers = _unpacked(headers, packs, album, path)
        parts = _parts(headers, path)
        known = {name: _column(headers[member], j) for name, (member, j) in parts[0].places.items()}
        if parts[0].split:
            known["split"] = Column(TEXT, ())
        _check_parts(parts, headers, known, path)

    def chunks(rows: int = ROWS, columns: Sequence[str] | None = None) -> Iterator[dict[str, np.ndarray]]:
        names = select(known, columns, path)
        with reading(path, "NPZ"), zipfile.ZipFile(path) as archive:
            for part in parts:
                yield from _read(archive, part, names, rows, packs, album)

    num_rows = sum(part.num_rows for part in parts)
    return Source(partition_name(path, ".npz"), path, "npz", known, num_rows, chunks)


def _packs(headers: dict[str, _Header], path: str) -> Packs:
    """Member of JPEG bytes -> its offsets."""
    found = {}
    for member, header in headers.items():
        if member.startswith(jpeg.BYTES) and jpeg.offsets_of(member) in headers and header.dtype == np.uint8:
            with np.load(path, allow_pickle=False) as archive:
                offsets = archive[jpeg.offsets_of(member)]
            found[member] = jpeg.check_offsets(offsets, header.shape[0], f"{path}, {jpeg.offsets_of(member)!r}")
    return found


def _unpacked(headers: dict[str, _Header], packs: Packs, album: Album, path: str) -> dict[str, _Header]:
    """Headers as if JPEG bytes and their offsets were the array of images that they make."""
    shape = (0, 0, 0)
    if any(len(offsets) > 1 for offsets in packs.values()):
        with zipfile.ZipFile(path) as archive:
            pictures = (image for member in packs for images in _pictures(archive, member, packs, 1) for image in images)
            shape = album.open(pictures).shape
    made = {member: _Header((len(offsets) - 1, *shape), False, np.dtype(np.float32)) for member, offsets in packs.items()}
    hidden = {jpeg.offsets_of(member) for member in packs}
    return {name: made.get(name, header) for name, header in headers.items() if name not in hidden}


def _pictures(archive: zipfile.ZipFile, member: str, packs: Packs, rows: int) -> Iterator[list[tuple[str, Load]]]:
    with archive.open(f"{member}.npy") as stream:
        _header(stream)
        yield from jpeg.read_images(stream, packs[member], rows, member)


def _header(stream: IO[bytes]) -> _Header:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return _Header(*np.lib.format.read_array_header_1_0(stream))
    if version == (2, 0):
        return _Header(*np.lib.format.read_array_header_2_0(stream))
    raise ValueError(f"array format version {version} is not supported")


def headers_of(path: str) -> dict[str, _Header]:
    """Shape, order and type of every member, without reading their values."""
    with zipfile.ZipFile(path) as archive:
        headers = {}
        for member in archive.namelist():
            with archive.open(member) as stream:
                headers[member.removesuffix(".npy")] = _header(stream)
    return headers


def _parts(headers: dict[str, _Header], path: str) -> list[_Part]:
    if _matrix(headers, ""):
        return [_matrix_part(headers, "", path)]
    splits = [split for split in SPLITS if _matrix(headers, f"_{split}")]
    if splits:
        return [_matrix_part(headers, split, path) for split in splits]
    num_rows = shared_rows({name: header.shape for name, header in headers.items()})
    names = [name for name, header in headers.items() if header.shape and header.shape[0] == num_rows]
    return [_Part("", num_rows, {name: (name, None) for name in names})]


def _matrix(headers: dict[str, _Header], suffix: str) -> str:
    """Name of the matrix, or ``""``; bytes that have no offsets are no images."""
    found = [key + suffix for key in MATRIX if key + suffix in headers]
    return next((name for name in found if not name.startswith(jpeg.BYTES) or len(headers[name].shape) > 1), "")


def _matrix_part(headers: dict[str, _Header], split: str, path: str) -> _Part:
    """Columns of one matrix and of the arrays that go with it."""
    suffix = f"_{split}" if split else ""
    matrix = _matrix(headers, suffix)
    shape = headers[matrix].shape
    num_rows = shape[0] if shape else 0
    places = _features(matrix, headers, path)
    for member, header in headers.items():
        name = member.removesuffix(suffix)
        if member in (matrix, NAMES) or not member.endswith(suffix) or not header.shape:
            continue
        if header.shape[0] != num_rows and name not in RENAMED:
            continue  # class names, a wavelength grid, another matrix: not a column of this table
        if header.shape[0] != num_rows:
            raise DataError(
                "arrays that belong together differ in length",
                where=f"{path}, {member!r}",
                expected=f"{num_rows} rows, as in {matrix!r}",
                got=f"{header.shape[0]} rows",
            )
        name = RENAMED.get(name, name)
        if name in places:
            raise DataError("two arrays want to be the same column", where=path, got=name, fix="rename one of them")
        places[name] = (member, None)
    return _Part(split, num_rows, places)


def _features(matrix: str, headers: dict[str, _Header], path: str) -> dict[str, tuple[str, int | None]]:
    shape = headers[matrix].shape
    if len(shape) != 2:
        return {"image" if matrix.startswith(jpeg.BYTES) else "x": (matrix, None)}
    names = [f"f{j}" for j in range(shape[1])]
    if NAMES in headers:
        with np.load(path, allow_pickle=False) as archive:
            names = as_text(archive[NAMES]).tolist()
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if len(names) != shape[1] or repeated:
        raise DataError(
            "feature names do not fit the matrix",
            where=f"{path}, {NAMES!r}",
            expected=f"{shape[1]} different names",
            got=f"{len(names)} names" + (f", repeated: {repeated[:5]}" if repeated else ""),
        )
    return {name: (matrix, j) for j, name in enumerate(names)}


def _column(header: _Header, j: int | None) -> Column:
    shape = header.shape[1:] if j is None else ()
    if header.dtype.kind in "SU":
        return Column(TEXT, shape)
    return Column(header.dtype.newbyteorder("=") if header.dtype.kind in "biufc" else UNREADABLE, shape)


def _check_parts(parts: list[_Part], headers: dict[str, _Header], known: dict[str, Column], path: str) -> None:
    """All parts of a split archive must have the same columns."""
    for part in parts[1:]:
        found = {name: _column(headers[member], j) for name, (member, j) in part.places.items()}
        expected = {name: column for name, column in known.items() if name != "split"}
        different = sorted(set(found.items()) ^ set(expected.items()), key=str)
        if different:
            raise DataError(
                "the parts of this archive have different columns",
                where=path,
                expected=f"in {part.split!r} the same names, types and shapes as in {parts[0].split!r}",
                got=f"{len(different)} differences, first: {different[0]}",
            )


def _read(
    archive: zipfile.ZipFile, part: _Part, names: list[str], rows: int, packs: Packs, album: Album
) -> Iterator[dict[str, np.ndarray]]:
    """Stream one part: its members advance in step."""
    members = list(dict.fromkeys(part.places[name][0] for name in names if name in part.places))
    streams = {
        member: map(album.read, _pictures(archive, member, packs, rows))
        if member in packs
        else _member(archive, member, rows)
        for member in members
    }
    for start in range(0, part.num_rows, rows):
        blocks = {member: next(stream) for member, stream in streams.items()}
        count = min(rows, part.num_rows - start)
        yield {name: _pick(blocks, part, name, count) for name in names}
    for stream in streams.values():
        next(stream, None)  # to the very end, where the CRC is checked


def _pick(blocks: dict[str, np.ndarray], part: _Part, name: str, count: int) -> np.ndarray:
    if name not in part.places:
        return np.full(count, part.split)
    member, j = part.places[name]
    block = blocks[member] if j is None else blocks[member][:, j]
    return as_text(block) if block.dtype.kind in "SU" else native(block)


def _member(archive: zipfile.ZipFile, member: str, rows: int) -> Iterator[np.ndarray]:
    """Blocks of rows of one array; Fortran order has no rows to stream and is read whole."""
    file = f"{member}.npy" if f"{member}.npy" in archive.namelist() else member
    with archive.open(file) as stream:
        shape, fortran, dtype = _header(stream)
        if fortran and len(shape) > 1:
            raw = stream.read()
            whole = np.frombuffer(raw, dtype).reshape(shape, order="F")
            for start in range(0, shape[0], rows):
                yield whole[start : start + rows]
            return
        row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        for start in range(0, shape[0], rows):
            count = min(rows, shape[0] - start)
            raw = stream.read(count * row_bytes)
            yield np.frombuffer(raw, dtype, count * row_bytes // dtype.itemsize).reshape(count, *shape[1:])
        if stream.read(1):
            raise ValueError(f"{member} has more bytes than its header announces")

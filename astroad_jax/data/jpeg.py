"""JPEG files end to end in one array of bytes, with the offsets at which each begins."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import IO

import numpy as np

from astroad_jax.data.images import Load, decode
from astroad_jax.errors import DataError

BYTES, OFFSETS = "jpeg", "offsets"


def offsets_of(member: str) -> str:
    """Name of the offsets that belong to an array of bytes: ``jpeg_train`` has ``offsets_train``."""
    return OFFSETS + member.removeprefix(BYTES)


def check_offsets(offsets: np.ndarray, length: int, where: str) -> np.ndarray:
    """Return them as int64.

    Raises
    ------
    DataError
        They do not cut `length` bytes into files.
    """
    if offsets.ndim == 1 and len(offsets) and offsets.dtype.kind in "iu":
        offsets = offsets.astype(np.int64)
        if offsets[0] >= 0 and offsets[-1] <= length and (np.diff(offsets) >= 0).all():
            return offsets
    raise DataError(
        "these offsets do not cut the JPEG bytes into files",
        where=where,
        expected=f"N + 1 whole numbers, none smaller than the one before, from 0 to {length}",
        got=f"{offsets.dtype} of shape {offsets.shape}",
        fix="store where each file begins, and at last where the last one ends",
    )


def read_images(stream: IO[bytes], offsets: np.ndarray, rows: int, member: str) -> Iterator[list[tuple[str, Load]]]:
    """Lists of at most `rows` named images, not yet decoded; `stream` is read to its very end, past the last of them."""
    _take(stream, int(offsets[0]))
    for start in range(0, len(offsets) - 1, rows):
        cuts = offsets[start : start + rows + 1]
        raw, cuts = _take(stream, int(cuts[-1] - cuts[0])), (cuts - cuts[0]).tolist()
        spans = enumerate(zip(cuts[:-1], cuts[1:]), start)
        yield [(f"{number} of {member!r}", partial(decode, raw[a:b])) for number, (a, b) in spans]
    while stream.read(2**20):
        pass


def _take(stream: IO[bytes], count: int) -> bytes:
    raw = stream.read(count)
    if len(raw) < count:
        raise ValueError(f"{count} bytes expected, {len(raw)} found")
    return raw

"""Spectra kept one object a file: a file, or a directory of them.

What a survey's file holds is told by two functions of its path, `head` and `spectrum`. Headers are read when the source
is opened, spectra when they are asked for. A file that cannot be read is a flagged object and a warning.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from astroad_jax.config import Spectra
from astroad_jax.data.hdus import suffix_of
from astroad_jax.data.source import Source, reading
from astroad_jax.data.spectra import Raw, Survey, gridded
from astroad_jax.errors import DataError
from astroad_jax.preprocess import spectra as grids

PREFIX = "spec-"  # of SDSS and LAMOST alike
NOTHING = Raw(np.full((1, 2), np.nan), np.full((1, 2), np.nan), np.zeros((1, 2)))  # of what cannot be read
log = logging.getLogger(__name__)


class Head(NamedTuple):
    """What a file says of its object; NaN and ``""`` where it does not."""

    id: int | str
    ra: float
    dec: float
    z: float
    spectype: str


class Kind(NamedTuple):
    """A survey's files."""

    format: str
    head: Callable[[str], Head]
    spectrum: Callable[[str], Raw]  # of one object: (1, P)


def open_single(path: str, files: Sequence[str], kind: Kind, settings: Spectra) -> Source:
    """Open files of one object each; `path` is what the user called them.

    Raises
    ------
    DataError
        No file, or none that can be read.
    """
    heads, troubles = _heads(files, kind)
    if not any(heads):
        raise DataError(
            f"no {kind.format} spectrum here can be read",
            where=path,
            expected=f"FITS files of {kind.format} spectra, one object each",
            got=next(iter(troubles.values()), "no FITS file"),
            fix="fetch them again, or leave them out",
        )
    for file, reason in troubles.items():
        log.warning("%s cannot be read, and is flagged: %s", file, reason)
    flags = np.array([0 if head else grids.UNREADABLE for head in heads], np.uint32)

    def spectra(rows: int) -> Iterator[Raw]:
        del rows  # each file has its own wavelengths
        return (_spectrum(file, kind) if head else NOTHING for file, head in zip(files, heads))

    return gridded(Survey(path, kind.format, _table(files, heads), flags, spectra), settings)


def spectrum_files(folder: str, names: Sequence[str]) -> list[str]:
    """FITS files among those below a directory: those called ``spec-*`` where any is."""
    every = [os.path.join(folder, name) for name in names if suffix_of(name)]
    return [file for file in every if os.path.basename(file).startswith(PREFIX)] or every


def _heads(paths: Sequence[str], kind: Kind) -> tuple[list[Head | None], dict[str, str]]:
    """Every file's head, None for those that cannot be read, with the reasons."""
    heads: list[Head | None] = []
    troubles = {}
    for file in paths:
        try:
            with reading(file, f"a {kind.format} spectrum"):
                heads.append(kind.head(file))
        except DataError as error:
            heads.append(None)
            troubles[file] = str(error)
    return heads, troubles


def _spectrum(file: str, kind: Kind) -> Raw:
    with reading(file, f"a {kind.format} spectrum"):
        raw = kind.spectrum(file)
        return Raw(*(np.atleast_2d(values) for values in raw))


def _table(paths: Sequence[str], heads: Sequence[Head | None]) -> dict[str, np.ndarray]:
    """Columns of the heads; what cannot be read has its file's name as id, or -1, -2, ... where the others have numbers."""
    numbered = all(isinstance(head.id, int) for head in heads if head)
    bad = [row for row, head in enumerate(heads) if not head]
    lost = {row: -1 - place if numbered else plain_name(paths[row]) for place, row in enumerate(bad)}
    ids = [head.id if head else lost[row] for row, head in enumerate(heads)]
    empty = Head("", np.nan, np.nan, np.nan, "")
    columns = {name: np.array([getattr(head or empty, name) for head in heads]) for name in Head._fields[1:]}
    placed = {name: values for name, values in columns.items() if name not in ("ra", "dec") or np.isfinite(values).any()}
    return {"object_id": np.array(ids, np.int64) if numbered else np.array([str(value) for value in ids])} | placed


def plain_name(file: str) -> str:
    """A file's name without directory, prefix and suffix."""
    name = os.path.basename(file)
    return name[: len(name) - len(suffix_of(name))].removeprefix(PREFIX)


def number(value: object) -> float:
    """A header's number, NaN where it is none."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return np.nan

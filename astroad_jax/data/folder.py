"""Directories of images, one object a file: JPEG, PNG and TIFF pictures, or FITS cutouts.

::

    DIR/a.jpg  DIR/b.jpg               no labels
    DIR/ring/a.jpg  DIR/merger/b.jpg   the directories name the classes

The identifier is the path below DIR, unless every readable FITS header names one. All images must have the shape of the
first that can be read, or be brought to one size on reading; bands that FITS headers name are put in one order.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from astroad_jax.data import cutouts
from astroad_jax.data.images import LOOKED_AT, Album, Load, decode
from astroad_jax.data.source import ROWS, TEXT, Column, Source, partition_name, select
from astroad_jax.errors import DataError

PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
CUTOUTS = (".fits", ".fit", ".fits.gz", ".fit.gz", ".fits.fz")
DEEPEST = 2  # directories below the one given in which files are looked for; images may lie in the first of them


def open_folder(path: str, *, size: int = 0) -> Source:
    """Open a directory; its images are read when they are asked for, of FITS files the headers at once.

    Columns are ``object_id`` (text), ``label`` where there are class directories, ``ra`` and ``dec`` where every
    readable FITS header has them, and ``image`` (float32). What cannot be read is an image of NaN and a warning.

    Parameters
    ----------
    size : int
        Side in pixels that every image is brought to, averaging where it shrinks, bicubic where it grows; 0: as it is.

    Raises
    ------
    DataError
        No images, pictures and FITS files together, images beside as well as in class directories or too deep, none
        that can be read.
    """
    names, suffixes = _images(path)
    album, decoder = Album(path, size), _read_picture
    if suffixes == CUTOUTS:
        bands = cutouts.usual_bands([os.path.join(path, name) for name in names[:LOOKED_AT]])
        decoder = partial(cutouts.read_cutout, bands=bands)
    loads: list[tuple[str, Load]] = [(name, partial(_read, decoder, os.path.join(path, name))) for name in names]
    held = _described(path, names, suffixes)
    known = {name: Column(TEXT if array.dtype.kind == "U" else array.dtype, ()) for name, array in held.items()}
    known["image"] = album.open(loads)

    def chunks(rows: int = ROWS, columns: Sequence[str] | None = None) -> Iterator[dict[str, np.ndarray]]:
        wanted = select(known, columns, path)
        for start in range(0, len(names), rows):
            part = slice(start, start + rows)
            yield {name: album.read(loads[part]) if name == "image" else held[name][part] for name in wanted}

    return Source(folder_name(path), path, "folder", known, len(names), chunks)


def folder_name(path: str) -> str:
    """Partition name of a directory, however it is spelt."""
    return partition_name(str(Path(path).resolve()), "")


def files_below(path: str | Path) -> list[str]:
    """Files in a directory and in those below it, as far down as images are looked for; hidden ones apart, sorted."""
    found = []
    for base, directories, names in os.walk(path, followlinks=True):
        below = os.path.relpath(base, path)
        depth = 0 if below == "." else below.count(os.sep) + 1
        directories[:] = [name for name in directories if not name.startswith(".")] if depth < DEEPEST else []
        found += [os.path.normpath(os.path.join(below, name)) for name in names if not name.startswith(".")]
    return sorted(found)


def is_pattern(path: str) -> bool:
    """Whether a path is no file but a pattern for the names of several."""
    return glob.has_magic(path) and not os.path.exists(path)


def matches(pattern: str) -> list[str]:
    """Files that a pattern names, sorted (``**`` means any directories)."""
    return sorted(file for file in glob.glob(pattern, recursive=True) if os.path.isfile(file))


def _images(path: str) -> tuple[list[str], tuple[str, ...]]:
    """Names of the image files, and the suffixes of their kind."""
    every = files_below(path)
    names, kinds = [], set()
    for kind in (PICTURES, CUTOUTS):
        found = [name for name in every if name.lower().endswith(kind)]
        kinds |= {kind} if found else set()
        names += found
    depths = {name.count(os.sep) for name in names}
    if len(kinds) == 1 and len(depths) == 1 and max(depths) < DEEPEST:
        _check_text(names, path)
        return names, kinds.pop()
    raise DataError(
        "this directory is no set of images",
        where=path,
        expected=f"image files ({' '.join(PICTURES)}) or FITS files, not both; all in it, or all in class directories in it",
        got=_found(every, names, kinds, depths),
        fix="of other files, name each one; of images, name the directory that holds them or their class directories",
    )


def _found(every: list[str], names: list[str], kinds: set[tuple[str, ...]], depths: set[int]) -> str:
    if not names:
        return f"{len(every)} files, no image among them"
    if len(kinds) > 1:
        return "pictures and FITS files"
    first = {depth: next(name for name in names if name.count(os.sep) == depth) for depth in sorted(depths)}
    return f"{len(names)} images at different depths, or too deep: {', '.join(first.values())}"


def _check_text(names: list[str], path: str) -> None:
    """File names are identifiers: they must be text."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            fix = "rename it"
            raise DataError("a file name is not UTF-8", where=path, got=ascii(name), fix=fix) from error


def _read_picture(path: str) -> np.ndarray:
    return decode(Path(path).read_bytes())


def _read(decoder: Callable[[str], np.ndarray], path: str) -> np.ndarray:
    try:
        return decoder(path)
    except FileNotFoundError:
        if os.path.islink(path):
            raise ValueError("a link to a file that is not there") from None
        raise


def _described(path: str, names: list[str], suffixes: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Every column but the images."""
    posix = [name.replace(os.sep, "/") for name in names]
    held = {"object_id": np.array(posix)}
    if "/" in posix[0]:
        held["label"] = np.array([name.partition("/")[0] for name in posix])
    if suffixes == CUTOUTS:
        held |= _from_headers(path, names, posix)
    return held


def _from_headers(path: str, names: list[str], posix: list[str]) -> dict[str, np.ndarray]:
    """Identifiers and positions, each where all headers that can be read have them."""
    notes = [_note(os.path.join(path, name)) for name in names]
    read = [note for note in notes if note is not None]
    held = {}
    if read and all(note.id is not None for note in read):
        held["object_id"] = np.array([name if note is None else note.id for note, name in zip(notes, posix)])
    if read and all(note.ra is not None for note in read):
        for axis in ("ra", "dec"):
            held[axis] = np.array([np.nan if note is None else getattr(note, axis) for note in notes], np.float64)
    return held


def _note(path: str) -> cutouts.Note | None:
    """What the headers say; None where they cannot be read, which is said when the image is asked for."""
    try:
        return cutouts.read_note(path)
    except ImportError:
        raise
    except Exception:  # astropy has many ways to give up
        return None

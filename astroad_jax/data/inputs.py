"""What there is to score behind one path: a file is one input, a directory, a pattern or a HATS catalogue may be thousands.

HATS, the layout of LSDB's catalogues: ``hats.properties`` (``properties`` before version 0.4) beside
``dataset/Norder=k/Dir=d/Npix=n.parquet``, or a directory ``Npix=n`` with Parquet files in it; a collection names its
catalogue in ``collection.properties``. Margins, indices and ``_metadata`` hold no objects of their own.
"""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import NamedTuple

from astroad_jax.data import surveys
from astroad_jax.data.folder import is_pattern, matches
from astroad_jax.data.source import partition_name
from astroad_jax.errors import DataError

PROPERTIES = ("hats.properties", "properties")
COLLECTION = "collection.properties"
PRIMARY = "hats_primary_table_url"


class Input(NamedTuple):
    """One input: the name of its partition, and its path."""

    name: str
    path: str


def spread(path: str, suffixes: tuple[str, ...], *, images: bool = False) -> list[Input]:
    """The inputs behind a path that is a directory, a pattern or a HATS catalogue; none where it is one input itself.

    Their names are their paths below what was given, so that they stay what they are when others come or go.

    Parameters
    ----------
    suffixes : tuple of str
        Of the files that are tables.
    images : bool
        Whether objects are images: a directory of image files is one input then.

    Raises
    ------
    DataError
        A directory or pattern without a table, a collection that names no catalogue.
    """
    if path.startswith("tfds:") or not (os.path.isdir(path) or is_pattern(path)):
        return []
    base = hats_dataset(path) if os.path.isdir(path) else ""
    if base:
        return _named(_tables(base, (".parquet",)), base, (".parquet",))
    held = surveys.spectra_format(path)
    if held in surveys.ONE_OBJECT or (images and not held and os.path.isdir(path)):
        return []
    found = surveys.files_of(path, held) if held else _tables(path, suffixes)
    if not found:
        expected = f"files that end in {' '.join(suffixes)}"
        raise DataError("no table here", where=path, expected=expected, got="none", fix="check the path")
    return _named(found, path if os.path.isdir(path) else _fixed_part(path), suffixes)


def hats_dataset(path: str) -> str:
    """Directory of a HATS catalogue's Parquet files; ``""`` where this is none.

    Raises
    ------
    DataError
        A collection whose catalogue is not there.
    """
    folder = Path(path)
    if (folder / COLLECTION).is_file():
        name = _property(folder / COLLECTION, PRIMARY)
        inner = folder / name if name and not Path(name).is_absolute() and ".." not in Path(name).parts else None
        if inner is None or not inner.is_dir():
            fix = "name the directory of the catalogue itself"
            raise DataError(
                "this collection names no catalogue here", where=path, expected=PRIMARY, got=name or "-", fix=fix
            )
        folder = inner
    is_catalogue = any((folder / name).is_file() for name in PROPERTIES) and (folder / "dataset").is_dir()
    return str(folder / "dataset") if is_catalogue else ""


def _property(path: Path, key: str) -> str:
    pairs = (line.partition("=") for line in path.read_text(encoding="utf-8").splitlines())
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")


def _tables(path: str, suffixes: tuple[str, ...]) -> list[str]:
    """Tables in a directory and below it, or of a pattern, sorted; hidden ones and those of metadata apart."""
    if is_pattern(path):
        return [file for file in matches(path) if file.lower().endswith(suffixes)]
    found = []
    for base, directories, names in os.walk(path, followlinks=True):
        directories[:] = [name for name in directories if not name.startswith(".")]
        found += [os.path.join(base, name) for name in names if name.lower().endswith(suffixes) and name[0] not in "._"]
    return sorted(found)


def _fixed_part(pattern: str) -> str:
    """Directory that all matches of a pattern lie below."""
    parts = []
    for part in Path(pattern).parent.parts:
        if glob.has_magic(part):
            break
        parts.append(part)
    return str(Path(*parts)) if parts else "."


def _named(files: list[str], base: str, suffixes: tuple[str, ...]) -> list[Input]:
    longest = sorted(suffixes, key=len, reverse=True)
    found = []
    for file in files:
        below = os.path.relpath(file, base)
        suffix = next((suffix for suffix in longest if below.lower().endswith(suffix)), "")
        found.append(Input(partition_name(below.replace(os.sep, "_"), suffix), file))
    return found

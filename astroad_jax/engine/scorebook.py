"""The manifest of a score directory: which inputs were scored or set aside, kept through interruptions.

While a call runs, each of its processes adds a line to a file of its own for every partition that is done; at the end they
become the manifest. Both are durable before the next partition counts as begun.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from astroad_jax import faults, files
from astroad_jax.engine import processes
from astroad_jax.errors import DataError, check_same

SCHEMA = 1
OWN_BOOKS = ".manifest.*.jsonl"
HATS = "astroad.json"  # what ``astroad hats`` has instead of a manifest
EMPTY: dict[str, dict[str, Any]] = {"partitions": {}, "quarantined": {}}


def manifest_of(out: Path) -> Path:
    """Path of the manifest of a score directory that is to be read.

    Raises
    ------
    DataError
        There is no score directory, or a catalogue of scores in HATS format.
    """
    out = Path(out)
    if (out / HATS).exists():
        fix = "open it with LSDB, or score its input with astroad score, which makes one"
        raise DataError("this is a catalogue in HATS format, and no score directory", where=str(out), fix=fix)
    if not (out / "manifest.json").exists():
        raise DataError("no score directory", where=str(out), fix="make one with astroad score")
    return out / "manifest.json"


def open_book(out: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The directory's manifest, checked to belong to this model, with what a killed call has left.

    Raises
    ------
    MismatchError
        The directory holds scores of another model.
    CorruptError
        The manifest is damaged.
    """
    path = out / "manifest.json"
    if not path.exists():
        book = {"schema": SCHEMA, "identity": identity, **EMPTY}
        files.write_sealed(path, book)
        return book
    book = files.read_sealed(path)
    check_identity(out, book["identity"], identity, "choose another directory with --out")
    left = notes(out)
    for note in left:  # of a call that was killed: what they name is scored
        if note["identity"] == files.seal(identity):
            book |= entered(book, {note["name"]: note["news"]})
    if left:
        close_book(out, book)
    return book


def check_identity(out: Path, held: dict[str, Any], own: dict[str, Any], fix: str) -> None:
    """Refuse scores of another model.

    Raises
    ------
    MismatchError
        Naming what differs.
    """
    check_same("this directory holds scores of another model", held, own, where=str(out), fix=fix)


def notes(out: Path) -> list[dict[str, Any]]:
    """What processes have noted down since the manifest was written."""
    return [note for own in sorted(Path(out).glob(OWN_BOOKS)) for note in files.read_appended(own)]


def note_down(out: Path, book: dict[str, Any], name: str, news: dict[str, Any]) -> None:
    """Keep what has become of a partition, until the call's end puts all such notes into the manifest."""
    note = {"identity": files.seal(book["identity"]), "name": name, "news": news}
    files.append_line(out / f".manifest.{processes.index()}.jsonl", note)


def close_book(out: Path, book: dict[str, Any]) -> None:
    """Write the manifest, partitions in the order of their names, and drop the processes' notes, which it holds now."""
    shelves = {shelf: dict(sorted(book[shelf].items())) for shelf in EMPTY}
    files.write_sealed(out / "manifest.json", book | shelves)
    for path in out.glob(OWN_BOOKS):
        path.unlink()
        faults.point("removed")


def entered(book: dict[str, Any], news: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A manifest's shelves with what has become of some partitions."""
    shelves: dict[str, Any] = {}
    for shelf in EMPTY:
        kept = {name: entry for name, entry in book[shelf].items() if name not in news}
        shelves[shelf] = kept | {name: entry[shelf] for name, entry in news.items() if shelf in entry}
    return shelves

"""Labels that people gave to objects, kept by object id in one SQLite file: appended, never overwritten, the latest counts.

A file is bound to no run and no score directory: objects may be scored again, or be gone, and their labels stay. Ids keep
their type, 64-bit integers or text. Every call opens the file, does one thing and closes it.

Durability: the rollback journal with ``synchronous = EXTRA``; not WAL, which needs memory that processes share, so that it
does not work on network file systems, and which leaves labels in a second file that a copy forgets. When `append` returns,
the labels are on disk and survive ``kill -9`` and a loss of power; a call that is killed leaves all of its labels or none.
Writers take turns. SQLite itself does not notice a flipped bit in a value, so every row carries a digest of itself and of
the digest before it.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from astroad_jax import files
from astroad_jax.errors import BusyError, CorruptError, DataError, MismatchError, StorageError

LOWEST, HIGHEST = 0, 5
WITHDRAWN = -1  # takes an earlier label back
PATIENCE = 30.0  # seconds to wait for another writer
APPLICATION = 0x61737264  # "asrd": tells our files from other SQLite files
VERSION = 1
SCHEMA = f"""
CREATE TABLE labels (
    number INTEGER PRIMARY KEY,
    object_id NOT NULL CHECK (typeof(object_id) IN ('integer', 'text')),
    label INTEGER NOT NULL CHECK (label BETWEEN {WITHDRAWN} AND {HIGHEST}),
    who TEXT NOT NULL,
    at TEXT NOT NULL,
    comment TEXT NOT NULL,
    digest TEXT NOT NULL
);
CREATE TABLE kind (name TEXT NOT NULL);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""
STORAGE = (
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
)
COLUMNS = ("number", "object_id", "label", "who", "at", "comment")


class Labels(NamedTuple):
    """The label that counts of every object that has one, in the order in which the objects were first labelled.

    Attributes
    ----------
    ids : (L,) int64, uint64 or str array
    label : (L,) int64
        0 to 5.
    """

    ids: np.ndarray
    label: np.ndarray


def append(
    path: Path, ids: np.ndarray, label: np.ndarray, *, who: str = "", comment: str | Sequence[str] = "", at: str = ""
) -> None:
    """Add labels, all or none; the file is made where there is none.

    Parameters
    ----------
    ids : (L,) int or str array
        In the type that the file's other ids have.
    label : (L,) int
        0 to 5; -1 takes an earlier label back.
    who : str
        Who labelled.
    comment : str or sequence of L str
    at : str
        ISO time; now, in UTC, where none is given.

    Raises
    ------
    DataError
        Labels out of range, ids that are neither integers nor text, a file of another kind.
    MismatchError
        Ids of another type than the file's.
    BusyError
        Another process has been writing for half a minute.
    CorruptError
        The file is damaged.
    """
    ids, label = np.asarray(ids), np.asarray(label)
    comments = [comment] * len(ids) if isinstance(comment, str) else list(comment)
    _check(ids, label)
    _check_text([who, *comments, *(ids.tolist() if ids.dtype.kind == "U" else ())])
    if not len(ids):
        return
    at = at or datetime.now(UTC).isoformat(timespec="milliseconds")
    if not Path(path).exists():
        _create(Path(path))
    with _opened(path) as store, _writing(store):
        before, number = _verified(store, path)
        _bind(store, path, _kind(ids))
        for key, value, words in zip(map(_encoded, ids.tolist()), label.tolist(), comments, strict=True):
            number += 1
            row = (number, key, int(value), who, at, words)
            before = _digest(before, row)
            store.execute("INSERT INTO labels VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, before))


def latest(path: Path) -> Labels:
    """Labels that count: of every object the last, unless it was taken back.

    Raises
    ------
    DataError, CorruptError, MismatchError, BusyError
        There is no file, it is none of labels, or it is damaged, of a later version or busy.
    """
    held = history(path)
    last = dict(zip(held["object_id"].tolist(), held["label"].tolist()))
    last = {key: label for key, label in last.items() if label != WITHDRAWN}
    return Labels(_array(list(last), held["object_id"].dtype.kind != "U"), np.array(list(last.values()), np.int64))


def history(path: Path) -> dict[str, np.ndarray]:
    """Every label ever given, oldest first, as columns that can be written to any table.

    Returns
    -------
    dict of (L,) arrays
        ``number`` (from 1), ``object_id`` in its own type, ``label`` (-1: taken back), ``who``, ``at``, ``comment``.

    Raises
    ------
    DataError, CorruptError, MismatchError, BusyError
        As `latest`.
    """
    if not Path(path).exists():
        raise DataError("no such label file", where=str(path), fix="check the path; the first label makes a new file")
    with _opened(path) as store:
        store.execute("BEGIN")  # one state of the file, whoever writes meanwhile
        _verified(store, path)
        rows = store.execute(f"SELECT {', '.join(COLUMNS)} FROM labels ORDER BY number").fetchall()
        kind = store.execute("SELECT name FROM kind").fetchone()
    columns = dict(zip(COLUMNS, zip(*rows, strict=True))) if rows else dict.fromkeys(COLUMNS, ())
    integer = kind == ("integer",)
    ids = _array([int(key) for key in columns["object_id"]] if integer else list(columns["object_id"]), integer)
    types = {name: np.int64 if name in ("number", "label") else str for name in COLUMNS}
    return {name: ids if name == "object_id" else np.array(columns[name], types[name]) for name in COLUMNS}


def matched(labels: Labels, ids: np.ndarray, where: str = "") -> tuple[np.ndarray, int]:
    """Labels of objects, and how many labels belong to none of them.

    Parameters
    ----------
    ids : (N,) int or str array
        Each once.
    where : str
        Label file, for the error.

    Returns
    -------
    label : (N,) int64
        -1 for unlabelled.
    absent : int

    Raises
    ------
    MismatchError
        Labels of integers and ids of text, or the other way round.
    """
    found = np.full(len(ids), WITHDRAWN, np.int64)
    if not len(labels.ids) or not len(ids):
        return found, len(labels.ids)
    if _kind(labels.ids) != _kind(ids):
        raise _other_kind(where, _kind(labels.ids), _kind(ids))
    order = np.argsort(ids, kind="stable")
    wanted, values = _fitting(labels, ids.dtype)
    place = np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)
    row = order[place]
    there = ids[row] == wanted
    found[row[there]] = values[there]
    return found, len(labels.ids) - int(there.sum())


def _fitting(labels: Labels, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Labelled ids in the type of others, without those that it cannot hold: mixed integers would meet as floats."""
    if dtype.kind == "U":
        return labels.ids, labels.label
    limits = np.iinfo(dtype)
    fits = np.array([limits.min <= key <= limits.max for key in labels.ids.tolist()], bool)
    return labels.ids[fits].astype(dtype), labels.label[fits]


def _check(ids: np.ndarray, label: np.ndarray) -> None:
    _kind(ids)
    if ids.ndim != 1 or ids.shape != label.shape:
        raise DataError("one label an object", expected="(L,) ids, (L,) labels", got=f"{ids.shape}, {label.shape}")
    whole = label.dtype.kind in "iu" and ((label >= WITHDRAWN) & (label <= HIGHEST)).all()
    if not whole:
        expected = f"whole numbers from {LOWEST} to {HIGHEST}, or {WITHDRAWN} to take a label back"
        raise DataError("labels outside their range", expected=expected, got=label[:5].tolist(), fix="correct them")


def _check_text(words: list[str]) -> None:
    try:
        "".join(words).encode("utf-8")
    except UnicodeEncodeError as error:  # the name of a file, as a rule
        raise DataError("a text that is no UTF-8 cannot be kept", got=repr(error.object[:80]), fix="rename it") from error


def _kind(ids: np.ndarray) -> str:
    if ids.dtype.kind in "iuU":
        return "text" if ids.dtype.kind == "U" else "integer"
    raise DataError("ids are integers or text", got=str(ids.dtype), fix="give the ids in the type that the scores have")


def _encoded(key: int | str) -> int | str:
    """What SQLite holds: its integers end at 2^63, and greater ones are digits in a text."""
    return key if isinstance(key, str) or key < 2**63 else str(key)


def _array(ids: list, integer: bool) -> np.ndarray:
    """Ids as one array of their own type; ``uint64`` where ``int64`` is too small."""
    if not integer:
        return np.array(ids, str)
    return np.array(ids, np.uint64 if max(ids, default=0) >= 2**63 else np.int64)


def _create(path: Path) -> None:
    """Put an empty file in place whole, so that one of no bytes is always a damaged one; another's is left alone."""
    tmp = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with closing(sqlite3.connect(tmp, isolation_level=None)) as store:
            store.executescript(f"BEGIN; {SCHEMA} COMMIT;")
        try:
            os.link(tmp, path)
        except FileExistsError:
            return
        except OSError:  # a file system without links
            if not path.exists():
                os.replace(tmp, path)
        files.fsync_dir(path.parent)
    except (OSError, sqlite3.Error) as error:
        fix = "choose another place with --labels"
        raise StorageError("cannot write labels here", where=str(path), got=error, fix=fix) from error
    finally:
        tmp.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a file that is one of labels; SQLite's errors become ours."""
    try:
        if not Path(path).stat().st_size:
            raise _damaged(path, "0 bytes")
        with closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as store:
            store.execute("PRAGMA synchronous = EXTRA")
            _check_ours(store, path)
            yield store
    except sqlite3.OperationalError as error:
        raise _operational(path, error) from error
    except (sqlite3.DatabaseError, UnicodeError) as error:
        raise _damaged(path, str(error)) from error


def _operational(path: Path, error: sqlite3.OperationalError) -> Exception:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return BusyError("another process is writing labels", where=str(path), got=str(error), fix="try again")
    if code in STORAGE:
        fix = "make room, or make the file and its directory writable"
        return StorageError("labels could not be read or written", where=str(path), got=str(error), fix=fix)
    return _damaged(path, str(error))


def _check_ours(store: sqlite3.Connection, path: Path) -> None:
    application, version = (store.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if application != APPLICATION:
        fix = "name another file with --labels"
        raise DataError("this SQLite file is no label file", where=str(path), got=f"application {application}", fix=fix)
    if version != VERSION:
        fix = "use the version of astroad_jax that wrote it, or a later one"
        raise MismatchError("labels of another version", where=str(path), expected=VERSION, got=version, fix=fix)


@contextmanager
def _writing(store: sqlite3.Connection) -> Iterator[None]:
    """One transaction, alone from its start; nothing of it stays if it fails."""
    store.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        store.execute("ROLLBACK")
        raise
    store.execute("COMMIT")


def _verified(store: sqlite3.Connection, path: Path) -> tuple[str, int]:
    """Last digest and number of a file whose pages and rows are as they were written."""
    problems = [line for (line,) in store.execute("PRAGMA integrity_check(3)") if line != "ok"]
    if problems:
        raise _damaged(path, "; ".join(problems))
    before, number = "", 0
    for *row, digest in store.execute(f"SELECT {', '.join(COLUMNS)}, digest FROM labels ORDER BY number"):
        before, number = _digest(before, tuple(row)), number + 1
        if digest != before or row[0] != number:
            raise _damaged(path, f"label {row[0]} does not match its digest")
    kinds = [name for (name,) in store.execute("SELECT name FROM kind")]
    if len(kinds) != (number > 0) or not set(kinds) <= {"integer", "text"}:
        raise _damaged(path, f"{number} labels of ids of type {kinds}")
    return before, number


def _digest(before: str, row: tuple) -> str:
    return hashlib.blake2b(repr((before, row)).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _bind(store: sqlite3.Connection, path: Path, kind: str) -> None:
    """Settle the type of a file's ids with its first label."""
    held = store.execute("SELECT name FROM kind").fetchone()
    if held is None:
        store.execute("INSERT INTO kind VALUES (?)", (kind,))
    elif held != (kind,):
        raise _other_kind(str(path), held[0], kind)


def _other_kind(where: str, expected: str, got: str) -> MismatchError:
    fix = "keep labels of different surveys in different files (--labels)"
    return MismatchError("these labels belong to ids of another type", where=where, expected=expected, got=got, fix=fix)


def _damaged(path: Path, got: str) -> CorruptError:
    fix = "restore it from a copy, or start a new one with --labels"
    return CorruptError("this label file is damaged", where=str(path), got=got, fix=fix)

"""The SQLite file that labels are kept in: made whole, opened, verified, and written to in turns.

Durability: the rollback journal with ``synchronous = EXTRA``; not WAL, which needs memory that processes share, so that it
does not work on network file systems, and which leaves labels in a second file that a copy forgets. SQLite itself does not
notice a flipped bit in a value, so every row carries a digest of itself and of the digest before it.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from astroad_jax import files
from astroad_jax.errors import BusyError, CorruptError, DataError, MismatchError, StorageError

LOWEST, HIGHEST = 0, 5
WITHDRAWN = -1  # takes an earlier label back
PATIENCE = 30.0  # seconds to wait for another writer
APPLICATION = 0x61737264  # "asrd": tells our files from other SQLite files
VERSION = 1
ROWS_OF = "row of "  # before a table's path: the kind of ids that are its row numbers
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


def create(path: Path) -> None:
    """Put an empty file in place whole, so that one of no bytes is a damaged one; another's is left alone.

    Raises
    ------
    StorageError
        There can be none here.
    """
    tmp = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        _lay_out(tmp)
        try:
            os.link(tmp, path)
        except FileExistsError:
            return
        except OSError:  # a file system without links
            _lay_out(path)
        files.fsync_dir(path.parent)
    except (OSError, sqlite3.Error) as error:
        fix = "choose another place with --labels"
        raise StorageError("cannot write labels here", where=str(path), got=error, fix=fix) from error
    finally:
        tmp.unlink(missing_ok=True)


def _lay_out(path: Path) -> None:
    """Tables of a new file; one that another process has made meanwhile keeps what it holds."""
    with closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as store:
        store.execute("BEGIN EXCLUSIVE")
        if not store.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in filter(str.strip, SCHEMA.split(";")):
                store.execute(statement)
        store.execute("COMMIT")


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a file that is one of labels; SQLite's errors become ours.

    Raises
    ------
    DataError, CorruptError, MismatchError, BusyError, StorageError
        It is no label file, or it is damaged, of a later version, busy, or cannot be read or written.
    """
    try:
        Path(path).stat()  # SQLite would make a file that is not there
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
    if not Path(path).stat().st_size:  # looked at here: what another process is making has been waited for
        raise _damaged(path, "0 bytes")
    if application != APPLICATION:
        fix = "name another file with --labels"
        raise DataError("this SQLite file is no label file", where=str(path), got=f"application {application}", fix=fix)
    if version != VERSION:
        fix = "use the version of astroad_jax that wrote it, or a later one"
        raise MismatchError("labels of another version", where=str(path), expected=VERSION, got=version, fix=fix)


@contextmanager
def writing(store: sqlite3.Connection) -> Iterator[None]:
    """One transaction, alone from its start; nothing of it stays if it fails."""
    store.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if store.in_transaction:  # over a full disk SQLite has taken all back itself
            store.execute("ROLLBACK")
        raise
    store.execute("COMMIT")


def verified(store: sqlite3.Connection, path: Path) -> tuple[str, int]:
    """Last digest and number of a file whose pages and rows are as they were written.

    Raises
    ------
    CorruptError
        They are not.
    """
    problems = [line for (line,) in store.execute("PRAGMA integrity_check(3)") if line != "ok"]
    if problems:
        raise _damaged(path, "; ".join(problems))
    before, number = "", 0
    for *row, digest in store.execute(f"SELECT {', '.join(COLUMNS)}, digest FROM labels ORDER BY number"):
        before, number = digest_of(before, tuple(row)), number + 1
        if digest != before or row[0] != number:
            raise _damaged(path, f"label {row[0]} does not match its digest")
    kinds = [name for (name,) in store.execute("SELECT name FROM kind")]
    if len(kinds) != (number > 0) or not all(kind in ("integer", "text") or kind.startswith(ROWS_OF) for kind in kinds):
        raise _damaged(path, f"{number} labels of ids of type {kinds}")
    return before, number


def digest_of(before: str, row: tuple) -> str:
    """Of a row of plain integers and texts, and of all rows before it."""
    return hashlib.blake2b(repr((before, row)).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def bind(store: sqlite3.Connection, path: Path, ids: np.ndarray, table: str) -> None:
    """Settle the type of a file's ids with its first label.

    Raises
    ------
    MismatchError
        It has been settled otherwise.
    """
    held, kind = store.execute("SELECT name FROM kind").fetchone(), kind_of(ids, table)
    if held is None:
        store.execute("INSERT INTO kind VALUES (?)", (kind,))
    elif held != (kind,):
        raise other_kind(str(path), held[0], kind)
    if ids.dtype.kind != "U":
        _check_range(store, path, ids)


def _check_range(store: sqlite3.Connection, path: Path, ids: np.ndarray) -> None:
    """Refuse integers that no array could hold beside those that the file has."""
    query = "SELECT total(typeof(object_id) = 'text'), total(object_id < 0) FROM labels"
    great, negative = (count > 0 for count in store.execute(query).fetchone())
    if (great and ids.min() < 0) or (negative and ids.max() >= 2**63):
        kinds = ["integer from 2^63 on", "negative integer"]
        raise other_kind(str(path), *(kinds if great else reversed(kinds)))


def kind_of(ids: np.ndarray, table: str = "") -> str:
    """What a file's ids all are: ``integer``, ``text``, or row numbers of one table.

    Raises
    ------
    DataError
        Neither.
    """
    if ids.dtype.kind in "iuU":
        return f"{ROWS_OF}{table}" if table else "text" if ids.dtype.kind == "U" else "integer"
    raise DataError("ids are integers or text", got=str(ids.dtype), fix="give the ids in the type that the scores have")


def other_kind(where: str, expected: str, got: str) -> MismatchError:
    """The error for ids that do not go with those of a file."""
    fix = "keep labels of different surveys in different files (--labels)"
    what = "these labels belong to ids of another type"
    if expected.startswith(ROWS_OF) or got.startswith(ROWS_OF):
        what = "row numbers are ids in one table only: these labels are of other objects"
        fix = "give each table without ids a label file of its own (--labels), or score with an id column (data.id=COLUMN)"
    return MismatchError(what, where=where, expected=expected, got=got, fix=fix)


def _damaged(path: Path, got: str) -> CorruptError:
    fix = "restore it from a copy, or start a new one with --labels"
    return CorruptError("this label file is damaged", where=str(path), got=got, fix=fix)

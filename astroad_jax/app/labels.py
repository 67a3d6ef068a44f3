"""Labels that people gave to objects, kept by object id in one SQLite file: appended, never overwritten, the latest counts.

A file is bound to no run and no score directory: objects may be scored again, or be gone, and their labels stay. Ids keep
their type, 64-bit integers or text. Row numbers are ids in one table only, so a file of such labels is bound to that table.
Every call opens the file (`label_file`), does one thing and closes it.

When `append` returns, the labels are on disk and survive ``kill -9`` and a loss of power; a call that is killed leaves all
of its labels or none. Writers take turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from astroad_jax.app import label_file
from astroad_jax.app.label_file import COLUMNS, HIGHEST, LOWEST, ROWS_OF, WITHDRAWN
from astroad_jax.errors import DataError


class Labels(NamedTuple):
    """The label that counts of every object that has one, in the order in which the objects were first labelled.

    Attributes
    ----------
    ids : (L,) int64, uint64 or str array
    label : (L,) int64
        0 to 5.
    table : str
        Path of the table whose row numbers the ids are; empty where objects have ids of their own.
    """

    ids: np.ndarray
    label: np.ndarray
    table: str = ""


def append(
    path: Path,
    ids: np.ndarray,
    label: np.ndarray,
    *,
    who: str = "",
    comment: str | Sequence[str] = "",
    at: str = "",
    table: str = "",
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
    table : str
        Path of the table whose row numbers the ids are; empty where objects have ids of their own.

    Raises
    ------
    DataError
        Labels out of range, ids that are neither integers nor text, a file of another kind.
    MismatchError
        Ids of another type than the file's, or row numbers of another table.
    BusyError
        Another process has been writing for half a minute.
    CorruptError
        The file is damaged.
    StorageError
        The file system takes nothing more, or not here.
    """
    ids, label = np.asarray(ids), np.asarray(label)
    _check(ids, label)
    if not len(ids):
        return
    comments = _comments(comment, len(ids))
    _check_text([who, at, table, *comments, *(ids.tolist() if ids.dtype.kind == "U" else ())])
    at = at or datetime.now(UTC).isoformat(timespec="milliseconds")
    if not Path(path).exists():
        label_file.create(Path(path))
    with label_file.opened(path) as store, label_file.writing(store):
        before, number = label_file.verified(store, path)
        label_file.bind(store, path, ids, table)
        for key, value, words in zip(map(_encoded, ids.tolist()), label.tolist(), comments, strict=True):
            number += 1
            row = (number, key, int(value), str(who), str(at), words)
            before = label_file.digest_of(before, row)
            store.execute("INSERT INTO labels VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, before))


def latest(path: Path) -> Labels:
    """Labels that count: of every object the last, unless it was taken back.

    Raises
    ------
    DataError, CorruptError, MismatchError, BusyError, StorageError
        There is no file, it is none of labels, or it is damaged, of a later version, busy or cannot be read.
    """
    held, table = _read(path)
    last = dict(zip(held["object_id"].tolist(), held["label"].tolist()))
    last = {key: label for key, label in last.items() if label != WITHDRAWN}
    ids = _array(list(last), held["object_id"].dtype.kind != "U")
    return Labels(ids, np.array(list(last.values()), np.int64), table)


def history(path: Path) -> dict[str, np.ndarray]:
    """Every label ever given, oldest first, as columns that can be written to any table.

    Returns
    -------
    dict of (L,) arrays
        ``number`` (from 1), ``object_id`` in its own type, ``label`` (-1: taken back), ``who``, ``at``, ``comment``.

    Raises
    ------
    DataError, CorruptError, MismatchError, BusyError, StorageError
        As `latest`.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """Columns of the history, and the table whose row numbers the ids are."""
    if not Path(path).exists():
        raise DataError("no such label file", where=str(path), fix="check the path; the first label makes a new file")
    with label_file.opened(path) as store:
        store.execute("BEGIN")  # one state of the file, whoever writes meanwhile
        label_file.verified(store, path)
        rows = store.execute(f"SELECT {', '.join(COLUMNS)} FROM labels ORDER BY number").fetchall()
        (kind,) = store.execute("SELECT name FROM kind").fetchone() or ("text",)
    columns = dict(zip(COLUMNS, zip(*rows, strict=True))) if rows else dict.fromkeys(COLUMNS, ())
    integer = kind != "text"
    ids = _array([int(key) for key in columns["object_id"]] if integer else list(columns["object_id"]), integer)
    types = {name: np.int64 if name in ("number", "label") else str for name in COLUMNS}
    held = {name: ids if name == "object_id" else np.array(columns[name], types[name]) for name in COLUMNS}
    return held, kind.removeprefix(ROWS_OF) if kind.startswith(ROWS_OF) else ""


def matched(labels: Labels, ids: np.ndarray, where: str = "", table: str = "") -> tuple[np.ndarray, int]:
    """Labels of objects, and how many labels belong to none of them.

    Parameters
    ----------
    ids : (N,) int or str array
        Each once.
    where : str
        Label file, for the error.
    table : str
        Path of the table whose row numbers the ids are; empty where objects have ids of their own.

    Returns
    -------
    label : (N,) int64
        -1 for unlabelled.
    absent : int

    Raises
    ------
    MismatchError
        Labels of integers and ids of text, or the other way round; labels of another table's row numbers.
    """
    found = np.full(len(ids), WITHDRAWN, np.int64)
    if not len(labels.ids) or not len(ids):
        return found, len(labels.ids)
    held, asked = label_file.kind_of(labels.ids, labels.table), label_file.kind_of(ids, table)
    if held != asked:
        raise label_file.other_kind(where, held, asked)
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
    if ids.ndim != 1 or ids.shape != label.shape:
        expected, got = "(L,) ids, (L,) labels", f"{ids.shape}, {label.shape}"
        raise DataError("one label an object", expected=expected, got=got, fix="give a list of ids and a label for each")
    if not len(ids):  # an empty list has no type that says anything
        return
    label_file.kind_of(ids)
    whole = label.dtype.kind in "iu" and ((label >= WITHDRAWN) & (label <= HIGHEST)).all()
    if not whole:
        expected = f"whole numbers from {LOWEST} to {HIGHEST}, or {WITHDRAWN} to take a label back"
        raise DataError("labels outside their range", expected=expected, got=label[:5].tolist(), fix="correct them")


def _comments(comment: str | Sequence[str], count: int) -> list[str]:
    """One for each label, as plain text: the digest is of what SQLite gives back."""
    found = [comment] * count if isinstance(comment, str) else list(comment)
    if len(found) != count:
        fix = "give one for all, or one for each"
        raise DataError("comments do not fit their labels", expected=f"{count} comments", got=len(found), fix=fix)
    return [str(words) for words in found]


def _check_text(words: list[str]) -> None:
    try:
        "".join(words).encode("utf-8")
    except UnicodeEncodeError as error:  # the name of a file, as a rule
        raise DataError("a text that is no UTF-8 cannot be kept", got=repr(error.object[:80]), fix="rename it") from error


def _encoded(key: int | str) -> int | str:
    """What SQLite holds: its integers end at 2^63, and greater ones are digits in a text."""
    return key if isinstance(key, str) or key < 2**63 else str(key)


def _array(ids: list, integer: bool) -> np.ndarray:
    """Ids as one array of their own type; ``uint64`` where ``int64`` is too small."""
    if not integer:
        return np.array(ids, str)
    return np.array(ids, np.uint64 if max(ids, default=0) >= 2**63 else np.int64)

"""Files that are either whole or absent: atomic writes, checksums, locks, JSON lines."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from astroad_jax.errors import BusyError, CorruptError


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fsync_dir(path: Path) -> None:
    """Make the names in a directory durable (renames are not until this is done)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed into place, else removed."""
    path = Path(path)
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield tmp
        with open(tmp, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(tmp, path)
        fsync_dir(path.parent)
    finally:
        tmp.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as tmp:
        tmp.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a damaged file is a `CorruptError` that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise CorruptError(
            "a file of this directory is damaged",
            where=str(path),
            got=str(error),
            fix="restore it, or start a new directory",
        ) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; a torn last line, as a kill leaves it, is dropped."""
    if not Path(path).exists():
        return []
    lines = Path(path).read_bytes().split(b"\n")
    whole = [json.loads(line) for line in lines[:-1] if line]
    return whole


def manifest(directory: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file below `directory`."""
    files = sorted(p for p in Path(directory).rglob("*") if p.is_file())
    return {p.relative_to(directory).as_posix(): sha256(p) for p in files}


def verify(directory: Path, expected: dict[str, str]) -> list[str]:
    """Return what differs from a manifest, one sentence a file; empty where all is well."""
    found = manifest(directory)
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [
        f"{name} has changed" for name, digest in expected.items() if found.get(name, digest) != digest
    ]
    return problems + [f"{name} is not in the manifest" for name in found if name not in expected]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Hold a directory for this process.

    The lock is a file with host and process id. One left behind by a dead process of this host is taken over; one of
    another host is never guessed about.

    Raises
    ------
    BusyError
        Another process has the directory.
    """
    path = Path(directory) / ".lock"
    me = {"host": socket.gethostname(), "pid": os.getpid()}
    while True:
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            break
        except FileExistsError:
            _check_owner(path)
    try:
        os.write(handle, json.dumps(me).encode())
        os.close(handle)
        yield
    finally:
        path.unlink(missing_ok=True)


def _check_owner(path: Path) -> None:
    """Remove a stale lock, or raise."""
    try:
        owner = json.loads(path.read_text())
    except FileNotFoundError:
        return
    except ValueError:
        owner = {"host": "?", "pid": 0}
    if owner["host"] == socket.gethostname() and not _alive(owner["pid"]):
        path.unlink(missing_ok=True)
        return
    raise BusyError(
        "this directory is in use by another process",
        where=str(path.parent),
        got=f"process {owner['pid']} on {owner['host']}",
        fix=f"wait for it, choose another directory, or delete {path} if that process is gone",
    )

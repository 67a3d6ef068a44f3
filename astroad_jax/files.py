"""Files that are either whole or absent: atomic writes, checksums, locks, JSON lines."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from astroad_jax import faults
from astroad_jax.errors import BusyError, CorruptError, DataError


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical(path: str | Path) -> str:
    """One spelling for every way to name a file; what is no file on disk stays as it is."""
    return str(Path(path).resolve()) if Path(path).exists() else str(path)


def fsync_dir(path: Path) -> None:
    """Make the names in a directory durable (renames are not until this is done)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(path: Path, what: str) -> None:
    """Make a directory, and those above it, for what is named.

    Raises
    ------
    DataError
        It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = "choose another directory"
        raise DataError(f"cannot write {what} here", where=str(path), got=str(error), fix=fix) from error


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed into place, else removed."""
    path = Path(path)
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield tmp
        faults.point("written")
        with open(tmp, "rb+") as stream:
            os.fsync(stream.fileno())
        faults.point("synced")
        os.replace(tmp, path)
        faults.point("renamed")
        fsync_dir(path.parent)
        faults.point("kept")
    finally:
        tmp.unlink(missing_ok=True)


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Add one JSON object, sealed by a checksum over itself, as a line of a file, and make it durable."""
    with open(path, "ab") as stream:
        line = json.dumps({**value, "seal": seal(value)}).encode() + b"\n"
        if stream.tell() and not _ends_a_line(path):
            line = b"\n" + line  # a kill tore the last one
        stream.write(line)
        stream.flush()
        faults.point("line")
        os.fsync(stream.fileno())
    faults.point("kept")


def _ends_a_line(path: Path) -> bool:
    with open(path, "rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"


def read_appended(path: Path) -> list[dict[str, Any]]:
    """Read what `append_line` wrote; lines that a kill has torn are left out.

    Whoever reads them takes what they name for undone, so a line lost to damage costs time and nothing else.
    """
    found = []
    for line in Path(path).read_bytes().split(b"\n"):
        try:
            value = json.loads(line)
            given = value.pop("seal")
        except (ValueError, KeyError, AttributeError, TypeError):
            continue
        if given == seal(value):
            found.append(value)
    return found


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
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, got: str) -> CorruptError:
    fix = "restore it, or start a new directory"
    return CorruptError("a file of this directory is damaged", where=str(path), got=got, fix=fix)


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object with a checksum over its own content, so that `read_sealed` knows it whole."""
    write_json(path, {**value, "seal": seal(value)})


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote; one that has changed since is a `CorruptError`."""
    value = read_json(path)
    given = value.pop("seal", None) if isinstance(value, dict) else None
    if given != seal(value):
        raise _damaged(path, "its content does not match its checksum")
    return value


def seal(value: Any) -> str:
    """Checksum over a value's JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; a torn last line, as a kill leaves it, is dropped, any other is a `CorruptError`."""
    if not Path(path).exists():
        return []
    lines = Path(path).read_bytes().split(b"\n")
    try:
        return [json.loads(line) for line in lines[:-1] if line]
    except ValueError as error:
        raise _damaged(path, str(error)) from error


def manifest(directory: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file below `directory`."""
    files = sorted(p for p in Path(directory).rglob("*") if p.is_file())
    return {p.relative_to(directory).as_posix(): sha256(p) for p in files}


def differing(directory: Path, expected: dict[str, str]) -> dict[str, str]:
    """What is wrong with each of the named files: missing, or other bytes; empty where all is well."""
    found = {}
    for name, digest in expected.items():
        path = Path(directory) / name
        if not path.is_file():
            found[name] = "missing"
        elif sha256(path) != digest:
            found[name] = "its content does not match its checksum"
    return found


def verify(directory: Path, expected: dict[str, str]) -> list[str]:
    """Return what differs from a manifest of a whole directory, one sentence a file; empty where all is well."""
    found = manifest(directory)
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} has changed" for name, digest in expected.items() if found.get(name, digest) != digest]
    return problems + [f"{name} is not in the manifest" for name in found if name not in expected]


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Hold a directory for this process, and clear it of what a killed one left half written.

    The lock is a file that names its owner and that the system keeps locked for it (``flock``): however the owner
    ends, its directory is free again. One of another host is never guessed about.

    Raises
    ------
    BusyError
        Another process has the directory.
    DataError
        The directory cannot be written.
    """
    path = Path(directory) / ".lock"
    handle = _take(path)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)
        faults.point("locked")
        for torn in path.parent.glob(".*.tmp"):
            torn.unlink(missing_ok=True)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _take(path: Path) -> int:
    """Open and hold a lock file."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            fix = "choose another directory, or make it writable"
            raise DataError("cannot write here", where=str(path.parent), got=str(error), fix=fix) from error
        try:
            owner = _owner(handle)
            if not _hold(handle, owner["pid"]) or owner["host"] not in ("", socket.gethostname()):
                raise _busy(path, owner)
            if _is_at(path, handle):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # removed by its owner while we opened it: once more


def holder(directory: Path) -> dict[str, Any] | None:
    """Who holds a directory, as far as can be told without disturbing anybody: host and process, or nobody."""
    try:
        handle = os.open(Path(directory) / ".lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        owner = _owner(handle)
    finally:
        os.close(handle)
    gone = owner["host"] == socket.gethostname() and not _alive(owner["pid"])
    return None if gone or not owner["pid"] else owner


def _owner(handle: int) -> dict[str, Any]:
    """Who wrote a lock file; nobody, where a kill left it empty."""
    try:
        owner = json.loads(os.pread(handle, 4096, 0))
        return {"host": str(owner["host"]), "pid": int(owner["pid"])}
    except (ValueError, KeyError, TypeError):
        return {"host": "", "pid": 0}


def _hold(handle: int, pid: int) -> bool:
    """Lock an open file; where the file system knows no locks, see whether its owner lives."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return not (pid and _alive(pid))
    return True


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _busy(path: Path, owner: dict[str, Any]) -> BusyError:
    return BusyError(
        "this directory is in use by another process",
        where=str(path.parent),
        got=f"process {owner['pid'] or '?'} on {owner['host'] or 'this host'}",
        fix=f"wait for it, choose another directory, or delete {path} if that process is gone",
    )


@contextmanager
def whole_directory(path: Path, replaceable: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield an empty directory that on success becomes `path`, and of which nothing stays otherwise.

    Parameters
    ----------
    path : Path
        Where it will be, a symbolic link followed. An empty directory there, or one that is `replaceable`, is replaced.
    replaceable : (path) -> bool
        Whether a directory is an earlier one of the same kind, with nothing else in it.

    Raises
    ------
    BusyError
        Another process is making it.
    DataError
        Something else is there, or the place cannot be written.
    """
    path = Path(os.path.realpath(path))  # a directory cannot be renamed to the name of a link
    hold = path.with_name(f".{path.name}.new")
    made, old = hold / "made", hold / "old"
    try:
        hold.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError("cannot write here", where=str(path), got=str(error), fix="choose another directory") from error
    try:
        with lock(hold):
            _settle(path, made, old)
            _check_free(path, replaceable)
            made.mkdir()
            try:
                yield made
                _check_free(path, replaceable)
                fsync_dir(made)
                if path.exists():
                    path.rename(old)
                made.rename(path)
                fsync_dir(path.parent)
            finally:
                _settle(path, made, old)
    finally:
        with suppress(OSError):  # the next in line may have it
            hold.rmdir()


def _settle(path: Path, made: Path, old: Path) -> None:
    """Put the old one back where it was stopped between the two renames, and clear what is left over."""
    if old.exists() and not path.exists():
        old.rename(path)
    for directory in (made, old):
        shutil.rmtree(directory, ignore_errors=True)


def _check_free(path: Path, replaceable: Callable[[Path], bool]) -> None:
    """Refuse a place that holds what would be lost."""
    if not path.exists() or (path.is_dir() and (not any(path.iterdir()) or replaceable(path))):
        return
    got = ", ".join(sorted(item.name for item in path.iterdir())[:10]) if path.is_dir() else "a file"
    fix = "choose another with --out, or move what is there"
    raise DataError("this directory holds other things", where=str(path), expected="none, or an empty one", got=got, fix=fix)

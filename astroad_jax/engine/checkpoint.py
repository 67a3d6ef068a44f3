"""Checkpoints that are either whole or not there: Orbax for the arrays, a SHA-256 manifest for the trust.

Orbax restores flipped bits and re-typed arrays without a word. So a checkpoint is a directory of our own that holds
Orbax's files and, written last, a manifest with the digest of every file and the type and shape of every array; it is
renamed into place when complete and believed only when every digest agrees.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from astroad_jax import files
from astroad_jax.engine import processes, sharding
from astroad_jax.errors import CorruptError, StorageError

FORMAT = 1
log = logging.getLogger(__name__)


class Position(NamedTuple):
    """Where in training a checkpoint was taken: stage index, its name, and steps done within it."""

    stage: int
    name: str
    step: int


def _leaves(state: Any) -> dict[str, list]:
    """Path -> [dtype, shape] of every array."""
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): [str(leaf.dtype), list(leaf.shape)] for path, leaf in flat}


def save(
    directory: Path,
    position: Position,
    total_step: int,
    state: Any,
    keep: int = 3,
    complaints: Mapping[str, str] | None = None,
) -> Path:
    """Write a checkpoint and drop all but the newest `keep`, and the newest of which nothing is complained.

    Parameters
    ----------
    directory : Path
        The run's ``checkpoints`` directory.
    total_step : int
        Steps done over all stages; names the checkpoint.
    complaints : mapping, optional
        What is wrong with the training so far, by stage.

    Returns
    -------
    Path
        The finished checkpoint.

    Raises
    ------
    StorageError
        It could not be written; the earlier ones are as they were.
    """
    final = Path(directory).absolute() / f"step_{total_step:09d}"
    tmp = final.with_name(f".{final.name}.tmp")
    primary = processes.is_primary()
    note = {
        "format": FORMAT,
        "position": position._asdict(),
        "total_step": total_step,
        "digest": digest(state),
        "leaves": _leaves(state),
        "complaints": dict(complaints or {}),
    }
    with _writing(tmp):
        if primary:
            for torn in final.parent.glob(".step_*.tmp"):
                shutil.rmtree(torn)
            tmp.mkdir(parents=True)
        processes.barrier("checkpoint-begin")
        _save_arrays(tmp / "arrays", state)
        if primary:
            _seal(tmp, note, final)
            _prune(final, keep)
    processes.barrier("checkpoint-end")
    return final


@contextmanager
def _writing(tmp: Path) -> Iterator[None]:
    """Turn whatever Orbax and its storage raise over a write into one error, and free the space."""
    try:
        yield
    except Exception as error:
        shutil.rmtree(tmp, ignore_errors=True)
        raise StorageError(
            "a checkpoint could not be written",
            where=str(tmp.parent),
            got=(str(error).splitlines() or [""])[0] or repr(error),
            fix="make room, or see to the file system; the same command goes on from the checkpoint before",
        ) from error


def _save_arrays(path: Path, state: Any) -> None:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, _as_dict(state))


def _seal(tmp: Path, note: dict[str, Any], final: Path) -> None:
    """Write the manifest, and rename what is now whole into place."""
    files.write_sealed(tmp / "manifest.json", {**note, "files": files.manifest(tmp)})
    _sync_tree(tmp)
    shutil.rmtree(final, ignore_errors=True)
    tmp.rename(final)
    files.fsync_dir(final.parent)


def _prune(newest: Path, keep: int) -> None:
    """Leave `keep` checkpoints up to the one just written; those beyond it are damaged, and count for nothing.

    A model that goes wrong may be noticed late or never: the last one that seemed right stays, however old.
    """
    older = sorted(path for path in newest.parent.glob("step_*") if path.name < newest.name)
    right = next(filter(_seems_right, (newest, *reversed(older))), None)
    for path in older[: max(0, len(older) + 1 - keep)]:
        if path != right:
            shutil.rmtree(path)


def _seems_right(path: Path) -> bool:
    """Whether nothing was complained of when a checkpoint was written, so far as can be read."""
    try:
        return not files.read_sealed(path / "manifest.json").get("complaints")
    except (OSError, CorruptError):
        return False


def last_right(directory: Path) -> Path | None:
    """The newest checkpoint of which nothing was complained."""
    return next(filter(_seems_right, sorted(Path(directory).glob("step_*"), reverse=True)), None)


def _as_dict(state: Any) -> dict[str, Any]:
    """A state as a flat dict of arrays: independent of the classes it is made of."""
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    return {f"{i:04d}": leaf for i, (_, leaf) in enumerate(flat)}


def _sync_tree(root: Path) -> None:
    for path in [*root.rglob("*"), root]:
        if path.is_dir():
            files.fsync_dir(path)
        else:
            with open(path, "rb") as stream:
                os.fsync(stream.fileno())


def check(path: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest and compare every file with it.

    Raises
    ------
    CorruptError
        Naming the files that are missing, changed or unknown.
    """
    try:
        note = files.read_sealed(path / "manifest.json")
        expected = {**note["files"], "manifest.json": files.sha256(path / "manifest.json")}
    except (OSError, KeyError, TypeError) as error:
        raise CorruptError(
            "a checkpoint has no usable manifest", where=str(path), got=repr(error), fix="delete it"
        ) from error
    problems = files.verify(path, expected)
    if problems:
        raise CorruptError(
            "a checkpoint does not match its checksums",
            where=str(path),
            got="; ".join(problems[:5]),
            fix="restore it from a copy, or delete it: training then goes on from the one before",
        )
    return note


def newest(directory: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that passes its checks, with its manifest; damaged ones are logged and passed over.

    Raises
    ------
    CorruptError
        There are checkpoints, and all of them are damaged.
    """
    damaged = []
    for path in sorted(Path(directory).glob("step_*"), reverse=True):
        try:
            return path, check(path)
        except CorruptError as error:
            log.warning("%s\n  going back to the checkpoint before", error)
            damaged.append(error)
    if damaged:
        raise damaged[0]
    return None


def is_empty(directory: Path) -> bool:
    """Whether there is no checkpoint, not even a damaged one."""
    return not any(Path(directory).glob("step_*"))


def adopt(path: Path, directory: Path) -> Path:
    """Copy a checkpoint into another run's ``checkpoints`` directory; it is there when it is whole, as `save` has it.

    Raises
    ------
    StorageError
        It could not be written.
    CorruptError
        What was copied does not match its checksums.
    """
    final = Path(directory).absolute() / Path(path).name
    tmp = final.with_name(f".{final.name}.tmp")
    with _writing(tmp):
        shutil.rmtree(tmp, ignore_errors=True)
        shutil.copytree(path, tmp)
        _sync_tree(tmp)
    try:
        check(tmp)
    except CorruptError:
        shutil.rmtree(tmp)
        raise
    shutil.rmtree(final, ignore_errors=True)
    tmp.rename(final)
    files.fsync_dir(final.parent)
    return final


def restore(path: Path, abstract: Any) -> Any:
    """Read a checked checkpoint into the structure, types and shardings of `abstract`.

    Raises
    ------
    CorruptError
        The checkpoint holds other arrays than those asked for.
    """
    import orbax.checkpoint as ocp

    note = files.read_sealed(path / "manifest.json")
    wanted, held = _leaves(abstract), note["leaves"]
    if wanted != held:
        differing = [k for k in sorted(set(wanted) | set(held)) if wanted.get(k) != held.get(k)]
        raise CorruptError(
            "a checkpoint holds other arrays than this model has",
            where=str(path),
            expected={k: wanted.get(k) for k in differing[:3]},
            got={k: held.get(k) for k in differing[:3]},
            fix="use the configuration that the checkpoint was made with",
        )
    with ocp.StandardCheckpointer() as checkpointer:
        arrays = checkpointer.restore(Path(path).absolute() / "arrays", _as_dict(abstract))
    treedef = jax.tree.structure(abstract)
    return jax.tree.unflatten(treedef, [arrays[k] for k in sorted(arrays)])


def digest(state: Any) -> str:
    """SHA-256 over types, shapes and bytes of a state's arrays: names a model, whichever run or resume wrote it."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(sharding.to_host(state)):
        array = np.ascontiguousarray(leaf)
        total.update(f"{array.dtype.str}{array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()

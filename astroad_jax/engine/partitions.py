"""Partitions on their way through the scorer: read, scored and written at the same time, each file whole or absent."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astroad_jax import faults, files
from astroad_jax.engine import processes, scorebook
from astroad_jax.engine.overlap import ahead
from astroad_jax.engine.progress import Progress, Sized
from astroad_jax.engine.signals import asked_to_stop
from astroad_jax.errors import AstroadError, DataError, Interrupted, MismatchError
from astroad_jax.types import State

BAD_SCORE = 32  # flag: the model gave no finite score for this object
BAD_COMPONENT = 128  # flag: a component of the score is not finite, and null
FLAG_NAMES = {BAD_SCORE: "score not finite", BAD_COMPONENT: "a component of the score not finite"}


class Chunk(NamedTuple):
    """Rows on their way to the scorer.

    Attributes
    ----------
    columns : dict
        What is passed on as it is: ``object_id``, and ``ra``, ``dec``, ``label`` where there are any.
    x : (N, ...) array
        Objects as the scorer takes them.
    flags : (N,) uint32
        What is known to be wrong with each object.
    share : float
        How much of its partition lies behind with this chunk; 0 where that is not known.
    """

    columns: dict[str, np.ndarray]
    x: np.ndarray
    flags: np.ndarray
    share: float = 0.0


class Partition(NamedTuple):
    """One input.

    Attributes
    ----------
    name : str
        Safe as a file name.
    path : str
        Where it comes from.
    chunks : () -> iterator of Chunk
        Its rows.
    stamp : str
        Changes when the input does; it is then scored anew.
    size : int
        Bytes, for estimates of time; 0 where they are not known.
    """

    name: str
    path: str
    chunks: Callable[[], Iterator[Chunk]]
    stamp: str = ""
    size: int = 0


class Work(NamedTuple):
    """What scoring any partition takes."""

    scorer: Callable[[State, np.ndarray, np.ndarray], dict[str, np.ndarray]]
    state: State
    out: Path
    note: dict[str, Any]  # metadata of every file
    unusable: Callable[[np.ndarray], np.ndarray]  # flags -> whose score is null
    p_value: Callable[[np.ndarray], np.ndarray] | None


class _Begin(NamedTuple):
    """A partition's chunks follow."""

    partition: Partition


class _End(NamedTuple):
    """They have ended; with a reason where the partition is to be set aside, without rows where it was done before."""

    partition: Partition
    reason: str = ""
    skipped: bool = False


class _Scored(NamedTuple):
    """Rows as they are written, how many of their scores are null, and how much of the partition lies behind."""

    table: Any
    null: int
    share: float


def score_own(
    work: Work, book: dict[str, Any], partitions: Sequence[Partition], show: bool
) -> tuple[dict[str, Any], BaseException | None]:
    """Score this process's partitions: what became of each, and what stopped it, for the others must hear of both."""
    news: dict[str, dict[str, Any]] = {}
    number = processes.index()
    path = work.out / (f"progress.{number}.jsonl" if number else "progress.jsonl")
    progress = Progress(path, [Sized(item.name, item.size) for item in partitions], show)
    trouble: BaseException | None = None
    try:
        with asked_to_stop() as stop, closing(ahead(_scored(work, ahead(_read(work.out, book, partitions))))) as events:
            for name, entry in _written(work, _heeding(stop, events), progress):
                news[name] = entry
                scorebook.note_down(work.out, book, name, entry)
    except (AstroadError, OSError) as error:
        trouble = error
    finally:
        progress.close(finished=trouble is None and sys.exc_info()[0] is None)
    return news, trouble


def _read(out: Path, book: dict[str, Any], partitions: Iterable[Partition]) -> Iterator[Any]:
    """Events of what there is to do, with `Chunk`s between `_Begin` and `_End`."""
    for partition in partitions:
        if _is_done(out, book, partition):
            yield _End(partition, skipped=True)
            continue
        yield _Begin(partition)
        try:
            yield from partition.chunks()
        except DataError as error:
            yield _End(partition, str(error))
        else:
            yield _End(partition)


def _scored(work: Work, events: Iterator[Any]) -> Iterator[Any]:
    """The same events with every `Chunk` scored; a partition that cannot be ends there."""
    partition = None
    for event in events:
        if not isinstance(event, Chunk):
            partition = event.partition
            yield event
            continue
        try:
            table, null = score_chunk(work.scorer, work.state, event, work.unusable, work.p_value)
            yield _Scored(table, null, event.share)
        except DataError as error:
            while isinstance(event, Chunk):
                event = next(events)
            yield _End(partition, str(error))


def _heeding(stop: threading.Event, events: Iterable[Any]) -> Iterator[Any]:
    """The same events, until somebody asks to stop."""
    for event in events:
        if stop.is_set():
            raise Interrupted("scoring was stopped", fix="the same command goes on")
        yield event


def _written(work: Work, events: Iterator[Any], progress: Progress) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write what was scored: what became of every partition that was not done before, once it is durable."""
    for event in events:
        partition = event.partition
        if isinstance(event, _Begin):
            progress.begin(partition.name)
            try:
                entry = {"partitions": _write_one(work, partition, events, progress)}
            except _SetAside as aside:
                entry = {"quarantined": {"input": partition.path, "reason": str(aside)}}
                (work.out / f"{partition.name}.parquet").unlink(missing_ok=True)  # scores of what the input was before
                faults.point("removed")
            yield partition.name, entry
        progress.end(partition.name, skipped=isinstance(event, _End))


def _is_done(out: Path, book: dict[str, Any], partition: Partition) -> bool:
    """Whether a partition's file is there, whole, and from the same, unchanged input."""
    entry, path = book["partitions"].get(partition.name), out / f"{partition.name}.parquet"
    if entry is None or not path.exists():
        return False
    if entry["input"] != partition.path:
        raise MismatchError(
            "a score file of this name comes from another input",
            where=str(path),
            expected=entry["input"],
            got=partition.path,
            fix="choose another directory with --out",
        )
    return entry["stamp"] == partition.stamp and files.sha256(path) == entry["sha256"]


class _SetAside(Exception):
    """A partition cannot be scored, for this reason."""


def _write_one(work: Work, partition: Partition, events: Iterator[Any], progress: Progress) -> dict[str, Any]:
    """Write one partition's events, to its `_End`, into its file."""
    path = work.out / f"{partition.name}.parquet"
    rows = null = 0
    flags: Counter[str] = Counter()
    with files.atomic(path) as tmp, ExitStack() as opened:
        writer = None
        for event in events:
            if isinstance(event, _End):
                break
            if writer is None:
                writer = opened.enter_context(_open_writer(tmp, event.table, work.note))
            writer.write_table(event.table)
            faults.point("row")
            rows, null = rows + len(event.table), null + event.null
            flags.update(rows_per_flag(event.table["flags"].to_numpy()))
            progress.add(len(event.table), event.share)
        if event.reason:
            raise _SetAside(event.reason)
        if writer is None:
            fix = "leave it out"
            raise _SetAside(DataError("this input has no rows", where=partition.path, expected="at least one row", fix=fix))
    found = {"input": partition.path, "stamp": partition.stamp, "rows": rows, "null": null, "flags": dict(flags)}
    return {**found, "sha256": files.sha256(path)}


def rows_per_flag(flags: np.ndarray) -> dict[str, int]:
    """How many rows have each bit."""
    counts = {str(1 << bit): int(((flags >> bit) & 1).sum()) for bit in range(32)}
    return {bit: count for bit, count in counts.items() if count}


def score_chunk(
    scorer: Callable[[State, np.ndarray, np.ndarray], dict[str, np.ndarray]],
    state: State,
    chunk: Chunk,
    unusable: Callable[[np.ndarray], np.ndarray],
    p_value: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[Any, int]:
    """Arrow table of one chunk as score files have it, and how many of its scores are null; arguments as `score_catalog`."""
    import pyarrow as pa

    scores = dict(scorer(state, chunk.x, chunk.columns["object_id"]))
    flags = chunk.flags | scores.pop("flags", np.uint32(0))
    null = unusable(flags)
    bad = ~np.isfinite(scores["score"]) & ~null
    null = null | bad
    if p_value is not None:
        scores["p_value"] = p_value(scores["score"])
    columns = {name: pa.array(np.asarray(values)) for name, values in chunk.columns.items()}
    flags = flags | np.where(bad, BAD_SCORE, 0)
    for name, values in ({"score": scores["score"]} | scores).items():  # the score before its components
        columns[name] = pa.array(values, mask=null | ~np.isfinite(values))
        flags = flags | np.where(~null & ~np.isfinite(values), BAD_COMPONENT, 0)
    columns["flags"] = pa.array(flags.astype(np.uint32))
    return pa.table(columns), int(null.sum())


def _open_writer(path: Path, table: Any, note: dict[str, Any]) -> Any:
    import json

    import pyarrow.parquet as pq

    schema = table.schema.with_metadata({name: json.dumps(value, sort_keys=True) for name, value in note.items()})
    # Few values come twice: to look for those that do takes about as long as all else, and makes the files larger.
    return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False, write_page_checksum=True)

"""Score catalogues: one Parquet file per input partition, whole or absent, and a manifest that adds up.

Columns: ``object_id`` in its own type, ``ra``, ``dec`` and ``label`` where the input has them, ``score`` (up =
stranger), the method's components, ``p_value`` where the model is calibrated, ``flags``. An object that cannot be
scored has a null score and a flag that says why; a partition that cannot be read is quarantined with its reason, and
the others go on.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astroad_jax import faults, files
from astroad_jax.engine import processes, scorebook
from astroad_jax.engine.overlap import ahead
from astroad_jax.engine.progress import Progress, Sized
from astroad_jax.engine.signals import asked_to_stop
from astroad_jax.errors import AstroadError, CorruptError, DataError, Interrupted, MismatchError, StorageError
from astroad_jax.types import State

BAD_SCORE = 32  # flag: the model gave no finite score for this object
BAD_COMPONENT = 128  # flag: a component of the score is not finite, and null
FLAG_NAMES = {BAD_SCORE: "score not finite", BAD_COMPONENT: "a component of the score not finite"}
RESCORE = "score its input again: the same command does it"


class Chunk(NamedTuple):
    """Rows on their way to the scorer, preprocessed.

    Attributes
    ----------
    columns : dict
        What is passed on as it is: ``object_id``, and ``ra``, ``dec``, ``label`` where there are any.
    x : (N, ...) float32
        Finite everywhere.
    flags : (N,) uint32
        What is known to be wrong with each object.
    unusable : (N,) bool
        Objects whose score is null.
    share : float
        How much of its partition lies behind with this chunk; 0 where that is not known.
    """

    columns: dict[str, np.ndarray]
    x: np.ndarray
    flags: np.ndarray
    unusable: np.ndarray
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


class Report(NamedTuple):
    """What became of the rows: in = scored + null, and the partitions set aside with their reasons.

    Attributes
    ----------
    rows, scored, null : int
        Over the whole directory.
    flags : dict of int to int
        How many rows have each flag.
    quarantined : dict of str to str
        Inputs of this call that could not be scored, and why.
    earlier : dict of str to str
        Those of earlier calls.
    skipped : int
        Inputs of this call that were scored before.
    """

    rows: int
    scored: int
    null: int
    flags: dict[int, int]
    quarantined: dict[str, str]
    earlier: dict[str, str]
    skipped: int


def score_catalog(
    scorer: Callable[[State, np.ndarray, np.ndarray], dict[str, np.ndarray]],
    state: State,
    partitions: Sequence[Partition],
    out: Path,
    *,
    identity: dict[str, Any],
    p_value: Callable[[np.ndarray], np.ndarray] | None = None,
    flag_names: dict[int, str] | None = None,
    progress: bool = False,
) -> Report:
    """Score partitions into a directory; those already there are left alone.

    Reading, scoring and writing overlap: while one chunk is scored, the next is read and the one before is written, across
    the bounds of partitions. No more than five chunks are held, however many rows there are.

    Several `jax.distributed` processes that make the same call share the partitions out among themselves.

    Parameters
    ----------
    scorer : (state, x, ids) -> dict of (N,) arrays
        From `score.make_scorer`.
    identity : dict
        What the scores depend on (model digest, configuration); stored with every file. A directory made with another
        identity is refused.
    p_value : (scores) -> p-values, optional
        Calibration.
    flag_names : dict of int to str, optional
        What the flags of the chunks mean; written into every file beside the identity.

    Returns
    -------
    Report

    Raises
    ------
    MismatchError
        The directory holds scores of another model.
    BusyError
        Another process is writing there.
    CorruptError
        The directory's manifest, or a score file of an earlier call, is missing or damaged.
    Interrupted
        A signal asked for it; the same call goes on.
    """
    out = Path(out)
    _check_names(partitions)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError("cannot write scores here", where=str(out), got=str(error), fix="choose another --out") from error
    with processes.primary_only(lambda: files.lock(out)):
        book = processes.share([scorebook.open_book(out, identity) if processes.is_primary() else {}])[0]
        note = {"astroad_jax": identity, "flags": {str(bit): name for bit, name in (flag_names or {}).items()}}
        note["flags"] |= {str(bit): name for bit, name in FLAG_NAMES.items()}
        work = _Work(scorer, state, out, note, p_value)
        news, trouble = _score_own(work, book, processes.own_part(partitions), progress)
        everyone = processes.share([{"news": news, "trouble": str(trouble or "")}])
        for part in everyone:
            book |= scorebook.entered(book, part["news"])
        if processes.is_primary():
            scorebook.close_book(out, book)
        if trouble is not None:
            raise trouble
        if any(part["trouble"] for part in everyone):
            got = "; ".join(part["trouble"] for part in everyone if part["trouble"])
            raise StorageError("another process could not go on", where=str(out), got=got, fix=RESCORE)
        fresh = sum(len(part["news"]) for part in everyone)
        return _reconcile(out, book, [partition.name for partition in partitions], fresh)


class _Work(NamedTuple):
    """What scoring any partition takes."""

    scorer: Callable[[State, np.ndarray, np.ndarray], dict[str, np.ndarray]]
    state: State
    out: Path
    note: dict[str, Any]  # metadata of every file
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


def _score_own(
    work: _Work, book: dict[str, Any], partitions: Sequence[Partition], show: bool
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


def _scored(work: _Work, events: Iterator[Any]) -> Iterator[Any]:
    """The same events with every `Chunk` scored; a partition that cannot be ends there."""
    partition = None
    for event in events:
        if not isinstance(event, Chunk):
            partition = event.partition
            yield event
            continue
        try:
            yield _score_chunk(work, event)
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


def _written(work: _Work, events: Iterator[Any], progress: Progress) -> Iterator[tuple[str, dict[str, Any]]]:
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


def _check_names(partitions: Iterable[Partition]) -> None:
    seen: dict[str, str] = {}
    for partition in partitions:
        if partition.name in seen:
            raise DataError(
                "two inputs would write the same score file",
                where=f"{partition.name}.parquet",
                got=f"{seen[partition.name]} and {partition.path}",
                fix="rename one, or score them into different directories",
            )
        seen[partition.name] = partition.path


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


def _write_one(work: _Work, partition: Partition, events: Iterator[Any], progress: Progress) -> dict[str, Any]:
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
            flags.update(_count_flags(event.table["flags"].to_numpy()))
            progress.add(len(event.table), event.share)
        if event.reason:
            raise _SetAside(event.reason)
        if writer is None:
            fix = "leave it out"
            raise _SetAside(DataError("this input has no rows", where=partition.path, expected="at least one row", fix=fix))
    found = {"input": partition.path, "stamp": partition.stamp, "rows": rows, "null": null, "flags": dict(flags)}
    return {**found, "sha256": files.sha256(path)}


def _count_flags(flags: np.ndarray) -> dict[str, int]:
    """How many rows have each bit."""
    counts = {str(1 << bit): int(((flags >> bit) & 1).sum()) for bit in range(32)}
    return {bit: count for bit, count in counts.items() if count}


def _score_chunk(work: _Work, chunk: Chunk) -> _Scored:
    """Scores of one chunk, as they are written."""
    import pyarrow as pa

    scores = work.scorer(work.state, chunk.x, chunk.columns["object_id"])
    bad = ~np.isfinite(scores["score"]) & ~chunk.unusable
    null = chunk.unusable | bad
    if work.p_value is not None:
        scores = {**scores, "p_value": work.p_value(scores["score"])}
    columns = {name: pa.array(np.asarray(values)) for name, values in chunk.columns.items()}
    flags = chunk.flags | np.where(bad, BAD_SCORE, 0)
    for name, values in ({"score": scores["score"]} | scores).items():  # the score before its components
        columns[name] = pa.array(values, mask=null | ~np.isfinite(values))
        flags = flags | np.where(~null & ~np.isfinite(values), BAD_COMPONENT, 0)
    columns["flags"] = pa.array(flags.astype(np.uint32))
    return _Scored(pa.table(columns), int(null.sum()), chunk.share)


def _open_writer(path: Path, table: Any, note: dict[str, Any]) -> Any:
    import json

    import pyarrow.parquet as pq

    schema = table.schema.with_metadata({name: json.dumps(value, sort_keys=True) for name, value in note.items()})
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)


def _reconcile(out: Path, book: dict[str, Any], asked: list[str], fresh: int) -> Report:
    """Add up, and make sure that what the manifest says is there."""
    import pyarrow.parquet as pq

    entries = book["partitions"]
    for name, entry in entries.items():
        path = out / f"{name}.parquet"
        with _reading(path):
            held = pq.read_metadata(path).num_rows
        if held != entry["rows"]:
            raise CorruptError("rows were lost", where=str(path), expected=entry["rows"], got=held, fix=RESCORE)
    rows, null = sum(e["rows"] for e in entries.values()), sum(e["null"] for e in entries.values())
    flags: Counter[int] = Counter()
    for entry in entries.values():
        flags.update({int(bit): count for bit, count in entry["flags"].items()})
    reasons = {name: entry["reason"] for name, entry in book["quarantined"].items()}
    now = {name: reason for name, reason in reasons.items() if name in asked}
    earlier = {name: reason for name, reason in reasons.items() if name not in asked}
    return Report(rows, rows - null, null, dict(sorted(flags.items())), now, earlier, len(asked) - fresh)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises over a score file that is gone or damaged into a `CorruptError`."""
    try:
        yield
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise CorruptError("a score file is missing or damaged", where=str(path), got=str(error), fix=RESCORE) from error


def inputs(out: Path) -> list[tuple[str, int]]:
    """Input and number of rows of every partition, in the order in which `read_scores` lays them end to end."""
    book = files.read_sealed(Path(out) / "manifest.json")
    return [(entry["input"], entry["rows"]) for entry in book["partitions"].values()]


def read_scores(out: Path, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """All rows of a score directory, in partition order; null scores as NaN.

    Raises
    ------
    DataError
        There is no score directory here, nothing in it, or ids of different types.
    CorruptError
        A score file is missing or damaged.
    """
    import pyarrow as pa

    path = Path(out) / "manifest.json"
    if not path.exists():
        raise DataError("no score directory", where=str(out), fix="make one with astroad score")
    tables = [_read_one(Path(out) / f"{name}.parquet", columns) for name in files.read_sealed(path)["partitions"]]
    if not tables:
        raise DataError("no input was scored", where=str(out), fix="astroad score says why it set them aside")
    try:
        table = pa.concat_tables(tables, promote_options="default")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            "score files do not go together",
            where=str(out),
            expected="one type of object_id",
            got=str(error),
            fix="score inputs of different kinds into different directories",
        ) from error
    return {name: _to_numpy(table[name]) for name in table.column_names}


def _read_one(path: Path, columns: Sequence[str] | None) -> Any:
    import pyarrow.parquet as pq

    with _reading(path):
        return pq.read_table(path, columns=columns, page_checksum_verification=True)


def _to_numpy(column: Any) -> np.ndarray:
    """Array of a column; an absent text is empty, an absent number NaN."""
    import pyarrow as pa

    strings = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return np.array(column.fill_null("").to_pylist(), dtype=str) if strings else column.to_numpy()

"""Score catalogues: one Parquet file per input partition, whole or absent, and a manifest that adds up.

Columns: ``object_id`` in its own type, ``ra``, ``dec`` and ``label`` where the input has them, ``score`` (up =
stranger), the method's components, ``p_value`` where the model is calibrated, ``flags``. An object that cannot be
scored has a null score and a flag that says why; a partition that cannot be read is quarantined with its reason, and
the others go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astroad_jax import files
from astroad_jax.engine import processes, scorebook
from astroad_jax.engine.partitions import FLAG_NAMES, Chunk, Partition, Work, score_own
from astroad_jax.errors import CorruptError, DataError, StorageError
from astroad_jax.types import State

__all__ = ["FLAG_NAMES", "Chunk", "Partition", "Report", "inputs", "read_scores", "score_catalog"]
RESCORE = "score its input again: the same command does it"


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
    unusable: Callable[[np.ndarray], np.ndarray],
    p_value: Callable[[np.ndarray], np.ndarray] | None = None,
    flag_names: dict[int, str] | None = None,
    progress: bool = False,
    begun: Callable[[list[Partition]], None] | None = None,
) -> Report:
    """Score partitions into a directory; those already there are left alone.

    Reading, scoring and writing overlap: while one chunk is scored, the next is read and the one before is written, across
    the bounds of partitions. No more than five chunks are held, however many rows there are.

    Several `jax.distributed` processes that make the same call share the partitions out among themselves.

    Parameters
    ----------
    scorer : (state, x, ids) -> dict of (N,) arrays
        From `score.make_scorer`; ``flags`` that it returns join those of the chunks.
    identity : dict
        What the scores depend on (model digest, configuration); stored with every file. A directory made with another
        identity is refused.
    unusable : (flags) -> (N,) bool
        Which objects get a null score.
    p_value : (scores) -> p-values, optional
        Calibration.
    flag_names : dict of int to str, optional
        What the flags of the chunks mean; written into every file beside the identity.
    progress : bool
        Show a bar.
    begun : (partitions) -> None, optional
        Called with what is still to be scored, if anything, before the first of it is read.

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
    files.make_directory(out, "scores")
    with processes.primary_only(lambda: files.lock(out)):
        book = processes.share([scorebook.open_book(out, identity) if processes.is_primary() else {}])[0]
        note = {"astroad_jax": identity, "flags": {str(bit): name for bit, name in (flag_names or {}).items()}}
        note["flags"] |= {str(bit): name for bit, name in FLAG_NAMES.items()}
        work = Work(scorer, state, out, note, unusable, p_value)
        left = [item for item in partitions if book["partitions"].get(item.name, {}).get("stamp") != item.stamp]
        if begun and left:
            begun(left)
        news, trouble = score_own(work, book, processes.own_part(partitions), progress)
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
        There is no score directory here, or a catalogue in HATS format; nothing in it, or ids of different types.
    CorruptError
        A score file is missing or damaged.
    """
    import pyarrow as pa

    path = scorebook.manifest_of(out)
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

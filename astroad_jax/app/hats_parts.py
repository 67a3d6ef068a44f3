"""What a worker does with one partition of a HATS catalogue: count its rows, score them, add up what was written."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from astroad_jax import files
from astroad_jax.app.partition import score_partition
from astroad_jax.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

QUARANTINE = "quarantined"  # of an unfinished catalogue: one note a partition


class Part(NamedTuple):
    """One partition as its files' footers describe it.

    Attributes
    ----------
    rows : int
    stamp : str
        Sizes and times of change: another one means that the partition has changed.
    trouble : str
        Why the footers cannot be read; empty where they can.
    """

    rows: int
    stamp: str
    trouble: str


class Tally(NamedTuple):
    """What a partition's scores add up to; `unexplained` counts null scores without a flag, `sha256` is the file's."""

    rows: int
    null: int
    unexplained: int
    flags: dict[str, int]
    sha256: str


def look(path: Any, several: bool) -> Part:
    """Count a partition's rows without reading them.

    Parameters
    ----------
    path : UPath
        A Parquet file, or a directory of them where a partition is `several` files.
    """
    import pyarrow.parquet as pq

    try:
        found = _files(path, several)
        rows = sum(pq.read_metadata(file.path, filesystem=file.fs).num_rows for file in found)
        stats = [file.stat() for file in found]
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        return Part(0, "", f"{type(error).__name__}: {error}")
    return Part(rows, "; ".join(f"{stat.st_size} bytes of {stat.st_mtime}" for stat in stats), "")


def trouble(path: Any, several: bool, columns: Sequence[str]) -> str:
    """Why columns of a partition cannot be read, all pages' checksums compared; empty where they can."""
    try:
        for file in _files(path, several):
            for _ in _batches(file, columns):
                pass
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _files(path: Any, several: bool) -> list[Any]:
    return sorted(file for file in path.iterdir() if file.is_file()) if several else [path]


def _batches(file: Any, columns: Sequence[str]) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file.path, filesystem=file.fs, page_checksum_verification=True) as parquet:
        yield from parquet.iter_batches(columns=list(columns))


def score_pixel(frame: pd.DataFrame, pixel: Any, *, partial: str, **options: Any) -> pd.DataFrame:
    """`score_partition`; a partition that cannot be scored leaves a note with the reason, and no row.

    Parameters
    ----------
    partial : str
        Directory of the unfinished catalogue.
    """
    try:
        return score_partition(frame, pixel, **options)
    except DataError as error:
        set_aside(Path(partial), pixel, str(error))
        return score_partition(frame.iloc[:0], pixel, **options)


def set_aside(partial: Path, pixel: Any, reason: str) -> None:
    """Note down why a partition is not scored."""
    shelf = partial / QUARANTINE
    shelf.mkdir(exist_ok=True)
    note = {"order": int(pixel.order), "pixel": int(pixel.pixel), "reason": reason}
    files.write_sealed(shelf / f"{pixel.order}_{pixel.pixel}.json", note)


def quarantined(partial: Path) -> dict[tuple[int, int], str]:
    """(order, pixel) -> reason of all partitions set aside."""
    notes = [files.read_sealed(path) for path in sorted((partial / QUARANTINE).glob("*.json"))]
    return {(note["order"], note["pixel"]): note["reason"] for note in notes}


def forget_quarantined(partial: Path) -> None:
    """Drop the notes: the next call tries anew."""
    shutil.rmtree(partial / QUARANTINE, ignore_errors=True)


def tally(path: Any) -> Tally:
    """Add up a partition's scores, all pages' checksums compared; of one that was not written there are none.

    Raises
    ------
    OSError, ValueError
        The file is damaged.
    """
    from astroad_jax.engine.partitions import rows_per_flag

    rows = null = unexplained = 0
    flags: Counter[str] = Counter()
    if not path.exists():
        return Tally(rows, null, unexplained, flags, "")
    for batch in _batches(path, ["score", "flags"]):
        missing = batch["score"].is_null().to_numpy(zero_copy_only=False)
        raised = batch["flags"].to_numpy(zero_copy_only=False)
        rows, null = rows + len(missing), null + int(missing.sum())
        unexplained += int((missing & (raised == 0)).sum())
        flags.update(rows_per_flag(raised))
    return Tally(rows, null, unexplained, flags, files.sha256(Path(path.path)))


def forget_unfinished(partial: Path, rows: dict[Any, int], paths: dict[Any, Any]) -> None:
    """Drop LSDB's marks of partitions that are not there to the last row; it resumes only where all its marks agree.

    A kill between two of its writes leaves marks that do not, and a partition set aside has marks but no file.

    Parameters
    ----------
    rows : dict
        Pixel -> rows that its scores must have.
    paths : dict
        Pixel -> where they are.
    """
    for pixel, path in paths.items():
        marks = _marks(partial, pixel)
        there = [mark for mark in marks if mark.exists()]
        if there and (len(there) < len(marks) or look(path, several=False).rows != rows[pixel]):
            for mark in there:
                mark.unlink()


def is_done(partial: Path, pixel: Any) -> bool:
    """Whether LSDB has marked a partition as written."""
    return _marks(partial, pixel)[0].exists()


def _marks(partial: Path, pixel: Any) -> list[Path]:
    name = f"{pixel.order}_{pixel.pixel}"
    return [partial / "done" / f"{name}_done", partial / "hists" / f"{name}_histogram.npz"]

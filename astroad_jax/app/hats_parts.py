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
DONE, HISTOGRAMS = "done", "hists"  # LSDB's own, of partitions that are written


class Part(NamedTuple):
    """One partition as its files' footers describe it.

    Attributes
    ----------
    rows : int
    stamp : str
        Sizes and times of change: another one means that the partition has changed.
    trouble : str
        Why it cannot be scored: footers that cannot be read, columns of other types; empty where it can.
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


def look(path: Any, several: bool, schema: Any = ()) -> Part:
    """Count a partition's rows without reading them, and compare its columns with the catalogue's.

    Parameters
    ----------
    path : UPath
        A Parquet file, or a directory of them where a partition is `several` files.
    schema : pyarrow.Schema
        The columns that are read: LSDB makes up values of those that are absent, and casts what has another type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    stamp = ""
    try:
        found = _files(path, several)
        stamp = "; ".join(f"{stat.st_size} bytes of {stat.st_mtime}" for stat in (file.stat() for file in found))
        heads = [pq.read_metadata(file.path, filesystem=file.fs) for file in found]
        differing = [reason for head in heads for reason in _differing(head.schema.to_arrow_schema(), schema)]
    except (OSError, ValueError, pa.ArrowException) as error:
        return Part(0, stamp, f"{type(error).__name__}: {error}")
    return Part(sum(head.num_rows for head in heads), stamp, "; ".join(differing))


def _differing(held: Any, schema: Any) -> list[str]:
    """What of the columns that are read is not in a file as the catalogue says."""
    absent = [f"column {field.name!r} is not there" for field in schema if held.get_field_index(field.name) < 0]
    both = [(field, held.field(field.name).type) for field in schema if held.get_field_index(field.name) >= 0]
    return absent + [
        f"column {field.name!r} is of {found}, in the catalogue of {field.type}"
        for field, found in both
        if not _fits(found, field.type)
    ]


def _fits(found: Any, wanted: Any) -> bool:
    """Whether all values of one Arrow type are values of the other, too."""
    from pyarrow import types

    found, wanted = (kind.value_type if types.is_dictionary(kind) else kind for kind in (found, wanted))
    for number in (types.is_signed_integer, types.is_unsigned_integer, types.is_floating):
        if number(found) and number(wanted):
            return found.bit_width <= wanted.bit_width
    texts = [types.is_string(kind) or types.is_large_string(kind) for kind in (found, wanted)]
    return found == wanted or types.is_null(found) or all(texts)


def trouble(path: Any, several: bool, columns: Sequence[str]) -> str:
    """Why columns of a partition cannot be read, all pages' checksums compared; empty where they can."""
    import pyarrow as pa

    try:
        for file in _files(path, several):
            for _ in _batches(file, columns):
                pass
    except (OSError, ValueError, pa.ArrowException) as error:
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
    OSError, ValueError, pyarrow.ArrowException
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
    """Drop partitions that are not there to the last row, and LSDB's marks of them; it resumes only where all marks agree.

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
        if not all(mark.exists() for mark in marks) or look(path, several=False).rows != rows[pixel]:
            for file in (*marks, path):
                file.unlink(missing_ok=True)


def is_written(partial: Path) -> bool:
    """Whether LSDB has come to its last write, and has nothing left but to remove its marks."""
    first, last = partial / "hats.properties", partial / "properties"
    return first.exists() and last.exists() and 0 < first.stat().st_size == last.stat().st_size


def forget_marks(partial: Path) -> None:
    """Drop all of LSDB's marks."""
    for name in (DONE, HISTOGRAMS):
        shutil.rmtree(partial / name, ignore_errors=True)


def is_done(partial: Path, pixel: Any) -> bool:
    """Whether LSDB has marked a partition as written."""
    return _marks(partial, pixel)[0].exists()


def _marks(partial: Path, pixel: Any) -> list[Path]:
    name = f"{pixel.order}_{pixel.pixel}"
    return [partial / DONE / f"{name}_done", partial / HISTOGRAMS / f"{name}_histogram.npz"]

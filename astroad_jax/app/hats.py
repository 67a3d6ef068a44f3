"""``astroad hats``: a run and a catalogue in HATS format -> a catalogue of its scores, in HATS format.

LSDB and Dask do the work: each partition is read, scored (`partition`) and written by one worker. `OUT` is there when all
of it is; until then `OUT.partial` holds the partitions that are done, and the same call goes on with the others.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from astroad_jax import files
from astroad_jax.app import hats_book, hats_parts, hats_survey
from astroad_jax.errors import AstroadError, DataError, StorageError

FULL = (errno.ENOSPC, errno.EDQUOT)


def score_hats(
    run: str | Path, catalog: str | Path, out: str | Path, *, overrides: Sequence[str] = (), progress: bool = False
) -> hats_book.Report:
    """Score a catalogue in HATS format into another one, with the same partitions.

    Partitions go to the workers of the Dask client that is open (`cluster`); without one they are scored in this process,
    one after another. Rows of a margin are scored where they belong, and not a second time. A partition that cannot be
    read or scored is quarantined with its reason.

    Parameters
    ----------
    run : path
        Run directory of a trained model, which all workers see.
    catalog : path
        A catalogue of objects or sources, or a collection with one.
    out : path
        The catalogue to be, on a file system that all workers see; a symbolic link is followed. Its columns are those of
        `score_partition`; its properties ``astroad_*`` say which model made it of what.
    overrides : sequence of str
        ``key=value`` for what may change after training, such as ``data.id=objectId``. Positions are always those by
        which the catalogue is partitioned.

    Returns
    -------
    hats_book.Report

    Raises
    ------
    DataError
        No such catalogue, features of the model that it lacks, no column of ids, nothing in it that can be scored.
    MismatchError
        The directory holds scores of another model, catalogue or choice of columns, or the run changes meanwhile.
    BusyError
        Another process is writing there.
    CorruptError
        Rows are missing in what was written, now or by an earlier call.
    """
    out = Path(os.path.realpath(out))  # a directory cannot be renamed to the name of a link
    if out.exists() and not out.is_dir():
        raise DataError("a file is in the place of the scores", where=str(out), fix="choose another --out")
    with hats_survey.scheduler():
        survey = hats_survey.survey(files.canonical(run), files.canonical(catalog), overrides)
        note = hats_book.note_of(survey)
        if out.exists() and any(out.iterdir()):
            return hats_book.held(survey, out, note)
        partial = out.with_name(f"{out.name}.partial")
        files.make_directory(partial, "scores")
        with files.lock(partial):
            book = hats_book.claim(partial, note)
            if "report" not in book:
                if not hats_parts.is_written(partial):
                    _write(survey, partial, note, progress)
                hats_parts.forget_marks(partial)
                book = hats_book.close(survey, partial, note)
            hats_parts.forget_quarantined(partial)
        partial.rename(out)
        files.fsync_dir(out.parent)
    return hats_book.report_of(book)


def _write(survey: hats_survey.Survey, partial: Path, note: dict[str, Any], progress: bool) -> None:
    """Score and write all partitions that can be read; what cannot is found out when LSDB stumbles over it."""
    hats_parts.forget_quarantined(partial)
    for pixel, part in survey.parts.items():
        if part.trouble:
            hats_parts.set_aside(partial, pixel, part.trouble)
    rows = {pixel: part.rows for pixel, part in survey.parts.items()}
    paths = hats_survey.paths_of(survey.catalog, partial)
    left = [pixel for pixel, part in survey.parts.items() if part.rows and not part.trouble]
    while left:
        hats_parts.forget_unfinished(partial, rows, paths)
        try:
            return _to_hats(survey, left, partial, note, progress)
        except Exception as error:  # LSDB wraps what a partition raises
            _settle()
            _raise_known(error)
            found = _unreadable(survey, [pixel for pixel in left if not hats_parts.is_done(partial, pixel)])
            if not found:
                _raise(error)
            for pixel, reason in found.items():
                hats_parts.set_aside(partial, pixel, reason)
            left = [pixel for pixel in left if pixel not in found]
    raise hats_book.nothing(survey, partial)


def _unreadable(survey: hats_survey.Survey, pixels: list[Any]) -> dict[Any, str]:
    """Which of these partitions are damaged, and how."""
    arguments = [(survey.paths[pixel], survey.several, survey.model.columns) for pixel in pixels]
    found = hats_survey.work(hats_parts.trouble, arguments)
    return {pixel: reason for pixel, reason in zip(pixels, found) if reason}


def _to_hats(survey: hats_survey.Survey, pixels: list[Any], partial: Path, note: dict[str, Any], progress: bool) -> None:
    from lsdb.io.to_hats import to_hats

    options = survey.options | {"partial": str(partial)}
    scored = survey.catalog.partitions[pixels].map_partitions(
        hats_parts.score_pixel, include_pixel=True, meta=survey.model.meta, **options
    )
    to_hats(
        scored,
        base_catalog_path=partial,
        catalog_name=partial.name.removesuffix(".partial"),
        addl_hats_properties={"ra_column": "ra", "dec_column": "dec", **hats_book.properties(survey, note)},
        resume=True,
        progress_bar=progress,
        error_if_empty=False,
        write_table_kwargs={"write_page_checksum": True},
    )


def _settle() -> None:
    """Wait for the workers: what they are about to write must not meet the call that goes on."""
    from dask.base import get_scheduler
    from distributed import Client

    client = getattr(get_scheduler(), "__self__", None)
    while isinstance(client, Client) and any(state.status == "pending" for state in client.futures.values()):
        time.sleep(0.1)


def _raise_known(error: BaseException) -> None:
    """Raise what a worker raised where that is not about its partition, rather than what LSDB and Dask make of it."""
    from distributed import KilledWorker

    for cause in _causes(error):
        if isinstance(cause, AstroadError):
            raise cause from None
        if isinstance(cause, KilledWorker):
            fix = "give each worker more memory: fewer --workers; the same command goes on"
            raise AstroadError("a worker was killed again and again", got=str(cause), fix=fix) from error
        if isinstance(cause, OSError) and cause.errno in FULL:
            raise _not_written(cause) from error


def _raise(error: BaseException) -> None:
    """Raise what is not explained by any partition."""
    for cause in _causes(error):
        if isinstance(cause, OSError):
            raise _not_written(cause) from error
    raise error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _not_written(error: OSError) -> StorageError:
    fix = "see to the file system; the same command goes on"
    return StorageError("a worker could not write", got=str(error), fix=fix)

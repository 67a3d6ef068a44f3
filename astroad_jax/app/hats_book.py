"""The account of a catalogue of scores: what it is of, whose work it may go on with, and what its rows add up to."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from astroad_jax import __version__, files
from astroad_jax.app import hats_parts, hats_survey
from astroad_jax.errors import CorruptError, DataError, check_same

NOTE = "astroad.json"  # in the catalogue of scores: what they are of, and what they add up to


class Report(NamedTuple):
    """What became of the rows: rows in = scored + null + those of quarantined partitions.

    Attributes
    ----------
    rows, scored, null : int
        Of the catalogue of scores.
    flags : dict of int to int
        How many rows have each flag.
    names : dict of int to str
        What these flags mean.
    quarantined : dict of str to str
        Partitions that could not be read or scored, and why.
    lost : int
        Rows of quarantined partitions, as far as their footers tell.
    """

    rows: int
    scored: int
    null: int
    flags: dict[int, int]
    names: dict[int, str]
    quarantined: dict[str, str]
    lost: int


def note_of(survey: hats_survey.Survey) -> dict[str, Any]:
    """What scores are of: model, catalogue, and what its columns were taken for."""
    roles = {role: list(name) if isinstance(name, tuple) else name for role, name in survey.model.roles._asdict().items()}
    return {"identity": survey.model.identity, "input": hats_survey.identity(survey), "columns": roles}


def held(survey: hats_survey.Survey, out: Path, note: dict[str, Any]) -> Report:
    """The report of scores that are there already, their files there and of as many rows.

    Raises
    ------
    CorruptError
        They are not.
    """
    if not (out / NOTE).exists():
        fix = "choose another --out"
        raise DataError("this directory holds something else", where=str(out), expected="nothing yet", fix=fix)
    book = files.read_sealed(out / NOTE)
    _check(out, book, note)
    report = report_of(book)
    paths = [path for path in hats_survey.paths_of(survey.catalog, out).values() if path.exists()]
    parts = hats_survey.work(hats_parts.look, [(path, False) for path in paths])
    wrong = [f"{name} is missing" for name in book["files"] if not (out / name).is_file()]
    wrong += [f"{path}: {part.trouble}" for path, part in zip(paths, parts) if part.trouble]
    rows = sum(part.rows for part in parts)
    if wrong or rows != report.rows:
        got = "; ".join(wrong[:5]) or f"{rows} rows"
        raise CorruptError("scores are damaged", where=str(out), expected=f"{report.rows} rows", got=got, fix=_anew(out))
    return report


def report_of(book: dict[str, Any]) -> Report:
    """Report that a note holds."""
    counted = {key: {int(bit): value for bit, value in book["report"][key].items()} for key in ("flags", "names")}
    return Report(**book["report"] | counted)


def claim(partial: Path, note: dict[str, Any]) -> dict[str, Any]:
    """Write down what the scores will be of, or compare with what an earlier call wrote; it may have come to the report."""
    if (partial / NOTE).exists():
        book = files.read_sealed(partial / NOTE)
        _check(partial, book, note)
        return book
    strangers = [path.name for path in partial.iterdir() if path.name != ".lock"]
    if strangers:
        fix = "remove it, or choose another --out"
        raise DataError("this directory holds something else", where=str(partial), got=strangers[:5], fix=fix)
    files.write_sealed(partial / NOTE, note)
    return note


def close(survey: hats_survey.Survey, partial: Path, note: dict[str, Any]) -> dict[str, Any]:
    """Write down what the scores add up to, with the checksums of all files: workers have computed the partitions'."""
    report, sums = reconcile(survey, partial)
    passing = (partial / NOTE, partial / ".lock", *partial.glob(f"{hats_parts.QUARANTINE}/*"))
    others = [path for path in sorted(partial.rglob("*")) if path.is_file() and path not in passing]
    names = {path.relative_to(partial).as_posix(): path for path in others}
    sums |= {name: files.sha256(path) for name, path in names.items() if name not in sums}
    book = note | {"report": report._asdict(), "files": sums}
    files.write_sealed(partial / NOTE, book)
    return book


def _check(directory: Path, held: dict[str, Any], note: dict[str, Any]) -> None:
    what, fix = "this directory holds scores of another ", "choose another --out, or remove the directory to score anew"
    check_same(f"{what}model", held["identity"], note["identity"], where=str(directory), fix=fix)
    check_same(f"{what}catalogue", held["input"], note["input"], where=str(directory), fix=fix)
    check_same(f"{what}choice of columns", held["columns"], note["columns"], where=str(directory), fix=fix)


def properties(survey: hats_survey.Survey, note: dict[str, Any]) -> dict[str, str]:
    """What the catalogue's properties say of its scores."""
    identity = note["identity"]
    return {
        "astroad_version": __version__,
        "astroad_model": identity["model"],
        "astroad_method": identity["method"],
        "astroad_identity": json.dumps(identity, sort_keys=True),
        "astroad_flags": json.dumps({str(bit): name for bit, name in survey.model.flags.items()}),
        "astroad_input": note["input"]["path"],
        "astroad_id": note["columns"]["id"],
    }


def nothing(survey: hats_survey.Survey, partial: Path) -> DataError:
    """The error over a catalogue of which nothing can be scored."""
    reasons = list(hats_parts.quarantined(partial).values())[:3]
    return DataError(
        "no partition of this catalogue can be scored",
        where=survey.options["where"],
        expected="at least one row",
        got="; ".join(reasons) or f"{len(survey.parts)} partitions, all empty",
        fix="see to the catalogue, or leave it out",
    )


def reconcile(survey: hats_survey.Survey, partial: Path) -> tuple[Report, dict[str, str]]:
    """Add up what was written, partition by partition, and compare it with the input; with it the files' checksums."""
    aside = hats_parts.quarantined(partial)
    paths = hats_survey.paths_of(survey.catalog, partial)
    total: Counter[str] = Counter()
    flags: Counter[str] = Counter()
    sums: dict[str, str] = {}
    for (pixel, path), found in zip(paths.items(), _tallies(paths)):
        expected = 0 if (pixel.order, pixel.pixel) in aside else survey.parts[pixel].rows
        if found.rows != expected or found.unexplained:
            got = f"{found.rows} rows, {found.unexplained} of them without score and flag"
            raise CorruptError("rows were lost", where=str(path), expected=f"{expected} rows", got=got, fix=_anew(partial))
        total.update(rows=found.rows, null=found.null)
        flags.update(found.flags)
        sums |= {Path(path.path).relative_to(partial).as_posix(): found.sha256} if found.sha256 else {}
    if not total["rows"]:
        raise nothing(survey, partial)
    _check_list(partial, paths)
    names = {f"Norder={order}, Npix={pixel}": reason for (order, pixel), reason in aside.items()}
    lost = sum(survey.parts[pixel].rows for pixel in paths if (pixel.order, pixel.pixel) in aside)
    counts = dict(sorted((int(bit), count) for bit, count in flags.items()))
    meaning = {bit: survey.model.flags[bit] for bit in counts}
    return Report(total["rows"], total["rows"] - total["null"], total["null"], counts, meaning, names, lost), sums


def _check_list(partial: Path, paths: dict[Any, Any]) -> None:
    """Compare the catalogue's own list of partitions with the files."""
    import hats

    listed = hats.read_hats(partial).get_healpix_pixels()
    written = [pixel for pixel, path in paths.items() if path.exists()]
    if set(listed) != set(written):
        what = "the list of partitions is not that of the files"
        raise CorruptError(what, where=str(partial), expected=len(written), got=len(listed), fix=_anew(partial))


def _tallies(paths: dict[Any, Any]) -> tuple[hats_parts.Tally, ...]:
    import pyarrow as pa

    try:
        return hats_survey.work(hats_parts.tally, [(path,) for path in paths.values()])
    except (OSError, ValueError, pa.ArrowException) as error:
        what = "a partition of scores is damaged"
        raise CorruptError(what, got=str(error), fix="remove the unfinished catalogue and score again") from error


def _anew(partial: Path) -> str:
    return f"remove {partial}, and score again"

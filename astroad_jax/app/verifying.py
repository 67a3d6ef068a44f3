"""``astroad verify``: every hash of a run, a score directory, an explanation or an export computed anew."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from astroad_jax import files
from astroad_jax.app import bundle, explained, hats_book
from astroad_jax.engine import checkpoint
from astroad_jax.errors import AstroadError, DataError


class Verified(NamedTuple):
    """What was looked at, and what is wrong with it: a sentence a file, none where all is well."""

    kind: str
    checked: int
    problems: list[str]


def verify(path: Path) -> Verified:
    """Compare a directory's files with the checksums that were kept of them.

    Raises
    ------
    DataError
        It is none of these.
    """
    path = Path(path)
    if (path / "checkpoints").is_dir():
        return _run(path)
    if (path / "load.py").exists():
        return _export(path)
    if (path / hats_book.NOTE).exists():
        return _hats(path)
    if (path / "manifest.json").exists():
        return _scores(path)
    if (path / explained.BOOK).exists():
        return _explanation(path)
    raise DataError(
        "nothing here has checksums",
        where=str(path),
        expected="a directory of a run (checkpoints/ in it), scores or an export (manifest.json), or explanations",
        fix="name one that astroad train, score, hats, explain or export has made",
    )


def _run(path: Path) -> Verified:
    found = sorted((path / "checkpoints").glob("step_*"))
    problems = [problem for step in found for problem in _problem(checkpoint.check, step)]
    if not found:
        problems.append(f"{path / 'checkpoints'}: no checkpoint")
    if not (path / bundle.SEAL).exists():
        return Verified("unfinished run", len(found), problems)
    return Verified("run", len(found) + len(bundle.SEALED), problems + _problem(bundle.check_seal, path))


def _scores(path: Path) -> Verified:
    try:
        entries = files.read_sealed(path / "manifest.json")["partitions"]
    except AstroadError as error:
        return Verified("scores", 1, [str(error)])
    sums = {f"{name}.parquet": entry["sha256"] for name, entry in entries.items()}
    return _compared(path, sums, "*.parquet", "the scoring command writes it anew")


def _hats(path: Path) -> Verified:
    try:
        book = files.read_sealed(path / hats_book.NOTE)
    except AstroadError as error:
        return Verified("scores", 1, [str(error)])
    if "files" not in book:
        return Verified("unfinished scores", 1, [])
    return _compared(path, book["files"], "dataset/Norder=*/**/*.parquet", "it is none of these scores")


def _compared(path: Path, expected: dict[str, str], pattern: str, remark: str) -> Verified:
    """Files of scores, and what else is where they are: a remark is made on it."""
    differing = files.differing(path, expected)
    unknown = sorted({file.relative_to(path).as_posix() for file in path.glob(pattern)} - set(expected))
    problems = [f"{path / name}: {what}" for name, what in differing.items()]
    problems += [f"{path / name}: not in the manifest ({remark})" for name in unknown]
    return Verified("scores", len(expected) + 1, problems)


def _explanation(path: Path) -> Verified:
    try:
        found = explained.check(path)
    except AstroadError as error:
        return Verified("explanation", 1, [str(error)])
    return Verified("explanation", found.files, [f"{path}: {problem}" for problem in found.problems])


def _export(path: Path) -> Verified:
    try:
        expected = files.read_sealed(path / "manifest.json")["files"]
    except (AstroadError, OSError) as error:
        return Verified("export", 1, [str(error)])
    problems = [f"{path / name}: {what}" for name, what in files.differing(path, expected).items()]
    return Verified("export", len(expected) + 1, problems)


def _problem(check, path: Path) -> list[str]:
    try:
        check(path)
    except AstroadError as error:
        return [str(error)]
    return []

"""``astroad status``: how far a run or a scoring call is, asked from another shell; nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from astroad_jax import files
from astroad_jax.engine import progress, scorebook
from astroad_jax.errors import CorruptError, DataError


def status(path: Path) -> dict[str, Any]:
    """What a directory holds and who works on it, by name.

    Returns
    -------
    dict
        ``kind`` (``run``, ``scores`` or ``scores in HATS format``), ``state`` (``working``, ``finished`` or ``stopped``),
        ``by`` (process and host, where somebody works), and what is known of how far it is.

    Raises
    ------
    DataError
        It is neither a run nor a score directory.
    CorruptError
        Its files are damaged.
    """
    path = _begun(Path(path))
    owner = files.holder(path)
    by = {} if owner is None else {"by": f"process {owner['pid']} on {owner['host']}"}
    if (path / "config.toml").exists():
        return {"kind": "run", "state": _state(owner, (path / "manifest.json").exists()), **by, **_of_run(path)}
    if (path / scorebook.HATS).exists():
        return _of_hats(path, owner, by)
    if (path / "manifest.json").exists() or scorebook.notes(path):
        done = not scorebook.notes(path) and not progress.last_lines(path)
        return {"kind": "scores", "state": _state(owner, done), **by, **_of_scores(path)}
    if owner is not None:
        return {"kind": "unknown", "state": "working", **by}
    expected = "a directory that astroad train, score or hats writes to"
    raise DataError("nothing was begun here", where=str(path), expected=expected, fix="name one")


def _begun(path: Path) -> Path:
    """Where ``astroad hats`` works until all is done."""
    partial = path.with_name(f"{path.name}.partial") if path.name else path
    return partial if (partial / scorebook.HATS).exists() and not path.exists() else path


def _of_hats(path: Path, owner: Any, by: dict[str, str]) -> dict[str, Any]:
    book = files.read_sealed(path / scorebook.HATS)
    what = {"kind": "scores in HATS format", "state": _state(owner, "report" in book and path.suffix != ".partial"), **by}
    if "report" in book:
        report = book["report"]
        return {**what, "rows": report["rows"], "null": report["null"], "quarantined": len(report["quarantined"])}
    written = len(list(path.glob("dataset/Norder=*/Dir=*/Npix=*.parquet")))
    aside = len(list(path.glob("quarantined/*.json")))
    return {**what, "partitions": f"{written} of {book['input']['partitions']}", "quarantined": aside}


def _state(owner: Any, done: bool) -> str:
    if owner is not None:
        return "working"
    return "finished" if done else "stopped: the same command goes on"


def _of_run(path: Path) -> dict[str, Any]:
    rows = files.read_lines(path / "metrics.jsonl")
    steps = sorted(step.name for step in (path / "checkpoints").glob("step_*"))
    last = {name: rows[-1][name] for name in ("stage", "step", "total_step", "loss") if rows and name in rows[-1]}
    wrong = "; ".join(f"stage {stage}: {words}" for stage, words in _complaints(path, steps).items())
    complained = {"complaint": wrong, "last_checkpoint_before": _last_right(path)} if wrong else {}
    return {**last, "newest_checkpoint": steps[-1] if steps else None, **complained}


def _complaints(path: Path, steps: list[str]) -> dict[str, str]:
    """What the newest checkpoint was written in spite of; it may just be going."""
    try:
        return files.read_sealed(path / "checkpoints" / steps[-1] / "manifest.json").get("complaints", {}) if steps else {}
    except (OSError, CorruptError):
        return {}


def _last_right(path: Path) -> str | None:
    from astroad_jax.engine import checkpoint

    found = checkpoint.last_right(path / "checkpoints")
    return found.name if found else None


def _of_scores(path: Path) -> dict[str, Any]:
    try:
        book = files.read_sealed(path / "manifest.json")
    except FileNotFoundError:
        book = dict(scorebook.EMPTY)
    news = {note["name"]: note["news"] for note in scorebook.notes(path)}
    book |= scorebook.entered(book, news)
    entries = book["partitions"].values()
    try:
        rows, null = sum(entry["rows"] for entry in entries), sum(entry["null"] for entry in entries)
    except (KeyError, TypeError) as error:
        where = str(path / "manifest.json")
        raise CorruptError("a file of this directory is damaged", where=where, got=repr(error), fix="score anew") from error
    counts = {"files": len(entries), "rows": rows, "null": null, "quarantined": len(book["quarantined"])}
    now = progress.last_lines(path)
    if not now:
        return counts
    known = [line["seconds_left"] for line in now if line["seconds_left"] is not None]
    return {
        **counts,
        "this_call_inputs": f"{sum(line['inputs_done'] for line in now)} of {sum(line['inputs'] for line in now)}",
        "rows_per_second": sum(line["rows_per_second"] for line in now),
        "seconds_left": max(known) if known else None,
        "told_at": max(line["time"] for line in now),
        "input": ", ".join(line["input"] for line in now),
    }

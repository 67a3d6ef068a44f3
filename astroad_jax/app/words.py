"""What the verbs print."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def trained(out: Path, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Print where a model is, and the last of what its training has measured."""
    print(f"model   {out}")
    if not metrics:
        print("        was trained to its end before: nothing was done")
        return
    last = {key: value for key, value in metrics[-1].items() if key != "stage"}
    print("last    " + "  ".join(f"{key} {value:.6g}" for key, value in last.items()))


def show(found: Any) -> None:
    """Print an evaluation."""
    from astroad_jax.analysis.report import table

    print("\nstrangest objects\n" + table(found.top, digits=5))
    print()
    for name, value in found.measures.items():
        print(f"{name:22s} {number(value)}")


def figures(found: Any) -> None:
    """Print where an evaluation's figures are."""
    for figure in found.figures:
        print(f"figure  {figure}")


def scored(report: Any, names: Mapping[int, str], inputs: str) -> None:
    """Print what has become of the rows of a scoring call: names are those of the flags, inputs what was quarantined."""
    counts = f"rows {report.rows}  scored {report.scored}  null {report.null}"
    print(f"{counts}  quarantined {len(report.quarantined)} {inputs}")
    for flag, count in report.flags.items():
        print(f"flag {flag:3d}  {count} rows: {names[flag]}")
    for name, reason in report.quarantined.items():
        print(f"quarantined {name}: {reason}", file=sys.stderr)


def earlier(report: Any) -> None:
    """Print what earlier calls have done, and set aside, of a score directory."""
    if report.skipped:
        print(f"{report.skipped} inputs were scored before and left as they are")
    if report.earlier:
        print(f"quarantined by earlier calls: {', '.join(report.earlier)}")


def verified(directory: Path, found: Any) -> None:
    """Print what is wrong with a directory."""
    print(f"{directory}: {found.kind}, {found.checked} checked, {len(found.problems)} wrong")
    for problem in found.problems:
        print(problem, file=sys.stderr)


def number(value: Any) -> str:
    """A value to four digits; a list as an interval."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return " to ".join(number(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def exported(made: Any) -> None:
    """Print what was exported, and what it is good for."""
    print(f"export  {made.path}, {made.size / 2**20:.1f} MiB")
    print(f"checked {made.objects} objects: scores, p-values and flags are those of astroad score here, bit for bit")
    print(f"use     python {made.path / 'load.py'} OBJECTS.npz SCORES.npz")


def table_report(found: dict[str, Any]) -> str:
    """An inspection in words, each line a TOML comment: what `inspect` prints is a configuration as it stands."""
    from astroad_jax.analysis.report import table

    roles, labels = found["roles"], found["labels"]
    counts = {name.replace("_", " "): found[name] for name in ("complete_rows", "empty_rows", "duplicate_ids")}
    lines = [
        f"{found['path']}: {found['format']}, {found['rows']} rows, {len(found['columns'])} features",
        "  ".join(f"{name}: {roles[name] or '-'}" for name in ("id", "ra", "dec", "label")),
        "  ".join(f"{name} {count}" for name, count in counts.items()),
        *(["labels: " + ", ".join(f"{name or '(none)'} {count}" for name, count in labels.items())] if labels else []),
        *_selection_lines(found),
        *([] if roles["id"] else ["no column is known to hold ids: objects get row numbers, unless data.id names one"]),
        *([f"left out: {', '.join(f'{n} ({t})' for n, t in found['left_out'].items())}"] if found["left_out"] else []),
        *table(found["columns"]).splitlines(),
        "",
        "a configuration to start from",
    ]
    return commented("\n".join(lines))


def _selection_lines(found: dict[str, Any]) -> list[str]:
    """Of spectra: their grid, and how many objects are left out for what."""
    if "grid" not in found:
        return []
    reasons = [f"  {count} {name}" for name, count in found["reasons"].items()]
    return [f"spectra: {found['grid']}", f"objects left out: {found['left_out_rows']} of {found['rows']}", *reasons]


def commented(text: str) -> str:
    """Every line a comment."""
    return "\n".join(f"# {line}".rstrip() for line in text.splitlines())

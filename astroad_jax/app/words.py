"""What the verbs print."""

from __future__ import annotations

from typing import Any


def show(found: Any) -> None:
    """Print an evaluation."""
    from astroad_jax.analysis.report import table

    print("\nstrangest objects\n" + table(found.top, digits=5))
    print()
    for name, value in found.measures.items():
        print(f"{name:22s} {number(value)}")


def number(value: Any) -> str:
    """A value to four digits; a list as an interval."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return " to ".join(number(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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

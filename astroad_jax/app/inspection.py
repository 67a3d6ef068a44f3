"""``astroad inspect``: what a table holds, what is wrong with it, and a configuration to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from astroad_jax import config, data
from astroad_jax.app.scoring import duplicates

SHOWN = 12  # labels listed


def inspect(path: str | Path, settings: config.Data) -> dict[str, Any]:
    """Read a table once and count what matters.

    Returns
    -------
    dict
        ``rows``, ``format``, ``roles``, ``columns`` (one row each: type, missing, infinite, range, remarks),
        ``labels`` (counts), ``duplicate_ids``, ``complete_rows``, ``empty_rows``.
    """
    source = data.open_source(path)
    roles = data.find_roles(source, settings)
    counts = {name: np.zeros(2, np.int64) for name in roles.features}
    low = dict.fromkeys(roles.features, np.inf)
    high = dict.fromkeys(roles.features, -np.inf)
    labels: dict[str, int] = {}
    rows = complete = empty = 0
    for table in data.stream_tables(source, roles, 65536):
        x = table.x.reshape(len(table.x), len(roles.features), -1)
        nan, inf = np.isnan(x), np.isinf(x)
        rows, complete = rows + len(x), complete + int((~(nan | inf)).all((1, 2)).sum())
        empty += int(nan.all((1, 2)).sum())
        for i, name in enumerate(roles.features):
            counts[name] += [nan[:, i].sum(), inf[:, i].sum()]
            finite = x[:, i][np.isfinite(x[:, i])]
            if finite.size:
                low[name], high[name] = min(low[name], finite.min()), max(high[name], finite.max())
        for label, count in zip(*np.unique(table.label, return_counts=True)) if table.label is not None else ():
            labels[str(label)] = labels.get(str(label), 0) + int(count)
    columns = [_column(source, name, counts[name], low[name], high[name], rows) for name in roles.features]
    return {
        "path": source.path,
        "format": source.format,
        "rows": rows,
        "complete_rows": complete,
        "empty_rows": empty,
        "duplicate_ids": len(duplicates(source, roles)),
        "roles": roles._asdict(),
        "columns": columns,
        "labels": dict(sorted(labels.items(), key=lambda item: -item[1])),
    }


def _column(source: data.Source, name: str, counts: np.ndarray, low: float, high: float, rows: int) -> dict[str, Any]:
    remarks = []
    if low == high:
        remarks.append("constant")
    if counts.sum() == rows:
        remarks.append("nothing usable: ignore it")
    finite = low <= high
    return {
        "column": name,
        "type": str(source.columns[name].dtype),
        "missing": int(counts[0]),
        "infinite": int(counts[1]),
        "lowest": float(low) if finite else None,
        "highest": float(high) if finite else None,
        "remarks": ", ".join(remarks),
    }


def suggest(found: dict[str, Any], given: config.Data) -> config.Run:
    """A configuration for a table that `inspect` has seen with the columns `given`."""
    roles = {role: found["roles"][role] for role in ("id", "ra", "dec", "label")}
    several = len(set(found["labels"]) - {"", *given.anomalies}) >= 2
    useless = tuple(column["column"] for column in found["columns"] if column["lowest"] is None)
    incomplete = found["complete_rows"] < 0.9 * found["rows"]
    return config.Run(
        data=given.model_copy(update={"path": found["path"], **roles, "ignore": (*given.ignore, *useless)}),
        preprocess=config.Preprocess(nan="lowest" if incomplete else "flag"),
        method={"name": "mcdsvdd" if several else "deep_svdd"},
        train=config.Train(balance=several),
    )

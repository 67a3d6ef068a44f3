"""``astroad inspect``: what a table holds, what is wrong with it, and a configuration to start from."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from astroad_jax import config, data, files, preprocess
from astroad_jax.app.scoring import duplicates

SHOWN = 12  # labels listed
# suggested for spectra: the DESI paper's method and training
SPECTRAL = {"name": "vae", "likelihood": "ivar"}
HELD_OUT, BATCH_SIZE, EPOCHS = 0.25, 512, 50


def inspect(source: data.Source, settings: config.Data, spectra: config.Spectra | None = None) -> dict[str, Any]:
    """Read a table once and count what matters.

    Returns
    -------
    dict
        ``rows``, ``format``, ``roles``, ``left_out`` (columns that play no role, with their types), ``columns`` (one row
        each: type, missing, infinite, range, remarks), ``labels`` (counts), ``duplicate_ids``, ``complete_rows``
        (counting only columns with anything in them), ``empty_rows``; of spectra also ``left_out_rows``, ``reasons``
        (how many rows have each flag) and ``grid``, those `spectra` that they were brought to on reading.
    """
    roles = data.find_roles(source, settings)
    columns = {name: _Seen() for name in roles.features}
    labels: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    rows = complete = empty = lost = 0
    wanted = list(dict.fromkeys(name for name in (*roles.features, roles.label, roles.flags) if name))
    fitting = data.fitting_rows(source.columns[name] for name in wanted)
    for chunk in source.chunks(fitting, wanted):
        bad = np.concatenate([columns[name].add(chunk[name]) for name in roles.features], axis=1)
        rows, complete, empty = rows + len(bad), complete + int((~bad.any(1)).sum()), empty + int(bad.all(1).sum())
        if roles.label:
            names, counts = np.unique(data.as_labels(chunk[roles.label]), return_counts=True)
            labels.update(dict(zip(names.tolist(), counts.tolist())))
        if roles.flags:
            flags = chunk[roles.flags]
            reasons.update({name: int(((flags & bit) > 0).sum()) for bit, name in preprocess.FLAG_NAMES.items()})
            lost += int(preprocess.excluded(flags).sum())
    useful = [name for name, column in columns.items() if column.low <= column.high]
    if len(useful) < len(columns):  # a column without anything in it makes no row incomplete
        chunks = source.chunks(fitting, useful) if useful else ()
        bads = (np.concatenate([_Seen().add(chunk[name]) for name in useful], axis=1) for chunk in chunks)
        complete = sum(int((~bad.any(1)).sum()) for bad in bads)
    return {
        "path": source.path,
        "format": source.format,
        "rows": rows,
        "complete_rows": complete,
        "empty_rows": empty,
        "duplicate_ids": len(duplicates(source, roles)),
        "roles": roles._asdict(),
        "left_out": data.left_out(source, roles),
        "columns": [column.row(name, _kind(source.columns[name])) for name, column in columns.items()],
        "labels": dict(labels.most_common()),
    } | (_selection(lost, reasons, spectra or config.Spectra()) if roles.flags else {})


def _selection(lost: int, reasons: Counter[str], spectra: config.Spectra) -> dict[str, Any]:
    """What became of spectra on reading."""
    cuts = f"z {spectra.z_min:g} to {spectra.z_max:g}, " if spectra.frame == "rest" else ""
    cuts += f"S/N above {spectra.snr_min:g}, {spectra.coverage:.0%} of the grid covered, {spectra.good:.0%} good"
    grid = f"{spectra.bins} bins from {spectra.low:g} to {spectra.high:g} Angstrom in the {spectra.frame} frame; {cuts}"
    return {"left_out_rows": lost, "reasons": {name: count for name, count in reasons.items() if count}, "grid": grid}


def _kind(column: data.Column) -> str:
    """Type and, of an array, the shape of one row's value."""
    return f"{column.dtype} " + "x".join(map(str, column.shape)) if column.shape else str(column.dtype)


class _Seen:
    """What a feature column holds, counted chunk by chunk in the file's own precision."""

    def __init__(self) -> None:
        self.missing = self.infinite = 0
        self.low, self.high = np.inf, -np.inf

    def add(self, values: np.ndarray) -> np.ndarray:
        """Count one chunk; ``(N, values in a row)`` bool: which are not finite in float32."""
        x = values.reshape(len(values), -1).astype(np.float64)
        nan, inf = np.isnan(x), np.abs(x) > np.finfo(np.float32).max
        self.missing, self.infinite = self.missing + int(nan.sum()), self.infinite + int(inf.sum())
        finite = x[~(nan | inf)]
        if finite.size:
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))
        return nan | inf

    def row(self, name: str, kind: str) -> dict[str, Any]:
        """Line of the report."""
        finite = self.low <= self.high
        return {
            "column": name,
            "type": kind,
            "missing": self.missing,
            "infinite": self.infinite,
            "lowest": self.low if finite else None,
            "highest": self.high if finite else None,
            "remarks": self._remark(finite),
        }

    def _remark(self, finite: bool) -> str:
        if not finite:
            return "nothing usable: ignore it"
        if self.low == self.high:
            return "constant"
        grain = np.spacing(np.float32(max(abs(self.low), abs(self.high))))
        return "varies by less than float32 can tell: subtract an offset" if grain > 1e-3 * (self.high - self.low) else ""


def suggest(found: dict[str, Any], given: config.Data, spectra: config.Spectra | None = None) -> config.Run:
    """A configuration for a table that `inspect` has seen with the columns `given`, and spectra on the grid given."""
    roles = {role: found["roles"][role] for role in ("id", "ra", "dec", "label")}
    several = len(set(found["labels"]) - {"", *given.anomalies}) >= 2
    useless = tuple(column["column"] for column in found["columns"] if column["lowest"] is None)
    incomplete = found["complete_rows"] < 0.9 * found["rows"]
    spectral = "reasons" in found
    known = {"path": files.canonical(found["path"]), **roles, "ignore": (*given.ignore, *useless)}
    held_out = {"validation_fraction": given.validation_fraction or HELD_OUT} if spectral else {}
    return config.Run(
        data=given.model_copy(update=known | held_out),
        preprocess=config.Preprocess(nan="lowest" if incomplete else "flag"),
        spectra=spectra or config.Spectra(),
        method=SPECTRAL if spectral else {"name": "mcdsvdd" if several else "deep_svdd"},
        train=config.Train(batch_size=BATCH_SIZE, epochs=EPOCHS) if spectral else config.Train(balance=several),
    )

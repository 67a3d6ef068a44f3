"""``astroad evaluate``: a score directory and labels -> figures, a table of measures, the strangest objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astroad_jax import files
from astroad_jax.analysis import calibrate, metrics, plots
from astroad_jax.app.bundle import Bundle, load_arrays
from astroad_jax.app.split import TEST, hash_parts
from astroad_jax.engine import catalog
from astroad_jax.errors import DataError

LISTED = 20  # rows of the table of strangest objects


class Evaluation(NamedTuple):
    """What was measured, and which pictures were drawn."""

    measures: dict[str, Any]
    top: list[dict[str, Any]]
    figures: list[Path]


def evaluate(model: Bundle, run: Path, scores: Path, held_out_only: bool = True) -> Evaluation:
    """Measure and draw a score directory.

    Anomalies are the rows whose label is in ``data.anomalies`` or is no class of the model; a row without a label is
    neither anomaly nor inlier. Without labels the ranking, the calibration line and the histogram are all there is, and
    no measure is made up.

    Parameters
    ----------
    held_out_only : bool
        Leave the rows out that trained or calibrated the model.

    Raises
    ------
    DataError
        Nothing to evaluate: no score directory, or no held-out row with a score.
    """
    table = catalog.read_scores(scores)
    seen = _seen(model, run, scores, table) if held_out_only else np.zeros(len(table["score"]), bool)
    _check_any(table["score"], seen, scores)
    line = calibrate.threshold(model.calibration, model.settings.score.false_alarm_rate)
    measures: dict[str, Any] = {
        "rows": len(table["score"]),
        "null_scores": int(np.isnan(table["score"]).sum()),
        "held_out_rows": int((~seen).sum()),
        "calibration_rows": line.calibration_rows,
        "asked_false_alarm_rate": model.settings.score.false_alarm_rate,
    }
    drawn = bool(np.isfinite(line.value))
    if drawn:
        above = int((table["score"][~seen] > line.value).sum())
        measures |= {"threshold": line.value, "false_alarm_interval": [line.low, line.high], "above_threshold": above}
    else:  # too few calibration rows for any threshold: nothing is measured at one
        needed = calibrate.rows_needed(model.settings.score.false_alarm_rate)
        measures |= {"threshold": None, "calibration_rows_needed": needed}
    groups, positive = {"all": table["score"][~seen]}, anomalous(model, table)
    figures = [scores / "scores.png", _curves(run, scores)]
    judged = ~seen & (table["label"] != "") if positive is not None else seen
    if positive is not None and 0 < positive[judged].sum() < judged.sum():
        held = table["score"][judged], positive[judged]
        groups = {"inliers": held[0][~held[1]], "anomalies": held[0][held[1]]}
        ks = [k for k in (10, 100) if k < len(held[0])]
        measures |= metrics.summary(*held, threshold=line.value if drawn else None, ks=ks)
        plots.roc(scores / "roc.png", {model.settings.method["name"]: held})
        figures.append(scores / "roc.png")
    rate = f"{model.settings.score.false_alarm_rate:.1%} false alarms"
    plots.score_histogram(scores / "scores.png", groups, {rate: line.value} if drawn else {})
    top = strangest(table, LISTED)
    files.write_json(scores / "evaluation.json", {"measures": _plain(measures), "strangest": _plain(top)})
    return Evaluation(measures, top, figures)


def _check_any(score: np.ndarray, seen: np.ndarray, scores: Path) -> None:
    if np.isfinite(score[~seen]).any():
        return
    raise DataError(
        "there is nothing to measure",
        where=str(scores),
        expected="a score of an object that neither trained nor calibrated the model",
        got=f"{len(score)} objects, {np.isfinite(score).sum()} with a score, {seen.sum()} trained or calibrated on",
        fix="score other objects, or evaluate --all of them; the flags column says why scores are null",
    )


def _seen(model: Bundle, run: Path, scores: Path, table: dict[str, np.ndarray]) -> np.ndarray:
    """Which objects trained or calibrated the model: by their ids, or, of numbered rows, by those of the same table."""
    ids, parts = table["object_id"], load_arrays(Path(run) / "split.npz")
    paths, rows = zip(*catalog.inputs(scores))
    same = np.repeat([path == str(parts["table"]) for path in paths], rows) | (not parts["numbered"])
    return same & _used(model, parts, ids, table.get("label"))


def _used(model: Bundle, parts: dict[str, np.ndarray], ids: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """Whether ids are among those that trained, validated or calibrated the model."""
    if "train" not in parts:  # the table was streamed, and split by the hash of its ids
        return hash_parts(ids, labels, model.settings) != TEST
    used = np.concatenate([parts[name] for name in ("train", "validation", "calibration") if name in parts])
    if used.dtype != ids.dtype:  # the same digits in another type; mixed integers would meet as floats
        ids, used = ids.astype(str), used.astype(str)
    return np.isin(ids, used)


def anomalous(model: Bundle, table: dict[str, np.ndarray]) -> np.ndarray | None:
    """Which rows are anomalies by their label; None where there are no labels that tell."""
    if "label" not in table:
        return None
    labels, classes, named = table["label"], model.schema.classes, list(model.settings.data.anomalies)
    if classes == ("",):  # trained without labels: only what the run names can be told
        return np.isin(labels, named) if named else None
    return np.isin(labels, named) | ~np.isin(labels, [*classes, ""])


def strangest(table: dict[str, np.ndarray], count: int) -> list[dict[str, Any]]:
    """The objects of highest score, highest first; null scores never."""
    order = np.argsort(-np.where(np.isnan(table["score"]), -np.inf, table["score"]), kind="stable")[:count]
    order = order[np.isfinite(table["score"][order])]
    names = [name for name in ("object_id", "ra", "dec", "label", "z", "snr", "score", "p_value") if name in table]
    return [{"rank": i + 1, **{name: table[name][row].item() for name in names}} for i, row in enumerate(order)]


def _curves(run: Path, out: Path) -> Path:
    path = out / "training.png"
    plots.training_curves(path, files.read_lines(Path(run) / "metrics.jsonl"))
    return path


def _plain(value: Any) -> Any:
    """JSON without NaN: what is not a number is null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value

"""Figures as PNG files: ROC curves, score histograms, training curves.

Each function draws on a figure of its own, without pyplot, so nothing global is opened, changed or left
behind. The colours are those of Okabe & Ito, told apart with any colour vision; where lines meet, their
dashes differ as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from astroad_jax import files
from astroad_jax.analysis.metrics import auroc, roc_curve
from astroad_jax.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from astroad_jax.analysis.active import Curve

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
GREY = "#6b6b6b"
BINS = (12, 60)  # fewest and most
SKEWED = 30.0  # upper tail over median beyond which scores are shown on a logarithmic axis


def roc(path: Path, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str = "") -> None:
    """ROC curves of several rankings.

    Parameters
    ----------
    path : Path
        PNG file to write.
    curves : dict of name -> (scores (N,), positive (N,))
        Scores, up = stranger, and which objects are anomalies; null scores take no part.
    title : str
        Above the figure.
    """
    figure, [axes] = panels(1, width=5.6, height=5.0)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="chance")
    for (name, (scores, positive)), colour, dashes in zip(curves.items(), cycle(COLOURS), cycle(DASHES)):
        fpr, tpr, _ = roc_curve(scores, positive)
        area = auroc(scores, positive)
        label = f"{name} (AUROC {area:.3f})" if not math.isnan(area) else f"{name} (AUROC undefined)"
        axes.plot(fpr, tpr, color=colour, linestyle=dashes, linewidth=1.8, label=label)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", title=title)
    axes.set(
        xlabel="false positive rate (inliers above the line)",
        ylabel="true positive rate (anomalies above it)",
    )
    axes.legend(loc="lower right", fontsize=9, frameon=True, framealpha=0.9, edgecolor="none")
    save(figure, path)


def score_histogram(
    path: Path,
    scores_by_group: Mapping[str, np.ndarray],
    thresholds: Mapping[str, float] | None = None,
    title: str = "",
) -> None:
    """Histograms of scores, one outline a group, each as shares of its own group so that small groups show.

    The share is on a logarithmic axis, and so is the score where it is positive and its tail long. Objects
    without a finite score cannot be drawn; the legend counts them.

    Parameters
    ----------
    path : Path
        PNG file to write.
    scores_by_group : dict of label -> (N,) array
        Scores, up = stranger.
    thresholds : dict of label -> float, optional
        Lines to draw; infinite ones are left out.
    title : str
        Above the figure.

    Raises
    ------
    DataError
        No group has a finite score.
    """
    groups = {name: np.asarray(scores, np.float64) for name, scores in scores_by_group.items()}
    drawn = {name: scores[np.isfinite(scores)] for name, scores in groups.items()}
    edges, logarithmic = score_edges(list(drawn.values()))
    figure, [axes] = panels(1, width=7.0, height=4.2)
    for (name, scores), colour, dashes in zip(drawn.items(), cycle(COLOURS), cycle(DASHES)):
        absent = len(groups[name]) - len(scores)
        label = f"{name} (n = {len(scores):,})" + (f", {absent:,} without a finite score" if absent else "")
        share = np.histogram(scores, edges)[0] / max(1, len(scores))
        axes.stairs(share, edges, color=colour, fill=True, alpha=0.18)
        axes.stairs(share, edges, color=colour, linestyle=dashes, linewidth=1.6, label=label)
    axes.set(xlabel="score (right = stranger)", ylabel="share of the group", title=title)
    axes.set_xscale("log" if logarithmic else "linear")
    _logarithmic(axes, lambda share, _: f"{100 * share:g}%")
    axes.set_ylim(top=min(1.2, axes.get_ylim()[1]))
    _lines(axes, thresholds or {})
    figure.legend(loc="outside upper center", ncols=2, fontsize=9, frameon=False)
    save(figure, path)


def score_edges(groups: Sequence[np.ndarray]) -> tuple[np.ndarray, bool]:
    """Common bin edges, fine enough for the smallest group, and whether they are even in the logarithm."""
    scores = np.concatenate([np.zeros(0), *groups])
    if not len(scores):
        raise DataError("there is no finite score to draw")
    low, high = scores.min(), scores.max()
    if low == high:
        return np.linspace(low - 0.5, low + 0.5, 4), False
    bins = int(np.clip(2 * math.sqrt(min(len(group) for group in groups if len(group))), *BINS))
    if low > 0 and np.quantile(scores, 0.999) > SKEWED * np.median(scores):
        return np.geomspace(low, high, bins + 1), True
    return np.linspace(low, high, bins + 1), False


def _lines(axes: Axes, thresholds: Mapping[str, float]) -> None:
    """Vertical lines with their labels beside them, within the limits of the data where they can be."""
    for label, value in thresholds.items():
        if not math.isfinite(value):
            continue
        axes.axvline(value, color="#000000", linewidth=1, linestyle=(0, (3, 2)))
        place = {"xy": (value, 0.98), "xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate(label, xytext=(3, 0), rotation=90, fontsize=8, va="top", ha="left", **place)


def training_curves(path: Path, rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Metrics of a training run, one panel for each metric of each stage.

    The vertical axis is logarithmic where all values are positive and differ by a factor. Several members
    trained side by side, a list in the place of a number, are thin lines with their median on top.

    Parameters
    ----------
    path : Path
        PNG file to write.
    rows : sequence of dict
        Lines of ``metrics.jsonl``: ``stage``, ``step`` (within the stage), and metrics; ``total_step`` is not
        drawn.
    title : str
        Above the figure.

    Raises
    ------
    DataError
        No row has a metric.
    """
    series = _series(rows)
    if not series:
        raise DataError(
            "there is no metric to draw",
            expected="rows with stage, step and metrics",
            got=f"{len(rows)} rows",
        )
    figure, axes_of = panels(len(series), width=4.2, height=2.8)
    stages = list(dict.fromkeys(stage for stage, _ in series))
    for axes, ((stage, metric), (steps, values)) in zip(axes_of, series.items()):
        colour = COLOURS[stages.index(stage) % len(COLOURS)]
        _curve(axes, steps, values, colour)
        axes.set(xlabel="step", ylabel=metric)
        if _positive(values):
            _logarithmic(axes, lambda value, _: f"{value:g}")
        axes.set_title(stage, fontsize=10, color=colour)
    figure.suptitle(title)
    save(figure, path)


def _series(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """(stage, metric) -> steps (T,) and values (T, members), in order of appearance."""
    found: dict[tuple[str, str], list[tuple[int, Any]]] = {}
    for row in rows:
        for metric in row:
            if metric not in ("stage", "step", "total_step"):
                found.setdefault((row["stage"], metric), []).append((row["step"], row[metric]))
    return {
        key: (
            np.array([step for step, _ in points]),
            np.stack([np.ravel(value) for _, value in points]).astype(float),
        )
        for key, points in found.items()
    }


def _positive(values: np.ndarray) -> bool:
    """Whether a logarithmic axis can hold every finite value, and is worth it."""
    finite = values[np.isfinite(values)]
    return finite.size > 0 and bool((finite > 0).all()) and finite.max() > 3 * finite.min()


def _logarithmic(axes: Axes, label: Callable[[float, int], str]) -> None:
    """Logarithmic vertical axis with plain numbers, at 1, 2, 5 where it spans little."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(label))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _curve(axes: Axes, steps: np.ndarray, values: np.ndarray, colour: str) -> None:
    """One line, or thin ones under their median; single points get a marker to be seen at all."""
    marker = "o" if len(steps) == 1 else None
    if values.shape[1] > 1:
        axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.35, marker=marker)
        values = np.median(values, axis=1, keepdims=True)
    axes.plot(steps, values, color=colour, linewidth=1.6, marker=marker)


def learning(path: Path, curves: Mapping[str, Curve], title: str = "") -> None:
    """What labels gained: recall, and the share of wanted objects among the next, against the number of labels.

    The broken line of a colour is the ranking by the scores as they are.

    Parameters
    ----------
    path : Path
        PNG file to write.
    curves : dict of name -> Curve
        From `active.simulate`.

    Raises
    ------
    DataError
        No curve.
    """
    if not curves:
        raise DataError("there is no curve to draw", expected="at least one", got=0, fix="simulate one")
    figure, [left, right] = panels(2, width=5.0, height=3.8)
    for (name, curve), colour in zip(curves.items(), cycle(COLOURS)):
        for axes, learnt, raw in ((left, curve.recall, curve.raw_recall), (right, curve.share, curve.raw_share)):
            axes.plot(curve.labels, learnt, color=colour, linewidth=1.8, marker="o", markersize=3, label=name)
            axes.plot(curve.labels, raw, color=colour, linewidth=1.2, linestyle=DASHES[1], label=f"{name}, scores alone")
    sizes = next(iter(curves.values()))
    left.set(xlabel="labels given", ylabel=f"recall of the wanted in the top {sizes.top}", ylim=(-0.02, 1.02))
    right.set(xlabel="labels given", ylabel=f"share of the wanted in the next {sizes.ahead}", ylim=(-0.02, 1.02))
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2, fontsize=9, frameon=False, title=title or None)
    save(figure, path)


def panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels of this size in inches, at most three abreast."""
    from matplotlib.figure import Figure

    columns = min(3, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    grid = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for axes in grid:
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid


def grid(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of ``rows x columns`` axes of this mean size in inches; `options` as ``Figure.subplots`` has them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for each in axes.flat:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: Figure, path: Path) -> None:
    """Write the PNG atomically, and without matplotlib's version in it: same data, same bytes."""
    with files.atomic(Path(path)) as tmp:
        figure.savefig(tmp, format="png", dpi=150, metadata={"Software": None})

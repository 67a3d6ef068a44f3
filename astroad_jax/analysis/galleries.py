"""Figures about images: galleries, maps of features, fractions against a property. Drawn as `plots` draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from astroad_jax.analysis.calibrate import clopper_pearson
from astroad_jax.analysis.plots import COLOURS, DASHES, panels, save, score_edges
from astroad_jax.errors import DataError

RANGES = 3  # of a property, as many as `panels` are abreast


def gallery(
    path: Path,
    columns: Mapping[str, np.ndarray],
    captions: Sequence[str] = (),
    title: str = "",
    signed: Sequence[str] = ("residual",),
) -> None:
    """Images in rows, one object each, and named columns: input | closest generated | residual.

    Parameters
    ----------
    path : Path
        PNG file to write.
    columns : dict of name -> (N, H, W, C) array
        Scaled to [-1, 1] as the networks see them; 1 or 3 bands are drawn as they are, of others the first.
    captions : sequence of str
        One an object, beside its row.
    signed : sequence of str
        Columns of differences, drawn around 0, the bands' mean; beyond -1 and 1 the colour is that of -1 and 1.

    Raises
    ------
    DataError
        No image, or columns of different lengths.
    """
    counts = {name: len(images) for name, images in columns.items()}
    if len(set(counts.values())) != 1 or not next(iter(counts.values())):
        raise DataError("a gallery needs as many images in every column, one at least", got=counts)
    shapes = {name: np.shape(images) for name, images in columns.items()}
    if any(len(shape) != 4 for shape in shapes.values()):
        raise DataError("a gallery needs images with bands", expected="(N, H, W, C)", got=shapes)
    from matplotlib.figure import Figure

    rows, wide = next(iter(counts.values())), len(columns)
    figure = Figure(figsize=(1.6 * wide + 0.9, 1.6 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, wide, squeeze=False)
    for j, (name, images) in enumerate(columns.items()):
        grid[0, j].set_title(name, fontsize=10)
        for i, image in enumerate(images):
            _show(grid[i, j], np.asarray(image, np.float64), name in signed)
    for axes, caption in zip(grid[:, 0], captions):
        axes.set_ylabel(caption, fontsize=8)
    figure.suptitle(title)
    save(figure, path)


def _show(axes, image: np.ndarray, signed: bool) -> None:
    axes.set(xticks=[], yticks=[])
    if signed:
        axes.imshow(image.mean(-1), cmap="RdBu_r", vmin=-1, vmax=1, origin="lower")
    elif image.shape[-1] == 3:
        axes.imshow(np.clip((image + 1) / 2, 0, 1), origin="lower")
    else:
        axes.imshow(image[..., 0], cmap="gray", vmin=-1, vmax=1, origin="lower")


def scatter(path: Path, places: np.ndarray, groups: np.ndarray, title: str = "", label: str = "t-SNE") -> None:
    """A map of objects in two dimensions, coloured by group.

    Parameters
    ----------
    places : (N, 2) float
    groups : (N,) str
        Legend entries, in order of appearance.
    """
    figure, [axes] = panels(1, width=6.4, height=5.6)
    for name, colour in zip(dict.fromkeys(groups.tolist()), cycle(COLOURS)):
        own = places[groups == name]
        axes.scatter(*own.T, s=7, color=colour, alpha=0.5, linewidths=0, label=f"{name} (n = {len(own):,})")
    axes.set(xlabel=f"{label} 1", ylabel=f"{label} 2", title=title)
    figure.legend(loc="outside upper center", ncols=2, fontsize=9, frameon=False, markerscale=2)
    save(figure, path)


def fractions(
    path: Path,
    properties: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    title: str = "",
    bins: int = 8,
) -> None:
    """Fraction of anomalies against properties: a panel a property, a line a group, 68 % Clopper-Pearson bars.

    Parameters
    ----------
    properties : dict of property -> dict of group -> (values (N,), flagged (N,) bool)
        Objects whose value is not finite take no part. Bins hold equal numbers of all objects together.

    Raises
    ------
    DataError
        No property.
    """
    if not properties:
        raise DataError("there is no property to draw", expected="at least one")
    figure, axes_of = panels(len(properties), width=4.4, height=3.4)
    for axes, (name, groups) in zip(axes_of, properties.items()):
        everything = np.concatenate([values[np.isfinite(values)] for values, _ in groups.values()])
        edges = np.unique(np.quantile(everything, np.linspace(0, 1, bins + 1))) if len(everything) else np.zeros(0)
        for (group, (values, flagged)), colour, dashes in zip(groups.items(), cycle(COLOURS), cycle(DASHES)):
            at, share, low, high = binned(values, flagged, edges)
            bars = {"yerr": np.stack([share - low, high - share]), "capsize": 2}
            axes.errorbar(at, share, **bars, color=colour, linestyle=dashes, linewidth=1.4, label=group)
        axes.set(xlabel=name, ylabel="fraction of anomalies", ylim=(-0.02, 1.02))
    handles, names = axes_of[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3, fontsize=9, frameon=False, title=title or None)
    save(figure, path)


def scores_by_property(
    path: Path,
    properties: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    title: str = "",
) -> None:
    """Histograms of scores in three ranges of each property: a row a property, a panel a range, an outline a group.

    Each is as shares of its own group and range. Of two kinds that differ everywhere alike the difference is not one of
    their properties.

    Parameters
    ----------
    properties : dict of property -> dict of group -> (values (N,), scores (N,))
        Objects whose value or score is not finite take no part. Ranges hold equal numbers of all objects together.

    Raises
    ------
    DataError
        No property, or no object with a finite value and score.
    """
    kept = {name: {group: _finite(*pair) for group, pair in groups.items()} for name, groups in properties.items()}
    scores = [scores for groups in kept.values() for _, scores in groups.values()]
    if not sum(map(len, scores)):
        raise DataError("there is no property to draw", expected="at least one, with finite values and scores")
    edges, logarithmic = score_edges(scores)
    figure, axes_of = panels(RANGES * len(kept), width=3.6, height=2.6)
    for row, (name, groups) in enumerate(kept.items()):
        everything = np.concatenate([values for values, _ in groups.values()])
        limits = np.quantile(everything, np.linspace(0, 1, RANGES + 1)) if len(everything) else np.zeros(RANGES + 1)
        for place, axes in enumerate(axes_of[RANGES * row : RANGES * (row + 1)]):
            low, high = limits[place], limits[place + 1]
            for (group, (values, own)), colour, dashes in zip(groups.items(), cycle(COLOURS), cycle(DASHES)):
                inside = (values >= low) & ((values < high) | (place == RANGES - 1))
                share = np.histogram(own[inside], edges)[0] / max(1, inside.sum())
                axes.stairs(share, edges, color=colour, linestyle=dashes, linewidth=1.4, label=group)
            axes.set(title=f"{name}\n{low:.3g} to {high:.3g}", xlabel="score", ylabel="share")
            axes.title.set_fontsize(9)
            axes.set_xscale("log" if logarithmic else "linear")
    handles, names = axes_of[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3, fontsize=9, frameon=False, title=title or None)
    save(figure, path)


def _finite(values: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The objects that have both."""
    good = np.isfinite(values) & np.isfinite(scores)
    return values[good], scores[good]


def binned(values: np.ndarray, flagged: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mean value, fraction flagged, and its 68 % interval, in every bin that has objects.

    Parameters
    ----------
    values : (N,) float
    flagged : (N,) bool
    edges : (B + 1,) float
        Rising; the last bin includes its upper edge.

    Returns
    -------
    at, share, low, high : (b,) float64
        b bins at most B.
    """
    finite = np.isfinite(values)
    values, flagged = values[finite], flagged[finite]
    which = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(0, len(edges) - 2))
    found = [(values[which == b], flagged[which == b]) for b in np.unique(which)]
    limits = [clopper_pearson(int(marks.sum()), len(marks), 0.68) for _, marks in found]
    at, share = np.array([v.mean() for v, _ in found]), np.array([marks.mean() for _, marks in found])
    low, high = (np.array([limit[side] for limit in limits]) for side in (0, 1))
    return at, share, low, high

"""One object and why it is strange, in a picture: features, image, spectrum, or lines. Drawn as `plots` draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from astroad_jax.analysis.explain import largest
from astroad_jax.analysis.galleries import gallery
from astroad_jax.analysis.plots import COLOURS, GREY, grid, save
from astroad_jax.analysis.spectra_plots import limit, mark_lines
from astroad_jax.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BARS = 24  # features shown of an object that has more
MOST_NEAR = 3  # neighbours shown
MOST_LINES = 6
RANGE = 5.0  # sigma at which the colour of a residual image ends
FAR = 10.0  # times the usual values, beyond which an axis of values is logarithmic
INK = "#222222"


class Explained(NamedTuple):
    """What is known of one object; all arrays preprocessed, and in the shape of `x` where nothing else is said.

    Attributes
    ----------
    x : array
        ``(D,)`` features, ``(H, W, C)`` image, ``(2, W)`` spectrum where `spectrum`, else lines along the last axis.
    contribution : array
        To the score, up = makes stranger.
    typical : array
        The training median.
    near : (K, ...) array
        The most similar training objects, nearest first; perhaps none.
    rebuilt, residual : array, optional
        What the model makes of it, and how many sigma the object is above that; a spectrum's residual is ``(W,)``.
    names : sequence of str
        Of features.
    grid : (W,) array, optional
        A spectrum's wavelengths in Angstrom; pixels are numbered where there is none.
    rest : bool
        Whether these are rest wavelengths, where lines can be marked.
    flux : str
        What a spectrum's flux is called, with its norm.
    spectrum : bool
    """

    x: np.ndarray
    contribution: np.ndarray
    typical: np.ndarray
    near: np.ndarray
    rebuilt: np.ndarray | None = None
    residual: np.ndarray | None = None
    names: Sequence[str] = ()
    grid: np.ndarray | None = None
    rest: bool = True
    flux: str = "flux"
    spectrum: bool = False


def draw(path: Path, shown: Explained, title: str = "") -> None:
    """Draw one object, what the model makes of it, what contributes to its score, and its nearest training objects.

    Raises
    ------
    DataError
        Contributions in another shape than the object.
    """
    if np.shape(shown.contribution) != np.shape(shown.x):
        what, fix = "contributions of another shape than their object", "give one contribution an entry"
        raise DataError(what, expected=np.shape(shown.x), got=np.shape(shown.contribution), fix=fix)
    title = _plain(title)
    if np.ndim(shown.x) == 3:
        _image(path, shown, title)
    elif shown.spectrum:
        _spectrum(path, shown, title)
    elif np.ndim(shown.x) == 1 and len(shown.names) == len(shown.x):
        _features(path, shown, title)
    else:
        _lines(path, shown, title)


def _plain(text: str) -> str:
    """Text in which a dollar is a dollar, not the begin of a formula."""
    return text.replace("$", r"\$")


def _features(path: Path, shown: Explained, title: str) -> None:
    """Contributions as bars, the largest on top; beside them the values they come from."""
    top = largest(shown.contribution[None], MOST_BARS)
    order, value = top.entry[0], top.value[0]
    figure, [[left, right]] = grid(1, 2, 5.2, 1.1 + 0.24 * len(order))
    places = np.arange(len(order))
    left.barh(places, value, color=[COLOURS[1] if v > 0 else COLOURS[0] for v in value], height=0.7)
    left.axvline(0, color=GREY, linewidth=0.8)
    left.set_yticks(places, [_plain(shown.names[i]) for i in order], fontsize=8)
    hidden = len(shown.x) - len(order)
    left.set(xlabel="contribution to the score" + (f" ({hidden} more features)" if hidden else ""))
    for i, near in enumerate(shown.near):
        label = "nearest training objects" if i == 0 else None
        right.plot(near[order], places, linestyle="", marker=".", markersize=5, color=GREY, alpha=0.6, label=label)
    right.plot(shown.typical[order], places, linestyle="", marker="|", markersize=9, color=INK, label="training median")
    if shown.rebuilt is not None:
        right.plot(shown.rebuilt[order], places, linestyle="", marker="D", markersize=4, color=COLOURS[0], label="rebuilt")
    right.plot(shown.x[order], places, linestyle="", marker="o", markersize=5, color=COLOURS[1], label="this object")
    _stretch(right, shown)
    right.set_yticks(places, [])
    right.set(xlabel="scaled value")
    for axes in (left, right):
        axes.set_ylim(len(order) - 0.4, -0.6)
    _finish(figure, right, title, path)


def _stretch(axes: Axes, shown: Explained) -> None:
    """Linear as far as ordinary values go, logarithmic beyond, where one that is far off would press all others together."""
    usual = max(np.abs(values).max() for values in (shown.typical, *shown.near))
    if usual > 0 and np.abs(shown.x).max() > FAR * usual:
        power = 10.0 ** np.ceil(np.log10(usual))  # a power of ten: ticks of the logarithmic part begin there
        axes.set_xscale("symlog", linthresh=power, linscale=2)


def _image(path: Path, shown: Explained, title: str) -> None:
    """Input, reconstruction, residual in sigma, contribution, and the nearest training images side by side."""
    columns, signed = {"input": shown.x[None]}, []
    if shown.rebuilt is not None:
        columns["rebuilt"] = shown.rebuilt[None]
    if shown.residual is not None:
        signed.append(f"residual\n±{RANGE:g} sigma")
        columns[signed[-1]] = _over_bands(shown.residual)[None] / RANGE
    summed = shown.contribution.sum(axis=-1, keepdims=True)
    size = np.abs(summed).max()
    signed.append(f"contribution\n±{size:.3g}")
    columns[signed[-1]] = summed[None] / (size if size > 0 else 1.0)
    columns |= {f"nearest {i + 1}": image[None] for i, image in enumerate(shown.near[:MOST_NEAR])}
    gallery(path, columns, title=title, signed=signed)


def _over_bands(residual: np.ndarray) -> np.ndarray:
    """Mean over the bands that have a noise level, ``(H, W, 1)``; NaN where none has."""
    known = np.isfinite(residual)
    count, total = known.sum(axis=-1, keepdims=True), np.where(known, residual, 0.0).sum(axis=-1, keepdims=True)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _spectrum(path: Path, shown: Explained, title: str) -> None:
    """Flux and reconstruction with the main lines marked; below, residuals in sigma, contributions, and the nearest."""
    known = shown.x[1] > 0
    at = np.arange(len(known)) if shown.grid is None else np.asarray(shown.grid)
    rows = 2 + (shown.residual is not None) + bool(len(shown.near))
    figure, axes = grid(rows, 1, 9.6, 1.9, sharex=True, gridspec_kw={"height_ratios": [1.7] + [1] * (rows - 1)})
    panels = list(axes[:, 0])
    flux = panels.pop(0)
    seen = np.where(known, shown.x[0], np.nan)
    flux.plot(at, seen, color=INK, linewidth=0.7, label="this object")
    if shown.rebuilt is not None:
        flux.plot(at, shown.rebuilt[0], color=COLOURS[0], linewidth=1.1, alpha=0.85, label="rebuilt")
    limit(flux, at, seen, seen[:0] if shown.rebuilt is None else shown.rebuilt[0])
    flux.set_ylabel(shown.flux, fontsize=8)
    if shown.residual is not None:
        _curve(panels.pop(0), at, shown.residual, "residual (sigma)", COLOURS[1])
    _curve(panels.pop(0), at, shown.contribution.sum(axis=0), "contribution", COLOURS[1])
    for i, near in enumerate(shown.near[:MOST_NEAR]):
        line = {"color": COLOURS[2 + i], "linewidth": 0.6, "alpha": 0.8, "label": f"nearest {i + 1}"}
        panels[0].plot(at, np.where(near[1] > 0, near[0], np.nan), **line)
        panels[0].set_ylabel("nearest", fontsize=8)
    for i, panel in enumerate(axes[:, 0]):
        panel.set_xlim(at[0], at[-1] if len(at) > 1 else at[0] + 1)
        panel.tick_params(labelsize=7)
        if shown.grid is not None and shown.rest:
            mark_lines(panel, labels=i == 0)
    frame = "rest" if shown.rest else "observed"
    axes[-1, 0].set_xlabel("pixel" if shown.grid is None else f"{frame} wavelength (Angstrom)", fontsize=8)
    _finish(figure, [flux, axes[-1, 0]], title, path)


def _curve(axes: Axes, at: np.ndarray, values: np.ndarray, label: str, colour: str) -> None:
    axes.plot(at, values, color=colour, linewidth=0.6)
    axes.axhline(0, color=GREY, linewidth=0.6)
    axes.set_ylabel(label, fontsize=8)


def _lines(path: Path, shown: Explained, title: str) -> None:
    """Every row of the last axis beside what it contributes."""
    length = np.shape(shown.x)[-1]
    x, contribution = (np.reshape(values, (-1, length))[:MOST_LINES] for values in (shown.x, shown.contribution))
    figure, axes = grid(len(x), 2, 5.0, 2.2)
    at = np.arange(length)
    for i, (left, right) in enumerate(axes):
        left.plot(at, x[i], color=INK, linewidth=0.8, label="this object")
        if shown.rebuilt is not None:
            left.plot(at, np.reshape(shown.rebuilt, (-1, length))[i], color=COLOURS[0], linewidth=1.1, label="rebuilt")
        for near in shown.near[:1]:
            left.plot(at, np.reshape(near, (-1, length))[i], color=GREY, linewidth=0.7, label="nearest training object")
        left.set(xlabel="place in the object", ylabel="scaled value")
        _curve(right, at, contribution[i], "contribution", COLOURS[1])
        right.set_xlabel("place in the object")
    _finish(figure, axes[0, 0], title, path)


def _finish(figure: Figure, axes: Axes | Sequence[Axes], title: str, path: Path) -> None:
    """Legend, title and file."""
    every = axes if isinstance(axes, Sequence) else [axes]
    pairs = [pair for each in every for pair in zip(*each.get_legend_handles_labels())]
    handles, labels = zip(*pairs)
    common = {"loc": "outside upper left", "ncols": 5, "fontsize": 8, "frameon": False}
    figure.legend(handles, labels, title=title or None, alignment="left", **common)
    save(figure, path)

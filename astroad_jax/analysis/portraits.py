"""One object in a picture, whatever it is: image, spectrum, or bars of features. Drawn as `plots` draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from astroad_jax.analysis.galleries import gallery
from astroad_jax.analysis.plots import COLOURS, GREY, panels, save
from astroad_jax.errors import DataError

MOST_BARS = 24  # features shown of an object that has more
MOST_LINES = 9  # the same of rows


def portrait(
    path: Path,
    x: np.ndarray,
    rebuilt: np.ndarray | None = None,
    *,
    names: Sequence[str] = (),
    grid: np.ndarray | None = None,
    frame: str = "",
    flux: str = "flux",
    title: str = "",
) -> None:
    """Draw one preprocessed object, and what the model makes of it where there is such a thing.

    Parameters
    ----------
    path : Path
        PNG file to write.
    x : array
        ``(H, W, C)``: an image in [-1, 1]. ``(2, W)``: a spectrum, its flux and inverse variance; pixels whose inverse
        variance is 0 are marked as masked. ``(D,)``: features, as bars, where there are D `names`, else values along a
        line. Others: one line a row of the last axis, of the first nine.
    rebuilt : array, optional
        In the shape of `x`.
    names : sequence of str
        Of the features.
    grid : (W,) float, optional
        Where the last axis's values lie, wavelengths in Angstrom; their numbers otherwise.
    frame : {"", "rest", "observed"}
        Of these wavelengths, where it is known.
    flux : str
        What a spectrum's flux is called, with its unit or norm.

    Raises
    ------
    DataError
        `rebuilt` or `grid` of another shape, or an object without an axis.
    """
    x = np.asarray(x, np.float64)
    rebuilt = None if rebuilt is None else np.asarray(rebuilt, np.float64)
    _check(x, rebuilt, grid)
    if x.ndim == 3:
        columns = {"input": x[None]}
        if rebuilt is not None:
            columns |= {"rebuilt": rebuilt[None], "residual": (x - rebuilt)[None]}
        gallery(path, columns, title=title)
    elif x.ndim == 1 and len(names) == len(x):
        _bars(path, x, rebuilt, names, title)
    elif x.ndim == 2 and len(x) == 2:
        along = "pixel" if grid is None else f"{frame} wavelength [Angstrom]".lstrip()
        _spectrum(path, x, rebuilt, grid, {"xlabel": along, "ylabel": flux, "title": title})
    else:
        _lines(path, x, rebuilt, grid, title)


def _check(x: np.ndarray, rebuilt: np.ndarray | None, grid: np.ndarray | None) -> None:
    if not x.ndim or not x.size:
        got, fix = f"shape {x.shape}", "give one preprocessed object, without a batch axis"
        raise DataError("there is no object to draw", expected="at least one axis and one value", got=got, fix=fix)
    if rebuilt is not None and rebuilt.shape != x.shape:
        what, fix = "what is rebuilt has another shape than its object", "give what the model's reconstruct gave for it"
        raise DataError(what, expected=x.shape, got=rebuilt.shape, fix=fix)
    if grid is not None and np.shape(grid) != x.shape[-1:]:
        fix = "give one place for each value of the last axis, or no grid"
        raise DataError("the grid does not fit the object", expected=x.shape[-1:], got=np.shape(grid), fix=fix)


def _bars(path: Path, x: np.ndarray, rebuilt: np.ndarray | None, names: Sequence[str], title: str) -> None:
    """Features with the worst rebuilt on top, or the farthest from 0 where nothing is."""
    far = np.abs(x if rebuilt is None else x - rebuilt)
    order = np.argsort(-np.nan_to_num(far, nan=-1.0), kind="stable")[:MOST_BARS]
    figure, [axes] = panels(1, width=6.4, height=0.8 + 0.24 * len(order))
    places = np.arange(len(order))
    axes.barh(places, x[order], color=COLOURS[0], height=0.7, label="input")
    if rebuilt is not None:
        axes.plot(rebuilt[order], places, linestyle="", marker="D", markersize=4, color=COLOURS[1], label="rebuilt")
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(places, [names[i] for i in order], fontsize=8)
    axes.invert_yaxis()
    hidden = len(x) - len(order)
    axes.set(xlabel="scaled value" + (f" ({hidden} more features)" if hidden else ""), title=title)
    figure.legend(loc="outside upper center", ncols=2, fontsize=9, frameon=False)
    save(figure, path)


def _spectrum(
    path: Path, x: np.ndarray, rebuilt: np.ndarray | None, grid: np.ndarray | None, texts: Mapping[str, str]
) -> None:
    flux, good = x[0], x[1] > 0
    at = np.arange(len(flux)) if grid is None else np.asarray(grid)
    figure, [axes] = panels(1, width=9.0, height=3.6)
    axes.plot(at, np.where(good, flux, np.nan), color="#000000", linewidth=0.7, label="input")
    if not good.all():
        axes.plot(at[~good], flux[~good], linestyle="", marker=".", markersize=3, color=GREY, label="masked")
    if rebuilt is not None:
        axes.plot(at, rebuilt[0], color=COLOURS[1], linewidth=1.1, label="rebuilt")
    held = flux[good] if good.any() else flux
    low, high = held.min(), held.max()  # what is masked may be anything, and must not set the axis
    if high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes.set(**texts)
    figure.legend(loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    save(figure, path)


def _lines(path: Path, x: np.ndarray, rebuilt: np.ndarray | None, grid: np.ndarray | None, title: str) -> None:
    rows = x.reshape(-1, x.shape[-1])
    at = np.arange(rows.shape[1]) if grid is None else np.asarray(grid)
    figure, axes_of = panels(min(len(rows), MOST_LINES), width=5.0, height=2.8)
    for i, axes in enumerate(axes_of):
        axes.plot(at, rows[i], color="#000000", linewidth=0.8, label="input")
        if rebuilt is not None:
            axes.plot(at, rebuilt.reshape(rows.shape)[i], color=COLOURS[1], linewidth=1.1, label="rebuilt")
        axes.set(xlabel="place in the object", ylabel="scaled value")
    handles, labels = axes_of[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=9, frameon=False)
    figure.suptitle(f"{title} (first {MOST_LINES} of {len(rows)} rows)".lstrip() if len(rows) > MOST_LINES else title)
    save(figure, path)

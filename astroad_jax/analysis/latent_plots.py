"""Figures of a latent space: corner plot, tracks, and spectra generated along each dimension. Drawn as `plots` draws."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from astroad_jax.analysis.latent import Track
from astroad_jax.analysis.plots import COLOURS, GREY, grid, save
from astroad_jax.analysis.spectra_plots import mark_lines
from astroad_jax.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 3_000  # points of a group in a scatter plot: more would hide each other, and the other groups
MIDDLE = "#7b2fa0"  # of the spectrum common to all dimensions, purple as in the paper


def corner(path: Path, codes: np.ndarray, groups: np.ndarray, title: str = "") -> None:
    """Every latent dimension against every other, coloured by group: figure 13 of Nicolaou et al.

    The limits leave out the outermost 0.2 % of either side, so that one stray code does not shrink all the rest. On the
    diagonal, how each group is distributed.

    Parameters
    ----------
    codes : (N, L) float
        L at least 2.
    groups : (N,) str
        The larger a group, the further behind it is drawn; of a large one, 3,000 evenly chosen rows. An object without a
        finite code is not drawn. The legend says how many of a group are shown.

    Raises
    ------
    DataError
        Fewer than two dimensions, no object with a finite code, or groups of another number.
    """
    codes, groups = np.asarray(codes, np.float64), np.asarray(groups)
    fits = codes.ndim == 2 and codes.shape[1] >= 2 and len(codes) == len(groups)
    if not fits or not np.isfinite(codes).all(axis=1).any():
        got, fix = f"codes {codes.shape}, {len(groups)} groups", "give scored objects, and a group for each"
        what = "a corner plot needs objects in two dimensions or more, and a group for each"
        raise DataError(what, expected="(N, 2 or more) with a finite row, and N", got=got, fix=fix)
    size, known = codes.shape[1], np.isfinite(codes).all(axis=1)
    totals = {name: len(rows) for name, rows in _by_size(groups).items()}
    codes, groups = codes[known], groups[known]
    figure, axes = grid(size, size, 1.25, 1.2)
    limits = np.quantile(codes, (0.002, 0.998), axis=0)
    margin = 0.05 * np.maximum(limits[1] - limits[0], 1e-6)
    limits = np.stack([limits[0] - margin, limits[1] + margin])
    members = _by_size(groups)
    colours = dict(zip(members, cycle(COLOURS)))
    for i in range(size):
        for j in range(size):
            _cell(axes[i, j], codes, members, colours, limits, (i, j))
    _group_legend(figure, members, totals, colours)
    figure.suptitle(title)
    save(figure, path)


def _by_size(groups: np.ndarray) -> dict[str, np.ndarray]:
    """Group -> its rows, largest group first."""
    names, counts = np.unique(groups, return_counts=True)
    return {str(names[i]): np.flatnonzero(groups == names[i]) for i in np.argsort(-counts, kind="stable")}


def _cell(
    axes: Axes,
    codes: np.ndarray,
    members: dict[str, np.ndarray],
    colours: dict[str, str],
    limits: np.ndarray,
    place: tuple[int, int],
) -> None:
    """One panel: nothing above the diagonal, histograms on it, points below."""
    i, j = place
    last = codes.shape[1] - 1
    if j > i:
        axes.set_axis_off()
        return
    axes.tick_params(labelsize=5, length=2)
    axes.set_xlim(*limits[:, j])
    if i == j:
        edges = np.linspace(*limits[:, i], 31)
        for name, rows in members.items():
            axes.stairs(np.histogram(codes[rows, i], edges)[0] / len(rows), edges, color=colours[name], linewidth=0.9)
        axes.set_yticks([])
    else:
        for name, rows in members.items():
            chosen = _shown(rows)
            size = 1.5 if len(rows) > 1000 else 4
            axes.scatter(codes[chosen, j], codes[chosen, i], s=size, color=colours[name], alpha=0.4, linewidths=0)
        axes.set_ylim(*limits[:, i])
    if i == last:
        axes.set_xlabel(f"{j + 1}", fontsize=8)
    else:
        axes.set_xticklabels([])
    if j == 0 and i:
        axes.set_ylabel(f"{i + 1}", fontsize=8)
    elif j:
        axes.set_yticklabels([])


def _shown(rows: np.ndarray) -> np.ndarray:
    """Evenly chosen ones, `MOST` at most."""
    return rows[:: -(-len(rows) // MOST)]


def _group_legend(
    figure: Figure, members: dict[str, np.ndarray], totals: Mapping[str, int], colours: dict[str, str]
) -> None:
    axes, handles = figure.axes[0], []
    for name, total in totals.items():
        shown = len(_shown(members[name])) if name in members else 0
        count = f"n = {total:,}" if shown == total else f"{shown:,} of {total:,} shown"
        handles += axes.plot([], [], "o", color=colours.get(name, GREY), label=f"{name} ({count})")
    figure.legend(handles=handles, loc="upper right", fontsize=11, frameon=False)


def traversals(path: Path, wave: np.ndarray, spectra: np.ndarray, title: str = "") -> None:
    """Spectra generated along each latent dimension, main lines marked: figure 20 of Nicolaou et al.

    Parameters
    ----------
    wave : (W,) float
        Rest wavelengths, Angstrom.
    spectra : (L, S, W) float
        S spectra of each dimension, upwards in its increasing direction; the middle one is common to all.

    Raises
    ------
    DataError
        Another shape, or numbers that are not finite.
    """
    spectra = np.asarray(spectra, np.float64)
    if spectra.ndim != 3 or spectra.shape[2] != len(wave) or not np.isfinite(spectra).all():
        got, expected = f"shape {spectra.shape}", f"finite (L, steps, {len(wave)})"
        fix = "give what the decoder makes of a traversal of finite codes"
        raise DataError("these spectra cannot be drawn", expected=expected, got=got, fix=fix)
    dimensions, steps = spectra.shape[:2]
    rows = -(-dimensions // 2)
    figure, axes = grid(rows, min(2, dimensions), 6.6, 3.0)
    apart = 0.55 * np.quantile(np.ptp(spectra, axis=2), 0.5)
    for i, panel in enumerate(axes.flat):
        if i >= dimensions:
            panel.set_axis_off()
            continue
        for step, spectrum in enumerate(spectra[i]):
            colour = MIDDLE if step == steps // 2 else _shade(step / (steps - 1))
            panel.plot(wave, spectrum + step * apart, color=colour, linewidth=0.8)
        panel.set_xlim(wave[0], wave[-1])
        mark_lines(panel, labels=i < 2)
        panel.set_yticks([])
        panel.set_ylabel(f"dimension {i + 1}", fontsize=9)
    for panel in axes[-1]:
        panel.set_xlabel("rest wavelength (A)", fontsize=8)
    figure.suptitle(title)
    save(figure, path)


def _shade(share: float) -> tuple[float, float, float]:
    """From blue at 0 over grey to vermilion at 1."""
    low, high = (tuple(int(c[k : k + 2], 16) / 255 for k in (1, 3, 5)) for c in (COLOURS[0], COLOURS[1]))
    return tuple((1 - share) * a + share * b for a, b in zip(low, high))


def tracks(
    path: Path,
    codes: np.ndarray,
    wave: np.ndarray,
    found: Mapping[str, tuple[Track, np.ndarray]],
    dimensions: tuple[int, int],
    title: str = "",
) -> None:
    """Where tracks run among the objects, and the stacked spectra along each: figures 14 to 19 of Nicolaou et al.

    Parameters
    ----------
    codes : (N, 2) float
        Of the objects, in the two dimensions.
    found : dict of name -> (track, (S, W) stacks)
        Stations are called by the name and their number.
    dimensions : (int, int)
        Their numbers, counted from 1, for the axes.

    Raises
    ------
    DataError
        No track.
    """
    if not found:
        raise DataError("there is no track to draw", expected="one at least", got=0, fix="find one with latent.track")
    figure, axes = grid(1, 1 + len(found), 1.0, 1.0, gridspec_kw={"width_ratios": [4] + [5] * len(found)})
    figure.set_size_inches(4.6 + 5.6 * len(found), 5.2)
    cloud = codes[:: -(-len(codes) // MOST)]
    axes[0, 0].scatter(*cloud.T, s=3, color=GREY, alpha=0.35, linewidths=0)
    axes[0, 0].set(xlabel=f"dimension {dimensions[0]}", ylabel=f"dimension {dimensions[1]}")
    for (name, (way, stacks)), colour, panel in zip(found.items(), cycle(COLOURS), axes[0, 1:]):
        axes[0, 0].plot(*way.places.T, "o-", color=colour, markersize=4, linewidth=1.2)
        apart = 0.6 * np.nanmedian(np.nanmax(stacks, 1) - np.nanmin(stacks, 1))
        for i, (place, spectrum) in enumerate(zip(way.places, stacks)):
            axes[0, 0].annotate(f"{name}{i + 1}", place, xytext=(4, 4), textcoords="offset points", color=colour, fontsize=9)
            panel.plot(wave, spectrum - i * apart, color=colour, linewidth=0.7)
            panel.annotate(f"{name}{i + 1}", (wave[-1], np.nanmedian(spectrum[-50:]) - i * apart), fontsize=9, color=colour)
        panel.set_xlim(wave[0], wave[-1])
        panel.set(xlabel="rest wavelength (A)", yticks=[])
        mark_lines(panel)
    figure.suptitle(title)
    save(figure, path)

"""Figures of spectra: beside what a model makes of them, with zooms on lines, and the strangest. Drawn as `plots` draws.

Wavelengths are those of the rest frame in vacuum, in Angstrom; fluxes have unit norm. Pixels of zero inverse variance are
gaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from astroad_jax.analysis.lines import LINES, ZOOMS
from astroad_jax.analysis.plots import COLOURS, GREY, grid, save
from astroad_jax.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKED = ("O2", "Ne3", "CaK", "CaH", "Hdelta", "G", "Hgamma", "Hbeta", "O3", "Mg", "Na", "O1", "Halpha", "S2")
INK = "#222222"
ALONE = 0.1  # a pixel whose two neighbours together have less than this share of its excess: narrower than any line
DWARFS = 12.0  # times the range of all but the brightest 1.5 % of pixels: a peak so high gets an inset of the rest
APART = 110.0  # Angstrom between the labels of lines, at least


def mark_lines(axes: Axes, names: Sequence[str] = MARKED, labels: bool = True) -> None:
    """Dashed lines at rest wavelengths within the panel, their names above it, shifted apart where they would collide."""
    low, high = axes.get_xlim()
    span = (high - low) / 40 if high - low < 2000 else APART * (high - low) / 4000
    last = -np.inf
    for wave, label in _marks(names, low, high):
        axes.axvline(wave, color="#9a9a9a", linewidth=0.6, linestyle=(0, (4, 3)), zorder=0)
        last = max(wave, last + span)
        if labels and label:
            axes.annotate(
                label, xy=(last, 1.01), xycoords=("data", "axes fraction"), rotation=90, fontsize=7, color="#444444",
                ha="center", va="bottom", annotation_clip=False,
            )  # fmt: skip


def _marks(names: Sequence[str], low: float, high: float) -> list[tuple[float, str]]:
    """Every component with its label, a blend's on its middle one: another label in its place would say the same."""
    found = []
    for name in names:
        line = LINES[name]
        middle = len(line.waves) // 2
        found += [(wave, line.label if i == middle else "") for i, wave in enumerate(line.waves) if low < wave < high]
    return sorted(found)


def reconstructions(
    path: Path,
    wave: np.ndarray,
    spectra: np.ndarray,
    rebuilt: np.ndarray,
    captions: Sequence[str],
    zooms: Sequence[str] = tuple(ZOOMS),
    title: str = "",
) -> None:
    """Spectra and what the model makes of them, whole and in zooms: figures 2 to 8 of Nicolaou et al.

    Parameters
    ----------
    wave : (W,) float
    spectra : (N, 2, W) float
        Flux and inverse variance.
    rebuilt : (N, W) float
    captions : sequence of str
        One an object.
    zooms : sequence of str
        Of `lines.ZOOMS`.

    Raises
    ------
    DataError
        No spectrum, or arrays that do not fit.
    """
    flux = gapped(wave, spectra, rebuilt)
    figure, axes = grid(len(flux), 1 + len(zooms), 1.0, 2.3, gridspec_kw={"width_ratios": [6] + [2] * len(zooms)})
    figure.set_size_inches(7 + 2.1 * len(zooms), 2.3 * len(flux) + 0.7)
    for i, row in enumerate(axes):
        _pair(row[0], wave, flux[i], rebuilt[i])
        row[0].set_xlim(wave[0], wave[-1])
        row[0].set_ylabel("flux (unit norm)", fontsize=8)
        _caption(row[0], captions[i])
        for panel, name in zip(row[1:], zooms):
            inside = (wave >= ZOOMS[name][0]) & (wave <= ZOOMS[name][1])
            _pair(panel, wave[inside], flux[i][inside], rebuilt[i][inside], whole=True)
            panel.set_xlim(*ZOOMS[name])
            mark_lines(panel, tuple(LINES), labels=False)
        mark_lines(row[0], labels=i == 0)
    for panel, name in zip(axes[0, 1:], zooms):
        panel.set_title(name, fontsize=8)
    for panel in axes[-1]:
        panel.set_xlabel("rest wavelength (A)", fontsize=8)
    _legend(figure, axes[0, 0], title)
    save(figure, path)


def strangest(
    path: Path,
    wave: np.ndarray,
    spectra: np.ndarray,
    rebuilt: np.ndarray,
    captions: Sequence[str],
    notes: Sequence[Mapping[float, str]] = (),
    title: str = "",
) -> None:
    """The strangest spectra, one a row, with their residuals in units of the noise: figures 10 and 12 of Nicolaou et al.

    Where one line dwarfs all else, an inset magnifies what is left. A single wild pixel does not set the limits of its
    panel; where it lies beyond them, a triangle at the edge says so.

    Parameters
    ----------
    captions : sequence of str
        One an object: rank, score, what it is.
    notes : sequence of dict of wavelength -> text
        What to point at in each, in its rest frame (a break in the wrong place, the edge of a camera).

    Raises
    ------
    DataError
        No spectrum, or arrays that do not fit.
    """
    flux = gapped(wave, spectra, rebuilt)
    figure, axes = grid(len(flux), 2, 6.2, 2.1, gridspec_kw={"width_ratios": [2, 1]})
    figure.set_size_inches(12.4, 2.1 * len(flux) + 0.7)
    for i, (panel, pulls) in enumerate(axes):
        _pair(panel, wave, flux[i], rebuilt[i])
        panel.set_xlim(wave[0], wave[-1])
        panel.set_ylabel("flux (unit norm)", fontsize=8)
        _caption(panel, captions[i])
        for at, text in (notes[i] if i < len(notes) else {}).items():
            _point_at(panel, wave, flux[i], at, text)
        mark_lines(panel, labels=i == 0)
        _magnify(panel, wave, flux[i])
        pulls.plot(wave, (flux[i] - rebuilt[i]) * np.sqrt(np.maximum(spectra[i, 1], 0)), color=COLOURS[1], linewidth=0.5)
        pulls.axhline(0, color=GREY, linewidth=0.6)
        pulls.set_xlim(wave[0], wave[-1])
        pulls.set_ylabel("residual (sigma)", fontsize=8)
    for panel in axes[-1]:
        panel.set_xlabel("rest wavelength (A)", fontsize=8)
    _legend(figure, axes[0, 0], title)
    save(figure, path)


def gapped(wave: np.ndarray, spectra: np.ndarray, rebuilt: np.ndarray | None = None) -> np.ndarray:
    """(N, W) flux with NaN where the inverse variance is 0.

    Raises
    ------
    DataError
        No spectrum, or arrays that do not fit.
    """
    spectra = np.asarray(spectra)
    shape = (*spectra.shape[:1], len(wave))
    fits = spectra.ndim == 3 and spectra.shape[1:] == (2, len(wave)) and (rebuilt is None or np.shape(rebuilt) == shape)
    if not len(spectra) or not fits:
        got = f"{spectra.shape}" + ("" if rebuilt is None else f" and {np.shape(rebuilt)}")
        expected = f"(N, 2, {len(wave)}), one at least, and (N, {len(wave)})"
        raise DataError("these spectra cannot be drawn", expected=expected, got=got, fix="select at least one object")
    return np.where(spectra[:, 1] > 0, spectra[:, 0], np.nan)


def _pair(axes: Axes, wave: np.ndarray, flux: np.ndarray, rebuilt: np.ndarray, whole: bool = False) -> None:
    """Spectrum in black and its reconstruction in blue; unless it is a zoom, single wild pixels do not set the limits."""
    axes.plot(wave, flux, color=INK, linewidth=0.6, label="observed")
    axes.plot(wave, rebuilt, color=COLOURS[0], linewidth=1.1, alpha=0.85, label="reconstructed")
    axes.tick_params(labelsize=7)
    limit(axes, wave, flux, rebuilt, whole)


def limit(axes: Axes, wave: np.ndarray, flux: np.ndarray, rebuilt: np.ndarray, whole: bool = False) -> None:
    """Limits of a panel that shows both, and marks for the pixels beyond them: unless `whole`, the single wild ones."""
    drawn = np.concatenate([flux if whole else flux[~wild(flux)], rebuilt])
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) and np.ptp(drawn) > 0:
        margin = 0.06 * np.ptp(drawn)
        axes.set_ylim(drawn.min() - margin, drawn.max() + margin)
        _mark_clipped(axes, wave, flux)


def wild(flux: np.ndarray) -> np.ndarray:
    """Which pixels ``(W,)`` would spoil a panel by themselves: each stands out alone, and beyond twice the others' range.

    What is not known stands out nowhere.
    """
    known = np.isfinite(flux)
    excess = np.where(known, flux - (np.median(flux[known]) if known.any() else 0.0), 0.0)
    padded = np.pad(excess, 1)
    alone = (padded[:-2] + padded[2:]) * np.sign(excess) < ALONE * np.abs(excess)
    if not alone.any() or alone.all():
        return np.zeros(len(flux), bool)
    low, high = excess[~alone].min(), excess[~alone].max()
    return alone & ((excess > 2 * high - low) | (excess < 2 * low - high))


def _mark_clipped(axes: Axes, wave: np.ndarray, flux: np.ndarray) -> None:
    """A triangle at the panel's edge for every pixel that lies beyond it."""
    low, high = axes.get_ylim()
    for beyond, edge, marker in ((flux > high, 0.97, "^"), (flux < low, 0.03, "v")):
        places = np.full(int(beyond.sum()), edge)
        axes.plot(wave[beyond], places, marker, color=COLOURS[1], markersize=4, transform=axes.get_xaxis_transform())


def _magnify(axes: Axes, wave: np.ndarray, flux: np.ndarray) -> None:
    """Where one line dwarfs the rest, an inset that shows the rest (figures 10a and 12c)."""
    known = flux[np.isfinite(flux) & ~wild(flux)]
    low, high = np.quantile(known, (0.01, 0.985)) if len(known) else (0.0, 0.0)
    if not high > low or known.max() - low < DWARFS * (high - low):
        return
    inset = axes.inset_axes((0.28, 0.3, 0.42, 0.5))
    inset.plot(wave, flux, color=INK, linewidth=0.5)
    margin = 0.2 * (high - low)
    inset.set(xlim=(wave[0], wave[-1]), ylim=(low - margin, high + 2 * margin))
    inset.tick_params(labelsize=5, length=2)


def _caption(axes: Axes, text: str) -> None:
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5}
    axes.text(0.99, 0.96, text, transform=axes.transAxes, ha="right", va="top", fontsize=8, bbox=box)


def _point_at(axes: Axes, wave: np.ndarray, flux: np.ndarray, at: float, text: str) -> None:
    """Arrow to the spectrum at a wavelength; one beyond its ends is not drawn."""
    if not wave[0] <= at <= wave[-1]:
        return
    near = np.abs(wave - at) < 15
    level = np.nanmedian(np.append(flux[near], 0.0 if not np.isfinite(flux[near]).any() else np.nan))
    low, high = axes.get_ylim()
    up = 0.28 * (high - low) * (1 if level < (low + high) / 2 else -1)
    arrow = {"arrowstyle": "->", "color": COLOURS[1], "linewidth": 1.2}
    side = "left" if at < np.mean(axes.get_xlim()) else "right"
    axes.annotate(text, (at, level), (at, level + up), arrowprops=arrow, fontsize=8, color=COLOURS[1], ha=side)


def _legend(figure: Figure, axes: Axes, title: str) -> None:
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=2, fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=10)

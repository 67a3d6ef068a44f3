"""The lines of galaxies, quasars and stars between 3600 and 7556 Angstrom: where they are, and how strong.

Rest wavelengths in vacuum, in Angstrom, as DESI and SDSS have them (NIST; the blend's mean for what is never resolved).
Strengths are those of `strength`: positive in emission, negative in absorption.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from astroad_jax.errors import DataError

SPEED_OF_LIGHT = 299_792.458  # km / s
# rest-frame bands of the 4000 Angstrom break, Bruzual 1983 (there in frequency; here means over wavelength)
BREAK = ((3750.0, 3950.0), (4050.0, 4250.0))
CAMERAS = (5780.0, 7570.0)  # where DESI's meet, observed frame
SKY_LINES, SKY_FROM = (5578.9, 6302.0, 6365.5), 7200.0  # brightest of the night sky (vacuum), and where the OH forest begins
ENDS = ((3700.0, 4300.0), (6800.0, 7500.0))  # blue and red continuum
FLAT = 0.1  # change below which a continuum (in its logarithm) and the 4000 Angstrom break (in itself) count as unchanged
FAINT = 1.0  # Angstrom of equivalent width below which a line counts as unchanged
BROAD = 10.0  # the same of H alpha's wings
WING_BANDS = ((6340.0, 6400.0), (6790.0, 6850.0))
WING_LINE = (6679.99, 10.0)  # He I, the one narrow line in H alpha's wings: wavelength, and half-width left out
TABLE_1 = ("Halpha", "N2", "Hbeta", "O3", "O2")  # the lines that Nicolaou et al. follow through their dimensions


class Line(NamedTuple):
    """One line or blend.

    Attributes
    ----------
    label : str
        As figures have it.
    waves : tuple of float
        Its components.
    half : float
        Half-width of the window it is measured in, beyond its outermost components.
    bands : ((low, high), (low, high))
        Continuum to either side.
    """

    label: str
    waves: tuple[float, ...]
    half: float
    bands: tuple[tuple[float, float], tuple[float, float]]


LINES: dict[str, Line] = {
    "O2": Line("[O II]", (3727.09, 3729.88), 12.0, ((3690, 3710), (3745, 3765))),
    "Ne3": Line("[Ne III]", (3869.86,), 9.0, ((3845, 3858), (3905, 3920))),
    "CaK": Line("Ca K", (3934.78,), 10.0, ((3905, 3920), (4000, 4020))),
    "CaH": Line("Ca H", (3969.59,), 10.0, ((3905, 3920), (4000, 4020))),
    "Hdelta": Line(r"H$\delta$", (4102.89,), 12.0, ((4045, 4080), (4125, 4160))),
    "G": Line("G", (4305.61,), 16.0, ((4265, 4283), (4320, 4330))),
    "Hgamma": Line(r"H$\gamma$", (4341.68,), 11.0, ((4315, 4328), (4375, 4420))),
    "Hbeta": Line(r"H$\beta$", (4862.68,), 13.0, ((4800, 4840), (4885, 4930))),
    "O3": Line("[O III]", (4960.30, 5008.24), 11.0, ((4885, 4930), (5035, 5070))),
    "Mg": Line("Mg b", (5168.76, 5174.13, 5185.05), 12.0, ((5118, 5143), (5200, 5240))),
    "He1": Line("He I", (5877.25,), 7.0, ((5820, 5860), (5912, 5950))),
    "Na": Line("Na D", (5891.58, 5897.56), 9.0, ((5820, 5860), (5912, 5950))),
    "O1": Line("[O I]", (6302.05,), 10.0, ((6250, 6285), (6320, 6350))),
    "N2": Line("[N II]", (6585.27,), 9.0, ((6480, 6525), (6620, 6660))),
    "Halpha": Line(r"H$\alpha$", (6564.61,), 10.0, ((6480, 6525), (6620, 6660))),
    "S2": Line("[S II]", (6718.29, 6732.67), 12.0, ((6620, 6690), (6755, 6800))),
    "TiO": Line("TiO", (7150.0,), 50.0, ((7030, 7060), (7400, 7450))),
}
BALMER = ("Halpha", "Hbeta", "Hgamma", "Hdelta")
# what figures 3, 5 and 7 of Nicolaou et al. zoom in on, and their limits
ZOOMS: dict[str, tuple[float, float]] = {
    "Ca K, H": (3880, 4030),
    "[O II]": (3680, 3780),
    r"H$\beta$, [O III]": (4780, 5090),
    "Na D": (5830, 5960),
    r"H$\alpha$, [N II], [S II]": (6450, 6820),
}


class Strength(NamedTuple):
    """A line in N spectra, positive in emission: integrated flux, in the spectra's units times Angstrom, and equivalent
    width in Angstrom, NaN where there is no positive continuum to measure it by."""

    flux: np.ndarray
    width: np.ndarray


def strength(wave: np.ndarray, flux: np.ndarray, name: str) -> Strength:
    """Integrated flux and equivalent width of a line above a continuum that is straight between its two bands.

    Parameters
    ----------
    wave : (W,) float
        Rest wavelengths of bin centres, increasing.
    flux : (N, W) float
        NaN for what is not known; a line that has any in its window gets NaN.
    name : str
        Of `LINES`. A bin takes part by the share of it that is within the window. Each band's level is its median.

    Raises
    ------
    DataError
        A grid that does not reach over the line and its bands.
    """
    line, flux = LINES[name], np.asarray(flux, np.float64)
    edges = _edges(wave)
    low, high = min(line.waves) - line.half, max(line.waves) + line.half
    if edges[0] > line.bands[0][0] or edges[-1] < line.bands[1][1]:
        got, reach = f"{edges[0]:.0f} to {edges[-1]:.0f}", f"{line.bands[0][0]} to {line.bands[1][1]}"
        fix = "leave out the line"
        raise DataError("the spectra do not reach over a line", where=name, expected=reach, got=got, fix=fix)
    sides = [_level(wave, flux, band) for band in line.bands]
    at = [sum(band) / 2 for band in line.bands]
    slope = (sides[1] - sides[0]) / (at[1] - at[0])
    inside = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None)
    used = inside > 0
    ground = sides[0][:, None] + slope[:, None] * (wave[used] - at[0])
    excess = flux[:, used] - ground
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(ground > 0, excess / ground, np.nan)
    return Strength(excess @ inside[used], share @ inside[used])


def wings(wave: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """(N,): equivalent width of H alpha's wings, 1,500 to 6,000 km/s to either side, in Angstrom.

    Beyond [N II] and short of [S II], without the 20 Angstrom about He I: about 0 without a broad component, tens with one.
    A narrow [O I] 6366 in the blue band does not move that band's median. NaN where there is no positive continuum.
    """
    flux, edges = np.asarray(flux, np.float64), _edges(wave)
    sides = [_level(wave, flux, band) for band in WING_BANDS]
    at = [sum(band) / 2 for band in WING_BANDS]
    velocity = np.abs(wave / LINES["Halpha"].waves[0] - 1) * SPEED_OF_LIGHT
    used = (velocity > 1_500) & (velocity < 6_000) & (np.abs(wave - WING_LINE[0]) > WING_LINE[1])
    ground = sides[0][:, None] + ((sides[1] - sides[0]) / (at[1] - at[0]))[:, None] * (wave[used] - at[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(ground > 0, flux[:, used] / ground - 1, np.nan) @ np.diff(edges)[used]


def break_4000(wave: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """(N,): mean flux redwards of 4000 Angstrom over that bluewards (`BREAK`); 1.2 for young stars, 2 for old ones."""
    blue, red = (np.asarray(flux, np.float64)[:, (wave >= low) & (wave <= high)].mean(1) for low, high in BREAK)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(blue > 0, red / blue, np.nan)


def changes(wave: np.ndarray, low: np.ndarray, high: np.ndarray, names: Sequence[str] = TABLE_1) -> list[dict[str, object]]:
    """What differs between the ends of latent dimensions: table 1 of Nicolaou et al., in numbers.

    Parameters
    ----------
    low, high : (L, W) float
        Spectrum at the low and at the high end of each dimension.

    Returns
    -------
    list of dict
        One a dimension, counted from 1: ``blue`` and ``red`` continuum as high over low, the 4000 Angstrom break at either
        end, each line's equivalent width (Angstrom, positive in emission) and integrated flux at either end, and the
        equivalent width of H alpha's wings at either end. NaN where a continuum that something is measured by is not
        positive.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    blue, red = (_ratio(_level(wave, high, band), _level(wave, low, band)) for band in ENDS)
    pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {"break": (break_4000(wave, low), break_4000(wave, high))}
    for name in names:
        ends = strength(wave, low, name), strength(wave, high, name)
        pairs[name] = (ends[0].width, ends[1].width)
        pairs[f"{name} flux"] = (ends[0].flux, ends[1].flux)
    pairs["wings"] = (wings(wave, low), wings(wave, high))
    rows = []
    for i in range(len(low)):
        both = {f"{name} {end}": float(pair[j][i]) for name, pair in pairs.items() for j, end in enumerate(("low", "high"))}
        rows.append({"dimension": i + 1, "blue": float(blue[i]), "red": float(red[i]), **both})
    return rows


def arrows(rows: Sequence[Mapping[str, object]], names: Sequence[str] = TABLE_1) -> list[dict]:
    """The same in the paper's signs: ``up`` and ``down`` where the change is more than `FLAT` or `FAINT`, else ``-``.

    ``?`` where it could not be measured.
    """
    found = []
    for row in rows:
        signs = {end: _sign(math.log(row[end]) if row[end] > 0 else math.nan, FLAT) for end in ("blue", "red")}
        signs["4000 A"] = _sign(row["break high"] - row["break low"], FLAT, "strengthens", "weakens")
        changed = ", ".join(f"{name} {sign}" for name, sign in signs.items() if sign != "-")
        widths = {LINES[name].label: _sign(row[f"{name} high"] - row[f"{name} low"], FAINT) for name in names}
        broader = _sign(abs(row["wings high"] - row["wings low"]), BROAD, "yes").replace("-", "no")
        found.append({"dimension": row["dimension"], "continuum": changed or "-", **widths, "broadening": broader})
    return found


def remark(wave: np.ndarray, pulls: np.ndarray, z: float) -> dict[float, str]:
    """Where a spectrum is least like its reconstruction, and what lies there: ``{rest wavelength: text}``, one entry.

    Parameters
    ----------
    pulls : (W,) float
        Residual in units of the noise; NaN where a pixel is masked.
    z : float
        What the survey believes: sky lines and cameras' edges stand still in the observed frame.
    """
    smooth = np.convolve(np.nan_to_num(pulls), np.ones(3) / 3, mode="same")
    at = float(wave[np.argmax(np.abs(smooth))])
    seen = at * (1 + z)
    near = {abs(component - at): line.label for line in LINES.values() for component in line.waves}
    edge = min(abs(seen - boundary) for boundary in CAMERAS)
    if min(near) < 12:
        return {at: near[min(near)]}
    if edge < 40:
        return {at: f"cameras meet ({seen:.0f} A observed)"}
    if seen > SKY_FROM or min(abs(seen - line) for line in SKY_LINES) < 10:
        return {at: f"sky? ({seen:.0f} A observed)"}
    return {at: f"{seen:.0f} A observed"}


def _sign(change: float, least: float, more: str = "up", less: str = "down") -> str:
    return "?" if math.isnan(change) else more if change > least else less if change < -least else "-"


def _ratio(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Of two continua, NaN where they are not both positive."""
    positive = (low > 0) & (high > 0)
    return np.where(positive, high, np.nan) / np.where(positive, low, 1.0)


def _edges(wave: np.ndarray) -> np.ndarray:
    """Bin edges half-way between centres, ``(W + 1,)``."""
    wave = np.asarray(wave, np.float64)
    middle = (wave[1:] + wave[:-1]) / 2
    return np.concatenate([[2 * wave[0] - middle[0]], middle, [2 * wave[-1] - middle[-1]]])


def _level(wave: np.ndarray, flux: np.ndarray, band: tuple[float, float]) -> np.ndarray:
    """(N,) median of the bins whose centres are within a band, of the nearest one where there is none."""
    inside = (wave >= band[0]) & (wave <= band[1])
    if not inside.any():
        inside[np.argmin(np.abs(wave - sum(band) / 2))] = True
    return np.median(flux[:, inside], axis=1)

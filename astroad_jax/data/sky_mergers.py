"""What makes a merger of the mock sky's galaxies: companions on their way in, and the marks they leave.

`disturbance` between 0 and 1 scales all marks: tails up to 30% of the light, one side up to 1.6 times as bright as
the mean, isophotes twisted by up to half a turn, shells (up to 20%, remnants with much bulge), a second nucleus
(young remnants). A minor companion leaves less, and a remnant relaxes with an e-folding of 0.8 in phase.
"""

from __future__ import annotations

import math

import numpy as np

from astroad_jax.data.sky_parameters import Columns, Sky, companion_galaxy, per_band


def merge(sky: Sky, kind: str, main: Columns, u: Columns, g: Columns) -> tuple[Columns, Columns | None]:
    """Draw what is peculiar to a kind; changes `main` where the merger disturbs it.

    Returns
    -------
    merger : dict of (N,) arrays
        ``phase``, ``flux_ratio``, ``separation`` (pixels): NaN where there is none; ``companion_visible`` (bool);
        ``disturbance``; the shares of the light in ``tail``, ``shells``, ``nucleus``, and their places.
    companion : dict of (N,) float64, or None
        A galaxy for the renderer.
    """
    merger = _progenitors(sky, kind, len(main["x"]), u)
    companion = None
    if kind in ("pair", "hidden_pair"):
        companion = companion_galaxy(sky, main["mass"] - np.log10(merger["flux_ratio"]), main["redshift"], u, g)
        companion["flux"] = main["flux"] / merger["flux_ratio"]
        _place(sky, kind, main, companion, merger, u)
    merger["disturbance"] = _disturbance(kind, main, merger, u)
    _disturb(kind, main, merger, u)
    return merger, companion


def signal_to_noise(sky: Sky, galaxy: Columns) -> np.ndarray:
    """Of the light within the half-light ellipse, PSF included, of the magnitudes' band; noise taken as white."""
    half, variance = galaxy["flux"] / 2, _variance(sky)
    noise = np.sqrt(half / sky.gain + _area(sky, galaxy) * variance)
    with np.errstate(divide="ignore"):  # a sky without noise: infinite
        return half / noise


def _variance(sky: Sky) -> float:
    """Of the empty sky in the magnitudes' band."""
    return sky.sky / sky.gain + float(per_band(sky, sky.noise.sigma)[sky.bands // 2]) ** 2


def _area(sky: Sky, galaxy: Columns) -> np.ndarray:
    return np.pi * (galaxy["r_eff"] ** 2 * (1 - galaxy["ellipticity"]) + (sky.psf_fwhm / 2) ** 2)


def _progenitors(sky: Sky, kind: str, count: int, u: Columns) -> Columns:
    """Phase of the merger sequence and flux ratio of the two galaxies it began with."""
    none = np.full(count, np.nan)
    merger = {"phase": none, "flux_ratio": none, "separation": none, "companion_visible": np.zeros(count, bool)}
    if kind == "isolated":
        return merger
    low, high = sky.flux_ratio
    phase = u["phase"] if kind == "post_merger" else -u["phase"]
    return merger | {"phase": phase, "flux_ratio": low * (high / low) ** (u["flux_ratio"] ** 2)}


def _place(sky: Sky, kind: str, main: Columns, companion: Columns, merger: Columns, u: Columns) -> None:
    """Put companions where their kind wants them: in the frame, outside it, or below the detection limit."""
    angle = 2 * np.pi * u["direction"]
    cos, sin = np.cos(angle), np.sin(angle)
    reach = 1 / np.maximum(np.abs(cos), np.abs(sin))
    inside, outside = (sky.size / 2 - 1) * reach, (sky.size / 2 + 1) * reach
    separation = _orbit(sky, main, merger, inside, u)
    if kind == "pair" and sky.separation is not None:
        separation = sky.separation[0] + (sky.separation[1] - sky.separation[0]) * u["separation"]
    if kind == "hidden_pair":
        limit = 2 * sky.detection * np.sqrt(_area(sky, companion) * _variance(sky))
        faint = (u["why_hidden"] > 0.7) & (limit > 0)
        away = outside * (1 + 0.4 * u["separation"]) + 1.5 * companion["r_eff"]  # little of its light in the frame
        separation = np.where(faint, separation, away)
        dim = np.minimum(companion["flux"], limit * (0.1 + 0.8 * u["faintness"]))
        companion["flux"] = np.where(faint, dim, companion["flux"])
    companion["x"], companion["y"] = main["x"] + separation * cos, main["y"] + separation * sin
    merger["separation"], merger["flux_ratio"] = separation, main["flux"] / companion["flux"]
    merger["tail_angle"] = angle  # a bridge, and a tail opposite
    within = np.maximum(*(np.abs(companion[axis] - (sky.size - 1) / 2) for axis in "xy")) < sky.size / 2
    merger["companion_visible"] = within & (signal_to_noise(sky, companion) >= sky.detection)


def _orbit(sky: Sky, main: Columns, merger: Columns, inside: np.ndarray, u: Columns) -> np.ndarray:
    """Projected separation: 4 half-light radii or the frame at phase -1, a PSF's width at 0, seen from any side."""
    least = max(sky.psf_fwhm, 1.0)
    most = np.maximum(np.minimum(4 * main["r_eff"], inside), least)
    return least + (most - least) * np.sqrt(-merger["phase"]) * np.sqrt(1 - u["view"] ** 2)


def _disturbance(kind: str, main: Columns, merger: Columns, u: Columns) -> np.ndarray:
    strength = 0.5 + 0.5 * u["strength"]
    if kind == "isolated":
        return np.zeros(len(strength))
    if kind == "post_merger":
        return strength * np.exp(-merger["phase"] / 0.8) * merger["flux_ratio"] ** -0.3
    if kind == "hidden_pair":  # half of them have not felt anything yet
        return np.where(u["mild"] < 0.5, 0.0, 0.5 * strength)
    near = np.exp(-merger["separation"] / (2 * main["r_eff"]))
    return strength * (0.2 + 0.8 * near) * merger["flux_ratio"] ** -0.4


def _disturb(kind: str, main: Columns, merger: Columns, u: Columns) -> None:
    """Spend the disturbance on the main galaxy and on what surrounds it."""
    d, remnant = merger["disturbance"], kind == "post_merger"
    main["lopsided"] = main["lopsided"] + 0.5 * d * u["strength"]
    main["arms"] = main["arms"] * (1 - 0.8 * d)
    main["twist"] = 1.2 * d * (2 * u["twist"] - 1)
    merger["tail"] = 0.3 * d * (0.4 + 0.6 * u["tail"])
    merger["tail_ratio"] = u["tail_ratio"]
    merger.setdefault("tail_angle", 2 * np.pi * u["tail_angle"])
    merger["winding"] = (0.3 + 0.7 * np.abs(2 * u["winding"] - 1)) * np.sign(u["winding"] - 0.5)
    merger["shells"] = remnant * (main["bulge_to_total"] > 0.4) * 0.2 * d * u["shells"]
    merger["shell_angle"] = 2 * np.pi * u["shell_angle"]
    double = remnant & (u["nucleus"] < np.exp(-2.5 * np.nan_to_num(merger["phase"])))
    gap = np.maximum(main["r_eff"] * (0.25 + 0.5 * u["nucleus_gap"]), 2.0)
    angle = 2 * math.pi * u["nucleus_angle"]
    merger["nucleus"] = np.where(double, 0.3 / (1 + np.nan_to_num(merger["flux_ratio"], nan=1.0)), 0.0)
    merger["nucleus_x"], merger["nucleus_y"] = main["x"] + gap * np.cos(angle), main["y"] + gap * np.sin(angle)
    merger["separation"] = np.where(double, gap, merger["separation"])

"""Anomalies of the kinds that Nicolaou et al. found among DESI's galaxies, planted: one small function a kind.

Those of objects (`OF_OBJECTS`) change what is there or where it is believed to be; those of pixels (`OF_PIXELS`) what the
instrument makes of it, in the observed frame. Every anomaly is taken for a galaxy by the survey. What their strengths are is
a choice, made once from what the paper says of its own outliers, and written beside each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from experiments.desi_objects import EMISSION, NAMES, SPEED_OF_LIGHT, Exposure, Templates, stars

ARMS = {"B": (3600.0, 5780.0), "R": (5780.0, 7570.0), "Z": (7570.0, 9824.0)}  # middle of the overlaps, observed Angstrom

# figures 10a and 12c: H alpha far above all other lines. Equivalent widths in Angstrom; other lines by a factor of what
# the galaxy's own ratios would give
EXTREME = (200.0, 1000.0)
FAINTER = (0.1, 1.0)
# section 5.2.1: "full width at half maximum spanning several hundred Angstroms", and Seyfert 1 as figure 10c
BROAD_WIDTH = (5_000.0, 18_000.0)  # km/s, full width at half maximum: 110 to 390 Angstrom at H alpha
BROAD_STRENGTH = (150.0, 600.0)  # equivalent width of H alpha, Angstrom
BALMER = {"Halpha": 1.0, "Hbeta": 0.32, "Hgamma": 0.15, "Hdelta": 0.08}  # of H alpha's light
# figures 10d and 12a: stars taken for galaxies at z = 0.07, galaxies with the break in the wrong place
WRONG_STARS = 0.4  # share of wrong redshifts that are stars
WRONG_BY = (0.04, 0.1)  # difference of redshift: 0.04 is 160 Angstrom at the break; beyond 0.1 the templates end too soon
# figure 15, R5: the blue camera below the red one around 5000 Angstrom
STEP_SIZE = (0.25, 0.6)  # an arm's flux is lower by this share, or higher
# figure 12a: sky badly subtracted, fluxes dipping below 0. The strongest line's residual, times the median flux
SKY = (1.0, 6.0)
DIP = (120.0, 400.0)  # Angstrom: width of the stretch whose sky level is wrong as well
DIP_DEPTH = (0.6, 1.6)  # of the median flux


def extreme_lines(rng: np.random.Generator, templates: Templates, seen: Exposure) -> Exposure:
    """Emission lines of extreme strength, H alpha above all."""
    objects, count = seen.objects, len(seen.z)
    at = np.argmin(np.abs(templates.wave - EMISSION["Halpha"][0]))
    halpha = _log_uniform(rng, EXTREME, count) * objects.flux[:, at]
    strongest = templates.lines[-1] / templates.lines[-1, NAMES.index("Halpha")]  # ratios of a starburst
    lines = halpha[:, None] * strongest * _log_uniform(rng, FAINTER, (count, 1))
    lines[:, NAMES.index("Halpha")] = halpha
    return seen._replace(objects=objects._replace(lines=lines))


def broad_lines(rng: np.random.Generator, templates: Templates, seen: Exposure) -> Exposure:
    """Very broad Balmer lines on an ordinary galaxy."""
    objects, count = seen.objects, len(seen.z)
    width = _log_uniform(rng, BROAD_WIDTH, (count, 1)) / (2.3548 * SPEED_OF_LIGHT)
    at = np.argmin(np.abs(templates.wave - EMISSION["Halpha"][0]))
    light = _log_uniform(rng, BROAD_STRENGTH, (count, 1)) * objects.flux[:, [at]]
    flux = objects.flux.copy()
    for name, share in BALMER.items():
        centre = EMISSION[name][0]
        offset = (templates.wave / centre - 1) / width
        flux += share * light * np.exp(-0.5 * offset**2) / (np.sqrt(2 * np.pi) * width * centre)
    return seen._replace(objects=objects._replace(flux=flux))


def wrong_redshift(rng: np.random.Generator, templates: Templates, seen: Exposure) -> Exposure:
    """Galaxies taken to be nearer or further than they are, and stars taken for galaxies."""
    count = len(seen.z)
    is_star = rng.random(count) < WRONG_STARS
    others = stars(rng, templates, count)
    objects = type(others)(*(np.where(is_star.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(others, seen.objects)))
    z_true = np.where(is_star, np.abs(rng.normal(0, 3e-4, count)), seen.z_true)
    by = rng.uniform(*WRONG_BY, count) * rng.choice([-1.0, 1.0], count)
    z = z_true + np.where((z_true + by < 0.01) | (z_true + by > 0.3), -by, by)
    return Exposure(objects._replace(spectype=np.full(count, "GALAXY")), z_true, z)


def camera_step(
    rng: np.random.Generator, wave: np.ndarray, flux: np.ndarray, ivar: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One arm calibrated wrong against the others, its noise with it."""
    count = len(flux)
    arm = rng.integers(2, size=count)  # blue or infrared: a wrong red arm has two steps
    size = rng.uniform(*STEP_SIZE, count) * rng.choice([-1.0, 1.0], count)
    limits = np.array([ARMS["B"], ARMS["Z"]])[arm]
    inside = (wave >= limits[:, :1]) & (wave < limits[:, 1:])
    factor = np.where(inside, 1 + size[:, None], 1.0).astype(np.float32)
    return flux * factor, ivar / factor**2


def bad_sky(rng: np.random.Generator, wave: np.ndarray, flux: np.ndarray, ivar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sky lines left in or subtracted twice, and a stretch whose level is wrong; neither flagged.

    The sky's spectrum is taken from the noise itself: where the sky is bright, the variance is high.
    """
    count, known = len(flux), ivar > 0
    variance = np.where(known, 1 / np.where(known, ivar, 1), 0.0)
    floor = _running_low(variance)
    lines = np.sqrt(np.clip(variance - floor, 0, None))
    lines = np.minimum(lines / np.maximum(np.quantile(lines, 0.995, axis=1, keepdims=True), 1e-30), 1)
    level = np.array([np.median(row[on]) if on.any() else 0.0 for row, on in zip(flux, known)])[:, None]
    residual = rng.choice([-1.0, 1.0], (count, 1)) * _log_uniform(rng, SKY, (count, 1)) * level * lines
    centre = rng.uniform(wave[0] + 600, wave[-1] - 1500, (count, 1))
    shape = np.exp(-0.5 * ((wave - centre) / (rng.uniform(*DIP, (count, 1)) / 2.3548)) ** 2)
    residual -= rng.uniform(*DIP_DEPTH, (count, 1)) * level * shape
    return np.where(known, flux + residual, flux).astype(np.float32), ivar


def _running_low(variance: np.ndarray, stretch: int = 100) -> np.ndarray:
    """Lower quartile of every stretch of pixels, for all of its pixels: the noise between sky lines."""
    count, pixels = variance.shape
    whole = np.pad(variance, ((0, 0), (0, -pixels % stretch)), mode="edge").reshape(count, -1, stretch)
    return np.repeat(np.quantile(whole, 0.25, axis=2), stretch, axis=1)[:, :pixels]


def _log_uniform(rng: np.random.Generator, limits: tuple[float, float], size: int | tuple[int, ...]) -> np.ndarray:
    return np.exp(rng.uniform(*np.log(limits), size))


OF_OBJECTS: dict[str, Callable] = {
    "extreme lines": extreme_lines,
    "broad lines": broad_lines,
    "wrong redshift": wrong_redshift,
}
OF_PIXELS: dict[str, Callable] = {"camera step": camera_step, "bad sky": bad_sky}
KINDS = (*OF_OBJECTS, *OF_PIXELS)

"""What the mock sky shows, and with what: kinds, settings, and the galaxies drawn for them.

Sizes, masses and ratios follow measured relations where there are any, so that the ranges are those of the H-band
galaxies (0.5 < z < 3) that the merger search of Margalef-Bentabol et al. (2020) is about:

=================  ==========================================================================================
stellar mass       Schechter function, log M* = 10.9, slope -1.3, between the limits of `Sky.mass`
redshift           p(z) ~ z^2 exp(-z / 0.5): a mass-limited sample seen to a magnitude limit, peak at z = 1
type               early with probability 1 / (1 + exp(-(log M - 11) / 0.25)); B/T 0.5 to 1, late 0 to 0.5
half-light radius  van der Wel et al. (2014): late 8.9 (1 + z)^-0.75 kpc with mass^0.22, scatter 0.16 dex; early
                   5.6 (1 + z)^-1.48 kpc with mass^0.76, scatter 0.10 dex, at log M = 10.7
magnitude          21.5 at z = 1 and log M = 10.5, dimmed by luminosity distance, 0.75 mag a unit of redshift
                   brighter (younger stars), scatter 0.3 mag
Sersic index       disc 1; bulge 1 to 3 (late: pseudo-bulges), 2.5 to 4.5 (early)
inclination        cos i uniform; a disc of thickness 0.15 to 0.45, thicker with B/T
flux ratio         log F = log F_max u^2: 45% above 2 for F_max = 10, as among the paper's pairs (46%)
separation         an orbit that starts at 4 half-light radii (the paper's phase -1), seen from any side
=================  ==========================================================================================

Mass and redshift are there to order and colour the objects; no evolution model stands behind them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from astroad_jax.data.sky_light import sersic_b, sersic_total

KINDS = ("isolated", "pair", "hidden_pair", "post_merger")
GALAXY = (
    "early", "bulge", "index", "ratio", "inclination", "flatness", "angle", "arms", "arm_count", "pitch", "hand",
    "arm_phase", "lopsided", "lopsided_angle",
)  # fmt: skip
UNIFORMS = (
    "mass", "redshift", "x", "y", "ra", "dec", "phase", "flux_ratio", "view", "direction", "separation", "why_hidden",
    "faintness", "mild", "strength", "tail", "tail_ratio", "tail_angle", "winding", "twist", "shells", "shell_angle",
    "nucleus", "nucleus_gap", "nucleus_angle", *GALAXY, *(f"companion_{name}" for name in GALAXY),
)  # fmt: skip
NORMALS = ("magnitude", *(f"{who}{name}" for who in ("", "companion_") for name in ("size", "disc", "bulge")))
RADII = (1.0, 0.25)  # half-light radii are kept between so many pixels and this share of the frame
PIVOTS = 22.0, 4.0  # magnitude and kpc about which `Sky.magnitude_spread` and `size_spread` spread

Columns = dict[str, np.ndarray]


class Noise(NamedTuple):
    """Gaussian noise of an image, sky noise as a rule.

    Attributes
    ----------
    sigma : tuple of float
        Standard deviation of a pixel, one for each band, in the image's units; one serves all bands.
    correlation : float
        Length s in pixels: pixels d apart correlate as exp(-d^2 / 4 s^2). 0 for white noise.
    """

    sigma: tuple[float, ...]
    correlation: float = 0.0


class Sky(NamedTuple):
    """What is observed and with what; the defaults are the H band of CANDELS' wide fields (HST/WFC3 F160W).

    Attributes
    ----------
    size : int
        Pixels on a side, at least 16.
    bands : {1, 3}
        One, or i, r, g in the order of a colour picture, magnitudes being those of r.
    pixel_scale : float
        Arcseconds a pixel.
    zero_point : float
        Magnitude of one count.
    psf_fwhm : float
        Pixels; 0 for none. Below two pixels it is sampled too coarsely to be itself.
    psf_beta : float
        Moffat exponent; infinity for a Gaussian.
    sky : float
        Counts a pixel, taken off again: its Poisson noise stays.
    gain : float
        Electrons a count; infinity for no Poisson noise at all.
    noise : Noise
        Gaussian noise added, and the correlation of ALL the noise, Poisson noise included.
    balance : tuple of float
        Factor on the light of each band; 1 for that of the magnitudes, the second of three.
    offset : tuple of float
        Counts a pixel left in each band when the sky was taken off; one serves all bands.
    mass : (low, high)
        Limits of log10 stellar mass in suns.
    isolated_mass : float
        Upper limit for isolated galaxies. The paper's have none above 10.75, its mergers reach 12, which by
        itself makes mergers anomalous; here they are alike unless asked.
    redshift : (low, high)
        Limits.
    flux_ratio : (low, high)
        Of main galaxy and companion, 1 or more; the paper's mergers go to 1:10 in mass.
    separation : (low, high), optional
        Pixels between the centres of a visible pair, uniform. By default an orbit's (see the module).
    detection : float
        Signal-to-noise, within its half-light ellipse, from which a companion in the frame counts as visible.
    magnitude_spread, size_spread : float
        Widen the magnitudes about 22 and the log half-light radii about 4 kpc by these factors.
    """

    size: int = 64
    bands: int = 1
    pixel_scale: float = 0.06
    zero_point: float = 25.95
    psf_fwhm: float = 3.0
    psf_beta: float = math.inf
    sky: float = 0.2
    gain: float = 3200.0
    noise: Noise = Noise((0.004,), 0.5)
    balance: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)
    mass: tuple[float, float] = (10.0, 12.0)
    isolated_mass: float = 12.0
    redshift: tuple[float, float] = (0.5, 3.0)
    flux_ratio: tuple[float, float] = (1.0, 10.0)
    separation: tuple[float, float] | None = None
    detection: float = 5.0
    magnitude_spread: float = 1.0
    size_spread: float = 1.0


def per_band(sky: Sky, values: tuple[float, ...]) -> np.ndarray:
    """One value for each band, ``(C,)`` float32, from as many or from one."""
    return np.broadcast_to(np.asarray(values, np.float32), (sky.bands,))


def main_galaxy(sky: Sky, kind: str, u: Columns, g: Columns) -> Columns:
    """Turn dice into the galaxy in the middle of each image.

    Parameters
    ----------
    u : dict of (N,) float64
        `UNIFORMS`, in [0, 1).
    g : dict of (N,) float64
        `NORMALS`, of unit variance.

    Returns
    -------
    dict of (N,) float64
        All that the renderer needs: see `companion_galaxy`; with ``mass``, ``redshift``, ``flux`` (counts in the
        magnitudes' band) and the place ``x``, ``y`` (pixels from the first, within half a pixel of the middle).
    """
    top = min(sky.isolated_mass, sky.mass[1]) if kind == "isolated" else sky.mass[1]
    mass = _inverse_cdf(u["mass"], _schechter, sky.mass[0], top)
    z = _inverse_cdf(u["redshift"], lambda z: z**2 * np.exp(-z / 0.5), *sky.redshift)
    magnitude = _magnitude(sky, mass, z, g["magnitude"])
    return _galaxy(sky, mass, z, u, g) | {
        "mass": mass,
        "redshift": z,
        "flux": 10 ** (-0.4 * (magnitude - sky.zero_point)),
        "x": (sky.size - 1) / 2 + u["x"] - 0.5,
        "y": (sky.size - 1) / 2 + u["y"] - 0.5,
    }


def companion_galaxy(sky: Sky, mass: np.ndarray, redshift: np.ndarray, u: Columns, g: Columns) -> Columns:
    """Turn dice into companions of the given log10 masses: shape and colours, no flux and no place yet.

    Returns
    -------
    dict of (N,) float64
        ``r_eff``, ``r_disc``, ``r_bulge`` (half-light, pixels), ``bulge_to_total``, ``n`` (of the bulge), ``disc_q``,
        ``bulge_q`` (axis ratios), ``ellipticity``, ``inclination`` (degrees), ``angle`` of the long axis (radians
        from x to y), ``arms`` (contrast, 0 to 1), ``arm_count``, ``pitch`` (tangent, signed), ``arm_phase``,
        ``lopsided`` (contrast), ``lopsided_angle``, ``disc_colour``, ``bulge_colour`` (g - r), ``twist``.
    """
    own = {name: u[f"companion_{name}"] for name in GALAXY}
    return _galaxy(sky, mass, redshift, own, {name: g[f"companion_{name}"] for name in ("size", "disc", "bulge")})


def _inverse_cdf(u: np.ndarray, density: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> np.ndarray:
    """Values of a density between limits, from uniform numbers."""
    if high <= low:
        return np.full(len(u), float(low))
    grid = np.linspace(low, high, 513)
    cdf = np.concatenate([[0], np.cumsum(density((grid[1:] + grid[:-1]) / 2))])
    return np.interp(u, cdf / cdf[-1], grid)


def _schechter(mass: np.ndarray) -> np.ndarray:
    return 10 ** (-0.3 * (mass - 10.9)) * np.exp(-(10 ** (mass - 10.9)))


def _comoving(z: np.ndarray) -> np.ndarray:
    """Comoving distance in Mpc: flat, H0 = 70, matter 0.3."""
    grid = np.linspace(0, max(4.0, float(z.max(initial=0))), 1025)
    middle = (grid[1:] + grid[:-1]) / 2
    steps = np.diff(grid) / np.sqrt(0.3 * (1 + middle) ** 3 + 0.7)
    return np.interp(z, grid, 4282.7 * np.concatenate([[0], np.cumsum(steps)]))


def _magnitude(sky: Sky, mass: np.ndarray, z: np.ndarray, scatter: np.ndarray) -> np.ndarray:
    luminosity_distance = _comoving(z) * (1 + z)
    dimming = 5 * np.log10(luminosity_distance / 6608.0)  # that of z = 1
    physical = 21.5 - 2.5 * (mass - 10.5) + dimming - 0.75 * (z - 1) + 0.3 * scatter
    return PIVOTS[0] + sky.magnitude_spread * (physical - PIVOTS[0])


def _half_light(sky: Sky, mass: np.ndarray, z: np.ndarray, early: np.ndarray, scatter: np.ndarray) -> np.ndarray:
    """Half-light radius in pixels."""
    late_kpc = 8.9 * (1 + z) ** -0.75 * 10 ** (0.22 * (mass - 10.7) + 0.16 * scatter)
    early_kpc = 5.6 * (1 + z) ** -1.48 * 10 ** (0.76 * (mass - 10.7) + 0.10 * scatter)
    kpc_per_pixel = _comoving(z) / (1 + z) * 1000 / 206265 * sky.pixel_scale
    kpc = PIVOTS[1] * (np.where(early, early_kpc, late_kpc) / PIVOTS[1]) ** sky.size_spread
    return np.clip(kpc / kpc_per_pixel, RADII[0], RADII[1] * sky.size)


def _galaxy(sky: Sky, mass: np.ndarray, z: np.ndarray, u: Columns, g: Columns) -> Columns:
    """Shape and colours of a galaxy of the given mass."""
    early = u["early"] < 1 / (1 + np.exp(-(mass - 11) / 0.25))
    bulge = np.where(early, 0.5 + 0.5 * u["bulge"], 0.5 * u["bulge"] ** 2)
    n = np.where(early, 2.5, 1.0) + 2 * u["index"]
    ratio = np.where(early, 0.4 + 0.4 * u["ratio"], 0.15 + 0.2 * u["ratio"])  # bulge radius / disc radius
    r_eff = _half_light(sky, mass, z, early, g["size"])
    r_disc = r_eff / half_light(bulge, n, ratio)
    sin_i = np.sqrt(1 - u["inclination"] ** 2)
    disc_q = np.hypot(u["inclination"], (0.15 + 0.3 * bulge) * sin_i)
    bulge_q = 1 - 0.4 * u["flatness"] * sin_i
    colour = 0.45 + 0.15 * (mass - 10.5) + 0.2 * early + 0.08 * g["disc"]
    return {
        "r_eff": r_eff,
        "r_disc": r_disc,
        "r_bulge": ratio * r_disc,
        "bulge_to_total": bulge,
        "n": n,
        "disc_q": disc_q,
        "bulge_q": bulge_q,
        "ellipticity": 1 - bulge * bulge_q - (1 - bulge) * disc_q,
        "inclination": np.degrees(np.arccos(u["inclination"])),
        "angle": np.pi * u["angle"],
        # arms fade where there is little disc, and where it is seen from the side
        "arms": ~early * (0.2 + 0.5 * u["arms"]) * np.clip(disc_q / 0.4, 0, 1),
        "arm_count": np.where(u["arm_count"] < 0.75, 2.0, 3.0),
        "pitch": np.tan(np.radians(12 + 18 * u["pitch"])) * np.where(u["hand"] < 0.5, 1, -1),
        "arm_phase": 2 * np.pi * u["arm_phase"],
        "lopsided": 0.12 * u["lopsided"],
        "lopsided_angle": 2 * np.pi * u["lopsided_angle"],
        "disc_colour": colour,
        "bulge_colour": np.maximum(colour, 0.75 + 0.03 * g["bulge"]),
        "twist": np.zeros(len(mass)),
    }


def half_light(bulge: np.ndarray, n: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Half-light radius of disc and bulge together, seen face-on, in half-light radii of the disc; to 1%.

    Parameters
    ----------
    bulge : (N,) float
        The bulge's share of the light.
    n, ratio : (N,) float
        Its Sersic index, and its half-light radius over that of the disc.
    """
    radius = np.geomspace(1e-3, 10, 128)
    disc = _growth(radius[None], np.ones((1, 1)))
    light = bulge[:, None] * _growth(radius / ratio[:, None], n[:, None]) + (1 - bulge[:, None]) * disc
    above = np.argmax(light >= 0.5, axis=1)[:, None]
    low, high = np.take_along_axis(light, above - 1, 1), np.take_along_axis(light, above, 1)
    step = (0.5 - low) / (high - low)
    return (radius[above - 1] * (radius[1] / radius[0]) ** step)[:, 0]


def _growth(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Share of a Sersic profile's light within x half-light radii, x ``(N, K)`` in equal factors."""
    ring = 2 * np.pi * x**2 * np.exp(-sersic_b(n) * (x ** (1 / n) - 1)) * np.log(x[:, 1:2] / x[:, :1])
    return (np.cumsum(ring, axis=1) - ring / 2) / sersic_total(n)

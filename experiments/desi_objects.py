"""Noiseless galaxies, quasars and stars in their rest frame, drawn from DESI's redshift templates.

What `experiments.desi_sky` observes. The templates are means and bases of fits, on 1,000 bins of 3600 to 7556 Angstrom:
smooth, without noise, and of few dimensions, so a survey made of them is simpler than the sky.
"""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from astroad_jax.errors import DataError
from experiments import common

SPEED_OF_LIGHT = 299_792.458  # km / s
GALAXIES, OTHERS = "redrock_galaxy_archetypes_750", "redrock_qso_star_bases"
# component: wavelength in vacuum, group whose strength varies together, measured between, and its share of what is measured
EMISSION = {
    "O2a": (3727.09, "O2", (3712, 3745), 0.45), "O2b": (3729.88, "O2", (3712, 3745), 0.55),
    "Ne3": (3869.86, "Ne3", (3859, 3880), 1.0), "H8": (3890.15, "H", (3881, 3900), 1.0),
    "Hepsilon": (3971.20, "H", (3962, 3981), 1.0), "Hdelta": (4102.89, "H", (4090, 4116), 1.0),
    "Hgamma": (4341.68, "H", (4328, 4356), 1.0), "Hbeta": (4862.68, "H", (4849, 4877), 1.0),
    "O3a": (4960.30, "O3", (4948, 4973), 1.0), "O3b": (5008.24, "O3", (4995, 5022), 1.0),
    "He1": (5877.25, "H", (5868, 5887), 1.0), "N2a": (6549.86, "N2", (6575.5, 6605), 0.33),
    "Halpha": (6564.61, "H", (6555.5, 6575.5), 1.0), "N2b": (6585.27, "N2", (6575.5, 6605), 1.0),
    "S2a": (6718.29, "S2", (6703, 6748), 0.55), "S2b": (6732.67, "S2", (6703, 6748), 0.45),
}  # fmt: skip
WAVES = np.array([line[0] for line in EMISSION.values()])
NAMES = tuple(EMISSION)
# where the light of lines is taken out of an archetype that has them
WINDOWS = (
    (3710, 3747), (3857, 3902), (3961, 3982), (4088, 4118), (4326, 4358), (4847, 4879), (4946, 4975), (4993, 5024),
    (5866, 5889), (6294, 6311), (6533, 6607), (6701, 6750),
)  # fmt: skip

# galaxies
MOST_RANK = 16  # of the archetypes' continua: five templates, each with its lines taken out or left in
PERTURBED = 0.15  # standard deviation of continuum coefficients, in units of the archetypes' own
NEAR = 0.05  # lines are those of an archetype so far away in the rank of H alpha
WIDTHS = (22.0, 0.35, 150.0)  # equivalent width of H alpha in star-forming galaxies: median (A), scatter (dex), most
SCATTER = 0.10  # of each group of lines, dex
DUST = 0.2  # mean V-band attenuation on top of the archetype's own, magnitudes; exponentially distributed
SIGMAS = (90.0, 0.15)  # velocity dispersion of narrow lines with the instrument's: median (km/s), scatter (dex)
# quasars and stars: coefficients of the components after the first, relative to it, all components of unit mean square
QUASARS = {"QSO_LOZ_v1p1": (0.05, 0.10, 0.08), "QSO_None_v0p1": (0.25, 0.10, 0.10)}
HOST = 0.6  # most of a quasar's light that is its host galaxy's
STARS = {"A": 0.04, "B": 0.01, "CV": 0.01, "F": 0.20, "G": 0.30, "K": 0.25, "M": 0.15, "WD": 0.04}
STAR_SCATTER = (0.06, 0.04, 0.03, 0.02)


class Objects(NamedTuple):
    """Noiseless objects.

    Attributes
    ----------
    flux : (N, W) float64
        Without narrow emission lines, median about 1, on the templates' rest grid.
    lines : (N, 16) float64
        Integrated flux of `EMISSION`, in units of `flux` times Angstrom.
    sigma : (N,) float64
        Velocity dispersion of the lines, km/s.
    spectype, subtype : (N,) str
    """

    flux: np.ndarray
    lines: np.ndarray
    sigma: np.ndarray
    spectype: np.ndarray
    subtype: np.ndarray

    def take(self, rows: np.ndarray) -> Objects:
        """Some of them."""
        return Objects(*(values[rows] for values in self))


class Exposure(NamedTuple):
    """Objects, where they are, and where the survey believes them to be, ``(N,)`` redshifts each."""

    objects: Objects
    z_true: np.ndarray
    z: np.ndarray


class Templates(NamedTuple):
    """What objects are drawn from: `wave` of every template, the galaxies' continua as mean and coefficients on a basis,
    their lines by rising strength of H alpha, and the bases of quasars and stars."""

    wave: np.ndarray
    mean: np.ndarray  # (W,)
    basis: np.ndarray  # (K, W)
    coefficients: np.ndarray  # (750, K), by rising H alpha
    lines: np.ndarray  # (750, 16), as many times Angstrom of continuum at H alpha as the galaxy is to have
    others: dict[str, np.ndarray]


def load(data: Path | None) -> Templates:
    """Read both template files below a directory.

    Raises
    ------
    DataError
        One of them is missing, or holds other arrays.
    """
    galaxies, others = (_arrays(name, data) for name in (GALAXIES, OTHERS))
    missing = [name for name in ("flux", "wave") if name not in galaxies] + [n for n in (*QUASARS,) if n not in others]
    missing += [f"STAR_{name}_v0p1" for name in STARS if f"STAR_{name}_v0p1" not in others]
    if missing:
        fix = "fetch the files again"
        raise DataError("templates are missing", where=f"{GALAXIES}, {OTHERS}", expected=missing[0], got=missing, fix=fix)
    wave, flux = galaxies["wave"].astype(np.float64), galaxies["flux"].astype(np.float64)
    wave_others = others.pop("wave")
    if len(wave_others) != len(wave) or np.abs(wave_others / wave - 1).max() > 1e-6:
        got = f"{len(wave_others)} and {len(wave)} bins"
        raise DataError("both files must have one grid", where=f"{GALAXIES}, {OTHERS}", got=got, fix="make them anew")
    return Templates(wave, *_galaxies(wave, flux), {name: _unit(basis) for name, basis in others.items()})


def _arrays(name: str, data: Path | None) -> dict[str, np.ndarray]:
    path = common.found(name, data)
    if path is None:
        fix = "give --data DIR, which has the redrock templates as npz files"
        raise DataError("no templates to draw a survey from", where=str(data), expected=f"{name}.npz", fix=fix)
    with np.load(path, allow_pickle=False) as held:
        return {key: held[key] for key in held.files}


def _unit(basis: np.ndarray) -> np.ndarray:
    """Components of mean square 1, the first one upright; a template without data here becomes 0."""
    basis = np.nan_to_num(basis.astype(np.float64))
    basis = basis / np.maximum(np.sqrt((basis**2).mean(1, keepdims=True)), 1e-30)
    basis[0] *= 1 if np.median(basis[0]) >= 0 else -1
    return basis


def _galaxies(wave: np.ndarray, flux: np.ndarray) -> tuple[np.ndarray, ...]:
    """Continua as mean, basis and coefficients, and line fluxes brought to a survey's equivalent widths."""
    step = np.gradient(wave)
    clean = _without_lines(wave, flux)
    excess = (flux - clean) * step
    at_halpha = clean[:, np.argmin(np.abs(wave - EMISSION["Halpha"][0]))]
    measured = np.stack([share * excess[:, (wave >= low) & (wave < high)].sum(1)
                         for _, _, (low, high), share in EMISSION.values()], axis=1)  # fmt: skip
    halpha = measured[:, NAMES.index("Halpha")] / at_halpha
    order = np.argsort(halpha, kind="stable")
    active = halpha > 2.0  # Angstrom: the rest are archetypes in absorption, left as they are
    continuum = np.where(active[:, None], clean, flux)[order]
    continuum = continuum / np.median(continuum, axis=1, keepdims=True)
    lines = np.where(active[:, None], np.clip(measured, 0, None), 0.0)[order]
    wanted = _quantiles(np.count_nonzero(active))
    scale = np.zeros(len(order))
    scale[len(order) - len(wanted) :] = wanted / np.maximum(lines[len(order) - len(wanted) :, NAMES.index("Halpha")], 1e-9)
    mean = continuum.mean(0)
    # archetypes are combinations of five templates: random combinations of them span what all of them span
    mixed = np.random.default_rng(0).normal(size=(MOST_RANK, len(continuum))) @ (continuum - mean)
    _, size, basis = np.linalg.svd(mixed, full_matrices=False)
    basis = basis[size > 1e-3 * size[0]]
    return mean, basis, (continuum - mean) @ basis.T, lines * scale[:, None]


def _without_lines(wave: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """Straight across every window, between the means of three bins to either side."""
    clean = flux.copy()
    for low, high in WINDOWS:
        inside = np.flatnonzero((wave >= low) & (wave < high))
        if not len(inside):
            continue
        first, last = inside[0], inside[-1]
        left, right = flux[:, max(first - 3, 0) : first].mean(1), flux[:, last + 1 : last + 4].mean(1)
        share = (np.arange(len(inside)) + 1) / (len(inside) + 1)
        clean[:, inside] = left[:, None] + share * (right - left)[:, None]
    return clean


def _quantiles(count: int) -> np.ndarray:
    """Rising equivalent widths of H alpha (Angstrom) of a survey's star-forming galaxies."""
    median, scatter, most = WIDTHS
    normal = [NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)]
    return np.minimum(median * 10 ** (scatter * np.array(normal)), most)


def galaxies(rng: np.random.Generator, templates: Templates, count: int) -> Objects:
    """Archetypes with perturbed continuum, other dust, and lines of varied strengths and widths."""
    own = templates.coefficients
    chosen = rng.integers(len(own), size=count)
    near = np.clip(np.rint(chosen + NEAR * len(own) * rng.normal(size=count)), 0, len(own) - 1).astype(int)
    covariance = np.atleast_2d(np.cov(own.T))
    shift = rng.multivariate_normal(np.zeros(len(covariance)), PERTURBED**2 * covariance, size=count)
    flux = templates.mean + (own[chosen] + shift) @ templates.basis
    flux = np.maximum(flux, 0.05)  # a perturbation may push the blue end of an old galaxy below 0
    flux *= 10 ** (-0.4 * rng.exponential(DUST, (count, 1)) * (templates.wave / 5500) ** -0.7)
    flux /= np.median(flux, axis=1, keepdims=True)
    groups = sorted({line[1] for line in EMISSION.values()})
    factors = 10 ** (SCATTER * rng.normal(size=(count, len(groups) + 1)))
    member = [groups.index(line[1]) for line in EMISSION.values()]
    at_halpha = flux[:, [np.argmin(np.abs(templates.wave - EMISSION["Halpha"][0]))]]
    lines = templates.lines[near] * at_halpha * factors[:, member] * factors[:, -1:]
    sigma = SIGMAS[0] * 10 ** (SIGMAS[1] * rng.normal(size=count))
    return Objects(flux, lines, sigma, np.full(count, "GALAXY"), np.full(count, "", "U8"))


def quasars(rng: np.random.Generator, templates: Templates, count: int) -> Objects:
    """Low-redshift quasars: either family of bases, and a host galaxy with its lines."""
    host = galaxies(rng, templates, count)
    flux = np.empty_like(host.flux)
    family = rng.integers(len(QUASARS), size=count)
    for i, (name, scatter) in enumerate(QUASARS.items()):
        rows = np.flatnonzero(family == i)
        flux[rows] = _drawn(rng, templates.others[name], scatter, len(rows))
    share = rng.uniform(0, HOST, (count, 1))
    flux = (1 - share) * flux + share * host.flux
    return Objects(flux, share * host.lines, host.sigma, np.full(count, "QSO"), np.full(count, "", "U8"))


def stars(rng: np.random.Generator, templates: Templates, count: int) -> Objects:
    """Stars of the types that fall among a galaxy survey's targets."""
    types = rng.choice(list(STARS), size=count, p=np.array(list(STARS.values())) / sum(STARS.values()))
    flux = np.empty((count, len(templates.wave)))
    for name in STARS:
        rows = np.flatnonzero(types == name)
        flux[rows] = _drawn(rng, templates.others[f"STAR_{name}_v0p1"], STAR_SCATTER, len(rows))
    none = np.zeros((count, len(EMISSION)))
    return Objects(flux, none, np.full(count, SIGMAS[0]), np.full(count, "STAR"), types.astype("U8"))


def _drawn(rng: np.random.Generator, basis: np.ndarray, scatter: tuple[float, ...], count: int) -> np.ndarray:
    """First component and a random share of the others, median 1, nowhere below 0."""
    others = basis[1 : 1 + len(scatter)]
    flux = basis[0] + (rng.normal(size=(count, len(others))) * scatter[: len(others)]) @ others
    flux = np.maximum(flux, 0.0)
    return flux / np.maximum(np.median(flux, axis=1, keepdims=True), 0.05)

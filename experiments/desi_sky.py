"""A semi-real DESI survey: template objects seen through the noise of real DESI spectra, with planted anomalies.

    from experiments import desi_sky
    survey = desi_sky.make(desi_sky.Settings(size=30000), Path("DIR"), Spectra())

Objects (`desi_objects`) are put at redshifts of the Bright Galaxy Survey, seen on DESI's 7,781 pixels of 0.8 Angstrom, made
anomalous where they are to be (`desi_anomalies`), given noise, and brought to the rest frame as any survey's spectra are.

What is real: the shapes of the noise with wavelength (inverse variances of three whole spectra and two coadds: sky lines,
edges of the cameras, missing pixels). What is modelled: the objects, their signal-to-noise (log-normal, cut), their
redshifts, the photon noise of its own light, cosmic rays and dead columns on top. What is not there: correlated noise, the
line-spread function's change with wavelength, everything about the sky that five noise vectors do not know.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from astroad_jax.config import Frozen, Spectra
from astroad_jax.errors import DataError
from astroad_jax.preprocess.spectra import to_grid
from experiments import common, desi_anomalies, desi_objects
from experiments.desi_objects import Exposure, Objects, Templates

NOISE, COADDS = "desi_edr_raw_3", "coadd-*.fits"
STEP = 0.8  # Angstrom: DESI's pixels
PIXELS = 3600.0 + STEP * np.arange(7781)
MIX = {"GALAXY": 0.978, "QSO": 0.007, "STAR": 0.015}  # paper 003, section 4
# redshifts go as z^2 exp(-(z / 0.16)^1.5), with a peak at 0.19 as in the Bright Galaxy Survey
DEPTH = (0.16, 1.5)
SNR = (9.0, 0.25)  # median signal-to-noise of a rest-frame bin: median, scatter (dex)
LEAST, MOST = 5.0, 100.0  # the paper's cut, and the brightest
OWN_LIGHT = 0.3  # variance of photons at an object's median flux, over that of sky and detector
RAYS = 3.0  # mean number of cosmic rays
DEAD = 0.005  # share of spectra with a dead stretch of up to 160 pixels
CHUNK = 1_000  # spectra worked on at a time
FIRST_ID = 39_600_000_000_000_000  # target identifiers look like DESI's: beyond 2^53


class Settings(Frozen):
    """What a survey is made of; a function of these and of the files."""

    size: int = 30_000
    seed: int = 0
    planted: float = 0.002  # share of the survey that is of each kind of anomaly


class Survey(NamedTuple):
    """A survey on the common grid.

    Attributes
    ----------
    ids : (N,) int64
    x : (N, 2, bins) float32
        Flux and inverse variance, not normalised.
    z, snr : (N,) float
        Redshift as the survey believes it, median signal-to-noise.
    spectype : (N,) str
        ``GALAXY``, ``QSO`` or ``STAR``, as the survey believes it.
    kind : (N,) str
        Of planted anomaly, empty for others.
    flags : (N,) uint32
        Why an object is not fit for the sample, 0 for most.
    """

    ids: np.ndarray
    x: np.ndarray
    z: np.ndarray
    snr: np.ndarray
    spectype: np.ndarray
    kind: np.ndarray
    flags: np.ndarray

    def take(self, rows: np.ndarray) -> Survey:
        """Some objects of it."""
        return Survey(*(values[rows] for values in self))


def make(settings: Settings, data: Path | None, spectra: Spectra) -> Survey:
    """Draw a survey: the same settings and files give the same one.

    Raises
    ------
    DataError
        The templates or the noise are not there.
    """
    templates, noise = desi_objects.load(data), noise_vectors(data)
    generators = (np.random.default_rng([settings.seed, 0, number]) for number in itertools.count())
    pieces = zip(generators, _pieces(settings))
    parts = [_part(rng, templates, noise, spectra, *piece) for rng, piece in pieces]
    survey = Survey(*(np.concatenate(values) for values in zip(*parts)))
    order = np.random.default_rng([settings.seed, 1]).permutation(len(survey.ids))
    ids = FIRST_ID + 1_009 * np.arange(len(order), dtype=np.int64)
    return survey.take(order)._replace(ids=ids)


def _pieces(settings: Settings) -> Iterator[tuple[str, str, int]]:
    """Class, kind and how many, a chunk at a time."""
    planted = round(settings.planted * settings.size)
    counts = {("GALAXY", kind): planted for kind in desi_anomalies.KINDS}
    rest = settings.size - sum(counts.values())
    rare = {(name, ""): round(MIX[name] * settings.size) for name in ("QSO", "STAR")}
    counts |= rare | {("GALAXY", ""): rest - sum(rare.values())}
    for (spectype, kind), count in counts.items():
        for start in range(0, count, CHUNK):
            yield spectype, kind, min(CHUNK, count - start)


def _part(
    rng: np.random.Generator, templates: Templates, noise: np.ndarray, spectra: Spectra, spectype: str, kind: str, count: int
) -> Survey:
    """One chunk of one class and kind."""
    draw = {"GALAXY": desi_objects.galaxies, "QSO": desi_objects.quasars, "STAR": desi_objects.stars}[spectype]
    seen = _placed(rng, draw(rng, templates, count))
    if kind in desi_anomalies.OF_OBJECTS:
        seen = desi_anomalies.OF_OBJECTS[kind](rng, templates, seen)
    light = observed(templates.wave, seen.objects, seen.z_true)
    ivar = scaled_noise(rng, noise, light, seen.z, spectra)
    flux, ivar = exposed(rng, light, ivar)
    if kind in desi_anomalies.OF_PIXELS:
        flux, ivar = desi_anomalies.OF_PIXELS[kind](rng, PIXELS, flux, ivar)
    found = to_grid(PIXELS, flux, ivar, seen.z, spectra)
    x = np.stack([found.flux, found.ivar], axis=1)
    ids = np.zeros(count, np.int64)
    return Survey(ids, x, seen.z, found.snr, seen.objects.spectype, np.full(count, kind, "U24"), found.flags)


def _placed(rng: np.random.Generator, objects: Objects) -> Exposure:
    """Objects at redshifts of their class, which the survey knows."""
    count, spectype = len(objects.flux), objects.spectype[0] if len(objects.flux) else ""
    z = np.abs(rng.normal(0, 3e-4, count)) if spectype == "STAR" else redshifts(rng, count)
    return Exposure(objects, z, z)


def redshifts(rng: np.random.Generator, count: int, low: float = 0.01, high: float = 0.3) -> np.ndarray:
    """(N,) of galaxies, by inverting the summed distribution of `DEPTH`."""
    z = np.linspace(low, high, 2_000)
    total = np.cumsum(z**2 * np.exp(-((z / DEPTH[0]) ** DEPTH[1])))
    return np.interp(rng.random(count), total / total[-1], z)


def observed(wave: np.ndarray, objects: Objects, z: np.ndarray) -> np.ndarray:
    """Noiseless light on `PIXELS`, ``(N, 7781)`` float32; its scale is arbitrary.

    Templates are even in the logarithm of wavelength, so that a redshift shifts them. Beyond their ends, which is only where
    an object is not at the redshift it is taken for, the light goes on at the level of the last 20 bins.
    """
    flux = objects.flux.astype(np.float32)
    ends = [np.median(flux[:, part], axis=1, keepdims=True) for part in (slice(None, 20), slice(-20, None))]
    padded = np.concatenate([ends[0], flux, ends[1]], axis=1)
    pitch = np.log(wave[-1] / wave[0]) / (len(wave) - 1)
    place = (np.log(PIXELS / wave[0])[None] - np.log1p(z)[:, None]) / pitch + 1
    place = np.clip(place, 0, len(wave) + 1 - 1e-6)
    left = place.astype(np.int32)
    share = (place - left).astype(np.float32)
    light = np.take_along_axis(padded, left, 1) * (1 - share) + np.take_along_axis(padded, left + 1, 1) * share
    _add_lines(light, objects, z)
    return light


def _add_lines(light: np.ndarray, objects: Objects, z: np.ndarray, half: int = 60) -> None:
    """Add Gaussian lines in place, each within so many pixels of its centre."""
    rows, window = np.arange(len(z))[:, None], np.arange(-half, half + 1)
    for line, centre in enumerate(desi_objects.WAVES):
        columns = np.rint((centre * (1 + z) - PIXELS[0]) / STEP).astype(int)[:, None] + window
        inside = (columns >= 0) & (columns < len(PIXELS))
        columns = np.clip(columns, 0, len(PIXELS) - 1)
        sigma = centre * objects.sigma[:, None] / desi_objects.SPEED_OF_LIGHT
        offset = (PIXELS[columns] / (1 + z[:, None]) - centre) / sigma
        profile = objects.lines[:, [line]] * np.exp(-0.5 * offset**2) / (np.sqrt(2 * np.pi) * sigma)
        np.add.at(light, (np.broadcast_to(rows, columns.shape), columns), np.where(inside, profile, 0).astype(np.float32))


def noise_vectors(data: Path | None) -> np.ndarray:
    """Inverse variances of real spectra on `PIXELS`, ``(V, 7781)``, each of median 1; 0 where a pixel is masked or missing.

    Raises
    ------
    DataError
        There is no such file, or one has other pixels.
    """
    path = common.found(NOISE, data)
    found = []
    if path is not None:
        with np.load(path, allow_pickle=False) as held:
            wave, ivar, mask = (held[name] for name in ("wavelength", "ivar", "mask"))
        if wave.shape[1:] != PIXELS.shape or np.abs(wave - PIXELS).max() > 0.01:
            raise DataError("these are not DESI's pixels", where=str(path), expected=f"{PIXELS.shape}", got=wave.shape)
        found += list(np.where(mask, 0.0, ivar))
    places = [] if data is None else [*data.glob(COADDS), *data.glob(f"*/{COADDS}")]
    found += [_coadded(coadd) for coadd in sorted(places)]
    found = [ivar / np.median(ivar[ivar > 0]) for ivar in found if (ivar > 0).any()]
    if not found:
        fix = "give --data DIR with one of them"
        raise DataError("no noise to draw from", where=str(data), expected=f"{NOISE}.npz or {COADDS}", fix=fix)
    return np.stack(found).astype(np.float32)


def _coadded(path: Path) -> np.ndarray:
    """Summed inverse variance of the arms of a coadd file's first spectrum."""
    from astropy.io import fits

    total = np.zeros(len(PIXELS))
    with fits.open(path) as hdus:
        for arm in "BRZ":
            wave, ivar, mask = (hdus[f"{arm}_{name}"].data for name in ("WAVELENGTH", "IVAR", "MASK"))
            first = round((float(wave[0]) - PIXELS[0]) / STEP)
            total[first : first + len(wave)] += np.where(mask[0] == 0, ivar[0], 0.0)
    return total


def scaled_noise(
    rng: np.random.Generator, noise: np.ndarray, light: np.ndarray, z: np.ndarray, spectra: Spectra
) -> np.ndarray:
    """A real inverse variance for each object, scaled to a drawn median signal-to-noise of the rest-frame bins.

    The photons of the object's own light are added, which is what limits the brightest lines.
    """
    count = len(light)
    ivar = noise[rng.integers(len(noise), size=count)] / (1 + OWN_LIGHT * np.maximum(light, 0))
    wanted = np.empty(0)
    while len(wanted) < count:  # the tails beyond the cuts are drawn again
        drawn = SNR[0] * 10 ** (SNR[1] * rng.normal(size=2 * count + 8))
        wanted = np.append(wanted, drawn[(drawn > LEAST) & (drawn < MOST)])
    stretch = 1 + z[:, None]
    pixels_per_bin = (spectra.high - spectra.low) / spectra.bins * stretch / STEP
    used = (spectra.low * stretch <= PIXELS) & (spectra.high * stretch >= PIXELS) & (ivar > 0)
    ratio = np.where(used, np.abs(light) * np.sqrt(ivar * pixels_per_bin), np.nan)[:, ::7]  # every seventh is enough
    scale = (wanted[:count] / np.nanmedian(ratio, axis=1)) ** 2
    return (ivar * scale[:, None]).astype(np.float32)


def exposed(rng: np.random.Generator, light: np.ndarray, ivar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flux with noise, and the inverse variance with masked pixels: those of the real vector, cosmic rays, dead columns."""
    with np.errstate(divide="ignore"):
        sigma = np.where(ivar > 0, 1 / np.sqrt(ivar), 0).astype(np.float32)
    flux = light + sigma * rng.standard_normal(light.shape, np.float32)
    masked = _runs(rng, light.shape, rng.poisson(RAYS, len(light)), 3, 12)
    masked |= _runs(rng, light.shape, rng.random(len(light)) < DEAD, 40, 160)
    ivar = np.where(masked, 0, ivar)
    return np.where(ivar > 0, flux, 0), ivar


def _runs(rng: np.random.Generator, shape: tuple[int, int], counts: np.ndarray, shortest: int, longest: int) -> np.ndarray:
    """(N, W) bool: so many runs of pixels in each row."""
    rows = np.repeat(np.arange(shape[0]), counts.astype(int))
    starts = rng.integers(shape[1], size=len(rows))
    ends = np.minimum(starts + rng.integers(shortest, longest + 1, size=len(rows)), shape[1])
    change = np.zeros((shape[0], shape[1] + 1), np.int16)
    np.add.at(change, (rows, starts), 1)
    np.add.at(change, (rows, ends), -1)
    return np.cumsum(change[:, :-1], axis=1) > 0

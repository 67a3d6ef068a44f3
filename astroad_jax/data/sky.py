"""A mock sky of galaxy images that needs no download: isolated galaxies, pairs, merger remnants, with known truth.

Like `mock`, a stage set, but one to rehearse on: galaxies are Sersic bulges and discs with spiral arms, mergers have
companions, tails, shells and second nuclei (`sky_mergers`), a camera adds PSF and correlated noise (`sky_camera`), and
the distributions follow measured relations (`sky_parameters`). `sky_match` fits the camera to real images.

===============  ============================================================================================
kind             what it is, after Margalef-Bentabol et al. (2020), section 4.1
===============  ============================================================================================
``isolated``     one galaxy, smooth or with arms, mildly lopsided: the paper's training set
``pair``         two galaxies with their centres in the frame: pre-mergers with a neighbour (its tables 1 and 2)
``hidden_pair``  the companion is outside the frame (70%, or all of them on a sky without noise) or below the detection
                 limit; half of the main galaxies are mildly disturbed: pre-mergers without a neighbour (its table 3)
``post_merger``  one disturbed remnant (its table 3)
===============  ============================================================================================

An object is a function of (seed, kind, number) and the settings, so a sky is drawn in pieces of any size, and
anywhere, with the same bits (on one kind of machine). One core (AMD EPYC) draws about 1,000 isolated galaxies a
second, and 650 of the other kinds, at 64 x 64 in one band.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from astroad_jax.data import sky_camera, sky_light
from astroad_jax.data.sky_mergers import merge, signal_to_noise
from astroad_jax.data.sky_parameters import KINDS, NORMALS, UNIFORMS, Columns, Noise, Sky, main_galaxy, per_band
from astroad_jax.data.source import Source, describe, partition_name, select
from astroad_jax.errors import DataError, did_you_mean

__all__ = ["KINDS", "UNITS", "Noise", "Sky", "draw", "stream"]

BATCH = 16  # images in hand at a time, so that they stay in the processor's cache
FIRST_ID = 4_000_000_000_000_000_000
KIND_IDS = 1_000_000_000_000_000  # identifiers set aside for each kind
ROWS = 1024  # of a chunk of the stream, unless asked otherwise
MIXTURE = len(KINDS)  # stands where a kind's number would, in the seed of the stream's kinds
UNITS = {
    "ra": "deg", "dec": "deg", "stellar_mass": "log10(Msun)", "magnitude": "mag", "flux": "count", "colour": "mag",
    "r_eff": "pixel", "inclination": "deg", "position_angle": "deg", "separation": "pixel", "image": "count",
}  # fmt: skip


def draw(sky: Sky, count: int, kind: str, seed: int, start: int = 0) -> Columns:
    """Draw objects of one kind, with their images.

    Parameters
    ----------
    sky : Sky
        What is observed, and with what.
    count : int
        Objects.
    kind : {"isolated", "pair", "hidden_pair", "post_merger"}
        See the module.
    seed : int
        Of the sky, not negative.
    start : int
        Number of the first object; object i is the same whatever is drawn with it.

    Returns
    -------
    dict of (N, ...) arrays
        ``object_id`` (int64, beyond 2^53: kind and number), ``ra``, ``dec`` (degrees, uniform on the sphere), ``kind``;

        of the main galaxy, float64: ``stellar_mass`` (log10 suns), ``redshift``, ``magnitude``, ``flux`` (counts, all
        its parts), ``colour`` (g - r of the whole), ``r_eff`` (half-light radius of bulge and disc, pixels), ``n``
        (Sersic index of the bulge; the disc's is 1), ``bulge_to_total``, ``ellipticity`` (flux-weighted mean of bulge
        and disc), ``inclination`` (degrees, 0 = face-on), ``position_angle`` (degrees, long axis, from x to y),
        ``signal_to_noise`` (within the half-light ellipse);

        of the merger, float64: ``flux_ratio`` (main over companion; of a remnant, of its progenitors), ``separation``
        (pixels, of the companion or second nucleus), ``phase`` (-1 where the orbit begins, 0 at coalescence, 1 as long
        after), NaN where there is none; ``disturbance`` (0 to 1), 0 where there is none; ``companion_visible`` (bool):
        its centre is in the frame and its signal-to-noise at least `Sky.detection`;

        ``image`` (N, H, W, C) float32, counts, sky subtracted, no stretch.

    Raises
    ------
    DataError
        Settings that cannot be, an unknown kind, a negative count, seed or start.
    """
    check(sky)
    _check_kind(kind)
    for name, value in (("count", count), ("seed", seed), ("start", start)):
        if value < 0:
            raise DataError("a sky is drawn from numbers that are not negative", where=name, expected=">= 0", got=value)
    return _objects(sky, kind, seed, np.arange(start, start + count), with_image=True)


def stream(sky: Sky, count: int, kind_fractions: Mapping[str, float], seed: int, name: str = "sky") -> Source:
    """Open a mixed sky as a table that is made while it is read.

    Parameters
    ----------
    sky : Sky
        What is observed, and with what.
    count : int
        Objects. They cost memory only a chunk at a time.
    kind_fractions : dict of kind -> float
        Probabilities, 1 in all; each object's kind is drawn from them.
    seed : int
        Object j is number j of its kind in `draw`, with this seed.
    name : str
        Of the partition.

    Returns
    -------
    Source
        Columns as from `draw`. Chunks have 1024 rows unless asked otherwise, the same bits however they are cut;
        where ``image`` is not among the columns asked for, none is made.

    Raises
    ------
    DataError
        Settings that cannot be, unknown kinds, fractions that are negative or do not add up to 1.
    """
    check(sky)
    probability = _probabilities(kind_fractions)
    known = {key: describe(value)._replace(unit=UNITS.get(key, "")) for key, value in draw(sky, 1, KINDS[0], seed).items()}

    def chunks(rows: int = ROWS, columns: Sequence[str] | None = None) -> Iterator[Columns]:
        names = select(known, columns, name)
        for start in range(0, count, rows):
            table = _mixed(sky, seed, probability, start, min(rows, count - start), "image" in names)
            yield {key: table[key] for key in names}

    return Source(partition_name(name, ""), name, "memory", known, count, chunks)


def _mixed(sky: Sky, seed: int, probability: np.ndarray, start: int, count: int, with_image: bool) -> Columns:
    """Rows `start` and following of a stream."""
    bits = np.random.PCG64((seed, MIXTURE))
    bits.advance(start)  # one step a number
    drawn = np.searchsorted(np.cumsum(probability)[:-1], np.random.Generator(bits).random(count), side="right")
    places = [np.flatnonzero(drawn == k) for k in range(len(KINDS))]
    parts = [_objects(sky, kind, seed, start + at, with_image) for kind, at in zip(KINDS, places) if len(at)]
    order = np.argsort(np.concatenate(places), kind="stable")
    return {key: np.concatenate([part[key] for part in parts])[order] for key in parts[0]}


def _objects(sky: Sky, kind: str, seed: int, numbers: np.ndarray, with_image: bool) -> Columns:
    """Objects of one kind by their numbers."""
    batches = [numbers[k : k + BATCH] for k in range(0, max(len(numbers), 1), BATCH)]
    parts = [_batch(sky, kind, seed, batch, with_image) for batch in batches]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _batch(sky: Sky, kind: str, seed: int, numbers: np.ndarray, with_image: bool) -> Columns:
    # contiguous columns: numpy's functions may differ in the last bit between arrays with and without gaps
    dice = [np.random.default_rng((seed, KINDS.index(kind), int(i))) for i in numbers]
    u = dict(zip(UNIFORMS, _dice([rng.random(len(UNIFORMS)) for rng in dice], len(UNIFORMS))))
    g = dict(zip(NORMALS, _dice([rng.standard_normal(len(NORMALS)) for rng in dice], len(NORMALS))))
    main = main_galaxy(sky, kind, u, g)
    merger, companion = merge(sky, kind, main, u, g)
    table = {"object_id": FIRST_ID + KINDS.index(kind) * KIND_IDS + numbers, **_catalogue(sky, kind, main, merger, u)}
    if with_image:
        light = sky_camera.convolve(sky, _light(sky, main, companion, merger))
        table["image"] = np.ascontiguousarray(np.moveaxis(sky_camera.expose(sky, light, dice), 1, -1))
    return table


def _dice(rows: list[np.ndarray], width: int) -> np.ndarray:
    """Rows of each object to columns of all."""
    return np.ascontiguousarray(np.reshape(rows, (len(rows), width)).T)


def _catalogue(sky: Sky, kind: str, main: Columns, merger: Columns, u: Columns) -> Columns:
    """Columns of truth, as `draw` lists them."""
    red, blue = (10 ** (0.4 * main[part]) for part in ("bulge_colour", "disc_colour"))
    share = main["bulge_to_total"]
    return {
        "ra": 360 * u["ra"],
        "dec": np.degrees(np.arcsin(2 * u["dec"] - 1)),
        "kind": np.full(len(share), kind),
        "stellar_mass": main["mass"],
        "redshift": main["redshift"],
        "magnitude": sky.zero_point - 2.5 * np.log10(main["flux"]),
        "flux": main["flux"],
        "colour": -2.5 * np.log10(share / red + (1 - share) / blue),
        **{name: main[name] for name in ("r_eff", "n", "bulge_to_total", "ellipticity", "inclination")},
        "position_angle": np.degrees(main["angle"]),
        "signal_to_noise": signal_to_noise(sky, main),
        **{name: merger[name] for name in ("flux_ratio", "separation", "phase", "disturbance", "companion_visible")},
    }


def _light(sky: Sky, main: Columns, companion: Columns | None, merger: Columns) -> np.ndarray:
    """Light of everything on the canvas, ``(N, C, W, W)`` float32, before the PSF."""
    low, width = sky_camera.canvas(sky)
    extras = {name: merger[name] for name in ("tail", "shells", "nucleus")}
    stars = main["flux"] * (1 - sum(extras.values()))
    light = _galaxy(sky, main, stars, low, width)
    painters = {"tail": sky_light.tails, "shells": sky_light.shells, "nucleus": sky_light.nucleus}
    for name, share in extras.items():
        some = np.flatnonzero(share)
        if len(some):
            part = painters[name](*({key: value[some] for key, value in c.items()} for c in (main, merger)), low, width)
            colour = main["bulge_colour" if name == "nucleus" else "disc_colour"]
            light[some] += _in_bands(sky, part, (main["flux"] * share)[some], colour[some])
    if companion is not None:
        light += _galaxy(sky, companion, companion["flux"], low, width)
    return light


def _galaxy(sky: Sky, galaxy: Columns, flux: np.ndarray, low: int, width: int) -> np.ndarray:
    bulge, disc = sky_light.render(galaxy, low, width)
    share = galaxy["bulge_to_total"]
    light = _in_bands(sky, bulge, flux * share, galaxy["bulge_colour"])
    light += _in_bands(sky, disc, flux * (1 - share), galaxy["disc_colour"])
    return light


def _in_bands(sky: Sky, part: np.ndarray, flux: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """A part ``(N, W, W)`` of unit flux in every band, ``(N, C, W, W)``; r - i is half of the colour g - r."""
    steps = np.array([0.0] if sky.bands == 1 else [0.5, 0.0, -1.0])  # i, r, g
    weight = flux[:, None] * 10 ** (0.4 * steps * colour[:, None]) * per_band(sky, sky.balance)
    return part[:, None] * weight.astype(np.float32)[:, :, None, None]


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise DataError("no such kind of object", expected=", ".join(KINDS), got=kind, fix=did_you_mean(kind, KINDS))


def _probabilities(fractions: Mapping[str, float]) -> np.ndarray:
    for kind in fractions:
        _check_kind(kind)
    values = np.array([float(fractions.get(kind, 0.0)) for kind in KINDS])
    if not (values >= 0).all() or not math.isclose(values.sum(), 1, abs_tol=1e-6):
        raise DataError("fractions of kinds", expected="none negative, 1 in all", got=dict(fractions))
    return values


def check(sky: Sky) -> None:
    """Raise `DataError` for settings that cannot be."""
    ordered = {name: getattr(sky, name) for name in ("mass", "redshift", "flux_ratio")}
    if sky.separation is not None:
        ordered["separation"] = sky.separation
    rules = [
        ("size", "16 or more", sky.size >= 16, sky.size),
        ("bands", "1 or 3", sky.bands in (1, 3), sky.bands),
        ("pixel_scale", "> 0", 0 < sky.pixel_scale < math.inf, sky.pixel_scale),
        ("zero_point", "finite", math.isfinite(sky.zero_point), sky.zero_point),
        ("psf_fwhm", "0 to a quarter of the frame", 0 <= sky.psf_fwhm <= sky.size / 4, sky.psf_fwhm),
        ("psf_beta", "> 1, or infinity", sky.psf_beta > 1, sky.psf_beta),
        ("sky", ">= 0", 0 <= sky.sky < math.inf, sky.sky),
        ("gain", "> 0, or infinity", sky.gain > 0, sky.gain),
        ("noise.sigma", ">= 0, one or one a band", _fits(sky, sky.noise.sigma, 0), sky.noise.sigma),
        ("noise.correlation", "0 to 8 pixels", 0 <= sky.noise.correlation <= 8, sky.noise.correlation),
        ("balance", "> 0, one or one a band, 1 for the magnitudes'", _balanced(sky), sky.balance),
        ("offset", "one or one a band", _fits(sky, sky.offset, -math.inf), sky.offset),
        ("redshift", "above 0", sky.redshift[0] > 0, sky.redshift),
        ("flux_ratio", "1 or more", sky.flux_ratio[0] >= 1, sky.flux_ratio),
        ("isolated_mass", "above the lower limit of mass", sky.isolated_mass >= sky.mass[0], sky.isolated_mass),
        *((name, "(low, high)", 0 <= low <= high < math.inf, (low, high)) for name, (low, high) in ordered.items()),
        *((n, "> 0", getattr(sky, n) > 0, getattr(sky, n)) for n in ("detection", "magnitude_spread", "size_spread")),
    ]
    for name, expected, holds, got in rules:
        if not holds:
            raise DataError("a sky that cannot be", where=f"Sky.{name}", expected=expected, got=got)


def _balanced(sky: Sky) -> bool:
    return _fits(sky, sky.balance, 1e-9) and per_band(sky, sky.balance)[sky.bands // 2] == 1


def _fits(sky: Sky, values: Sequence[float], least: float) -> bool:
    return len(values) in (1, sky.bands) and all(least <= value < math.inf for value in values)

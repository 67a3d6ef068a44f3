"""Preprocessing of spectra: to the common rest-frame grid, and infill of bad pixels.

    python -m benchmarks.spectra [--smoke] [--json FILE] [key=value ...]

resample  `preprocess.spectra.to_grid` on spectra of DESI's length, each with its redshift: bad pixels, rest frame,
          flux-conserving resampling with ivar, signal-to-noise and flags. The peer, SpectRes, resamples flux and errors
          alone, one spectrum at a time (in its compiled form too, where numba is there).
infill    `preprocess.infill.fit` and `fill` on spectra of which half have bad pixels. The peer is the plain loop: a full
          SVD in every round, and least squares spectrum by spectrum.
growth    Cost of the infill's fit per spectrum as their number grows, and what it holds in memory beside the data.
stream    Cost of resampling as the number grows, in pieces, so that the memory is that of a piece however many there are:
          the same fluxes, each time at other redshifts.
lof       `analysis.outliers.lof_of_sample` on codes of ten dimensions as their number grows, and its memory beside them.

Keys: cases=["resample"], batches=[1,16,256], pixels=7781, bins=1000, spectra=2 (that the peer resamples a call),
rows=[2000,10000], rounds=2 (of the infill against the loop), components=10, iterations=20,
grow=[1000,10000,50000,200000], stream=[1000,10000,200000,1000000], piece=2048, lof=[1000,10000,200000], latent=10,
repeats=5, peer=true. The last sizes of grow, stream and lof take minutes each.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from astroad_jax.analysis import outliers
from astroad_jax.config import Frozen, Spectra
from astroad_jax.preprocess import infill, spectra
from benchmarks import common
from benchmarks.common import Row, Spread, row

NAME = "spectra"
LOOP = "full SVD and least squares row by row"


class Settings(Frozen):
    """What may be set on the command line."""

    cases: tuple[str, ...] = ("resample", "infill", "growth", "stream", "lof")
    batches: tuple[int, ...] = (1, 16, 256)
    pixels: int = 7781
    bins: int = 1000
    spectra: int = 2
    rows: tuple[int, ...] = (2000, 10_000)
    rounds: int = 2
    components: int = 10
    iterations: int = 20
    grow: tuple[int, ...] = (1000, 10_000, 50_000, 200_000)
    stream: tuple[int, ...] = (1000, 10_000, 200_000, 1_000_000)
    piece: int = 2048
    lof: tuple[int, ...] = (1000, 10_000, 200_000)
    latent: int = 10
    repeats: int = 5
    peer: bool = True


SMOKE = {
    "batches": (1, 16), "bins": 100, "pixels": 778, "rows": (200,), "grow": (200, 400), "iterations": 3, "repeats": 2,
    "stream": (8, 40), "piece": 16, "lof": (200, 400),
}  # fmt: skip


def survey(count: int, pixels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Wavelengths in Angstrom over DESI's range, flux and ivar with 1 % bad pixels, redshifts in 0 to 0.3."""
    rng = np.random.default_rng(seed)
    wavelength = np.linspace(3600, 9824, pixels)
    flux = rng.normal(5, 1, (count, pixels)).astype(np.float32)
    ivar = rng.uniform(0.5, 2, (count, pixels)).astype(np.float32)
    ivar[rng.random(ivar.shape) < 0.01] = 0
    return wavelength, flux, ivar, rng.uniform(0, 0.3, count)


def family(count: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Flux of eight smooth components and noise, and good pixels: in half of the spectra 1 % and a run of 2 % are bad."""
    rng = np.random.default_rng(seed)
    shapes = np.cumsum(rng.normal(size=(8, width)), axis=1).astype(np.float32) / np.float32(np.sqrt(width))
    flux, good = np.empty((count, width), np.float32), np.ones((count, width), bool)
    for start in range(0, count, 4096):
        part = flux[start : start + 4096]
        part[:] = 3 + 0.3 * rng.standard_normal((len(part), 8), np.float32) @ shapes
        part += 0.2 * rng.standard_normal(part.shape, np.float32)
    run = max(1, width // 50)
    for i in range(0, count, 2):
        good[i, rng.integers(0, width, max(1, width // 100))] = False
        good[i, (first := int(rng.integers(0, width - run))) : first + run] = False
    return flux, good


def spectres_calls(settings: Settings) -> dict[str, Callable[[], Any]]:
    """SpectRes on a few spectra at the settings' size, as its users call it."""
    if not settings.peer or common.version("spectres") is None:
        print("spectres is not installed or not wanted: no rows against it")
        return {}
    import spectres

    wavelength, flux, ivar, z = survey(settings.spectra, settings.pixels)
    errors = 1 / np.sqrt(np.where(ivar > 0, ivar, 1).astype(np.float64))
    centres, whole = spectra.grid_centres(Spectra(bins=settings.bins)), flux.astype(np.float64)

    def loop(resample: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: [
            resample(centres, wavelength / (1 + z[i]), whole[i], spec_errs=errors[i], verbose=False) for i in range(len(z))
        ]

    found = {f"SpectRes {common.version('spectres')}": loop(spectres.spectres)}
    try:
        from spectres.spectral_resampling_numba import spectres_numba
    except ImportError:
        return found
    return {**found, "SpectRes compiled by numba": loop(spectres_numba)}


def resample(settings: Settings) -> list[Row]:
    """Microseconds per spectrum: all with the same wavelengths, and each with its own."""
    grid, peers = Spectra(bins=settings.bins), spectres_calls(settings)
    wavelength, flux, ivar, z = survey(max(settings.batches), settings.pixels)
    own = np.tile(wavelength, (len(z), 1))
    rows = []
    for batch in settings.batches:
        part = flux[:batch], ivar[:batch], z[:batch]
        calls: dict[str, Callable[[], Any]] = {
            "shared": lambda part=part: spectra.to_grid(wavelength, *part, grid),
            "own": lambda part=part: spectra.to_grid(own[: len(part[2])], *part, grid),
            **peers,
        }
        times = common.interleaved(calls, settings.repeats)
        each = {
            name: common.spread(np.array(t) / (settings.spectra if name in peers else batch) * 1e6)
            for name, t in times.items()
        }
        case = f"resample {settings.pixels} to {settings.bins}, batch {batch}"
        rows += _against(case, "time per spectrum", "us", each["shared"], {name: each[name] for name in peers})
        rows.append(row(NAME, case, "time per spectrum, each with its own wavelengths", "us", each["own"]))
    return rows


def plain(flux: np.ndarray, good: np.ndarray, components: int, rounds: int) -> np.ndarray:
    """Iterative infill as it is usually written; spectra of norm 1."""
    mean = np.where(good, flux, 0).sum(axis=1, keepdims=True) / good.sum(axis=1, keepdims=True)
    filled = np.where(good, flux, mean).astype(np.float64)
    for _ in range(rounds):
        filled /= np.linalg.norm(filled, axis=1, keepdims=True)
        mean = filled.mean(axis=0)
        vectors = np.linalg.svd(filled - mean, full_matrices=False)[2][:components]
        for i in np.flatnonzero(~good.all(axis=1)):
            known = good[i]
            solved = np.linalg.lstsq(vectors[:, known].T, (filled[i] - mean)[known], rcond=None)[0]
            filled[i, ~known] = (mean + solved @ vectors)[~known]
    return filled


def filled_in(settings: Settings) -> list[Row]:
    """Seconds for a fit and its infill, and how far the two infills are apart."""
    rows = []
    for count in settings.rows:
        flux, good = family(count, settings.bins)

        def ours(flux: np.ndarray = flux, good: np.ndarray = good) -> np.ndarray:
            return infill.fill(infill.fit(flux, good, settings.components, settings.rounds), flux, good)

        calls: dict[str, Callable[[], Any]] = {"ours": ours}
        if settings.peer:
            calls[LOOP] = lambda flux=flux, good=good: plain(flux, good, settings.components, settings.rounds)
        times, found = _timed(calls, settings.repeats)
        case = f"infill {count} x {settings.bins}, {settings.rounds} rounds"
        each = {name: common.spread(seconds) for name, seconds in times.items()}
        mine = each.pop("ours")
        rows += _against(case, "fit and infill", "s", mine, each)
        rows += [_apart(case, found["ours"], found[LOOP], good)] if settings.peer else []
        rows.append(_alone(case, flux, good, settings))
    return rows


def _timed(calls: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each call, in turn, and what they return; the first turn is not left out, as a call takes seconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    found = {}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            found[name] = call()
            times[name].append(time.perf_counter() - start)
    return times, found


def _apart(case: str, ours: np.ndarray, theirs: np.ndarray, good: np.ndarray) -> Row:
    """Root mean square difference of the two infills over that of the infilled values."""
    unit = ours / np.linalg.norm(ours, axis=1, keepdims=True)
    theirs = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
    gap = np.sqrt(np.mean(np.square(unit - theirs)[~good]) / np.mean(np.square(theirs)[~good]))
    return row(NAME, case, "difference of the infills", "", Spread(float(gap), 0.0))


def _alone(case: str, flux: np.ndarray, good: np.ndarray, settings: Settings) -> Row:
    """What new spectra cost."""
    basis = infill.fit(flux, good, settings.components, 1)
    holed = ~good.all(axis=1)
    flux, good = flux[holed], good[holed]
    times = common.interleaved({"fill": lambda: infill.fill(basis, flux, good)}, settings.repeats)["fill"]
    return row(NAME, case, "infill per spectrum with bad pixels", "us", common.spread(np.array(times) / len(flux) * 1e6))


def growth(settings: Settings) -> list[Row]:
    """Milliseconds of the fit per spectrum, and its memory in MiB, at growing numbers of spectra."""
    rows = []
    for count in settings.grow:
        flux, good = family(count, settings.bins)
        fit = lambda flux=flux, good=good: infill.fit(flux, good, settings.components, settings.iterations)  # noqa: E731
        seconds = _timed({"fit": fit}, max(1, settings.repeats // 2))[0]["fit"]
        with _traced() as peak:
            infill.fit(flux, good, settings.components, 1)
        case = f"infill {count} x {settings.bins}, {settings.iterations} rounds"
        rows.append(row(NAME, case, "fit per spectrum", "ms", common.spread(np.array(seconds) / count * 1e3)))
        rows.append(row(NAME, case, "memory beside the data", "MiB", Spread(peak[0], 0.0)))
        rows.append(row(NAME, case, "data", "MiB", Spread((flux.nbytes + good.nbytes) / 2**20, 0.0)))
    return rows


@contextmanager
def _traced() -> Iterator[list[float]]:
    """Highest memory, in MiB, that is held beside what there was: the one entry of the list, once it is over."""
    found: list[float] = []
    tracemalloc.start()
    try:
        yield found
        found.append(tracemalloc.get_traced_memory()[1] / 2**20)
    finally:
        tracemalloc.stop()


def streamed(settings: Settings) -> list[Row]:
    """Microseconds per spectrum, piece by piece, as their number grows; and the memory that a piece takes."""
    grid, rng, rows = Spectra(bins=settings.bins), np.random.default_rng(0), []
    wavelength, flux, ivar, _ = survey(min(settings.piece, max(settings.stream)), settings.pixels)

    def resampled(size: int) -> float:
        start = time.perf_counter()
        spectra.to_grid(wavelength, flux[:size], ivar[:size], rng.uniform(0, 0.3, size), grid)
        return (time.perf_counter() - start) / size * 1e6

    resampled(len(flux))
    for count in settings.stream:
        sizes = [min(settings.piece, count - start) for start in range(0, count, settings.piece)]
        each = [resampled(size) for size in (sizes if len(sizes) > 1 else sizes * settings.repeats)]
        case = f"resample {settings.pixels} to {settings.bins}, {count} in pieces of {settings.piece}"
        rows.append(row(NAME, case, "time per spectrum", "us", common.spread(each)))
    with _traced() as peak:
        resampled(len(flux))
    return [*rows, row(NAME, case, "memory beside a piece's data", "MiB", Spread(peak[0], 0.0))]


def isolation(settings: Settings) -> list[Row]:
    """Microseconds per object of the local outlier factor, and its memory in MiB, at growing numbers of objects."""
    rows = []
    outliers.lof_of_sample(np.random.default_rng(1).standard_normal((50, settings.latent)))  # imports what it needs
    for count in settings.lof:
        codes = np.random.default_rng(0).standard_normal((count, settings.latent), np.float32)
        turns = settings.repeats if count <= 10_000 else 1
        with _traced() as peak:  # few and large arrays: to trace them costs no time
            seconds = _timed({"lof": lambda codes=codes: outliers.lof_of_sample(codes)}, turns)[0]["lof"]
        case = f"local outlier factor, {count} x {settings.latent}"
        rows.append(row(NAME, case, "time per object", "us", common.spread(np.array(seconds) / count * 1e6)))
        rows.append(row(NAME, case, "memory beside the data", "MiB", Spread(peak[0], 0.0)))
    return rows


def _against(case: str, metric: str, unit: str, mine: Spread, peers: dict[str, Spread]) -> list[Row]:
    """One row a peer, or one without."""
    if not peers:
        return [row(NAME, case, metric, unit, mine)]
    return [
        row(NAME, case, metric, unit, mine, peer=theirs, against=name, higher_is_better=False)
        for name, theirs in peers.items()
    ]


CASES: dict[str, Callable[[Settings], list[Row]]] = {
    "resample": resample,
    "infill": filled_in,
    "growth": growth,
    "stream": streamed,
    "lof": isolation,
}


def main(argv: Sequence[str] | None = None) -> list[Row]:
    given = common.arguments(NAME, __doc__, Settings, SMOKE, argv)
    rows: list[Row] = []
    for name in given.settings.cases:
        rows += common.shown(CASES[name](given.settings))
    return common.finish(rows, given)


if __name__ == "__main__":
    main()

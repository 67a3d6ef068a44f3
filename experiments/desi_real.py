"""Real spectra at hand: DESI, SDSS and LAMOST, read as a user's would be, for a model trained elsewhere to score."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from astroad_jax.config import Spectra
from astroad_jax.data import open_source
from astroad_jax.errors import DataError

SETS = {
    "SDSS": "sdss_raw", "LAMOST": "lamost_dr1", "DESI raw": "desi_edr_raw_3", "DESI EDR": "desi_edr_sv3_100",
    "DESI coadds": "coadd-*.fits",
}  # fmt: skip
# SDSS begins at 3820 and LAMOST at 3750 Angstrom: the blue end of the nearest objects is not there, and is infilled.
COVERAGE = 0.94
STRETCH = 50  # pixels that the noise of spectra without any is estimated from


class Sample(NamedTuple):
    """Objects on the common grid; `flags` is 0 for those fit to be scored."""

    ids: np.ndarray
    x: np.ndarray
    z: np.ndarray
    snr: np.ndarray
    spectype: np.ndarray
    flags: np.ndarray

    def take(self, rows: np.ndarray) -> Sample:
        """Some of them."""
        return Sample(*(values[rows] for values in self))


def everything(data: Path | None, spectra: Spectra) -> dict[str, Sample]:
    """The sets that are below a directory: redshifts down to -0.01, as stars have them, and no cut on signal-to-noise."""
    wider = spectra.model_copy(update={"coverage": COVERAGE, "z_min": -0.01, "snr_min": 0.0})
    found = {name: below(data, pattern) for name, pattern in SETS.items()}
    return {name: _all(name, paths, wider) for name, paths in found.items() if paths}


def below(data: Path | None, name: str) -> list[Path]:
    """Files of a set: ``DIR/NAME`` and ``DIR/*/NAME``, NPZ where the name has no suffix."""
    if data is None:
        return []
    name = name if "." in name else f"{name}.npz"
    return sorted([*data.glob(name), *data.glob(f"*/{name}")])


def _all(name: str, paths: list[Path], spectra: Spectra) -> Sample:
    if name != "DESI EDR":
        parts = [read(path, spectra) for path in paths]
    else:
        with tempfile.TemporaryDirectory() as folder:
            parts = [read(_with_noise(path, Path(folder)), spectra) for path in paths]
    return Sample(*(np.concatenate(values) for values in zip(*(part._replace(ids=part.ids.astype(str)) for part in parts))))


def read(path: Path | str, spectra: Spectra) -> Sample:
    """Spectra of any survey that the package reads.

    Raises
    ------
    DataError
        What is wrong with the file.
    """
    source = open_source(path, spectra=spectra)
    if "spectrum" not in source.columns:
        got = ", ".join(source.columns)
        raise DataError("these are no spectra", where=str(path), expected="flux, ivar and wavelengths", got=got)
    chunks = list(source.chunks())
    whole = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in source.columns}
    count = len(whole["spectrum"])
    ids = whole.get("object_id", np.arange(count))
    names = ("spectrum", "z", "snr", "spectype", "flags")
    return Sample(ids, *(whole[name] for name in names))


def _with_noise(path: Path, folder: Path) -> Path:
    """The EDR sample as a file that can be read: its arcsinh undone, its noise estimated.

    It is kept as arcsinh of a scaled flux, without that scale and without inverse variances. The scale is of no matter
    to a spectrum of unit norm. The noise is taken from differences between pixels two apart, the median of each stretch:
    correlated pixels and lines bias it, so that the errors by it are good to an order of magnitude.
    """
    with np.load(path, allow_pickle=False) as held:
        flux, valid, z, wave = (held[name] for name in ("flux_arcsinh", "valid", "z", "wave"))
    flux = np.sinh(flux.astype(np.float64))
    step = np.abs(flux[:, 2:] - flux[:, :-2]) / np.sqrt(2)
    whole = step[:, : step.shape[1] // STRETCH * STRETCH].reshape(len(flux), -1, STRETCH)
    sigma = np.repeat(np.median(whole, axis=2) / 0.6745, STRETCH, axis=1)
    sigma = np.pad(sigma, ((0, 0), (0, flux.shape[1] - sigma.shape[1])), mode="edge")
    with np.errstate(divide="ignore"):
        ivar = np.where(sigma > 0, 1 / sigma**2, 0)
    out = folder / path.name
    np.savez(out, flux=flux, ivar=np.where(valid, ivar, 0), wavelength=wave.astype(np.float64), z=z)
    return out

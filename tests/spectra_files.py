"""Small files in the layouts of spectroscopic surveys, all of the same made-up objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astroad_jax.config import Spectra

STEP = 8.0  # angstroms a pixel: ten times DESI's
ARMS = {"B": (3600.0, 276), "R": (5760.0, 234), "Z": (7520.0, 290)}  # first wavelength, pixels; they overlap
FULL = 3600.0 + STEP * np.arange(780)
FIRST_ID = 2**53 + 1  # ids that a float cannot hold
GRID = Spectra(bins=40)
DESI_UNIT = "10**-17 erg/(s cm2 Angstrom)"


class Sky(NamedTuple):
    """Objects whose spectra are functions of the rest wavelength."""

    id: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    z: np.ndarray
    spectype: np.ndarray
    tilt: np.ndarray

    def flux(self, wavelength: np.ndarray) -> np.ndarray:
        """(N, P) flux per wavelength at observed wavelengths, (P,)."""
        rest = np.asarray(wavelength)[None] / (1 + self.z[:, None])
        wave = 3 + np.sin(rest / 250) + self.tilt[:, None] * (rest - 5500) / 2000
        return wave / (1 + self.z[:, None])


def sky(count: int = 6, seed: int = 0) -> Sky:
    """Objects within the default cuts."""
    rng = np.random.default_rng(seed)
    return Sky(
        FIRST_ID + 7 * np.arange(count, dtype=np.int64),
        rng.uniform(0, 360, count),
        rng.uniform(-90, 90, count),
        rng.uniform(0.02, 0.29, count),
        np.array([("GALAXY", "GALAXY", "QSO")[row % 3] for row in range(count)]),
        rng.normal(size=count),
    )


def ivar_of(flux: np.ndarray, snr: float = 20.0) -> np.ndarray:
    """Constant along the spectrum."""
    return np.full(flux.shape, snr**2 / 9)


def desi(folder: Path, objects: Sky, name: str = "coadd-a.fits", **changes: Any) -> Path:
    """Write a coadd; `changes` replace extensions by name: an array, an array with its unit, or None to leave it out."""
    from astropy.io import fits
    from astropy.table import Table

    kinds = np.full(len(objects.id), "TGT")
    fibermap = {"TARGETID": objects.id, "TARGET_RA": objects.ra, "TARGET_DEC": objects.dec, "OBJTYPE": kinds}
    held: dict[str, Any] = {"FIBERMAP": fibermap}
    for arm, (first, size) in ARMS.items():
        wave = first + STEP * np.arange(size)
        flux = objects.flux(wave)
        held |= {f"{arm}_WAVELENGTH": (wave, "Angstrom"), f"{arm}_FLUX": (flux.astype(np.float32), DESI_UNIT)}
        held |= {f"{arm}_IVAR": ivar_of(flux).astype(np.float32), f"{arm}_MASK": np.zeros(flux.shape, np.int32)}
    held |= changes
    hdus = fits.HDUList([fits.PrimaryHDU()])
    for key, value in held.items():
        if isinstance(value, dict):
            hdus.append(fits.table_to_hdu(Table(value)))
        elif value is not None:
            array, unit = value if isinstance(value, tuple) else (value, "")
            hdus.append(fits.ImageHDU(array))
            if unit:
                hdus[-1].header["BUNIT"] = unit
        if value is not None:
            hdus[-1].name = key
    hdus.writeto(folder / name)
    return folder / name


def redrock(folder: Path, objects: Sky, name: str = "redrock-a.fits", table: str = "REDSHIFTS", **more: Any) -> Path:
    """Write redshifts."""
    from astropy.io import fits
    from astropy.table import Table

    columns = {"TARGETID": objects.id, "Z": objects.z, "ZWARN": np.full(len(objects.id), 4), "SPECTYPE": objects.spectype}
    hdu = fits.table_to_hdu(Table(columns | more))
    hdu.name = table
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(folder / name)
    return folder / name


def take(objects: Sky, rows: Any) -> Sky:
    """Some of the objects."""
    return Sky(*(values[rows] for values in objects))


def sdss(folder: Path, objects: Sky, table: str | None = "SPECOBJ", **pixels: Any) -> list[Path]:
    """Write one file an object; `pixels` replace columns of the coadd."""
    from astropy.io import fits
    from astropy.table import Table

    paths = []
    for row in range(len(objects.id)):
        loglam = 3.55 + 5e-4 * np.arange(900 + row)  # every spectrum has its own length, as in the survey
        flux = take(objects, [row]).flux(10**loglam)[0]
        columns = {"flux": flux, "loglam": loglam, "ivar": ivar_of(flux), "and_mask": np.zeros(len(flux), np.int32)}
        hdus = [fits.PrimaryHDU(), fits.table_to_hdu(Table(columns | pixels))]
        hdus[1].name = "COADD"
        if table:
            plate = {"PLATE": [266], "MJD": [51630], "FIBERID": [row + 1], "PLUG_RA": [objects.ra[row]]}
            plate |= {"PLUG_DEC": [objects.dec[row]], "Z": [objects.z[row]], "CLASS": [objects.spectype[row]]}
            hdus.append(fits.table_to_hdu(Table(plate)))
            hdus[2].name = table
        paths.append(folder / f"spec-0266-51630-{row + 1:04d}.fits")
        fits.HDUList(hdus).writeto(paths[-1])
    return paths


def lamost(folder: Path, objects: Sky, vectors: bool, **header: Any) -> list[Path]:
    """Write one file an object, in the layout of the later releases (`vectors`) or of the earlier."""
    from astropy.io import fits
    from astropy.table import Table

    paths = []
    for row in range(len(objects.id)):
        wave = 10 ** (3.555 + 5e-4 * np.arange(850))
        flux = take(objects, [row]).flux(wave)[0]
        planes = np.stack([flux, ivar_of(flux), wave, np.zeros(len(wave)), np.zeros(len(wave))]).astype(np.float32)
        primary = fits.PrimaryHDU(None if vectors else planes)
        notes = {"OBSID": 101 + row, "RA": objects.ra[row], "DEC": objects.dec[row], "Z": objects.z[row]}
        primary.header.update(notes | {"CLASS": objects.spectype[row], "TELESCOP": "LAMOST"} | header)
        names = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK")
        more = [fits.table_to_hdu(Table({name: plane[None] for name, plane in zip(names, planes)}))] if vectors else []
        paths.append(folder / f"spec-55862-B6212_sp06-{row + 1:03d}.fits")
        fits.HDUList([primary, *more]).writeto(paths[-1])
    return paths


def arrays(objects: Sky) -> dict[str, np.ndarray]:
    """Columns of an NPZ."""
    flux = objects.flux(FULL)
    return {
        "flux": flux.astype(np.float32),
        "ivar": ivar_of(flux).astype(np.float32),
        "wavelength": FULL,
        "z": objects.z,
        "spectype": objects.spectype,
        "object_id": objects.id,
        "ra": objects.ra,
        "dec": objects.dec,
    }


def npz(folder: Path, objects: Sky, name: str = "spectra.npz", **changes: Any) -> Path:
    """Write an NPZ; `changes` replace arrays, None leaves one out."""
    held = {key: value for key, value in (arrays(objects) | changes).items() if value is not None}
    np.savez(folder / name, **held)
    return folder / name


def mmu(folder: Path, objects: Sky, name: str = "001-of-001.hdf5", **changes: Any) -> Path:
    """Write an HDF5 file as the MultimodalUniverse has them."""
    import h5py

    flux = objects.flux(FULL)
    held = {
        "spectrum_flux": flux.astype(np.float32),
        "spectrum_ivar": ivar_of(flux).astype(np.float32),
        "spectrum_lambda": np.repeat(FULL[None], len(flux), axis=0).astype(np.float32),
        "spectrum_mask": np.zeros(flux.shape, bool),
        "Z": objects.z,
        "SPECTYPE": objects.spectype.astype("S8"),
        "object_id": np.char.rjust(objects.id.astype(str), 22).astype("S22"),
        "ra": objects.ra,
        "dec": objects.dec,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / name, "w") as file:
        for key, value in (held | changes).items():
            if value is not None:
                file.create_dataset(key, data=value)
    return folder / name

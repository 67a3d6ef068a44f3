"""Spectra kept as arrays of many objects: NPZ archives, and the HDF5 files of the MultimodalUniverse.

::

    NPZ    flux (N, P), wavelength or wave (P,) or (N, P) in angstroms, ivar (or sigma, err, error, flux_error) and mask
           (N, P) where there are any; z, spectype or class, object_id, ra, dec (N,), each under one of its usual names,
           where there are any
    MMU    spectrum_flux, spectrum_ivar, spectrum_lambda, spectrum_mask (N, P); Z, SPECTYPE or CLASS, object_id, ra, dec

What is true or not 0 in the mask has no weight, nor has a pixel that is not finite. Wavelengths are taken for vacuum
unless ``spectra.air`` is set; those that are not positive or not finite are padding, as the MultimodalUniverse has it.
An error that is not positive or not finite is none. Without ``ivar`` and errors all pixels of a spectrum weigh the same, by
its mean square, and no cut on the signal-to-noise ratio is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from astroad_jax.config import Spectra
from astroad_jax.data.hdf5 import open_hdf5
from astroad_jax.data.npz import headers_of, open_npz
from astroad_jax.data.source import ID_NAMES, Source, as_text, reading
from astroad_jax.data.spectra import Raw, Survey, angstroms, gridded
from astroad_jax.data.table import as_labels
from astroad_jax.errors import DataError

# What is looked for, in lower case, the most telling first.
WAVELENGTHS = ("wavelength", "wavelengths", "wave", "lambda", "lam")
ERRORS = ("sigma", "err", "error", "errors", "flux_error", "flux_err")
ARRAYS = {"flux": ("flux",), "ivar": ("ivar", "invvar"), "error": ERRORS, "mask": ("mask",), "wavelength": WAVELENGTHS}
MMU_ARRAYS = {name: (f"spectrum_{'lambda' if name == 'wavelength' else name}",) for name in ARRAYS}
COLUMNS = {
    "object_id": ID_NAMES,
    "ra": ("ra", "target_ra", "plug_ra"),
    "dec": ("dec", "target_dec", "plug_dec"),
    "z": ("z", "z_true", "redshift", "zred"),
    "spectype": ("spectype", "class", "cls", "label"),
}
DTYPES = {"object_id": "iuU", "ra": "iuf", "dec": "iuf", "z": "iuf", "spectype": "biuU"}


def open_spectra_npz(path: str, settings: Spectra) -> Source:
    """Open an NPZ archive of spectra.

    Raises
    ------
    DataError
        A damaged archive, no flux or wavelengths, arrays that do not go together, no redshifts where the grid is in the
        rest frame.
    """
    source, wavelength = open_npz(path), None
    with reading(path, "NPZ"), np.load(path, allow_pickle=False) as archive:
        headers = headers_of(path)
        member = _find(headers, WAVELENGTHS)
        if member and len(headers[member].shape) == 1:
            wavelength = archive[member]
    return _open(source, "spectra_npz", ARRAYS, wavelength, settings)


def open_mmu(path: str, settings: Spectra) -> Source:
    """Open an HDF5 file of spectra in the layout of the MultimodalUniverse.

    Raises
    ------
    DataError
        As `open_spectra_npz`.
    """
    return _open(open_hdf5(path), "mmu", MMU_ARRAYS, None, settings)


def _open(
    source: Source, format: str, arrays: Mapping[str, Sequence[str]], wavelength: np.ndarray | None, settings: Spectra
) -> Source:
    """Spectra in the columns of a table; `wavelength` is what they share, None where each has its own."""
    names = {role: _find(source.columns, wanted) for role, wanted in arrays.items()}
    if wavelength is not None:
        names.pop("wavelength")
        wavelength = angstroms(wavelength, "", source.path)
    names["error"] = "" if names["ivar"] or not names["flux"] else _error_of(source, names["flux"], arrays["error"])
    _check(source, names, arrays, wavelength)
    table = _table(source, settings)
    used = {role: name for role, name in names.items() if name}

    def spectra(rows: int) -> Iterator[Raw]:
        for chunk in source.chunks(rows, list(used.values())):
            part = {role: chunk[name] for role, name in used.items()}
            yield Raw(part.get("wavelength", wavelength), part["flux"], _weights(part))

    flags = np.zeros(source.num_rows or 0, np.uint32)
    weighted = bool(names["ivar"] or names["error"])
    return gridded(Survey(source.path, format, table, flags, spectra, weighted), settings)


def _weights(part: dict[str, np.ndarray]) -> np.ndarray:
    """Inverse variances with the mask applied."""
    ivar = part["ivar"] if "ivar" in part else np.ones(part["flux"].shape, np.float32)
    if "error" in part:
        error = np.asarray(part["error"], np.float64)
        known = np.isfinite(error) & (error > 0)
        with np.errstate(over="ignore"):  # infinite, it is as good as none
            ivar = np.square(np.divide(1, error, out=np.zeros(error.shape), where=known))
    return np.where(part["mask"] != 0, 0, ivar) if "mask" in part else ivar


def _find(columns: Mapping[str, object], wanted: Sequence[str]) -> str:
    """First column of one of these names, whatever its case; ``""`` where there is none."""
    lower = {name.lower(): name for name in reversed(list(columns))}
    return next((lower[name] for name in wanted if name in lower), "")


def _error_of(source: Source, flux: str, wanted: Sequence[str]) -> str:
    """The column of errors; one of another shape is that of something else."""
    shape = source.columns[flux].shape
    return _find({name: column for name, column in source.columns.items() if column.shape == shape}, wanted)


def _check(
    source: Source, names: dict[str, str], arrays: Mapping[str, Sequence[str]], wavelength: np.ndarray | None
) -> None:
    """The arrays that are needed are there, and of one shape."""
    lacking = [arrays[role][0] for role in ("flux", "wavelength") if not names.get(role, "shared")]
    shapes = {name: source.columns[name].shape for name in names.values() if name}
    pixels = wavelength.shape if wavelength is not None else None
    odd = {name: shape for name, shape in shapes.items() if len(shape) != 1 or 0 in shape or shape != (pixels or shape)}
    if not lacking and not odd and len(set(shapes.values())) == 1:
        return
    held = {name: column.shape for name, column in list(source.columns.items())[:20]}
    raise DataError(
        "these arrays are no spectra",
        where=source.path,
        expected=", ".join(lacking) if lacking else "flux, ivar, mask of one shape (objects, pixels), a wavelength a pixel",
        got=f"of one object: {held}" + (f"; {len(wavelength)} wavelengths" if wavelength is not None else ""),
        fix="name and shape them as the documentation of open_source says",
    )


def _check_id(source: Source, taken: str, named: str) -> None:
    """Refuse a column called like an id that cannot be one: row numbers in its place would be the wrong ids."""
    if named and not taken:
        raise DataError(
            "this column cannot be the id",
            where=f"{source.path}, column {named!r}",
            expected="whole numbers or text, one an object",
            got=str(source.columns[named].dtype),
            fix="write it as whole numbers or as text, or under another name",
        )


def _table(source: Source, settings: Spectra) -> dict[str, np.ndarray]:
    """Ids, positions, redshifts and classes that are there, in their own types."""
    scalars = {name: column for name, column in source.columns.items() if not column.shape}
    found = {}
    for role, wanted in COLUMNS.items():
        fitting = {name: column for name, column in scalars.items() if column.dtype.kind in DTYPES[role]}
        found[role] = _find(fitting, wanted)
    _check_id(source, found["object_id"], _find(scalars, ID_NAMES))
    if not found["z"] and settings.frame == "rest":
        raise DataError(
            "these spectra have no redshifts",
            where=source.path,
            expected=f"an array called {', '.join(COLUMNS['z'])}",
            got=", ".join(list(source.columns)[:20]),
            fix="add it; or set spectra.frame = observed for spectra that need no shift",
        )
    count = source.num_rows or 0
    table = {"z": np.full(count, np.nan), "spectype": np.full(count, "")}
    used = {role: name for role, name in found.items() if name}
    if used:
        chunks = list(source.chunks(columns=list(dict.fromkeys(used.values()))))
        table |= {role: np.concatenate([chunk[name] for chunk in chunks]) for role, name in used.items()}
    table |= {role: values.astype(np.float64) for role, values in table.items() if role in ("ra", "dec", "z")}
    table["spectype"] = as_labels(table["spectype"])
    return {role: np.char.strip(as_text(v)) if v.dtype.kind == "U" else v for role, v in table.items()}

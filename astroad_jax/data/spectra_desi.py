"""DESI coadds, joined with their redshifts.

::

    coadd-NAME.fits     FIBERMAP (TARGETID, TARGET_RA, TARGET_DEC, OBJTYPE), and of every arm X (B, R, Z, or BRZ)
                        X_WAVELENGTH (P,), X_FLUX (N, P), X_IVAR (N, P), X_MASK (N, P) where there is one
    redrock-NAME.fits   REDSHIFTS (TARGETID, Z, SPECTYPE), in any order

Wavelengths are in vacuum. Pixels with any bit of the mask set have no weight. Where arms overlap, they are averaged with
their inverse variances, as desispec does: f = sum(ivar f) / sum(ivar), ivar = sum(ivar). Where a coadd lacks an arm it has
no pixels, so that its objects are left out where they cover too little of the grid (``spectra.coverage``). An arm of which
all pixels are bad is there; objects left with too few good ones are left out too (``spectra.good``).

Fibres on blank sky and redshift warnings: rows whose OBJTYPE is not ``TGT`` are flagged, for they hold no object; ZWARN
and COADD_FIBERSTATUS exclude nothing, because a wrong redshift is among the things looked for, and a fibre that is really
bad has no inverse variance.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from astroad_jax.config import Spectra
from astroad_jax.data.hdus import checked_hdus, open_hdus, pixels
from astroad_jax.data.source import Source, as_text, native, reading
from astroad_jax.data.spectra import Raw, Survey, angstroms, check_flux_unit, gridded
from astroad_jax.errors import DataError
from astroad_jax.preprocess import spectra as grids

if TYPE_CHECKING:
    from astropy.io.fits import BinTableHDU, HDUList

ARMS = ("B", "R", "Z")
JOINED = "BRZ"  # the one arm of files whose cameras are coadded already
SPECTRA_FILES = ("coadd-", "spectra-")
REDSHIFT_FILES = ("redrock-", "zbest-")  # what stands for those in the names of redshifts, newest convention first
REDSHIFT_TABLES = ("REDSHIFTS", "ZBEST", "ZCATALOG")
ALIGNED = 0.01  # pixels by which the arms' pixels may miss each other
log = logging.getLogger(__name__)


class _Arm(NamedTuple):
    name: str
    start: int  # pixel of the common grid at which it begins
    size: int
    masked: bool


class _Rows(NamedTuple):
    """Of a file of redshifts."""

    id: np.ndarray
    z: np.ndarray
    spectype: np.ndarray


class _Redshifts(NamedTuple):
    z: np.ndarray
    spectype: np.ndarray
    missing: np.ndarray  # objects without a row, or with rows that contradict each other


def open_desi(path: str, settings: Spectra) -> Source:
    """Open a DESI coadd (or spectra) file and the redshifts that belong to it.

    The redshifts are those of ``redrock-NAME.fits`` (or ``zbest-NAME.fits``) beside ``coadd-NAME.fits``, or those that
    ``spectra.redshifts`` names: a file with a REDSHIFTS, ZBEST or ZCATALOG table, or a directory with the file in it. An
    object without a row there is flagged. A coadd without any such file is refused, for without redshifts there is no
    rest frame; with ``spectra.frame = "observed"`` none is needed.

    Columns: ``object_id`` (TARGETID, int64), ``ra``, ``dec``, ``z``, ``spectype``, ``snr``, ``spectrum``, ``flags``.

    Raises
    ------
    DataError
        A cut file or one that fails its checksums, a missing extension, arms that do not fit the fibermap or each other,
        units that cannot be used, no redshifts.
    """
    with reading(path, "a DESI coadd"), checked_hdus(path, do_not_scale_image_data=True) as hdus:
        fibermap = _extension(hdus, "FIBERMAP", path).data
        arms, grid = _arms(hdus, len(fibermap), path)
        table, flags = _objects(fibermap, path)
    found = _joined(table["object_id"], path, settings)
    table |= {"z": found.z, "spectype": found.spectype}
    if settings.frame == "rest":
        flags[found.missing] |= grids.NO_REDSHIFT_ROW

    def spectra(rows: int) -> Iterator[Raw]:
        with open_hdus(path, do_not_scale_image_data=True) as hdus:
            for start in range(0, len(flags), rows):
                yield Raw(grid, *_coadded(hdus, arms, slice(start, start + rows), len(grid)))

    return gridded(Survey(path, "desi", table, flags, spectra), settings)


def companions(path: str, settings: Spectra) -> list[str]:
    """The files beside a coadd that its redshifts may come from, and those that the settings name."""
    file = Path(path)
    folder = Path(settings.redshifts) if settings.redshifts else file.parent
    if settings.redshifts and not folder.is_dir():
        return [str(folder)]
    paths = [folder / name for name in _redshift_names(file)]
    return [str(path) for path in paths if path.is_file()]


def _redshift_names(file: Path) -> list[str]:
    """Names of the files that a coadd's redshifts may be in."""
    prefix = next((prefix for prefix in SPECTRA_FILES if file.name.startswith(prefix)), "")
    return [kind + file.name.removeprefix(prefix) for kind in REDSHIFT_FILES] if prefix else []


def _extension(hdus: HDUList, name: str, path: str) -> BinTableHDU:
    if name in hdus:
        return hdus[name]
    raise DataError(
        "this DESI file lacks an extension",
        where=path,
        expected=name,
        got=", ".join(hdu.name for hdu in hdus),
        fix="fetch it again, or write all extensions",
    )


def _arms(hdus: HDUList, count: int, path: str) -> tuple[list[_Arm], np.ndarray]:
    """The arms that are there, and the wavelengths of the pixels that they share."""
    found = [arm for arm in (*ARMS, JOINED) if any(f"{arm}_{kind}" in hdus for kind in ("WAVELENGTH", "FLUX", "IVAR"))]
    if not found:
        _extension(hdus, "B_FLUX", path)
    if JOINED in found:
        found = [JOINED]
    elif len(found) < len(ARMS):
        lacking = ", ".join(arm for arm in ARMS if arm not in found)
        log.warning("%s lacks arm %s: what it would cover is not covered (spectra.coverage)", path, lacking)
    waves = {arm: _wavelength(hdus, arm, count, path) for arm in found}
    _check_masks(hdus, found, path)
    starts, grid = _common(waves, path)
    arms = [_Arm(arm, starts[arm], len(wave), f"{arm}_MASK" in hdus) for arm, wave in waves.items()]
    return arms, grid


def _check_masks(hdus: HDUList, arms: list[str], path: str) -> None:
    """Either all arms have a mask or none: one that is lacking alone has been lost."""
    bare = [arm for arm in arms if f"{arm}_MASK" not in hdus]
    if bare and len(bare) < len(arms):
        _extension(hdus, f"{bare[0]}_MASK", path)


def _wavelength(hdus: HDUList, arm: str, count: int, path: str) -> np.ndarray:
    """One arm's wavelengths, once its extensions are known to go together."""
    hdu = _extension(hdus, f"{arm}_WAVELENGTH", path)
    wave = angstroms(hdu.data, hdu.header.get("BUNIT", ""), f"{path}, {arm}_WAVELENGTH")
    kinds = ["FLUX", "IVAR"] + (["MASK"] if f"{arm}_MASK" in hdus else [])
    for name in (f"{arm}_{kind}" for kind in kinds):
        shape = _extension(hdus, name, path).shape
        if shape != (count, len(wave)):
            raise DataError(
                "the extensions of this DESI file do not go together",
                where=f"{path}, {name}",
                expected=f"{count} rows of the fibermap x {len(wave)} wavelengths",
                got=" x ".join(map(str, shape)) or "nothing",
                fix="fetch it again, or write all extensions from the same objects",
            )
    check_flux_unit(hdus[f"{arm}_FLUX"].header.get("BUNIT", ""), f"{path}, {arm}_FLUX")
    return wave


def _common(waves: dict[str, np.ndarray], path: str) -> tuple[dict[str, int], np.ndarray]:
    """Where every arm begins on the grid that all of them share, and that grid."""
    if len(waves) == 1:
        return dict.fromkeys(waves, 0), next(iter(waves.values()))
    first = min(wave[0] for wave in waves.values())
    # over a whole arm: of wavelengths in float32, differences of neighbours are too coarse to count pixels by
    step = float(np.median([(wave[-1] - wave[0]) / (len(wave) - 1) for wave in waves.values() if len(wave) > 1] or [0.0]))
    if not step > 0:
        raise _no_grid(waves, path)
    places = {arm: (wave - first) / step for arm, wave in waves.items()}
    if any(np.abs(place - np.rint(place[0]) - np.arange(len(place))).max() > ALIGNED for place in places.values()):
        raise _no_grid(waves, path)
    starts = {arm: round(place[0]) for arm, place in places.items()}
    grid = np.full(max(starts[arm] + len(wave) for arm, wave in waves.items()), np.nan)  # where no arm is, no pixel
    for arm, wave in waves.items():
        pixels_of_arm = starts[arm] + np.arange(len(wave))
        grid[pixels_of_arm] = first + step * pixels_of_arm
    return starts, grid


def _no_grid(waves: dict[str, np.ndarray], path: str) -> DataError:
    return DataError(
        "the arms of this DESI file do not share one wavelength grid",
        where=path,
        expected="pixels of one step that coincide where arms overlap",
        got="; ".join(f"{arm}: {wave[0]:g} to {wave[-1]:g} in {len(wave)} pixels" for arm, wave in waves.items()),
        fix="join the cameras with desi_coadd_spectra --coadd-cameras",
    )


def _objects(fibermap: np.ndarray, path: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Ids and positions; rows that are no target are flagged."""
    names = fibermap.dtype.names
    if "TARGETID" not in names:
        fix = "fetch it again"
        raise DataError("this fibermap has no ids", where=path, expected="TARGETID", got=", ".join(names[:20]), fix=fix)
    table = {"object_id": native(fibermap["TARGETID"])}
    for name, column in (("ra", "TARGET_RA"), ("dec", "TARGET_DEC")):
        if column in names:
            table[name] = native(fibermap[column]).astype(np.float64)
    flags = np.zeros(len(fibermap), np.uint32)
    if "OBJTYPE" in names:
        flags[np.char.strip(as_text(np.array(fibermap["OBJTYPE"]))) != "TGT"] |= grids.NO_TARGET
    return table, flags


def _joined(ids: np.ndarray, path: str, settings: Spectra) -> _Redshifts:
    """Redshift and class of every object by its TARGETID."""
    files = companions(path, settings)
    if not files:
        if settings.frame == "observed":
            return _Redshifts(np.full(len(ids), np.nan), np.full(len(ids), ""), np.zeros(len(ids), bool))
        raise _no_redshifts(path, settings)
    known = _read_redshifts(files[0])
    last_row = len(known.id) - 1
    first, last = np.searchsorted(known.id, ids), np.searchsorted(known.id, ids, side="right") - 1
    there = last >= first
    _say_matches(path, files[0], int(there.sum()), len(ids), settings)
    row, other = np.minimum(first, last_row), np.maximum(last, 0)
    # rows of one object go by redshift and class: if the first and the last agree, so do all between
    same_z = (known.z[row] == known.z[other]) | (np.isnan(known.z[row]) & np.isnan(known.z[other]))
    clear = there & same_z & (known.spectype[row] == known.spectype[other])
    return _Redshifts(np.where(clear, known.z[row], np.nan), np.where(clear, known.spectype[row], ""), ~clear)


def _say_matches(path: str, file: str, found: int, count: int, settings: Spectra) -> None:
    """Which file the redshifts are from, and whether it is the right one."""
    log.info("%s: redshifts from %s, which has %d of %d objects", path, file, found, count)
    if count and not found and settings.frame == "rest":
        other = "leave spectra.redshifts empty for the file beside the coadd" if settings.redshifts else "fetch both again"
        log.warning("%s: none of its %d objects has a row in %s (%s, or name another)", path, count, file, other)


def _no_redshifts(path: str, settings: Spectra) -> DataError:
    name = next(iter(_redshift_names(Path(path))), "a redrock file")
    return DataError(
        "this DESI file has no redshifts",
        where=path,
        expected=f"{name} {'in ' + settings.redshifts if settings.redshifts else 'beside it'}",
        got="none",
        fix="put it there, or name a file or directory of redshifts (spectra.redshifts=PATH); "
        "spectra.frame=observed does without",
    )


def _read_redshifts(path: str) -> _Rows:
    """Rows of a file of redshifts, sorted; of a whole catalogue its primary ones."""
    if not Path(path).is_file():
        fix = "correct spectra.redshifts"
        raise DataError("no such file of redshifts", where=path, expected="a file or directory", got="nothing", fix=fix)
    found = Path(path).stat()
    return _sorted_rows(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@lru_cache(maxsize=1)  # one catalogue may serve thousands of coadds, and take longer to read than any of them
def _sorted_rows(path: str, *stamp: int) -> _Rows:
    """By id, redshift and class; `stamp` tells the file from what it was before."""
    with reading(path, "a file of DESI redshifts"), checked_hdus(path) as hdus:
        name = next((name for name in REDSHIFT_TABLES if name in hdus), REDSHIFT_TABLES[0])
        table = _extension(hdus, name, path).data
        lacking = [column for column in ("TARGETID", "Z", "SPECTYPE") if column not in table.names]
        primary = np.array(table["ZCAT_PRIMARY"], bool) if "ZCAT_PRIMARY" in table.names else np.ones(len(table), bool)
        if lacking or not primary.any():
            raise DataError(
                "this file holds no DESI redshifts",
                where=f"{path}, {name}",
                expected="TARGETID, Z and SPECTYPE of at least one object",
                got=f"no {', '.join(lacking)}" if lacking else "no row",
                fix="fetch it again, or name another (spectra.redshifts)",
            )
        spectype = np.char.strip(as_text(np.array(table["SPECTYPE"])))[primary]
        id, z = native(table["TARGETID"])[primary], native(table["Z"])[primary]
        order = np.lexsort((spectype, z, id))
        return _Rows(id[order], z[order], spectype[order])


def _coadded(hdus: HDUList, arms: list[_Arm], rows: slice, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Flux and inverse variance of some rows on the common grid; NaN and 0 where no arm has a pixel."""
    parts = [_arm_pixels(hdus, arm, rows) for arm in arms]
    if len(arms) == 1:
        return parts[0]
    count = len(parts[0][0])
    weight, weighted, plain, arms_there = (np.zeros((count, size)) for _ in range(4))
    for arm, (flux, ivar) in zip(arms, parts):
        there = slice(arm.start, arm.start + arm.size)
        weight[:, there] += ivar
        weighted[:, there] += np.where(ivar > 0, flux, 0) * ivar
        plain[:, there] += flux
        arms_there[:, there] += 1
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(weight > 0, weighted / weight, plain / arms_there), weight


def _arm_pixels(hdus: HDUList, arm: _Arm, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """One arm's flux and inverse variance; 0 where masked or not finite."""
    flux, ivar = (pixels(hdus[f"{arm.name}_{kind}"], rows) for kind in ("FLUX", "IVAR"))
    good = np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0)
    if arm.masked:
        good &= pixels(hdus[f"{arm.name}_MASK"], rows) == 0
    return flux, np.where(good, ivar, 0)

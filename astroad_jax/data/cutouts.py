"""FITS images: a file an object, or a cube of all objects beside the table that has their rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from astroad_jax.data.hdus import checked_hdus, is_image, open_hdus, pixels
from astroad_jax.data.source import Column
from astroad_jax.errors import DataError

if TYPE_CHECKING:
    from astropy.io.fits import HDUList, Header

# HDUs that come with an image and are none of its bands.
COMPANIONS = {
    "ERR", "ERROR", "SIGMA", "RMS", "VAR", "VARIANCE", "VAR_POISSON", "VAR_RNOISE", "VAR_FLAT", "IVAR", "INVVAR", "WHT",
    "WEIGHT", "WEIGHTS", "WMAP", "CON", "CTX", "DQ", "MASK", "MSK", "FLAGS", "BITMASK", "MASKBITS", "EXP", "EXPTIME",
    "NEXP", "PSF",
}  # fmt: skip
CUBES = {"", "PRIMARY", "SCI", "DATA", "IMAGE", "IMAGES", "CUTOUT", "CUTOUTS"}  # names of a cube that is `image`
NAMELESS = CUBES | {"COMPRESSED_IMAGE"}  # of a plane: they do not say which band it is
BAND_KEYS = ("FILTER", "BAND")
ID_KEYS = ("OBJECT_ID", "OBJECTID", "OBJID", "OBJ_ID", "SOURCE_ID", "SOURCEID", "TARGETID", "TARGET_ID")
RA_KEYS = ("RA", "RA_TARG", "RA_OBJ", "RA_DEG", "RAJ2000")
DEC_KEYS = ("DEC", "DEC_TARG", "DEC_OBJ", "DEC_DEG", "DEJ2000")


class Note(NamedTuple):
    """What the headers of one cutout say of its object; None where they do not."""

    id: str | None
    ra: float | None
    dec: float | None


def read_note(path: str) -> Note:
    """Identifier and position (degrees), from the primary header or that of the first image.

    Raises
    ------
    Exception
        Whatever astropy finds wrong with the file.
    """
    with open_hdus(path) as hdus:
        first = next((hdu.header for hdu in hdus if is_image(hdu, (2, 3, 4))), hdus[0].header)
        headers = (hdus[0].header, first)
        names = (header[key] for header in headers for key in ID_KEYS if _text(header, key))
        pairs = ((header.get(ra), header.get(dec)) for header in headers for ra, dec in zip(RA_KEYS, DEC_KEYS))
        numbers = ((ra, dec) for ra, dec in pairs if _is_number(ra) and _is_number(dec))
        ra, dec = next(numbers, (None, None))
        name = next(names, None)
        return Note(None if name is None else str(name).strip(), ra, dec)


def _text(header: Header, key: str) -> str:
    value = header.get(key)
    return str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def usual_bands(paths: Sequence[str]) -> tuple[str, ...]:
    """Names of the bands, in their order, that more than half of these files have; () where no names are so common."""
    found = Counter(names for names in map(_read_bands, paths) if names)
    names, count = found.most_common(1)[0] if found else ((), 0)
    return names if 2 * count > found.total() else ()


def _read_bands(path: str) -> tuple[str, ...]:
    try:
        with open_hdus(path) as hdus:
            return _named([hdu for hdu in hdus if _is_band(hdu)])
    except ImportError:
        raise
    except Exception:  # astropy has many ways to give up; what is wrong is said when the image is asked for
        return ()


def _is_band(hdu: Any) -> bool:
    return is_image(hdu, (2, 3, 4)) and hdu.name.upper() not in COMPANIONS


def _named(hdus: Sequence[Any]) -> tuple[str, ...]:
    """What the headers call the bands, of which there are several, one an HDU; () unless all have a name of their own."""
    names = tuple(_name(hdu) for hdu in hdus)
    return names if len(set(names)) == len(names) > 1 and all(names) else ()


def _name(hdu: Any) -> str:
    name = hdu.name.upper()
    return next((_text(hdu.header, key).upper() for key in BAND_KEYS if key in hdu.header), "") if name in NAMELESS else name


def read_cutout(path: str, bands: tuple[str, ...] = ()) -> np.ndarray:
    """Image ``(H, W, bands)`` of a file that holds one object.

    Its bands are the planes of the one HDU of three axes, or the HDUs of two axes in their order; HDUs named as errors,
    weights, masks and the like (`COMPANIONS`) are none of them.

    Parameters
    ----------
    bands : tuple of str, optional
        Names that HDUs of two axes must have (EXTNAME, or FILTER or BAND under one that says nothing), and the order in
        which they are taken; files whose headers do not tell their bands apart are taken as they are.

    Raises
    ------
    DataError
        Cut short, failed checksums, no image, bands of different sizes, or other bands.
    """
    with checked_hdus(path, do_not_scale_image_data=True) as hdus:
        images = [hdu for hdu in hdus if _is_band(hdu)]
        planes, names = [_planes(pixels(hdu)) for hdu in images], _named(images)
    shapes = [plane.shape for plane in planes]
    if not planes or len({shape[1:] for shape in shapes}) > 1 or (len(planes) > 1 and any(n > 1 for n, *_ in shapes)):
        raise DataError(
            "this FITS file does not hold the bands of one object",
            where=path,
            expected="one image HDU of 3 axes (bands, height, width), or image HDUs of 2 axes and one size",
            got=f"image HDUs of shapes {shapes}",
            fix="keep one object a file; give HDUs that are no bands a name such as ERR, WHT or MASK",
        )
    if bands and names:
        planes = [planes[place] for place in _order(names, bands, path)]
    return np.ascontiguousarray(np.concatenate(planes).transpose(1, 2, 0))


def _order(names: tuple[str, ...], bands: tuple[str, ...], path: str) -> list[int]:
    """Places of the wanted bands among those of a file."""
    if set(names) != set(bands):
        raise DataError(
            "this FITS file has other bands than most beside it",
            where=path,
            expected=", ".join(bands),
            got=", ".join(names),
            fix="keep images of other bands in another directory",
        )
    return [names.index(band) for band in bands]


def _planes(image: np.ndarray) -> np.ndarray:
    """As ``(bands, H, W)``: a plane is one band, a degenerate fourth axis (radio images) goes."""
    if image.ndim == 2:
        return image[None]
    if image.ndim == 3:
        return image
    if image.shape[0] != 1:
        raise ValueError(f"an image HDU of four axes {image.shape}, the last of which is not 1")
    return image[0]


class Cube(NamedTuple):
    """An image HDU with one image a row of the table: where it is, and the column that it makes."""

    index: int
    column: Column


def find_cubes(hdus: HDUList, num_rows: int) -> dict[str, Cube]:
    """Column name -> image HDU ``(N, H, W)`` or ``(N, bands, H, W)`` with N the table's rows.

    One without a name, or with one of `CUBES`, is called ``image``; any other keeps its name.

    Raises
    ------
    DataError
        Two of one name.
    """
    cubes: dict[str, Cube] = {}
    for index, hdu in enumerate(hdus):
        if not is_image(hdu, (3, 4)) or hdu.shape[0] != num_rows:
            continue
        name = "image" if hdu.name.upper() in CUBES else hdu.name
        if name in cubes:
            raise DataError(
                "two image HDUs want to be the same column", where=f"HDUs {cubes[name].index} and {index}", got=name
            )
        height, width = hdu.shape[-2:]
        bands = hdu.shape[1] if len(hdu.shape) == 4 else 1
        cubes[name] = Cube(index, Column(np.dtype(np.float32), (height, width, bands)))
    return cubes


def read_cube(hdus: HDUList, cube: Cube, start: int, stop: int) -> np.ndarray:
    """Images ``(stop - start, H, W, bands)`` float32; `hdus` opened without scaling, as `hdus.pixels` wants them."""
    values = pixels(hdus[cube.index], slice(start, stop))
    return np.ascontiguousarray(values.transpose(0, 2, 3, 1)) if values.ndim == 4 else values[..., None]

"""HDUs of a FITS file: opened, checked for cuts and checksums, and their pixels in physical units."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from astroad_jax.errors import DataError

if TYPE_CHECKING:
    from astropy.io.fits import HDUList


SUFFIXES = (".fits.gz", ".fit.gz", ".fits", ".fit")
PIECE = 2**20  # bytes read at a time


def suffix_of(path: str) -> str:
    """The FITS suffix of a file's name, ``""`` where it has none."""
    return next((suffix for suffix in SUFFIXES if path.lower().endswith(suffix)), "")


@contextmanager
def open_hdus(path: str, **options: Any) -> Iterator[HDUList]:
    """HDUs of a file that is opened here, because astropy leaves it open where it gives up on what is in it."""
    from astropy.io import fits

    memmap = not path.lower().endswith(".gz")
    with open(path, "rb") as stream, fits.open(stream, memmap=memmap, **options) as hdus:
        yield hdus


def check_lengths(hdus: HDUList, path: str) -> None:
    """Compare what every header announces with the bytes that are there (gzip has its own check).

    Raises
    ------
    DataError
        Fewer bytes than that, naming the HDU; or more, which are what is left of one whose header was cut.
    """
    if path.lower().endswith(".gz"):
        return
    size = os.path.getsize(path)
    with warnings.catch_warnings():
        for said_better_below in ("File may have been truncated", "Error validating header", "Unexpected extra padding"):
            warnings.filterwarnings("ignore", said_better_below)
        hdus.readall()
    for index, hdu in enumerate(hdus):
        info = hdu.fileinfo()
        end = info["datLoc"] + info["datSpan"]
        if end > size:
            raise DataError(
                "this FITS file is cut short",
                where=f"{path}, HDU {index} ({hdu.name or 'unnamed'})",
                expected=f"{end} bytes up to the end of this HDU",
                got=f"{size} bytes",
                fix="fetch or write it again",
            )
    if size > end and _holds_something(path, end):
        raise DataError(
            "this FITS file has bytes after its last HDU: it is cut short, or damaged",
            where=f"{path}, after HDU {len(hdus) - 1} ({hdus[-1].name or 'unnamed'})",
            expected=f"{end} bytes, or zeros after them",
            got=f"{size} bytes",
            fix="fetch or write it again",
        )


def _holds_something(path: str, start: int) -> bool:
    """Whether any byte from `start` on is not 0: some writers pad their files."""
    with open(path, "rb") as stream:
        stream.seek(start)
        return any(piece.strip(b"\0") for piece in iter(lambda: stream.read(PIECE), b""))


def check_sums(path: str) -> None:
    """Verify all checksums; astropy only warns of those that fail.

    Raises
    ------
    DataError
        Naming those that do.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with open_hdus(path, checksum=True) as hdus:
            hdus.readall()
    failed = [str(w.message).strip() for w in caught if "verification failed" in str(w.message)]
    if failed:
        raise DataError(
            "this FITS file does not match its checksums",
            where=path,
            expected="the bytes that were written",
            got="; ".join(failed),
            fix="it has changed since it was written: fetch it again",
        )


@contextmanager
def checked_hdus(path: str, **options: Any) -> Iterator[HDUList]:
    """`open_hdus` of a file that is whole.

    Raises
    ------
    DataError
        As `check_lengths` and `check_sums`.
    """
    with open_hdus(path) as hdus:
        check_lengths(hdus, path)
    check_sums(path)
    with open_hdus(path, **options) as hdus:
        yield hdus


def is_image(hdu: Any, axes: tuple[int, ...]) -> bool:
    """Whether an HDU is an image (compressed or not) of that many axes and at least one pixel."""
    from astropy.io import fits

    kinds = (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU)
    return isinstance(hdu, kinds) and len(hdu.shape) in axes and 0 not in hdu.shape


def pixels(hdu: Any, rows: slice = slice(None)) -> np.ndarray:
    """Pixels along the first axis, float32 in native order; stored integers are scaled, those equal to BLANK are NaN.

    The HDU must come from ``open_hdus(path, do_not_scale_image_data=True)``: astropy's own scaling forgets a BLANK of 0,
    and any BLANK of unsigned integers.
    """
    header, raw = hdu.header, hdu.section[rows]
    scale, zero, blank = header.get("BSCALE", 1), header.get("BZERO", 0), header.get("BLANK")
    missing = raw == blank if blank is not None and raw.dtype.kind in "iu" else None
    with np.errstate(over="ignore"):  # beyond float32 becomes inf on purpose: it is flagged
        if (scale, zero) == (1, 0):
            values = np.array(raw, np.float32)
        else:
            values = (raw.astype(np.float64) * scale + zero).astype(np.float32)
    if missing is not None:
        values[missing] = np.nan
    return values

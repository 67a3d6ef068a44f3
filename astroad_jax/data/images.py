"""Images that are read one by one: pictures decoded, brought to one shape, and what is wrong with one kept to itself."""

from __future__ import annotations

import io
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from astroad_jax.data.source import Column
from astroad_jax.errors import DataError

Load = Callable[[], np.ndarray]  # pixels (H, W, bands) of one image, or any exception

FORMATS = ("JPEG", "PNG", "TIFF")
COLOURS = {"1": "L", "P": "RGB", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB"}
LOOKED_AT = 9  # images, before the shape of all is settled: one odd one must not make the others odd
SHOWN = 5  # reasons given where no image can be read
log = logging.getLogger(__name__)


def decode(raw: bytes) -> np.ndarray:
    """Pixels ``(H, W, bands)`` of a JPEG, PNG or TIFF file, in its own numbers.

    Palettes and printing inks become colours; a transparency channel is a band like any other. Damage within a JPEG's
    data that its decoder makes something of is not seen: the format has no checksum.

    Raises
    ------
    Exception
        Whatever the decoder finds wrong.
    """
    from PIL import Image

    with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
        if image.format == "TIFF" and image.n_frames != 1:
            raise ValueError(f"a TIFF of {image.n_frames} pages, where one was expected")
        image.load()
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        pixels = np.asarray(image.convert(COLOURS[image.mode]) if image.mode in COLOURS else image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


class Album:
    """Images of one shape, each read by itself.

    One that cannot be read, or has another shape, is all NaN and named in a warning, once: preprocessing flags it, its
    score is null, and the others are none the worse.

    Parameters
    ----------
    where : str
        What holds them, as messages name it.
    size : int
        Side in pixels that each is brought to: pixels are averaged where it shrinks, bicubic where it grows. 0: as it is.
    """

    def __init__(self, where: str, size: int = 0):
        self.where, self.size = where, size
        self.shape: tuple[int, ...] = ()
        self.named: set[str] = set()

    def open(self, images: Iterable[tuple[str, Load]]) -> Column:
        """Settle the shape, by what most of the first `LOOKED_AT` have, or the first that can be read; the column they make.

        Raises
        ------
        DataError
            None can be read.
        """
        shapes, reasons = Counter(), []
        for tried, (name, load) in enumerate(images, start=1):
            try:
                shapes[self._sized(load()).shape] += 1
            except Exception as error:
                self._must_be_its_own(error, name)
                reasons.append(f"{name}: {_reason(error)}")
            if shapes and tried >= LOOKED_AT:
                break
        if shapes:
            self.shape = shapes.most_common(1)[0][0]  # the first of those that are equally common
            return Column(np.dtype(np.float32), self.shape)
        raise DataError(
            "none of these images can be read",
            where=self.where,
            expected="at least one whole image",
            got="; ".join(reasons[:SHOWN]) + (f" and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""),
            fix="fetch or write them again",
        )

    def read(self, images: Sequence[tuple[str, Load]]) -> np.ndarray:
        """Images ``(N, *shape)`` float32."""
        out = np.full((len(images), *self.shape), np.nan, np.float32)
        for place, (name, load) in enumerate(images):
            try:
                found = self._sized(load())
                if found.shape != self.shape:
                    raise ValueError(f"height, width, bands {found.shape}, where {self.shape} are expected")
                out[place] = found
            except Exception as error:
                self._must_be_its_own(error, name)
                self._warn(name, error)
        return out

    def _sized(self, image: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # beyond float32 becomes inf on purpose: it is flagged
            image = image.astype(np.float32)
        return resized(image, self.size) if self.size else image

    def _must_be_its_own(self, error: Exception, name: str) -> None:
        """Raise what is not the fault of one image."""
        if isinstance(error, ImportError):
            raise error
        if isinstance(error, FileNotFoundError):
            got = f"{name} is gone"
            raise DataError("these images have changed since they were opened", where=self.where, got=got) from error

    def _warn(self, name: str, error: Exception) -> None:
        if name in self.named:
            return
        self.named.add(name)
        if len(self.named) <= SHOWN:
            log.warning("%s: image %s cannot be used, and gets no score: %s", self.where, name, _reason(error))
        elif len(self.named) == SHOWN + 1:
            log.warning("%s: more images cannot be used; they get no score, and are no longer named", self.where)


def _reason(error: Exception) -> str:
    """First line of what went wrong, and for our own errors what was expected and found."""
    if isinstance(error, DataError):
        return f"{error.what} (expected {error.expected}, got {error.got})"
    line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {re.sub(r' <_io[^>]*>', '', line)}"


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """Bring an image ``(H, W, bands)`` to ``(size, size, bands)``; a new pixel that a bad one enters is as bad."""
    from astroad_jax.preprocess.resample import resize, touched

    if image.shape[0] != image.shape[1]:
        raise ValueError(f"{image.shape[0]} x {image.shape[1]} pixels: to be resized, it must be square")
    x = image[None]
    y = resize(np.where(np.isfinite(x), x, np.float32(0)), size, grow="cubic")
    for bad, mark in ((np.isinf(x), np.inf), (np.isnan(x), np.nan)):
        if bad.any():
            y = np.where(touched(bad, size, grow="cubic"), np.float32(mark), y)
    return y[0]

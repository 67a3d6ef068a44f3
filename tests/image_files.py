"""Small images, and files that hold them, whole and broken."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np


def picture(seed: int = 0, height: int = 8, width: int = 8, bands: int = 3) -> np.ndarray:
    """Smooth uint8 image ``(H, W, bands)`` that survives JPEG within a few counts."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    slopes, base = rng.uniform(-60, 60, (2, bands)), rng.uniform(100, 150, bands)
    return (base + slopes[0] * x[..., None] + slopes[1] * y[..., None]).astype(np.uint8)


def encode(image: np.ndarray, kind: str = "jpeg", **options: Any) -> bytes:
    """File of an image: a single band is grey."""
    from PIL import Image

    stream = io.BytesIO()
    lossless = {"quality": 95, "subsampling": 0} if kind == "jpeg" else {}
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(stream, kind, **(lossless | options))
    return stream.getvalue()


def pack(images: list[bytes], suffix: str = "") -> dict[str, np.ndarray]:
    """JPEG files end to end, and their offsets."""
    offsets = np.cumsum([0, *map(len, images)])
    return {f"jpeg{suffix}": np.frombuffer(b"".join(images), np.uint8), f"offsets{suffix}": offsets}


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    """Directory with files of these names below it."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def cutout(planes: np.ndarray, layout: str = "cube", primary: dict[str, Any] | None = None, **header: Any) -> bytes:
    """FITS file of one object: planes ``(bands, H, W)`` as one HDU of three axes, as HDUs of two, or one plane."""
    from astropy.io import fits

    if layout == "cube":
        hdus = [fits.PrimaryHDU(planes)]
    elif layout == "extensions":
        hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(plane, name=f"BAND{i}") for i, plane in enumerate(planes))]
    elif layout == "compressed":
        hdus = [fits.PrimaryHDU(), fits.CompImageHDU(planes, compression_type="GZIP_1")]
    else:
        hdus = [fits.PrimaryHDU(planes[0])]
    hdus[0].header.update(header | (primary or {}))
    stream = io.BytesIO()
    fits.HDUList(hdus).writeto(stream, checksum=True)
    return stream.getvalue()


def survey(cubes: np.ndarray) -> bytes:
    """FITS file of many objects: images ``(N, bands, H, W)``, and a table of their rows."""
    from astropy.io import fits
    from astropy.table import Table

    table = fits.table_to_hdu(Table({"object_id": np.arange(len(cubes)), "z": np.linspace(0, 1, len(cubes))}))
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table, fits.ImageHDU(cubes, name="IMAGE")]).writeto(stream, checksum=True)
    return stream.getvalue()

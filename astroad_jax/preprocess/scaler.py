"""What every scaling shares: its fitted form, the flags it raises, and the file it is kept in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astroad_jax import files
from astroad_jax.errors import CorruptError

Array = Any  # of NumPy or of jax.numpy
Params = dict[str, np.ndarray]

NAN_INPUT = 1
INF_INPUT = 2
EMPTY = 4
CONSTANT = 8
OUTSIDE = 64  # 16, 32 and 128 are the scoring's, 256 to 131072 the spectra's
FLAT_BAND = 262144
PADDED = 524288
FLAG_NAMES = {
    NAN_INPUT: "missing value (NaN) in the input",
    INF_INPUT: "infinite value in the input, or one that overflows float32",
    EMPTY: "no finite value in the input",
    CONSTANT: "all values equal, so that there is no contrast to normalise",
    OUTSIDE: "value beyond all training values, scaled as the nearest of them",
    FLAT_BAND: "a band of the image is all one value, where in training it varies",
    PADDED: "a side of the image is all one value in some band, as beyond the edge of a survey",
}
IMPUTING = ("median", "lowest")


class Frame(NamedTuple):
    """What is taken of an image: its shape, the side of the central square that is kept, and the side it is brought to.

    `crop` and `size` are 0 where the image stays as it is.
    """

    height: int
    width: int
    bands: int
    crop: int
    size: int


class Scaler(NamedTuple):
    """A fitted scaling.

    To jit `apply` without baking the statistics into the program, make `params` an argument and put them
    back: ``jax.jit(lambda params, x: apply(scaler._replace(params=params), x, jnp))``.

    Attributes
    ----------
    kind : {"quantile", "minmax", "standard", "gcn", "none", "linear", "asinh", "spectrum"}
        Which scaling.
    nan : {"flag", "median", "lowest", "error"}
        What happens to missing values.
    params : dict of float32 arrays
        Statistics: ``fill`` for missing values, and those of `kind`; ``(rows, D)`` each for features, ``(1, 1, 1,
        bands)`` for images; for spectra those of `infill.Basis`.
    frame : Frame, optional
        Of images.
    """

    kind: str
    nan: str
    params: Params
    frame: Frame | None = None


def unusable(scaler: Scaler, flags: Array) -> Array:
    """(N,) bool: which objects must get a null score.

    Always one with an infinity, without any finite value, or without contrast. One with a missing value,
    unless the policy puts something in its place (``median``, ``lowest``): then the flag only informs.
    """
    null = INF_INPUT | EMPTY | CONSTANT | (0 if scaler.nan in IMPUTING else NAN_INPUT)
    return (flags & null) != 0


def sum_flags(found: dict[int, Array], xp: Any) -> Array:
    """(N,) uint32 from one ``(N,)`` mask a flag."""
    return sum((on.astype(xp.uint32) * xp.uint32(bit) for bit, on in found.items()), start=xp.uint32(0))


def flushed(x: Array, xp: Any) -> Array:
    """Float32 numbers too small to be normal as 0, which they are to XLA: a scaling does the same on every side."""
    return xp.where(xp.abs(x) < xp.finfo(xp.float32).tiny, xp.float32(0), x)


def save(scaler: Scaler, path: Path) -> None:
    """Write the scaler as one npz file, atomically; the same scaler gives the same bytes."""
    note = {"kind": np.array(scaler.kind), "nan": np.array(scaler.nan)}
    frame = {} if scaler.frame is None else {"frame": np.array(scaler.frame, np.int64)}
    with files.atomic(Path(path)) as tmp, open(tmp, "wb") as stream:
        np.savez(stream, **note, **frame, **scaler.params)


def load(path: Path, trial: Callable[[Scaler], None]) -> Scaler:
    """Read what `save` wrote, and try it.

    Parameters
    ----------
    trial : (scaler) -> None
        Raises whatever it likes where the scaler cannot be used.

    Raises
    ------
    CorruptError
        The file is missing, damaged, or something else.
    """
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            params = {key: stored[key] for key in stored.files}  # reads, and so checks, every byte
        kind, nan = str(params.pop("kind")), str(params.pop("nan"))
        frame = Frame(*params.pop("frame").tolist()) if "frame" in params else None
        scaler = Scaler(kind, nan, params, frame)
        trial(scaler)
    except Exception as error:  # a damaged archive fails in more ways than zipfile and NumPy list
        raise CorruptError(
            "the saved scaling cannot be read",
            where=str(path),
            got=f"{type(error).__name__}: {error}",
            fix="restore the file, or train again",
        ) from error
    return scaler

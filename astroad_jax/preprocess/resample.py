"""Resampling of images along both axes by weights that depend on the two sizes alone.

A new pixel is a weighted sum of old ones: of those it covers, by their overlap, where the image shrinks (so that the mean
brightness stays), of its neighbours where it grows. The weights form a banded matrix an axis. It is applied band by
band, in one order, and not as a matrix product: that would be summed in an order, and on accelerators in a precision,
that depends on how many images come together.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np

Array = Any  # of NumPy or of jax.numpy
Grow = Literal["linear", "cubic"]


def matrix(old: int, new: int, grow: Grow = "linear") -> np.ndarray:
    """Weights ``(new, old)`` that take `old` pixels to `new` over the same field; rows add up to 1.

    Shrinking: the share of each old pixel in the new one. Growing: linear or cubic interpolation (Keys 1981, a = -1/2)
    between pixel centres; beyond the edge the outermost pixel goes on.
    """
    if new <= old:
        edges = np.arange(new + 1) * (old / new)
        pixel = np.arange(old)
        shared = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
        return np.clip(shared, 0, None) * (new / old)
    centre = (np.arange(new) + 0.5) * (old / new) - 0.5
    weights = np.zeros((new, old))
    reach = 1 if grow == "linear" else 2
    for offset in range(1 - reach, 1 + reach):
        pixel = np.floor(centre).astype(int) + offset
        np.add.at(weights, (np.arange(new), np.clip(pixel, 0, old - 1)), _kernel(np.abs(centre - pixel), grow))
    return weights


def _kernel(t: np.ndarray, grow: Grow) -> np.ndarray:
    """Weight of a pixel at distance t."""
    if grow == "linear":
        return np.clip(1 - t, 0, None)
    near, far = (1.5 * t - 2.5) * t**2 + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


@lru_cache(maxsize=64)
def _bands(old: int, new: int, grow: Grow) -> tuple[np.ndarray, np.ndarray]:
    """The matrix as bands: which old pixel, and its float32 weight, ``(taps, new)`` each; no weight is 0 for nothing."""
    weights = matrix(old, new, grow)
    used = np.abs(weights) > 1e-12  # what rounding leaves of no overlap is none
    first, last = used.argmax(axis=1), old - used[:, ::-1].argmax(axis=1)
    index = first + np.arange((last - first).max())[:, None]
    inside = np.minimum(index, old - 1)
    values = np.where(index < last, weights[np.arange(new), inside], 0.0)
    return inside, values.astype(np.float32)


def resize(x: Array, size: int, xp: Any = np, grow: Grow = "linear") -> Array:
    """Take images ``(N, H, W, C)`` to ``(N, size, size, C)``; float32, and each image by itself.

    An entry that is not finite enters every new pixel that it is near: see `touched`.
    """
    for axis in (1, 2):
        if x.shape[axis] != size:
            x = _along(x, axis, *_bands(x.shape[axis], size, grow), xp)
    return x


def touched(bad: Array, size: int, xp: Any = np, grow: Grow = "linear") -> Array:
    """Which of the resized pixels have one of the `bad` ones in them: bool ``(N, H, W, C)`` to ``(N, size, size, C)``."""
    share = bad.astype(xp.float32)
    for axis in (1, 2):
        if share.shape[axis] != size:
            index, weight = _bands(share.shape[axis], size, grow)
            share = _along(share, axis, index, np.abs(weight), xp)
    return share > 0


def _along(x: Array, axis: int, index: np.ndarray, weight: np.ndarray, xp: Any) -> Array:
    """Weighted sum of pixels along one axis, always in the order of the bands."""
    shape = [1, 1, 1, 1]
    shape[axis] = index.shape[1]
    terms = (xp.take(x, pixels, axis=axis) * w.reshape(shape) for pixels, w in zip(index, weight))
    total = next(terms)
    for term in terms:
        total = total + term
    return total

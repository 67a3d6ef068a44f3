"""Objects on which two programs are compared, before either may stand for the other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Probe = Callable[[int], np.ndarray]


def telling(found: dict[str, np.ndarray]) -> bool:
    """Whether a difference between programs would show in these outputs: all finite, and some scores not all alike.

    Whole numbers, such as flags, differ where scores do not.
    """
    scores = [values for values in found.values() if values.dtype.kind == "f"]
    return all(np.isfinite(values).all() for values in found.values()) and any(map(np.ptp, scores))


def rows(probe: Probe | None, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """``shape[0]`` objects, from `probe` or uniform, and their random id bits."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, (shape[0], 2), dtype=np.uint32)
    if probe is not None:
        return probe(shape[0]).astype(dtype), bits
    if dtype.kind in "iu":
        return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True), bits
    return rng.uniform(-1, 1, shape).astype(dtype), bits

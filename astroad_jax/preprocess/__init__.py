"""Scaling with fitted parameters, saved beside the model: of feature tables, images and spectra, behind one interface.

`features`, `images` and `flux` have the scalings; which of them an object needs is settled here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from astroad_jax.config import Preprocess
from astroad_jax.errors import ConfigError
from astroad_jax.preprocess import features, flux, images, spectra
from astroad_jax.preprocess import scaler as _scaler
from astroad_jax.preprocess.scaler import Array, Scaler, save

FLAG_NAMES = {**_scaler.FLAG_NAMES, **spectra.FLAG_NAMES}
__all__ = ["FLAG_NAMES", "Scaler", "apply", "count_flags", "excluded", "fit", "kind_for", "load", "save", "unusable"]


def kind_for(config: Preprocess, shape: Sequence[int]) -> str:
    """The scaling that objects of a shape get: as set, or under ``auto`` by their axes.

    Raises
    ------
    ConfigError
        A crop or a size for what are no images.
    """
    kind = config.scale if config.scale != "auto" else _usual(shape)
    if kind not in images.STRETCHES and (config.crop or config.size):
        raise ConfigError(
            "these objects are no images",
            where="preprocess.crop, preprocess.size",
            expected="objects of shape (height, width, bands)",
            got=f"shape {tuple(shape)}",
            fix="set both to 0",
        )
    return kind


def fit(x: np.ndarray, config: Preprocess, names: Sequence[str] = ()) -> Scaler:
    """Learn a scaling from training rows ``(N, ...)``: see `features.fit`, `images.fit` and `flux.fit`.

    Raises
    ------
    DataError
        Rows from which it cannot be learnt.
    ConfigError
        Settings that do not go with the objects' shape.
    """
    kind = kind_for(config, np.shape(x)[1:])
    return _home(kind).fit(x, config.model_copy(update={"scale": kind}), names)


def apply(scaler: Scaler, x: Array, xp: Any = np) -> tuple[Array, Array]:
    """Scale objects: ``(N, ...)`` float32, and ``(N,)`` uint32 flags; see the same modules.

    Raises
    ------
    DataError
        Objects of another shape than was fitted.
    """
    return _home(scaler.kind).apply(scaler, x, xp)


def unusable(scaler: Scaler, flags: Array) -> Array:
    """(N,) bool: which objects must get a null score: by what `apply` found (`scaler.unusable`), or by what their reader
    did (the flags of `spectra`, all of which exclude).
    """
    return _scaler.unusable(scaler, flags) | excluded(flags)


def excluded(flags: Array) -> Array:
    """(N,) bool: which objects their reader leaves out, before anything is fitted."""
    return (flags & spectra.EXCLUDED) != 0


def count_flags(flags: np.ndarray) -> str:
    """How many of these flags have each bit, in words; empty where none has any."""
    return ", ".join(f"{int(((flags & bit) > 0).sum())} {name}" for bit, name in FLAG_NAMES.items() if (flags & bit).any())


def load(path: Path) -> Scaler:
    """Read what `save` wrote.

    Raises
    ------
    CorruptError
        The file is missing, damaged, or something else.
    """
    return _scaler.load(path, lambda scaler: _home(scaler.kind).check(scaler))


def _home(kind: str) -> ModuleType:
    """The module that has a scaling."""
    return images if kind in images.STRETCHES else flux if kind in flux.KINDS else features


def _usual(shape: Sequence[int]) -> str:
    """What ``auto`` stands for."""
    return "linear" if len(shape) == 3 else "spectrum" if flux.is_spectrum(shape) else "quantile"

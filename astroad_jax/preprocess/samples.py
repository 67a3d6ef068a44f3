"""Objects to try a model on, drawn from what its scaling has learnt of the training objects; some of them broken."""

from __future__ import annotations

import numpy as np

from astroad_jax.preprocess.scaler import Params, Scaler

BROKEN = 6  # at the end of a sample that has room for them


def draw(scaler: Scaler, raw_shape: tuple[int, ...], count: int, seed: int = 0, broken: bool = False) -> np.ndarray:
    """Objects as a reader gives them, ``(count, *raw_shape)`` float32.

    They lie where the training objects do, feature by feature, and a little beyond. Of those that are `broken`, the last
    have a missing value, an infinite one, nothing finite, one value throughout, values far outside, and nothing but 0.
    """
    rng = np.random.default_rng(seed)
    if scaler.kind == "spectrum":
        x = _spectra(scaler.params, (count, *raw_shape), rng)
    elif scaler.frame is not None:
        x = _images(scaler, (count, *raw_shape), rng)
    else:
        x = _features(scaler, (count, int(np.prod(raw_shape))), rng).reshape(count, *raw_shape)
    x = x.astype(np.float32)
    return _broken(x, scaler.kind == "spectrum") if broken and count > BROKEN else x


def _features(scaler: Scaler, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    params = scaler.params
    if scaler.kind == "quantile":
        place = rng.integers(0, len(params["quantiles"]), shape)
        return np.take_along_axis(params["quantiles"], place, axis=0) * rng.choice([1, 1, 1.01], shape)
    if scaler.kind == "minmax":
        return _between(params["low"], params["high"], shape, rng)
    if scaler.kind == "standard":
        width = np.divide(1, params["scale"], where=params["scale"] > 0, out=np.zeros_like(params["scale"]))
        return params["mean"] + width * rng.normal(size=shape)
    return rng.normal(size=shape)


def _images(scaler: Scaler, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    y = _between(scaler.params["low"], scaler.params["high"], shape, rng)
    return np.sinh(y) * scaler.params["softening"] if scaler.kind == "asinh" else y


def _between(low: np.ndarray, high: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Uniform, up to a twentieth of the range beyond either end."""
    share = np.float32(1.1) * rng.random(shape, np.float32) - np.float32(0.05)
    return low + (high - low) * share


def _spectra(params: Params, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Combinations of the eigenvectors, with noise; a twentieth of the pixels is bad."""
    count, _, width = shape
    weights = rng.normal(size=(count, len(params["vectors"]))) * np.sqrt(params["variance"])
    ivar = rng.uniform(0.5, 1.5, (count, width)) / max(float(params["noise"]), 1e-6)
    flux = params["mean"] + weights @ params["vectors"] + rng.normal(size=(count, width)) / np.sqrt(ivar)
    scale = rng.lognormal(size=(count, 1))
    return np.stack([flux * scale, np.where(rng.random((count, width)) < 0.05, 0, ivar / scale**2)], axis=1)


def _broken(x: np.ndarray, spectra: bool) -> np.ndarray:
    """The last objects spoilt."""
    middle = tuple(size // 2 for size in x.shape[1:])
    if spectra:
        x[-6:-4, 1, middle[1]] = 1  # a good pixel, or its flux would not be looked at
        middle = (0, middle[1])
    x[(-6, *middle)], x[(-5, *middle)] = np.nan, np.inf
    x[-4], x[-3], x[-1] = np.nan, 1, 0
    x[-2] *= 1000
    return x

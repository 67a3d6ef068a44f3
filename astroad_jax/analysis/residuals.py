"""Where in a spectrum the strangeness lies: residuals of its pixels, from the spectrum and its reconstruction.

Spectra are ``(N, 2, W)``: plane 0 the flux, plane 1 its inverse variance, 0 (or less) where a pixel is masked; of a
reconstruction only plane 0 is looked at. Masked pixels are NaN, which a plot leaves out; they are never 0.
"""

from __future__ import annotations

import numpy as np

from astroad_jax.errors import DataError


def weighted_residuals(spectra: np.ndarray, rebuilt: np.ndarray) -> np.ndarray:
    """(x - y) sqrt(ivar): by how many sigma every pixel lies above its reconstruction, ``(N, W)`` float64.

    Raises
    ------
    DataError
        Arrays that are no spectra with their reconstructions.
    """
    flux, ivar, model = _planes(spectra, rebuilt)
    return (flux - model) * np.sqrt(ivar)


def weighted_mse(spectra: np.ndarray, rebuilt: np.ndarray) -> np.ndarray:
    """Eq. 6 of Nicolaou et al. (the DESI autoencoder): squared residuals summed, divided by all W pixels, ``(N,)``.

    Masked pixels add nothing and are counted, as in the paper. A spectrum without a good pixel has none: NaN.
    """
    squared = weighted_residuals(spectra, rebuilt) ** 2
    total = np.where(np.isnan(squared), 0.0, squared).sum(axis=1) / squared.shape[1]
    return np.where(np.isnan(squared).all(axis=1), np.nan, total)


def log_densities(spectra: np.ndarray, rebuilt: np.ndarray) -> np.ndarray:
    """log N(x; y, 1 / ivar) of every pixel, its normalisation included, ``(N, W)`` float64; low = strange."""
    _, ivar, _ = _planes(spectra, rebuilt)
    return 0.5 * (np.log(ivar / (2 * np.pi)) - weighted_residuals(spectra, rebuilt) ** 2)


def _planes(spectra: np.ndarray, rebuilt: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flux, inverse variance (NaN where masked) and reconstruction, ``(N, W)`` each."""
    if np.ndim(spectra) != 3 or np.shape(spectra)[1] != 2 or np.shape(rebuilt) != np.shape(spectra):
        raise DataError(
            "these are no spectra with their reconstructions",
            expected="two arrays of shape (N, 2, W): flux and inverse variance",
            got=f"shapes {np.shape(spectra)} and {np.shape(rebuilt)}",
            fix="pass the preprocessed spectra and what the model's reconstruct gave for them",
        )
    flux, ivar = np.moveaxis(np.asarray(spectra, np.float64), 1, 0)
    return flux, np.where(ivar > 0, ivar, np.nan), np.asarray(rebuilt, np.float64)[:, 0]

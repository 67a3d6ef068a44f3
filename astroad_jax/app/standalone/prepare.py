"""From spectra as they were read to what the exported function takes: bad pixels infilled, and flux of L2 norm 1.

In NumPy and not in that function, because the infill solves equations that float32 cannot always hold.
"""

import numpy as np

MISSING, INFINITE, EMPTY, CONSTANT = 1, 2, 4, 8


def prepare(fitted, null_flags, x):
    """Scaled spectra, all 0 where one has any of the `null_flags`, and their flags.

    fitted : arrays of scaler.npz. x : (N, 2, W) float32, flux and inverse variance; a pixel of inverse variance 0 is bad,
    and its flux is not looked at. The scaled inverse variance is multiplied by norm^2.
    """
    flux, ivar = np.ascontiguousarray(x[:, 0]), np.ascontiguousarray(x[:, 1])
    weighs = ivar > 0
    good = weighs & np.isfinite(flux) & np.isfinite(ivar)
    some = good.any(axis=1)
    flags = MISSING * (np.isnan(ivar) | (weighs & np.isnan(flux))).any(axis=1)
    flags += INFINITE * (np.isinf(ivar) | (weighs & np.isinf(flux))).any(axis=1)
    flags += EMPTY * ~some + CONSTANT * (some & ~(good & (flux != 0)).any(axis=1))
    flux, ivar = np.where(good, flux, np.float32(0)), np.where(good, ivar, np.float32(0))
    rows = np.flatnonzero(~good.all(axis=1))
    if len(rows):
        flux[rows] = infilled(fitted, flux[rows], good[rows])
    z = unit_norm(flux, ivar)
    flags = (flags | INFINITE * ~np.isfinite(z).all(axis=(1, 2))).astype(np.uint32)
    z[(flags & null_flags) != 0] = 0
    return z, flags


def unit_norm(flux, ivar):
    """Flux of L2 norm 1, and inverse variance times norm^2: ``(N, 2, W)``."""
    wide = flux.astype(np.float64)
    most = np.max(np.abs(wide), axis=1, keepdims=True)
    unit = wide / np.where(most > 0, most, 1)
    length = np.sqrt(np.sum(unit * unit, axis=1, keepdims=True))
    norm = np.where(most > 0, length * most, 1)
    with np.errstate(over="ignore"):
        weight = (ivar * norm * norm).astype(np.float32)
    return np.stack([(unit / np.where(most > 0, length, 1)).astype(np.float32), weight], axis=1)


def infilled(fitted, flux, good):
    """Spectra whose bad pixels are the most probable ones, given the good ones and the training spectra.

    A spectrum is taken as a combination of the rows of `design`, the training mean and its eigenvectors, whose
    coefficients have variance 1 each: (products of the rows over good pixels + noise) coefficients = right.
    """
    known = np.where(good, flux, 0).astype(np.float64)
    scale = np.max(np.abs(known), axis=1, keepdims=True)
    scale = np.where(scale > 0, scale, 1)
    known = known / scale
    vectors = fitted["vectors"] * np.sqrt(fitted["variance"])[:, None]
    design = np.concatenate([fitted["mean"][None], vectors]).astype(np.float64)
    size = len(design)
    upper, place = np.triu_indices(size), np.zeros((size, size), int)
    place[upper] = place.T[upper] = np.arange(len(upper[0]))
    normal = product(design[upper[0]] * design[upper[1]], good.astype(np.float64))[:, place]
    normal = normal + (fitted["noise"] * np.eye(size))[None]
    right = product(design, known)
    guess = product(design.T, np.linalg.solve(normal, right[:, :, None])[:, :, 0]) * scale
    return np.where(good, flux, guess).astype(np.float32)


def product(table, x):
    """``x @ table.T``, each row of x by itself: BLAS rounds by shape."""
    return np.matmul(table[None], x[:, :, None])[:, :, 0]

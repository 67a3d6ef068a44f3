"""What stands out in an explained object, in a few words."""

from __future__ import annotations

import numpy as np

from astroad_jax.analysis import explain, lines
from astroad_jax.app.explaining import Explanation

NAMED = 3  # features


def remark(found: Explanation, row: int) -> str:
    """Where the object differs most: the features, the pixel, the wavelength and its line."""
    if found.names:
        top = explain.largest(found.contribution[row][None], NAMED)
        return ", ".join(f"{found.names[entry]} {share:+.0%}" for entry, share in zip(top.entry[0], top.share[0]))
    if found.residual is not None and np.isfinite(found.residual[row]).any():
        values, unit = found.residual[row], "{:+.1f} sigma"
    else:
        values, unit = found.contribution[row], "contribution {:+.3g}"
    if found.spectra:
        return _pixel(found, row, values.reshape(-1, found.x.shape[-1]).sum(axis=0), unit)
    at = np.unravel_index(np.nanargmax(np.abs(values)), values.shape)
    names = ("row", "column", "band") if values.ndim == 3 else tuple(f"axis {i}" for i in range(values.ndim))
    places = [f"{name} {place}" for name, place, size in zip(names, at, values.shape) if size > 1]
    return f"{unit.format(values[at])} at {', '.join(places)}" if places else unit.format(values[at])


def _pixel(found: Explanation, row: int, values: np.ndarray, unit: str) -> str:
    """Where a spectrum stands out, and the line or the camera's edge that is there."""
    place = int(np.nanargmax(np.abs(values)))
    if found.grid is None:
        return f"{unit.format(values[place])} at pixel {place}"
    z = float(found.table["z"][row]) if "z" in found.table else np.nan
    if not found.rest or not np.isfinite(z):
        return f"{unit.format(values[place])} at {found.grid[place]:.0f} A"
    ((wave, near),) = lines.remark(found.grid, values, z).items()
    value = np.nan_to_num(values)[np.searchsorted(found.grid, wave)]
    return f"{unit.format(value)} at {wave:.0f} A ({_unset(near)})"


def _unset(label: str) -> str:
    """A figure's label without its typesetting."""
    return label.replace("$\\", "").replace("$", "")

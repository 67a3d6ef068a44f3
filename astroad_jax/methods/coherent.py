"""Residuals that hang together: what a mean over pixels does not hear.

Eq. 6 of Nicolaou et al. adds up the squares of all pixels' residuals as if each stood alone. A camera whose flux is off by
half a standard deviation over 300 pixels adds 0.08 to a mean over 1,000 that scatters by 0.04 between ordinary spectra;
the signal-to-noise of those pixels' mean is 9. Here residuals are therefore averaged over windows, weighted by the
inverse variance, and an object is as strange as the least likely of its windows. This score is not the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

STRIDE = 4  # windows begin a quarter of their width apart: a feature keeps 7/8 of its pixels in one of them


def windows(pixels: int, widths: Sequence[int]) -> np.ndarray:
    """Which pixels are in which window, ``(pixels, windows)`` float32 of 0 and 1; the last of each width ends at the edge.

    Parameters
    ----------
    pixels : int
    widths : sequence of int
        In pixels; what is wider than the object is as wide as it.
    """
    held = []
    for width in (min(width, pixels) for width in widths):
        starts = np.arange(0, pixels - width, max(width // STRIDE, 1))
        starts = np.append(starts, pixels - width)
        at = np.arange(pixels)[:, None]
        held.append((at >= starts) & (at < starts + width))
    return np.concatenate(held, axis=1).astype(np.float32)


def coherent(difference: jax.Array, weight: jax.Array, held: np.ndarray) -> jax.Array:
    """Largest signal-to-noise, of either sign, that the residuals have in any window: ``(B, F), (B, F) -> (B,)``.

    Parameters
    ----------
    difference : (B, F) array
        Object minus reconstruction, 0 where masked.
    weight : (B, F) array
        Inverse variance, 0 where masked. A window that is masked throughout counts as 0.
    held : (F, windows) array
        From `windows`.

    Returns
    -------
    (B,) array
        max over windows of |sum w d| / sqrt(sum w). Of noise alone, about that of the largest of as many normal numbers as
        there are windows side by side: 2 to 3.
    """
    # Sums of a thousand pixels in bfloat16 or TF32, an accelerator's defaults, would be those of rounding.
    total = jnp.dot(weight * difference, held, precision="highest")
    known = jnp.dot(weight, held, precision="highest")
    return jnp.max(jnp.abs(total) / jnp.sqrt(jnp.where(known > 0, known, 1.0)), axis=-1)

"""Residuals that hang together: what a mean over pixels does not hear.

Eq. 6 of Nicolaou et al. adds up the squares of all pixels' residuals as if each stood alone. A camera whose flux is off by
half a standard deviation over 300 pixels adds 0.08 to a mean over 1,000 that scatters by 0.04 by its noise alone; the
signal-to-noise of the mean of 150 of those pixels is 6. Here residuals are therefore averaged over windows, weighted by the
inverse variance, and an object is as strange as the least likely of its windows. This score is not the paper's.

A single pixel does, if it is far enough off: one of 30 sigma is 3.9 in a window of 60. And wherever the model is not
exact, the score rises with the object's signal-to-noise, as eq. 6 does.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

STRIDE = 4  # windows begin a quarter of their width apart: of as many pixels side by side at least 7/8 are in one of them
ROOM = 2.0**-10  # its square times the weights of a million pixels, whatever they are, can be added


def windows(pixels: int, widths: Sequence[int]) -> np.ndarray:
    """Which pixels are in which window, ``(pixels, windows)`` float32 of 0 and 1; the last of each width ends at the edge.

    Parameters
    ----------
    pixels : int
    widths : sequence of int
        In pixels; what is wider than the object is as wide as it.

    Returns
    -------
    (pixels, windows) float32
        1 where the pixel is in the window, else 0.
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
        max over windows of |sum w d| / sqrt(sum w). Of noise alone 2.5 in the median and 3.8 for one in a hundred, for
        1,000 pixels and windows of 60 and 150.
    """
    share = weight * ROOM**2  # sums of weights may overflow where they do not
    # Sums in bfloat16 or TF32, an accelerator's defaults, would be those of rounding.
    total = jnp.dot(share * difference, held, precision="highest")
    known = jnp.dot(share, held, precision="highest")
    return jnp.max(jnp.abs(total) / jnp.sqrt(jnp.where(known > 0, known, 1.0)), axis=-1) / ROOM

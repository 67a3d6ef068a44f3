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
from jax import lax

STRIDE = 4  # windows begin a quarter of their width apart: of as many pixels side by side at least 7/8 are in one of them
ROOM = 2.0**-10  # its square times the weights of a million pixels, whatever they are, can be added


def sums(values: jax.Array, width: int) -> jax.Array:
    """Sums over the windows of a width, the last of which ends at the edge: ``(B, F) -> (B, windows)``.

    Twos, fours, eights, ... of neighbours are added, then as many of those as make up the width. A product of matrices
    would do, but the order of its sums, and with it the last bits, is left to the compiler, which has another one for
    programs of another shape, such as an export's.

    Parameters
    ----------
    values : (B, F) array
    width : int
        1 to F.

    Returns
    -------
    (B, windows) array
        From left to right.
    """
    pixels, size, place, total = values.shape[-1], 1, 0, None
    while True:
        if width & size:
            part = values[:, place : place + pixels - width + 1]
            total, place = part if total is None else total + part, place + size
        if 2 * size > width:
            break
        values, size = values[:, :-size] + values[:, size:], 2 * size
    return jnp.concatenate([total[:, : pixels - width : max(width // STRIDE, 1)], total[:, -1:]], axis=-1)


def coherent(difference: jax.Array, weight: jax.Array, widths: Sequence[int]) -> jax.Array:
    """Largest signal-to-noise, of either sign, that the residuals have in any window: ``(B, F), (B, F) -> (B,)``.

    Parameters
    ----------
    difference : (B, F) array
        Object minus reconstruction, 0 where masked.
    weight : (B, F) array
        Inverse variance, 0 where masked. A window that is masked throughout counts as 0.
    widths : sequence of int
        Of the windows, in pixels; what is wider than the object is as wide as it.

    Returns
    -------
    (B,) array
        max over windows of |sum w d| / sqrt(sum w). Of noise alone 2.5 in the median and 3.8 for one in a hundred, for
        1,000 pixels and windows of 60 and 150.
    """
    share = weight * ROOM**2  # sums of weights may overflow where they do not
    # Rounded once more, or a compiler may add to a product before it is rounded, in one program and not in another.
    product = lax.reduce_precision(share * difference, exponent_bits=8, mantissa_bits=22)
    found = []
    for width in (min(width, share.shape[-1]) for width in widths):
        known = sums(share, width)
        found.append(jnp.abs(sums(product, width)) / jnp.sqrt(jnp.where(known > 0, known, 1.0)))
    return jnp.max(jnp.concatenate(found, axis=-1), axis=-1) / ROOM

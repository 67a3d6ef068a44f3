"""Whether a generator makes various images, or has all but come to make one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

COLLAPSE = 0.1  # of the most variety met, or of the real images'
BEGINNING = 500  # moves of the generator, within which it need not make various images yet


def variety(made: jax.Array, real: jax.Array, mask: jax.Array) -> jax.Array:
    """Spread of the images made ``(B, ...)`` over that of the real ones ``(B, ...)``: near 0, all are one image."""
    return _spread(made, mask) / jnp.maximum(_spread(real, mask), 1e-12)


def _spread(images: jax.Array, mask: jax.Array) -> jax.Array:
    """Standard deviation over a batch, its variance averaged over pixels."""
    weight = mask / jnp.maximum(mask.sum(), 1.0)
    flat = images.reshape(images.shape[0], -1)
    mean = weight @ flat
    return jnp.sqrt(jnp.mean(weight @ (flat - mean[None]) ** 2))


def collapsed(rows: Sequence[Mapping[str, Any]], begun: int = 0) -> str:
    """Whether the generated images, having been various or having had `begun` steps to become so, are nearly one image."""
    variety = [row["variety"] for row in rows]
    if variety[-1] >= COLLAPSE * min(1.0, max(variety)) and (variety[-1] >= COLLAPSE or rows[-1]["step"] < begun):
        return ""
    return (
        "mode collapse: the generated images have all but become one (their spread, in units of the real images', is the "
        "metric 'variety'); an earlier checkpoint, a lower learning rate or more critic steps may help"
    )


def one_for_all(rows: Sequence[Mapping[str, Any]], begun: int = BEGINNING) -> str:
    """Whether, after `begun` steps, all images are rebuilt as nearly the same one. Before, their mean is learned first."""
    if rows[-1]["variety"] >= COLLAPSE or rows[-1]["step"] < begun:
        return ""
    return (
        "mode collapse: whatever the image, nearly the same one is rebuilt (the rebuilt images' spread, in units of the "
        "real images', is the metric 'variety'); an earlier checkpoint, a lower learning rate, or images of more contrast "
        "may help"
    )

"""Images seen from all sides: a method trained on random flips and right-angle rotations of its images.

The sky has no up. Each of the eight symmetries of the square is drawn with equal chance for every image and step, from the
step's key, so a resumed run sees the same. Validation, plain passes and scoring see the images as they are.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from astroad_jax.errors import ConfigError
from astroad_jax.types import Batch, Key, Method, Metrics, Stage, State


def augmented(method: Method, shape: tuple[int, ...]) -> Method:
    """The same method with `dihedral` applied to every training batch.

    Raises
    ------
    ConfigError
        Objects that are not square images.
    """
    if len(shape) != 3 or shape[0] != shape[1]:
        raise ConfigError(
            "only square images can be turned",
            where="train.augment",
            expected="objects of shape (size, size, channels)",
            got=shape,
            fix="set train.augment = none, or crop the images (preprocess.crop)",
        )
    return method._replace(stages=tuple(stage if stage.plain else _turning(stage) for stage in method.stages))


def _turning(stage: Stage) -> Stage:
    def step(key: Key, state: State, batch: Batch) -> tuple[State, Metrics]:
        own, turn = jax.random.split(key)
        return stage.step(own, state, {**batch, "x": dihedral(turn, batch["x"])})

    return stage._replace(step=step)


def dihedral(key: Key, x: jax.Array) -> jax.Array:
    """One of the square's eight symmetries for each of ``(B, S, S, C)`` images, equally likely."""
    bits = jax.random.bernoulli(key, shape=(3, x.shape[0], 1, 1, 1))
    x = jnp.where(bits[0], x[:, ::-1], x)
    x = jnp.where(bits[1], x[:, :, ::-1], x)
    return jnp.where(bits[2], x.swapaxes(1, 2), x)

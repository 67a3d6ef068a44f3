"""Per-object terms that several methods share. Every function maps a batch to one number per row."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from astroad_jax.types import Batch


def rows(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Return ``x`` and the mask of a batch, all ones where it has none."""
    x = batch["x"]
    return x, batch.get("mask", jnp.ones(x.shape[0], x.dtype))


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of ``(B,)`` values over the rows whose mask is 1; 0 where there are none."""
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def mean_squares(x: jax.Array, reconstruction: jax.Array) -> jax.Array:
    """Squared error averaged over everything but the first axis: ``(B, ...) -> (B,)``."""
    error = x.reshape(x.shape[0], -1) - reconstruction.reshape(x.shape[0], -1)
    return jnp.mean(error**2, axis=-1)


def squared_distance(z: jax.Array, centre: jax.Array) -> jax.Array:
    """Squared Euclidean distance of ``(B, D)`` codes to a centre that broadcasts: ``(B,)``."""
    return jnp.sum((z - jnp.atleast_2d(centre)) ** 2, axis=-1)


def adam_l2(learning_rate: optax.ScalarOrSchedule, weight_decay: float) -> optax.GradientTransformation:
    """Adam on a loss that includes ``weight_decay / 2 * |theta|^2`` (the penalty's gradient joins the loss's)."""
    if not weight_decay:
        return optax.adam(learning_rate)
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(learning_rate))


def descend(tx: optax.GradientTransformation, gradient: Any, opt: optax.OptState, params: Any) -> tuple[Any, optax.OptState]:
    """One optimiser step: new parameters and new optimiser state."""
    updates, opt = tx.update(gradient, opt, params)
    return optax.apply_updates(params, updates), opt

"""What a decoder's output says of an object: the Gaussian likelihoods of the variational autoencoder.

A spectrum is one object ``(2, W)``: plane 0 the flux x, plane 1 its inverse variance, 0 (or less) where a pixel is masked.
The encoder sees the flux alone, as it is given: a masked pixel should hold what it would have held (preprocessing infills
it), for the likelihood gives it no weight but the encoder sees it. Of any other object the numbers themselves are seen,
and all have the same weight.

The networks work in units of r, the root mean square of a pixel: W^-1/2 for a spectrum of unit norm, 1 for other objects.
The encoder sees x / r, and what the decoder gives is multiplied by r. But for `fixed`, they see and give the difference from
a mean object only (`vae.VAEState.centre`). The paper does neither: unit norm is all it tells. It is the same model,
but one that trains: 1,000 pixels of one sign and size let a step of 1e-3 on every weight move all sums of a layer by their
own size and to one side, until most ReLUs give 0 for every spectrum.

Equation numbers are those of Nicolaou et al., "Identifying anomalous DESI galaxy spectra with a variational autoencoder".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from astroad_jax.methods.losses import mean_squares


class Likelihood(NamedTuple):
    """A likelihood as pure functions of objects ``x`` (B, ...) and the decoder's outputs ``out`` (B, heads * F).

    Attributes
    ----------
    heads : int
        Numbers that the decoder gives for each of the object's F pixels.
    seen : (x) -> (B, ...)
        The object in the networks' units, without its inverse variance.
    centre : (x, mask) -> (F,)
        What is subtracted from what the encoder is shown and added to what the decoder gives: the mean over the unmasked
        pixels of real rows, or 0.
    cost : (x, out) -> (B,)
        -log p(x | z), but for what depends on the object alone; summed over its pixels.
    error : (x, out) -> (B,)
        The squared error averaged over all F pixels; weighted by the inverse variance where there is one (eq. 6).
    rebuilt : (x, out) -> (B, ...)
        The objects as decoded, in the shape of `x`; of spectra, plane 1 is the inverse variance that was given.
    pixels : (x, out) -> (residual, cost), each (B, F)
        Object minus reconstruction in units of sigma, and each pixel's part of `cost`; NaN where masked.
    used : (x) -> (B,)
        Share of the pixels that are not masked.
    """

    heads: int
    seen: Callable[[jax.Array], jax.Array]
    centre: Callable[[jax.Array, jax.Array], jax.Array]
    cost: Callable[[jax.Array, jax.Array], jax.Array]
    error: Callable[[jax.Array, jax.Array], jax.Array]
    rebuilt: Callable[[jax.Array, jax.Array], jax.Array]
    pixels: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    used: Callable[[jax.Array], jax.Array]


def is_spectra(x: jax.Array) -> bool:
    """Whether objects ``(B, ...)`` are spectra with an inverse variance, ``(B, 2, W)``."""
    return x.ndim == 3 and x.shape[1] == 2


def planes(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Flux and weight of every pixel, ``(B, F)`` each: the inverse variance, 0 where masked; 1 without one."""
    if not is_spectra(x):
        flat = x.reshape(x.shape[0], -1)
        return flat, jnp.ones_like(flat)
    return x[:, 0], jnp.where(x[:, 1] > 0, x[:, 1], 0.0)


def unit(x: jax.Array) -> float:
    """Typical flux r of a pixel, in whose units the networks work."""
    return x.shape[-1] ** -0.5 if is_spectra(x) else 1.0


def seen(x: jax.Array) -> jax.Array:
    """Of a spectrum the flux in units of `unit`, of any other object all of it."""
    return x[:, 0] / unit(x) if is_spectra(x) else x


def centre(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean object ``(F,)`` in units of `unit`; masked pixels, and rows of mask 0, do not count."""
    flux, weight = planes(x)
    good = (weight > 0) & (mask[:, None] > 0)
    total = jnp.sum(jnp.where(good, flux / unit(x), 0.0), axis=0)
    return total / jnp.maximum(jnp.sum(good, axis=0), 1).astype(total.dtype)


def _mean(x: jax.Array, out: jax.Array) -> jax.Array:
    """The decoder's output as flux."""
    return unit(x) * out


def difference(x: jax.Array, mean: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Object minus reconstruction, and the weights.

    Parameters
    ----------
    x : (B, ...) array
        Objects.
    mean : (B, F) array
        What they were rebuilt as.

    Returns
    -------
    residual, weight : (B, F) arrays
        The weight as `planes` has it. The residual is 0 where masked, before anything is squared: whatever number stands
        there, neither the cost nor its gradient can overflow.
    """
    flux, weight = planes(x)
    return jnp.where(weight > 0, flux - mean, 0.0), weight


def _used(x: jax.Array) -> jax.Array:
    return jnp.mean((planes(x)[1] > 0).astype(jnp.float32), axis=-1)


def _rebuilt(x: jax.Array, mean: jax.Array) -> jax.Array:
    return jnp.stack([mean, x[:, 1]], axis=1) if is_spectra(x) else mean.reshape(x.shape)


def _shown(x: jax.Array, *values: jax.Array) -> tuple[jax.Array, ...]:
    """Per-pixel values ``(B, F)``, NaN where masked."""
    good = planes(x)[1] > 0
    return tuple(jnp.where(good, value, jnp.nan) for value in values)


def fixed(sigma: float = 1.0) -> Likelihood:
    """N(y, sigma^2) for every number of the object, whatever it is: MCDSVDD's baseline."""

    def cost(x: jax.Array, out: jax.Array) -> jax.Array:
        return mean_squares(x, out) * x[0].size / (2 * sigma**2)

    def pixels(x: jax.Array, out: jax.Array) -> tuple[jax.Array, jax.Array]:
        residual = (x.reshape(out.shape) - out) / sigma
        return residual, 0.5 * residual**2

    def whole(x: jax.Array) -> jax.Array:
        return x

    def rebuilt(x: jax.Array, out: jax.Array) -> jax.Array:
        return out.reshape(x.shape)

    def nowhere(x: jax.Array, mask: jax.Array) -> jax.Array:
        del mask
        return jnp.zeros(x[0].size)

    return Likelihood(1, whole, nowhere, cost, mean_squares, rebuilt, pixels, lambda x: jnp.ones(x.shape[0]))


def ivar() -> Likelihood:
    """N(y, 1 / ivar): the survey's own noise.

    The cost is sum_i ivar_i (x_i - y_i)^2 / 2. Half of sum_i log(2 pi / ivar_i) completes -log p; it is left out because
    it tells how noisy an object is, not how strange: no network can change it, and as part of a score it would outweigh
    all else.
    """

    def cost(x: jax.Array, out: jax.Array) -> jax.Array:
        residual, weight = difference(x, _mean(x, out))
        return 0.5 * jnp.sum(weight * residual**2, axis=-1)

    def error(x: jax.Array, out: jax.Array) -> jax.Array:
        return _weighted_error(x, _mean(x, out))

    def rebuilt(x: jax.Array, out: jax.Array) -> jax.Array:
        return _rebuilt(x, _mean(x, out))

    def pixels(x: jax.Array, out: jax.Array) -> tuple[jax.Array, jax.Array]:
        residual, weight = difference(x, _mean(x, out))
        return _shown(x, residual * jnp.sqrt(weight), 0.5 * weight * residual**2)

    return Likelihood(1, seen, centre, cost, error, rebuilt, pixels, _used)


def _weighted_error(x: jax.Array, mean: jax.Array) -> jax.Array:
    """Eq. 6: divided by the number of all pixels, as the paper does, not of the unmasked ones."""
    residual, weight = difference(x, mean)
    return jnp.mean(weight * residual**2, axis=-1)


def learnt(floor: float = 1e-4) -> Likelihood:
    """N(y, s^2) with y and s for every pixel from the decoder (eq. 5, whose printed logarithm has lost its factor 1/2).

    The decoder gives y / r and t, side by side, and s^2 = floor^2 + r^2 exp(t). Of a spectrum's inverse variance
    only the mask is used here; `error` is eq. 6 all the same, and the residuals are in units of the survey's sigma (of 1,
    where objects have none).
    """

    def moments(x: jax.Array, out: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, log_scale = jnp.split(out, 2, axis=-1)
        return _mean(x, mean), floor**2 + unit(x) ** 2 * jnp.exp(log_scale)

    def by_pixel(x: jax.Array, out: jax.Array) -> jax.Array:
        mean, variance = moments(x, out)
        residual, _ = difference(x, mean)
        return 0.5 * (jnp.log(2 * math.pi * variance) + residual**2 / variance)

    def cost(x: jax.Array, out: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(planes(x)[1] > 0, by_pixel(x, out), 0.0), axis=-1)

    def error(x: jax.Array, out: jax.Array) -> jax.Array:
        return _weighted_error(x, moments(x, out)[0])

    def rebuilt(x: jax.Array, out: jax.Array) -> jax.Array:
        return _rebuilt(x, moments(x, out)[0])

    def pixels(x: jax.Array, out: jax.Array) -> tuple[jax.Array, jax.Array]:
        residual, weight = difference(x, moments(x, out)[0])
        return _shown(x, residual * jnp.sqrt(weight), by_pixel(x, out))

    return Likelihood(2, seen, centre, cost, error, rebuilt, pixels, _used)

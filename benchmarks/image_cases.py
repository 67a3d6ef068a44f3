"""Images and networks that the image benchmarks run on: sizes from the papers, images synthetic and drawn by NumPy alone."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from astroad_jax.methods import latent_search, wgan_gp
from astroad_jax.nets import conv2d


def galaxies(count: int, size: int, channels: int, seed: int = 0, companions: bool = False) -> np.ndarray:
    """Inclined exponential discs with noise, ``(N, size, size, channels)`` in [-1, 1]; with a second one where asked."""
    rng = np.random.default_rng(seed)
    light = _discs(rng, count, size, spread=0.04)
    if companions:
        light = np.maximum(light, rng.uniform(0.3, 1, (count, 1, 1)) * _discs(rng, count, size, spread=0.25))
    noisy = np.arcsinh(8 * light + 0.3 * rng.standard_normal(light.shape)) / np.arcsinh(9)
    return np.repeat(np.clip(2 * noisy - 1, -1, 1)[..., None], channels, -1).astype(np.float32)


def _discs(rng: np.random.Generator, count: int, size: int, spread: float) -> np.ndarray:
    draw = lambda low, high: rng.uniform(low, high, (count, 1, 1))  # noqa: E731
    grid = (np.arange(size) - (size - 1) / 2) / size
    x, y = grid[None, None] - draw(-spread, spread), grid[None, :, None] - draw(-spread, spread)
    angle, ratio, scale = draw(0, np.pi), draw(0.3, 1), draw(0.04, 0.1)
    u, v = np.cos(angle) * x + np.sin(angle) * y, (np.cos(angle) * y - np.sin(angle) * x) / ratio
    return np.exp(-np.sqrt(u**2 + v**2 + 1e-4) / scale)


class Nets(NamedTuple):
    """Networks with weights."""

    pair: latent_search.Pair
    state: wgan_gp.WGANState
    config: wgan_gp.Config
    shape: tuple[int, int, int]


def nets(width: int, size: int, channels: int, compute: str, **options) -> Nets:
    """The networks of paper 002 (at ``width=32``), with fresh weights."""
    config = wgan_gp.Config(width=width, compute=compute, search="latent", search_rate=0.05, **options)
    shape = (size, size, channels)
    pair = wgan_gp.networks(config, shape)
    import optax

    tx = optax.adam(config.learning_rate, config.beta1, config.beta2)
    stage = wgan_gp.train_stage(pair, generator_tx=tx, critic_tx=tx, num_steps=1, n_critic=config.n_critic)
    state = jax.jit(stage.init)(jax.random.key(0), {"x": jnp.zeros((1, *shape))}, None)
    return Nets(pair, state, config, shape)


def macs(net: conv2d.Generator | conv2d.Critic, size: int, channels: int, latent: int) -> int:
    """Multiplications of one forward pass of one image: a critic's without its dense head, which the search does not use."""
    if isinstance(net, conv2d.Generator):
        total, inner, side = latent * 16 * net.widths[0], net.widths[0], 4
        for width in net.widths[1:]:
            total += side * side * 16 * inner * width
            inner, side = width, 2 * side
        for width in (*net.refine, channels):
            total += side * side * 9 * inner * width
            inner = width
        return total
    total, inner, side = 0, channels, size
    for width in net.widths:
        side //= 2
        total += side * side * 16 * inner * width
        inner = width
    return total + (side * side * 9 * inner * net.last if net.last else 0)

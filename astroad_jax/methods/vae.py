"""Variational autoencoder: strange is what a smooth latent model rebuilds badly on average.

Kingma & Welling 2014, eq. 10 (arXiv:1312.6114); as a baseline in Perez-Carrasco et al. 2023 (MCDSVDD), appendix I.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from pydantic import Field

from astroad_jax.methods.autoencoder import Dense, dense_pair
from astroad_jax.methods.losses import adam_l2, descend, masked_mean, mean_squares, rows
from astroad_jax.nets import Variables, forward, forward_train
from astroad_jax.types import Batch, Example, Key, Method, Metrics, Plan, Scores, Stage, State


class VAEState(NamedTuple):
    """Two networks and the optimiser they share."""

    encoder: Variables
    decoder: Variables
    opt: optax.OptState


class Config(Dense):
    """The variational autoencoder of MCDSVDD's appendix I: the autoencoder's layers with two heads on the code."""

    name: Literal["vae"] = "vae"
    code_bias: bool = True
    sigma: float = Field(1.0, gt=0, description="standard deviation of the likelihood, in units of the scaled features")
    beta: float = Field(1.0, ge=0, description="weight of the divergence of the code from a standard normal")
    samples: int = Field(10, ge=1, description="draws of the code that the score averages")


def kl_to_standard_normal(mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """KL(N(mean, exp(log_var)) || N(0, 1)) summed over the code: ``(B, L), (B, L) -> (B,)``."""
    return 0.5 * jnp.sum(mean**2 + jnp.exp(log_var) - 1.0 - log_var, axis=-1)


def _split(heads: jax.Array) -> tuple[jax.Array, jax.Array]:
    mean, log_var = jnp.split(heads, 2, axis=-1)
    return mean, log_var


def vae(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    tx: optax.GradientTransformation,
    num_steps: int,
    sigma: float = 1.0,
    beta: float = 1.0,
    samples: int = 10,
) -> Method:
    """Variational autoencoder with a Gaussian likelihood of fixed width.

    Parameters
    ----------
    encoder : flax.linen.Module
        ``(B, ...) -> (B, 2 L)``: mean and log-variance of the code, side by side.
    decoder : flax.linen.Module
        ``(B, L) -> (B, features)``.
    sigma : float
        Standard deviation of the likelihood, in units of the scaled features. The loss of one object is
        |x - y|^2 / (2 sigma^2) + beta KL, one draw of the code a step. MCDSVDD's code averages the square over the F
        features and the divergence over batch and code, which is sigma^2 = F / (2 L).
    samples : int
        Draws averaged in the score (the paper's several reconstructions; its code takes a single one).

    Returns
    -------
    Method
        ``score`` is the squared error averaged over features and draws; ``kl`` the divergence of the object's code.
    """
    train = _stage(encoder, decoder, tx, num_steps, sigma, beta)

    def embed(state: VAEState, example: Example) -> jax.Array:
        return _split(forward(encoder, state.encoder, example["x"][None])[0])[0]

    def reconstruct(key: Key, state: VAEState, example: Example) -> jax.Array:
        del key
        return forward(decoder, state.decoder, embed(state, example)[None])[0].reshape(example["x"].shape)

    def score(key: Key, state: VAEState, example: Example) -> Scores:
        mean, log_var = _split(forward(encoder, state.encoder, example["x"][None]))
        noise = jax.random.normal(key, (samples, mean.shape[-1]))
        rebuilt = forward(decoder, state.decoder, mean + jnp.exp(0.5 * log_var) * noise)
        target = jnp.broadcast_to(example["x"].reshape(1, -1), rebuilt.shape)
        return {
            "score": jnp.mean(mean_squares(target, rebuilt)),
            "kl": kl_to_standard_normal(mean, log_var)[0],
        }

    return Method((train,), score, embed, reconstruct)


def _stage(encoder, decoder, tx, num_steps: int, sigma: float, beta: float) -> Stage:
    """Maximise the evidence lower bound."""

    def init(key: Key, batch: Batch, previous: State | None) -> VAEState:
        del previous
        x, _ = rows(batch)
        key_e, key_d = jax.random.split(key)
        heads, enc = encoder.init_with_output(key_e, x)
        dec = decoder.init(key_d, _split(heads)[0])
        return VAEState(enc, dec, tx.init((enc["params"], dec["params"])))

    def terms(x: jax.Array, rebuilt: jax.Array, mean: jax.Array, log_var: jax.Array) -> tuple[jax.Array, jax.Array]:
        error = mean_squares(x, rebuilt)
        num_features = x[0].size
        kl = kl_to_standard_normal(mean, log_var)
        return error * num_features / (2 * sigma**2) + beta * kl, kl

    def step(key: Key, state: VAEState, batch: Batch) -> tuple[VAEState, Metrics]:
        x, mask = rows(batch)

        def loss(params):
            heads, enc = forward_train(encoder, state.encoder, params[0], x, mask)
            mean, log_var = _split(heads)
            z = mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape)
            rebuilt, dec = forward_train(decoder, state.decoder, params[1], z, mask)
            total, kl = terms(x, rebuilt, mean, log_var)
            return masked_mean(total, mask), (enc, dec, masked_mean(kl, mask))

        params = (state.encoder["params"], state.decoder["params"])
        (value, (enc, dec, kl)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        (new_e, new_d), opt = descend(tx, gradient, state.opt, params)
        return VAEState({**enc, "params": new_e}, {**dec, "params": new_d}, opt), {"loss": value, "kl": kl}

    def validate(state: VAEState, batch: Batch) -> jax.Array:
        x, mask = rows(batch)
        mean, log_var = _split(forward(encoder, state.encoder, x))
        total, _ = terms(x, forward(decoder, state.decoder, mean), mean, log_var)
        return masked_mean(total, mask)

    return Stage("vae", init, step, num_steps, validate)


def build(config: Config, plan: Plan) -> Method:
    """Variational autoencoder from its configuration."""
    encoder, decoder = dense_pair(config, plan.num_features, code_width=2 * config.latent)
    tx = adam_l2(config.learning_rate, config.weight_decay)
    latent = {"sigma": config.sigma, "beta": config.beta, "samples": config.samples}
    return vae(encoder, decoder, tx=tx, num_steps=plan.num_steps, **latent)

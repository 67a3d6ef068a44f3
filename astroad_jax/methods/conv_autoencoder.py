"""Convolutional autoencoder for images: strange is what cannot be rebuilt, by several statistics of the residual.

The residual autoencoder of Storey-Fisher et al. 2021 (AD-HSC), with the statistics that "Anomaly detection in galaxy images"
(section 1.2.1) names. There the residuals are those of a generator, or of a fit; here of the autoencoder itself. Which of
those of r = x - G(E(x)) is the score is the user's choice:

- ``mse``: mean of squares;
- ``mad``: median of |r - median(r)|, which a few bright pixels do not move;
- ``skewness``: third central moment over the standard deviation's cube, positive where flux is missing from the
  reconstruction. The text finds high and low ones odd, so the score is its size;
- ``maximum``: largest |r|, which one compact source decides (the text's is the brightest pixel's).

All four are in every catalogue; `Config.statistic` says which is ``score``.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from pydantic import Field, PositiveInt

from astroad_jax.config import Frozen
from astroad_jax.methods import autoencoder
from astroad_jax.methods.losses import adam_l2
from astroad_jax.methods.wgan_gp import image_levels
from astroad_jax.nets.conv2d import Encoder, Generator
from astroad_jax.types import Example, Key, Method, Plan, Scores, State, Term

Statistic = Literal["mse", "mad", "skewness", "maximum"]


class Config(Frozen):
    """Sizes and training."""

    TUNABLE: ClassVar[tuple[str, ...]] = ("statistic", "learning_rate", "weight_decay")
    name: Literal["conv_autoencoder"] = "conv_autoencoder"
    latent: PositiveInt = Field(64, description="width of the code")
    width: PositiveInt = Field(16, description="channels at half the image's side; they double at every size below")
    most: PositiveInt = Field(256, description="channels at most")
    norm: bool = Field(True, description="batch normalisation")
    statistic: Statistic = Field("mse", description="of the residual image: what is the score")
    learning_rate: float = Field(1e-3, gt=0, description="of Adam")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty, in the gradient that Adam sees")
    compute: Literal["float32", "bfloat16"] = Field("float32", description="of the convolutions")


def residual_statistics(residual: jax.Array) -> Scores:
    """Statistics of one residual, of any shape; one that is constant but for rounding has skewness 0."""
    r = residual.reshape(-1)
    centred = r - jnp.mean(r)
    variance = jnp.mean(centred**2)
    constant = variance <= 1e-10 * jnp.mean(r**2)
    standard = centred * jax.lax.rsqrt(jnp.where(constant, 1.0, variance))
    return {
        "mse": jnp.mean(r**2),
        "mad": jnp.median(jnp.abs(r - jnp.median(r))),
        "skewness": jnp.where(constant, 0.0, jnp.mean(standard**3)),
        "maximum": jnp.max(jnp.abs(r)),
    }


def conv_autoencoder(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    tx: optax.GradientTransformation,
    num_steps: int,
    statistic: Statistic = "mse",
) -> Method:
    """Autoencoder whose score is one of `residual_statistics`; the others are components beside it.

    Parameters
    ----------
    encoder, decoder : flax.linen.Module
        ``(B, H, W, C) -> (B, L)`` and ``(B, L) -> (B, H, W, C)``.
    """
    plain = autoencoder.autoencoder(encoder, decoder, tx=tx, num_steps=num_steps)

    def score(key: Key, state: State, example: Example) -> Scores:
        found = residual_statistics(example["x"] - plain.reconstruct(key, state, example))
        return {"score": jnp.abs(found[statistic]), **found}

    def terms(key: Key, state: State, example: Example, typical: jax.Array) -> tuple[Term, ...]:
        rebuilt = plain.reconstruct(key, state, example)
        # The skewness of a residual does not change with its size, so on the way from the reconstruction it never moves.
        start = typical if statistic == "skewness" else rebuilt
        return (Term(lambda x: jnp.abs(residual_statistics(x - rebuilt)[statistic]), start),)

    return plain._replace(score=score, terms=terms)


def build(config: Config, plan: Plan) -> Method:
    """Convolutional autoencoder from its configuration."""
    k = image_levels(plan.shape)
    common = {"norm": "batch" if config.norm else "none", "dtype": jnp.dtype(config.compute)}
    widths = tuple(min(config.width << i, config.most) for i in range(k))
    encoder = Encoder(config.latent, widths, **common)
    decoder = Generator(plan.shape[-1], widths[::-1], last="up", **common)
    tx = adam_l2(config.learning_rate, config.weight_decay)
    return conv_autoencoder(encoder, decoder, tx=tx, num_steps=plan.num_steps, statistic=config.statistic)

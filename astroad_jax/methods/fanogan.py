"""f-AnoGAN: a WGAN-GP, and an encoder that finds an image's place in its latent space in one pass.

Schlegl et al. 2019, "f-AnoGAN" (Medical Image Analysis 54, 30), as used on Galaxy10 DECaLS in "Anomaly detection in galaxy
images" (section 3.2, whose symbols are used here). Two stages: the GAN (`wgan_gp.train_stage`), then the encoder alone with
both networks fixed, on

    L_izi_f(x) = |x - G(E(x))|^2 / n + kappa |f(x) - f(G(E(x)))|^2 / n_d,

n pixels and n_d features f, the output of the critic's last convolution. The score is the same two terms. Choices:

- kappa = 1 and a tanh after the encoder: the text has neither, both published codes have both. ``code="none"`` lets E(x)
  leave [-1, 1], as the z that the generator was trained on do.
- Networks are those of `wgan_gp` and an encoder like the critic's trunk, not the codes' (one of which has dropout, and 0.8
  for epsilon in its batch normalisation). Adam (2e-4, 0.5, 0.999) is the text's; five critic steps a generator step, the
  codes'.
- The text's 150 epochs of GAN and 100 of encoder are kept as a ratio: `Config.encoder_epochs` sets another.
- ``search="latent"`` goes on from E(x) by the `latent_search` of Margalef-Bentabol et al. 2020; the score is then theirs.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from pydantic import Field, PositiveInt

from astroad_jax.methods import latent_search, wgan_gp
from astroad_jax.methods.latent_search import Pair, Trained
from astroad_jax.methods.losses import descend, masked_mean, mean_squares, rows
from astroad_jax.methods.variety import one_for_all, variety
from astroad_jax.nets import Variables
from astroad_jax.nets.conv2d import Encoder
from astroad_jax.types import Batch, Example, Key, Method, Metrics, Plan, Scores, Search, Stage, State, Term


class FAnoGANState(NamedTuple):
    """Generator and critic, fixed, and the encoder with its optimiser."""

    gan: Trained
    encoder: Variables
    opt: optax.OptState


class Config(wgan_gp.Training, latent_search.Config):
    """Both stages' hyper-parameters, and those of a search that starts from the encoder."""

    TUNABLE = (*wgan_gp.Config.TUNABLE, "kappa", "encoder_epochs")
    name: Literal["fanogan"] = "fanogan"
    n_critic: PositiveInt = 5
    kappa: float = Field(1.0, ge=0, description="weight of the features in loss and score")
    code: Literal["tanh", "none"] = Field(
        "tanh", description="last activation of the encoder: published tanh, or none, which reaches all of z"
    )
    encoder_epochs: int | None = Field(None, ge=1, description="none: two thirds of the GAN's")
    learning_rate: float = Field(2e-4, gt=0)
    beta2: float = Field(0.999, ge=0, lt=1)
    search: Literal["none", "latent"] = Field(
        "none", description="none: the published score in one pass; latent: a search from the encoder's guess"
    )
    iterations: PositiveInt = 50


class Residuals(NamedTuple):
    """A_R and A_D, and the image they are of."""

    image: jax.Array  # (B,)
    feature: jax.Array  # (B,)
    rebuilt: jax.Array  # (B, H, W, C)


def residuals(pair: Pair, gan: Trained, x: jax.Array, z: jax.Array) -> Residuals:
    """How far the images of z ``(B, latent)`` are from x ``(B, H, W, C)``, in pixels and in features."""
    return apart(pair, gan, x, pair.generator.apply(gan.generator, z))


def apart(pair: Pair, gan: Trained, x: jax.Array, rebuilt: jax.Array) -> Residuals:
    """The same of images that are made already."""
    f = lambda images: pair.critic.apply(gan.critic, images, method="features")  # noqa: E731
    return Residuals(mean_squares(x, rebuilt), mean_squares(f(x), f(rebuilt)), rebuilt)


def encoder_stage(
    pair: Pair, encoder: nn.Module, *, tx: optax.GradientTransformation, num_steps: int, kappa: float = 1.0
) -> Stage:
    """Train the encoder on L_izi_f; generator and critic stay as the stage before left them.

    Metrics: ``loss``, L_izi_f; its parts ``residual`` and ``feature``; ``variety``, the spread of rebuilt images over that
    of real ones (near 0 every image is rebuilt as the same one).
    """

    def init(key: Key, batch: Batch, previous: wgan_gp.WGANState) -> FAnoGANState:
        x, _ = rows(batch)
        variables = encoder.init(key, x[:1])
        return FAnoGANState(wgan_gp.trained(previous), variables, tx.init(variables["params"]))

    def step(key: Key, state: FAnoGANState, batch: Batch) -> tuple[FAnoGANState, Metrics]:
        del key
        x, mask = rows(batch)

        def loss(params: Variables) -> tuple[jax.Array, Metrics]:
            found = residuals(pair, state.gan, x, encoder.apply({"params": params}, x))
            image, feature = masked_mean(found.image, mask), masked_mean(found.feature, mask)
            parts = {"residual": image, "feature": feature, "variety": variety(found.rebuilt, x, mask)}
            return image + kappa * feature, parts

        (value, parts), gradient = jax.value_and_grad(loss, has_aux=True)(state.encoder["params"])
        params, opt = descend(tx, gradient, state.opt, state.encoder["params"])
        return FAnoGANState(state.gan, {"params": params}, opt), {"loss": value, **parts}

    return Stage("encoder", init, step, num_steps, watch=one_for_all)


def fanogan(
    pair: Pair, encoder: nn.Module, stages: tuple[Stage, Stage], *, kappa: float = 1.0, search: Search | None = None
) -> Method:
    """f-AnoGAN.

    Parameters
    ----------
    stages : tuple of Stage
        `wgan_gp.train_stage` and `encoder_stage`.
    search : Search, optional
        Instead of the one-pass score.

    Returns
    -------
    Method
        ``score`` is A_R + kappa A_D, with ``residual`` A_R and ``feature`` A_D; ``embed`` gives E(x), ``reconstruct``
        G(E(x)).
    """

    def embed(state: FAnoGANState, example: Example) -> jax.Array:
        return encoder.apply(state.encoder, example["x"][None])[0]

    def found(state: FAnoGANState, example: Example) -> Residuals:
        return residuals(pair, state.gan, example["x"][None], embed(state, example)[None])

    def score(key: Key, state: FAnoGANState, example: Example) -> Scores:
        del key
        image, feature, _ = found(state, example)
        return {"score": (image + kappa * feature)[0], "residual": image[0], "feature": feature[0]}

    def reconstruct(key: Key, state: FAnoGANState, example: Example) -> jax.Array:
        del key
        return found(state, example).rebuilt[0]

    def terms(key: Key, state: FAnoGANState, example: Example, typical: jax.Array) -> tuple[Term, ...]:
        del typical
        rebuilt = reconstruct(key, state, example)

        def value(x: jax.Array) -> jax.Array:
            image, feature, _ = apart(pair, state.gan, x[None], rebuilt[None])
            return (image + kappa * feature)[0]

        return (Term(value, rebuilt),)

    if search is not None:
        return Method(stages, search, embed)
    return Method(stages, score, embed, reconstruct, terms)


def _search(pair: Pair, encoder: nn.Module, config: Config) -> Search:
    """The latent search from the encoder's guess."""

    def start(state: State, x: jax.Array) -> jax.Array:
        return encoder.apply(state.encoder, x[None])[0]

    return latent_search.latent_search(pair, lambda state: state.gan, config, start)


def build(config: Config, plan: Plan) -> Method:
    """f-AnoGAN from its configuration."""
    pair = wgan_gp.networks(config, plan.shape)
    gan = wgan_gp.configured_stage(pair, config, plan)
    steps = 2 * plan.num_steps // 3 if config.encoder_epochs is None else config.encoder_epochs * plan.steps_per_epoch
    trunk = pair.critic
    encoder = Encoder(config.latent, trunk.widths, trunk.last, output=config.code, dtype=jnp.dtype(config.compute))
    izi = encoder_stage(pair, encoder, tx=wgan_gp.adam(config), num_steps=max(1, steps), kappa=config.kappa)
    search = None if config.search == "none" else _search(pair, encoder, config)
    return fanogan(pair, encoder, (gan, izi), kappa=config.kappa, search=search)

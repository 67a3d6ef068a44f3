"""WGAN-GP with a latent search: strange is what the generator cannot make.

Margalef-Bentabol et al. 2020, "Detecting outliers in astronomical images with deep generative networks" (MNRAS 496, 2346).
Equation numbers are the paper's; training is Algorithm 1 (Gulrajani et al. 2017). Choices where the paper is silent:

- The gradient penalty enters the critic's loss with the sign of Algorithm 1 (eq. 4 is written for the other direction).
- z is standard normal. Networks are those of `nets.conv2d` without normalisation; widths are options.
- `blur` is not the paper's: a generator that averages neighbouring pixels (`nets.conv2d.blurred`), off by default.
- The search is `latent_search`'s, where its own choices are.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from pydantic import Field, PositiveInt

from astroad_jax.config import Frozen
from astroad_jax.errors import ConfigError
from astroad_jax.methods import latent_search
from astroad_jax.methods.latent_search import Pair, Trained, features
from astroad_jax.methods.losses import descend, masked_mean, rows
from astroad_jax.methods.variety import BEGINNING, collapsed, variety
from astroad_jax.nets import Variables
from astroad_jax.nets.conv2d import Critic, Generator, levels
from astroad_jax.types import Batch, Example, Key, Method, Metrics, Plan, Search, Stage, State


class WGANState(NamedTuple):
    """Both networks, their optimisers, and the generator's moving average."""

    generator: Variables
    critic: Variables
    average: Variables  # what scoring uses
    generator_opt: optax.OptState
    critic_opt: optax.OptState
    step: jax.Array  # () int32


class Networks(Frozen):
    """Sizes of generator and critic."""

    latent: PositiveInt = Field(100, description="width of z")
    width: PositiveInt = Field(32, description="channels at half the image's side; they double at every size below")
    most: PositiveInt = Field(512, description="channels at most")
    critic_dense: PositiveInt = Field(128, description="width of the critic's dense layer")
    blur: bool = Field(False, description="average neighbouring pixels after every up-convolution: images without grain")
    compute: Literal["float32", "bfloat16"] = Field("float32", description="of the convolutions")


class Training(Networks):
    """How they are trained: section 3.4's hyper-parameters."""

    TUNABLE: ClassVar[tuple[str, ...]] = ("n_critic", "penalty", "learning_rate", "beta1", "beta2", "average")
    n_critic: PositiveInt = Field(10, description="steps of the critic to one of the generator")
    penalty: float = Field(10.0, ge=0, description="lambda, the weight of the gradient penalty")
    learning_rate: float = Field(5e-5, gt=0, description="of Adam")
    beta1: float = Field(0.5, ge=0, lt=1, description="of Adam")
    beta2: float = Field(0.9, ge=0, lt=1, description="of Adam")
    average: float = Field(0.0, ge=0, lt=1, description="decay of the generator's moving average; 0 keeps none")


class Config(Training, latent_search.Config):
    """All hyper-parameters: those of section 3.5 too."""

    TUNABLE = (*Training.TUNABLE, *latent_search.Config.TUNABLE)
    name: Literal["wgan_gp"] = "wgan_gp"


def train_stage(
    pair: Pair,
    *,
    generator_tx: optax.GradientTransformation,
    critic_tx: optax.GradientTransformation,
    num_steps: int,
    n_critic: int = 10,
    penalty: float = 10.0,
    average: float = 0.0,
) -> Stage:
    """Algorithm 1: every step moves the critic (eq. 4) on a batch, every `n_critic`-th the generator (eq. 5) as well.

    Metrics: ``loss``, the critic's; ``wasserstein``, its estimate of eq. 3; ``slope``, the mean norm of its gradient;
    ``variety``, the spread of generated images over that of real ones (near 0 the generator makes one image: collapse).
    """

    def init(key: Key, batch: Batch, previous: State | None) -> WGANState:
        del previous
        x, _ = rows(batch)
        key_g, key_c = jax.random.split(key)
        generator = pair.generator.init(key_g, jnp.zeros((1, pair.latent)))
        critic = pair.critic.init(key_c, x[:1])
        opts = generator_tx.init(generator["params"]), critic_tx.init(critic["params"])
        return WGANState(generator, critic, generator, *opts, jnp.zeros((), jnp.int32))

    def step(key: Key, state: WGANState, batch: Batch) -> tuple[WGANState, Metrics]:
        x, mask = rows(batch)
        key_z, key_mix, key_g = jax.random.split(key, 3)
        fake = pair.generator.apply(state.generator, jax.random.normal(key_z, (x.shape[0], pair.latent)))
        loss = jax.value_and_grad(partial(critic_loss, pair.critic, penalty), has_aux=True)
        mix = jax.random.uniform(key_mix, (x.shape[0], *(1,) * (x.ndim - 1)))
        (value, aux), gradient = loss(state.critic["params"], x, fake, mix, mask)
        params, opt = descend(critic_tx, gradient, state.critic_opt, state.critic["params"])
        state = state._replace(critic={"params": params}, critic_opt=opt, step=state.step + 1)
        due = state.step % n_critic == 0
        state = jax.lax.cond(due, partial(move_generator, key_g, x.shape[0]), lambda state: state, state)
        return state, {"loss": value, **aux, "variety": variety(fake, x, mask)}

    def move_generator(key: Key, count: int, state: WGANState) -> WGANState:
        def loss(params):
            fake = pair.generator.apply({"params": params}, jax.random.normal(key, (count, pair.latent)))
            return -jnp.mean(pair.critic.apply(state.critic, fake))

        gradient = jax.grad(loss)(state.generator["params"])
        params, opt = descend(generator_tx, gradient, state.generator_opt, state.generator["params"])
        # An average that starts from nothing: over few moves its decay is what these few can carry.
        moves = (state.step // n_critic).astype(jnp.float32)
        decay = jnp.minimum(average, (moves - 1) / (moves + 9))
        kept = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.average["params"], params)
        return state._replace(generator={"params": params}, generator_opt=opt, average={"params": kept})

    return Stage("wgan", init, step, num_steps, watch=partial(collapsed, begun=BEGINNING * n_critic))


def critic_loss(
    critic: nn.Module, penalty: float, params, x: jax.Array, fake: jax.Array, mix: jax.Array, mask: jax.Array
) -> tuple[jax.Array, Metrics]:
    """Eq. 4, to be minimised: fake less real, and how far the gradient's norm is from 1 between them."""
    value = lambda images: critic.apply({"params": params}, images)  # noqa: E731
    slope = jax.grad(lambda images: jnp.sum(value(images)))(mix * x + (1 - mix) * fake)
    # The square root has no slope at 0, where the critic starts on an image without contrast.
    norm = jnp.sqrt(jnp.sum(slope.reshape(slope.shape[0], -1) ** 2, axis=-1) + 1e-12)
    distance = masked_mean(value(x), mask) - masked_mean(value(fake), mask)
    loss = -distance + penalty * masked_mean((norm - 1.0) ** 2, mask)
    return loss, {"wasserstein": distance, "slope": masked_mean(norm, mask)}


def trained(state: WGANState) -> Trained:
    """What scoring uses: the average generator, and the critic."""
    return Trained(state.average, state.critic)


def wgan_gp(pair: Pair, train: Stage, search: Search) -> Method:
    """WGAN-GP scored by a latent search.

    Returns
    -------
    Method
        ``score`` is eq. 9 at the best iteration, with ``residual`` (eq. 7) and ``feature`` (eq. 8); ``embed`` gives the
        critic's features.
    """

    def embed(state: WGANState, example: Example) -> jax.Array:
        return features(pair, trained(state), example["x"])

    return Method((train,), search, embed)


def networks(config: Networks, shape: tuple[int, ...]) -> Pair:
    """Generator and critic for images ``(size, size, channels)``.

    Raises
    ------
    ConfigError
        Objects that are not square images of ``4 * 2^k`` pixels a side.
    """
    k = image_levels(shape)
    dtype = jnp.dtype(config.compute)
    widths = tuple(min(config.width << i, config.most) for i in range(k))
    last = min(config.width << k, config.most)
    generator = Generator(shape[-1], (last, *reversed(widths)), refine=(config.width,), blur=config.blur, dtype=dtype)
    critic = Critic(widths, last, (config.critic_dense,), dtype=dtype)
    return Pair(generator, critic, config.latent)


def image_levels(shape: tuple[int, ...]) -> int:
    """How often an image's side can be halved down to 4 pixels."""
    try:
        if len(shape) != 3 or shape[0] != shape[1]:
            raise ValueError(f"expected (size, size, channels), got {shape}")
        return levels(shape[0])
    except ValueError as error:
        raise ConfigError(
            "this method needs square images",
            where="method.name",
            expected="objects of shape (size, size, channels), size 8, 16, 32, 64, 128 or 256",
            got=shape,
            fix="crop or resize them, or choose a method for feature tables",
        ) from error


def adam(config: Training) -> optax.GradientTransformation:
    """The optimiser of a configuration."""
    return optax.adam(config.learning_rate, config.beta1, config.beta2)


def configured_stage(pair: Pair, config: Training, plan: Plan) -> Stage:
    """`train_stage` from a configuration.

    Raises
    ------
    ConfigError
        A training in which the generator would never move.
    """
    if plan.num_steps < config.n_critic:
        raise ConfigError(
            "the generator would never move",
            where="method.n_critic",
            expected=f"no more than the {plan.num_steps} steps of the training",
            got=config.n_critic,
            fix="train longer (train.epochs), or lower it",
        )
    options = {"n_critic": config.n_critic, "penalty": config.penalty, "average": config.average}
    return train_stage(pair, generator_tx=adam(config), critic_tx=adam(config), num_steps=plan.num_steps, **options)


def build(config: Config, plan: Plan) -> Method:
    """WGAN-GP from its configuration."""
    pair = networks(config, plan.shape)
    return wgan_gp(pair, configured_stage(pair, config, plan), latent_search.latent_search(pair, trained, config))

"""GANomaly: an adversarial autoencoder that encodes twice; strange is what the second code differs for.

Akcay, Atapour-Abarghouei & Breckon 2018 (ACCV), as used on Galaxy10 DECaLS in "Anomaly detection in galaxy images" (section
3.1, whose symbols are used here). The generator is an encoder G_E and a decoder, E a second encoder, D a discriminator with
features f (all of it but the last layer):

    L = w_adv |f(x) - f(G(x))|_2 + w_con |x - G(x)|_1 + w_enc |G_E(x) - E(G(x))|_2,    w = 1, 50, 1,

the score is |G_E(x) - E(G(x))|_1. Choices:

- The first term compares each image with its own reconstruction, as the authors' code does; as printed in the text it is
  compared with the mean over reconstructions.
- Norms in L are means over the entries (of squares for the two |.|_2), as in the authors' code, without which the weights
  1, 50, 1 would mean something else. The score is the sum; ``score="squares"`` is the code's mean of squares.
- Matching features (the authors' paper and code) is the default; ``adversarial="outputs"`` matches what the discriminator
  says, as anomalib's code does.
- D learns by binary cross-entropy, half real and half generated, after G in every step. The authors' code draws D anew
  where its loss falls below 1e-5: that is not done, `Stage.watch` reports it.
- Scores use running averages in batch normalisation and are never scaled over the set under test. The authors' code scores
  with batch averages, and scales: one object's score then depends on the others'.
- Networks are DCGAN's (4 x 4 kernels, widths doubling from `Config.width`, initialised with standard deviation 0.02); the
  4 x 4 convolution that ends an encoder is a dense layer on the 4 x 4 map, the same product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from pydantic import Field, PositiveInt

from astroad_jax.config import Frozen
from astroad_jax.methods.losses import descend, masked_mean, mean_squares, rows
from astroad_jax.methods.variety import one_for_all, variety
from astroad_jax.methods.wgan_gp import image_levels
from astroad_jax.nets import Variables, forward, forward_train
from astroad_jax.nets.conv2d import Critic, Encoder, Generator
from astroad_jax.types import Batch, Example, Key, Method, Metrics, Plan, Scores, Stage, State


class GANomalyState(NamedTuple):
    """Four networks and two optimisers."""

    encoder: Variables
    decoder: Variables
    again: Variables  # E, the second encoder
    critic: Variables
    generator_opt: optax.OptState
    critic_opt: optax.OptState


class Config(Frozen):
    """The authors' hyper-parameters."""

    TUNABLE: ClassVar[tuple[str, ...]] = (
        "adversarial_weight", "context_weight", "encoder_weight", "adversarial", "score", "learning_rate", "beta1", "beta2",
    )  # fmt: skip
    name: Literal["ganomaly"] = "ganomaly"
    latent: PositiveInt = Field(100, description="width of the code")
    width: PositiveInt = Field(64, description="channels at half the image's side; they double at every size below")
    most: PositiveInt = Field(2048, description="channels at most")
    adversarial_weight: float = Field(1.0, ge=0, description="of the feature-matching loss")
    context_weight: float = Field(50.0, ge=0, description="of the image loss")
    encoder_weight: float = Field(1.0, ge=0, description="of the code loss")
    adversarial: Literal["features", "outputs"] = Field(
        "features", description="what is matched: the discriminator's features, or its outputs"
    )
    score: Literal["sum", "squares"] = Field("sum", description="how differences of the codes add up: absolute or squared")
    learning_rate: float = Field(2e-4, gt=0, description="of Adam")
    beta1: float = Field(0.5, ge=0, lt=1, description="of Adam")
    beta2: float = Field(0.999, ge=0, lt=1, description="of Adam")
    compute: Literal["float32", "bfloat16"] = Field("float32", description="of the convolutions")


class Nets(NamedTuple):
    """The four networks."""

    encoder: nn.Module
    decoder: nn.Module
    again: nn.Module
    critic: Critic


class Weights(NamedTuple):
    """Of the three losses."""

    adversarial: float
    context: float
    encoder: float


PUBLISHED = Weights(1.0, 50.0, 1.0)
WON = 1e-5  # loss of the discriminator below which the authors' code draws it anew


class Pass(NamedTuple):
    """What the generator makes of a batch, and the networks' new variables."""

    code: jax.Array  # (B, latent)
    rebuilt: jax.Array  # (B, H, W, C)
    again: jax.Array  # (B, latent)
    variables: tuple[Variables, Variables, Variables]


def _through(nets: Nets, state: GANomalyState, params: tuple, x: jax.Array, mask: jax.Array) -> Pass:
    code, encoder = forward_train(nets.encoder, state.encoder, params[0], x, mask)
    rebuilt, decoder = forward_train(nets.decoder, state.decoder, params[1], code, mask)
    again, second = forward_train(nets.again, state.again, params[2], rebuilt, mask)
    return Pass(code, rebuilt, again, (encoder, decoder, second))


def _judged(nets: Nets, variables: Variables, params, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, ...]:
    """The discriminator's features and logits of a batch, and its new variables."""
    options = {"train": True, "mask": mask, "mutable": ["batch_stats"]}
    f, updated = nets.critic.apply({**variables, "params": params}, x, method="features", **options)
    return f, nets.critic.apply({"params": params}, f, method="judge"), {**variables, **updated}


def generator_loss(
    nets: Nets, weights: Weights, matched: str, state: GANomalyState, params: tuple, x: jax.Array, mask: jax.Array
) -> tuple[jax.Array, tuple[Metrics, Pass]]:
    """L of a batch, its three parts, and what came out."""
    out = _through(nets, state, params, x, mask)
    f_real, said_real, _ = _judged(nets, state.critic, state.critic["params"], x, mask)
    f_fake, said_fake, _ = _judged(nets, state.critic, state.critic["params"], out.rebuilt, mask)
    if matched == "outputs":
        f_real, f_fake = (nn.sigmoid(said)[:, None] for said in (said_real, said_fake))
    parts = {
        "adversarial": masked_mean(mean_squares(f_real, f_fake), mask),
        "context": masked_mean(jnp.mean(jnp.abs(x - out.rebuilt), axis=(1, 2, 3)), mask),
        "encoder": masked_mean(mean_squares(out.code, out.again), mask),
    }
    total = sum(weight * part for weight, part in zip(weights, parts.values()))
    return total, (parts, out)


def critic_loss(
    nets: Nets, variables: Variables, params, x: jax.Array, fake: jax.Array, mask: jax.Array
) -> tuple[jax.Array, Variables]:
    """Binary cross-entropy, half on real images and half on rebuilt ones."""
    _, real, variables = _judged(nets, variables, params, x, mask)
    _, made, variables = _judged(nets, variables, params, fake, mask)
    entropy = optax.sigmoid_binary_cross_entropy
    return 0.5 * masked_mean(entropy(real, jnp.ones_like(real)) + entropy(made, jnp.zeros_like(made)), mask), variables


def train_stage(
    nets: Nets,
    *,
    generator_tx: optax.GradientTransformation,
    critic_tx: optax.GradientTransformation,
    num_steps: int,
    weights: Weights = PUBLISHED,
    matched: Literal["features", "outputs"] = "features",
) -> Stage:
    """Every step moves the generator's three networks on L, then the discriminator.

    Metrics: ``loss``, L; its parts ``adversarial``, ``context`` and ``encoder``; ``critic``, the discriminator's loss;
    ``variety``, the spread of rebuilt images over that of real ones (near 0 every image is rebuilt as the same one).
    """

    def init(key: Key, batch: Batch, previous: State | None) -> GANomalyState:
        del previous
        x = batch["x"][:1]
        keys = jax.random.split(key, 4)
        code, encoder = nets.encoder.init_with_output(keys[0], x)
        decoder, again, critic = (net.init(k, given) for net, k, given in zip(nets[1:], keys[1:], (code, x, x), strict=True))
        params = tuple(variables["params"] for variables in (encoder, decoder, again))
        return GANomalyState(encoder, decoder, again, critic, generator_tx.init(params), critic_tx.init(critic["params"]))

    def step(key: Key, state: GANomalyState, batch: Batch) -> tuple[GANomalyState, Metrics]:
        del key
        x, mask = rows(batch)
        params = tuple(variables["params"] for variables in state[:3])
        loss = lambda params: generator_loss(nets, weights, matched, state, params, x, mask)  # noqa: E731
        (value, (parts, out)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        params, opt = descend(generator_tx, gradient, state.generator_opt, params)
        generator = [{**new, "params": p} for new, p in zip(out.variables, params)]
        loss = lambda params: critic_loss(nets, state.critic, params, x, out.rebuilt, mask)  # noqa: E731
        (judged, critic), gradient = jax.value_and_grad(loss, has_aux=True)(state.critic["params"])
        params, critic_opt = descend(critic_tx, gradient, state.critic_opt, state.critic["params"])
        state = GANomalyState(*generator, {**critic, "params": params}, opt, critic_opt)
        return state, {"loss": value, **parts, "critic": judged, "variety": variety(out.rebuilt, x, mask)}

    return Stage("ganomaly", init, step, num_steps, watch=lambda rows: overcome(rows) or one_for_all(rows))


def overcome(rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether the discriminator has won outright, and teaches the generator nothing more."""
    if rows[-1]["critic"] >= WON:
        return ""
    return "the discriminator tells every rebuilt image: a lower learning rate, or fewer epochs, may help"


def ganomaly(nets: Nets, train: Stage, *, score_by: Literal["sum", "squares"] = "sum") -> Method:
    """GANomaly.

    Returns
    -------
    Method
        ``score`` is |G_E(x) - E(G(x))|_1 (or the mean of squares), with ``context``, the mean |x - G(x)|; ``embed`` gives
        G_E(x), ``reconstruct`` G(x).
    """

    def embed(state: GANomalyState, example: Example) -> jax.Array:
        return forward(nets.encoder, state.encoder, example["x"][None])[0]

    def reconstruct(key: Key, state: GANomalyState, example: Example) -> jax.Array:
        del key
        return forward(nets.decoder, state.decoder, embed(state, example)[None])[0]

    def score(key: Key, state: GANomalyState, example: Example) -> Scores:
        rebuilt = reconstruct(key, state, example)
        apart = embed(state, example) - forward(nets.again, state.again, rebuilt[None])[0]
        value = jnp.sum(jnp.abs(apart)) if score_by == "sum" else jnp.mean(apart**2)
        return {"score": value, "context": jnp.mean(jnp.abs(example["x"] - rebuilt))}

    return Method((train,), score, embed, reconstruct)


def networks(config: Config, shape: tuple[int, ...]) -> Nets:
    """DCGAN's networks for images ``(size, size, channels)``.

    Raises
    ------
    ConfigError
        Objects that are not square images of ``4 * 2^k`` pixels a side.
    """
    widths = tuple(min(config.width << i, config.most) for i in range(image_levels(shape)))
    common = {"norm": "batch", "weights": "dcgan", "dtype": jnp.dtype(config.compute)}
    encoder, again = (Encoder(config.latent, widths, **common) for _ in range(2))
    decoder = Generator(shape[-1], widths[::-1], last="up", activation="relu", **common)
    return Nets(encoder, decoder, again, Critic(widths, dense=(), **common))


def build(config: Config, plan: Plan) -> Method:
    """GANomaly from its configuration."""
    nets = networks(config, plan.shape)
    adam = optax.adam(config.learning_rate, config.beta1, config.beta2)
    train = train_stage(
        nets,
        generator_tx=adam,
        critic_tx=adam,
        num_steps=plan.num_steps,
        weights=Weights(config.adversarial_weight, config.context_weight, config.encoder_weight),
        matched=config.adversarial,
    )
    return ganomaly(nets, train, score_by=config.score)

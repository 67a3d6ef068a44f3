"""Autoencoder: strange is what cannot be rebuilt from a narrow code.

Rumelhart & McClelland (1987); as a baseline in Perez-Carrasco et al. 2023 (MCDSVDD), appendix I, and in Hojjati &
Armanfard 2024 (DASVDD), section 4.2.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import optax
from pydantic import Field, PositiveInt

from astroad_jax.config import Frozen
from astroad_jax.methods.losses import adam_l2, descend, masked_mean, mean_squares, rows
from astroad_jax.nets import Variables, forward, forward_train
from astroad_jax.nets.dense import MLP, Init
from astroad_jax.types import Batch, Example, Key, Method, Metrics, Plan, Scores, Stage, State, Term


class AutoencoderState(NamedTuple):
    """Two networks and the optimiser they share."""

    encoder: Variables
    decoder: Variables
    opt: optax.OptState


class Dense(Frozen):
    """Hyper-parameters of a dense encoder-decoder pair; the decoder mirrors the encoder."""

    TUNABLE: ClassVar[tuple[str, ...]] = ("learning_rate", "weight_decay")
    hidden: tuple[PositiveInt, ...] = Field(
        (512, 256, 128), description="widths of the encoder between features and code; the decoder mirrors them"
    )
    latent: PositiveInt = Field(64, description="width of the code")
    activation: Literal["leaky_relu", "relu", "tanh"] = Field("leaky_relu", description="after every hidden layer")
    code: Literal["none", "leaky_relu"] = Field("none", description="activation of the code")
    output: Literal["none", "tanh", "sigmoid", "leaky_relu"] = Field(
        "tanh", description="activation of the rebuilt features"
    )
    norm: bool = Field(True, description="batch normalisation in hidden layers")
    code_bias: bool = Field(False, description="whether the code layer has a bias (a sphere may collapse onto one)")
    weights: Init = Field("small", description="initial weights: small as in MCDSVDD, torch as in PyTorch")
    learning_rate: float = Field(1e-3, gt=0, description="of Adam")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty, in the gradient that Adam sees")


class Config(Dense):
    """The autoencoder of MCDSVDD's appendix I.

    The paper lists hidden layers {512, 256, 128, 64}; its code has three and the code layer, whose width is the 64
    (32 for transients). Batch normalisation and leaky ReLU between layers, tanh at the end, as both say.
    """

    name: Literal["autoencoder"] = "autoencoder"


def dense_pair(config: Dense, num_features: int, code_width: int | None = None, dropout: float = 0.0) -> tuple[MLP, MLP]:
    """Encoder and mirrored decoder; `code_width` where the encoder's output is wider than the code (a VAE's is)."""
    inner = {"activation": config.activation, "norm": config.norm, "weights": config.weights, "dropout": dropout}
    encoder = MLP((*config.hidden, code_width or config.latent), last=config.code, last_bias=config.code_bias, **inner)
    decoder = MLP((*reversed(config.hidden), num_features), last=config.output, **inner)
    return encoder, decoder


def stage(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    tx: optax.GradientTransformation,
    num_steps: int,
    name: str = "autoencoder",
) -> Stage:
    """Train encoder and decoder on the mean squared reconstruction error."""

    def init(key: Key, batch: Batch, previous: State | None) -> AutoencoderState:
        del previous
        x, _ = rows(batch)
        key_e, key_d = jax.random.split(key)
        encoded, enc = encoder.init_with_output(key_e, x)
        dec = decoder.init(key_d, encoded)
        return AutoencoderState(enc, dec, tx.init((enc["params"], dec["params"])))

    def step(key: Key, state: AutoencoderState, batch: Batch) -> tuple[AutoencoderState, Metrics]:
        del key
        x, mask = rows(batch)

        def loss(params):
            z, enc = forward_train(encoder, state.encoder, params[0], x, mask)
            y, dec = forward_train(decoder, state.decoder, params[1], z, mask)
            return masked_mean(mean_squares(x, y), mask), (enc, dec)

        params = (state.encoder["params"], state.decoder["params"])
        (value, (enc, dec)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        (new_e, new_d), opt = descend(tx, gradient, state.opt, params)
        return AutoencoderState({**enc, "params": new_e}, {**dec, "params": new_d}, opt), {"loss": value}

    def validate(state: AutoencoderState, batch: Batch) -> jax.Array:
        x, mask = rows(batch)
        y = forward(decoder, state.decoder, forward(encoder, state.encoder, x))
        return masked_mean(mean_squares(x, y), mask)

    return Stage(name, init, step, num_steps, validate)


def autoencoder(encoder: nn.Module, decoder: nn.Module, *, tx: optax.GradientTransformation, num_steps: int) -> Method:
    """Autoencoder with reconstruction error as the score.

    Parameters
    ----------
    encoder, decoder : flax.linen.Module
        ``(B, ...) -> (B, L)`` and ``(B, L) -> (B, features)``.
    tx : optax.GradientTransformation
        Optimiser of both.
    num_steps : int
        Updates.

    Returns
    -------
    Method
        ``score`` is the squared error averaged over features (paper 000: mean squared error).
    """

    def embed(state: AutoencoderState, example: Example) -> jax.Array:
        return forward(encoder, state.encoder, example["x"][None])[0]

    def reconstruct(key: Key, state: AutoencoderState, example: Example) -> jax.Array:
        del key
        return forward(decoder, state.decoder, embed(state, example)[None])[0].reshape(example["x"].shape)

    def score(key: Key, state: AutoencoderState, example: Example) -> Scores:
        rebuilt = reconstruct(key, state, example)
        return {"score": mean_squares(example["x"][None], rebuilt[None])[0]}

    def terms(key: Key, state: State, example: Example, typical: jax.Array) -> tuple[Term, ...]:
        del typical
        rebuilt = reconstruct(key, state, example)
        return (Term(lambda x: mean_squares(x[None], rebuilt[None])[0], rebuilt),)

    return Method((stage(encoder, decoder, tx=tx, num_steps=num_steps),), score, embed, reconstruct, terms)


def build(config: Config, plan: Plan) -> Method:
    """Autoencoder from its configuration."""
    encoder, decoder = dense_pair(config, plan.num_features)
    tx = adam_l2(config.learning_rate, config.weight_decay)
    return autoencoder(encoder, decoder, tx=tx, num_steps=plan.num_steps)

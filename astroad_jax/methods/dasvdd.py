"""DASVDD: an autoencoder and the hypersphere around its codes, trained together.

Hojjati & Armanfard 2024, "DASVDD: Deep Autoencoding Support Vector Data Descriptor for Anomaly Detection". Equation
numbers are the paper's. Deviations and choices where it is silent, each with its option:

- Squared errors are averaged over the features, not summed. With gamma by eq. 6 the two differ by that constant factor
  only; the gammas the paper quotes (0.75 for MNIST) are those of the average. ``error="sum"`` is eq. 2 to the letter.
- ``gamma_rule="mean_of_ratios"`` is eq. 6; ``"ratio_of_means"`` is the authors' code: mean error over mean |z|^2.
- Networks: the paper names one hidden layer of 1,024 units for MNIST; its code, and its gammas, have 1024-256-256 with
  a leaky ReLU after the code as well. The defaults are the latter; `Config.hidden` and `Config.latent` set the former.
- ``weight_decay`` adds half the squared norm of all weights and biases, as PyTorch's does; the paper writes the norm of the
  weights, its code has none.
- ``fixed_centre`` is the mean code of the first batch; the paper follows Deep SVDD, whose centre is that of all rows.
- ``loop="published"`` repeats the authors' 2021 loop, from which the published figures come: the hypersphere term sees
  only the first row of each batch, and the centre's gradient is never cleared, so that it accumulates over the run
  together with that term's own. Its gamma, whose radius was the first row's too, is not repeated: set ``gamma``. The
  default follows Algorithm 1.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from pydantic import Field, PositiveInt

from astroad_jax.methods.autoencoder import Dense, dense_pair
from astroad_jax.methods.losses import adam_l2, descend, masked_mean, mean_squares, rows, squared_distance
from astroad_jax.nets import Variables, forward, forward_train
from astroad_jax.nets.dense import Init
from astroad_jax.types import Batch, Example, Key, Method, Metrics, Plan, Scores, Stage, State, Term

GammaRule = Literal["mean_of_ratios", "ratio_of_means"]
Loop = Literal["paper", "published"]


class GammaState(NamedTuple):
    """Random networks and what they have shown so far."""

    encoder: Variables
    decoder: Variables
    error: jax.Array  # (T,) sums over the rows seen by each network
    radius: jax.Array  # (T,)
    ratio: jax.Array  # (T,)
    count: jax.Array  # (T,)
    step: jax.Array  # () int32


class DASVDDState(NamedTuple):
    """Networks, centre, their optimisers, and the weight of the hypersphere term."""

    encoder: Variables
    decoder: Variables
    centre: jax.Array  # (L,)
    gamma: jax.Array  # ()
    opt: optax.OptState
    centre_opt: optax.OptState
    centre_gradient: jax.Array  # (L,), what the published loop forgets to clear


class Config(Dense):
    """Section 4.3's hyper-parameters."""

    TUNABLE = (*Dense.TUNABLE, "kappa", "centre_learning_rate", "centre_decay")
    name: Literal["dasvdd"] = "dasvdd"
    hidden: tuple[PositiveInt, ...] = (1024, 256)
    latent: PositiveInt = 256
    code: Literal["none", "leaky_relu"] = "leaky_relu"
    output: Literal["none", "tanh", "sigmoid", "leaky_relu"] = "none"
    norm: bool = False
    code_bias: bool = True
    weights: Init = "torch"
    weight_decay: float = Field(1e-7, ge=0)
    kappa: float = Field(
        0.9, gt=0, le=1, description="part of each batch that moves the networks; the rest moves the centre"
    )
    gamma: float | None = Field(None, ge=0, description="weight of the distance to the centre; none: found by eq. 6")
    gamma_runs: int = Field(10, ge=1, description="random networks that gamma is averaged over (T of eq. 6)")
    gamma_rule: GammaRule = Field("mean_of_ratios", description="how it is averaged")
    centre_learning_rate: float = Field(1.0, gt=0, description="of AdaGrad for the centre")
    centre_decay: float = Field(0.1, ge=0, description="decay of AdaGrad's learning rate")
    fixed_centre: bool = Field(False, description="leave the centre where it starts")
    error: Literal["mean", "sum"] = Field("mean", description="of reconstruction: mean or sum over features")
    loop: Loop = Field("paper", description="the algorithm as printed, or as the published code runs it")


def centre_optimiser(learning_rate: float, decay: float) -> optax.GradientTransformation:
    """AdaGrad whose rate falls as ``learning_rate / (1 + decay * step)`` (section 4.3; the code's decay is 0.01)."""
    schedule = lambda step: -learning_rate / (1.0 + decay * step)  # noqa: E731
    return optax.chain(optax.scale_by_rss(initial_accumulator_value=0.0, eps=1e-20), optax.scale_by_schedule(schedule))


def gamma_stage(
    encoder: nn.Module, decoder: nn.Module, *, runs: int, steps_per_pass: int, error_scale: float = 1.0
) -> Stage:
    """Ratios of reconstruction error to squared code length over `runs` random networks: the sums of eq. 6.

    One plain pass over the data per network, the centre at 0.
    """

    def networks(key: Key, x: jax.Array) -> tuple[Variables, Variables]:
        key_e, key_d = jax.random.split(key)
        z, enc = encoder.init_with_output(key_e, x)
        return enc, decoder.init(key_d, z)

    def init(key: Key, batch: Batch, previous: State | None) -> GammaState:
        del previous
        enc, dec = networks(key, rows(batch)[0])
        zeros = jnp.zeros(runs)
        return GammaState(enc, dec, zeros, zeros, zeros, zeros, jnp.zeros((), jnp.int32))

    def step(key: Key, state: GammaState, batch: Batch) -> tuple[GammaState, Metrics]:
        x, mask = rows(batch)
        run, position = state.step // steps_per_pass, state.step % steps_per_pass
        fresh = (position == 0) & (state.step > 0)
        kept = (state.encoder, state.decoder)
        enc, dec = jax.lax.cond(fresh, lambda: networks(key, x), lambda: kept)
        z = forward(encoder, enc, x)
        error = error_scale * mean_squares(x, forward(decoder, dec, z))
        radius = squared_distance(z, 0.0)
        ratio = error / jnp.maximum(radius, jnp.finfo(radius.dtype).tiny)
        sums = [a.at[run].add(jnp.sum(v * mask)) for a, v in zip(state[2:5], (error, radius, ratio))]
        count = state.count.at[run].add(mask.sum())
        metrics = {"ratio": masked_mean(ratio, mask)}
        return GammaState(enc, dec, *sums, count, state.step + 1), metrics

    return Stage("gamma", init, step, runs * steps_per_pass, plain=True)


def gamma_from(state: GammaState, rule: GammaRule) -> jax.Array:
    """Eq. 6 (mean of ratios), or the authors' ratio of means, averaged over the random networks that saw rows."""
    seen = state.count > 0
    top, bottom = (state.error, state.radius) if rule == "ratio_of_means" else (state.ratio, state.count)
    each = jnp.where(seen, top / jnp.where(seen, bottom, 1.0), 0.0)
    return jnp.sum(each) / jnp.maximum(jnp.sum(seen), 1)


class Joint(NamedTuple):
    """What Algorithm 1 needs to know; see `dasvdd` for the fields."""

    encoder: nn.Module
    decoder: nn.Module
    tx: optax.GradientTransformation
    centre_tx: optax.GradientTransformation
    kappa: float = 0.9
    gamma: float | None = None
    gamma_rule: GammaRule = "mean_of_ratios"
    fixed_centre: bool = False
    error_scale: float = 1.0
    loop: Loop = "paper"


def joint_stage(joint: Joint, num_steps: int) -> Stage:
    """Algorithm 1: the networks learn from the first part of each batch, the centre from the rest."""

    def init(key: Key, batch: Batch, previous: GammaState | None) -> DASVDDState:
        x, mask = rows(batch)
        key_e, key_d, key_c = jax.random.split(key, 3)
        z, enc = joint.encoder.init_with_output(key_e, x)
        dec = joint.decoder.init(key_d, z)
        gamma = jnp.float32(joint.gamma) if joint.gamma is not None else gamma_from(previous, joint.gamma_rule)
        centre = _mean_code(z, mask) if joint.fixed_centre else jax.random.normal(key_c, z.shape[1:])
        opt = joint.tx.init((enc["params"], dec["params"]))
        return DASVDDState(enc, dec, centre, gamma, opt, joint.centre_tx.init(centre), jnp.zeros_like(centre))

    def step(key: Key, state: DASVDDState, batch: Batch) -> tuple[DASVDDState, Metrics]:
        del key
        x, mask = rows(batch)
        cut = math.ceil(joint.kappa * x.shape[0])
        state, metrics, leaked = _move_networks(joint, state, x[:cut], mask[:cut])
        if not joint.fixed_centre and cut < x.shape[0]:
            state = _move_centre(joint, state, x[cut:], mask[cut:], leaked)
        return state, metrics

    def validate(state: DASVDDState, batch: Batch) -> jax.Array:
        x, mask = rows(batch)
        z = forward(joint.encoder, state.encoder, x)
        error = joint.error_scale * mean_squares(x, forward(joint.decoder, state.decoder, z))
        return masked_mean(error + state.gamma * squared_distance(z, state.centre), mask)

    return Stage("joint", init, step, num_steps, validate)


def _mean_code(z: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.sum(z * mask[:, None], 0) / jnp.maximum(mask.sum(), 1.0)


def _network_loss(params, centre: jax.Array, joint: Joint, state: DASVDDState, x: jax.Array, mask: jax.Array):
    """Eq. 3 on the rows of the networks' part."""
    z, enc = forward_train(joint.encoder, state.encoder, params[0], x, mask)
    y, dec = forward_train(joint.decoder, state.decoder, params[1], z, mask)
    error = masked_mean(joint.error_scale * mean_squares(x, y), mask)
    distances = squared_distance(z, centre)
    radius = distances[0] if joint.loop == "published" else masked_mean(distances, mask)
    return error + state.gamma * radius, (enc, dec, error, radius)


def _move_networks(
    joint: Joint, state: DASVDDState, x: jax.Array, mask: jax.Array
) -> tuple[DASVDDState, Metrics, jax.Array]:
    """Line 4: one step of the networks, the centre held. Also the loss's gradient in the centre, which should go unused."""
    params = (state.encoder["params"], state.decoder["params"])
    loss = jax.value_and_grad(_network_loss, argnums=(0, 1), has_aux=True)
    (value, (enc, dec, error, radius)), (gradient, leaked) = loss(params, state.centre, joint, state, x, mask)
    (new_e, new_d), opt = descend(joint.tx, gradient, state.opt, params)
    state = state._replace(encoder={**enc, "params": new_e}, decoder={**dec, "params": new_d}, opt=opt)
    return state, {"loss": value, "reconstruction": error, "radius": radius}, leaked


def _move_centre(joint: Joint, state: DASVDDState, x: jax.Array, mask: jax.Array, leaked: jax.Array) -> DASVDDState:
    """Line 6: one step of the centre towards the mean code of its own rows, the networks held."""
    mean = _mean_code(forward(joint.encoder, state.encoder, x), mask)
    gradient = 2.0 * (state.centre - mean) / mean.size
    if joint.loop == "published":
        gradient = state.centre_gradient + leaked + gradient
    centre, opt = descend(joint.centre_tx, gradient, state.centre_opt, state.centre)
    moved = state._replace(centre=centre, centre_opt=opt, centre_gradient=gradient)
    any_rows = mask.sum() > 0  # an epoch's padded last batch may leave the centre's part empty
    parts = ("centre", "centre_opt", "centre_gradient")
    held = {part: jax.tree.map(partial(jnp.where, any_rows), getattr(moved, part), getattr(state, part)) for part in parts}
    return state._replace(**held)


def dasvdd(joint: Joint, *, num_steps: int, steps_per_pass: int, gamma_runs: int = 10) -> Method:
    """DASVDD.

    Parameters
    ----------
    joint : Joint
        ``encoder``, ``decoder``: the networks. ``tx``, ``centre_tx``: optimisers of the networks and of the centre.
        ``kappa``: part of each batch that trains the networks, the rest moves the centre; 1 leaves it where it began.
        ``gamma``: weight of the hypersphere term, None finds it by eq. 6 (or `gamma_rule`). ``fixed_centre``: Table 3,
        the centre is the mean code of the first batch, and stays. ``error_scale``: 1 averages the reconstruction error
        over features, the number of features makes it eq. 2's sum. ``loop``: see above.
    num_steps, steps_per_pass : int
        Updates, and batches in one pass over the data.
    gamma_runs : int
        Random networks that gamma is averaged over, T in eq. 6.

    Returns
    -------
    Method
        ``score`` is eq. 2, with ``reconstruction`` and ``radius`` (the squared distance to the centre, unweighted).
    """
    encoder, decoder, scale = joint.encoder, joint.decoder, joint.error_scale
    tune = gamma_stage(encoder, decoder, runs=gamma_runs, steps_per_pass=steps_per_pass, error_scale=scale)
    main = joint_stage(joint, num_steps)

    def embed(state: DASVDDState, example: Example) -> jax.Array:
        return forward(encoder, state.encoder, example["x"][None])[0]

    def reconstruct(key: Key, state: DASVDDState, example: Example) -> jax.Array:
        del key
        return forward(decoder, state.decoder, embed(state, example)[None])[0].reshape(example["x"].shape)

    def score(key: Key, state: DASVDDState, example: Example) -> Scores:
        del key
        z = forward(encoder, state.encoder, example["x"][None])
        residual = example["x"].reshape(-1) - forward(decoder, state.decoder, z)[0]
        # Averaged term by term: were the factor outside the sum, the compiler could round the score in two ways.
        error = jnp.sum(residual**2 * (scale / residual.size))
        radius = squared_distance(z, state.centre)[0]
        return {"score": error + state.gamma * radius, "reconstruction": error, "radius": radius}

    def terms(key: Key, state: DASVDDState, example: Example, typical: jax.Array) -> tuple[Term, ...]:
        rebuilt = reconstruct(key, state, example)

        def radius(x: jax.Array) -> jax.Array:
            return state.gamma * squared_distance(embed(state, {"x": x})[None], state.centre)[0]

        return Term(lambda x: scale * jnp.mean((x - rebuilt) ** 2), rebuilt), Term(radius, typical)

    return Method((main,) if joint.gamma is not None else (tune, main), score, embed, reconstruct, terms)


def build(config: Config, plan: Plan) -> Method:
    """DASVDD from its configuration."""
    encoder, decoder = dense_pair(config, plan.num_features)
    joint = Joint(
        encoder,
        decoder,
        adam_l2(config.learning_rate, config.weight_decay),
        centre_optimiser(config.centre_learning_rate, config.centre_decay),
        kappa=config.kappa,
        gamma=config.gamma,
        gamma_rule=config.gamma_rule,
        fixed_centre=config.fixed_centre,
        error_scale=float(plan.num_features) if config.error == "sum" else 1.0,
        loop=config.loop,
    )
    return dasvdd(joint, num_steps=plan.num_steps, steps_per_pass=plan.steps_per_pass, gamma_runs=config.gamma_runs)

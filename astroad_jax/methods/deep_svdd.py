"""Deep SVDD and its multi-class form: strange is what the network maps far from where the known objects go.

Ruff et al. 2018 (ICML, PMLR 80:4393) and Perez-Carrasco et al. 2023, "Multi-Class Deep SVDD". Equation numbers are the
latter's: (1) soft boundary, (2) one class, (3) several classes, (4) their score.

An autoencoder is trained first and its decoder dropped (appendix I); the centres are means of its codes, found by one
plain pass over the data; then the encoder alone is trained on.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from pydantic import Field

from astroad_jax.errors import ConfigError
from astroad_jax.methods import autoencoder
from astroad_jax.methods.losses import adam_l2, descend, masked_mean, rows, squared_distance
from astroad_jax.nets import Variables, forward, forward_train
from astroad_jax.types import Batch, Example, Key, Method, Metrics, Plan, Scores, Stage, State, Term


class CentreState(NamedTuple):
    """Sums of codes per class on the way to their means."""

    encoder: Variables
    total: jax.Array  # (M, L)
    count: jax.Array  # (M,)


class SVDDState(NamedTuple):
    """The encoder, the centres it is drawn to, and the radius of the soft boundary."""

    encoder: Variables
    centres: jax.Array  # (M, L), fixed
    known: jax.Array  # (M,) bool: classes that had training rows, and so a centre
    radius: jax.Array  # (), of the soft boundary; 0 where there is none
    step: jax.Array  # (), int32
    opt: optax.OptState


class SVDD(autoencoder.Dense):
    """Hyper-parameters that both forms share."""

    TUNABLE = (*autoencoder.Dense.TUNABLE, "pretrain_epochs", "pretrain_learning_rate")
    weight_decay: float = Field(0.5e-6, ge=0)
    pretrain_epochs: int | None = Field(
        None, ge=1, description="epochs of the autoencoder before; none: as many as train.epochs"
    )
    pretrain_learning_rate: float = Field(1e-3, gt=0, description="of the autoencoder before")
    learning_rate: float = Field(5e-4, gt=0)
    centre_epsilon: float = Field(
        0.0, ge=0, description="coordinates of the centre nearer to 0 than this are moved to it; 0 moves none"
    )


class Config(SVDD):
    """Deep SVDD with one hypersphere."""

    TUNABLE = (*SVDD.TUNABLE, "nu", "warmup_epochs")
    name: Literal["deep_svdd"] = "deep_svdd"
    soft_boundary: bool = Field(False, description="eq. 1, with a radius, instead of eq. 2")
    nu: float = Field(0.1, gt=0, le=1, description="soft boundary: share of the objects allowed outside")
    warmup_epochs: int = Field(10, ge=0, description="soft boundary: epochs before the radius moves")


class MultiClassConfig(SVDD):
    """Deep SVDD with one hypersphere per known class."""

    name: Literal["mcdsvdd"] = "mcdsvdd"


def centre_stage(encoder: nn.Module, *, num_classes: int, num_steps: int) -> Stage:
    """Average the codes of each class (all rows together where `num_classes` is 1) in one plain pass.

    Running averages are used in batch normalisation, as in Ruff's code; MCDSVDD's code leaves the network in training
    mode here.
    """

    def init(key: Key, batch: Batch, previous: State | None) -> CentreState:
        del key
        z = jax.eval_shape(lambda: forward(encoder, previous.encoder, batch["x"]))
        return CentreState(previous.encoder, jnp.zeros((num_classes, z.shape[-1])), jnp.zeros(num_classes))

    def step(key: Key, state: CentreState, batch: Batch) -> tuple[CentreState, Metrics]:
        del key
        x, mask = rows(batch)
        member = _membership(batch, mask, num_classes)
        total = state.total + member.T @ forward(encoder, state.encoder, x)
        return CentreState(state.encoder, total, state.count + member.sum(0)), {"rows": mask.sum()}

    return Stage("centre", init, step, num_steps, plain=True)


def _membership(batch: Batch, mask: jax.Array, num_classes: int) -> jax.Array:
    """One-hot class of every row, ``(B, M)``, zero for padding and for rows without a class."""
    if num_classes == 1:
        return mask[:, None]
    return jax.nn.one_hot(batch["y"], num_classes) * mask[:, None]


def _centres(state: CentreState, epsilon: float) -> jax.Array:
    """Means of codes, no component nearer to 0 than `epsilon` (Ruff's guard against the trivial solution)."""
    centres = state.total / jnp.maximum(state.count, 1.0)[:, None]
    if not epsilon:
        return centres
    return jnp.where(jnp.abs(centres) < epsilon, jnp.where(centres < 0, -epsilon, epsilon), centres)


def svdd_stage(
    encoder: nn.Module,
    *,
    tx: optax.GradientTransformation,
    num_steps: int,
    num_classes: int = 1,
    balanced: bool = True,
    nu: float | None = None,
    warmup_steps: int = 0,
    centre_epsilon: float = 0.0,
) -> Stage:
    """Draw every object to the centre of its class.

    Parameters
    ----------
    num_classes : int
        1 for eq. 1 and 2, more for eq. 3.
    balanced : bool
        Whether batches hold the classes in equal parts; eq. 3's 1/N_j is then exact as a plain mean. Otherwise the
        classes present in a batch are averaged each by itself first.
    nu : float, optional
        Soft boundary (eq. 1) with the outside weighted by 1/(nu N), Ruff's form; the equation as printed in paper 000
        has nu = 1, for which the best radius is 0. None: no boundary (eq. 2).
    warmup_steps : int
        Steps before the radius is first set; from then on it is the (1 - nu) quantile of each batch's distances,
        which minimises eq. 1 in R.
    """

    def init(key: Key, batch: Batch, previous: CentreState) -> SVDDState:
        del key, batch
        centres = _centres(previous, centre_epsilon)
        zero = jnp.zeros((), jnp.int32)
        opt = tx.init(previous.encoder["params"])
        return SVDDState(previous.encoder, centres, previous.count > 0, jnp.zeros(()), zero, opt)

    def row_loss(state: SVDDState, distance: jax.Array) -> jax.Array:
        if nu is None:
            return distance
        excess = state.radius**2 + jax.nn.relu(distance - state.radius**2) / nu
        return jnp.where(state.step < warmup_steps, distance, excess)

    def step(key: Key, state: SVDDState, batch: Batch) -> tuple[SVDDState, Metrics]:
        del key
        x, mask = rows(batch)
        member = _membership(batch, mask, num_classes)
        weight = _row_weights(member, balanced)

        def loss(params):
            z, enc = forward_train(encoder, state.encoder, params, x, mask)
            distance = squared_distance(z, member @ state.centres)
            return jnp.sum(row_loss(state, distance) * weight), (enc, distance)

        params = state.encoder["params"]
        (value, (enc, distance)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        params, opt = descend(tx, gradient, state.opt, params)
        radius = state.radius
        if nu is not None:
            new = jnp.sqrt(masked_quantile(distance, mask, 1.0 - nu))
            radius = jnp.where(state.step >= warmup_steps, new, radius)
        metrics = {"loss": value, "distance": masked_mean(distance, member.sum(-1))}
        state = state._replace(encoder={**enc, "params": params}, radius=radius, step=state.step + 1, opt=opt)
        return state, metrics

    def validate(state: SVDDState, batch: Batch) -> jax.Array:
        x, mask = rows(batch)
        member = _membership(batch, mask, num_classes)
        distance = squared_distance(forward(encoder, state.encoder, x), member @ state.centres)
        value = jnp.sum(row_loss(state, distance) * _row_weights(member, balanced=False))
        # Before the warm-up ends the loss is another one, which a later state must not be held against.
        return value if nu is None else jnp.where(state.step <= warmup_steps, jnp.inf, value)

    return Stage("svdd", init, step, num_steps, validate)


def _row_weights(member: jax.Array, balanced: bool) -> jax.Array:
    """Weights ``(B,)`` whose weighted sum of row losses is eq. 3 divided by the number of classes."""
    if balanced or member.shape[-1] == 1:
        return member.sum(-1) / jnp.maximum(member.sum(), 1.0)
    count = member.sum(0)
    present = jnp.maximum((count > 0).sum(), 1)
    return jnp.sum(member / jnp.maximum(count, 1.0)[None, :], axis=-1) / present


def masked_quantile(values: jax.Array, mask: jax.Array, q: float) -> jax.Array:
    """Quantile of ``(B,)`` values over the rows whose mask is 1, linear between order statistics."""
    ordered = jnp.sort(jnp.where(mask > 0, values, jnp.inf))
    position = q * jnp.maximum(mask.sum() - 1.0, 0.0)
    low = jnp.floor(position).astype(jnp.int32)
    high = jnp.minimum(low + 1, jnp.maximum(mask.sum().astype(jnp.int32) - 1, 0))
    part = position - low
    return ordered[low] * (1 - part) + ordered[high] * part


def _method(stages: tuple[Stage, ...], encoder: nn.Module, soft: bool) -> Method:
    def embed(state: SVDDState, example: Example) -> jax.Array:
        return forward(encoder, state.encoder, example["x"][None])[0]

    def distances(state: SVDDState, x: jax.Array) -> jax.Array:
        found = squared_distance(embed(state, {"x": x})[None], state.centres)
        return jnp.where(state.known, found, jnp.inf)

    def offset(state: SVDDState) -> jax.Array | float:
        return state.radius**2 if soft else 0.0

    def score(key: Key, state: SVDDState, example: Example) -> Scores:
        del key
        found = distances(state, example["x"])
        scores = {"score": jnp.min(found) - offset(state)}
        if state.centres.shape[0] > 1:
            scores["nearest_class"] = jnp.argmin(found)
        return scores

    def terms(key: Key, state: SVDDState, example: Example, typical: jax.Array) -> tuple[Term, ...]:
        del key
        nearest = jnp.argmin(distances(state, example["x"]))
        return (Term(lambda x: distances(state, x)[nearest] - offset(state), typical),)

    return Method(stages, score, embed, terms=terms)


def deep_svdd(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    tx: optax.GradientTransformation,
    num_steps: int,
    pretrain_tx: optax.GradientTransformation,
    pretrain_steps: int,
    steps_per_pass: int,
    centre_epsilon: float = 0.0,
    **options: Any,
) -> Method:
    """Deep SVDD with one hypersphere (eq. 2, or eq. 1 with ``nu``), or Multi-Class Deep SVDD (eq. 3, scored by eq. 4).

    Centres stay where the pretrained encoder put them, as the paper says; MCDSVDD's code recomputes them with the trained
    encoder before scoring. The loss of several classes is eq. 3 divided by their number.

    Parameters
    ----------
    encoder, decoder : flax.linen.Module
        The decoder only serves the pretraining.
    tx, num_steps, pretrain_tx, pretrain_steps
        Optimiser and updates of the last stage, and of the autoencoder before it.
    steps_per_pass : int
        Batches in one plain pass over the data, from which the centres are found.
    centre_epsilon : float
        No component of a centre comes nearer to 0 (Ruff's guard); 0 leaves them as they are.
    **options
        ``num_classes``, ``balanced``, ``nu``, ``warmup_steps``: see `svdd_stage`.

    Returns
    -------
    Method
        ``score`` is the squared distance to the nearest centre, less the squared radius where there is a soft boundary;
        with several classes, ``nearest_class`` is that centre's.
    """
    num_classes = options.get("num_classes", 1)
    stages = (
        autoencoder.stage(encoder, decoder, tx=pretrain_tx, num_steps=pretrain_steps),
        centre_stage(encoder, num_classes=num_classes, num_steps=steps_per_pass),
        svdd_stage(encoder, tx=tx, num_steps=num_steps, centre_epsilon=centre_epsilon, **options),
    )
    return _method(stages, encoder, options.get("nu") is not None)


def _parts(config: SVDD, plan: Plan) -> dict:
    """What one class and several have in common."""
    encoder, decoder = autoencoder.dense_pair(config, plan.num_features)
    epochs = config.pretrain_epochs
    return {
        "encoder": encoder,
        "decoder": decoder,
        "tx": adam_l2(config.learning_rate, config.weight_decay),
        "num_steps": plan.num_steps,
        "pretrain_tx": adam_l2(config.pretrain_learning_rate, config.weight_decay),
        "pretrain_steps": plan.num_steps if epochs is None else epochs * plan.steps_per_epoch,
        "steps_per_pass": plan.steps_per_pass,
        "centre_epsilon": config.centre_epsilon,
    }


def build(config: Config, plan: Plan) -> Method:
    """Deep SVDD from its configuration."""
    nu = config.nu if config.soft_boundary else None
    warmup = config.warmup_epochs * plan.steps_per_epoch
    if nu is not None and warmup >= plan.num_steps:
        raise ConfigError(
            "the soft boundary would never be set",
            where="method.warmup_epochs",
            expected=f"fewer than the {plan.num_steps // plan.steps_per_epoch} epochs of the training",
            got=config.warmup_epochs,
            fix="lower it, or train longer",
        )
    return deep_svdd(**_parts(config, plan), nu=nu, warmup_steps=warmup)


def build_multi_class(config: MultiClassConfig, plan: Plan) -> Method:
    """Multi-class Deep SVDD from its configuration."""
    return deep_svdd(**_parts(config, plan), num_classes=plan.num_classes, balanced=plan.balanced)

"""A learning rate that falls when the validation loss has stopped falling: a rule for any stage, part of its state.

The rule is Keras' ``ReduceLROnPlateau``, in the words of Nicolaou et al. (the DESI autoencoder): "reduced by a factor of 10
if the loss function on the validation set does not improve for 5 epochs". Any improvement counts, however small: the paper
gives no tolerance, and Keras' own of 1e-4 is lost in the rounding of a loss summed over 1,000 pixels. (optax has a rule of
the same kind, whose tolerance is a share of the best loss: where that is negative, as a log-likelihood's may be, it takes
some loss of ground for a gain.)

All that the rule remembers lies in the optimiser's state, and it is applied inside the step, so a run that is resumed in
the middle of a plateau goes on bit for bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from astroad_jax.methods.losses import rows
from astroad_jax.types import Batch, Key, Metrics, Stage, State


class PlateauState(NamedTuple):
    """An optimiser's state and what the rule remembers; scalars all but the first.

    Attributes
    ----------
    inner : optax.OptState
        Of the optimiser itself.
    scale : float32
        What its updates are multiplied by.
    best, value : float32
        The lowest loss that an epoch has ended with, and the last; the largest float before there is one.
    since : int32
        Epochs since `best`, or since the rate was last lowered.
    step : int32
        Updates so far.
    total, seen : float32
        Training loss summed over the rows of this epoch so far, and how many they are.
    """

    inner: optax.OptState
    scale: jax.Array
    best: jax.Array
    value: jax.Array
    since: jax.Array
    step: jax.Array
    total: jax.Array
    seen: jax.Array


def scaled(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimiser with its updates multiplied by ``PlateauState.scale``, which `lowering` lowers."""

    def init(params: Any) -> PlateauState:
        # Arrays of their own, for a donated buffer must not appear twice.
        one, top = jnp.ones(()), [jnp.full((), jnp.finfo(jnp.float32).max) for _ in range(2)]
        counts = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        return PlateauState(tx.init(params), one, *top, *counts, jnp.zeros(()), jnp.zeros(()))

    def update(updates: Any, state: PlateauState, params: Any = None) -> tuple[Any, PlateauState]:
        updates, inner = tx.update(updates, state.inner, params)
        updates = jax.tree.map(lambda leaf: state.scale * leaf, updates)
        return updates, state._replace(inner=inner)

    return optax.GradientTransformation(init, update)


def judged(state: PlateauState, value: jax.Array, *, patience: int, factor: float) -> PlateauState:
    """The rule itself, at an epoch's end: `value` is the loss it ended with. A value that is not a number is no gain."""
    better = value < state.best
    since = jnp.where(better, 0, state.since + 1)
    lower = since >= patience
    return state._replace(
        scale=jnp.where(lower, state.scale * factor, state.scale),
        best=jnp.where(better, value, state.best),
        value=value,
        since=jnp.where(lower, 0, since),
        total=jnp.zeros(()),
        seen=jnp.zeros(()),
    )


def lowering(stage: Stage, *, every: int, patience: int, factor: float = 0.1) -> Stage:
    """The same stage with its learning rate multiplied by `factor` after `patience` epochs without improvement.

    Parameters
    ----------
    stage : Stage
        Its state has a field ``opt``, the state of an optimiser under `scaled`; its metrics have ``loss``, a mean over the
        batch's real rows.
    every : int
        Updates an epoch.
    patience : int
        Epochs.

    Returns
    -------
    Stage
        An epoch is judged by ``stage.validate`` on the batch's ``valid`` columns (held-out rows, all of them): of a
        variational autoencoder the loss at the mean of the code, not at draws of it. Where the feed has none, it is judged
        by the mean training loss of its rows, dropout and drawn codes included: that falls on while the network overfits,
        so it lowers the rate later or never. Metrics gain ``rate`` (the factor in force) and,
        with held-out rows, ``validation`` (their last loss; of the untrained network before the first epoch ends).
    """

    def init(key: Key, batch: Batch, previous: State | None) -> State:
        state = stage.init(key, batch, previous)
        if "valid" not in batch:
            return state
        return state._replace(opt=state.opt._replace(value=stage.validate(state, batch["valid"])))

    def step(key: Key, state: State, batch: Batch) -> tuple[State, Metrics]:
        state, metrics = stage.step(key, state, batch)
        count = jnp.sum(rows(batch)[1])
        opt = state.opt
        opt = opt._replace(step=opt.step + 1, total=opt.total + metrics["loss"] * count, seen=opt.seen + count)

        def end(opt: PlateauState) -> PlateauState:
            held_out = "valid" in batch
            value = stage.validate(state, batch["valid"]) if held_out else opt.total / jnp.maximum(opt.seen, 1.0)
            return judged(opt, value, patience=patience, factor=factor)

        opt = jax.lax.cond(opt.step % every == 0, end, lambda opt: opt, opt)
        metrics = metrics | {"rate": opt.scale} | ({"validation": opt.value} if "valid" in batch else {})
        return state._replace(opt=opt), metrics

    return stage._replace(init=init, step=step, held_out=True)

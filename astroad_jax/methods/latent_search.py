"""Latent search: the nearest image that a generator can make, found by gradient descent.

Margalef-Bentabol et al. 2020, section 3.5, equations 6 to 9. Choices where the paper is silent:

- Distances in eq. 7 and 8 are sums of absolute differences over pixels and over features; ``reduction="mean"`` divides each
  by their number.
- The two layers of mu: one hidden layer of `Config.mu_width` units with a leaky ReLU, and a linear one. Its input y is drawn
  once per object. Adam moves it, or z itself under ``search="latent"``, with the critic's betas.
- A search ends early where `patience` iterations have not brought the lowest loss down by `tolerance` of what it was; 0
  never ends.

Deviation: the score is the lowest loss met, where eq. 9 takes the last: the last of 500 iterations of Adam wanders above it.
``keep="last"`` is the paper's. N iterations see the start and what N - 1 moves lead to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from pydantic import Field, PositiveInt

from astroad_jax.config import Frozen
from astroad_jax.errors import ConfigError
from astroad_jax.methods.losses import descend
from astroad_jax.nets import Variables
from astroad_jax.types import Example, Key, Scores, Search, State, Term


class Config(Frozen):
    """Hyper-parameters of the search."""

    TUNABLE: ClassVar[tuple[str, ...]] = (
        "search", "gamma", "reduction", "iterations", "search_rate", "search_beta1", "search_beta2", "mu_width", "keep",
        "patience", "tolerance",
    )  # fmt: skip
    search: Literal["mu", "latent"] = Field(
        "mu", description="what is searched: a network mu(y) as in the paper, or z itself"
    )
    gamma: float = Field(0.7, gt=0, lt=1, description="weight of the residual loss, eq. 6")
    reduction: Literal["sum", "mean"] = Field("sum", description="sum or mean over pixels and features")
    iterations: int = Field(500, ge=1, description="per object, at most")
    search_rate: float = Field(0.01, gt=0, description="of Adam in the search")
    search_beta1: float = Field(0.5, ge=0, lt=1, description="of Adam in the search")
    search_beta2: float = Field(0.9, ge=0, lt=1, description="of Adam in the search")
    mu_width: PositiveInt = Field(100, description="width of mu")
    keep: Literal["best", "last"] = Field("best", description="the best iteration, or the last as in the paper")
    patience: int = Field(0, ge=0, description="iterations without improvement after which a search ends; 0: never")
    tolerance: float = Field(0.0, ge=0, lt=1, description="relative improvement that counts as one")


class Pair(NamedTuple):
    """Generator and critic, and how wide z is."""

    generator: nn.Module
    critic: nn.Module
    latent: int


class Trained(NamedTuple):
    """Their variables."""

    generator: Variables
    critic: Variables


class Mu(nn.Module):
    """The two layers that map an object's noise y to z."""

    width: int
    latent: int

    @nn.compact
    def __call__(self, y: jax.Array) -> jax.Array:
        """``(latent,) -> (latent,)``."""
        return nn.Dense(self.latent)(nn.leaky_relu(nn.Dense(self.width)(y), 0.2))


class SearchCarry(NamedTuple):
    """One object's search: what is moved, and the best met so far."""

    noise: jax.Array  # (latent,) y, or empty where z itself is moved
    features: jax.Array  # (F,) of the object
    moved: Variables  # parameters of mu, or z
    opt: optax.OptState
    loss: jax.Array  # () lowest so far
    residual: jax.Array  # () its two parts
    feature: jax.Array
    z: jax.Array  # (latent,) where it was met
    mark: jax.Array  # () the lowest loss when it had last fallen by `tolerance`
    since: jax.Array  # () int32, iterations since


class Losses(NamedTuple):
    """Eq. 6 to 8 for one image."""

    total: jax.Array
    residual: jax.Array
    feature: jax.Array


def features(pair: Pair, trained: Trained, x: jax.Array) -> jax.Array:
    """The critic's features of one image, ``(F,)``: the output of its last convolution."""
    return pair.critic.apply(trained.critic, x[None], method="features")[0]


def losses(
    pair: Pair, trained: Trained, x: jax.Array, target: jax.Array, z: jax.Array, gamma: float, reduction: str
) -> Losses:
    """How far the image of z is from `x`, in pixels and in the critic's features (those of x are `target`)."""
    fake = pair.generator.apply(trained.generator, z[None])[0]
    return apart(x - fake, target - features(pair, trained, fake), gamma, reduction)


def apart(image: jax.Array, feature: jax.Array, gamma: float, reduction: str) -> Losses:
    """The losses of differences, of pixels and of features."""
    gather = jnp.sum if reduction == "sum" else jnp.mean
    residual, feature = gather(jnp.abs(image)), gather(jnp.abs(feature))
    return Losses(gamma * residual + (1.0 - gamma) * feature, residual, feature)


def latent_search(
    pair: Pair,
    trained: Callable[[State], Trained],
    config: Config,
    start: Callable[[State, jax.Array], jax.Array] | None = None,
) -> Search:
    """Equations 6 to 9 for one image, as a `Search`.

    Parameters
    ----------
    trained : (state) -> Trained
        The networks' variables in a method's state.
    start : (state, x) -> (latent,) array, optional
        A first guess of z for one image, where z itself is moved; drawn from the prior otherwise.

    Returns
    -------
    Search
        Finishes with ``score`` (eq. 9, at the best iteration), ``residual`` (eq. 7) and ``feature`` (eq. 8); rebuilds the
        image of the best z.

    Raises
    ------
    ConfigError
        A `start` where mu is what is trained.
    """
    if start is not None and config.search == "mu":
        fix = "set method.search = latent"
        raise ConfigError("mu starts from noise, not from a guess of z", where="method.search", got="mu", fix=fix)
    mu = Mu(config.mu_width, pair.latent) if config.search == "mu" else None
    tx = optax.adam(config.search_rate, config.search_beta1, config.search_beta2)

    def init(key: Key, state: State, example: Example) -> SearchCarry:
        key_y, key_mu = jax.random.split(key)
        z = jax.random.normal(key_y, (pair.latent,)) if start is None else start(state, example["x"])
        target = features(pair, trained(state), example["x"])
        noise, moved = (z[:0], z) if mu is None else (z, mu.init(key_mu, z))
        none = jnp.full((), jnp.inf)
        return SearchCarry(noise, target, moved, tx.init(moved), none, none, none, z, none, jnp.zeros((), jnp.int32))

    def step(state: State, example: Example, carry: SearchCarry) -> SearchCarry:
        def loss(moved: Variables) -> tuple[jax.Array, tuple[jax.Array, Losses]]:
            z = moved if mu is None else mu.apply(moved, carry.noise)
            found = losses(pair, trained(state), example["x"], carry.features, z, config.gamma, config.reduction)
            return found.total, (z, found)

        gradient, (z, found) = jax.grad(loss, has_aux=True)(carry.moved)
        moved, opt = descend(tx, gradient, carry.opt, carry.moved)
        best = (carry.loss, carry.residual, carry.feature, carry.z)
        # An object that has no finite loss to begin with has no score; a search that leaves the finite keeps its best.
        hopeless = jnp.isinf(carry.loss) & ~jnp.isfinite(found.total)
        better = (found.total < carry.loss) | (config.keep == "last") | hopeless
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), (*found, z), best)
        fell = jnp.isinf(carry.mark) | (best[0] < carry.mark * (1.0 - config.tolerance))
        mark, since = jnp.where(fell, best[0], carry.mark), jnp.where(fell, 0, carry.since + 1)
        return SearchCarry(carry.noise, carry.features, moved, opt, *best, mark, since)

    def finish(state: State, example: Example, carry: SearchCarry) -> Scores:
        del state, example
        score = jnp.where(jnp.isfinite(carry.loss), carry.loss, jnp.nan)
        return {"score": score, "residual": carry.residual, "feature": carry.feature}

    def rebuild(state: State, example: Example, carry: SearchCarry) -> jax.Array:
        del example
        found = pair.generator.apply(trained(state).generator, carry.z[None])[0]
        return jnp.where(jnp.isfinite(carry.loss), found, jnp.nan)

    def done(carry: SearchCarry) -> jax.Array:
        ended = carry.since >= config.patience if config.patience else jnp.zeros((), bool)
        return ended | jnp.isnan(carry.loss)

    return Search(init, step, finish, done, config.iterations, rebuild, _terms(pair, trained, config))


def _terms(
    pair: Pair, trained: Callable[[State], Trained], config: Config
) -> Callable[[State, Example, jax.Array], tuple[Term, ...]]:
    """Eq. 9 with the nearest image held: one term that starts there."""

    def terms(state: State, example: Example, rebuilt: jax.Array) -> tuple[Term, ...]:
        del example
        made = features(pair, trained(state), rebuilt)

        def value(x: jax.Array) -> jax.Array:
            seen = features(pair, trained(state), x)
            return apart(x - rebuilt, seen - made, config.gamma, config.reduction).total

        return (Term(value, rebuilt),)

    return terms

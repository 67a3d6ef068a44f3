"""The networks and data that the benchmarks run on: sizes from the papers, values synthetic."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from astroad_jax.config import Frozen
from astroad_jax.engine.feed import members, resident
from astroad_jax.engine.train import fit
from astroad_jax.methods import build, configure
from astroad_jax.types import Feed, Method, Plan


class Case(NamedTuple):
    """A method with its hyper-parameters, and the sizes it works on."""

    method: dict[str, Any]
    features: int
    batch: int
    classes: int = 1
    rows: int = 16_384


MNIST = {"name": "dasvdd", "hidden": (1024, 256), "latent": 256, "output": "sigmoid", "gamma": 0.75}
PIMA = {"name": "dasvdd", "hidden": (10, 4), "latent": 4, "output": "none", "gamma": 1.0}
CASES = {
    "dasvdd-pima": Case(PIMA, 8, 200, rows=400),
    "dasvdd-mnist": Case(MNIST, 784, 200, rows=6_000),
    "autoencoder-1024": Case({"name": "autoencoder"}, 152, 1024),
    "autoencoder-256": Case({"name": "autoencoder"}, 152, 256),
    "mcdsvdd": Case({"name": "mcdsvdd", "pretrain_epochs": 1}, 152, 1024, classes=3),
    "vae": Case({"name": "vae"}, 152, 1024),
}


def config(case: Case) -> Frozen:
    """The method's validated hyper-parameters."""
    return configure(case.method)


def data(case: Case, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows near a curved surface of five dimensions, one offset per class, inside (0, 1); ``x`` and ``y``."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, case.classes, rows).astype(np.int32)
    hidden = rng.standard_normal((rows, 5)) + 2.0 * rng.standard_normal((case.classes, 5))[label]
    mixed = hidden @ rng.standard_normal((5, case.features)) / 2.0
    x = 0.5 + 0.5 * np.tanh(mixed) + 0.02 * rng.standard_normal(mixed.shape)
    return {"x": np.clip(x, 0.0, 1.0).astype(np.float32), "y": label}


def method(case: Case, feed: Feed, num_steps: int) -> Method:
    """The method as a run would build it."""
    sizes = (num_steps, feed.steps_per_epoch, feed.steps_per_pass, case.classes)
    plan = Plan(case.features, *sizes, balanced=case.classes > 1)
    return build(config(case), plan)


def feed(case: Case, seed: int = 0) -> Feed:
    """The case's training rows on the device; batches balanced where the method learns from classes."""
    arrays = data(case, case.rows, seed)
    balance = case.classes > 1
    columns = arrays if balance else {"x": arrays["x"]}
    return resident(columns, seed=seed, batch_size=case.batch, balance=balance, remainder="drop")


def member_feed(case: Case, count: int) -> Feed:
    """One table, `count` members, each with an order of its own."""
    arrays = data(case, case.rows)
    own = [np.arange(case.rows)] * count
    return members(own, {"x": arrays["x"]}, batch_size=case.batch, seeds=range(count), remainder="drop")


def trained(case: Case, num_steps: int = 2) -> tuple[Method, Any]:
    """A method and a state to score with: a few steps are enough, speed does not depend on the values."""
    small = case._replace(batch=64, rows=256)
    rows = feed(small)
    built = method(small, rows, num_steps)
    return built, fit(built, rows).state

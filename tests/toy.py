"""A toy problem that every method must solve, and every method in its smallest form."""

from __future__ import annotations

import numpy as np

from astroad_jax.engine.feed import resident
from astroad_jax.engine.train import Fitted, fit
from astroad_jax.methods import METHODS, build, configure
from astroad_jax.types import Feed, Method, Plan

WIDTH, CLASSES, BATCH, EPOCHS = 8, 3, 64, 30
NETS = {"hidden": [16, 12], "latent": 4}

# name -> hyper-parameters: every method, and every option that changes its equations
VARIANTS: dict[str, dict] = {
    "autoencoder": {"name": "autoencoder", **NETS},
    "vae": {"name": "vae", "sigma": 0.3, "samples": 3, **NETS},
    "deep_svdd": {"name": "deep_svdd", **NETS},
    "deep_svdd-soft": {"name": "deep_svdd", "soft_boundary": True, "warmup_epochs": 2, "centre_epsilon": 0.1, **NETS},
    "mcdsvdd": {"name": "mcdsvdd", **NETS},
    "mcdsvdd-weighted": {"name": "mcdsvdd", **NETS},
    "dasvdd": {"name": "dasvdd", "learning_rate": 3e-3, **NETS},
    "dasvdd-published": {"name": "dasvdd", "loop": "published", "gamma_rule": "ratio_of_means", "gamma": 0.1, **NETS},
    "dasvdd-fixed": {"name": "dasvdd", "fixed_centre": True, "error": "sum", "gamma_runs": 2, **NETS},
}
assert {values["name"] for values in VARIANTS.values()} == set(METHODS)


def mixture(num_rows: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three flat clusters in [-1, 1]^8: ``(N, 8)`` float32 and class indices."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, num_rows).astype(np.int32)
    frame = np.random.default_rng(100)
    centres, planes = frame.uniform(-0.5, 0.5, (CLASSES, WIDTH)), 0.15 * frame.normal(size=(CLASSES, 2, WIDTH))
    x = centres[y] + np.einsum("nk,nkd->nd", rng.normal(size=(num_rows, 2)), planes[y])
    return (x + 0.01 * rng.normal(size=x.shape)).astype(np.float32), y


def outliers() -> np.ndarray:
    """Rows far off every cluster."""
    signs = np.array([[1, -1] * 4, [-1, 1] * 4, [1, 1, -1, -1] * 2, [-1, -1, 1, 1] * 2])
    return (0.95 * signs).astype(np.float32)


def feed(name: str, batch_size: int = BATCH, rows: int = 600) -> Feed:
    """Training rows of a variant."""
    x, y = mixture(rows)
    return resident({"x": x, "y": y}, seed=1, batch_size=batch_size, balance=name == "mcdsvdd")


def method(name: str, batches: Feed, epochs: int = EPOCHS) -> Method:
    """A variant, sized for a feed."""
    steps = (epochs * batches.steps_per_epoch, batches.steps_per_epoch, batches.steps_per_pass)
    plan = Plan(WIDTH, *steps, num_classes=CLASSES, balanced=name == "mcdsvdd")
    return build(configure(VARIANTS[name]), plan)


def train(name: str, epochs: int = EPOCHS, **options) -> tuple[Method, Fitted]:
    """Train a variant on the mixture."""
    batches = feed(name)
    made = method(name, batches, epochs)
    return made, fit(made, batches, **{"seed": 3, "log_every": batches.steps_per_epoch, **options})

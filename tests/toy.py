"""A toy problem that every method must solve, and every method in its smallest form."""

from __future__ import annotations

import numpy as np

from astroad_jax.engine.feed import resident
from astroad_jax.engine.train import Fitted, fit
from astroad_jax.methods import METHODS, build, configure
from astroad_jax.types import Feed, Method, Plan

WIDTH, CLASSES, BATCH, EPOCHS = 8, 3, 64, 30
NETS = {"hidden": [16, 12], "latent": 4}
SLOW = {**NETS, "learning_rate": 3e-4}
IMAGE_NETS = {"latent": 4, "width": 4}
GAN_NETS = {**IMAGE_NETS, "critic_dense": 8, "n_critic": 2, "learning_rate": 3e-3}
SPECTRUM_NETS = {**NETS, "dropout": 0.05, "draws": 2, "learning_rate": 3e-3}
SEARCH = {"search": "latent", "search_rate": 0.1, "iterations": 30}

# name -> hyper-parameters: every method, and every option that changes its equations
VARIANTS: dict[str, dict] = {
    "autoencoder": {"name": "autoencoder", **NETS},
    "vae": {"name": "vae", "sigma": 0.3, "samples": 3, **NETS},
    "vae-ivar": {"name": "vae", "likelihood": "ivar", "samples": 3, "plateau": 2, **SPECTRUM_NETS},
    "vae-learnt": {"name": "vae", "likelihood": "learnt", "samples": 3, "score_by": "probability", **SPECTRUM_NETS},
    "deep_svdd": {"name": "deep_svdd", **NETS},
    "deep_svdd-soft": {"name": "deep_svdd", "soft_boundary": True, "warmup_epochs": 2, "centre_epsilon": 0.1, **SLOW},
    "mcdsvdd": {"name": "mcdsvdd", **NETS},
    "mcdsvdd-weighted": {"name": "mcdsvdd", **NETS},
    "dasvdd": {"name": "dasvdd", "learning_rate": 3e-3, **NETS},
    "dasvdd-published": {"name": "dasvdd", "loop": "published", "gamma_rule": "ratio_of_means", "gamma": 0.1, **NETS},
    "dasvdd-fixed": {"name": "dasvdd", "fixed_centre": True, "error": "sum", "gamma_runs": 2, **NETS},
    "conv_autoencoder": {"name": "conv_autoencoder", "learning_rate": 3e-3, **IMAGE_NETS},
    "ganomaly": {"name": "ganomaly", "learning_rate": 2e-3, **IMAGE_NETS},
    "wgan_gp": {"name": "wgan_gp", **GAN_NETS, **SEARCH, "blur": True},
    "fanogan": {"name": "fanogan", **GAN_NETS},
    "fanogan-search": {"name": "fanogan", **GAN_NETS, **SEARCH, "iterations": 5},
}
IMAGE_METHODS = {"conv_autoencoder", "ganomaly", "wgan_gp", "fanogan"}
SPECTRA = {"vae-ivar", "vae-learnt"}
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


def shape(name: str) -> tuple[int, ...]:
    """Of a variant's objects: rows of numbers, spectra with their inverse variance, or images."""
    if name in SPECTRA:
        return (2, WIDTH)
    return (WIDTH, WIDTH, 1) if name.partition("-")[0] in IMAGE_METHODS else (WIDTH,)


def shaped(name: str, x: np.ndarray) -> np.ndarray:
    """Rows ``(N, 8)`` as a variant's objects: one number sets the brightness of one line of an image.

    A spectrum's sigma is 0.1, and the pixel nearest to 0 is masked.
    """
    if name in SPECTRA:
        nearest = np.abs(x).argmin(axis=1)[:, None]
        ivar = np.where(np.arange(WIDTH) == nearest, 0, 100)
        return np.stack([x, ivar], axis=1).astype(np.float32)
    if len(shape(name)) == 1:
        return x
    profile = np.array([0.4, 0.7, 0.9, 1, 1, 0.9, 0.7, 0.4], np.float32)
    return (x[:, :, None] * profile)[..., None]


def feed(name: str, batch_size: int = BATCH, rows: int = 600) -> Feed:
    """Training rows of a variant."""
    x, y = mixture(rows)
    return resident({"x": shaped(name, x), "y": y}, seed=1, batch_size=batch_size, balance=name == "mcdsvdd")


def method(name: str, batches: Feed, epochs: int = EPOCHS) -> Method:
    """A variant, sized for a feed."""
    return build(configure(VARIANTS[name]), plan(name, batches, epochs))


def plan(name: str, batches: Feed, epochs: int) -> Plan:
    """Sizes of a variant's networks and stages."""
    steps = (epochs * batches.steps_per_epoch, batches.steps_per_epoch, batches.steps_per_pass)
    options = {"num_classes": CLASSES, "balanced": name == "mcdsvdd", "shape": shape(name)}
    return Plan(int(np.prod(shape(name))), *steps, **options)


def train(name: str, epochs: int = EPOCHS, **options) -> tuple[Method, Fitted]:
    """Train a variant on the mixture."""
    batches = feed(name)
    made = method(name, batches, epochs)
    return made, fit(made, batches, **{"seed": 3, "log_every": batches.steps_per_epoch, **options})

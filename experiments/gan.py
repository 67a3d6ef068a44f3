"""What the image experiments share: training in a run directory, scoring, thresholds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import jax
import numpy as np

from astroad_jax import config, files, preprocess
from astroad_jax.app.training import plan
from astroad_jax.engine.feed import resident
from astroad_jax.engine.rundir import open_run
from astroad_jax.engine.score import make_embedder, make_reconstructor, make_scorer
from astroad_jax.engine.train import fit
from astroad_jax.errors import DataError
from astroad_jax.methods import build, configure, fanogan, latent_search, wgan_gp
from astroad_jax.methods.augment import augmented
from astroad_jax.methods.latent_search import Pair
from astroad_jax.types import Example, Method, State

PERCENT = (85, 90, 95)  # of the training scores: paper 002's thresholds 1, 2 and 3


Network = Literal["wgan_gp", "fanogan"]
SEARCH: dict[str, Any] = {"search": "latent", "search_rate": 0.05, "tolerance": 0.005}
GAN: dict[str, Any] = {"width": 16, "n_critic": 2, "learning_rate": 2e-4, "beta2": 0.9, "average": 0.999, "blur": True}
DEFAULTS: dict[str, dict[str, Any]] = {
    "wgan_gp": {**GAN, **SEARCH, "iterations": 250, "patience": 30},
    "fanogan": {**GAN, **SEARCH, "code": "none", "encoder_epochs": 8, "iterations": 60, "patience": 15},
}
SMOKE = {
    "train_images": 64, "epochs": 1, "test_images": 24, "size": 16,
    "method": {"width": 4, "latent": 8, "iterations": 5, "n_critic": 1},
}  # fmt: skip


class Searched(config.Frozen):
    """What may be set in the experiments that score by a latent search."""

    model: Network = "wgan_gp"
    method: dict[str, Any] = {}
    train_images: int = 12_000
    epochs: int = 24
    batch_size: int = 32
    test_images: int = 400
    seeds: int = 1
    first_seed: int = 0
    augment: bool = True
    size: int = 64

    def resolved(self) -> Self:
        """The same with every default of the method written out, so that results of other defaults are other results."""
        return self.model_copy(update={"method": {**DEFAULTS[self.model], **self.method}})

    def train(self, x: np.ndarray, seed: int, out: Path) -> Model:
        """The model of these settings, trained on preprocessed images: see `train`."""
        values = {"name": self.model, **self.resolved().method}
        options = {"epochs": self.epochs, "batch_size": self.batch_size, "augment": self.augment}
        return train(values, x, seed=seed, out=out, **options)


class Model(NamedTuple):
    """A trained method."""

    method: Method
    state: State
    metrics: list[dict[str, Any]]
    seed: int
    pair: Pair | None  # generator and critic, where there are such

    def score(self, x: np.ndarray, ids: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Scores and components of preprocessed images."""
        ids = np.arange(len(x)) if ids is None else ids
        return make_scorer(self.method, seed=self.seed, batch_size=512)(self.state, x, ids)

    def embed(self, x: np.ndarray) -> np.ndarray:
        """Embeddings ``(N, D)``."""
        return make_embedder(self.method, batch_size=512)(self.state, x, np.arange(len(x)))["embedding"]

    def features(self, x: np.ndarray) -> np.ndarray:
        """The critic's features ``(N, F)``, whatever else the method embeds by."""

        def seen(state: State, example: Example) -> jax.Array:
            networks = state.gan if isinstance(state, fanogan.FAnoGANState) else wgan_gp.trained(state)
            return latent_search.features(self.pair, networks, example["x"])

        method = self.method._replace(embed=seen)
        return make_embedder(method, batch_size=512)(self.state, x, np.arange(len(x)))["embedding"]

    def rebuild(self, x: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        """The nearest images that the model can make: those of the scores, where the ids are those scored with."""
        ids = np.arange(len(x)) if ids is None else ids
        return make_reconstructor(self.method, seed=self.seed, batch_size=512)(self.state, x, ids)["reconstruction"]


def train(
    values: dict[str, Any], x: np.ndarray, *, epochs: int, batch_size: int, seed: int, augment: bool, out: Path
) -> Model:
    """Train a method on preprocessed images; a run that was stopped goes on where it was.

    Parameters
    ----------
    values : dict
        The method's ``name`` and hyper-parameters.
    x : (N, S, S, C) float32
        In [-1, 1].
    out : Path
        Run directory.
    """
    options = config.Train(seed=seed, epochs=epochs, batch_size=batch_size, remainder="drop", steps_per_call=1)
    options = options.model_copy(update={"log_every": 20, "checkpoint_every": 200, "augment": "turn" if augment else "none"})
    settings = config.Run(method=configure(values).model_dump(), train=options)
    feed = resident({"x": x}, seed=seed, batch_size=batch_size, remainder="drop")
    method = build(configure(values), plan(feed, x.shape[1:], 1, settings))
    trained = augmented(method, x.shape[1:]) if augment else method
    with open_run(out, settings, feed, 2) as hooks:
        logged = {"log_every": options.log_every, "checkpoint_every": options.checkpoint_every}
        fitted = fit(trained, feed, seed=seed, steps_per_call=1, hooks=hooks, progress=True, **logged)
    config_of = configure(values)
    pair = wgan_gp.networks(config_of, x.shape[1:]) if isinstance(config_of, wgan_gp.Networks) else None
    return Model(method, fitted.state, files.read_lines(out / "metrics.jsonl"), seed, pair)


def place(out: Path, label: str, settings: config.Frozen, keys: Sequence[str], seed: int) -> Path:
    """Directory of one run and its figures: another one where any of the settings that matter is another."""
    chosen = json.dumps({key: json.loads(settings.model_dump_json())[key] for key in keys}, sort_keys=True)
    return out / f"{label}_{hashlib.sha256(chosen.encode()).hexdigest()[:8]}_{seed}"


def scaled(scaler: preprocess.Scaler, images: np.ndarray, where: str) -> np.ndarray:
    """Preprocessed images; what a catalogue would flag is refused here, where nothing may be left out of a count."""
    x, flags = preprocess.apply(scaler, images)
    bad = preprocess.unusable(scaler, flags)
    if bad.any():
        got = f"{bad.sum()} of {len(x)}"
        raise DataError("images cannot be used", where=where, expected="none damaged", got=got, fix="leave them out")
    return np.asarray(x, np.float32)


def thresholds(scores: np.ndarray) -> dict[int, float]:
    """Scores below which `PERCENT` of the training images lie."""
    return {percent: float(np.quantile(scores, percent / 100)) for percent in PERCENT}

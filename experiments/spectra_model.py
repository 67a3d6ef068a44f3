"""What the spectra experiments share: a variational autoencoder trained in a run directory, and what is asked of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astroad_jax import config, files, preprocess
from astroad_jax.app.training import plan
from astroad_jax.engine import sharding
from astroad_jax.engine.feed import resident
from astroad_jax.engine.rundir import open_run
from astroad_jax.engine.score import make_embedder, make_reconstructor, make_scorer
from astroad_jax.engine.train import fit
from astroad_jax.methods import build, configure, vae
from astroad_jax.types import State

Compiled = Callable[[State, np.ndarray, np.ndarray], dict[str, np.ndarray]]


class Model(NamedTuple):
    """A trained autoencoder with the scaling of its spectra, and its functions compiled once."""

    scaler: preprocess.Scaler
    nets: vae.Nets
    state: State
    metrics: list[dict[str, Any]]
    scorer: Compiled
    embedder: Compiled
    reconstructor: Compiled

    def scaled(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Spectra ``(N, 2, W)`` of unit norm, and which of them can be used ``(N,)``."""
        z, flags = preprocess.apply(self.scaler, x)
        return np.asarray(z), ~np.asarray(preprocess.unusable(self.scaler, flags))

    def score(self, z: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Components of scaled spectra, ``(N,)`` each."""
        return self.scorer(self.state, z, ids)

    def embed(self, z: np.ndarray) -> np.ndarray:
        """Latent means ``(N, L)``."""
        return self.embedder(self.state, z, np.arange(len(z)))["embedding"]

    def rebuild(self, z: np.ndarray) -> np.ndarray:
        """Reconstructed flux ``(N, W)``."""
        return self.reconstructor(self.state, z, np.arange(len(z)))["reconstruction"][:, 0]

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Flux ``(..., W)`` that the decoder gives for codes ``(..., L)``."""
        flat = np.asarray(codes, np.float32).reshape(-1, np.shape(codes)[-1])
        like = np.zeros((len(flat), 2, len(self.scaler.params["mean"])), np.float32)
        flux = np.asarray(self.nets.likelihood.rebuilt(like, self.nets.decode(self.state, flat)))[:, 0]
        return flux.reshape(*np.shape(codes)[:-1], -1)


def train(
    values: dict[str, Any],
    parts: tuple[np.ndarray, np.ndarray],
    scaler: preprocess.Scaler,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    out: Path,
) -> Model:
    """Train on scaled spectra; a run that was stopped goes on where it was.

    Parameters
    ----------
    values : dict
        The method's ``name`` and hyper-parameters.
    parts : ((N, 2, W), (M, 2, W)) float32
        Training and validation spectra; by the latter the learning rate is lowered.
    out : Path
        Run directory.
    """
    x, held = parts
    options = config.Train(seed=seed, epochs=epochs, batch_size=batch_size, steps_per_call=4)
    settings = config.Run(method=configure(values).model_dump(), train=options)
    feed = resident({"x": x}, seed=seed, batch_size=batch_size, valid={"x": held, "mask": np.ones(len(held), np.float32)})
    sizes = plan(feed, x.shape[1:], 1, settings)
    method = build(configure(values), sizes)
    often = {"log_every": 4 * -(-feed.steps_per_epoch // 4), "checkpoint_every": 20 * -(-feed.steps_per_epoch // 4)}
    with open_run(out, settings, feed, 2) as hooks:
        fitted = fit(method, feed, seed=seed, steps_per_call=4, hooks=hooks, progress=True, **often)
        preprocess.save(scaler, out / "preprocess.npz")
    metrics, sized = files.read_lines(out / "metrics.jsonl"), {"batch_size": 512}
    seeded = {"seed": seed, **sized}
    compiled = make_scorer(method, **seeded), make_embedder(method, **sized), make_reconstructor(method, **seeded)
    return Model(scaler, vae.nets_of(configure(values), sizes), sharding.to_host(fitted.state), metrics, *compiled)

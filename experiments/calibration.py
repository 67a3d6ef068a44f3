"""Do the p-values keep their word? Held-out inliers of real data sets, scored as ``astroad score`` does.

    python -m experiments.calibration --data DIR
    python -m experiments.calibration --data DIR 'datasets=["satimage-2"]' method.name=dasvdd seeds=10

Every data set's objects, whatever their class, are inliers: half train, a quarter calibrates, a quarter is scored. Reported
over seeds: the p-value of Kolmogorov and Smirnov's two-sample test of calibration scores against held-out ones
(`exchangeable`, which should itself be uniform), that of their one-sample test of the conformal p-values against the uniform
distribution (`uniform`; it takes them for independent, which the shared calibration rows make them nearly), and for each
rate asked for the share of held-out inliers that are flagged, with the share of seeds in which their number lies within the
95 % interval of its distribution, which is beta-binomial.

Expected: both tests above 0.01 nearly always, shares near the rates, about 95 % of them inside. Under a minute a seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from astroad_jax import config, data
from astroad_jax.analysis import calibrate
from astroad_jax.app import bundle, training
from astroad_jax.config import Frozen
from experiments import common, gan


class Settings(Frozen):
    """What may be set on the command line."""

    datasets: tuple[str, ...] = ("eros1_features", "mnist", "letter")
    method: dict[str, Any] = {"name": "autoencoder", "hidden": [64, 32], "latent": 8, "norm": False, "output": "none"}
    epochs: int = 10
    most: int = 20_000  # objects of a data set
    rates: tuple[float, ...] = (0.01, 0.05, 0.1)
    seeds: int = 3
    first_seed: int = 0


SMOKE = {"most": 300, "epochs": 1, "rates": (0.1,), "method": {"name": "autoencoder", "hidden": [8], "latent": 2}}


def one(settings: Settings, name: str, data_dir: Path | None, seed: int, out: Path) -> dict[str, float]:
    """Train on half of a data set and see what the p-values of another quarter are like."""
    from scipy.stats import betabinom, ks_2samp, kstest

    x = objects(name, data_dir, settings.most, seed)
    source = data.memory(name, {"object_id": np.arange(len(x)), "x": x})
    options = {"test_fraction": 0.25, "calibration_fraction": 1 / 3}  # of what is left
    made = config.Run(
        method=settings.method,
        data=config.Data(**options),
        train=config.Train(seed=seed, epochs=settings.epochs, batch_size=128),
        preprocess=config.Preprocess(scale="standard", nan="median"),
    )
    training.train(source, made, out)
    model = bundle.load(out)
    held = bundle.load_arrays(out / "split.npz")["test"]
    scores = _scores(model, x[held], held)
    p = model.p_value(scores)
    found = {
        "exchangeable": float(ks_2samp(model.calibration, scores).pvalue),
        "uniform": float(kstest(p, "uniform").pvalue),
    }
    for rate in settings.rates:
        line = calibrate.threshold(model.calibration, rate)
        flagged, count = int((scores > line.value).sum()), len(model.calibration)
        allowed = round(line.rate * (count + 1))
        low, high = betabinom(len(scores), allowed, count + 1 - allowed).interval(0.95)
        found |= {f"flagged at {rate:.0%}": flagged / len(scores), f"inside at {rate:.0%}": float(low <= flagged <= high)}
    return found | {"held out": float(len(scores)), "calibration": float(len(model.calibration))}


def objects(name: str, data_dir: Path | None, most: int, seed: int) -> np.ndarray:
    """Some objects of a data set, flat."""
    held = common.dataset(name, data_dir)
    x = np.concatenate([part for part in (held.x, held.x_test) if part is not None])
    rows = np.random.default_rng([seed, 7]).permutation(len(x))[:most]
    return np.asarray(x[rows].reshape(len(rows), -1), np.float32)


def _scores(model: bundle.Bundle, x: np.ndarray, ids: np.ndarray) -> np.ndarray:
    x, flags = model.prepare(x)
    found = model.scorer()(model.state, x, ids)
    return found["score"][~model.unusable(flags | found.get("flags", np.uint32(0)))]


def table(results: common.Results) -> list[common.Row]:
    """One row a data set and measure."""
    found: dict[tuple[str, str], list[float]] = {}
    for run in results.runs:
        for metric, value in run["measures"].items():
            found.setdefault((run["dataset"], metric), []).append(value)
    method = results.settings["method"]["name"]
    return [common.row(name, "inliers", method, metric, values) for (name, metric), values in found.items()]


def main(argv: list[str] | None = None) -> None:
    given = common.arguments("calibration", __doc__, Settings, SMOKE, argv)
    settings: Settings = given.settings
    keys = ("method", "epochs", "most", "rates")
    results = common.Results(given.out, settings, keys)
    for name in settings.datasets:
        for seed in range(settings.first_seed, settings.first_seed + settings.seeds):
            if not results.done(dataset=name, seed=seed):
                out = gan.place(given.out, name, settings, keys, seed)
                common.progress(f"{name}, seed {seed}")
                results.add(dataset=name, seed=seed, measures=one(settings, name, given.data, seed, out))
    results.write(table(results))


if __name__ == "__main__":
    common.guarded(main)

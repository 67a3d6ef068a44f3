"""DASVDD: Hojjati & Armanfard 2024, tables 2 and 3 and figures 5 to 8.

Table 2, one class normal and the others anomalies (MNIST, Fashion-MNIST, CIFAR-10), or an ``X, y`` table with
y = 1 for anomalies (PIMA and any other):

    python -m experiments.dasvdd --data DIR dataset=mnist seeds=3
    python -m experiments.dasvdd --data DIR dataset=pima seeds=10
    python -m experiments.dasvdd --data DIR dataset=cifar10_jpeg_20k classes=[0,8] seeds=1

Table 3 (trainable against fixed centre) and the ablations: add ``study=table3`` (or gamma, runs, kappa, latent).
Baselines: ``methods=["dasvdd","autoencoder","isolation_forest","ocsvm","kde"]``. Any hyper-parameter of the method:
``dasvdd.loop=published``, ``dasvdd.gamma_rule=ratio_of_means``, ``dasvdd.hidden=[1024]``.

Table 2 of the paper is a mean over ten runs; ``seeds=10`` gives as many. Time on 2 cores: MNIST about 5 minutes a class
and seed at 300 epochs; PIMA under a minute for ten seeds. A stopped run goes on where it was. Expected:
experiments/RESULTS.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from astroad_jax import preprocess
from astroad_jax.analysis import outliers
from astroad_jax.analysis.metrics import auroc
from astroad_jax.analysis.protocol import Case, Training, run
from astroad_jax.config import Frozen, Preprocess
from astroad_jax.errors import ConfigError, DataError
from astroad_jax.methods import build, configure
from experiments import common

Study = Literal["table2", "table3", "gamma", "runs", "kappa", "latent"]


class Settings(Frozen):
    """What may be set on the command line."""

    dataset: str = "mnist"
    study: Study = "table2"
    methods: tuple[str, ...] = ("dasvdd",)
    classes: tuple[int, ...] = ()
    seeds: int = 3
    first_seed: int = 0
    epochs: int = 300
    batch_size: int = 200
    members: int = 0
    split: Literal["shuffled", "published"] = "shuffled"
    train_rows: int = 0
    dasvdd: dict[str, Any] = {}


SMOKE = {"seeds": 1, "epochs": 2, "classes": (0,), "train_rows": 400}


class Domain(NamedTuple):
    """Input scaling and networks of a data set, as the paper's own code has them (PyTorch's initialisation)."""

    scale: Literal["unit", "gcn", "none"]
    hidden: tuple[int, ...]
    latent: int
    output: str


DOMAINS = {
    "mnist": Domain("unit", (1024, 256), 256, "sigmoid"),
    "fashion_mnist": Domain("unit", (1024, 256), 256, "sigmoid"),
    "cifar10": Domain("gcn", (1024, 512, 256), 256, "leaky_relu"),
    "pima": Domain("none", (10, 4), 4, "none"),
    "speech": Domain("none", (1024, 512, 256), 256, "none"),
}
SMALL, LARGE = Domain("none", (10, 4), 4, "none"), Domain("none", (1024, 512, 256), 256, "none")

# Table 2 in per cent: classes 0 to 9, then their mean.
PAPER: dict[tuple[str, str], list[float]] = {
    ("mnist", "dasvdd"): [99.7, 99.9, 95.4, 96.2, 98.1, 97.2, 99.6, 98.1, 94.2, 98.3, 97.7],
    ("mnist", "autoencoder"): [98.8, 99.3, 91.7, 88.5, 86.2, 85.8, 95.4, 94.0, 82.3, 96.5, 91.9],
    ("mnist", "ocsvm"): [98.6, 99.5, 82.5, 88.1, 94.9, 77.1, 96.5, 93.7, 88.9, 93.1, 91.3],
    ("mnist", "kde"): [97.1, 98.9, 79.0, 86.2, 87.9, 73.8, 87.6, 91.4, 79.2, 88.2, 86.9],
    ("mnist", "isolation_forest"): [98.0, 97.3, 88.6, 89.9, 92.7, 85.5, 95.6, 92.0, 89.9, 93.5, 92.3],
    ("cifar10", "dasvdd"): [68.6, 64.3, 55.8, 58.6, 64.0, 62.6, 71.0, 64.6, 81.1, 73.7, 66.5],
    ("cifar10", "autoencoder"): [59.9, 63.8, 50.9, 59.4, 59.8, 63.2, 65.2, 65.1, 76.9, 72.7, 63.7],
    ("cifar10", "isolation_forest"): [60.1, 50.8, 49.2, 55.1, 49.8, 58.5, 42.9, 55.1, 74.2, 58.9, 55.5],
    ("fashion_mnist", "dasvdd"): [91.2, 99.0, 89.3, 93.7, 90.7, 93.8, 82.8, 98.6, 89.4, 97.9, 92.6],
    ("fashion_mnist", "autoencoder"): [71.6, 96.9, 72.9, 78.5, 82.9, 93.1, 66.7, 95.4, 70.0, 80.7, 80.9],
    ("pima", "dasvdd"): [72.2],
    ("pima", "autoencoder"): [57.0],
    ("pima", "ocsvm"): [56.0],
    ("pima", "kde"): [64.7],
    ("pima", "isolation_forest"): [65.0],
    ("speech", "dasvdd"): [62.4],
    ("speech", "autoencoder"): [61.3],
}
CLASSICAL = {"ocsvm": "ocsvm_half"}  # section 4.2: nu = 0.5
TABLE3 = {"mnist": (97.7, 95.2), "cifar10": (66.5, 64.7), "fashion_mnist": (92.6, 89.7)}


def paper(dataset: str, method: str, case: str) -> float | None:
    """Published AUROC as a fraction, or None."""
    figures = PAPER.get((_family(dataset), method))
    if figures is None:
        return None
    place = int(case) if case.isdigit() else -1
    return figures[place] / 100 if place < len(figures) else None


def _family(dataset: str) -> str:
    """Data set that a file is a copy of: ``cifar10_jpeg_20k`` is CIFAR-10."""
    return next((name for name in DOMAINS if dataset == name or dataset.startswith(f"{name}_")), dataset)


def _domain(dataset: str, num_features: int) -> Domain:
    return DOMAINS.get(_family(dataset), LARGE if num_features > 100 else SMALL)


def _scaled(domain: Domain, x: np.ndarray) -> np.ndarray:
    x = x.reshape(len(x), -1).astype(np.float32)
    if domain.scale == "unit":
        return x / np.float32(255)
    if domain.scale == "none":
        return x
    scaler = preprocess.fit(x, Preprocess(scale="gcn", nan="error"))
    scaled, flags = preprocess.apply(scaler, x)
    if preprocess.unusable(scaler, flags).any():
        raise DataError(
            "some images have no contrast", expected="none constant", got=int((flags != 0).sum()), fix="remove them"
        )
    return np.asarray(scaled)


def cases(settings: Settings, data: common.Dataset) -> Iterator[Case]:
    """One case per normal class (or one for a table of normals and anomalies) and seed."""
    domain = _domain(settings.dataset, int(np.prod(data.x.shape[1:])))
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    if data.x_test is None:
        x = _scaled(domain, data.x)
        yield from (_table_case(settings, x, data.y, seed) for seed in seeds)
        return
    x, x_test = _scaled(domain, data.x), _scaled(domain, data.x_test)
    for normal in settings.classes or np.unique(data.y).tolist():
        rows = x[data.y == normal][: settings.train_rows or None]
        for seed in seeds:
            yield Case(str(normal), seed, rows, np.zeros(len(rows), np.int32), x_test, data.y_test != normal)


def _table_case(settings: Settings, x: np.ndarray, y: np.ndarray, seed: int) -> Case:
    """Normal rows to train on; the rest of them and all anomalies to test on.

    ``shuffled`` is ours, the paper being silent: 60 % of the normals train, chosen by seed. ``published``: the authors'
    2021 code for PIMA, which sorts by label, anomalies first, takes the first 40 % as the test set, and trains on the
    rest, all of it normal.
    """
    if settings.split == "published" and settings.dataset != "pima":
        raise ConfigError("the published split is PIMA's", where="split", got=settings.dataset, fix="use split=shuffled")
    positive = y == 1
    if settings.split == "published":
        order = np.argsort(~positive, kind="stable")
        cut = int(0.4 * len(y))
        train, test = order[cut:][~positive[order[cut:]]], order[:cut]
    else:
        normals = np.random.default_rng(seed).permutation(np.flatnonzero(~positive))
        cut = int(0.6 * len(normals))
        train, test = normals[:cut], np.concatenate([normals[cut:], np.flatnonzero(positive)])
    zeros = np.zeros(len(train), np.int32)
    return Case("normal", seed, x[train], zeros, x[test], positive[test])


def variants(settings: Settings) -> dict[str, dict[str, Any]]:
    """Hyper-parameters that the study compares, by the name of the row."""
    grid: dict[str, dict[str, dict[str, Any]]] = {
        "table2": {"dasvdd": {}},
        "table3": {"dasvdd": {}, "dasvdd fixed centre": {"fixed_centre": True}},
        "gamma": {"dasvdd": {}} | {f"gamma={g:g}": {"gamma": g} for g in (1e-5, 1e-3, 1e-1, 10.0, 1e3)},
        "runs": {f"T={t}": {"gamma_runs": t} for t in (1, 2, 5, 10, 20, 50)},
        "kappa": {f"kappa={k}": {"kappa": k} for k in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)},
        "latent": {f"latent={n}": {"latent": n} for n in (32, 64, 128, 256, 512, 1024, 2048)},
    }
    return grid[settings.study]


def _method(settings: Settings, name: str, domain: Domain, extra: dict[str, Any]):
    """Builder of a deep method with the data set's networks."""
    nets = {"hidden": domain.hidden, "latent": domain.latent, "output": domain.output}
    values = {"name": name, **nets, **settings.dasvdd, **extra}  # what the study compares comes last
    if name == "autoencoder":
        shared = {"code": "leaky_relu", "norm": False, "code_bias": True, "weights": "torch"}
        values = {"name": name, **nets, **shared}
    config = configure(values)
    return lambda plan: build(config, plan)


def _members(settings: Settings, domain: Domain) -> int:
    """Trainings side by side: all seeds of small networks; large ones fill the machine alone."""
    return settings.members or (settings.seeds if max(domain.hidden) < 128 else 1)


def _deep(settings: Settings, results: common.Results, todo: list[Case], label: str, name: str, extra) -> None:
    domain = _domain(settings.dataset, todo[0].x.shape[1])
    training = Training(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        remainder="drop",  # as the reference code does
        members=_members(settings, domain),
    )
    for outcome in run(todo, _method(settings, name, domain, extra), training):
        case, scores = outcome.case, outcome.scores
        parts = {part: auroc(values, case.positive) for part, values in scores.items() if part != "score"}
        value = auroc(scores["score"], case.positive)
        results.add(method=label, case=case.name, seed=case.seed, auroc=value, parts=parts, last=outcome.metrics[-1])
        common.progress(f"{settings.dataset} {label} case {case.name} seed {case.seed}: AUROC {value:.4f}")


def _classical(settings: Settings, results: common.Results, todo: list[Case], name: str) -> None:
    for case in todo:
        scorer = outliers.DETECTORS[CLASSICAL.get(name, name)](case.x, case.seed)
        value = auroc(scorer(case.x_test), case.positive)
        results.add(method=name, case=case.name, seed=case.seed, auroc=value, parts={}, last={})
        common.progress(f"{settings.dataset} {name} case {case.name} seed {case.seed}: AUROC {value:.4f}")


def summary(settings: Settings, results: common.Results) -> list[common.Row]:
    """Mean and spread per method and case, then the mean over cases."""
    rows = []
    for label in dict.fromkeys(entry["method"] for entry in results.runs):
        own = [entry for entry in results.runs if entry["method"] == label]
        names = sorted({entry["case"] for entry in own})
        means = []
        for name in names:
            values = [entry["auroc"] for entry in own if entry["case"] == name]
            means.append(float(np.mean(values)))
            rows.append(common.row(settings.dataset, name, label, "auroc", values, _published(settings, label, name)))
        if len(names) > 1:
            rows.append(common.mean_row(settings.dataset, label, "auroc", means, _mean(settings, label, names)))
    return rows


def _published(settings: Settings, label: str, case: str) -> float | None:
    return paper(settings.dataset, label, case) if settings.study == "table2" else None


def _mean(settings: Settings, label: str, names: list[str]) -> float | None:
    """The paper's mean over the classes that were run."""
    if settings.study == "table3" and label.startswith("dasvdd") and _family(settings.dataset) in TABLE3:
        return TABLE3[_family(settings.dataset)]["fixed" in label] / 100 if len(names) == 10 else None
    figures = [_published(settings, label, name) for name in names]
    return None if None in figures else float(np.mean(figures))


def main(argv: list[str] | None = None) -> None:
    given = common.arguments("dasvdd", __doc__, Settings, SMOKE, argv)
    settings: Settings = given.settings
    keys = ("dataset", "study", "epochs", "batch_size", "split", "train_rows", "dasvdd")
    results = common.Results(given.out, settings, keys)
    everything = list(cases(settings, common.dataset(settings.dataset, given.data)))
    for name in settings.methods:
        for label, extra in variants(settings).items() if name == "dasvdd" else {name: {}}.items():
            todo = [case for case in everything if not results.done(method=label, case=case.name, seed=case.seed)]
            if not todo:
                continue
            if name in outliers.DETECTORS:
                _classical(settings, results, todo, name)
            else:
                _deep(settings, results, todo, label, name, extra)
    results.write(summary(settings, results))


if __name__ == "__main__":
    common.guarded(main)

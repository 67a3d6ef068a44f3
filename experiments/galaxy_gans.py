"""One class of galaxies normal, the others anomalies: GANomaly and f-AnoGAN, tables 5.1 and 5.2 and appendix A of "Anomaly
detection in galaxy images".

    python -m experiments.galaxy_gans --data DIR dataset=labelled_64 seeds=3
    python -m experiments.galaxy_gans --data DIR dataset=Galaxy10_DECals size=256 batch_size=4 seeds=1

`labelled_64` has ordinary galaxies (normal) and odd ones. A data set of Galaxy10 DECaLS (``DIR/Galaxy10_DECals.h5`` or an
npz of images and classes) has the text's three cases: E (classes 2, 3), S (5, 6) and S0 (8, 9), each normal in turn.

Of the normal class 80 % train, a tenth of them only to set the threshold; the others and an equal number of anomalies,
drawn by seed, are the test set (``balance=false`` takes all anomalies). A data set that comes split keeps its split: normal
images of ``x_train`` train, those of ``x_test`` and as many anomalies there are the test.

F1 is given twice: at the threshold that 5 % of the normal galaxies kept for it lie above, and as the best over all
thresholds of the test set, which no survey can know but which some publish. The text has balanced test sets and does not say
which F1 it prints (its two rows cannot be the same one), so none of its table 5.2 stands beside ours.

Methods: ``methods=["ganomaly","fanogan","conv_autoencoder","wgan_gp"]``; ``NAME/DETECTOR`` puts a classical detector (`knn`,
`lof`, `isolation_forest`, `ocsvm`, `pca`, `kde`) on the method's embedding, ``pca64/DETECTOR`` on principal components.
Hyper-parameters: ``ganomaly.width=64``, and so on. By default networks are narrower than the published ones and epochs few:
what two cores can take.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astroad_jax import preprocess
from astroad_jax.analysis import galleries, outliers, plots
from astroad_jax.analysis.metrics import auroc, average_precision, f1
from astroad_jax.config import Frozen, Preprocess
from astroad_jax.errors import ConfigError, DataError
from experiments import common, gan

METHODS = ("ganomaly", "fanogan", "conv_autoencoder", "pca64/isolation_forest", "pca64/knn", "pca64/lof")


class Settings(Frozen):
    """What may be set on the command line."""

    dataset: str = "labelled_64"
    methods: tuple[str, ...] = METHODS
    cases: tuple[str, ...] = ()
    seeds: int = 3
    first_seed: int = 0
    size: int = 64
    epochs: int = 15
    batch_size: int = 32
    balance: bool = True
    augment: bool = True
    train_rows: int = 0
    ganomaly: dict[str, Any] = {}
    fanogan: dict[str, Any] = {}
    conv_autoencoder: dict[str, Any] = {}
    wgan_gp: dict[str, Any] = {}


SMOKE = {
    "methods": ("ganomaly", "fanogan", "conv_autoencoder/lof", "pca64/isolation_forest"), "seeds": 1, "epochs": 1,
    "size": 16, "train_rows": 96, "ganomaly": {"width": 4, "latent": 8}, "fanogan": {"width": 4, "latent": 8, "n_critic": 1},
    "conv_autoencoder": {"width": 4, "latent": 8},
}  # fmt: skip
DEFAULTS: dict[str, dict[str, Any]] = {
    "ganomaly": {"width": 16},
    "fanogan": {"width": 16, "average": 0.999},
    "conv_autoencoder": {"width": 16, "latent": 64},
    "wgan_gp": {"width": 16, "n_critic": 5, "learning_rate": 2e-4, "average": 0.999, "search": "latent",
                "search_rate": 0.05, "iterations": 100},
}  # fmt: skip

# AUROC of the text: cases E, S, S0
PAPER = {"ganomaly": {"auroc": (0.85, 0.64, 0.61)}, "fanogan": {"auroc": (0.89, 0.82, 0.80)}}
GALAXY10 = {"E": (2, 3), "S": (5, 6), "S0": (8, 9)}


class Split(NamedTuple):
    """Images of one case and seed, as the reader gave them."""

    train: np.ndarray
    held: np.ndarray  # normal, for the threshold
    test: np.ndarray
    positive: np.ndarray


def cases(settings: Settings, y: np.ndarray) -> dict[str, np.ndarray]:
    """Case -> which images are normal."""
    if len(np.unique(y)) == 2:
        return {"ordinary": y == 0}
    return {name: np.isin(y, classes) for name, classes in GALAXY10.items() if name in (settings.cases or GALAXY10)}


def whole(data: common.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Images, classes, and which of them the data set keeps for the test; None where it comes unsplit."""
    if data.x_test is None:
        return data.x, data.y, None
    kept = np.arange(len(data.x) + len(data.x_test)) >= len(data.x)
    return np.concatenate([data.x, data.x_test]), np.concatenate([data.y, data.y_test]), kept


def split(settings: Settings, data: common.Dataset, normal: np.ndarray, seed: int) -> Split:
    """Rows of one case: of Galaxy10 only the classes that are in some case take part."""
    x, y, kept = whole(data)
    rng = np.random.default_rng(seed)
    inliers = rng.permutation(np.flatnonzero(normal))
    among = np.ones(len(y), bool) if len(np.unique(y)) == 2 else np.isin(y, sum(GALAXY10.values(), ()))
    anomalies = rng.permutation(np.flatnonzero(~normal & among))
    cut = int(0.8 * len(inliers))
    train, rest = inliers[:cut], inliers[cut:]
    if kept is not None:
        train, rest, anomalies = inliers[~kept[inliers]], inliers[kept[inliers]], anomalies[kept[anomalies]]
        cut = len(train)
    held, train = train[: cut // 10], train[cut // 10 :][: settings.train_rows or None]
    if settings.balance:
        anomalies = anomalies[: len(rest)]
    test = np.concatenate([rest, anomalies])
    return Split(x[train], x[held], x[test], np.arange(len(test)) >= len(rest))


def judged(scores: np.ndarray, held: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    """All metrics of one ranking."""
    return {
        "auroc": auroc(scores, positive),
        "average precision": average_precision(scores, positive),
        "f1 at 5 % false alarms": f1(scores, positive, float(np.quantile(held, 0.95))),
        "f1 best": best_f1(scores, positive),
        "prevalence": float(positive.mean()),
    }


def best_f1(scores: np.ndarray, positive: np.ndarray) -> float:
    """Highest F1 over all thresholds, that below every score among them."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # equal scores are above a threshold together
    found = np.cumsum(positive[order])[last]
    return float(np.max(2 * found / (np.flatnonzero(last) + 1 + positive.sum())))


def _components(part: Split, seed: int) -> list[np.ndarray]:
    """64 whitened principal components of training, held-out and test images."""
    flat = [images.reshape(len(images), -1) for images in part[:3]]
    project = outliers.whitening(flat[0], seed, 64)
    return [project(rows) for rows in flat]


def runs(settings: Settings, name: str, part: Split, seed: int, out: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Label, held-out scores and test scores of one method of the list (a deep one and what stands on its embedding)."""
    deep, _, detector = name.partition("/")
    scaler = preprocess.fit(part.train, Preprocess(scale="linear", size=settings.size))
    part = Split(*(gan.scaled(scaler, images, settings.dataset) for images in part[:3]), part.positive)
    if deep == "pca64":
        train, held, test = _components(part, seed)
    else:
        keys = ("dataset", "size", "epochs", "batch_size", "augment", "train_rows", deep)
        out = gan.place(out, deep, settings, keys, seed)
        model = _model(settings, deep, part.train, seed, out / "run")
        if not detector:
            held, test = model.score(part.held), model.score(part.test)
            _figures(out, model, part, test["score"], held["score"])
            parts = ["score", *(key for key in test if key != "score")]  # the method itself first: it is recorded last
            labels = {key: name if key == "score" else f"{name}: {key}" for key in parts}
            yield from ((label, held[key], test[key]) for key, label in labels.items())
            return
        train, held, test = (model.embed(images) for images in part[:3])
    scorer = outliers.DETECTORS[detector](train, seed)
    yield name, scorer(held), scorer(test)


def _model(settings: Settings, name: str, x: np.ndarray, seed: int, out: Path) -> gan.Model:
    values = {"name": name, **DEFAULTS[name], **getattr(settings, name)}
    options = {"epochs": settings.epochs, "batch_size": settings.batch_size, "augment": settings.augment}
    return gan.train(values, x, seed=seed, out=out, **options)


def _figures(out: Path, model: gan.Model, part: Split, scores: np.ndarray, held: np.ndarray) -> None:
    """Appendix A: ROC curve, histogram of scores; and the least and most anomalous beside what the model makes of them."""
    plots.roc(out / "roc.png", {"test": (scores, part.positive)})
    parts = {"normal": scores[~part.positive], "abnormal": scores[part.positive]}
    plots.score_histogram(out / "scores.png", parts, {"5 % false alarms": float(np.quantile(held, 0.95))})
    order = np.argsort(scores)
    rows = np.concatenate([order[:4], order[-6:]])
    again = model.rebuild(part.test[rows], rows)
    captions = [f"{'abnormal' if part.positive[i] else 'normal'}\n{scores[i]:.3g}" for i in rows]
    columns = {"input": part.test[rows], "rebuilt": again, "residual": part.test[rows] - again}
    galleries.gallery(out / "gallery.png", columns, captions)
    plots.training_curves(out / "training.png", model.metrics)


def table(settings: Settings, results: common.Results) -> list[common.Row]:
    """One row a case, method and metric."""
    rows = []
    for label, case in dict.fromkeys((run["method"], run["case"]) for run in results.runs):
        own = [run["metrics"] for run in results.runs if run["method"] == label and run["case"] == case]
        for metric in own[0]:
            published = PAPER.get(label, {}).get(metric)
            figure = published[list(GALAXY10).index(case)] if published and case in GALAXY10 else None
            rows.append(common.row(settings.dataset, case, label, metric, [found[metric] for found in own], figure))
    return rows


def check(settings: Settings, data: common.Dataset) -> None:
    """Refuse, before hours of training, what would end in an error or in an empty table."""
    unknown = [case for case in settings.cases if case not in GALAXY10]
    if unknown:
        raise ConfigError("no such case", where="cases", expected=", ".join(GALAXY10), got=", ".join(unknown))
    for name in settings.methods:
        deep, slash, detector = name.partition("/")
        if deep not in (*DEFAULTS, "pca64") or (detector or slash) and detector not in outliers.DETECTORS:
            known = f"{', '.join(DEFAULTS)}, alone or with /DETECTOR; pca64/DETECTOR; {', '.join(outliers.DETECTORS)}"
            raise ConfigError("no such method", where="methods", expected=known, got=name)
        if name == "pca64":
            raise ConfigError("principal components score nothing by themselves", where="methods", fix="pca64/knn")
    classes = np.unique(data.y)
    if len(classes) == 2 and 0 not in classes:
        raise DataError("no class is 0, the normal one", where=settings.dataset, got=classes.tolist())


def main(argv: list[str] | None = None) -> None:
    given = common.arguments("galaxy_gans", __doc__, Settings, SMOKE, argv)
    settings: Settings = given.settings
    keys = ("dataset", "size", "epochs", "batch_size", "balance", "augment", "train_rows", *DEFAULTS)
    results = common.Results(given.out, settings, keys)
    data = common.dataset(settings.dataset, given.data)
    check(settings, data)
    for case, normal in cases(settings, whole(data)[1]).items():
        for seed in range(settings.first_seed, settings.first_seed + settings.seeds):
            for name in settings.methods:
                if results.done(method=name, case=case, seed=seed):
                    continue
                part = split(settings, data, normal, seed)
                found = list(runs(settings, name, part, seed, given.out / case))
                for label, held, scores in reversed(found):  # the method itself last: it says that all are there
                    metrics = judged(scores, held, part.positive)
                    results.add(method=label, case=case, seed=seed, metrics=metrics)
                    common.progress(f"{case} seed {seed} {label}: AUROC {metrics['auroc']:.4f}")
    results.write(table(settings, results))


if __name__ == "__main__":
    common.guarded(main)

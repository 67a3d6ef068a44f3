"""Strange spectra among DESI's galaxies by a variational autoencoder: Nicolaou et al., "Identifying anomalous DESI galaxy
spectra with a variational autoencoder".

    python -m experiments.desi_vae --data DIR                         (15,000 updates; an hour or two on two cores)
    python -m experiments.desi_vae --data DIR epochs=50               (2,200 updates; far from trained)
    python -m experiments.desi_vae --data DIR survey=/path/to/desi_edr epochs=50 vae.plateau=5    (the paper's)

With ``survey`` (coadds and redrock files in directories, or a MultimodalUniverse HDF5; ``desi_edr`` below DIR is found by
itself) it is the paper's: DESI EDR spectra at z of 0 to 0.3 with a median signal-to-noise above 5. Without it a semi-real
survey is made (`experiments.desi_sky`) from the redrock templates and the noise of real spectra below DIR, of the paper's
class mix and with anomalies of the paper's kinds planted in it, which no training can tell from the rest.

75 % train, 25 % validate. Scores: weighted error (eq. 6), reconstruction probability, coherent residuals (this package's
own), local outlier factor of the latent means (k = 20), and the ranks of the first and the last combined: their mean, and
the higher of the two (``any``). Reported beside the paper's figures: weighted error by class on validation rows, without
the planted anomalies (one of which may be worth hundreds of galaxies), against ten principal components; the 1 %
thresholds over the training rows, without planted ones too, and what the strangest of all training rows are like (the
share of them that the paper's 100 are); of each planted kind the share within the top 1 % and its own share of a survey
without the other kinds, by third of signal-to-noise as well; what 50 labels do for an expert who wants some kinds only
(section 5.3: the first 50 by the local outlier factor, all labelled before anything is ranked anew; paper's wanted ones:
discontinuities and extreme emission lines), with Astronomaly's reach of a label and with ten times it (``alphas``). Then
the real SDSS, LAMOST and DESI spectra below DIR, scored by that model. The figures are the paper's 2 to 20.

Expected of a trained network: galaxies at 0.95 to 1.15, stars and quasars above them. The paper's 50 epochs of 156,000
spectra are 15,000 updates, and 50 epochs of 22,500 are 2,200: too few. So are the 220 updates in its patience of 5
epochs: here epochs and patience are seven times the paper's. And there is no dropout (``vae.dropout=0.2`` for the
paper's), which with so few spectra takes the weighted error of galaxies from 1.03 to 1.2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from astroad_jax import preprocess
from astroad_jax.analysis import active, outliers
from astroad_jax.analysis.ranks import combined_rank
from astroad_jax.config import Frozen, Preprocess, Spectra
from astroad_jax.errors import ConfigError, DataError
from experiments import common, desi_anomalies, desi_figures, desi_real, desi_sky, gan, spectra_model
from experiments.desi_real import Sample
from experiments.desi_sky import Survey
from experiments.spectra_model import Model


class Settings(Frozen):
    """What may be set on the command line."""

    survey: str = ""
    size: int = 30_000
    planted: float = 0.0006
    survey_seed: int = 0
    bins: int = 1_000
    train_share: float = 0.75
    epochs: int = 350
    batch_size: int = 512
    neighbours: int = 20
    labels: int = Field(50, ge=1)
    labels_per_round: int = Field(50, ge=1)
    alphas: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = Field((1.0, 0.1), min_length=1)
    wanted: tuple[str, ...] = ("camera step", "extreme lines")
    seeds: int = 1
    first_seed: int = 0
    vae: dict[str, Any] = {}


SMOKE = {
    "size": 400, "planted": 0.02, "bins": 200, "epochs": 2, "batch_size": 64, "labels": 20,
    "vae": {"hidden": (32, 16), "latent": 3, "samples": 2},
}  # fmt: skip
DEFAULTS: dict[str, Any] = {"name": "vae", "likelihood": "ivar", "plateau": 35, "dropout": 0.0}
TOP = 100 / 155_952  # share of the training rows that the paper looks at as the strangest
PAPER = {
    "weighted MSE": {"all": 1.12, "GALAXY": 1.09, "STAR": 1.87, "QSO": 2.57},
    "threshold": {"weighted_mse": 2.55, "lof": 1.44},
    "median of the top 0.064 %": {"weighted_mse": 13.0, "lof": 2.25},
    "median S/N of the top 0.064 %": {"weighted_mse": 42.0, "lof": 7.0},
}


class Drawn(NamedTuple):
    """Real spectra, scaled, what the model makes of them, and their weighted error."""

    sample: Sample
    rebuilt: np.ndarray
    error: np.ndarray


class Scored(NamedTuple):
    """A survey with what the model makes of it; `train` are its training rows, `scores` by name, up = stranger."""

    survey: Survey
    train: np.ndarray
    z: np.ndarray  # (N, 2, W) scaled
    rebuilt: np.ndarray
    codes: np.ndarray
    scores: dict[str, np.ndarray]
    pca: np.ndarray


def find_survey(settings: Settings, data: Path | None, spectra: Spectra) -> Survey:
    """The user's DESI spectra where there are any, else the semi-real survey.

    Raises
    ------
    DataError
        Neither is there.
    """
    places = [] if data is None else [*data.glob("desi_edr"), *data.glob("*/desi_edr"), *data.glob("desi_edr.hdf5")]
    path = settings.survey or next((str(place) for place in places), "")
    if not path:
        made = desi_sky.Settings(size=settings.size, planted=settings.planted, seed=settings.survey_seed)
        return desi_sky.make(made, data, spectra)
    held = desi_real.read(path, spectra)
    count = len(held.x)
    return Survey(held.ids, held.x, held.z, held.snr, held.spectype, np.full(count, "", "U1"), held.flags)


def usable(survey: Survey) -> Survey:
    """Objects that are fit for the sample; says how many are not, and why.

    Raises
    ------
    DataError
        Hardly any is left.
    """
    lost = survey.flags != 0
    common.progress(f"{len(lost)} spectra, {lost.sum()} left out: {preprocess.count_flags(survey.flags) or 'none'}")
    if (~lost).sum() < 100:
        got = f"{(~lost).sum()} of {len(lost)}; left out: {preprocess.count_flags(survey.flags) or 'none'}"
        raise DataError("too few spectra to train on", expected="at least 100", got=got, fix="give more")
    return survey.take(np.flatnonzero(~lost))


def trained(settings: Settings, survey: Survey, seed: int, out: Path) -> tuple[Model, Scored]:
    """Split, scale, train and score."""
    order = np.random.default_rng([seed, 2]).permutation(len(survey.ids))
    train = np.zeros(len(order), bool)
    train[order[: int(settings.train_share * len(order))]] = True
    scaler = preprocess.fit(survey.x[train], Preprocess(scale="spectrum"))
    z, flags = preprocess.apply(scaler, survey.x)
    fit = ~preprocess.unusable(scaler, flags)
    survey, train, z = survey.take(np.flatnonzero(fit)), train[fit], np.asarray(z)[fit]
    values = {**DEFAULTS, **settings.vae}
    options = {"epochs": settings.epochs, "batch_size": settings.batch_size, "seed": seed, "out": out / "run"}
    model = spectra_model.train(values, (z[train], z[~train]), scaler, **options)
    codes, found = model.embed(z), model.score(z, survey.ids)
    scores = {name: found[name] for name in ("weighted_mse", "probability", "coherent") if name in found}
    scores["lof"] = outliers.lof_of_sample(codes, k=settings.neighbours)
    scores["combined"] = combined_rank(scores["weighted_mse"], scores["lof"])
    scores["any"] = combined_rank(scores["weighted_mse"], scores["lof"], rule="max")
    return model, Scored(survey, train, z, model.rebuild(z), codes, scores, pca_error(z, train, codes.shape[1]))


def pca_error(z: np.ndarray, train: np.ndarray, components: int) -> np.ndarray:
    """(N,) weighted error of spectra rebuilt from as many principal components of the training spectra as the code has."""
    flux = z[:, 0].astype(np.float64)
    mean = flux[train].mean(0)
    _, vectors = np.linalg.eigh(np.cov((flux[train] - mean).T))
    basis = vectors[:, ::-1][:, :components]
    return (z[:, 1] * (flux - mean - (flux - mean) @ basis @ basis.T) ** 2).mean(1)


class Measures(list):
    """Rows of one run: case, method, metric, value, the paper's figure."""

    def note(self, case: str, method: str, metric: str, value: float, paper: float | None = None) -> None:
        """Add a row."""
        self.append({"case": case, "method": method, "metric": metric, "value": float(value), "paper": paper})


def by_class(measures: Measures, scored: Scored) -> None:
    """Weighted error on validation rows, planted anomalies apart."""
    held, planted = ~scored.train, scored.survey.kind != ""
    for name, error in (("vae", scored.scores["weighted_mse"]), ("pca", scored.pca)):
        for group, published in PAPER["weighted MSE"].items():
            own = held & ~planted & ((scored.survey.spectype == group) | (group == "all"))
            if own.any():
                paper = published if name == "vae" else None
                measures.note("validation", name, f"weighted MSE, {group}", error[own].mean(), paper)
        if (held & planted).any():
            measures.note("validation", name, "weighted MSE, all and planted", error[held].mean())


def thresholds(measures: Measures, scored: Scored) -> dict[str, float]:
    """1 % thresholds over the training rows that are not planted, and what the strangest of all training rows are like."""
    found = {}
    for name, score in scored.scores.items():
        own, snr = score[scored.train], scored.survey.snr[scored.train]
        found[name] = float(np.quantile(score[scored.train & (scored.survey.kind == "")], 0.99))
        measures.note("training", name, "1 % threshold", found[name], PAPER["threshold"].get(name))
        first = np.argsort(-own)[: max(1, round(TOP * len(own)))]
        for metric, values in (("median of the top 0.064 %", own), ("median S/N of the top 0.064 %", snr)):
            measures.note("training", name, metric, np.median(values[first]), PAPER[metric].get(name))
    return found


def by_kind(measures: Measures, scored: Scored) -> None:
    """Share of each planted kind within the top 1 % and its own share of a survey in which it is the only one.

    Likewise among validation rows alone, for what a network has been trained on it may have learnt by heart; and among
    galaxies alone, for stars and quasars are more than 1 % of a survey and as strange as most of what is planted.
    """
    for kind in [kind for kind in desi_anomalies.KINDS if (scored.survey.kind == kind).any()]:
        rows = np.flatnonzero(np.isin(scored.survey.kind, ("", kind)))
        own, snr = scored.survey.kind[rows] == kind, scored.survey.snr[rows]
        parts = {"not trained on": ~scored.train[rows], "among galaxies": own | (scored.survey.spectype[rows] == "GALAXY")}
        thirds = np.digitize(snr, np.quantile(snr[own], [1 / 3, 2 / 3]))
        for name, score in scored.scores.items():
            top = _in_top(score[rows], own)
            measures.note(kind, name, "share in the top 1 % and its own", top[own].mean())
            for title, part in parts.items():
                if own[part].any():
                    share = _in_top(score[rows][part], own[part])[own[part]].mean()
                    measures.note(kind, name, f"share in the top 1 % and its own, {title}", share)
            for third, title in enumerate(("faint", "middle", "bright")):
                part = own & (thirds == third)
                if part.any():
                    measures.note(kind, name, f"share in the top 1 % and its own, {title} third", top[part].mean())
        measures.note(kind, "planted", "median S/N", np.median(snr[own]))
        measures.note(kind, "planted", "objects", own.sum())


def _in_top(score: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Which objects are among as many of the strangest as 1 % of the others and all of their own are."""
    top = np.zeros(len(score), bool)
    top[np.argsort(-score, kind="stable")[: int(np.ceil(0.01 * (~own).sum())) + own.sum()]] = True
    return top


def learning(measures: Measures, settings: Settings, scored: Scored, seed: int) -> dict[str, dict[float, active.Curve]]:
    """A simulated expert who wants the paper's kinds, and one for each kind alone: curves by alpha."""
    kinds = scored.survey.kind
    groups = {" + ".join(settings.wanted): settings.wanted} | {kind: (kind,) for kind in desi_anomalies.KINDS}
    curves = {}
    for name, wanted in groups.items():
        if not np.isin(kinds, wanted).any():
            continue
        each = min(settings.labels, settings.labels_per_round)
        sizes = {"labels_per_round": each, "rounds": -(-settings.labels // each), "seed": seed}
        for alpha in settings.alphas:
            curve = active.simulate(scored.codes, scored.scores["lof"], np.isin(kinds, wanted), alpha=alpha, **sizes)
            after, method = int(curve.labels[-1]), f"active learning, alpha {alpha:g}"
            measures.note(name, method, f"share of the next 100 after {after} labels", curve.share[-1])
            curves.setdefault(name, {})[alpha] = curve
        measures.note(name, "lof", f"share of the next 100 after {after} seen", curve.raw_share[-1])
    return curves


def real(
    measures: Measures,
    model: Model,
    scored: Scored,
    samples: dict[str, Sample],
    limits: dict[str, float],
    neighbours: int,
) -> dict[str, Drawn]:
    """Real spectra scored by the model, all in one go; returns what is drawn of them."""
    kept = {name: _scaled(measures, model, name, sample) for name, sample in samples.items()}
    kept = {name: sample for name, sample in kept.items() if len(sample.x)}
    if not kept:
        return {}
    whole = Sample(*(np.concatenate(values) for values in zip(*kept.values())))
    found = model.score(whole.x, whole.ids)["weighted_mse"], model.rebuild(whole.x)
    isolation = outliers.lof(scored.codes[scored.train], 0, k=neighbours)(model.embed(whole.x))
    drawn, start = {}, 0
    for name, sample in kept.items():
        rows = slice(start, start + len(sample.x))
        start = rows.stop
        drawn[name] = Drawn(sample, found[1][rows], found[0][rows])
        measures.note(name, "vae", "median weighted MSE", np.median(found[0][rows]))
        measures.note(name, "vae", "above the 1 % threshold", (found[0][rows] > limits["weighted_mse"]).mean())
        measures.note(name, "lof", "above the 1 % threshold", (isolation[rows] > limits["lof"]).mean())
        measures.note(name, "vae", "median S/N", np.median(sample.snr))
    return drawn


def _scaled(measures: Measures, model: Model, name: str, sample: Sample) -> Sample:
    """Those objects of a set that can be scored, of unit norm; the others are counted."""
    z, fit = model.scaled(sample.x)
    rows = np.flatnonzero(fit & (sample.flags == 0))
    common.progress(f"{name}: {len(rows)} of {len(fit)} scored; left out: {preprocess.count_flags(sample.flags) or 'none'}")
    measures.note(name, "vae", "spectra", len(fit))
    measures.note(name, "vae", "scored", len(rows))
    return sample._replace(x=z).take(rows)


def one(settings: Settings, survey: Survey, seed: int, out: Path, data: Path | None, spectra: Spectra) -> Measures:
    """A whole run."""
    model, scored = trained(settings, survey, seed, out)
    measures = Measures()
    by_class(measures, scored)
    limits = thresholds(measures, scored)
    by_kind(measures, scored)
    curves = learning(measures, settings, scored, seed)
    drawn = real(measures, model, scored, desi_real.everything(data, spectra), limits, settings.neighbours)
    desi_figures.draw(out, model, scored, limits, curves, drawn, spectra)
    return measures


def table(results: common.Results, name: str) -> list[common.Row]:
    """One row a case, method and metric."""
    found: dict[tuple, list[float]] = {}
    for run in results.runs:
        for item in run["measures"]:
            key = (item["case"], item["method"], item["metric"], item["paper"])
            found.setdefault(key, []).append(item["value"])
    return [common.row(name, *key[:3], values, key[3]) for key, values in found.items()]


def check(settings: Settings) -> None:
    """Refuse, before hours of training, what would end in an error or in an empty table."""
    unknown = [kind for kind in settings.wanted if kind not in desi_anomalies.KINDS]
    if unknown:
        known = ", ".join(desi_anomalies.KINDS)
        raise ConfigError("no such kind of anomaly", where="wanted", expected=known, got=", ".join(unknown))
    if not 0 < settings.train_share < 1:
        raise ConfigError("a share is between 0 and 1", where="train_share", got=settings.train_share)
    if not 0 <= settings.planted <= 0.1:
        raise ConfigError("anomalies are rare", where="planted", expected="0 to 0.1 of each kind", got=settings.planted)


def main(argv: list[str] | None = None) -> None:
    given = common.arguments("desi_vae", __doc__, Settings, SMOKE, argv)
    settings: Settings = given.settings
    check(settings)
    keys = tuple(name for name in Settings.model_fields if name not in ("seeds", "first_seed"))
    results = common.Results(given.out, settings, keys)
    spectra = Spectra(bins=settings.bins)
    every = range(settings.first_seed, settings.first_seed + settings.seeds)
    seeds = [seed for seed in every if not results.done(seed=seed)]
    survey = usable(find_survey(settings, given.data, spectra)) if seeds else None
    for seed in seeds:
        out = gan.place(given.out, "vae", settings, keys, seed)
        results.add(seed=seed, measures=one(settings, survey, seed, out, given.data, spectra))
    results.write(table(results, settings.survey or "semi-real DESI"))


if __name__ == "__main__":
    common.guarded(main)

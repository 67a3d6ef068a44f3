"""The figures of `experiments.desi_vae`: those of Nicolaou et al., with their numbers in the files' names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from astroad_jax import files
from astroad_jax.analysis import galleries, latent, latent_plots, lines, maps, plots, report, spectra_plots
from astroad_jax.config import Spectra
from astroad_jax.preprocess.spectra import grid_centres

if TYPE_CHECKING:
    from experiments.desi_vae import Scored
    from experiments.spectra_model import Model

MAPPED = 4_000  # objects of a t-SNE map, the rare ones first
SHOWN = 3  # objects of a kind
STATIONS, NEAREST = 5, 30


def draw(
    out: Path,
    model: Model,
    scored: Scored,
    limits: Mapping[str, float],
    curves: Mapping[str, Any],
    real: Mapping[str, Any],
    spectra: Spectra,
) -> None:
    """All of them."""
    wave = grid_centres(spectra)
    plots.training_curves(out / "training.png", model.metrics)
    _rebuilt(out, wave, scored)
    _strangest(out, wave, scored)
    _histograms(out, scored, limits)
    _maps(out, scored)
    _tracks(out, wave, scored)
    _dimensions(out, wave, model, scored)
    _learning(out, curves)
    for name, (sample, rebuilt, error) in real.items():
        first = np.argsort(-error)[:4]
        notes = [_remark(wave, sample.x[i], rebuilt[i], sample.z[i]) for i in first]
        captions = [f"{sample.ids[i]} {sample.spectype[i]}, S/N {sample.snr[i]:.0f}, {error[i]:.1f}" for i in first]
        path = out / f"real_{name.replace(' ', '_')}.png"
        spectra_plots.strangest(path, wave, sample.x[first], rebuilt[first], captions, notes, name)


def _groups(scored: Scored) -> np.ndarray:
    """Class of every object, planted ones apart."""
    return np.where(scored.survey.kind != "", "planted", scored.survey.spectype)


def _rebuilt(out: Path, wave: np.ndarray, scored: Scored) -> None:
    """Figures 2 to 8: validation objects near the signal-to-noise of the paper's."""
    flux, groups, held = scored.z[:, 0], _groups(scored), ~scored.train
    halpha = lines.strength(wave, flux, "Halpha").width
    wanted = {
        "2_3_elliptical": (held & (groups == "GALAXY") & (np.abs(halpha) < 5), 33),
        "4_5_emission_line": (held & (groups == "GALAXY") & (halpha > 20), 14),
        "6_7_quasar": (held & (groups == "QSO"), 17),
        "8_star": (held & (groups == "STAR"), 27),
    }
    for name, (mask, snr) in wanted.items():
        rows = np.flatnonzero(mask)
        rows = rows[np.argsort(np.abs(np.log(scored.survey.snr[rows] / snr)))[:SHOWN]]
        if len(rows):
            captions = [_caption(scored, i) for i in rows]
            path = out / f"figure_{name}.png"
            spectra_plots.reconstructions(path, wave, scored.z[rows], scored.rebuilt[rows], captions)


def _caption(scored: Scored, i: int) -> str:
    kind = scored.survey.kind[i] or scored.survey.spectype[i]
    error, factor = scored.scores["weighted_mse"][i], scored.scores["lof"][i]
    return f"{kind}, z {scored.survey.z[i]:.3f}, S/N {scored.survey.snr[i]:.0f}, weighted MSE {error:.2f}, LOF {factor:.2f}"


def _remark(wave: np.ndarray, spectrum: np.ndarray, rebuilt: np.ndarray, z: float) -> dict[float, str]:
    return lines.remark(wave, (spectrum[0] - rebuilt) * np.sqrt(spectrum[1]), float(z))


def _strangest(out: Path, wave: np.ndarray, scored: Scored) -> None:
    """Figures 10 and 12, and of each planted kind the least strange by the score that finds most of it: what was missed."""
    chosen = {"figure_10_strangest_weighted_mse": _varied(scored, "weighted_mse")}
    chosen["figure_12_strangest_lof"] = _varied(scored, "lof")
    for kind in sorted(set(scored.survey.kind.tolist()) - {""}):
        own = np.flatnonzero(scored.survey.kind == kind)
        best = max(scored.scores, key=lambda name: np.median(_places(scored.scores[name])[own]))
        chosen[f"least_strange_{kind.replace(' ', '_')}_by_{best}"] = own[np.argsort(scored.scores[best][own])[:4]]
    for name, rows in chosen.items():
        notes = [_remark(wave, scored.z[i], scored.rebuilt[i], scored.survey.z[i]) for i in rows]
        captions = [_caption(scored, i) for i in rows]
        spectra_plots.strangest(out / f"{name}.png", wave, scored.z[rows], scored.rebuilt[rows], captions, notes)


def _places(score: np.ndarray) -> np.ndarray:
    """Place of every object from the least strange."""
    places = np.empty(len(score), int)
    places[np.argsort(score)] = np.arange(len(score))
    return places


def _varied(scored: Scored, name: str, most: int = 2) -> np.ndarray:
    """The strangest, at most two of a kind, as the paper skips similar ones."""
    groups = np.where(scored.survey.kind != "", scored.survey.kind, scored.survey.spectype)
    rows, seen = [], {}
    for i in np.argsort(-scored.scores[name])[:500]:
        if seen.setdefault(groups[i], 0) < most and len(rows) < 6:
            rows.append(i)
            seen[groups[i]] += 1
    return np.array(rows)


def _histograms(out: Path, scored: Scored, limits: Mapping[str, float]) -> None:
    """Figures 9 and 11, by class."""
    groups = _groups(scored)
    numbers = {"weighted_mse": "figure_9_", "lof": "figure_11_"}
    for name, score in scored.scores.items():
        parts = {group: score[scored.train & (groups == group)] for group in dict.fromkeys(groups.tolist())}
        parts = {group: values for group, values in parts.items() if len(values)}
        path = out / f"{numbers.get(name, 'scores_')}{name}.png"
        plots.score_histogram(path, parts, {"1 % of training rows": limits[name]}, name)


def _maps(out: Path, scored: Scored) -> None:
    """Figure 13, and the t-SNE map of section 5.3."""
    groups = _groups(scored)
    latent_plots.corner(out / "figure_13_corner.png", scored.codes[scored.train], groups[scored.train])
    rare = np.flatnonzero(groups != "GALAXY")[: MAPPED // 2]
    rows = np.concatenate([np.flatnonzero(groups == "GALAXY")[: MAPPED - len(rare)], rare])
    if len(rows) > 100:
        places, kinds = maps.tsne(scored.codes[rows], seed=0), scored.survey.kind[rows]
        galleries.scatter(out / "tsne_class.png", places, groups[rows], label="t-SNE of latent means")
        named = np.where(kinds != "", kinds, "not planted")
        galleries.scatter(out / "tsne_kind.png", places, named, label="t-SNE of latent means")


def _tracks(out: Path, wave: np.ndarray, scored: Scored) -> None:
    """Figures 14 to 19: along the spine of each class, of galaxies apart for blue and red ones.

    The paper's are drawn by hand. Here they run in the two dimensions in which a class is spread most.
    """
    groups, red = _groups(scored), lines.break_4000(wave, scored.rebuilt)
    for group, number in (("GALAXY", "14_15"), ("QSO", "16_17"), ("STAR", "18_19")):
        rows = np.flatnonzero(groups == group)
        if len(rows) < 2 * STATIONS:
            continue
        pair = np.sort(np.argsort(-scored.codes[rows].std(0))[:2])
        half = np.nanmedian(red[rows])
        parts = {"B": rows[red[rows] < half], "R": rows[red[rows] >= half]} if group == "GALAXY" else {group[0]: rows}
        found = {}
        for name, members in parts.items():
            places = scored.codes[members][:, pair]
            way = latent.track(places, latent.spine(places), STATIONS, NEAREST)
            stacks = latent.stack(scored.z[members[way.rows], 0], scored.z[members[way.rows], 1])
            found[name] = (way, stacks)
        path = out / f"figure_{number}_tracks_{group}.png"
        latent_plots.tracks(path, scored.codes[rows][:, pair], wave, found, (int(pair[0]) + 1, int(pair[1]) + 1))


def _dimensions(out: Path, wave: np.ndarray, model: Model, scored: Scored) -> None:
    """Figure 20 and table 1."""
    made = model.decode(latent.traversal(scored.codes[scored.train]))
    latent_plots.traversals(out / "figure_20_dimensions.png", wave, made)
    rows = lines.changes(wave, made[:, 0], made[:, -1])
    files.write_json(out / "table_1.json", rows)
    files.write_text(out / "table_1.txt", report.table(lines.arrows(rows)) + "\n")


def _learning(out: Path, curves: Mapping[str, Any]) -> None:
    """Share of wanted objects against labels: an expert's, by the reach of a label, and that of the scores as they are."""
    if not curves:
        return
    figure, axes_of = plots.panels(len(curves), width=3.6, height=2.8)
    for axes, (name, by_alpha) in zip(axes_of, curves.items()):
        for i, (alpha, curve) in enumerate(by_alpha.items()):
            axes.plot(
                curve.labels,
                curve.share,
                "o-",
                color=plots.COLOURS[2 * i % len(plots.COLOURS)],
                label=f"active learning, alpha {alpha:g}",
            )
        axes.plot(curve.labels, curve.raw_share, "s--", color=plots.COLOURS[1], label="local outlier factor")
        axes.set(xlabel="labels", ylabel=f"share of the next {curve.ahead}")
        axes.margins(y=0.1)
        axes.set_title(name, fontsize=9)
    handles, names = axes_of[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    plots.save(figure, out / "learning.png")

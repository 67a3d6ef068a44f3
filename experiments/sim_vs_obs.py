"""Simulation against observation: Margalef-Bentabol et al. 2020, section 4.2 and figures 13 to 16, on real SDSS galaxies.

    python -m experiments.sim_vs_obs --data DIR
    python -m experiments.sim_vs_obs --data DIR observed=unlabelled_64_jpeg test_images=1000

A mock sky is matched to observed images, others than those scored (noise and its correlation, sky level, sizes,
brightnesses, colours, and the asinh stretch of the images; `data.sky_match`). A WGAN-GP is trained on mocks alone; held-out
mocks and observed galaxies are scored, and their distributions compared: overall (the share of observed galaxies beyond the
mocks' 85, 90 and 95 % thresholds, the AUROC of observed against mock, which is 0.5 where the network sees no difference,
and the Kolmogorov-Smirnov distance), and against brightness, size, concentration and asymmetry, measured in both alike.

The paper has 1,524,118 mocks of Horizon-AGN and 17,611 galaxies of CANDELS, and prints figures, no numbers: its finding is
that observations score higher. Networks and search are set as in `experiments.wgan_mergers`, and training but for its
length. `scores.png` has the distributions (figure 13), `map.png` the critic's features (14), `gallery.png` the least and the
most strange (15), `properties.png` the distributions in ranges of each property (16).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ks_2samp

from astroad_jax import preprocess
from astroad_jax.analysis import galleries, maps, plots
from astroad_jax.analysis.metrics import auroc
from astroad_jax.config import Preprocess
from astroad_jax.data import sky, sky_match
from experiments import common, gan


class Settings(gan.Searched):
    """What may be set on the command line."""

    observed: str = "labelled_64"
    train_images: int = 8_000
    mergers: float = 0.1


def properties(images: np.ndarray) -> dict[str, np.ndarray]:
    """Brightness, half-light radius, concentration and asymmetry of stretched images ``(N, S, S, C)`` in [0, 255].

    Simple on purpose, and of the images as the network sees them: mock and real ones are measured alike.
    """
    light = images.mean(-1) - np.median(images.mean(-1), axis=(1, 2), keepdims=True)
    side = np.arange(light.shape[1]) - (light.shape[1] - 1) / 2
    radius = np.hypot(*np.meshgrid(side, side)).ravel()
    order = np.argsort(radius, kind="stable")
    inside = np.cumsum(np.clip(light.reshape(len(light), -1), 0, None)[:, order], axis=1)
    total = np.maximum(inside[:, -1:], 1e-6)
    r20, r50, r80 = (
        radius[order][(inside < share * total).sum(1).clip(max=inside.shape[1] - 1)] for share in (0.2, 0.5, 0.8)
    )
    turned = np.abs(light - light[:, ::-1, ::-1]).sum((1, 2)) / np.maximum(np.abs(light).sum((1, 2)), 1e-6) / 2
    concentration = 5 * np.log10(np.maximum(r80, 0.5) / np.maximum(r20, 0.5))
    dark = inside[:, -1] <= 0
    r50, concentration = (np.where(dark, np.nan, value) for value in (r50, concentration))
    return {
        "log brightness": np.log10(total[:, 0] / light[0].size),
        "half-light radius (pixels)": r50,
        "concentration": concentration,
        "asymmetry": turned,
    }


def mock(observed: np.ndarray) -> tuple[sky.Sky, sky_match.Stretch]:
    """A sky like the observed one, and the stretch of its images."""
    how = sky_match.Stretch()
    return sky_match.like(observed, how), how


def drawn(settings: Settings, like: sky.Sky, how: sky_match.Stretch, count: int, seed: int) -> np.ndarray:
    """Stretched mock images, mostly isolated galaxies."""
    shares = {"isolated": 1 - settings.mergers, "pair": settings.mergers / 2, "post_merger": settings.mergers / 2}
    chunks = sky.stream(like, count, shares, seed).chunks(columns=["image"])
    return np.concatenate([sky_match.stretch(chunk["image"], how).astype(np.float32) for chunk in chunks])


def one(settings: Settings, observed: np.ndarray, seed: int, out: Path) -> dict[str, Any]:
    """Train on mocks, score both, draw."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(observed))
    real = observed[order[: settings.test_images]].astype(np.float32)
    like, how = mock(observed[order[settings.test_images :]])
    images, held = (drawn(settings, like, how, n, s) for n, s in ((settings.train_images, 1), (len(real), 2)))
    scaler = preprocess.fit(images, Preprocess(scale="linear", size=settings.size))
    x, x_held, x_real = (gan.scaled(scaler, part, "images") for part in (images, held, real))
    model = settings.train(x, seed, out / "run")
    scores = model.score(np.concatenate([x_held, x_real]))["score"]
    is_real = np.arange(len(scores)) >= len(held)
    figures(out, model, np.concatenate([x_held, x_real]), np.concatenate([held, real]), scores, is_real)
    shares = {f"observed beyond {p} %": float((scores[is_real] > t).mean())
              for p, t in gan.thresholds(scores[~is_real]).items()}  # fmt: skip
    both = {"auroc of observed against mock": auroc(scores, is_real)}
    return {**shares, **both, "Kolmogorov-Smirnov distance": float(ks_2samp(scores[is_real], scores[~is_real]).statistic)}


def figures(out: Path, model: gan.Model, x: np.ndarray, images: np.ndarray, scores: np.ndarray, is_real: np.ndarray) -> None:
    """Figures 13 to 16 of the paper."""
    lines = {f"{p} %": t for p, t in gan.thresholds(scores[~is_real]).items()}
    plots.score_histogram(out / "scores.png", {"mock": scores[~is_real], "observed": scores[is_real]}, lines)
    order = np.flatnonzero(is_real)[np.argsort(scores[is_real])]
    rows = np.concatenate([order[:5], order[-5:]])
    rebuilt = model.rebuild(x[rows], rows)
    columns = {"observed": x[rows], "closest generated": rebuilt, "residual": x[rows] - rebuilt}
    galleries.gallery(out / "gallery.png", columns, [f"{scores[i]:.3g}" for i in rows])
    flagged = scores > gan.thresholds(scores[~is_real])[90]
    groups = {"mock": ~is_real, "observed": is_real}
    measured = properties(images)
    for draw, of, name in (
        (galleries.fractions, flagged, "fractions"),
        (galleries.scores_by_property, scores, "properties"),
    ):
        panels = {title: {group: (values[mask], of[mask]) for group, mask in groups.items()}
                  for title, values in measured.items()}  # fmt: skip
        draw(out / f"{name}.png", panels)
    if len(x) > 200:
        places = maps.tsne(model.features(x), seed=0)
        galleries.scatter(
            out / "map.png", places, np.where(is_real, "observed", "mock"), label="t-SNE of the critic's features"
        )
    plots.training_curves(out / "training.png", model.metrics)


def main(argv: list[str] | None = None) -> None:
    given = common.arguments("sim_vs_obs", __doc__, Settings, gan.SMOKE, argv)
    settings: Settings = given.settings.resolved()
    keys = tuple(name for name in Settings.model_fields if name not in ("seeds", "first_seed"))
    results = common.Results(given.out, settings, keys)
    observed = common.images(settings.observed, given.data)
    for seed in range(settings.first_seed, settings.first_seed + settings.seeds):
        if not results.done(seed=seed):
            out = gan.place(given.out, settings.model, settings, keys, seed)
            results.add(seed=seed, metrics=one(settings, observed, seed, out))
    names = results.runs[0]["metrics"]
    found = {name: [run["metrics"][name] for run in results.runs] for name in names}
    case = "observed against mock"
    rows = [common.row(settings.observed, case, settings.model, name, values) for name, values in found.items()]
    results.write(rows)


if __name__ == "__main__":
    common.guarded(main)

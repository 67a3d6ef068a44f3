"""``astroad explain``: a run and its scores -> why the strangest objects are strange."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from astroad_jax.analysis import active, explain
from astroad_jax.app import album, known, ranking
from astroad_jax.app.bundle import Bundle
from astroad_jax.app.ranking import Objects
from astroad_jax.engine.explain import make_explainer, relative_error
from astroad_jax.engine.score import make_embedder, make_reconstructor
from astroad_jax.errors import DataError
from astroad_jax.preprocess import flux
from astroad_jax.types import Search

NEAREST_CLASS = "nearest_class"  # component of a score that is a distance to classes: which one it was
COMPLETE = 1e-2  # relative; contributions that miss the score by more are said to be incomplete
NOISE, NOISE_OF_SEARCH = 256, 64  # training objects that the noise is taken from; a search takes seconds for each


class Options(NamedTuple):
    """What is asked for.

    Attributes
    ----------
    top : int
        Objects, the strangest ones.
    ids : tuple of str
        Objects by their ids, as they are written; instead of the strangest.
    neighbours : int
        Nearest training objects of each.
    noise_rows : int, optional
        Training objects that the noise level is taken from; by default `NOISE`. Spectra bring their own noise.
    training : str
        Where the training table is, if not where it was.
    """

    top: int = 20
    ids: tuple[str, ...] = ()
    neighbours: int = 5
    noise_rows: int | None = None
    training: str = ""


class Explanation(NamedTuple):
    """Why N objects are strange, the strangest first. Objects are as the model sees them, preprocessed.

    Attributes
    ----------
    table : dict of (N,) arrays
        Columns of the score files, ids in their own type.
    rank : (N,) int64
        Among all that have a score, from 1.
    x : (N, ...) float32
    rebuilt : (N, ...) float32 or None
        What the model makes of them.
    sigma : array or None
        One sigma of every entry, in the shape of one object: 68.27 % of the residuals of some training objects are
        within. None for spectra, whose noise is their own.
    residual : (N, ...) float64 or None
        ``x - rebuilt`` in sigma; of spectra ``(N, W)``, by their inverse variance. NaN where masked, or without noise.
    contribution : (N, ...) float64
        Up = makes stranger. They add up to ``score - base``.
    base : (N,) float64
        The score where its explanation starts.
    error : (N,) float64
        By how much the sum is off, over the larger of score and base.
    typical : (N, ...) float32
        Median of the training objects, of the nearest class where the score is a distance to classes.
    known : Known
        The training objects.
    names : tuple of str
        Of features; none where objects have another form.
    grid : (W,) float64 or None
        Wavelengths of spectra in Angstrom.
    rest : bool
        Whether they are those of the rest frame.
    flux : str
        What a spectrum's flux is called, with its norm.
    spectra : bool
    among : int
        Objects with a score.
    """

    table: dict[str, np.ndarray]
    rank: np.ndarray
    x: np.ndarray
    rebuilt: np.ndarray | None
    sigma: np.ndarray | None
    residual: np.ndarray | None
    contribution: np.ndarray
    base: np.ndarray
    error: np.ndarray
    typical: np.ndarray
    known: known.Known
    names: tuple[str, ...]
    grid: np.ndarray | None
    rest: bool
    flux: str
    spectra: bool
    among: int

    @property
    def complete(self) -> np.ndarray:
        """(N,) bool: whether the contributions add up."""
        return self.error <= COMPLETE

    @property
    def noise_rows(self) -> int:
        """Training objects that the noise level is taken from; 0 where there is none."""
        return 0 if self.sigma is None else len(self.known.sample[1])


def explanation(
    model: Bundle, run: Path, directories: Sequence[Path], options: Options, progress: bool = False
) -> Explanation:
    """Explain the strangest objects of score directories.

    Raises
    ------
    DataError
        Nothing scored; an input or the training table that is gone or has changed; an object without a score.
    MismatchError
        Scores of another model.
    """
    objects = ranking.open_objects(model, directories, embed=False)
    order = active.ranked(objects.score, objects.ids)[: np.isfinite(objects.score).sum()]
    rows = _chosen(objects, order, options)
    table = {name: values[rows] for name, values in objects.table.items()}
    axes = album.axes(model)
    held, ids = album.fetch(model, objects, rows.tolist()), table["object_id"]
    x = np.stack([held[row] for row in rows.tolist()])
    rebuild, spectra = _rebuilder(model, progress), _are_spectra(model)
    found = known.survey(
        model,
        run,
        known.Wanted(_codes(model, x, ids), ids, _paths(objects, rows)),
        neighbours=options.neighbours,
        sample=0 if rebuild is None or spectra else _noise_rows(model, options),
        by_class=NEAREST_CLASS in table,
        table=options.training,
    )
    typical = found.typical[table[NEAREST_CLASS].astype(np.int64) if NEAREST_CLASS in table else [0] * len(x)]
    rebuilt, sigma = _rebuilt(rebuild, model, x, ids, found.sample)
    parts = _contributions(model, x, ids, rebuilt if isinstance(model.method.score, Search) else typical, table["score"])
    return Explanation(
        table=table,
        rank=1 + np.flatnonzero(np.isin(order, rows)),
        x=x,
        rebuilt=rebuilt,
        sigma=sigma,
        residual=_residual(x, rebuilt, sigma, spectra),
        **parts,
        typical=typical,
        known=found,
        names=model.schema.features if x.shape[1:] == (len(model.schema.features),) else (),
        grid=axes.get("grid"),
        rest=axes.get("frame") == "rest",
        flux=axes["flux"],
        spectra=spectra,
        among=len(order),
    )


def _contributions(
    model: Bundle, x: np.ndarray, ids: np.ndarray, start: np.ndarray, score: np.ndarray
) -> dict[str, np.ndarray]:
    """``contribution``, ``base`` and ``error`` of an explanation; the error is that of the score as it was stored."""
    shares = make_explainer(model.method, seed=model.settings.train.seed)(model.state, x, ids, start)
    total = shares.contribution.reshape(len(x), -1).sum(axis=1)
    error = relative_error(total, score.astype(np.float64), shares.base)
    return {"contribution": shares.contribution, "base": shares.base, "error": error}


def _chosen(objects: Objects, order: np.ndarray, options: Options) -> np.ndarray:
    """Rows of the objects to explain, the strangest first."""
    if not options.ids:
        return order[: options.top]
    wanted = np.array([ranking.row_of(objects, text, "--id") for text in options.ids])
    null = wanted[~np.isin(wanted, order)]
    if len(null):
        flags = ", ".join(f"{objects.ids[row]} (flags {objects.table['flags'][row]})" for row in null.tolist())
        fix = "choose others; the flags column says why scores are null"
        raise DataError("an object without a score cannot be explained", where="--id", got=flags, fix=fix)
    return order[np.isin(order, wanted)]


def _paths(objects: Objects, rows: np.ndarray) -> np.ndarray:
    """Input that each object comes from."""
    ends = np.array([part.start + part.rows for part in objects.parts])
    paths = np.array([part.partition.path for part in objects.parts])
    return paths[np.searchsorted(ends, objects.place[rows], side="right")]


def _are_spectra(model: Bundle) -> bool:
    """Whether objects are flux and inverse variance, as they are after these scalings alone."""
    return model.scaler.kind in ("spectrum", "none") and flux.is_spectrum(model.schema.shape)


def _rebuilder(model: Bundle, progress: bool) -> Callable[..., dict[str, np.ndarray]] | None:
    """The model's reconstruction of batches; None where it has none."""
    score = model.method.score
    if model.method.reconstruct is None and not (isinstance(score, Search) and score.rebuild is not None):
        return None
    settings = model.settings
    sizes = {"batch_size": settings.score.batch_size, "slots": settings.score.slots}
    return make_reconstructor(model.method, seed=settings.train.seed, progress=progress, **sizes)


def _noise_rows(model: Bundle, options: Options) -> int:
    if options.noise_rows is not None:
        return options.noise_rows
    return NOISE_OF_SEARCH if isinstance(model.method.score, Search) else NOISE


def _rebuilt(
    rebuild: Callable[..., dict[str, np.ndarray]] | None,
    model: Bundle,
    x: np.ndarray,
    ids: np.ndarray,
    sample: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Reconstructions, and the noise level by those of the sample."""
    if rebuild is None:
        return None, None
    rebuilt = rebuild(model.state, x, ids)["reconstruction"]
    if not len(sample[1]):
        return rebuilt, None
    return rebuilt, explain.noise(sample[0] - rebuild(model.state, *sample)["reconstruction"])


def _residual(x: np.ndarray, rebuilt: np.ndarray | None, sigma: np.ndarray | None, spectra: bool) -> np.ndarray | None:
    if rebuilt is None:
        return None
    if spectra:
        return explain.in_own_noise(x, rebuilt)
    return None if sigma is None else explain.in_sigma(x, rebuilt, sigma)


def _codes(model: Bundle, x: np.ndarray, ids: np.ndarray) -> np.ndarray:
    embed = make_embedder(model.method, batch_size=model.settings.score.batch_size)
    return embed(model.state, x, ids)["embedding"].reshape(len(ids), -1)

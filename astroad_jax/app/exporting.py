"""``astroad export``: a run -> a directory that scores without this package, with jax and numpy alone.

::

    OUT/load.py             what reads the rest: `load`, or from a shell (`standalone`)
    OUT/scores.stablehlo    objects as they were read -> scores and flags, by `jax.export` (`lowering`)
    OUT/{start,search,finish}.stablehlo     instead, where the score is a search
    OUT/weights.npz         what model and scaling have learnt, by name
    OUT/calibration.npz     scores of held-out inliers, for p-values
    OUT/check.npz           some objects, and the scores that they must get
    OUT/config.toml         the run's configuration
    OUT/manifest.json       identity, schema, flags, and the SHA-256 of every other file
    OUT/README.md           the same in words
    OUT/prepare.py, OUT/scaler.npz          of spectra, which NumPy scales: how, and with what
"""

from __future__ import annotations

import runpy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from astroad_jax import config, data, files
from astroad_jax.app import bundle, export_notes, lowering, raw, scoring, standalone
from astroad_jax.engine import catalog
from astroad_jax.errors import AstroadError, ExportError
from astroad_jax.preprocess import samples
from astroad_jax.types import Search

KEPT = 16  # objects in check.npz
MORE = 8  # objects more than slots that a search is tried on, so that slots are filled again
Arrays = dict[str, np.ndarray]


class Exported(NamedTuple):
    """What was exported.

    Attributes
    ----------
    path : Path
        The directory.
    size : int
        Bytes in it.
    objects : int
        How many objects have the same scores there as here.
    """

    path: Path
    size: int
    objects: int


def export(run: Path, out: Path, overrides: Sequence[str] = (), progress: bool = False) -> Exported:
    """Export a finished run, and make sure that the export gives its scores.

    Objects like those trained on, and broken ones, are scored both by ``astroad score`` and by the export's own
    ``load.py``, many at once and one alone; columns and flags must be equal bit for bit.

    Parameters
    ----------
    run : Path
        Run directory.
    out : Path
        Directory to make, or an earlier export to replace: see `files.whole_directory`.
    overrides : sequence of str
        As for `bundle.load`.
    progress : bool
        Show how far a search is.

    Raises
    ------
    DataError
        No run, or something else is at `out`.
    ExportError
        JAX cannot export the model, or the export's scores are others.
    CorruptError, MismatchError, ConfigError
        As for `bundle.load`.
    """
    return write(bundle.load(run, overrides), out, progress)


def write(model: bundle.Bundle, out: Path, progress: bool = False) -> Exported:
    """Export a model: see `export`."""
    with files.whole_directory(Path(out), is_export) as tmp:
        names = _write_functions(model, tmp)
        trials = _trials(model, progress)
        tried = sum(len(trial.x) for trial in trials)
        _write_check(tmp, trials[0])
        note = export_notes.manifest(model) | names | {"columns": list(trials[0].expected)}
        files.write_text(tmp / "README.md", export_notes.readme(model, note, tried))
        files.write_sealed(tmp / "manifest.json", {**note, "files": files.manifest(tmp)})
        _check_scores(tmp, trials)
        size = sum(path.stat().st_size for path in tmp.iterdir())
    return Exported(Path(out), size, tried)


def is_export(path: Path) -> bool:
    """Whether a directory is an export, with nothing else in it but what Python leaves of an import."""
    try:
        named = files.read_sealed(path / "manifest.json")["files"]
    except (AstroadError, OSError, KeyError):
        return False
    found = {item.name for item in path.iterdir()} - {"__pycache__"}
    return "load.py" in named and found == {*named, "manifest.json"}


def _write_functions(model: bundle.Bundle, tmp: Path) -> dict[str, list[str]]:
    """Everything that takes no trial; the names of the functions, and of the weights in order."""
    lowered, source = lowering.lower(model), Path(standalone.__file__).parent
    for name, function in lowered.functions.items():
        with files.atomic(tmp / f"{name}.stablehlo") as part:
            part.write_bytes(function)
    bundle.save_arrays(tmp / "weights.npz", **lowered.weights)
    bundle.save_arrays(tmp / "calibration.npz", score=model.calibration)
    files.write_text(tmp / "config.toml", config.dumps(model.settings))
    by_host = not raw.on_device(model.scaler)
    for name in ("load.py", "prepare.py") if by_host else ("load.py",):
        files.write_text(tmp / name, (source / name).read_text(encoding="utf-8"))
    if by_host:
        bundle.save_arrays(tmp / "scaler.npz", **model.scaler.params)
    return {"functions": list(lowered.functions), "weights": list(lowered.weights)}


def _count(model: bundle.Bundle) -> int:
    """Objects to try: more than a call takes, the broken ones among them."""
    return lowering.rows(model)[lowering.platform()] + (MORE if isinstance(model.method.score, Search) else 1)


class _Trial(NamedTuple):
    """Objects as read, their ids, and the columns that ``astroad score`` gives them."""

    x: np.ndarray
    ids: np.ndarray
    expected: Arrays


def _trials(model: bundle.Bundle, progress: bool) -> list[_Trial]:
    """Many objects in one table, and one of them alone; scored by ``astroad score``, as its files read back."""
    model = model._replace(settings=_for_trials(model))
    x = samples.draw(model.scaler, model.schema.raw_shape, _count(model), broken=True)
    parts = [(x, np.arange(len(x)) + 2**60 + 1), (x[:1], np.array([-7]))]
    sources = [data.memory(f"part_{place}", _columns(model, *part)) for place, part in enumerate(parts)]
    with tempfile.TemporaryDirectory() as scratch:
        report = scoring.score(model, sources, Path(scratch) / "scores", progress)
        for reason in report.quarantined.values():
            fix = "see whether astroad score scores the training table"
            raise ExportError("the objects to try the export on cannot be scored", got=reason, fix=fix)
        table = catalog.read_scores(Path(scratch) / "scores")
    if not np.isfinite(table["score"]).any():
        fix = "see what became of the training (metrics.jsonl)"
        raise ExportError("this model gives no object a score", got=f"{len(table['score'])} null scores", fix=fix)
    columns = {name: values for name, values in table.items() if name != "object_id"}
    where = [np.isin(table["object_id"], ids) for _, ids in parts]
    for (_, ids), rows in zip(parts, where):
        if rows.sum() != len(ids):
            expected, fix = f"{len(ids)} rows", "report this with the run's configuration"
            what = "objects to try the export on were not scored"
            raise ExportError(what, expected=expected, got=int(rows.sum()), fix=fix)
    return [_Trial(*part, {name: columns[name][rows] for name in columns}) for part, rows in zip(parts, where)]


def _for_trials(model: bundle.Bundle) -> config.Run:
    """Settings by which the trials' tables are read, whatever the run's tables call their columns."""
    settings = model.settings
    columns = {"id": _id_column(model), "ra": "", "dec": "", "label": ""}
    least = settings.score.model_copy(update={"batch_size": 1})  # scores do not depend on it; larger ones only compile more
    return settings.model_copy(update={"data": settings.data.model_copy(update=columns), "score": least})


def _id_column(model: bundle.Bundle) -> str:
    """A name that no feature has."""
    return max(model.schema.features, key=len) + "_id"


def _columns(model: bundle.Bundle, x: np.ndarray, ids: np.ndarray) -> Arrays:
    """A table of objects, as the model knows its columns."""
    names = model.schema.features
    flat = len(x.shape) == 2 and len(names) == x.shape[1]
    named = {name: x[:, place] for place, name in enumerate(names)} if flat else {names[0]: x}
    return {_id_column(model): ids, **named}


def _write_check(tmp: Path, trial: _Trial) -> None:
    """Keep the last objects, the broken ones among them."""
    kept = {name: values[-KEPT:] for name, values in trial.expected.items()}
    bundle.save_arrays(tmp / "check.npz", x=trial.x[-KEPT:], id=trial.ids[-KEPT:], **kept)


def _check_scores(tmp: Path, trials: Sequence[_Trial]) -> None:
    score = runpy.run_path(str(tmp / "load.py"))["load"](tmp)
    for trial in trials:
        problems = differences(score(trial.x, trial.ids), trial.expected)
        if problems:
            fix = "score with astroad score, and report this with the run's configuration"
            expected, got = "astroad score's, bit for bit", "; ".join(problems)
            raise ExportError("the exported scores are not the model's", expected=expected, got=got, fix=fix)


def differences(found: Arrays, expected: Arrays) -> list[str]:
    """What load.py's columns have other than those of a score directory, one sentence a column; empty where all is equal."""
    if set(found) != set(expected):
        return [f"columns {', '.join(sorted(found))} instead of {', '.join(sorted(expected))}"]
    problems = []
    for name, values in expected.items():
        absent, lost = np.isnan(values), _absent(found[name])
        same = np.where(absent, lost, found[name] == values)
        if not same.all():
            apart = np.abs(found[name].astype(np.float64) - values)[~absent & ~lost]
            problems.append(f"{name} of {int((~same).sum())} of {len(same)} objects, by {apart.max(initial=0):.2g} at most")
    return problems


def _absent(values: np.ndarray) -> np.ndarray:
    """Where load.py gives no value."""
    return values == -1 if values.dtype.kind in "iu" else np.isnan(values)

"""What a run directory holds beside its checkpoints, so that new objects can be scored: schema, scaler, calibration.

::

    RUN/model.json         feature names, object shape, class names, sizes, method
    RUN/preprocess.npz     fitted scaler
    RUN/calibration.npz    scores of held-out inliers
    RUN/split.npz          the training table, a checksum of the rows that trained, and ids of these, of those that
                           calibrated and of those held out
    RUN/manifest.json      SHA-256 of all these and of the run's other files, written last
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astroad_jax import config, files, preprocess
from astroad_jax.analysis import calibrate
from astroad_jax.app import raw
from astroad_jax.engine import rundir, scorebook
from astroad_jax.errors import ConfigError, CorruptError, DataError
from astroad_jax.methods import build, configure
from astroad_jax.types import Method, Plan, Search, State

SEAL = "manifest.json"
SEALED = (
    "config.toml", "provenance.json", "metrics.jsonl", "model.json", "preprocess.npz", "split.npz", "calibration.npz",
)  # fmt: skip
# what may change after training: how inputs are read, but not what an object is to the model
READING = (
    "data.id", "data.ra", "data.dec", "data.label",
    "spectra.air", "spectra.z_min", "spectra.z_max", "spectra.snr_min", "spectra.coverage", "spectra.good",
)  # fmt: skip
CHANGEABLE = ("score.", "data.anomalies", "spectra.redshifts", *READING)


class Schema(NamedTuple):
    """What the model was trained on; `raw_shape` is an object's as it was read, `shape` that after preprocessing.

    `units` are those of the features, empty where the table named none.
    """

    features: tuple[str, ...]
    units: tuple[str, ...]
    raw_shape: tuple[int, ...]
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    plan: Plan


class Bundle(NamedTuple):
    """A trained model, ready to score."""

    settings: config.Run
    schema: Schema
    scaler: preprocess.Scaler
    method: Method
    state: State
    digest: str
    calibration: np.ndarray

    def identity(self) -> dict[str, Any]:
        """What scores depend on."""
        searched = {"slots": self.settings.score.slots} if isinstance(self.method.score, Search) else {}
        return {
            "model": self.digest,
            "method": self.settings.method["name"],
            "seed": self.settings.train.seed,
            "scale": self.scaler.kind,
            "nan": self.scaler.nan,
            "features": list(self.schema.features),
            **searched,
        }

    def prepare(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Objects as their reader gives them -> as the scorer takes them, and flags: see `raw.prepare`."""
        return raw.prepare(self.scaler, x)

    def scale(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Objects from `prepare` -> as the networks see them, and flags: see `raw.scale`."""
        return raw.scale(self.scaler, x)

    def scorer(self, mesh: Any = None, progress: bool = False) -> Callable[..., dict[str, np.ndarray]]:
        """``(state, x, ids) -> scores`` for objects from `prepare`: see `raw.scorer`."""
        return raw.scorer(self.method, self.scaler, self.schema.raw_shape, self.settings, mesh, progress)

    def unusable(self, flags: np.ndarray) -> np.ndarray:
        """(N,) bool: which objects get a null score, by the flags of `prepare`, of the scorer and of their reader."""
        return preprocess.unusable(self.scaler, flags)

    def p_value(self, scores: np.ndarray) -> np.ndarray:
        """Split-conformal p-values of scores."""
        return calibrate.p_values(scores, self.calibration)


def save_schema(run: Path, schema: Schema, settings: config.Run) -> None:
    """Write ``model.json``."""
    note = {
        "features": list(schema.features),
        "units": list(schema.units),
        "raw_shape": list(schema.raw_shape),
        "shape": list(schema.shape),
        "classes": list(schema.classes),
        "plan": schema.plan._asdict(),
        "method": settings.method,
    }
    files.write_sealed(run / "model.json", note)


def load_schema(run: Path) -> Schema:
    """Read ``model.json``.

    Raises
    ------
    DataError
        There is no run here.
    """
    path = run / "model.json"
    if not path.exists():
        raise DataError("no trained model here", where=str(run), expected="a run directory", fix="astroad train makes one")
    note = files.read_sealed(path)
    try:
        plan = Plan(**note["plan"] | {"shape": tuple(note["shape"])})
        shapes = tuple(note["raw_shape"]), tuple(note["shape"])
        return Schema(tuple(note["features"]), tuple(note["units"]), *shapes, tuple(note["classes"]), plan)
    except (KeyError, TypeError) as error:
        raise CorruptError("a file of this run is damaged", where=str(path), got=repr(error), fix="train again") from error


def seal(run: Path) -> None:
    """Write the checksums of a finished run's files; its checkpoints have their own."""
    files.write_sealed(run / SEAL, {"files": {name: files.sha256(run / name) for name in SEALED}})


def check_seal(run: Path) -> None:
    """Compare a run's files with their checksums.

    Raises
    ------
    CorruptError
        One has changed.
    DataError
        One is missing, the checksums themselves among them: the training has not come to its end.
    """
    for name in (SEAL, *SEALED):
        if not (run / name).exists():
            fix = "train again: the command resumes"
            raise DataError("a file of this run is missing", where=str(run / name), fix=fix)
    for name, what in files.differing(run, files.read_sealed(run / SEAL)["files"]).items():
        fix = "restore it from a copy, or train again; what may change after training is given with --set"
        raise CorruptError("a file of this run is damaged", where=str(run / name), got=what, fix=fix)


def fingerprint(run: Path) -> str:
    """Another one wherever scores may be others: over the checksums of a run's files, and of its newest checkpoint's."""
    newest = sorted(run.glob("checkpoints/step_*/manifest.json"))[-1:]
    return files.seal([files.sha256(path) for path in [run / SEAL, *newest] if path.exists()])


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write an npz atomically."""
    with files.atomic(path) as tmp, open(tmp, "wb") as stream:
        np.savez(stream, **arrays)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read an npz; a damaged one is a `CorruptError`."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except FileNotFoundError as error:
        raise DataError("a file of this run is missing", where=str(path), fix="train again: the command resumes") from error
    except Exception as error:  # zipfile, numpy and zlib each have their own
        raise CorruptError("a file of this run is damaged", where=str(path), got=str(error), fix="train again") from error


def book_of(model: Bundle, scores: Path) -> dict[str, Any]:
    """Manifest of a score directory that this model has made.

    Raises
    ------
    DataError
        There is no score directory, or a catalogue in HATS format.
    MismatchError
        The scores are another model's.
    """
    book = files.read_sealed(scorebook.manifest_of(scores))
    scorebook.check_identity(scores, book["identity"], model.identity(), "name the run that made them")
    return book


def example_batch(schema: Schema, batch_size: int) -> dict[str, np.ndarray]:
    """Zeros in the shape of a training batch."""
    return {
        "x": np.zeros((batch_size, *schema.shape), np.float32),
        "y": np.zeros(batch_size, np.int32),
        "mask": np.ones(batch_size, np.float32),
    }


def make_method(schema: Schema, settings: config.Run) -> Method:
    """The method of a run."""
    return build(configure(settings.method), schema.plan)


def load(run: Path, overrides: Sequence[str] = ()) -> Bundle:
    """Load a finished run.

    Parameters
    ----------
    overrides : sequence of str
        ``key=value`` for what may change after training: the keys in `CHANGEABLE`.

    Raises
    ------
    DataError, CorruptError, MismatchError
        No run, a damaged one, or one that is not finished.
    ConfigError
        An override of what the model was trained with.
    """
    run = Path(run)
    schema = load_schema(run)
    for key in (override.partition("=")[0].strip() for override in overrides):
        if not key.startswith(CHANGEABLE):
            fix = "train another model with it"
            raise ConfigError("this cannot change after training", where=key, expected=", ".join(CHANGEABLE), fix=fix)
    settings = config.load(run / "config.toml", overrides)
    method = make_method(schema, settings)
    state, digest = rundir.load_state(run, method, example_batch(schema, settings.train.batch_size))
    check_seal(run)
    scaler = preprocess.load(run / "preprocess.npz")
    calibration = load_arrays(run / "calibration.npz")["score"]
    return Bundle(settings, schema, scaler, method, state, digest, calibration)

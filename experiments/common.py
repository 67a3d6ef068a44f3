"""What the experiments share: their command line, their data sets, their result files."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from astroad_jax import files
from astroad_jax.analysis import report
from astroad_jax.config import Data, Frozen, override, parse
from astroad_jax.data import find_roles, open_source
from astroad_jax.errors import AstroadError, DataError

M = TypeVar("M", bound=Frozen)
Row = dict[str, Any]
SUFFIXES = (".npz", ".h5", ".hdf5")


class Arguments(NamedTuple):
    """A parsed command line: the experiment's settings, where data lie, where results go."""

    settings: Any
    data: Path | None
    out: Path
    smoke: bool


def arguments(name: str, doc: str, model: type[M], smoke: dict[str, Any], argv: Sequence[str] | None = None) -> Arguments:
    """Read ``[--data DIR] [--out DIR] [--smoke] [key=value ...]``.

    Parameters
    ----------
    model : type of Frozen
        The experiment's settings; an unknown key is an error that names the nearest known one.
    smoke : dict
        Settings that shrink the experiment to a minute; those given on the command line still win.
    """
    parser = argparse.ArgumentParser(
        f"python -m experiments.{name}", description=doc, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="directory searched for DIR/NAME.npz and DIR/*/NAME.npz")
    parser.add_argument("--out", type=Path, default=Path("results") / name, help="where results.json goes")
    parser.add_argument("--smoke", action="store_true", help="a minute's version, to see that everything runs")
    parser.add_argument("settings", nargs="*", metavar="key=value", help=f"known keys: {', '.join(model.model_fields)}")
    given = parser.parse_args(argv)
    values = override(smoke if given.smoke else {}, given.settings)
    return Arguments(parse(model, values, f"experiments.{name}"), given.data, given.out, given.smoke)


class Dataset(NamedTuple):
    """Arrays of a labelled data set; `x_test` is None where it comes unsplit."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray | None
    y_test: np.ndarray | None


def dataset(name: str, data: Path | None) -> Dataset:
    """Find a data set by name: an npz or HDF5 file below `data`, else TFDS.

    The npz holds ``x_train, y_train, x_test, y_test``, or ``x, y``, or ``X, y``; images may be JPEG bytes
    (``jpeg_train`` with ``offsets_train``, likewise for test). An HDF5 file holds images and their classes.

    Raises
    ------
    DataError
        There is no such file and TFDS has not prepared the data set either; or its keys are others.
    """
    path = found(name, data)
    if path is None:
        return _from_tfds(name, data)
    return _from_npz(path) if path.suffix == ".npz" else _from_table(path)


def found(name: str, data: Path | None) -> Path | None:
    """File of a data set: ``DIR/NAME`` or ``DIR/*/NAME`` with one of the suffixes."""
    places = [] if data is None else [f"{folder}{name}{suffix}" for suffix in SUFFIXES for folder in ("", "*/")]
    return next((path for place in places for path in data.glob(place)), None)


def images(name: str, data: Path | None) -> np.ndarray:
    """Images of a data set, ``(N, H, W, C)``, with labels or without; those that cannot be decoded are left out.

    Raises
    ------
    DataError
        There is no such file, or no image column in it.
    """
    path = found(name, data)
    if path is None:
        fix = "give --data DIR"
        raise DataError("no such data set", where=str(data), expected=" or ".join(name + s for s in SUFFIXES), fix=fix)
    source = open_source(path)
    column = find_roles(source, Data()).features[0]
    held = np.concatenate([chunk[column] for chunk in source.chunks(columns=[column])])
    if held.ndim != 4:
        raise DataError("these are no images", where=str(path), expected="(N, H, W, C)", got=f"shape {held.shape}")
    return held[np.isfinite(held).all(axis=(1, 2, 3))]


def _from_table(path: Path) -> Dataset:
    """Images and labels of an HDF5 file, as Galaxy10 has them."""
    source = open_source(path)
    roles = find_roles(source, Data())
    if not roles.label:
        raise DataError("this file has no labels", where=str(path), expected="a column of classes", got=list(source.columns))
    chunks = list(source.chunks(columns=[roles.features[0], roles.label]))
    x, y = (np.concatenate([chunk[name] for chunk in chunks]) for name in (roles.features[0], roles.label))
    return Dataset(x, y, None, None)


def _from_npz(path: Path) -> Dataset:
    with np.load(path, allow_pickle=False) as held:
        keys = set(held.files)
        if {"x_train", "y_train", "x_test", "y_test"} <= keys:
            return Dataset(held["x_train"], held["y_train"], held["x_test"], held["y_test"])
        if {"jpeg_train", "offsets_train", "y_train", "jpeg_test", "offsets_test", "y_test"} <= keys:
            return _from_jpeg(path)
        for name in ("x", "X"):
            if {name, "y"} <= keys:
                return Dataset(held[name], held["y"], None, None)
    raise DataError(
        "this file does not hold a labelled data set",
        where=str(path),
        expected="x_train, y_train, x_test, y_test; or x, y; or X, y",
        got=", ".join(sorted(keys)),
        fix="rename its arrays",
    )


def _from_jpeg(path: Path) -> Dataset:
    chunks = list(open_source(path).chunks(columns=["image", "label", "split"]))
    x, y, split = (np.concatenate([chunk[name] for chunk in chunks]) for name in ("image", "label", "split"))
    bad = ~np.isfinite(x).all(axis=(1, 2, 3))
    if bad.any():
        got = f"{bad.sum()} of {len(x)} that cannot be decoded"
        raise DataError("images are damaged", where=str(path), expected="whole images", got=got, fix="fetch the file again")
    parts = (part == split for part in ("train", "test"))
    return Dataset(*(array for rows in parts for array in (x[rows], y[rows])))


def _from_tfds(name: str, data: Path | None) -> Dataset:
    parts = []
    for split in ("train", "test"):
        try:
            source = open_source(f"tfds:{name}/{split}")
        except DataError as error:
            raise DataError(
                "no such data set",
                where=f"{data or 'no --data directory given'}, then TFDS",
                expected=f"{name}.npz there, or {name} prepared by TFDS",
                got=str(error),
                fix="give --data DIR; where TFDS has a data set of this name, tensorflow_datasets.load prepares it",
            ) from error
        columns = list(source.chunks())
        image = next((key for key in source.columns if source.columns[key].shape), None)
        if image is None or "label" not in source.columns:
            got = ", ".join(source.columns)
            fix = "choose one of labelled images"
            raise DataError("no labelled images", where=name, expected="an array and a label", got=got, fix=fix)
        parts += [np.concatenate([c[key] for c in columns]) for key in (image, "label")]
    return Dataset(*parts)


class Results:
    """Rows of an experiment, kept as they come, so that a stopped experiment goes on where it was.

    ``runs.jsonl`` gets one line per finished training; ``results.json`` is written from them at the end.
    """

    def __init__(self, out: Path, settings: Frozen, keys: Sequence[str]):
        self.out, self.keys = out, tuple(keys)
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / "runs.jsonl"
        self.settings = json.loads(settings.model_dump_json())
        self._drop_torn_line()
        self.runs = [run for run in files.read_lines(self.path) if self._same(run)]

    def _drop_torn_line(self) -> None:
        """Cut what an interruption left of a last line: the next one would be joined to it."""
        held = self.path.read_bytes() if self.path.exists() else b""
        if held and not held.endswith(b"\n"):
            files.write_text(self.path, held[: held.rfind(b"\n") + 1].decode())

    def _same(self, run: Row) -> bool:
        return all(run["settings"].get(key) == self.settings[key] for key in self.keys)

    def done(self, **what: Any) -> bool:
        """Whether a finished run has all these values."""
        return any(all(run.get(key) == value for key, value in what.items()) for run in self.runs)

    def add(self, **run: Any) -> None:
        """Record one finished run."""
        run["settings"] = {key: self.settings[key] for key in self.keys}
        self.runs.append(run)
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(run) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def write(self, rows: list[Row]) -> None:
        """Write ``results.json`` and print the table, the paper's figures beside ours."""
        files.write_json(self.out / "results.json", rows)
        print(table(rows))
        print(f"\n{self.out / 'results.json'}")


def row(dataset: str, case: str, method: str, metric: str, values: Sequence[float], paper: float | None = None) -> Row:
    """One row of a result table: mean and spread (sample standard deviation, None for a single run) over runs."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    mean = float(np.mean(values))
    found = {"dataset": dataset, "case": case, "method": method, "metric": metric, "mean": mean, "std": spread}
    return {**found, "runs": len(values), "paper": paper}


def mean_row(dataset: str, method: str, metric: str, means: Sequence[float], paper: float | None = None) -> Row:
    """The mean over cases of their means; the spread over cases says nothing about runs and is left out."""
    return {**row(dataset, "mean", method, metric, means, paper), "std": None, "runs": None}


def table(rows: list[Row]) -> str:
    """Aligned plain text of result rows."""
    return report.table(rows, ("dataset", "case", "method", "metric", "mean", "std", "runs", "paper"), digits=4)


def guarded(main: Callable[[], None]) -> None:
    """Run an experiment from a shell: what a user can put right is a message and an exit code, not a traceback."""
    try:
        main()
    except AstroadError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


def progress(text: str) -> None:
    """Say on standard error how far an experiment is."""
    print(text, file=sys.stderr, flush=True)

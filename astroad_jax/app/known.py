"""The objects that trained a model, read once more: a typical one, some for the noise, and the nearest to given objects."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from astroad_jax import config, data, files, preprocess
from astroad_jax.analysis import explain
from astroad_jax.app.bundle import Bundle, load_arrays
from astroad_jax.app.checksum import Checksum
from astroad_jax.app.split import TRAIN, class_index, hash_parts, labels_of
from astroad_jax.app.streaming import Reservoir
from astroad_jax.engine.score import make_embedder
from astroad_jax.errors import DataError

AT_ONCE = 2**28  # bytes of objects that medians are taken of, or that are kept as neighbours
MOST, LEAST = 65536, 64  # objects in one median, unless there are fewer
USE = 3  # of random numbers: the first three draw the parts of a streamed table
OTHER = "name the table that trained the model, where it is now, with --training"


class Wanted(NamedTuple):
    """Objects whose nearest are looked for.

    Attributes
    ----------
    codes : (N, D) float32
        Embedding.
    ids : (N,)
    paths : (N,) str
        Inputs that they come from.
    """

    codes: np.ndarray
    ids: np.ndarray
    paths: np.ndarray


class Known(NamedTuple):
    """What is known of the objects that trained a model.

    Attributes
    ----------
    path : str
        Their table.
    rows : int
        How many there are, usable ones only.
    typical : (C, ...) float32
        Medians: of each class, or of all (C = 1). Of many objects, a random sample's.
    sample : (x, ids)
        Some at random.
    neighbours : Neighbours
        Of the wanted objects. An object that is itself among those that trained is no neighbour of its own.
    """

    path: str
    rows: int
    typical: np.ndarray
    sample: tuple[np.ndarray, np.ndarray]
    neighbours: explain.Neighbours


class Rows(NamedTuple):
    """Some of them, preprocessed, with their ids and class numbers."""

    x: np.ndarray
    ids: np.ndarray
    y: np.ndarray


def survey(
    model: Bundle, run: Path, wanted: Wanted, *, neighbours: int, sample: int, by_class: bool = False, table: str = ""
) -> Known:
    """Read the training table once.

    Parameters
    ----------
    neighbours, sample : int
        How many there should be of each, at most.
    by_class : bool
        Whether each class has a median of its own.
    table : str
        Where the training table is, if not where it was.

    Raises
    ------
    DataError
        The table is gone, is not the one that trained the model, or lacks a class.
    """
    parts = load_arrays(Path(run) / "split.npz")
    path = table or str(parts["table"])
    classes = len(model.schema.classes) if by_class else 1
    most = min(MOST, max(LEAST, AT_ONCE // (4 * math.prod(model.schema.shape) * classes)))
    seed = model.settings.train.seed
    some, each = Reservoir(sample, seed, USE), [Reservoir(most, seed, USE + 1 + c) for c in range(classes)]
    comparable = np.isin(wanted.paths, [files.canonical(place) for place in (path, str(parts["table"]))])
    near = _nearest(model, wanted, comparable | (not parts["numbered"]), neighbours)
    held, rows = explain.no_neighbours(len(wanted.ids), 0, wanted.ids, None), 0
    for part in training_rows(model, run, parts, path):
        held = near(part, held if rows else None) if neighbours else held
        rows += len(part.ids)
        some.add(part.x, part.ids)
        for c, reservoir in enumerate(each):
            reservoir.add(part.x[part.y == c] if by_class else part.x)
    typical = np.stack([_typical(reservoir, name, path) for reservoir, name in zip(each, model.schema.classes)])
    return Known(path, rows, typical, some.rows(), held)


def _nearest(model: Bundle, wanted: Wanted, comparable: np.ndarray, most: int) -> Callable[..., explain.Neighbours]:
    """A function of some training rows, and of the nearest so far: the nearest of both.

    Objects are kept beside their ids where they take little memory.
    """
    embed = make_embedder(model.method, batch_size=model.settings.score.batch_size)
    size = 4 * math.prod(model.schema.shape) * most * len(wanted.ids)
    shape = model.schema.shape if size <= AT_ONCE else None

    def nearer(part: Rows, held: explain.Neighbours | None) -> explain.Neighbours:
        held = held or explain.no_neighbours(len(wanted.ids), most, part.ids, shape)
        codes = embed(model.state, part.x, part.ids)["embedding"].reshape(len(part.ids), -1)
        same = _equal(wanted.ids, part.ids) & comparable[:, None]
        return explain.nearer(held, wanted.codes, codes, part.ids, part.x, same)

    return nearer


def _typical(reservoir: Reservoir, name: str, path: str) -> np.ndarray:
    (x,) = reservoir.rows()
    if not len(x):
        raise DataError("no training object is of a class", where=path, expected=repr(name), got="none", fix=OTHER)
    return explain.typical(x).astype(np.float32)


def _equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) bool: which ids are the same; the same digits in another type are."""
    if a.dtype.kind != b.dtype.kind:
        a, b = a.astype(str), b.astype(str)
    return a[:, None] == b[None, :]


def training_rows(model: Bundle, run: Path, parts: dict[str, np.ndarray], path: str) -> Iterator[Rows]:
    """The rows that trained a model, without those that were unusable, piece by piece.

    Parameters
    ----------
    parts : dict of arrays
        ``RUN/split.npz``.

    Raises
    ------
    DataError
        As `survey`.
    """
    settings = config.load(Path(run) / "config.toml")  # as it was trained, whatever is overridden for new tables
    source = _open(settings, path)
    roles = data.find_roles(source, settings.data.model_copy(update={"features": model.schema.features}))
    member_of, seen = _membership(parts, settings), Checksum()
    for table in data.stream_tables(source, roles):
        _check_shape(model, table, path)
        labels = labels_of(table)
        member = member_of(table.ids, labels) & ~preprocess.excluded(table.flags)
        seen.add(table.ids, labels, table.x, np.flatnonzero(member))
        if not member.any():
            continue
        x, flags = preprocess.apply(model.scaler, table.x[member])
        usable = ~preprocess.unusable(model.scaler, flags)
        rows = np.flatnonzero(member)[usable]
        yield Rows(np.asarray(x)[usable], table.ids[rows], class_index(labels[rows], model.schema.classes))
    if str(seen) != str(parts["checksum"]):
        expected, got = str(parts["checksum"]), str(seen)
        raise DataError("this is not the table that trained the model", where=path, expected=expected, got=got, fix=OTHER)


def _open(settings: config.Run, path: str) -> data.Source:
    try:
        return data.open_source(path, size=settings.data.size, spectra=settings.spectra)
    except DataError as error:
        raise DataError("the training table cannot be opened", where=path, got=error.what, fix=OTHER) from error


def _check_shape(model: Bundle, table: data.Table, path: str) -> None:
    if table.x.shape[1:] != model.schema.raw_shape:
        what, got = "these objects have another shape than those trained on", table.x.shape[1:]
        raise DataError(what, where=path, expected=model.schema.raw_shape, got=got, fix=OTHER)


def _membership(parts: dict[str, np.ndarray], settings: config.Run) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """``(ids, labels) -> (N,) bool``: which rows trained the model."""
    if "train" not in parts:  # the table was streamed, and split by the hash of its ids
        return lambda ids, labels: hash_parts(ids, labels, settings) == TRAIN
    used = np.sort(parts["train"])

    def among(ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
        del labels
        known = used
        if ids.dtype.kind != used.dtype.kind:  # the same digits in another type
            ids, known = ids.astype(str), np.sort(used.astype(str))
        place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return known[place] == ids

    return among

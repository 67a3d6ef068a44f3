"""``astroad rank``: score directories, their model, and a person's labels -> a ranking by what that person looks for."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from astroad_jax.analysis import active, outliers
from astroad_jax.analysis.ranks import combined_rank
from astroad_jax.app import scoring, tables
from astroad_jax.app.bundle import Bundle, book_of, load_arrays, save_arrays
from astroad_jax.engine import catalog
from astroad_jax.engine.score import make_embedder
from astroad_jax.errors import AstroadError, ConfigError, DataError, MismatchError, did_you_mean

CACHE = "embedding.npz"  # in a score directory: its objects' embedding, so that a second call need not read them
KNOWN = ("object_id", "ra", "dec", "label", "score", "p_value", "flags")
COMPUTED = ("lof", "combined", "any")  # what ranks but stands in no score file: it is a matter of all objects at once
RESCORE = "score it again, with the same command as before"
log = logging.getLogger(__name__)


class Part(NamedTuple):
    """One scored input: its rows begin at `start`, counted over all of them."""

    partition: catalog.Partition
    start: int
    rows: int


class Objects(NamedTuple):
    """What is ranked: one row an id.

    Attributes
    ----------
    table : dict of (N,) arrays
        Columns of the score files.
    score : (N,) float64
        The column that ranks; NaN where there is none.
    features : (N, D) float32
        Embedding by the model; NaN where there is no score. D is 0 where none was asked for.
    place : (N,) int64
        Row over all inputs.
    parts : tuple of Part
    repeated : int
        Rows left out because their id is that of a stranger row.
    numbered : str
        Path of the table whose row numbers the ids are; empty where objects have ids of their own.
    """

    table: dict[str, np.ndarray]
    score: np.ndarray
    features: np.ndarray
    place: np.ndarray
    parts: tuple[Part, ...]
    repeated: int
    numbered: str

    @property
    def ids(self) -> np.ndarray:
        """In their own type."""
        return self.table["object_id"]

    @property
    def components(self) -> list[str]:
        """Names of the method's own columns."""
        return [name for name in self.table if name not in KNOWN]


def open_objects(model: Bundle, directories: Sequence[Path], by: str = "score", embed: bool = True) -> Objects:
    """Read scores, and embed the objects they are of.

    Parameters
    ----------
    by : str
        Column that ranks, up = stranger; ``lof``, the local outlier factor of the embedding among these objects (20
        neighbours; the DESI paper's, section 5.2.2), or of their ranks by it and by the score the mean (``combined``) or
        the higher one (``any``).
    embed : bool
        Whether the embedding is wanted: without it no object is read, and only a column ranks.

    Raises
    ------
    DataError
        Nothing scored, no such column, objects that cannot be told apart, or an input that is gone or has changed.
    MismatchError
        Scores of another model, or ids of different types.
    """
    held, found = [], []
    for directory in dict.fromkeys(map(Path, directories)):
        table = catalog.read_scores(directory)
        book = book_of(model, directory)
        parts = _parts(model, book, sum(map(_length, held)))
        held.append(table)
        found.append((directory, book, parts))
    table = _joined(held, found)
    score = _column(table, "score" if by in COMPUTED else by, directories)
    parts = tuple(part for _, _, own in found for part in own)
    numbered = _numbered(model, table["object_id"], parts)
    features = np.empty((len(score), 0), np.float32)
    if embed:
        embedded = [_embedding(model, *each, table["object_id"]) for each in found]
        features = np.where(np.isfinite(score)[:, None], np.concatenate(embedded), np.float32(np.nan))
    place, repeated = _first_of_each(table["object_id"], score), len(score)
    kept = {name: values[place] for name, values in table.items()}
    score, features = score[place], features[place]
    if by in COMPUTED:
        kept |= _computed(score, features)
        score = kept[by]
    return Objects(kept, score, features, place, parts, repeated - len(place), numbered)


def _computed(score: np.ndarray, features: np.ndarray) -> dict[str, np.ndarray]:
    """Columns `COMPUTED`, NaN where there is no score."""
    factor = outliers.lof_of_sample(features)
    return {"lof": factor, "combined": combined_rank(score, factor), "any": combined_rank(score, factor, rule="max")}


def _length(table: dict[str, np.ndarray]) -> int:
    return len(table["object_id"])


def _parts(model: Bundle, book: dict[str, Any], start: int) -> list[Part]:
    """A directory's inputs, each as it was when it was scored."""
    parts = []
    for entry in book["partitions"].values():
        partition = scoring.partition(model, entry["input"])
        if partition.stamp != entry["stamp"]:
            gone = not Path(entry["input"]).exists()
            what = "a scored table is not where it was" if gone else "a table has changed since it was scored"
            fix = "put it back, or score it where it is now" if gone else RESCORE
            raise DataError(what, where=entry["input"], expected=entry["stamp"], got=partition.stamp, fix=fix)
        if not partition.stamp and not entry["input"].startswith("tfds:"):
            fix = "write the table to a file and score that"
            raise DataError("this table was in memory when it was scored", where=entry["input"], fix=fix)
        parts.append(Part(partition, start, entry["rows"]))
        start += entry["rows"]
    return parts


def _joined(tables: list[dict[str, np.ndarray]], found: list) -> dict[str, np.ndarray]:
    """All rows; a column that a directory lacks is empty there."""
    kinds = {table["object_id"].dtype.kind for table in tables}  # signed and unsigned would meet as floats
    if len(kinds) > 1:
        where = ", ".join(str(directory) for directory, *_ in found)
        got = ", ".join(str(table["object_id"].dtype) for table in tables)
        raise MismatchError("ids of different types", where=where, got=got, fix="rank these directories one by one")
    if len(tables) == 1:
        return tables[0]
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: np.concatenate([_filled(table, name, tables) for table in tables]) for name in names}


def _filled(table: dict[str, np.ndarray], name: str, tables: list[dict[str, np.ndarray]]) -> np.ndarray:
    if name in table:
        return table[name]
    text = any(name in other and other[name].dtype.kind == "U" for other in tables)
    return np.full(_length(table), "" if text else np.nan)


def _column(table: dict[str, np.ndarray], by: str, directories: Sequence[Path]) -> np.ndarray:
    """The column that ranks, NaN where the score is null."""
    numbers = [name for name, values in table.items() if values.dtype.kind in "iuf" and name not in ("object_id", "flags")]
    if by not in numbers:
        known = did_you_mean(by, [*numbers, *COMPUTED])
        raise ConfigError("no such column to rank by", where="--by", got=by, fix=known)
    score = np.where(np.isfinite(table["score"]), table[by].astype(np.float64), np.nan)
    if not np.isfinite(score).any():
        raise DataError(
            "there is nothing to rank",
            where=", ".join(map(str, directories)),
            expected="at least one object with a score",
            got=f"{len(score)} objects, all without",
            fix="the flags column says why scores are null",
        )
    return score


def _numbered(model: Bundle, ids: np.ndarray, parts: Sequence[Part]) -> str:
    """Table whose objects have row numbers for ids; refused beside others: a label would be that of several objects."""
    counted = [part for part in parts if np.array_equal(ids[part.start : part.start + part.rows], np.arange(part.rows))]
    without = [part.partition.path for part in counted if not _has_ids(model, part.partition.path)]
    if len(counted) > 1 or (without and len(parts) > 1):
        raise DataError(
            "the objects of these tables cannot be told apart",
            where=", ".join(part.partition.path for part in parts),
            expected="ids: labels are kept by them",
            got=f"row numbers in {', '.join(part.partition.path for part in counted)}",
            fix="score them with an id column (data.id=COLUMN), or rank them one by one, each with --labels of its own",
        )
    return without[0] if without else ""


def _has_ids(model: Bundle, path: str) -> bool:
    """Whether a table has a column of ids, which may be whole numbers from 0 on as well."""
    return bool(scoring.roles_for(model, scoring._open(model, path)).id)


def _first_of_each(ids: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Row of every id, in the rows' order: of several the one of highest score."""
    order = np.argsort(np.where(np.isnan(score), np.inf, -score), kind="stable")
    _, first = np.unique(ids[order], return_index=True)
    return np.sort(order[first])


def _embedding(model: Bundle, directory: Path, book: dict[str, Any], parts: list[Part], ids: np.ndarray) -> np.ndarray:
    """Embedding of a directory's rows, computed, or as an earlier call has kept it."""
    shelf = [(name, entry["sha256"], entry["stamp"]) for name, entry in book["partitions"].items()]
    key = hashlib.sha256(json.dumps([book["identity"], shelf], sort_keys=True).encode()).hexdigest()
    try:
        held = load_arrays(directory / CACHE)
        if str(held["key"]) == key:
            return held["embedding"]
    except (AstroadError, KeyError, OSError):
        pass  # none, or a damaged one: it can be made again
    embedding = np.concatenate([_embedded(model, part, ids) for part in parts])
    try:
        save_arrays(directory / CACHE, key=np.array(key), embedding=embedding)
    except OSError as error:
        log.warning("the embedding could not be kept in %s (%s): each call will compute it anew", directory, error)
    return embedding


def _embedded(model: Bundle, part: Part, ids: np.ndarray) -> np.ndarray:
    """``(rows, D)``, NaN for objects that are unusable."""
    embed, found, start = make_embedder(model.method, batch_size=model.settings.score.batch_size), [], part.start
    for chunk in part.partition.chunks():
        own = chunk.columns["object_id"]
        if not np.array_equal(own, ids[start : start + len(own)]):
            break
        x, flags = model.scale(chunk.x)
        values = embed(model.state, x, own)["embedding"]
        values = np.asarray(values, np.float32).reshape(len(own), -1)
        found.append(np.where(model.unusable(chunk.flags | flags)[:, None], np.float32(np.nan), values))
        start += len(own)
    if start != part.start + part.rows:
        raise exchanged(part, start - part.start)
    return np.concatenate(found)


def exchanged(part: Part, row: int) -> DataError:
    """The error for an input that holds other objects than were scored, from a row on."""
    got = f"other ids from row {row} on"
    return DataError("a table is not the one that was scored", where=part.partition.path, got=got, fix=RESCORE)


def relevance(
    model: Bundle, objects: Objects, label: np.ndarray, scale: active.Scale = "minmax", alpha: float = 1.0
) -> np.ndarray:
    """`analysis.active.relevance` of the objects, ``(N,)``; `label` is -1 where there is none."""
    options = {"seed": model.settings.train.seed, "scale": scale, "alpha": alpha}
    return active.relevance(objects.features, objects.score, label, **options)


def row_of(objects: Objects, text: str, where: str = "--label") -> int:
    """Row of the object whose id is written like this.

    Raises
    ------
    DataError
        There is none.
    """
    integer = objects.ids.dtype.kind != "U"
    wanted = (int(text) if re.fullmatch(r"-?\d{1,20}", text) else None) if integer else text
    rows = np.flatnonzero(objects.ids == wanted) if wanted is not None else ()
    if not len(rows):
        expected = f"{'an integer' if integer else 'a text'} such as {objects.ids[0]}"
        raise DataError("no object here has this id", where=where, expected=expected, got=text, fix="check the id")
    return int(rows[0])


def export(path: Path, objects: Objects, relevance: np.ndarray, label: np.ndarray, most: int | None = None) -> int:
    """Write the ranking as Parquet or CSV, most relevant first, and return its number of rows.

    Columns: ``object_id`` in its own type, ``ra``, ``dec``, ``class`` (the scores' ``label``) where there are any,
    ``score``, ``p_value``, ``flags``, those of `COMPUTED` where one of them ranks, the ``relevance``, and the user's
    ``label``, null for unlabelled objects. Objects without a score come last, with a null relevance.

    Raises
    ------
    ConfigError
        Neither format.
    """
    check("minmax", path)
    order = active.ranked(relevance, objects.ids)[:most]
    columns = {name: values[order] for name, values in _columns(objects, relevance, label).items()}
    tables.write(path, columns, {"label": columns["label"] == active.UNLABELLED})
    return len(order)


def check(scale: str, export: Path | None) -> None:
    """Refuse, before anything is read, a scale that is none and a file of neither format.

    Raises
    ------
    ConfigError
    """
    if scale not in get_args(active.Scale):
        expected = ", ".join(get_args(active.Scale))
        raise ConfigError("no such scale", where="--scale", expected=expected, got=scale, fix="choose one of these")
    if export is not None:
        tables.check_format(export, "--export")


def _columns(objects: Objects, relevance: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
    held = {name: objects.table[name] for name in (*KNOWN, *COMPUTED) if name in objects.table}
    named = {"class" if name == "label" else name: values for name, values in held.items()}
    return named | {"relevance": relevance, "label": label.astype(np.int8)}

"""``astroad score``: a run and catalogues -> a score directory."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from astroad_jax import data, files, preprocess
from astroad_jax.app import estimate, raw
from astroad_jax.app.bundle import READING, Bundle
from astroad_jax.engine import catalog, scorebook
from astroad_jax.engine.partitions import score_chunk
from astroad_jax.engine.search import default_slots
from astroad_jax.errors import DataError
from astroad_jax.types import Search

DUPLICATE_ID = 16
# what is not for score files, by its own file
HOLDS = {
    "checkpoints": "a run",
    "explanation.json": "an explanation",
    scorebook.HATS: "a catalogue of scores in HATS format",
}
AT_ONCE = 2**26  # bytes of objects that are scored at once
# On CPU, where the same cores read and write. malloc maps what is above 32 MB anew every time, and to touch fresh memory may
# cost more than to read it: on two cores tables of 152 features went 1.2 times as fast as in pieces of 64 MB.
AT_ONCE_CPU = 2**24
FILLINGS = 4  # of a search's slots on one device, at least, in a piece
FLAG_NAMES = {**preprocess.FLAG_NAMES, DUPLICATE_ID: "id occurs more than once in its table", **catalog.FLAG_NAMES}
log = logging.getLogger(__name__)


def score(
    model: Bundle,
    sources: Sequence[data.Source | str | Path],
    out: Path,
    progress: bool = False,
    scorer: Callable[..., dict[str, np.ndarray]] | None = None,
) -> catalog.Report:
    """Score tables into `out`, one Parquet file a table.

    A table that cannot be read, or that lacks a column the model needs, is quarantined with its reason. Rows whose id
    occurs more than once are scored and flagged.

    Parameters
    ----------
    sources : sequence of Source, str or Path
        Tables; a directory of them, a pattern or a HATS catalogue is as many as it has files.
    out : Path
        Score directory; what is scored there already is left as it is.
    scorer : callable, optional
        ``model.scorer()``, where it was compiled before.

    Returns
    -------
    catalog.Report
        Over everything in the score directory.

    Raises
    ------
    DataError
        The directory is a run's, an explanation's, or a catalogue of scores in HATS format.
    """
    for name, what in HOLDS.items():
        if (Path(out) / name).exists():
            raise DataError(f"this directory holds {what}", where=str(out), fix="choose another for the scores (--out)")
    partitions = plan(model, sources)
    scorer = scorer or model.scorer(progress=progress)
    return catalog.score_catalog(
        scorer,
        model.state,
        partitions,
        out,
        identity=model.identity(),
        unusable=model.unusable,
        p_value=model.p_value,
        flag_names=FLAG_NAMES,
        progress=progress,
        begun=partial(_announce, model, scorer) if progress else None,
    )


def _announce(model: Bundle, scorer: Callable[..., Any], left: list[catalog.Partition]) -> None:
    """Say what is to be scored, and how long it will take."""
    print(estimate.plan_in_words(model, scorer, left, partial(_open, model)), file=sys.stderr)


def plan(model: Bundle, sources: Sequence[data.Source | str | Path]) -> list[catalog.Partition]:
    """Partitions of the inputs; a directory of tables, a pattern or a HATS catalogue is as many as it has files.

    Raises
    ------
    DataError
        A directory or pattern without any.
    """
    images, found = len(model.schema.raw_shape) == 3, []
    for source in sources:
        if isinstance(source, data.Source):
            found.append(partition(model, source))
        else:
            found += [partition(model, path, name) for name, path in data.spread(source, images=images)]
    return found


def partition(model: Bundle, source: data.Source | str | Path, name: str = "") -> catalog.Partition:
    """An input's objects, without opening it: what is wrong with it then concerns its partition alone."""
    if isinstance(source, data.Source):
        path = files.canonical(source.path)
        return catalog.Partition(source.name, path, lambda: _chunks(model, source), _stamps(model, path))
    path, name = files.canonical(source), name or data.partition_of(source)
    size = _size(path)
    return catalog.Partition(name, path, lambda: _chunks(model, _open(model, path)), _stamps(model, path), size)


def _size(path: str) -> int:
    """Bytes of a file, or of all in a directory; 0 where there is none."""
    try:
        if not Path(path).is_dir():
            return os.path.getsize(path)
        return sum(_status(Path(path) / name).st_size for name in data.files_below(Path(path)))
    except OSError:
        return 0


def _open(model: Bundle, path: str) -> data.Source:
    """A table as the run's settings read it: its size of images, its grid of spectra."""
    held = data.spectra_format(path) or None
    size = model.settings.data.size if Path(path).is_dir() and not held else 0
    return data.open_source(path, format=held, size=size, spectra=model.settings.spectra)


def _stamps(model: Bundle, path: str) -> str:
    """Stamps of all that an input's scores depend on: a coadd's redshifts are in a file of their own, and settings by which
    inputs are read may change after training. Empty for what is in memory.
    """
    found = [stamp for stamp in map(_stamp, [path, *data.beside(path, model.settings.spectra)]) if stamp]
    return "; ".join([*found, *_reading(model)]) if found or path.startswith("tfds:") else ""


def _reading(model: Bundle) -> list[str]:
    """The settings of `READING`, but for names that are not given, and of spectra where the model is of none."""
    sections = ("data", "spectra") if model.schema.features == ("spectrum",) else ("data",)
    words = [key.split(".") for key in READING]
    values = {f"{section}.{name}": getattr(getattr(model.settings, section), name) for section, name in words}
    return [f"{key}={value}" for key, value in values.items() if key.startswith(sections) and value != ""]


def _stamp(path: str) -> str:
    """Size, and times of change of a file's bytes and of its entry; empty for what is none."""
    try:
        if Path(path).is_dir():
            return _stamp_of_files(Path(path))
        found = Path(path).stat()
    except OSError:
        return ""
    return f"{found.st_size} bytes of {found.st_mtime_ns}, {found.st_ctime_ns}"


def _stamp_of_files(folder: Path) -> str:
    """Number, names, size, and latest times of change of the files in a directory."""
    names = data.files_below(folder)
    every = [_status(folder / name) for name in names]
    digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    size, changed = sum(found.st_size for found in every), max((found.st_mtime_ns for found in every), default=0)
    moved = max((found.st_ctime_ns for found in every), default=0)
    return f"{len(names)} files {digest}, {size} bytes of {changed}, {moved}"


def _status(file: Path) -> os.stat_result:
    """Of a file, or of a link to nothing."""
    return file.stat() if file.exists() else file.lstat()


def roles_for(model: Bundle, source: data.Source) -> data.Roles:
    """Roles of a new table's columns: the model's features, and ids, positions, labels by the run's names or by custom.

    Columns that the run names but this table lacks are looked for under the usual names instead.

    Raises
    ------
    DataError
        Features that are missing or not numeric, or the run's id column where there is none else.
    """
    own = model.settings.data
    _check_features(model, source)
    names = {role: getattr(own, role) for role in ("id", "ra", "dec", "label")}
    kept = {role: name if name in source.columns else "" for role, name in names.items()}
    wanted = own.model_copy(update={**kept, "features": model.schema.features})
    roles = data.find_roles(source, wanted)
    if own.id and not roles.id:
        raise DataError(
            "this table has no ids",
            where=source.path,
            expected=f"the run's id column {own.id!r}, or one of a usual name",
            got=", ".join(list(source.columns)[:20]),
            fix="name the column that holds them: data.id=COLUMN",
        )
    if own.id and roles.id != own.id:
        log.warning("%s has no column %r: its ids are taken from %r", source.path, own.id, roles.id)
    if not roles.id:
        log.warning("%s has no id column (data.id=COLUMN names one): its objects are numbered by row", source.path)
    return roles


def _check_features(model: Bundle, source: data.Source) -> None:
    """Refuse a table that lacks what the model was trained on, or has it in other units; no unit is any unit."""
    missing = [name for name in model.schema.features if name not in source.columns]
    if missing:
        raise DataError(
            "this table lacks features of the model",
            where=source.path,
            expected=", ".join(map(repr, missing[:20])) + (f" and {len(missing) - 20} more" if len(missing) > 20 else ""),
            got=", ".join(list(source.columns)[:20]),
            fix="rename or add these columns in the table: the model was trained on them",
        )
    pairs = [(name, unit, source.columns[name].unit) for name, unit in zip(model.schema.features, model.schema.units)]
    differing = [(name, unit, found) for name, unit, found in pairs if unit and found and unit != found]
    if differing:
        more = f" and {len(differing) - 20} more" if len(differing) > 20 else ""
        raise DataError(
            "this table has features in other units than the model was trained on",
            where=source.path,
            expected=", ".join(f"{name} in {unit}" for name, unit, _ in differing[:20]) + more,
            got=", ".join(f"{name} in {found}" for name, _, found in differing[:20]) + more,
            fix="convert them; where it is the same unit spelt otherwise, spell it as in the training table",
        )


def score_table(model: Bundle, scorer: Callable[..., Any], source: data.Source, roles: data.Roles) -> Any:
    """Arrow table of a source's scores, row for row what `score` writes of it, kept in memory.

    Parameters
    ----------
    scorer : (state, x, ids) -> dict of (N,) arrays
        `Bundle.scorer`.
    roles : Roles
        What the columns mean: those of the catalogue that the source is a piece of.

    Raises
    ------
    DataError
        Objects of another shape than was trained on, or what the source raises while it is read.
    """
    import pyarrow as pa

    chunks, rules = _chunks(model, source, roles), (model.unusable, model.p_value)
    return pa.concat_tables([score_chunk(scorer, model.state, chunk, *rules)[0] for chunk in chunks])


def _chunks(model: Bundle, source: data.Source, roles: data.Roles | None = None) -> Iterator[catalog.Chunk]:
    """Rows as the scorer takes them, so many at once that the scorer is kept busy: images are read few at a time."""
    rows = 0
    for chunk in _gathered(_prepared(model, source, roles), _at_once(model)):
        rows += len(chunk.x)
        yield chunk._replace(share=rows / source.num_rows if source.num_rows else 0.0)


def _at_once(model: Bundle) -> int:
    """Rows in a piece: by the objects' size, the kind of device and of score; with it goes the score file's layout.

    A search ends each piece with slots that nothing is left to fill: it has several times as many objects as slots, of
    large images too. An accelerator works on blocks of thousands.
    """
    shape = raw.prepared_shape(model.scaler, model.schema.raw_shape)
    largest = max(math.prod(shape), math.prod(model.schema.shape))
    searches = isinstance(model.method.score, Search)
    small = jax.default_backend() == "cpu" and not searches
    most = max(1, (AT_ONCE_CPU if small else AT_ONCE) // (4 * largest))
    least = FILLINGS * (model.settings.score.slots or default_slots()) if searches else 1
    return min(data.ROWS, max(least, 1 << (most.bit_length() - 1)))


def _gathered(chunks: Iterator[catalog.Chunk], rows: int) -> Iterator[catalog.Chunk]:
    """The same objects in chunks of `rows`; the last has the rest."""
    held: list[catalog.Chunk] = []
    for chunk in chunks:
        held.append(chunk)
        while sum(len(part.x) for part in held) >= rows:
            whole, rest = _cut(_joined(held), rows)
            yield whole
            held = [rest] if len(rest.x) else []
    if held:
        yield _joined(held)


def _joined(chunks: list[catalog.Chunk]) -> catalog.Chunk:
    if len(chunks) == 1:
        return chunks[0]
    columns = {name: np.concatenate([chunk.columns[name] for chunk in chunks]) for name in chunks[0].columns}
    arrays = zip(*((chunk.x, chunk.flags) for chunk in chunks))
    return catalog.Chunk(columns, *map(np.concatenate, arrays))


def _cut(chunk: catalog.Chunk, rows: int) -> tuple[catalog.Chunk, catalog.Chunk]:
    """Its first rows, and the others."""
    first, rest = (
        catalog.Chunk(
            {name: values[part] for name, values in chunk.columns.items()},
            *(array[part] for array in (chunk.x, chunk.flags)),
        )
        for part in (slice(None, rows), slice(rows, None))
    )
    return first, rest


def _prepared(model: Bundle, source: data.Source, roles: data.Roles | None = None) -> Iterator[catalog.Chunk]:
    roles = roles or roles_for(model, source)
    repeated = duplicates(source, roles)
    for table in data.stream_tables(source, roles, _at_once(model)):
        if table.x.shape[1:] != model.schema.raw_shape:
            raise DataError(
                "these objects have another shape than those trained on",
                where=source.path,
                expected=model.schema.raw_shape,
                got=table.x.shape[1:],
                fix="score tables like the one trained on",
            )
        x, flags = model.prepare(table.x)
        flags = flags | table.flags | np.where(np.isin(table.ids, repeated), DUPLICATE_ID, 0).astype(np.uint32)
        columns = {"object_id": table.ids, "ra": table.ra, "dec": table.dec, "label": table.label}
        present = {name: values for name, values in columns.items() if values is not None} | table.kept
        yield catalog.Chunk(present, x, flags)


def duplicates(source: data.Source, roles: data.Roles) -> np.ndarray:
    """Ids that occur more than once in a table (only the id column is read)."""
    if not roles.id:
        return np.array([], np.int64)
    ids = np.concatenate([chunk[roles.id] for chunk in source.chunks(columns=[roles.id])])
    values, counts = np.unique(ids, return_counts=True)
    return values[counts > 1]

"""What the columns of a source mean, and tables of float32 features with their ids, positions and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from astroad_jax.data.source import ID_NAMES, ROWS, TEXT, UNREADABLE, Column, Source, fitting_rows
from astroad_jax.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from astroad_jax.config import Data

# Lower-case names by which a column is recognised, the most telling first.
RA_NAMES = (
    "ra",
    "raj2000",
    "ra_icrs",
    "ra_deg",
    "radeg",
    "meanra",
    "ramean",
    "target_ra",
    "coord_ra",
    "_raj2000",
)
DEC_NAMES = (
    "dec",
    "dej2000",
    "decj2000",
    "de_icrs",
    "dec_deg",
    "decdeg",
    "dedeg",
    "meandec",
    "decmean",
    "target_dec",
)
DEC_NAMES += ("coord_dec", "_dej2000")
LABEL_NAMES = ("label", "class", "classalerce", "alerceclass", "class_name", "spectype", "cls", "ans")
MAYBE_LABEL_NAMES = ("y", "target", "type")  # a label unless it holds fractions, as a pixel coordinate y would
ARRAY_NAMES = ("x", "image", "images", "cutout", "cutouts", "flux", "spectrum")
SPECTRUM, FLAGS, KEPT = "spectrum", "flags", ("z", "snr")  # columns of spectra on their grid
PANDAS_INDEX = "__index_level_"
DEGREES = ("", "deg", "degree", "degrees")
RADIANS = ("rad", "radian", "radians")


class Roles(NamedTuple):
    """Which column means what; ``""`` where there is none.

    Attributes
    ----------
    id, ra, dec, label : str
        Column names.
    features : tuple of str
        What is learnt from: scalar numeric columns in order, or ONE array column (images, spectra).
    flags : str
        Of spectra: what their reader has flagged.
    kept : tuple of str
        Of spectra: what goes along with their scores.
    """

    id: str
    ra: str
    dec: str
    label: str
    features: tuple[str, ...]
    flags: str = ""
    kept: tuple[str, ...] = ()


class Table(NamedTuple):
    """Rows ready for preprocessing.

    Attributes
    ----------
    ids : (N,) int or str array
        In the file's own type; row numbers (int64, counted over the whole source) where it has none.
    ra, dec : (N,) float64 array or None
        Degrees.
    label : (N,) str array or None
        Class names; ``""`` where unknown.
    x : (N, D) or (N, *shape) float32 array
        Missing values are NaN; what float32 cannot hold is +-inf, which preprocessing flags.
    features : tuple of str
        Column names of `x`.
    flags : (N,) uint32 array
        Why rows are to be left out, in the bits of `preprocess.FLAG_NAMES`; 0 where there is no such column.
    kept : dict of (N,) arrays
        Columns that go along with the scores: of spectra, ``z`` and ``snr``.
    """

    ids: np.ndarray
    ra: np.ndarray | None
    dec: np.ndarray | None
    label: np.ndarray | None
    x: np.ndarray
    features: tuple[str, ...]
    flags: np.ndarray
    kept: dict[str, np.ndarray]


def find_roles(source: Source, data: Data) -> Roles:
    """Settle what every column means.

    Names given in `data` must exist. Others are found by common names, whatever their case. Without given
    features, an array column called like one (``x``, ``image``, ``flux``, ...) is the feature, else every
    scalar column of integers or floats that is not ignored and not named like an id, a position or a label:
    such a second column is bookkeeping or would give the answer away. Boolean columns are features only where
    named.

    A column ``flags`` of uint32 is heeded beside a ``spectrum`` of two planes, as `spectra.gridded` makes both, and nowhere
    else: what a user's own column of that name means is not known. So are ``z`` and ``snr`` there; in a table of
    features they are features.

    Raises
    ------
    DataError
        A name that is not in the table, no feature at all, a feature that is not numeric, an array among
        scalars, an id, position or label column that is not scalar or of the wrong kind.
    """
    _check_known(source, data)
    free = {name: column for name, column in source.columns.items() if name not in data.ignore}
    given = {data.id, data.ra, data.dec, data.label, *data.features}
    candidates = {name: column for name, column in free.items() if name not in given and not column.shape}
    label = data.label or _by_name(candidates, LABEL_NAMES, "biufU") or _by_name(candidates, MAYBE_LABEL_NAMES, "biU")
    others = {name: column for name, column in candidates.items() if name != label}
    # A column named like an id that cannot be one is refused below: row numbers in its place would be the wrong ids.
    identifier = data.id or _by_name(others, ID_NAMES, "iuU") or _by_name(others, ID_NAMES, "bfO")
    ra = data.ra or _by_name(candidates, RA_NAMES, "f")
    dec = data.dec or _by_name(candidates, DEC_NAMES, "f")
    if not (ra and dec):
        ra, dec = data.ra, data.dec
    features = data.features or _features(free, {identifier, ra, dec, label})
    roles = Roles(identifier, ra, dec, label, tuple(features))
    check_roles(source, roles)
    return _with_flags(free, roles)


def _with_flags(free: dict[str, Column], roles: Roles) -> Roles:
    """The roles that only spectra on their grid have."""
    spectrum, flags = free.get(SPECTRUM), free.get(FLAGS)
    if roles.features != (SPECTRUM,) or spectrum is None or len(spectrum.shape) != 2 or spectrum.shape[0] != 2:
        return roles
    if flags is None or flags.shape or flags.dtype != np.uint32:
        return roles
    others = (name for name in KEPT if name in free and name not in roles[:4])
    return roles._replace(flags=FLAGS, kept=tuple(n for n in others if free[n].dtype.kind == "f" and not free[n].shape))


def _check_known(source: Source, data: Data) -> None:
    named = {"id": data.id, "ra": data.ra, "dec": data.dec, "label": data.label}
    wanted = [(f"data.{key}", name) for key, name in named.items() if name]
    wanted += [("data.features", name) for name in data.features]
    if not data.features:  # a misspelt name to ignore would let that column in
        wanted += [("data.ignore", name) for name in data.ignore]
    missing = [(key, name) for key, name in wanted if name not in source.columns]
    if missing:
        raise DataError(
            "columns are not in this table",
            where=source.path,
            expected="; ".join(f"{key}: {name!r}" for key, name in missing),
            got="; ".join(f"{name!r}: {did_you_mean(name, source.columns)}" for _, name in missing),
            fix="correct these names in the configuration",
        )


def _by_name(columns: dict[str, Column], names: Sequence[str], kinds: str) -> str:
    """First column with one of the names and one of the kinds, or ``""``."""
    lower = {name.lower(): name for name, column in reversed(columns.items()) if column.dtype.kind in kinds}
    return next((lower[name] for name in names if name in lower), "")


def _features(columns: dict[str, Column], taken: set[str]) -> list[str]:
    numeric = {name: column for name, column in columns.items() if column.dtype.kind in "iuf" and name not in taken}
    arrays = {name.lower(): name for name, column in numeric.items() if column.shape}
    for name in ARRAY_NAMES:
        if name in arrays:
            return [arrays[name]]
    telling = {*ID_NAMES, *RA_NAMES, *DEC_NAMES, *LABEL_NAMES, *MAYBE_LABEL_NAMES}
    scalars = [name for name, column in numeric.items() if not column.shape]
    return [name for name in scalars if name.lower() not in telling and not name.startswith(PANDAS_INDEX)]


def left_out(source: Source, roles: Roles) -> dict[str, str]:
    """Columns that play no role, and their types: what a user should know is not learnt from."""
    used = {*roles[:4], *roles.features, roles.flags, *roles.kept}
    return {name: _type_name(column) for name, column in source.columns.items() if name not in used}


def check_roles(source: Source, roles: Roles) -> None:
    """Raise `DataError` where a column cannot play its role."""
    columns = source.columns
    for role, kinds, wanted in (("id", "iuU", "whole numbers or text"), ("ra", "iuf", "numbers (degrees)")):
        _check_kind(source, role, getattr(roles, role), kinds, wanted)
    _check_kind(source, "dec", roles.dec, "iuf", "numbers (degrees)")
    _check_kind(source, "label", roles.label, "biufU", "names or numbers")
    _check_units(source, roles)
    twice = [name for name in roles.features if name in {roles.id, roles.label}]
    if twice:
        fix = "take them out of data.features"
        raise DataError("the id and the label cannot be features", where=source.path, got=twice, fix=fix)
    if not roles.features:
        raise DataError(
            "this table has no feature",
            where=source.path,
            expected=f"numeric columns, or an array column called {', '.join(ARRAY_NAMES)}, or named in data.features",
            got={name: _type_name(column) for name, column in list(columns.items())[:20]},
            fix="set data.features",
        )
    bad = {name: _type_name(columns[name]) for name in roles.features if columns[name].dtype.kind not in "biuf"}
    if bad:
        raise DataError(
            "feature columns are not numeric",
            where=source.path,
            expected="numbers",
            got=bad,
            fix="add them to data.ignore, or correct the values",
        )
    arrays = [name for name in roles.features if columns[name].shape]
    if arrays and len(roles.features) > 1:
        raise DataError(
            "a feature that is an array must be the only one",
            where=source.path,
            expected="scalar columns, or one array column",
            got={name: columns[name].shape for name in arrays},
            fix="set data.features",
        )


def _check_units(source: Source, roles: Roles) -> None:
    """Positions must come in degrees or radians."""
    for role, name in (("ra", roles.ra), ("dec", roles.dec)):
        if name and source.columns[name].unit.lower() not in (*DEGREES, *RADIANS):
            raise DataError(
                "positions in this unit cannot be used",
                where=f"{source.path}, column {name!r}",
                expected="degrees or radians",
                got=source.columns[name].unit,
                fix=f"convert it, or set data.{role} to another column (data.ignore leaves it out)",
            )


def _degrees(values: np.ndarray, unit: str) -> np.ndarray:
    values = values.astype(np.float64)
    return np.rad2deg(values) if unit.lower() in RADIANS else values


def _check_kind(source: Source, role: str, name: str, kinds: str, wanted: str) -> None:
    if not name:
        return
    column = source.columns[name]
    if column.dtype.kind in kinds and not column.shape:
        return
    raise DataError(
        f"this column cannot be the {role}",
        where=f"{source.path}, column {name!r}",
        expected=f"{wanted}, one a row, none missing" if role == "id" else f"{wanted}, one a row",
        got=_type_name(column),
        fix=f"repair this column, or set data.{role} to another (data.ignore leaves it out)",
    )


def _type_name(column: Column) -> str:
    names = {TEXT: "text", UNREADABLE: "values without an array form"}
    shape = f" of shape {column.shape}" if column.shape else ""
    missing = " (integers with missing values are read as this)" if column.dtype == np.float64 else ""
    return names.get(column.dtype, str(column.dtype)) + shape + missing


def stream_tables(source: Source, roles: Roles, rows: int = ROWS) -> Iterator[Table]:
    """Tables of at most `rows` rows, in file order; of fewer where rows are large (`source.BYTES`).

    Raises
    ------
    DataError
        Damage met while reading, a missing id, fewer or more rows than announced.
    """
    wanted = list(dict.fromkeys(name for name in (*roles[:4], *roles.features, roles.flags, *roles.kept) if name))
    rows, start = fitting_rows((source.columns[name] for name in wanted), rows), 0
    for chunk in source.chunks(rows=rows, columns=wanted):
        count = len(chunk[wanted[0]])
        if source.num_rows is not None and start + count > source.num_rows:
            raise _changed(source, start + count)
        yield Table(
            ids=_ids(chunk[roles.id], source, roles.id, start) if roles.id else np.arange(start, start + count),
            ra=_degrees(chunk[roles.ra], source.columns[roles.ra].unit) if roles.ra else None,
            dec=_degrees(chunk[roles.dec], source.columns[roles.dec].unit) if roles.dec else None,
            label=as_labels(chunk[roles.label]) if roles.label else None,
            x=_matrix(chunk, roles.features),
            features=roles.features,
            flags=chunk[roles.flags] if roles.flags else np.zeros(count, np.uint32),
            kept={name: chunk[name] for name in roles.kept},
        )
        start += count
    if source.num_rows is not None and start != source.num_rows:
        raise _changed(source, start)


def _changed(source: Source, got: int) -> DataError:
    return DataError("this table has changed since it was opened", where=source.path, expected=source.num_rows, got=got)


def read_table(source: Source, roles: Roles) -> Table:
    """Whole table in memory; `x` is filled in place, so that the peak is one copy.

    Raises
    ------
    DataError
        As `stream_tables`.
    """
    num_rows = source.num_rows if source.num_rows is not None else count_rows(source)
    shape = source.columns[roles.features[0]].shape or (len(roles.features),)
    x = np.empty((num_rows, *shape), np.float32)
    rest, start = [], 0
    for part in stream_tables(source, roles):
        x[start : start + len(part.x)] = part.x
        start += len(part.x)
        rest.append((part.ids, part.ra, part.dec, part.label, part.flags, *part.kept.values()))
    columns = (None if values[0] is None else np.concatenate(values) for values in zip(*rest))
    ids, ra, dec, label, flags, *kept = columns
    return Table(ids, ra, dec, label, x, roles.features, flags, dict(zip(roles.kept, kept)))


def count_rows(source: Source) -> int:
    """Rows of a source that does not announce them, by reading its first readable column."""
    name = next(name for name, column in source.columns.items() if column.dtype != UNREADABLE)
    return sum(len(chunk[name]) for chunk in source.chunks(columns=[name]))


def check_ids(ids: np.ndarray, where: str) -> None:
    """Refuse duplicate ids.

    Raises
    ------
    DataError
        With how many there are and the first few.
    """
    unique, counts = np.unique(ids, return_counts=True)
    repeated = unique[counts > 1]
    if len(repeated):
        raise DataError(
            "object ids are not unique",
            where=where,
            expected=f"{len(ids)} different ids",
            got=f"{len(repeated)} ids more than once, first: {repeated[:5].tolist()}",
            fix="remove the duplicates, or choose another id column",
        )


def as_labels(values: np.ndarray) -> np.ndarray:
    """Labels as text: whole numbers without a decimal point, missing ones ``""``."""
    if values.dtype.kind != "f":
        return values.astype(str)
    return np.array(["" if v != v else str(int(v)) if float(v).is_integer() else str(v) for v in values], dtype=str)


def _ids(values: np.ndarray, source: Source, name: str, start: int) -> np.ndarray:
    missing = np.flatnonzero(values == "") if values.dtype.kind == "U" else np.empty(0, np.int64)
    if len(missing):
        raise DataError(
            "objects have no id",
            where=f"{source.path}, column {name!r}, row {start + missing[0]}",
            expected="an id in every row",
            got=f"{len(missing)} empty ones in this part",
            fix="fill them, or choose another id column",
        )
    return values


def _matrix(chunk: dict[str, np.ndarray], features: tuple[str, ...]) -> np.ndarray:
    with np.errstate(over="ignore"):  # beyond float32 becomes inf on purpose: see `Table`
        if len(features) == 1 and chunk[features[0]].ndim > 1:
            return _single(chunk[features[0]])
        return np.stack([_single(chunk[name]) for name in features], axis=1)


def _single(values: np.ndarray) -> np.ndarray:
    """As float32; wide integers by way of float64, as they come where one is missing: then its neighbours feel nothing."""
    wide = values.dtype.kind in "iu" and values.dtype.itemsize == 8
    return (values.astype(np.float64) if wide else values).astype(np.float32)

"""Scores of one partition of a distributed catalogue: what LSDB's ``map_partitions`` calls in its workers.

::

    catalog = lsdb.open_catalog(PATH, columns=["objectId", "ra", "dec", *FEATURES])
    scored = catalog.map_partitions(score_partition, run="RUN")

A process loads a model once, however many partitions it is given, in however many threads. Whoever only hands the
function on, as a client does to its workers, imports neither jax nor the model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from astroad_jax import data, files
from astroad_jax.errors import DataError, MismatchError

if TYPE_CHECKING:
    import pandas as pd

    from astroad_jax.app.bundle import Bundle


class Served(NamedTuple):
    """A model that this process holds ready.

    Attributes
    ----------
    fingerprint : str
        Of the run's files as they were when it was loaded.
    model : Bundle
    scorer : (state, x, ids) -> dict of (N,) arrays
        For any thread: one call at a time.
    """

    fingerprint: str
    model: Bundle
    scorer: Callable[..., Any]


class Description(NamedTuple):
    """What a client must know of a model before it hands out partitions.

    Attributes
    ----------
    identity : dict
        What scores depend on (`Bundle.identity`).
    fingerprint : str
        Of the run's files.
    roles : data.Roles
        What the catalogue's columns mean.
    columns : list of str
        Those that are read.
    meta : DataFrame
        Scores of no object: names and types of the columns.
    flags : dict of int to str
        What the flags mean.
    """

    identity: dict[str, Any]
    fingerprint: str
    roles: data.Roles
    columns: list[str]
    meta: pd.DataFrame
    flags: dict[int, str]


_held: dict[tuple[str, ...], Served] = {}
_loading = threading.Lock()


def score_partition(
    frame: pd.DataFrame,
    pixel: Any = None,
    *,
    run: str | Path,
    overrides: Sequence[str] = (),
    roles: data.Roles | None = None,
    fingerprint: str = "",
    where: str = "a partition",
) -> pd.DataFrame:
    """Score the rows of a frame, bit for bit as ``astroad score`` scores the table that holds them.

    Parameters
    ----------
    frame : DataFrame
        Columns in NumPy's types, pandas' nullable ones or Arrow's; it may have no row.
    pixel : HealpixPixel, optional
        What LSDB hands over under ``include_pixel=True``; errors name it.
    run : path
        Run directory of a trained model, on a file system that the workers share.
    overrides : sequence of str
        ``key=value`` for what may change after training, such as ``data.id=objectId``.
    roles : Roles, optional
        What the columns mean; without them it is told by the run's names or by custom, from this frame alone.
    fingerprint : str, optional
        Of the run as it must be (`Description`); any other is refused.
    where : str
        The catalogue, as errors name it.

    Returns
    -------
    DataFrame
        The index of `frame`, and in Arrow's types ``object_id`` as it came, ``ra``, ``dec``, ``label`` where there are
        any, ``score`` (up = stranger), the method's components, ``p_value``, ``flags``. An object that cannot be scored
        has a null score and a flag. An id that occurs twice is flagged where both are in this frame.

    Raises
    ------
    DataError
        Features that are missing, not numeric or of another shape than trained on; no id column, or an object without.
    MismatchError
        The run is not the one that `fingerprint` is of.
    """
    served = serve(run, overrides, fingerprint)
    source = data.open_frame(frame, _named(where, pixel), _shapes(served.model))
    roles = roles_of(served.model, source) if roles is None else roles
    _check_whole(source, roles)
    from astroad_jax.app import scoring

    return data.to_frame(scoring.score_table(served.model, served.scorer, source, roles), frame.index)


def describe(frame: pd.DataFrame, run: str | Path, overrides: Sequence[str], where: str) -> Description:
    """Look at a catalogue's columns with a model's eyes: run in a worker, it spares the client the model.

    Parameters
    ----------
    frame : DataFrame
        All columns of the catalogue, and no row.

    Raises
    ------
    DataError
        As `score_partition`.
    """
    from astroad_jax.app import scoring

    served = serve(run, overrides)
    roles = roles_of(served.model, data.open_frame(frame, where, _shapes(served.model)))
    named = [*roles[:4], *roles.features, roles.flags, *roles.kept]
    columns = [name for name in dict.fromkeys(named) if name]
    meta = score_partition(frame[columns], run=run, overrides=overrides, roles=roles, where=where)
    return Description(served.model.identity(), served.fingerprint, roles, columns, meta, scoring.FLAG_NAMES)


def serve(run: str | Path, overrides: Sequence[str] = (), fingerprint: str = "") -> Served:
    """The model of a run, loaded on the first call and whenever the run's files have changed since.

    Raises
    ------
    MismatchError
        Another fingerprint is asked for.
    DataError, CorruptError
        As `bundle.load`.
    """
    from astroad_jax.app import bundle

    key = (files.canonical(run), *overrides)
    with _loading:
        now = bundle.fingerprint(Path(run))
        if fingerprint and now != fingerprint:
            what = "the run has changed since scoring began, or this machine sees another one"
            fix = "leave a run alone while it is scored with; then start again"
            raise MismatchError(what, where=str(run), expected=fingerprint, got=now, fix=fix)
        if key not in _held or _held[key].fingerprint != now:
            model = bundle.load(Path(run), overrides)
            _held[key] = Served(now, model, _one_at_a_time(model.scorer()))
        return _held[key]


def _one_at_a_time(scorer: Callable[..., Any]) -> Callable[..., Any]:
    lock = threading.Lock()

    def score(*arguments: Any) -> Any:
        with lock:
            return scorer(*arguments)

    return score


def roles_of(model: Bundle, source: data.Source) -> data.Roles:
    """`scoring.roles_for`, with ids that are the objects' own: rows are numbered anew in every partition.

    Raises
    ------
    DataError
        No column of ids, or what `scoring.roles_for` raises.
    """
    from astroad_jax.app import scoring

    roles = scoring.roles_for(model, source)
    if not roles.id:
        raise DataError(
            "this catalogue has no ids",
            where=source.path,
            expected="a column of ids, of a usual name",
            got=", ".join(list(source.columns)[:20]),
            fix="name the column that holds them: data.id=COLUMN",
        )
    return roles


def _check_whole(source: data.Source, roles: data.Roles) -> None:
    """Look at the roles again: a hole in this partition turns its integers into floats."""
    data.check_roles(source, roles)
    if roles.flags and source.columns[roles.flags].dtype.kind != "u":
        fix = "write the spectra again: each has flags, 0 where all is well"
        raise DataError("spectra have no flags", where=f"{source.path}, column {roles.flags!r}", fix=fix)


def _shapes(model: Bundle) -> dict[str, tuple[int, ...]]:
    """Of an array feature: a partition may hold no value that would tell."""
    features = model.schema.features
    return {features[0]: model.schema.raw_shape} if len(features) == 1 else {}


def _named(where: str, pixel: Any) -> str:
    return where if pixel is None else f"{where}, Norder={pixel.order}, Npix={pixel.pixel}"

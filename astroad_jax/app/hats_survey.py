"""A catalogue in HATS format, looked at before any of it is scored; and the workers that LSDB and Dask give."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

from astroad_jax import config, files
from astroad_jax.app import hats_parts
from astroad_jax.app.partition import Description, describe
from astroad_jax.errors import ConfigError, DataError

THREADS = {"distributed.nanny.pre-spawn-environ": {"MALLOC_TRIM_THRESHOLD_": 65536}}  # Dask's own but for 1 thread for BLAS


class Survey(NamedTuple):
    """A catalogue looked at before any of it is scored.

    Attributes
    ----------
    catalog : lsdb.Catalog
        Of the columns that are read, without margin.
    model : Description
    parts : dict of HealpixPixel to Part
    paths : dict of HealpixPixel to UPath
    several : bool
        Whether a partition is a directory of files.
    options : dict
        Of `score_partition`.
    """

    catalog: Any
    model: Description
    parts: dict[Any, hats_parts.Part]
    paths: dict[Any, Any]
    several: bool
    options: dict[str, Any]


@contextmanager
def cluster(workers: int = 0, scheduler: str = "") -> Iterator[Any]:
    """A Dask client: of a scheduler that is there already, or of a cluster of processes of this machine's own.

    While it is open, `score_hats` makes use of it. A worker scores one partition at a time, with as many threads for JAX and
    BLAS as any process here has: convolutions (and some products of BLAS) add up in another order with fewer, and scores
    would differ from those of ``astroad score`` in their last bits. ``PJRT_NPROC`` in the environment limits JAX's threads
    in both.

    Parameters
    ----------
    workers : int
        Processes. Of 0, where no scheduler is named either, there is no client: all is done in this process.
    scheduler : str
        Address such as ``tcp://host:8786``. Its workers need this package and LSDB, and see the run, the catalogue and the
        directory of the scores.

    Raises
    ------
    DataError
        LSDB is not installed, or no scheduler answers.
    ConfigError
        Both are asked for.
    """
    find_lsdb()
    if scheduler and workers:
        raise ConfigError("a scheduler has its own workers", where="--workers", got=workers, fix="leave out one of the two")
    if scheduler:
        with _client(scheduler) as client:
            yield client
    elif workers:
        with _processes(workers) as client:
            yield client
    else:
        yield None


def _client(scheduler: str) -> Any:
    from distributed import Client

    try:
        with Client(scheduler, set_as_default=False):
            pass  # one that cannot connect may stay Dask's choice, and whatever is computed next would wait for it
        return Client(scheduler)
    except (OSError, ValueError) as error:
        fix = "start one with dask scheduler, or leave it to --workers"
        raise DataError("no scheduler answers here", where=scheduler, got=error, fix=fix) from error


@contextmanager
def _processes(workers: int) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    memory = os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else the first worker takes an accelerator's
    shape = {"n_workers": workers, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    own = {"host": "127.0.0.1", "env": {"XLA_PYTHON_CLIENT_PREALLOCATE": memory}}
    with dask.config.set(THREADS), LocalCluster(**shape, **own) as local, Client(local) as client:
        yield client


def survey(run: str, path: str, overrides: Sequence[str]) -> Survey:
    """Open a catalogue, have a worker look at its columns, and count its rows."""
    import pyarrow as pa

    whole = _open(path, "all")
    info = whole.hc_structure.catalog_info
    placed = [config.setting("data.ra", info.ra_column), config.setting("data.dec", info.dec_column)]
    options = {"run": run, "overrides": [*overrides, *placed], "where": path}
    (model,) = work(describe, [(whole.meta, run, options["overrides"], path)])
    catalog, several = _open(path, list(model.columns)), info.npix_suffix == "/"
    paths = paths_of(catalog, whole.hc_structure.catalog_base_dir, info.npix_suffix)
    schema = pa.schema([whole.hc_structure.schema.field(name) for name in (*model.columns, info.healpix_column)])
    parts = dict(zip(paths, work(hats_parts.look, [(part, several, schema) for part in paths.values()])))
    return Survey(catalog, model, parts, paths, several, options | {"roles": model.roles, "fingerprint": model.fingerprint})


def _open(path: str, columns: Any) -> Any:
    lsdb = find_lsdb()
    try:
        catalog = lsdb.open_catalog(path, columns=columns, page_checksum_verification=True)
    except Exception as error:  # hats, fsspec, pyarrow and pydantic each have their own
        raise DataError(
            "this cannot be opened as a catalogue in HATS format",
            where=path,
            expected="a catalogue of objects or sources, or a collection with one",
            got=f"{type(error).__name__}: {error}",
            fix="check the path; hats-import makes such catalogues",
        ) from error
    if not catalog.hc_structure.has_healpix_column():
        fix = "import it anew with a current hats-import"
        raise DataError("this catalogue has no spatial index", where=path, expected="a column _healpix_29", fix=fix)
    catalog.margin = None  # its rows are those of other partitions
    return catalog


def find_lsdb() -> Any:
    """Find LSDB, or say how to get it."""
    try:
        import lsdb
    except ImportError as error:
        raise DataError(
            "catalogues in HATS format are read with LSDB",
            got=f"{error.name} is not installed",
            fix="pip install 'astroad_jax[lsdb]'",
        ) from error
    return lsdb


def paths_of(catalog: Any, base: Any, suffix: str = ".parquet") -> dict[Any, Any]:
    """Pixel -> file or directory of its partition below `base`."""
    from hats.io import file_io, pixel_catalog_file

    root = file_io.get_upath(base)
    return {pixel: pixel_catalog_file(root, pixel, None, suffix) for pixel in catalog.get_healpix_pixels()}


def scheduler() -> Any:
    """Whatever Dask was told to use; by itself it would use threads, which one device does not serve any faster."""
    find_lsdb()
    import dask

    return nullcontext() if dask.base.get_scheduler() is not None else dask.config.set(scheduler="synchronous")


def work(function: Callable[..., Any], arguments: Iterable[tuple]) -> tuple:
    """Results of a function, called by the workers."""
    import dask

    return dask.compute(*[dask.delayed(function, pure=False)(*each) for each in arguments])


def identity(found: Survey) -> dict[str, Any]:
    """What names the input: where it is, and what its partitions are; trouble with reading one may be gone the next time."""
    parts = sorted([int(pixel.order), int(pixel.pixel), part.stamp] for pixel, part in found.parts.items())
    return {"path": found.options["where"], "partitions": len(parts), "stamp": files.seal(parts)}

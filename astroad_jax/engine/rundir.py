"""Run directories: everything a run was, and all it takes to go on with it.

::

    RUN/config.toml        the resolved configuration
    RUN/provenance.json    versions, devices, data fingerprint
    RUN/metrics.jsonl      one line per window of steps; no clock in it, so that a resumed run writes the same bytes
    RUN/checkpoints/       see `checkpoint`
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from astroad_jax import config, files
from astroad_jax.engine import checkpoint, fork, processes, sharding
from astroad_jax.engine.signals import asked_to_stop
from astroad_jax.engine.train import Hooks, Row, Saved
from astroad_jax.errors import CorruptError, DataError, DivergedError, MismatchError
from astroad_jax.types import Batch, Feed, Method, State

Resolve = Callable[[dict[str, Any]], dict[str, Any]]  # a method's hyper-parameters, completed by its defaults
PACKAGES = ("astroad_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@contextmanager
def open_run(
    directory: Path,
    settings: config.Run,
    feed: Feed,
    keep: int = 3,
    resolve: Resolve | None = None,
    origin: fork.Origin | None = None,
) -> Iterator[Hooks]:
    """Start a run in `directory`, or go on with the one that is there.

    Yields the hooks for `train.fit`. While open, the directory is locked, and the first SIGINT or SIGTERM asks the loop
    to checkpoint and stop. With `resolve` the method's hyper-parameters that are held there are completed before they are
    compared: one that did not exist when the run began has its default. A new run begins at `origin`, if there is one
    (see `fork`, which checks that it can).

    Raises
    ------
    MismatchError
        The directory holds a run with another configuration, other data, or another beginning, which are named.
    BusyError
        Another process is writing there.
    DataError
        The directory cannot be written.
    """
    directory = Path(directory)
    primary = processes.is_primary()
    if primary:
        _make(directory)
    with processes.primary_only(lambda: _claimed(directory, settings, feed, resolve, origin)), asked_to_stop() as stop:
        found = checkpoint.newest(directory / "checkpoints")
        if primary:
            _truncate(directory / "metrics.jsonl", found[1]["total_step"] if found else 0)
        yield _hooks(directory, found, keep, stop, primary)


def _make(directory: Path) -> None:
    if "\\" in str(directory.absolute()):  # Orbax's storage would read it as a slash, and write somewhere else
        fix = "choose another with --out"
        raise DataError("a run directory cannot have a backslash in its path", where=str(directory), fix=fix)
    try:
        (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe = directory / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DataError(
            "cannot write to the run directory",
            where=str(directory),
            got=str(error),
            fix="choose another with --out",
        ) from error


@contextmanager
def _claimed(
    directory: Path, settings: config.Run, feed: Feed, resolve: Resolve | None, origin: fork.Origin | None
) -> Iterator[None]:
    """Lock the directory; write what identifies the run, or compare with what is there."""
    with files.lock(directory):
        _claim(directory, settings, feed, resolve, origin)
        yield


def _claim(directory: Path, settings: config.Run, feed: Feed, resolve: Resolve | None, origin: fork.Origin | None) -> None:
    path, proof = directory / "config.toml", directory / "provenance.json"
    if not proof.exists():
        begun = {} if origin is None else {"begun_at": origin.name()}
        files.write_text(path, config.dumps(settings))
        files.write_sealed(proof, {**provenance(feed), **begun})  # first, so that no half of a beginning is taken for a run
        if origin is not None:
            fork.begin(origin, directory)
        return
    held, known = held_settings(directory, settings, resolve), files.read_sealed(proof)
    differing = config.differences(held, settings.model_copy(update={"score": held.score}))
    if known["data"] != feed.fingerprint:
        differing.append("the training data")
    if origin is not None and known.get("begun_at") != origin.name():
        differing.append("where it began")
    if differing:
        raise MismatchError(
            "this directory holds another run",
            where=str(directory),
            got="; ".join(differing),
            fix="choose another directory, or use the configuration and data of that run to go on with it",
        )
    if "begun_at" in known and checkpoint.is_empty(directory / "checkpoints"):
        fork.begin_again(origin, directory)
    files.write_text(path, config.dumps(settings))  # how scores are used is not part of what was trained


def held_settings(directory: Path, settings: config.Run, resolve: Resolve | None) -> config.Run:
    """Settings of the run in a directory, completed by defaults where its method is that of `settings`."""
    held = config.load(directory / "config.toml")
    if resolve is not None and held.method.get("name") == settings.method.get("name"):
        held = held.model_copy(update={"method": resolve(held.method)})
    return held


def provenance(feed: Feed) -> dict[str, Any]:
    """Versions, devices and data of a run."""
    return {
        "data": feed.fingerprint,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [str(device) for device in jax.devices()],
        "device_kind": jax.devices()[0].device_kind,
        "processes": jax.process_count(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def _truncate(path: Path, total_step: int) -> None:
    """Drop metric lines of steps that will be run again."""
    rows = [row for row in files.read_lines(path) if row["total_step"] <= total_step]
    files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _hooks(directory: Path, found: Any, keep: int, stop: threading.Event, primary: bool) -> Hooks:
    metrics = directory / "metrics.jsonl"

    def on_metrics(rows: list[Row]) -> None:
        if rows and primary:
            with open(metrics, "a", encoding="utf-8") as stream:
                stream.write("".join(json.dumps(row) + "\n" for row in rows))
                stream.flush()
                os.fsync(stream.fileno())

    def on_checkpoint(stage: int, name: str, step: int, total: int, state: State, complaints: Mapping[str, str]) -> None:
        _check_numbers(state, name, step)
        at = checkpoint.Position(stage, name, step)
        checkpoint.save(directory / "checkpoints", at, total, state, keep, complaints)

    def resume(stage: int, abstract: Any) -> Saved | None:
        if found is None:
            return None
        path, note = found
        return Saved(stage, note["position"]["step"], checkpoint.restore(path, abstract), note.get("complaints", {}))

    at = found[1]["position"]["stage"] if found else 0
    history = files.read_lines(metrics) if primary and found else []
    return Hooks(on_metrics, on_checkpoint, resume, at, _agreed(stop), lambda: history)


def _check_numbers(state: State, name: str, step: int) -> None:
    """Refuse to save what no training can go on from: metrics may be finite where the last update was not.

    Infinities may be meant (the lowest loss so far, before there was one).
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(sharding.to_host(state))
    reals = ((path, leaf) for path, leaf in flat if jnp.issubdtype(leaf.dtype, jnp.inexact))
    bad = [jax.tree_util.keystr(path) for path, leaf in reals if np.isnan(leaf).any()]
    if bad:
        raise DivergedError(
            "training diverged: the state holds NaN",
            where=f"stage {name!r}, step {step}",
            got=", ".join(bad[:3]) + (f" and {len(bad) - 3} more arrays" if len(bad) > 3 else ""),
            fix="lower the learning rate, or look for extreme values in the data; "
            "earlier checkpoints are kept, and train --from begins there",
        )


def complaints(directory: Path) -> tuple[dict[str, str], Path | None]:
    """What the newest checkpoint of a run was written in spite of, by stage, and the newest one that was not."""
    found = checkpoint.newest(Path(directory) / "checkpoints")
    standing = found[1].get("complaints", {}) if found else {}
    return standing, checkpoint.last_right(Path(directory) / "checkpoints") if standing else None


def _agreed(stop: threading.Event) -> Callable[[], bool]:
    """Whether any process was asked to stop: signals reach them at different times, and they must stop at one step.

    All of them ask equally often, so that every eighth question can be put to all.
    """
    if processes.count() == 1:
        return stop.is_set
    asked, known = itertools.count(), [False]

    def agreed() -> bool:
        if next(asked) % 8 == 0:
            known[0] = any(processes.share([stop.is_set()]))
        return known[0]

    return agreed


def load_state(directory: Path, method: Method, batch: Batch) -> tuple[State, str]:
    """Final state of a finished run, and the digest that names it.

    Parameters
    ----------
    batch : Batch
        Gives the shapes of a batch; none of its values are used.

    Raises
    ------
    CorruptError
        There is no checkpoint, or none that is sound.
    MismatchError
        The run is not finished.
    """
    found = checkpoint.newest(Path(directory) / "checkpoints")
    if found is None:
        raise CorruptError("this run has no checkpoint", where=str(directory), fix="train it first: astroad train")
    path, note = found
    last = len(method.stages) - 1
    position = note["position"]
    if position["stage"] != last or position["step"] != method.stages[last].num_steps:
        raise MismatchError(
            "this run is not finished",
            where=str(directory),
            expected=f"{method.stages[last].num_steps} steps of stage {method.stages[last].name!r}",
            got=f"{position['step']} steps of stage {position['name']!r}",
            fix="run the training command again; it resumes",
        )
    return checkpoint.restore(path, abstract_state(method, batch)), note["digest"]


def abstract_state(method: Method, batch: Batch) -> Any:
    """Shapes of a method's final state, on the default device."""
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    state = None
    for stage in method.stages:
        state = jax.eval_shape(stage.init, jax.random.key(0), batch, state)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), state)

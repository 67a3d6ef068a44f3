"""``astroad train``: a table and a configuration -> a run directory."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astroad_jax import config, data, files, preprocess
from astroad_jax.analysis import calibrate
from astroad_jax.app import bundle, raw, streaming
from astroad_jax.app.checksum import Checksum
from astroad_jax.app.launch import is_primary
from astroad_jax.app.split import Parts, class_index, labels_of, report_left_out, split
from astroad_jax.engine import fork, rundir, sharding
from astroad_jax.engine.feed import resident, with_valid
from astroad_jax.engine.train import Fitted, fit
from astroad_jax.errors import ConfigError, DataError, DivergedError
from astroad_jax.methods import configure, entry
from astroad_jax.methods.augment import augmented
from astroad_jax.types import Feed, Method, Plan

FLAT = 1e-6  # relative range of scores below which they are all one
log = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """Everything training needs."""

    schema: bundle.Schema
    scaler: preprocess.Scaler
    feed: Feed
    calibrate_on: tuple[np.ndarray, np.ndarray]  # objects as the scorer takes them, and ids
    ids: dict[str, np.ndarray]  # of each part; none where the table was streamed and split by the hash of its ids
    checksum: str  # of the training rows


def _resolved(method: dict[str, Any]) -> dict[str, Any]:
    """Hyper-parameters with their defaults."""
    return configure(method).model_dump()


def train(
    source: data.Source, settings: config.Run, out: Path, progress: bool = False, origin: Path | None = None
) -> Fitted:
    """Train a model on a table and calibrate it; the same call resumes a stopped run.

    Parameters
    ----------
    origin : Path, optional
        A checkpoint of another run, or that run for its newest: a new run begins there instead of from nothing. Its settings
        may differ in how it is trained and scored with (`TUNABLE`); with as many steps as the checkpoint has, it is finished
        as it is.

    Raises
    ------
    AstroadError
        What is wrong with table, configuration or directory, and what to do about it.
    """
    out = Path(out)
    settings = settings.model_copy(update={"method": _resolved(settings.method)})
    roles = data.find_roles(source, settings.data)
    if not roles.id:
        log.warning("%s has no id column (data.id): its objects are numbered by row", source.path)
    prepared = (_stream if settings.data.stream else _load)(source, roles, settings)
    method, options = bundle.make_method(prepared.schema, settings), settings.train
    _check_heeded(method, settings)
    start = None if origin is None else fork.find(origin)
    if start is not None:
        held = rundir.held_settings(start.run, settings, _resolved)
        tunable = entry(settings.method["name"]).config.TUNABLE
        fork.check(start, settings, held, tunable, prepared.feed.fingerprint, method)
    with rundir.open_run(out, settings, prepared.feed, options.keep_checkpoints, _resolved, start) as hooks:
        if is_primary():
            bundle.save_schema(out, prepared.schema, settings)
            preprocess.save(prepared.scaler, out / "preprocess.npz")
            where = {"table": np.array(files.canonical(source.path)), "numbered": np.array(not roles.id)}
            bundle.save_arrays(out / "split.npz", **where, checksum=np.array(prepared.checksum), **prepared.ids)
        fitted = fit(
            _augmented(method, prepared.schema.shape, options),
            prepared.feed,
            seed=options.seed,
            steps_per_call=options.steps_per_call,
            log_every=options.log_every,
            checkpoint_every=options.checkpoint_every,
            hooks=hooks,
            progress=progress,
        )
        scorer = raw.scorer(method, prepared.scaler, prepared.schema.raw_shape, settings, progress=progress)
        scores = scorer(sharding.to_host(fitted.state), *prepared.calibrate_on)["score"]
        _check_scores(scores, out)
        _report_complaints(out)
        _check_rate(len(scores), settings)
        if is_primary():
            bundle.save_arrays(out / "calibration.npz", score=scores)
            bundle.seal(out)
    return fitted


def _augmented(method: Method, shape: tuple[int, ...], options: config.Train) -> Method:
    """The method as it is trained; what is trained is the same."""
    return augmented(method, shape) if options.augment == "turn" else method


def _check_heeded(method: Method, settings: config.Run) -> None:
    """Refuse held-out rows that nothing would look at: they would be missing from the training for nothing."""
    fraction = settings.data.validation_fraction
    if not fraction or any(stage.held_out for stage in method.stages):
        return
    raise ConfigError(
        "nothing would look at the validation rows",
        where="data.validation_fraction",
        expected="0, or a method whose learning rate goes by them",
        got=f"{fraction}, and a {settings.method['name']} whose learning rate stays as it is",
        fix="set data.validation_fraction = 0, or method.name = vae with method.plateau = 5",
    )


def _check_scores(scores: np.ndarray, out: Path) -> None:
    """Refuse a model that tells no object from another."""
    finite = scores[np.isfinite(scores)]
    if len(finite) and (len(scores) < 2 or np.ptp(finite) > FLAT * np.abs(finite).max()):
        return
    raise DivergedError(
        "the trained model gives every object the same score" if len(finite) else "the trained model gives no score",
        where=str(out),
        expected=f"different scores for {len(scores)} calibration rows",
        got=f"{finite.min()} to {finite.max()}" if len(finite) else "nothing finite",
        fix="see that the features vary (astroad inspect), or train anew with a lower learning rate or fewer epochs",
    )


def _report_complaints(out: Path) -> None:
    """Say of a model that is whole, and may be no good, what a scoring of a catalogue would not show."""
    standing, right = rundir.complaints(out)
    for stage, complaint in standing.items() if is_primary() else ():
        go_on = "astroad train --from it goes on from there, with other epochs or another learning rate"
        kept = f"the last checkpoint before that is {right} ({go_on})" if right else "no checkpoint before that was kept"
        log.warning("%s was trained to its end, but stage %r ended in %s; %s", out, stage, complaint, kept)


def _check_rate(rows: int, settings: config.Run) -> None:
    """Say where the calibration rows are too few for the false-alarm rate asked for."""
    rate = settings.score.false_alarm_rate
    if rows < calibrate.rows_needed(rate):
        log.warning(
            "%d calibration rows cannot tell a false-alarm rate of %g, which takes %d: no threshold will be drawn "
            "(raise data.calibration_fraction or score.false_alarm_rate)",
            *(rows, rate, calibrate.rows_needed(rate)),
        )


def _check_calibration(rows: int, source: data.Source) -> None:
    """Refuse, before training, a table that leaves nothing to calibrate on."""
    if not rows:
        raise DataError(
            "no row is left to calibrate p-values on",
            where=source.path,
            expected="at least one usable inlier",
            got=0,
            fix="raise data.calibration_fraction, or use more rows",
        )


def _load(source: data.Source, roles: data.Roles, settings: config.Run) -> Prepared:
    """Hold the table in memory."""
    table = data.read_table(source, roles)
    chosen = np.flatnonzero(~preprocess.excluded(table.flags))
    report_left_out(source, table.flags)
    data.check_ids(table.ids[chosen], source.path)
    labels = labels_of(table)
    parts = Parts(*(chosen[rows] for rows in split(labels[chosen], settings)))
    scaler = preprocess.fit(table.x[parts.train], settings.preprocess, roles.features)
    x, flags = preprocess.apply(scaler, table.x)
    usable = ~preprocess.unusable(scaler, flags)
    _report_unusable(source, usable[parts.train], flags[parts.train])
    train = parts.train[usable[parts.train]]
    classes = tuple(sorted(set(labels[train].tolist()) - {""})) or ("",)
    y = class_index(labels, classes)
    feed = _table_feed({"x": x[train], "y": y[train]}, settings)
    if settings.data.validation_fraction:
        rows = parts.validation[usable[parts.validation]]
        feed = _validated(feed, {"x": x[rows], "y": y[rows]}, source)
    sizes = plan(feed, x.shape[1:], len(classes), settings)
    schema = bundle.Schema(roles.features, _units(source, roles), table.x.shape[1:], x.shape[1:], classes, sizes)
    held = parts.calibration[usable[parts.calibration]]
    _check_calibration(len(held), source)
    ids = {name: table.ids[rows] for name, rows in parts._asdict().items() if name != "validation" or len(rows)}
    seen = Checksum()
    seen.add(table.ids, labels, table.x, parts.train)
    return Prepared(schema, scaler, feed, (raw.prepare(scaler, table.x[held])[0], table.ids[held]), ids, str(seen))


def _units(source: data.Source, roles: data.Roles) -> tuple[str, ...]:
    return tuple(source.columns[name].unit for name in roles.features)


def _table_feed(arrays: dict[str, np.ndarray], settings: config.Run) -> Feed:
    options = settings.train
    common = {"seed": options.seed, "batch_size": options.batch_size, "remainder": options.remainder}
    if options.feed == "resident":
        return resident(arrays, balance=options.balance, **common)
    from astroad_jax.data.pipeline import table_feed

    return table_feed(arrays, labels_for_balance=arrays["y"] if options.balance else None, **common)


def _validated(feed: Feed, valid: dict[str, np.ndarray], source: data.Source) -> Feed:
    """The feed with held-out rows; refused, before training, where there are none."""
    if not len(valid["x"]):
        raise DataError(
            "no row is left to validate on",
            where=source.path,
            expected="at least one usable inlier",
            got=0,
            fix="raise data.validation_fraction, use more rows, or set it to 0 to go by the training loss",
        )
    return with_valid(feed, {name: np.ascontiguousarray(column) for name, column in valid.items()})


def plan(feed: Feed, shape: tuple[int, ...], num_classes: int, settings: config.Run) -> Plan:
    """Sizes for the method's factory."""
    steps = settings.train.epochs * feed.steps_per_epoch
    passes = (feed.steps_per_epoch, feed.steps_per_pass)
    options = {"num_classes": num_classes, "balanced": settings.train.balance, "shape": tuple(shape)}
    return Plan(int(np.prod(shape)), steps, *passes, **options)


def _report_unusable(source: data.Source, usable: np.ndarray, flags: np.ndarray) -> None:
    """Say how many training rows are left out, and refuse a table of which little is left."""
    lost = int((~usable).sum())
    reasons = preprocess.count_flags(flags)
    if lost * 2 > len(usable):
        raise DataError(
            "most training rows are unusable",
            where=source.path,
            expected="at least half of them usable",
            got=f"{lost} of {len(usable)} left out: {reasons}",
            fix="fill missing values (preprocess.nan = median or lowest), or ignore the columns that lack them "
            "(data.ignore); astroad inspect shows which",
        )
    if lost:
        log.warning("%d of %d training rows left out (%s)", lost, len(usable), reasons)


def _stream(source: data.Source, roles: data.Roles, settings: config.Run) -> Prepared:
    """Leave the table on disk: split by id hash, scale by a sample of it, read it anew every epoch."""
    if settings.train.balance:
        raise DataError(
            "a streamed table cannot be drawn from by class",
            where="train.balance",
            fix="set data.stream = false, or train.balance = false",
        )
    seen = streaming.survey(source, roles, settings)
    scaler = preprocess.fit(seen.sample, settings.preprocess, roles.features)
    x, flags = preprocess.apply(scaler, seen.sample)
    _report_unusable(source, ~preprocess.unusable(scaler, flags), flags)
    feed = streaming.feed(source, roles, settings, scaler, seen.classes)
    if settings.data.validation_fraction:
        feed = _validated(feed, streaming.transformed(*seen.validation, scaler, seen.classes), source)
    sizes = plan(feed, x.shape[1:], len(seen.classes), settings)
    shapes = seen.sample.shape[1:], x.shape[1:]
    schema = bundle.Schema(roles.features, _units(source, roles), *shapes, seen.classes, sizes)
    _, flags = preprocess.apply(scaler, seen.calibration[0])
    usable = ~preprocess.unusable(scaler, flags)
    _check_calibration(int(usable.sum()), source)
    held, names = (part[usable] for part in seen.calibration)
    return Prepared(schema, scaler, feed, (raw.prepare(scaler, held)[0], names), {}, seen.checksum)

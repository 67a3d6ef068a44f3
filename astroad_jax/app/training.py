"""``astroad train``: a table and a configuration -> a run directory."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from astroad_jax import config, data
from astroad_jax.app import bundle
from astroad_jax.app.launch import is_primary
from astroad_jax.app.split import CALIBRATION, TRAIN, hash_parts, split
from astroad_jax.engine import rundir, sharding
from astroad_jax.engine.feed import resident
from astroad_jax.engine.score import make_scorer
from astroad_jax.engine.train import Fitted, fit
from astroad_jax.errors import DataError, DivergedError
from astroad_jax.methods import configure
from astroad_jax.preprocess import features
from astroad_jax.types import Feed, Plan

FLAT = 1e-6  # relative range of scores below which they are all one
log = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """Everything training needs."""

    schema: bundle.Schema
    scaler: features.Scaler
    feed: Feed
    calibrate_on: tuple[np.ndarray, np.ndarray]  # x, ids
    ids: dict[str, np.ndarray]  # of each part


def train(source: data.Source, settings: config.Run, out: Path, progress: bool = False) -> Fitted:
    """Train a model on a table and calibrate it; the same call resumes a stopped run.

    Raises
    ------
    AstroadError
        What is wrong with table, configuration or directory, and what to do about it.
    """
    out = Path(out)
    settings = settings.model_copy(update={"method": configure(settings.method).model_dump()})
    roles = data.find_roles(source, settings.data)
    prepared = (_stream if settings.data.stream else _load)(source, roles, settings)
    method, options = bundle.make_method(prepared.schema, settings), settings.train
    with rundir.open_run(out, settings, prepared.feed, options.keep_checkpoints) as hooks:
        if is_primary():
            bundle.save_schema(out, prepared.schema, settings)
            features.save(prepared.scaler, out / "preprocess.npz")
            bundle.save_arrays(out / "split.npz", **prepared.ids)
        fitted = fit(
            method,
            prepared.feed,
            seed=options.seed,
            steps_per_call=options.steps_per_call,
            log_every=options.log_every,
            checkpoint_every=options.checkpoint_every,
            hooks=hooks,
            progress=progress,
        )
        scorer = make_scorer(method, seed=options.seed, batch_size=settings.score.batch_size)
        scores = scorer(sharding.to_host(fitted.state), *prepared.calibrate_on)["score"]
        _check_scores(scores, out)
        if is_primary():
            bundle.save_arrays(out / "calibration.npz", score=scores)
    return fitted


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


def class_index(labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Class number of every label, -1 for those that are none of the classes."""
    places = {name: number for number, name in enumerate(classes)}
    return np.array([places.get(label, -1) for label in labels.tolist()], np.int32)


def _load(source: data.Source, roles: data.Roles, settings: config.Run) -> Prepared:
    """Hold the table in memory."""
    table = data.read_table(source, roles)
    data.check_ids(table.ids, source.path)
    labels = table.label if table.label is not None else np.full(len(table.ids), "", "U1")
    parts = split(labels, settings)
    scaler = features.fit(table.x[parts.train], settings.preprocess, roles.features)
    x, flags = features.apply(scaler, table.x)
    usable = ~features.unusable(scaler, flags)
    _report_unusable(source, usable[parts.train], flags[parts.train])
    train = parts.train[usable[parts.train]]
    classes = tuple(sorted(set(labels[train].tolist()) - {""})) or ("",)
    y = class_index(labels, classes)
    feed = _table_feed({"x": x[train], "y": y[train]}, settings)
    schema = bundle.Schema(roles.features, x.shape[1:], classes, plan(feed, x.shape[1:], len(classes), settings))
    held = parts.calibration[usable[parts.calibration]]
    _check_calibration(len(held), source)
    ids = {name: table.ids[rows] for name, rows in zip(("train", "calibration", "test"), parts)}
    return Prepared(schema, scaler, feed, (x[held], table.ids[held]), ids)


def _table_feed(arrays: dict[str, np.ndarray], settings: config.Run) -> Feed:
    options = settings.train
    common = {"seed": options.seed, "batch_size": options.batch_size, "remainder": options.remainder}
    if options.feed == "resident":
        return resident(arrays, balance=options.balance, **common)
    from astroad_jax.data.pipeline import table_feed

    return table_feed(arrays, labels_for_balance=arrays["y"] if options.balance else None, **common)


def plan(feed: Feed, shape: tuple[int, ...], num_classes: int, settings: config.Run) -> Plan:
    """Sizes for the method's factory."""
    steps = settings.train.epochs * feed.steps_per_epoch
    passes = (feed.steps_per_epoch, feed.steps_per_pass)
    return Plan(int(np.prod(shape)), steps, *passes, num_classes=num_classes, balanced=settings.train.balance)


def _report_unusable(source: data.Source, usable: np.ndarray, flags: np.ndarray) -> None:
    """Say how many training rows are left out, and refuse a table of which little is left."""
    lost = int((~usable).sum())
    reasons = [
        f"{int(((flags & bit) > 0).sum())} {name}" for bit, name in features.FLAG_NAMES.items() if (flags & bit).any()
    ]
    if lost * 2 > len(usable):
        raise DataError(
            "most training rows are unusable",
            where=source.path,
            expected="at least half of them usable",
            got=f"{lost} of {len(usable)} left out: {', '.join(reasons)}",
            fix="fill missing values (preprocess.nan = median or lowest), or ignore the columns that lack them "
            "(data.ignore); astroad inspect shows which",
        )
    if lost:
        log.warning("%d of %d training rows left out (%s)", lost, len(usable), ", ".join(reasons))


def _stream(source: data.Source, roles: data.Roles, settings: config.Run) -> Prepared:
    """Leave the table on disk: split by id hash, scale by its first rows, read it anew every epoch."""
    from astroad_jax.data.pipeline import stream_feed

    if settings.train.balance:
        raise DataError(
            "a streamed table cannot be drawn from by class",
            where="train.balance",
            fix="set data.stream = false, or train.balance = false",
        )

    def part(table: data.Table) -> np.ndarray:
        return hash_parts(table.ids, table.label, settings)

    sample = _sample(source, roles, settings, part)
    scaler = features.fit(sample.x, settings.preprocess, roles.features)
    classes = tuple(sorted(set(sample.label.tolist()) - {""})) if sample.label is not None else ("",)

    def keep(table: data.Table) -> np.ndarray:
        return (part(table) == TRAIN) & ~features.unusable(scaler, features.apply(scaler, table.x)[1])

    def transform(table: data.Table) -> dict[str, np.ndarray]:
        labels = table.label if table.label is not None else np.full(len(table.ids), "", "U1")
        return {"x": np.asarray(features.apply(scaler, table.x)[0]), "y": class_index(labels, classes)}

    options = settings.train
    feed = stream_feed(
        source,
        roles,
        transform,
        seed=options.seed,
        batch_size=options.batch_size,
        shuffle_rows=settings.data.shuffle_rows,
        keep=keep,
    )
    shape = sample.x.shape[1:]
    schema = bundle.Schema(roles.features, shape, classes or ("",), plan(feed, shape, len(classes) or 1, settings))
    held = _calibration_rows(source, roles, settings, part, scaler)
    _check_calibration(len(held[0]), source)
    return Prepared(schema, scaler, feed, held, {"salt": np.array(str(options.seed))})


def _sample(source: data.Source, roles: data.Roles, settings: config.Run, part) -> data.Table:
    """Training rows among the first `data.shuffle_rows` of the file."""
    table = next(data.stream_tables(source, roles, settings.data.shuffle_rows))
    rows = np.flatnonzero(part(table) == TRAIN)
    if not len(rows):
        raise DataError(
            "no row is left to train on",
            where=source.path,
            fix="raise data.shuffle_rows, check data.anomalies",
        )
    columns = [None if column is None else column[rows] for column in table[:5]]
    return data.Table(*columns, features=table.features)


def _calibration_rows(source, roles, settings: config.Run, part, scaler) -> tuple[np.ndarray, np.ndarray]:
    """Preprocessed calibration rows and their ids, at most `data.shuffle_rows` of them."""
    xs, ids = [], []
    for table in data.stream_tables(source, roles, 65536):
        x, flags = features.apply(scaler, table.x)
        rows = (part(table) == CALIBRATION) & ~features.unusable(scaler, flags)
        xs.append(np.asarray(x)[rows])
        ids.append(table.ids[rows])
        if sum(map(len, ids)) >= settings.data.shuffle_rows:
            break
    return np.concatenate(xs), np.concatenate(ids)

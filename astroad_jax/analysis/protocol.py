"""Protocols: many small trainings and their scores, side by side where that is faster.

A `Case` is one training with its own rows and its own test set: a class taken as normal, a class hidden, a fold, a seed.
Cases with as many classes and as many steps an epoch train together as one stacked method. What comes of a case does not
depend on its companions but in the last bits: it has its own key, batch order and step count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from astroad_jax.engine.ensemble import best_of, keep_best, member, stack
from astroad_jax.engine.feed import members, resident
from astroad_jax.engine.score import make_scorer
from astroad_jax.engine.train import Fitted, fit
from astroad_jax.sampling import steps_per_epoch
from astroad_jax.types import Feed, Method, Plan


class Case(NamedTuple):
    """One training and its test.

    Attributes
    ----------
    name : str
        What was hidden, or what was taken as normal.
    seed : int
        Of initialisation and batch order.
    x, y : (N, ...) float32, (N,) int32
        Training rows, preprocessed, and their class indices from 0 on.
    x_test, positive : (T, ...) float32, (T,) bool
        Test rows, and which of them are anomalies.
    x_valid, y_valid : optional
        Held-out inliers for model selection.
    """

    name: str
    seed: int
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    positive: np.ndarray
    x_valid: np.ndarray | None = None
    y_valid: np.ndarray | None = None


class Training(NamedTuple):
    """How every case of a protocol is trained."""

    epochs: int
    batch_size: int
    balance: bool = False
    remainder: str = "pad"
    members: int = 1
    select_every: int = 0
    steps_per_call: int = 32
    score_batch: int = 4096
    progress: bool = True


class Outcome(NamedTuple):
    """A case and the scores of its test rows (``score`` and its components, each ``(T,)``)."""

    case: Case
    scores: dict[str, np.ndarray]
    metrics: list[dict[str, Any]]


def run(cases: Sequence[Case], build: Callable[[Plan], Method], training: Training) -> Iterator[Outcome]:
    """Train and score all cases, up to `training.members` of them at a time.

    Parameters
    ----------
    build : (Plan) -> Method
        Makes the method for the sizes at hand; cases trained together share it.

    Yields
    ------
    Outcome
        Alike cases one after another, each kind in the order of `cases`.
    """
    kinds: dict[tuple[int, ...], list[Case]] = {}
    for case in cases:
        kinds.setdefault(_kind(case, training), []).append(case)
    for alike in kinds.values():
        for start in range(0, len(alike), training.members):
            group = alike[start : start + training.members]
            yield from ((_one(group[0], build, training),) if len(group) == 1 else _together(group, build, training))


def _kind(case: Case, training: Training) -> tuple[int, ...]:
    """What cases must share to be trained together: batches in an epoch and in a plain pass, and classes."""
    rows, batch = len(case.x), training.batch_size
    per_epoch = steps_per_epoch(rows, batch, training.remainder)
    return per_epoch, steps_per_epoch(rows, batch), 1 + int(case.y.max()), *case.x.shape[1:]


def _plan(cases: Sequence[Case], feed: Feed, training: Training) -> Plan:
    return Plan(
        num_features=int(np.prod(cases[0].x.shape[1:])),
        num_steps=training.epochs * feed.steps_per_epoch,
        steps_per_epoch=feed.steps_per_epoch,
        steps_per_pass=feed.steps_per_pass,
        num_classes=1 + int(cases[0].y.max()),
        balanced=training.balance,
        shape=tuple(cases[0].x.shape[1:]),
    )


def _train(method: Method, feed: Feed, seed: int | list[int], training: Training) -> tuple[Method, Fitted]:
    if training.select_every:
        method = keep_best(method, training.select_every * feed.steps_per_epoch)
    settings = {"steps_per_call": training.steps_per_call, "progress": training.progress}
    return method, fit(method, feed, seed=seed, log_every=feed.steps_per_epoch, **settings)


def _one(case: Case, build: Callable[[Plan], Method], training: Training) -> Outcome:
    valid = {"x": case.x_valid, "y": case.y_valid} if training.select_every else None
    feed = resident(
        {"x": case.x, "y": case.y},
        seed=case.seed,
        batch_size=training.batch_size,
        balance=training.balance,
        remainder=training.remainder,
        valid=valid,
    )
    method, fitted = _train(build(_plan([case], feed, training)), feed, case.seed, training)
    scorer = make_scorer(method, seed=case.seed, batch_size=training.score_batch)
    scores = scorer(fitted.state, case.x_test, np.arange(len(case.x_test)))
    return Outcome(case, scores, fitted.metrics)


def _together(cases: Sequence[Case], build: Callable[[Plan], Method], training: Training) -> Iterator[Outcome]:
    """Train a group as one stack; its tables lie end to end, and every member keeps to its own stretch."""
    ends = np.cumsum([len(case.x) for case in cases])
    rows = [np.arange(end - len(case.x), end) for end, case in zip(ends, cases)]
    table = {name: np.concatenate([getattr(case, name) for case in cases]) for name in ("x", "y")}
    feed = members(
        rows,
        table | ({"valid": _stack_valid(cases)} if training.select_every else {}),
        batch_size=training.batch_size,
        seeds=[case.seed for case in cases],
        labels=[case.y for case in cases] if training.balance else None,
        remainder=training.remainder,
    )
    base = build(_plan(cases, feed, training))
    _, fitted = _train(stack(base), feed, [case.seed for case in cases], training)
    scorers = {seed: make_scorer(base, seed=seed, batch_size=training.score_batch) for seed in {c.seed for c in cases}}
    for m, case in enumerate(cases):
        scores = scorers[case.seed](member(best_of(fitted.state), m), case.x_test, np.arange(len(case.x_test)))
        yield Outcome(case, scores, [_own(row, m) for row in fitted.metrics])


def _own(row: dict[str, Any], m: int) -> dict[str, Any]:
    """One member's part of a row of metrics."""
    return {name: value[m] if isinstance(value, list) else value for name, value in row.items()}


def _stack_valid(cases: Sequence[Case]) -> dict[str, np.ndarray]:
    """Validation rows of all members, padded to the longest and masked."""
    longest = max(len(case.x_valid) for case in cases)

    def pad(array: np.ndarray) -> np.ndarray:
        return np.concatenate([array, np.zeros((longest - len(array), *array.shape[1:]), array.dtype)])

    return {
        "x": np.stack([pad(case.x_valid) for case in cases]),
        "y": np.stack([pad(case.y_valid) for case in cases]),
        "mask": np.stack([pad(np.ones(len(case.x_valid), np.float32)) for case in cases]),
    }

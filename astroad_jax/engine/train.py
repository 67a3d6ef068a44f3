"""The training loop: the only one. It runs stages and knows no method.

Several updates are compiled into one call (a loop whose length is an argument, so that one program serves any length),
the next call is dispatched before the last one's metrics are fetched, and everything that happens is a function of
(seed, stage, step): a run that is killed and started again continues bit for bit on the same devices.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from astroad_jax.engine import sharding
from astroad_jax.errors import DataError, DivergedError, Interrupted
from astroad_jax.types import Batch, Feed, Key, Method, Stage, State

Row = dict[str, Any]
log = logging.getLogger(__name__)


class Saved(NamedTuple):
    """A place to go on from: stage index, steps done within it, the state then, and what was complained of."""

    stage: int
    step: int
    state: State
    complaints: Mapping[str, str] = {}


class Hooks(NamedTuple):
    """What the outside world does with a run; every field may be left out.

    Attributes
    ----------
    on_metrics : (rows) -> None
        Called with new metric rows, in order.
    on_checkpoint : (stage index, stage name, step, total step, state, complaints) -> None
        Called every `checkpoint_every` steps and at each stage's end, after the metrics up to that step. `complaints` holds
        by stage what `Stage.watch` finds fault with there, or found at the stage's end.
    resume : (stage index, abstract state) -> Saved or None
        Asked once, for the stage a saved run was in.
    resume_stage : int
        That stage.
    stop : () -> bool
        Whether to stop soon: the loop then finishes the metric window, checkpoints, and raises `Interrupted`.
    history : () -> rows
        Metric rows of the saved run, up to where it is taken up; for `Stage.watch`.
    """

    on_metrics: Callable[[list[Row]], None] = lambda rows: None
    on_checkpoint: Callable[[int, str, int, int, State, Mapping[str, str]], None] = lambda *args: None
    resume: Callable[[int, Any], Saved | None] = lambda stage, abstract: None
    resume_stage: int = 0
    stop: Callable[[], bool] = lambda: False
    history: Callable[[], list[Row]] = list


class Fitted(NamedTuple):
    """A trained state and the metric rows on the way to it."""

    state: State
    metrics: list[Row]


def fit(
    method: Method,
    feed: Feed,
    *,
    seed: int | Sequence[int] = 0,
    mesh: Mesh | None = None,
    rules: sharding.Rules = (),
    steps_per_call: int = 32,
    log_every: int = 50,
    checkpoint_every: int = 0,
    hooks: Hooks = Hooks(),  # noqa: B008
    progress: bool = False,
) -> Fitted:
    """Run all stages of a method.

    Parameters
    ----------
    method : Method
        What to train.
    feed : Feed
        Its batches; the batch size must divide evenly over the mesh.
    seed : int or sequence of int
        Stage s, step t uses ``fold_in(fold_in(key(seed), s), t)``; of a sequence, one seed for each member of a stack
        (`ensemble.stack`), as if each were trained alone.
    mesh : Mesh, optional
        Defaults to all devices of all processes.
    rules : sequence of (regex, PartitionSpec)
        Which state arrays are spread over the mesh; the others are replicated.
    steps_per_call : int
        Updates per compiled call. 1 compiles no loop around the step.
    log_every : int
        Steps averaged into one metric row.
    checkpoint_every : int
        Steps between calls of ``hooks.on_checkpoint`` (0: at stage ends only); rounded up to a multiple of
        `log_every`, so that no metric window is split.

    Returns
    -------
    Fitted

    Raises
    ------
    DivergedError
        A metric became non-finite; what was checkpointed before stays.
    Interrupted
        ``hooks.stop`` asked for it; the same call resumes.
    """
    mesh = mesh if mesh is not None else sharding.make_mesh()
    sharding.check_divides(mesh, feed.batch_size, "train.batch_size")
    data = sharding.place_whole(mesh, feed.data)
    run = _Run(
        feed,
        data,
        mesh,
        rules,
        steps_per_call,
        log_every,
        -(-checkpoint_every // log_every) * log_every,
        hooks,
        {},
    )
    state, rows = None, []
    starts = list(itertools.accumulate((stage.num_steps for stage in method.stages), initial=0))
    bar = _bar(starts[-1], progress)
    for index, stage in enumerate(method.stages):
        key = _fold(_key(seed), index)
        if index < hooks.resume_stage:
            # Only shapes are needed of a stage that a saved run has behind it.
            state = jax.eval_shape(stage.init, key, run.example(stage), state)
            bar.update(stage.num_steps)
            continue
        state, new = _run_stage(run, index, stage, key, state, starts[index], bar)
        rows += new
    bar.close()
    return Fitted(state, rows)


def _key(seed: int | Sequence[int]) -> Key:
    return jax.random.key(seed) if isinstance(seed, int) else jax.vmap(jax.random.key)(jnp.asarray(seed, jnp.uint32))


def _fold(key: Key, number: int | jax.Array) -> Key:
    """Fold a number into a key, or into every member's key."""
    return jax.random.fold_in(key, number) if key.ndim == 0 else jax.vmap(jax.random.fold_in, (0, None))(key, number)


class _Run(NamedTuple):
    """What every stage of a run shares."""

    feed: Feed
    data: dict[str, Any]
    mesh: Mesh
    rules: sharding.Rules
    steps_per_call: int
    log_every: int
    checkpoint_every: int
    hooks: Hooks
    complaints: dict[str, str]  # by stage, as they stand

    def batches(self, stage: Stage, step: int, total: int) -> Iterator[Batch]:
        return self.feed.passes(step) if stage.plain else self.feed.batches(total + step)

    def example(self, stage: Stage) -> Batch:
        """The first batch as the stage sees it (global shapes)."""
        host = next(self.batches(stage, 0, 0))
        return pick(self.data, sharding.place_rows(self.mesh, host, self.feed.rows_axis))


def pick(data: dict[str, Any], batch: dict[str, Any]) -> Batch:
    """Rows of the resident data that a batch names, or those of a streamed batch; held-out rows as they are."""
    extra = {"valid": data["valid"]} if "valid" in data else {}
    if "index" not in batch:
        return {**batch, **extra}
    rows = {name: column[batch["index"]] for name, column in data.items() if name != "valid"}
    return {**rows, **extra, "mask": batch["mask"]}


def _run_stage(
    run: _Run, index: int, stage: Stage, key: Key, previous: State | None, total: int, bar: Any
) -> tuple[State, list[Row]]:
    example = run.example(stage)
    abstract = _abstract(run, stage, key, example, previous)
    saved = run.hooks.resume(index, abstract) if index == run.hooks.resume_stage else None
    if saved is not None:
        state, step = saved.state, saved.step
        run.complaints.update(saved.complaints)
    else:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        state, step = jax.jit(stage.init, out_shardings=shardings)(key, example, previous), 0
    del previous, example
    bar.set_description(stage.name)
    bar.update(step)
    call = _compiled(stage, run.steps_per_call)
    window = _Window(index, stage, run.log_every, total, step, run.hooks.history())
    stream, rows, pending = run.batches(stage, step, total), [], None
    while step < stage.num_steps:
        stopping = run.hooks.stop()
        length = _call_length(run, step, stage.num_steps, stopping)
        block = _block(run, stream, length)
        state, metrics = call(state, run.data, key, np.int32(step), np.int32(length), block)
        step += length
        if pending is not None:
            rows += _report(run, window, pending, bar)
        pending = (metrics, length)
        stopping = stopping and step % run.log_every == 0
        if stopping or _checkpoint_due(run, step, stage.num_steps):
            rows += _report(run, window, pending, bar)
            pending = None
            run.hooks.on_checkpoint(index, stage.name, step, total + step, state, dict(run.complaints))
        if stopping:
            raise Interrupted(
                "training was stopped",
                where=f"stage {stage.name!r}, step {step}",
                fix="the same command resumes",
            )
    return state, rows


def _abstract(run: _Run, stage: Stage, key: Key, example: Batch, previous: State | None) -> Any:
    """Shapes, types and shardings of a stage's state, before any of it is allocated."""
    shapes = jax.eval_shape(stage.init, key, example, previous)
    places = sharding.state_shardings(run.mesh, shapes, run.rules)
    return jax.tree.map(lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, places)


def _checkpoint_due(run: _Run, step: int, num_steps: int) -> bool:
    return step == num_steps or bool(run.checkpoint_every and step % run.checkpoint_every == 0)


def _call_length(run: _Run, step: int, num_steps: int, stopping: bool) -> int:
    """Steps of the next call: no further than the next checkpoint and the end (the next window's, when stopping)."""
    ends = [num_steps, step + run.steps_per_call]
    for every in (run.checkpoint_every, run.log_every if stopping else 0):
        if every:
            ends.append((step // every + 1) * every)
    return min(ends) - step


def _block(run: _Run, stream: Iterator[Batch], length: int) -> Batch:
    """The next batches: one as it is where calls hold one step, else stacked and padded to the compiled length."""
    if run.steps_per_call == 1:
        return sharding.place_rows(run.mesh, next(stream), run.feed.rows_axis)
    batches = list(itertools.islice(stream, length))
    if len(batches) < length:
        fix = "make its iterators endless"
        raise DataError("the feed ended before the training", expected=f"{length} more batches", got=len(batches), fix=fix)
    batches += [batches[-1]] * (run.steps_per_call - length)
    stacked = jax.tree.map(lambda *parts: np.stack(parts), *batches)
    return sharding.place_rows(run.mesh, stacked, run.feed.rows_axis + 1)


def _compiled(stage: Stage, steps_per_call: int) -> Callable:
    """Compile `steps_per_call` updates into one call, of which the first `length` run."""

    @partial(jax.jit, donate_argnums=0)
    def one(state, data, key, first, length, batch):
        del length
        state, metrics = stage.step(_fold(key, first), state, pick(data, batch))
        return state, jax.tree.map(lambda value: value[None], metrics)

    @partial(jax.jit, donate_argnums=0)
    def many(state, data, key, first, length, batches):
        def update(i, state):
            batch = pick(data, jax.tree.map(lambda column: column[i], batches))
            return stage.step(_fold(key, first + i), state, batch)

        def body(i, carry):
            state, metrics = update(i, carry[0])
            return state, jax.tree.map(lambda buffer, value: buffer.at[i].set(value), carry[1], metrics)

        shapes = jax.eval_shape(update, 0, state)[1]
        buffers = jax.tree.map(lambda m: jnp.zeros((steps_per_call, *m.shape), m.dtype), shapes)
        return jax.lax.fori_loop(0, length, body, (state, buffers))

    return one if steps_per_call == 1 else many


class _Window:
    """Averages metrics over windows of `every` steps; one row a window, one for what is left at the stage's end."""

    def __init__(self, index: int, stage: Stage, every: int, total: int, step: int, history: Sequence[Row] = ()):
        self.index, self.name, self.every, self.total = index, stage.name, every, total
        self.step, self.num_steps = step, stage.num_steps
        self.watch = stage.watch
        self.logged = [row for row in history if row["stage"] == stage.name] if step else []
        self.held: dict[str, list[np.ndarray]] = {}

    def add(self, metrics: dict[str, np.ndarray], length: int) -> list[Row]:
        rows = []
        for i in range(length):
            for name, values in metrics.items():
                self.held.setdefault(name, []).append(values[i])
            self.step += 1
            if self.step % self.every == 0 or self.step == self.num_steps:
                rows.append(self._row())
        return rows

    def complain(self, rows: list[Row], complaints: dict[str, str]) -> None:
        """Warn where the stage finds fault with its metrics, once, until it finds none or another; note it as it stands."""
        if self.watch is None or not rows:
            return
        self.logged += rows
        found = self.watch(self.logged)
        if found and found != complaints.get(self.name):
            log.warning("stage %r, step %d: %s", self.name, self.step, found)
        complaints[self.name] = found
        if not found:
            del complaints[self.name]

    def _row(self) -> Row:
        means = {name: np.mean(np.stack(values), 0, dtype=np.float64).tolist() for name, values in self.held.items()}
        self.held = {}
        return {"stage": self.name, "step": self.step, "total_step": self.total + self.step, **means}


def _report(run: _Run, window: _Window, pending: tuple[Any, int], bar: Any) -> list[Row]:
    """Fetch a finished call's metrics, check them, and pass them on."""
    metrics, length = jax.device_get(pending[0]), pending[1]
    for name, values in metrics.items():
        bad = ~np.isfinite(values[:length])
        if bad.any():
            step = window.step + int(np.argwhere(bad)[0][0])
            raise DivergedError(
                "training diverged: a metric is not finite",
                where=f"stage {window.name!r}, step {step}, metric {name!r}",
                fix="lower the learning rate, or look for extreme values in the data; "
                "earlier checkpoints are kept, and train --from begins there",
            )
    rows = window.add(metrics, length)
    window.complain(rows, run.complaints)
    run.hooks.on_metrics(rows)
    bar.update(length)
    if rows and "loss" in rows[-1]:
        bar.set_postfix_str(f"loss {np.mean(rows[-1]['loss']):.4g}", refresh=False)
    return rows


def _bar(total: int, progress: bool) -> Any:
    from tqdm import tqdm

    pace = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(total=total, disable=not progress, unit="step", mininterval=pace, dynamic_ncols=True)

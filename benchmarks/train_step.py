"""Training throughput of every method, whole loop included, against the same work in eager PyTorch.

    python -m benchmarks.train_step [--smoke] [--json FILE] [key=value ...]

Ours is what a user gets: `engine.train.fit` over rows on the device, its batch order, its metrics and its hooks, timed
from one metric window to the next once compiled. The peer keeps its rows on the device too. Both are run in turn,
`repeats` times; thread counts are the libraries' defaults.

Keys: cases=["dasvdd-mnist"], steps=192 (timed), repeats=3, call=32 (steps of a compiled call and of a metric window),
rows=0 and batch=0 (the case's own), members=10, devices=2, compile=false (true: torch.compile as well), peer=true.
Time on 2 cores: about five minutes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from astroad_jax.config import Frozen
from astroad_jax.engine.ensemble import stack
from astroad_jax.engine.train import Hooks, fit
from astroad_jax.types import Feed, Method
from benchmarks import cases, common
from benchmarks.cases import CASES, Case
from benchmarks.common import Row, Spread, row

NAME = "train_step"
WARM = 3  # windows left out: compilation, and the call that was already under way


class Settings(Frozen):
    """What may be set on the command line."""

    cases: tuple[str, ...] = tuple(CASES)
    steps: int = 192
    repeats: int = 3
    call: int = 32
    rows: int = 0
    batch: int = 0
    members: int = 10
    devices: int = 2
    compile: bool = False
    peer: bool = True


SMOKE = {
    "cases": ("dasvdd-pima", "autoencoder-256", "mcdsvdd"),
    "steps": 8,
    "repeats": 1,
    "call": 4,
    "rows": 256,
    "batch": 64,
    "members": 2,
    "devices": 0,
}


class Measured(NamedTuple):
    """Rows per second in steady state, and the mean loss of the first and the last window."""

    rate: float
    first: float
    last: float


def ours(method: Method, feed: Feed, rows_per_step: int, call: int, seed: int | list[int] = 0) -> Measured:
    """Train through `fit` with `call` steps a compiled call and a metric window, and time the last stage."""
    stamps: list[tuple[float, int]] = []
    name = method.stages[-1].name

    def note(rows: list[dict[str, Any]]) -> None:
        stamps.extend((time.perf_counter(), found["step"]) for found in rows if found["stage"] == name)

    done = fit(method, feed, seed=seed, steps_per_call=call, log_every=call, hooks=Hooks(on_metrics=note))
    # The last window is reported without another call behind it: it is waited for longer, so it stays out.
    steady = stamps[WARM - 1 : -1]
    seconds, steps = steady[-1][0] - steady[0][0], steady[-1][1] - steady[0][1]
    losses = [float(np.mean(found["loss"])) for found in done.metrics if found["stage"] == name]
    return Measured(steps * rows_per_step / seconds, losses[0], losses[-1])


def _total(settings: Settings) -> int:
    """Steps to run so that at least `settings.steps` of them are timed."""
    return (-(-settings.steps // settings.call) + WARM + 1) * settings.call


def single(name: str, case: Case, settings: Settings) -> list[Row]:
    """One method: throughput and losses, ours and the peer's in turn."""
    feed = cases.feed(case)
    method = cases.method(case, feed, _total(settings))
    found: dict[str, list[Measured]] = {"ours": []}
    for repeat in range(settings.repeats):
        found["ours"].append(ours(method, feed, case.batch, settings.call))
        for peer, compiled in _variants(settings):
            measured = _peer(case, repeat, settings, compiled)
            if measured is not None:
                found.setdefault(peer, []).append(measured)
    return _rows(name, found)


def _rows(name: str, found: dict[str, list[Measured]]) -> list[Row]:
    spreads = {key: [common.spread(column) for column in zip(*runs)] for key, runs in found.items()}
    rate, first, last = spreads.pop("ours")
    rows = []
    for peer in spreads or [None]:
        theirs = None if peer is None else spreads[peer][0]
        rows.append(row(NAME, name, "training throughput", "samples/s", rate, peer=theirs, against=peer))
    peer = next(iter(spreads), None)
    for i, metric, value in ((1, "loss at the start", first), (2, "loss at the end", last)):
        theirs = None if peer is None else spreads[peer][i]
        rows.append(row(NAME, name, metric, "", value, peer=theirs, against=peer, higher_is_better=False))
    return rows


def _variants(settings: Settings) -> list[tuple[str, bool]]:
    if not settings.peer or common.optional_torch() is None:
        return []
    from benchmarks import peers

    eager = peers.name()
    return [(eager, False)] + ([(eager.replace("eager", "torch.compile"), True)] if settings.compile else [])


def _peer(case: Case, seed: int, settings: Settings, compiled: bool) -> Measured | None:
    """The peer's training over as many steps as ours, the last `settings.steps` of them timed."""
    from benchmarks import peers

    try:
        trainer = peers.Trainer(case, seed, compiled)
        trainer.run(_total(settings) - settings.steps, settings.call)
    except Exception as error:
        if not compiled:  # torch.compile may lack a compiler, headers or support, each failing in its own way
            raise
        print(f"no torch.compile row: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
        return None
    rate = settings.steps * case.batch / trainer.run(settings.steps, settings.call)
    first, last = trainer.losses[: settings.call], trainer.losses[-settings.call :]
    return Measured(rate, float(np.mean(first)), float(np.mean(last)))


def together(name: str, case: Case, settings: Settings) -> list[Row]:
    """Many members trained as one, against as many trainings one after another; rows summed over members."""
    count = settings.members
    feed = cases.member_feed(case, count)
    method = stack(cases.method(case, feed, _total(settings)))
    mine, theirs = [], []
    variants = _variants(settings)[:1]
    for _ in range(settings.repeats):
        mine.append(ours(method, feed, count * case.batch, settings.call, seed=list(range(count))).rate)
        for _ in variants:
            theirs.append(_one_after_another(case, count, settings))
    against: Spread | None = common.spread(theirs) if theirs else None
    label = f"{variants[0][0]}, one after another" if variants else None
    case_name = f"{name}, {count} members"
    return [row(NAME, case_name, "training throughput", "samples/s", common.spread(mine), peer=against, against=label)]


def _one_after_another(case: Case, count: int, settings: Settings) -> float:
    from benchmarks import peers

    seconds = 0.0
    for seed in range(count):
        trainer = peers.Trainer(case, seed)
        trainer.run(settings.call, settings.call)
        seconds += trainer.run(settings.steps, settings.call)
    return count * settings.steps * case.batch / seconds


def _on_devices(settings: Settings) -> list[Row]:
    """Our throughput with each batch spread over devices that share the CPU's cores."""
    if settings.devices < 2 or jax.default_backend() != "cpu" or jax.device_count() > 1:
        return []
    names = ",".join(f'"{name}"' for name in settings.cases)
    same = ("steps", "repeats", "call", "rows", "batch")
    given = [f"cases=[{names}]", *(f"{key}={getattr(settings, key)}" for key in same)]
    return common.with_devices(NAME, settings.devices, [*given, "members=0", "devices=0", "peer=false"])


def _sized(case: Case, settings: Settings) -> Case:
    """The case with the batch size and the number of rows asked for; 0 leaves its own."""
    batch = settings.batch or case.batch
    return case._replace(batch=batch, rows=max(batch, min(case.rows, settings.rows or case.rows)))


def main(argv: Sequence[str] | None = None) -> list[Row]:
    given = common.arguments(NAME, __doc__, Settings, SMOKE, argv)
    settings: Settings = given.settings
    if settings.peer and common.optional_torch() is None:
        print("torch is not installed: rows have no peer")
    rows: list[Row] = []
    for name in settings.cases:
        case = _sized(CASES[name], settings)
        rows += common.shown(single(name, case, settings))
        if name == "dasvdd-pima" and settings.members:
            rows += common.shown(together(name, case, settings))
    return common.finish(rows + _on_devices(settings), given)


if __name__ == "__main__":
    main()

"""How long a scoring call will take, before its first row is read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from astroad_jax.app import raw
from astroad_jax.app.bundle import Bundle
from astroad_jax.data import Source
from astroad_jax.engine import processes
from astroad_jax.engine.catalog import Partition
from astroad_jax.engine.score import reference_rows
from astroad_jax.errors import DataError
from astroad_jax.preprocess import samples
from astroad_jax.types import Search

LOOKED_AT = 8  # inputs that are opened to learn their rows; of more, as many spread over all
TEXT = (".csv", ".csv.gz", ".ecsv")  # must be read whole to count their rows
TRIAL = 0.3  # seconds


def plan_in_words(
    model: Bundle,
    scorer: Callable[..., dict[str, np.ndarray]],
    partitions: Sequence[Partition],
    open_: Callable[[str], Source],
) -> str:
    """Inputs, bytes, objects and the time that their scores alone take, as ``astroad score`` prints them.

    Objects are counted in some of the inputs and go by the bytes in the others. The time is that of random objects; a
    search's depends on the objects themselves, and none is given.
    """
    size = sum(item.size for item in partitions)
    words = [f"{len(partitions)} input{'s' * (len(partitions) != 1)}", f"{size / 1e9:.3g} GB"]
    rows = count_rows(partitions, open_)
    if rows:
        words.append(f"about {rows:,} objects")
    if rows and not isinstance(model.method.score, Search):
        rate = trial_rate(model, scorer)
        words.append(f"{in_words(rows / rate / processes.count())} for the scores alone, at {rate:,.0f} a second")
    return "; ".join(words)


def count_rows(partitions: Sequence[Partition], open_: Callable[[str], Source]) -> int:
    """Objects in all inputs, estimated where there are many; 0 where none can be counted without reading them."""
    if not all(item.size for item in partitions):
        return 0
    told = [item for item in partitions if not item.path.lower().endswith(TEXT)]
    rows = size = 0
    for item in told[:: math.ceil(len(told) / LOOKED_AT) or 1]:
        try:
            found = open_(item.path).num_rows
        except DataError:
            continue  # it will be set aside with its reason
        if found is not None:
            rows, size = rows + found, size + item.size
    return round(rows * sum(item.size for item in partitions) / size) if size else 0


def trial_rate(model: Bundle, scorer: Callable[..., dict[str, np.ndarray]]) -> float:
    """Objects a second of a scorer that has been compiled: the best of some calls, for others may share the machine."""
    shape = model.schema.raw_shape
    count = reference_rows(size=math.prod(raw.prepared_shape(model.scaler, shape)))
    x, _ = model.prepare(samples.draw(model.scaler, shape, count))
    ids = np.arange(count)
    scorer(model.state, x, ids)  # compiles
    begun, best = time.perf_counter(), math.inf
    while time.perf_counter() - begun < TRIAL:
        started = time.perf_counter()
        scorer(model.state, x, ids)
        best = min(best, time.perf_counter() - started)
    return count / best


def in_words(seconds: float) -> str:
    """A duration, to two digits or so."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

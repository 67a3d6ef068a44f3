"""One program in several processes: who speaks, who does what, and how they tell each other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import jax
import numpy as np

T = TypeVar("T")


def count() -> int:
    """Processes that run this program together."""
    return jax.process_count()


def index() -> int:
    """Number of this process, from 0."""
    return jax.process_index()


def is_primary() -> bool:
    """Whether this process speaks, and writes, for all."""
    return jax.process_index() == 0


def own_part(things: Sequence[T]) -> list[T]:
    """What this process takes on of a list that all of them have."""
    return list(things)[jax.process_index() :: count()]


def barrier(name: str) -> None:
    """Wait for all processes."""
    if count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


@contextmanager
def primary_only(make: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Enter a context in the primary process alone; the others wait until it is entered, and all leave together."""
    if not is_primary():
        barrier("entered")
        yield
        barrier("leaving")
        return
    with make():
        barrier("entered")
        yield
        barrier("leaving")


def share(values: Sequence[Any]) -> list[Any]:
    """Every process's JSON-like values, in the order of the processes."""
    if count() == 1:
        return list(values)
    from jax.experimental import multihost_utils

    own = np.frombuffer(json.dumps(list(values)).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([len(own)], np.int32)).ravel()
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(own)] = own
    rows = multihost_utils.process_allgather(padded).reshape(count(), -1)
    return [value for row, size in zip(rows, sizes) for value in json.loads(row[:size].tobytes().decode())]

"""Stages of work that overlap: a thread runs an iterator ahead of whoever consumes it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


def ahead(items: Iterable[T], depth: int = 1) -> Iterator[T]:
    """The same items in the same order, made by a thread while earlier ones are used.

    What the iterable raises is raised here, after the items before it. When the consumer stops early, the thread stops after
    the item it is at, and the iterable is closed in it. The thread is a daemon: a read that never returns does not keep the
    interpreter from ending.

    Parameters
    ----------
    depth : int
        Items that may lie ready, beside the one that is being made.
    """
    ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()
    thread = threading.Thread(target=_produce, args=(items, ready, stop), daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stop.set()
        while thread.is_alive():  # it may wait for room
            _drain(ready)
            thread.join(0.05)


def _produce(items: Iterable[T], ready: queue.Queue, stop: threading.Event) -> None:
    iterator = iter(items)
    try:
        for item in iterator:
            ready.put((item, None))
            if stop.is_set():
                break
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
    except BaseException as error:  # every error is the consumer's, KeyboardInterrupt of a library's too
        ready.put((_END, error))
        return
    ready.put((_END, None))


def _drain(ready: queue.Queue) -> None:
    while True:
        try:
            ready.get_nowait()
        except queue.Empty:
            return

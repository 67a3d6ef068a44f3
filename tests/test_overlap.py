"""Iterators that run ahead in a thread: same items, same order, errors where they belong, nothing left behind."""

from __future__ import annotations

import threading
import time

import pytest

from astroad_jax.engine.overlap import ahead


def threads() -> int:
    return threading.active_count()


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_the_same_items_in_the_same_order(depth, count):
    before = threads()
    assert list(ahead(iter(range(count)), depth)) == list(range(count))
    assert threads() == before


def test_items_are_made_while_earlier_ones_are_used():
    made = []

    def items():
        for i in range(4):
            made.append(i)
            yield i

    stream = ahead(items())
    assert next(stream) == 0
    limit = time.monotonic() + 10
    while len(made) < 3:  # 1 lies ready, 2 waits for room
        assert time.monotonic() < limit
        time.sleep(0.001)
    time.sleep(0.05)
    assert made == [0, 1, 2]
    assert list(stream) == [1, 2, 3]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_comes_after_the_items_before_it(error):
    def items():
        yield 1
        yield 2
        raise error("here")

    before = threads()
    stream = ahead(items())
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(error, match="here"):
        next(stream)
    assert threads() == before


def test_a_consumer_that_stops_stops_the_thread_and_closes_the_source():
    closed = threading.Event()

    def items():
        try:
            yield from range(10**9)
        finally:
            closed.set()

    before = threads()
    stream = ahead(ahead(items()))
    assert next(stream) == 0
    stream.close()
    assert closed.wait(10)
    assert threads() == before

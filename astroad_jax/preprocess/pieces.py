"""Work on many objects a few at a time, which bounds the memory and fits the caches."""

from __future__ import annotations

from collections.abc import Iterator


def runs(count: int, size: int, most: int) -> Iterator[slice]:
    """Slices of `count` objects of `size` values each: at most `most` values in a run, and at least one object."""
    rows = max(1, most // max(1, size))
    return (slice(start, start + rows) for start in range(0, count, rows))

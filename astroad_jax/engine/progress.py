"""How far a scoring call is, on the terminal and in ``progress.jsonl``, where another shell finds it.

The file is there while the call runs, and after one that was stopped. A finished directory has none: what it holds is a
function of its inputs, and clocks are not.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from astroad_jax import files

EVERY = 5.0  # seconds between lines
PATTERN = "progress*.jsonl"


class Sized(NamedTuple):
    """What is to be done: an input's name and its bytes, 0 where they are not known."""

    name: str
    size: int


class Progress:
    """Counts rows and inputs; estimates the time left by the inputs' bytes, by their number where those are not known."""

    def __init__(self, path: Path, inputs: Sequence[Sized], show: bool, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.path, self.sizes = path, {item.name: item.size or 1 for item in inputs}
        self.total, self.behind, self.share = sum(self.sizes.values()), 0, 0.0
        self.skipped = 0
        self.done, self.rows, self.name = 0, 0, ""
        self.started = self.written = clock()
        self.bar = _bar(len(inputs), show)
        path.unlink(missing_ok=True)

    def begin(self, name: str) -> None:
        """An input's first rows are on their way."""
        self.name, self.share = name, 0.0

    def add(self, rows: int, share: float) -> None:
        """Rows were scored, and `share` of the input lies behind."""
        self.rows, self.share = self.rows + rows, share
        self._tell()

    def end(self, name: str, *, skipped: bool = False) -> None:
        """An input is done, set aside, or was done before."""
        size = self.sizes.get(name, 1)
        self.behind, self.share, self.done = self.behind + size, 0.0, self.done + 1
        self.skipped += size if skipped else 0
        self.bar.update(1)
        self._tell()

    def close(self, *, finished: bool) -> None:
        """Nothing more comes; the file stays where the call was cut short."""
        self.bar.close()
        if finished:
            self.path.unlink(missing_ok=True)

    def left(self) -> float | None:
        """Seconds, if all goes on as it went; None before anything is known."""
        return self._left(self.clock())

    def _left(self, now: float) -> float | None:
        behind = self.behind + self.share * self.sizes.get(self.name, 0) - self.skipped
        if behind <= 0:
            return None
        return (now - self.started) / behind * (self.total - self.skipped - behind)

    def _tell(self) -> None:
        now = self.clock()
        left, rate = self._left(now), self.rows / max(1e-9, now - self.started)
        words = f"{self.rows:,} rows, {rate:,.0f} a second"
        self.bar.set_postfix_str(words if left is None else f"{words}, {_duration(left)} left", refresh=False)
        if now - self.written < EVERY:
            return
        self.written = now
        line = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "inputs_done": self.done,
            "inputs": len(self.sizes),
            "rows": self.rows,
            "rows_per_second": round(rate, 1),
            "seconds_left": None if left is None else round(left),
            "input": self.name,
        }
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"


def _bar(total: int, show: bool) -> Any:
    from tqdm import tqdm

    pace = 0.2 if sys.stderr.isatty() else 10.0
    shape = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} files [{elapsed}] {postfix}"
    return tqdm(total=total, disable=not show, desc="score", dynamic_ncols=True, mininterval=pace, bar_format=shape)


def last_lines(directory: Path) -> list[dict[str, Any]]:
    """The newest line of every process that scores, or was stopped scoring, into a directory."""
    found = [files.read_lines(path) for path in sorted(Path(directory).glob(PATTERN))]
    return [lines[-1] for lines in found if lines]

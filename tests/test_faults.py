"""Scoring that is killed between any two writes, at random moments, on a full disk: the same bytes in the end."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from astroad_jax import faults, files
from astroad_jax.engine import catalog
from astroad_jax.errors import ConfigError, DataError
from tests.conftest import ROOT

ROWS = 4


def chunk(start: int) -> catalog.Chunk:
    ids = start + np.arange(ROWS)
    return catalog.Chunk({"object_id": ids}, np.float32(ids)[:, None], (ids % 5 == 0).astype(np.uint32))


def chunks(start: int, count: int, broken: bool = False):
    yield from (chunk(start + ROWS * i) for i in range(count))
    if broken:
        raise DataError("cut short", where=f"input {start}")


def partitions() -> list[catalog.Partition]:
    """Two that can be scored, of two chunks and of one, and one that breaks after its first."""
    parts = {"a": (0, 2, False), "b": (100, 1, True), "c": (200, 1, False)}
    return [catalog.Partition(name, f"/{name}", lambda given=given: chunks(*given), "s") for name, given in parts.items()]


def score(out: Path) -> catalog.Report:
    def scorer(state, x, ids):
        return {"score": x[:, 0] * np.float32(0.5)}

    return catalog.score_catalog(scorer, None, partitions(), out, identity={"model": "m"}, unusable=lambda flags: flags > 0)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def whole(directory: Path) -> None:
    """Whatever has a final name is whole."""
    for path in directory.glob("*.parquet"):
        if not path.name.startswith("."):
            pq.read_table(path, page_checksum_verification=True)
    if (directory / "manifest.json").exists():
        files.read_sealed(directory / "manifest.json")


# Children of a process that has imported all and started nothing: a kill costs no more than a fork.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from astroad_jax import faults
from tests import test_faults as cases

home, moments = Path(sys.argv[1]), int(sys.argv[2])

def child(out, fault="", pause=0.0):
    pid = os.fork()
    if not pid:
        faults.arm(fault)
        cases.score(out)
        os._exit(0)
    if pause:
        time.sleep(pause)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

start = time.monotonic()
assert child(home / "whole") == 0
took = time.monotonic() - start
expected = cases.contents(home / "whole")
assert sorted(expected) == ["a.parquet", "c.parquet", "manifest.json"], sorted(expected)

def broken(name, ended):
    cases.whole(home / name)
    assert child(home / name) == 0, name
    assert cases.contents(home / name) == expected, (name, sorted(cases.contents(home / name)))

point = 0
while True:
    point += 1
    ended = child(home / f"point{point}", f"*:kill@{point}")
    if ended == 0:
        break
    assert ended == -signal.SIGKILL, ended
    broken(f"point{point}", ended)
tried = killed = 0
rng = random.Random(0)
while killed < moments:
    name, pause = f"moment{tried}", rng.random() * took
    (home / name).mkdir()
    if child(home / name, pause=pause):
        killed += 1
    else:
        took = min(took, pause)  # it had ended by then: where this machine was busy only at first
    broken(name, 0)
    tried += 1
print(point - 1)
"""


@pytest.mark.slow
def test_killed_between_any_two_writes_and_at_random_moments(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", KILLER, str(tmp_path), "20"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 20


def attempted(out: Path, fault: str) -> int | None:
    """Number of the error that a fault led to; None where scoring ended before it."""
    faults.arm(fault)
    try:
        score(out)
    except OSError as error:
        return error.errno
    finally:
        faults.arm("")
    return None


@pytest.mark.parametrize(("action", "number"), [("full", errno.ENOSPC), ("error", errno.EIO)])
def test_a_write_that_fails_ends_the_call_and_the_next_one_finishes(tmp_path, action, number):
    """At every point: what has a final name is whole, the lock is free, and nothing is left half written."""
    score(tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    for point in range(1, 100):
        out = tmp_path / f"point{point}"
        if (failed := attempted(out, f"*:{action}@{point}")) is None:
            break
        assert failed == number
        whole(out)
        assert not list(out.glob(".*.tmp"))
        assert not (out / ".lock").exists()
        assert score(out).rows == 3 * ROWS
        assert contents(out) == expected
    assert point > 20


@pytest.mark.parametrize("text", ["kill", "*:kill", "*:burn@1", "row:kill@x", ":kill@1"])
def test_faults_that_are_none(text):
    with pytest.raises(ConfigError, match="ASTROAD_FAULT"):
        faults.arm(text)


def test_a_fault_happens_at_its_point_and_once(tmp_path):
    faults.arm("synced:full@2")
    try:
        files.write_text(tmp_path / "a", "1")
        with pytest.raises(OSError, match="No space left"):
            files.write_text(tmp_path / "a", "2")
        assert (tmp_path / "a").read_text() == "1"
        files.write_text(tmp_path / "a", "3")
    finally:
        faults.arm("")
    assert (tmp_path / "a").read_text() == "3"

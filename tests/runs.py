"""Runs of the smallest size, in this process and in others that can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from astroad_jax import files
from astroad_jax.cli import app
from astroad_jax.data import mock
from tests.data_files import write_parquet

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    'data.ignore=["kind"]', 'data.anomalies=["anomaly"]', "data.calibration_fraction=0.2",
    "method.hidden=[8]", "method.latent=2", "method.norm=false",
    "train.batch_size=32", "train.epochs=3", "train.log_every=2", "train.steps_per_call=4",
]  # fmt: skip
ROWS = 240


def survey(rows: int = ROWS, seed: int = 0, **changes: np.ndarray) -> dict[str, np.ndarray]:
    """A small mock survey without holes; `changes` replace or add columns."""
    return {**mock.survey(rows, anomaly_fraction=0.05, missing_fraction=0.0, seed=seed), **changes}


def table(path: Path, columns: dict[str, np.ndarray] | None = None) -> Path:
    """Write a survey as Parquet."""
    write_parquet(path, columns if columns is not None else survey())
    return path


class Outcome:
    """What a command left behind: exit code and text."""

    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit {self.code}\n{self.out}\n{self.err}"


def astroad(*arguments: str | Path) -> Outcome:
    """Run the command line in this process; an exception that it let through is raised."""
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


def train(data: Path, out: Path, *settings: str) -> Outcome:
    """Train a tiny model in this process."""
    return astroad("train", "--data", data, "--out", out, *TINY, *settings)


def environment(home: Path) -> dict[str, str]:
    """Environment of a process of its own: the path and XLA's flags inherited, compiled programs shared through `home`."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(home),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "TQDM_DISABLE": "1",
        "JAX_COMPILATION_CACHE_DIR": str(home / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def start(home: Path, *arguments: str | Path) -> subprocess.Popen:
    """Start ``python -m astroad_jax`` in another process."""
    command = [sys.executable, "-m", "astroad_jax", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment(home), **pipes)


def finish(process: subprocess.Popen, timeout: float = 120) -> Outcome:
    """Wait for a process."""
    out, err = process.communicate(timeout=timeout)
    return Outcome(process.returncode, out, err)


def stop_when(process: subprocess.Popen, moment: Callable[[], bool], signal: int, delay: float = 0.0) -> Outcome:
    """Send a signal `delay` seconds after `moment` comes; a process that ends before it is returned as it is."""
    limit = time.monotonic() + 120
    while process.poll() is None and not moment():
        assert time.monotonic() < limit, "the awaited moment never came"
        time.sleep(0.001)
    time.sleep(delay)
    if process.poll() is None:
        process.send_signal(signal)
    return finish(process)


def lines(path: Path) -> int:
    """Whole lines of a file."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def contents(directory: Path) -> dict[str, bytes]:
    """Name -> bytes of the files of a directory."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file()}


def digest(run: Path) -> str:
    """What names the newest checkpoint's arrays."""
    newest = sorted((run / "checkpoints").glob("step_*"))[-1]
    return files.read_sealed(newest / "manifest.json")["digest"]

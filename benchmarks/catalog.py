"""Scoring whole catalogues, from files to files: the share of the device's rate that input and output leave, memory, pieces.

    python -m benchmarks.catalog [--smoke] [--json FILE] [key=value ...]

A model is trained for a moment and scores Parquet catalogues by `app.scoring.score`, as ``astroad score`` does.

- *share*: rows a second from files to files against those of the same model's scorer, its scaling included, over rows that
  lie ready in memory (``dense``: 152 features through 512-256-128-64, scaled by quantiles; ``images``: 64 x 64 pixels
  through convolutions), and against a plain PyTorch loop over the same file (pyarrow, scikit-learn's QuantileTransformer, a
  DataLoader, the same network, pyarrow), in turn. Compiling is left out of all of them.
- *memory*: peak resident memory and time per row of a process of its own, by number of rows, of which a file holds at most
  `rows_per_file`.
- *pieces*: time per row of the same rows in more and more files, and by more processes that share the files.

Keys: cases=["dense","images"], rows=1000000, images=8192 (of the share part), repeats=3, peer=true; memory=[10000,...]
(rows), rows_per_file=100000, pieces=[1,10,100], processes=[1,2], features=152. Time on 2 cores: about 30 minutes, most of
it the 10^7 rows, which take 7 GB of disk (hard links to one file where the file system has them: 70 MB).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from astroad_jax import config, data
from astroad_jax.app import bundle, scoring, training
from astroad_jax.config import Frozen
from benchmarks import common
from benchmarks.common import Row, Spread, row

NAME = "catalog"
METHODS: dict[str, dict[str, Any]] = {
    "dense": {"name": "autoencoder", "hidden": [512, 256, 128], "latent": 64},
    "images": {"name": "conv_autoencoder"},
}


class Settings(Frozen):
    """What may be set on the command line."""

    cases: tuple[str, ...] = ("dense", "images")
    rows: int = 1_000_000
    images: int = 8_192
    size: int = 64
    features: int = 152
    repeats: int = 3
    peer: bool = True
    memory: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    rows_per_file: int = 100_000
    pieces: tuple[int, ...] = (1, 10, 100)
    processes: tuple[int, ...] = (1, 2)
    method: dict[str, Any] = {}


SMOKE = {
    "rows": 2_000, "images": 64, "size": 16, "features": 8, "repeats": 1, "memory": (500, 1_000), "rows_per_file": 500,
    "pieces": (1, 3), "processes": (1,), "method": {"hidden": [8], "latent": 2},
}  # fmt: skip


def write(path: Path, case: str, settings: Settings, count: int, seed: int) -> Path:
    """A catalogue of random objects."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {"object_id": pa.array(np.arange(count) + (seed << 32))}
    if case == "images":
        pixels = rng.normal(size=(count, settings.size, settings.size, 1)).astype(np.float32)
        np.savez(path, object_id=np.arange(count) + (seed << 32), image=pixels)
        return path
    values = (rng.normal(size=(count, 8)) @ rng.normal(size=(8, settings.features))).astype(np.float32)
    columns |= {f"f{i:03d}": values[:, i] for i in range(settings.features)}
    pq.write_table(pa.table(columns), path)
    return path


def trained(home: Path, case: str, settings: Settings) -> Path:
    """A run whose model scores at full size, little trained."""
    run = home / f"run_{case}"
    own = settings.method if case == "dense" else ({"width": 4, "latent": 8} if settings.size < 64 else {})
    table = write(home / f"train_{case}{_suffix(case)}", case, settings, 600, seed=1)
    options = {"epochs": 1, "batch_size": 64, "steps_per_call": 1}
    made = config.Run(method={**METHODS[case], **own}, train=config.Train(**options))
    training.train(data.open_source(table), made, run)
    return run


def _suffix(case: str) -> str:
    return ".npz" if case == "images" else ".parquet"


def share(home: Path, case: str, settings: Settings) -> list[Row]:
    """End to end against the scorer alone, and against the plain loop."""
    run = trained(home, case, settings)
    count = settings.images if case == "images" else settings.rows
    table = write(home / f"sky_{case}{_suffix(case)}", case, settings, count, seed=2)
    model = bundle.load(run)
    chunks = list(scoring.partition(model, table).chunks())
    scorer = model.scorer()

    def alone() -> None:
        for chunk in chunks:
            scorer(model.state, chunk.x, chunk.columns["object_id"])

    def whole() -> None:
        shutil.rmtree(home / "scores", ignore_errors=True)
        scoring.score(model, [table], home / "scores", scorer=scorer)

    calls = {"whole": whole, "alone": alone}
    theirs = _peer(model, table, home) if settings.peer and case == "dense" else None
    calls |= {} if theirs is None else {"theirs": theirs[1]}
    times = common.interleaved(calls, settings.repeats)
    rates = {name: common.spread(count / np.array(found)) for name, found in times.items()}
    part = common.spread(np.array(times["alone"]) / np.array(times["whole"]))
    rows = [
        row(NAME, case, "files to files", "rows/s", rates["whole"], peer=rates.get("theirs"), against=theirs and theirs[0]),
        row(NAME, case, "scorer alone", "rows/s", rates["alone"]),
        row(NAME, case, "share of the scorer's rate", "", part),
    ]
    return common.shown(rows)


def _peer(model: bundle.Bundle, table: Path, home: Path) -> tuple[str, Any] | None:
    """The plain loop, and what to call it."""
    if common.optional_torch() is None:
        return None
    from benchmarks import catalog_peer
    from benchmarks.peers import name

    return f"{name()}, a DataLoader", catalog_peer.loop(model, table, home / "theirs.parquet")


def memory(home: Path, settings: Settings) -> list[Row]:
    """Peak memory and time per row by number of rows, each in a process of its own."""
    run, rows = trained(home, "dense", settings), []
    if not settings.memory:
        return rows
    first = write(home / "part.parquet", "dense", settings, min(settings.rows_per_file, max(settings.memory)), seed=3)
    for count in settings.memory:
        folder = home / f"sky{count}"
        folder.mkdir()
        whole, rest = divmod(count, settings.rows_per_file)
        for i in range(whole):
            _linked(first, folder / f"part{i:04d}.parquet")
        if rest:
            write(folder / "rest.parquet", "dense", settings, rest, seed=4)
        found = _scored(run, folder, home / f"scores{count}")
        assert found["rows"] == count
        case = f"{count:,} rows"
        rows.append(row(NAME, case, "peak memory", "MiB", Spread(found["peak"] / 2**20, 0.0)))
        rows.append(row(NAME, case, "time per row", "us", Spread(found["seconds"] / count * 1e6, 0.0)))
        common.shown(rows[-2:])
        shutil.rmtree(folder), shutil.rmtree(home / f"scores{count}")
    return rows


def _linked(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


CHILD = """
import json, sys, time
from pathlib import Path
from astroad_jax.app import bundle, launch, scoring
launch.join_cluster()
model = bundle.load(Path(sys.argv[1]))
start = time.perf_counter()
report = scoring.score(model, [sys.argv[2]], Path(sys.argv[3]))
seconds = time.perf_counter() - start
lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
peak = int(lines["VmHWM"].split()[0]) * 1024  # getrusage would tell of the parent's, too
json.dump({"rows": report.rows, "seconds": seconds, "peak": peak}, sys.stdout)
"""


def _scored(run: Path, sky: Path, out: Path, processes: int = 1) -> dict[str, float]:
    """What one process reports, or the first of several that share the work."""
    command = [sys.executable, "-c", CHILD, str(run), str(sky), str(out)]
    shared = {"ASTROAD_COORDINATOR": f"127.0.0.1:{_free_port()}", "ASTROAD_PROCESSES": str(processes)}
    started = []
    for i in range(processes):
        env = {**os.environ, **(shared | {"ASTROAD_PROCESS": str(i)} if processes > 1 else {})}
        started.append(subprocess.Popen(command, env=env, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True))
    outs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"scoring failed: {[process.returncode for process in started]}")
    return json.loads(outs[0].splitlines()[-1])  # several processes say first that they have met


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pieces(home: Path, settings: Settings) -> list[Row]:
    """Time per row of the same rows in more files, and by more processes."""
    run, rows = trained(home, "dense", settings), []
    most = max(settings.pieces, default=1)
    for count, processes in [(n, 1) for n in settings.pieces] + [(most, n) for n in settings.processes if n > 1]:
        folder, out = home / f"pieces{count}_{processes}", home / f"scored{count}_{processes}"
        folder.mkdir()
        for i in range(count):
            write(folder / f"part{i:04d}.parquet", "dense", settings, settings.rows // count, seed=10 + i)
        start = time.perf_counter()
        found = _scored(run, folder, out, processes)
        case = f"{count} files" + (f", {processes} processes" if processes > 1 else "")
        rows.append(row(NAME, case, "time per row", "us", Spread(found["seconds"] / found["rows"] * 1e6, 0.0)))
        rows.append(row(NAME, case, "with start", "s", Spread(time.perf_counter() - start, 0.0)))
        common.shown(rows[-2:])
    return rows


def main(argv: Sequence[str] | None = None) -> list[Row]:
    given = common.arguments(NAME, __doc__, Settings, SMOKE, argv)
    settings: Settings = given.settings
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="astroad-catalog-") as folder:
        home = Path(folder)
        for case in settings.cases:
            rows += share(home, case, settings)
        for number, part in enumerate((memory, pieces)):
            own = home / str(number)
            own.mkdir()
            rows += part(own, settings)
    return common.finish(rows, given)


if __name__ == "__main__":
    main()

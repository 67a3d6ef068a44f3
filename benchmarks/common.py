"""What the benchmarks share: command line, interleaved timing, the machine's description, result rows."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from astroad_jax import files
from astroad_jax.analysis.report import table
from astroad_jax.config import Frozen, override, parse

M = TypeVar("M", bound=Frozen)
Row = dict[str, Any]
PACKAGES = ("astroad_jax", "jax", "jaxlib", "flax", "optax", "numpy", "torch", "pyod", "spectres")
COLUMNS = ("case", "metric", "value", "spread", "unit", "against", "against_value", "ratio")


class Arguments(NamedTuple):
    """A parsed command line."""

    settings: Any
    smoke: bool
    json: Path | None


class Spread(NamedTuple):
    """Median and interquartile range of repeated measurements."""

    median: float
    iqr: float


def arguments(name: str, doc: str, model: type[M], smoke: dict[str, Any], argv: Sequence[str] | None = None) -> Arguments:
    """Read ``[--smoke] [--json FILE] [key=value ...]``; settings given win over those of ``--smoke``."""
    parser = argparse.ArgumentParser(
        f"python -m benchmarks.{name}", description=doc, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="under a minute: everything runs, figures mean little")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here, and FILE.head.json beside it")
    parser.add_argument("settings", nargs="*", metavar="key=value", help=f"known keys: {', '.join(model.model_fields)}")
    given = parser.parse_args(argv)
    values = override(smoke if given.smoke else {}, given.settings)
    return Arguments(parse(model, values, f"benchmarks.{name}"), given.smoke, given.json)


def spread(values: Sequence[float]) -> Spread:
    """Median and interquartile range."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return Spread(float(middle), float(high - low))


def interleaved(calls: Mapping[str, Callable[[], Any]], repeats: int, min_seconds: float = 0.0) -> dict[str, list[float]]:
    """Seconds per call of each, taken in turn: what slows the machine for a while slows all of them.

    Parameters
    ----------
    calls : dict of () -> anything
        JAX results are waited for. One call of each goes before, untimed.
    repeats : int
        Measurements of each.
    min_seconds : float
        A measurement repeats its call until about this much time has gone by, and divides.
    """
    counts = {name: _count(call, min_seconds) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(_seconds(call, counts[name]))
    return times


def _seconds(call: Callable[[], Any], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        jax.block_until_ready(call())
    return (time.perf_counter() - start) / count


def _count(call: Callable[[], Any], min_seconds: float) -> int:
    """Calls that fill `min_seconds`; warms the call up on the way."""
    _seconds(call, 1)
    return max(1, round(min_seconds / max(_seconds(call, 1), 1e-9)))


def row(
    benchmark: str,
    case: str,
    metric: str,
    unit: str,
    ours: Spread,
    *,
    peer: Spread | None = None,
    against: str | None = None,
    higher_is_better: bool = True,
) -> Row:
    """One result; ``ratio`` above 1 means that this package is better than the peer named by `against`."""
    ratio = None
    if peer is not None:
        ratio = ours.median / peer.median if higher_is_better else peer.median / ours.median
    return {
        "benchmark": benchmark,
        "case": case,
        "metric": metric,
        "value": ours.median,
        "unit": unit,
        "against": None if peer is None else against,
        "ratio": ratio,
        "spread": ours.iqr,
        "against_value": None if peer is None else peer.median,
        "against_spread": None if peer is None else peer.iqr,
    }


def shown(rows: list[Row]) -> list[Row]:
    """Say on standard error what has been measured so far; returns the rows."""
    for found in rows:
        peer = "" if found["ratio"] is None else f", {found['ratio']:.2f} times as good as {found['against']}"
        print(f"{found['case']}: {found['metric']} {found['value']:.4g} {found['unit']}{peer}", file=sys.stderr, flush=True)
    return rows


def finish(rows: list[Row], given: Arguments) -> list[Row]:
    """Print head and table; write ``FILE`` and ``FILE.head.json`` where a file was asked for."""
    head = machine() | {
        "settings": given.settings.model_dump(mode="json"),
        "smoke": given.smoke,
        "value": "median over repeats",
        "spread": "interquartile range over repeats",
    }
    for key, value in head.items():
        print(f"{key}: {value}")
    print(table(rows, COLUMNS))
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(given.json, rows)
        files.write_json(given.json.with_name(given.json.name + ".head.json"), head)
    return rows


def machine() -> dict[str, Any]:
    """Where and with what the figures were taken."""
    devices = jax.devices()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "cpu": _cpu_model(),
        "cores": _cores(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "device": f"{len(devices)} x {devices[0].device_kind} ({jax.default_backend()})",
        "torch_threads": torch_threads(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def version(name: str) -> str | None:
    """Installed version, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_threads() -> int | None:
    """Threads that PyTorch computes with, or None without it."""
    torch = optional_torch()
    return None if torch is None else torch.get_num_threads()


def optional_torch() -> Any:
    """The torch module, or None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def matmul_rate(size: int, repeats: int, dtype: str = "float32") -> Spread:
    """Rate of a square matrix product in JAX, in GFLOP/s: the floor that scoring is held against."""
    left = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = jax.jit(jnp.dot)
    times = interleaved({"product": lambda: product(left, left)}, repeats)["product"]
    return spread([2.0 * size**3 / seconds / 1e9 for seconds in times])


def network_rate(repeats: int, compute: str) -> float:
    """The rate of a product so large that the device is busy, in the type that networks compute in, in GFLOP/s."""
    return matmul_rate(2048 if jax.default_backend() == "cpu" else 8192, repeats, compute).median


def with_devices(name: str, count: int, settings: Sequence[str]) -> list[Row]:
    """Rows of a benchmark run in a process of its own whose CPU shows as `count` devices.

    The devices share the same cores: this shows what spreading rows costs, not what more hardware brings.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}".strip()
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(out), *settings]
        done = subprocess.run(command, env=env, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"no rows for {count} devices: {done.stderr.strip().splitlines()[-1:]}")
            return []
        rows = json.loads(out.read_text())
    return [found | {"case": f"{found['case']}, {count} devices on the same cores"} for found in rows]

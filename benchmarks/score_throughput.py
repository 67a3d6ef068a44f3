"""Scoring time per object against batch size, host arrays in and out, against eager PyTorch and PyOD.

    python -m benchmarks.score_throughput [--smoke] [--json FILE] [key=value ...]

Ours is `engine.score.make_scorer` with its defaults: row counts whose programs agree to the bit, so that no score
depends on the batch. The peer scores the batch as it comes, in evaluation mode without gradients. Placing the input on
the device and fetching the scores are part of both. The floor is the time that the networks' multiplications would take
at the rate of a large matrix product on the same machine.

Keys: cases=["dasvdd-mnist"], batches=[1,8,64], repeats=9, seconds=0.05 (least time of a measurement), devices=2,
matmul=2048, peer=true, pyod=true.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from astroad_jax.config import Frozen
from astroad_jax.engine.score import make_scorer
from benchmarks import cases, common
from benchmarks.cases import CASES, Case
from benchmarks.common import Row, Spread, row

NAME = "score_throughput"
SCORED = ("dasvdd-mnist", "autoencoder-1024", "mcdsvdd", "vae")


class Settings(Frozen):
    """What may be set on the command line."""

    cases: tuple[str, ...] = SCORED
    batches: tuple[int, ...] = (1, 8, 64, 512, 4096, 32_768)
    repeats: int = 9
    seconds: float = 0.05
    devices: int = 2
    matmul: int = 2048
    peer: bool = True
    pyod: bool = True


SMOKE = {"batches": (1, 64), "repeats": 2, "seconds": 0.0, "devices": 0, "matmul": 256}


def flops(case: Case) -> int:
    """Floating-point operations of the matrix products that score one object."""
    settings = cases.config(case)
    heads = 2 if settings.name == "vae" else 1
    encoder = (case.features, *settings.hidden, heads * settings.latent)
    decoder = (settings.latent, *reversed(settings.hidden), case.features)
    decodes = {"mcdsvdd": 0, "vae": getattr(settings, "samples", 1)}.get(settings.name, 1)
    return 2 * (_products(encoder) + decodes * _products(decoder))


def _products(widths: tuple[int, ...]) -> int:
    return sum(a * b for a, b in zip(widths, widths[1:]))


def peers(case: Case, pyod: bool) -> dict[str, Callable[[np.ndarray], Any]]:
    """What is installed here to compare with."""
    if common.optional_torch() is None:
        return {}
    from benchmarks import peers as torch_peers

    found = {torch_peers.name(): torch_peers.scorer(case)}
    if not pyod or common.version("pyod") is None:
        return found
    extra = torch_peers.pyod_scorer(case)
    return found if extra is None else {**found, extra[0]: extra[1]}


def one(name: str, case: Case, settings: Settings, rate: Spread) -> list[Row]:
    """Rows of one network."""
    method, state = cases.trained(case)
    score = make_scorer(method)
    others = peers(case, settings.pyod) if settings.peer else {}
    table = cases.data(case, max(settings.batches))["x"]
    ids = np.arange(len(table))
    floor = flops(case) / (rate.median * 1e9)
    rows = []
    for batch in settings.batches:
        x, own = table[:batch], ids[:batch]
        calls: dict[str, Callable[[], Any]] = {"ours": lambda x=x, own=own: score(state, x, own)}
        calls |= {peer: lambda x=x, call=call: call(x) for peer, call in others.items()}
        times = common.interleaved(calls, settings.repeats, settings.seconds)
        rows += _rows(f"{name}, batch {batch}", {key: np.array(t) / batch for key, t in times.items()}, floor)
    return rows


def _rows(case: str, times: dict[str, np.ndarray], floor: float) -> list[Row]:
    """Microseconds per object against every peer, and the part of the machine's matrix rate that we reach."""
    mine = common.spread(times["ours"] * 1e6)
    rows = []
    for peer in [key for key in times if key != "ours"] or [None]:
        theirs = None if peer is None else common.spread(times[peer] * 1e6)
        rows.append(row(NAME, case, "time per object", "us", mine, peer=theirs, against=peer, higher_is_better=False))
    share = common.spread(floor / times["ours"])
    return [*rows, row(NAME, case, "share of the matrix rate", "", share)]


def _floors(settings: Settings, rate: Spread) -> list[Row]:
    """What the shares are shares of."""
    size = f"{settings.matmul} x {settings.matmul} product"
    rows = [row(NAME, size, "matrix rate", "GFLOP/s", rate)]
    for name in settings.cases:
        rows.append(row(NAME, name, "operations per object", "MFLOP", Spread(flops(CASES[name]) / 1e6, 0.0)))
    return rows


def _on_devices(settings: Settings) -> list[Row]:
    """Our times with rows spread over devices that share the CPU's cores."""
    if settings.devices < 2 or jax.default_backend() != "cpu" or jax.device_count() > 1:
        return []
    names = ",".join(f'"{name}"' for name in settings.cases)
    given = [f"cases=[{names}]", f"batches={list(settings.batches)}", f"repeats={settings.repeats}"]
    given += [f"seconds={settings.seconds}", f"matmul={settings.matmul}", "devices=0", "peer=false"]
    rows = common.with_devices(NAME, settings.devices, given)
    return [found for found in rows if found["metric"] == "time per object"]


def main(argv: Sequence[str] | None = None) -> list[Row]:
    given = common.arguments(NAME, __doc__, Settings, SMOKE, argv)
    settings: Settings = given.settings
    if settings.peer:
        for name in ("torch", "pyod"):
            if common.version(name) is None:
                print(f"{name} is not installed: no rows against it")
    rate = common.matmul_rate(settings.matmul, settings.repeats)
    rows = _floors(settings, rate)
    for name in settings.cases:
        rows += common.shown(one(name, CASES[name], settings, rate))
    return common.finish(rows + _on_devices(settings), given)


if __name__ == "__main__":
    main()

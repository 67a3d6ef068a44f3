"""The variational autoencoder on spectra: training and scoring time per spectrum, against the same in eager PyTorch.

    python -m benchmarks.spectra_vae [--smoke] [--json FILE] [key=value ...]

The DESI paper's network (1000-800-600-500-300-10, dropout 0.2) on synthetic spectra with inverse variance. Training is
`engine.train.fit` over spectra on the device, timed once compiled, its plateau rule included: after every epoch a pass over
held-out spectra, a quarter of all. The peer starts from the same weights and has the same rule. Scoring is
`engine.score.make_scorer`, host arrays in and out: eq. 6 and coherent residuals, and with the reconstruction probability of
`samples` draws as well; the peer gives the same components. Both in turn.

Keys: pixels=1000, hidden=[800,600,500,300], latent=10, batch=512, rows=4096 (to train on), steps=16 (timed) and call=8
(steps of a compiled call), batches=[1,64,512,4096] (scored at once), samples=10, repeats=5, seconds=0.2 (least time of a
measurement), peer=true. Time on 2 cores: about four minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from astroad_jax.config import Frozen
from astroad_jax.engine.feed import resident
from astroad_jax.engine.score import make_scorer
from astroad_jax.engine.train import pick
from astroad_jax.methods import configure, vae
from astroad_jax.types import Feed, Plan
from benchmarks import common, train_step
from benchmarks.common import Row, row

NAME = "spectra_vae"


class Settings(Frozen):
    """What may be set on the command line."""

    pixels: int = 1000
    hidden: tuple[int, ...] = (800, 600, 500, 300)
    latent: int = 10
    batch: int = 512
    rows: int = 4096
    steps: int = 16
    call: int = 8
    batches: tuple[int, ...] = (1, 64, 512, 4096)
    samples: int = 10
    repeats: int = 5
    seconds: float = 0.2
    peer: bool = True


SMOKE = {
    "pixels": 50, "hidden": (16, 12), "latent": 4, "batch": 32, "rows": 64, "steps": 4, "call": 2, "batches": (1, 8),
    "samples": 2, "repeats": 2, "seconds": 0.0,
}  # fmt: skip


def spectra(rows: int, pixels: int, seed: int = 0) -> np.ndarray:
    """Unit-norm spectra ``(N, 2, W)``: smooth continua, one line, noise at S/N 5 to 30, a hundredth of pixels masked."""
    rng = np.random.default_rng(seed)
    at = np.linspace(-1, 1, pixels)
    slope, place, height = (rng.normal(size=(rows, 1)) for _ in range(3))
    flux = 1 + 0.3 * slope * at + np.exp(height) * np.exp(-0.5 * ((at - 0.2 * place) / 0.01) ** 2)
    sigma = rng.uniform(1 / 30, 1 / 5, (rows, 1)) * np.ones(pixels)
    flux += sigma * rng.normal(size=flux.shape)
    norm = np.linalg.norm(flux, axis=1, keepdims=True)
    ivar = np.where(rng.uniform(size=flux.shape) < 0.01, 0, (norm / sigma) ** 2)
    return np.stack([flux / norm, ivar], axis=1).astype(np.float32)


def config(settings: Settings, samples: int) -> vae.Config:
    """The paper's hyper-parameters at the sizes asked for."""
    sizes = {"hidden": settings.hidden, "latent": settings.latent, "samples": samples}
    return configure({"name": "vae", "likelihood": "ivar", **sizes})


def plan(settings: Settings, num_steps: int) -> Plan:
    """Sizes for the method's factory."""
    epoch = max(1, settings.rows // settings.batch)
    return Plan(2 * settings.pixels, num_steps, epoch, epoch, shape=(2, settings.pixels))


def feed_of(settings: Settings) -> Feed:
    """Spectra to train on, and a third as many that are held out."""
    x, valid = (spectra(rows, settings.pixels, seed) for seed, rows in enumerate((settings.rows, settings.rows // 3)))
    return resident({"x": x}, seed=0, batch_size=settings.batch, remainder="drop", valid={"x": valid})


def starting(method: vae.Method, feed: Feed) -> Callable[[int], vae.VAEState]:
    """What `engine.train.fit` starts from, by seed."""
    init = jax.jit(lambda key, batch: method.stages[0].init(jax.random.fold_in(key, 0), batch, None))
    batch = pick(feed.data, next(feed.batches(0)))
    return lambda seed: init(jax.random.key(seed), batch)


def started(settings: Settings, samples: int) -> tuple[vae.Method, vae.VAEState]:
    """A method and the state it starts from: speed does not depend on the values."""
    method = vae.build(config(settings, samples), plan(settings, 1))
    x = spectra(2, settings.pixels)
    return method, jax.jit(method.stages[0].init)(jax.random.key(0), {"x": x}, None)


def peer(settings: Settings, samples: int, state: vae.VAEState) -> Any:
    """The same in PyTorch; None where it is not wanted or not installed."""
    if not settings.peer or common.optional_torch() is None:
        return None
    from benchmarks.spectra_peers import Autoencoder

    return Autoencoder(config(settings, samples), jax.device_get(state))


def peer_name() -> str:
    """What the rows call it."""
    from benchmarks.peers import name

    return name()


def training(settings: Settings) -> list[Row]:
    """Spectra a second through the whole loop, and the losses on the way, ours and the peer's in turn."""
    feed = feed_of(settings)
    x, valid = feed.data["x"], feed.data["valid"]["x"]
    total = settings.steps + settings.call * (train_step.WARM + 1)
    method = vae.build(config(settings, settings.samples), plan(settings, total))
    start = starting(method, feed)
    runs: dict[str, list[train_step.Measured]] = {"ours": [], "theirs": []}
    for seed in range(settings.repeats):
        runs["ours"].append(train_step.ours(method, feed, settings.batch, settings.call, seed=seed))
        theirs = peer(settings, settings.samples, start(seed))
        if theirs is not None:
            _, first = theirs.train(x, settings.batch, total - settings.steps, settings.call, valid)
            seconds, last = theirs.train(x, settings.batch, settings.steps, settings.call, valid)
            ends = (float(np.mean(part)) for part in (first[: settings.call], last[-settings.call :]))
            runs["theirs"].append(train_step.Measured(settings.steps * settings.batch / seconds, *ends))
    return _training_rows(f"batch {settings.batch}", runs)


def _training_rows(case: str, runs: dict[str, list[train_step.Measured]]) -> list[Row]:
    against = peer_name() if runs["theirs"] else None
    rows = []
    for i, (metric, unit) in enumerate(
        [("training throughput", "spectra/s"), ("loss at the start", ""), ("loss at the end", "")]
    ):
        mine, theirs = (common.spread([run[i] for run in found]) if found else None for found in runs.values())
        rows.append(row(NAME, case, metric, unit, mine, peer=theirs, against=against, higher_is_better=i == 0))
    return rows


def scoring(settings: Settings, samples: int) -> list[Row]:
    """Microseconds a spectrum by number of spectra scored at once."""
    method, state = started(settings, samples)
    score, theirs = make_scorer(method), peer(settings, samples, state)
    table = spectra(max(settings.batches), settings.pixels)
    rows, kind = [], f"probability of {samples} draws" if samples else "no draws"
    for batch in settings.batches:
        x, ids = table[:batch], np.arange(batch)
        calls: dict[str, Callable[[], Any]] = {"ours": lambda x=x, ids=ids: score(state, x, ids)}
        if theirs is not None:
            calls["theirs"] = lambda x=x: theirs.score(x)
        times = common.interleaved(calls, settings.repeats, settings.seconds)
        spreads = {name: common.spread(np.array(found) / batch * 1e6) for name, found in times.items()}
        against = peer_name() if theirs is not None else None
        options = {"peer": spreads.get("theirs"), "against": against, "higher_is_better": False}
        rows.append(row(NAME, f"{kind}, batch {batch}", "time per spectrum", "us", spreads["ours"], **options))
    return rows


def main(argv: Sequence[str] | None = None) -> list[Row]:
    given = common.arguments(NAME, __doc__, Settings, SMOKE, argv)
    settings: Settings = given.settings
    if settings.peer and common.optional_torch() is None:
        print("torch is not installed: rows have no peer")
    rows = common.shown(training(settings))
    for samples in (0, settings.samples):
        rows += common.shown(scoring(settings, samples))
    return common.finish(rows, given)


if __name__ == "__main__":
    main()

"""Latent search: one image at a time, many at once, with continuous batching, and from an encoder's guess.

    python -m benchmarks.latent_search [--smoke] [--json FILE] [key=value ...]

Two parts. *Speed*: seconds an image-iteration of the same networks and the same work, by number of images at once, against
eager PyTorch with the same weights, in turn; on an accelerator also the share of its measured matrix rate. *Result*: an
f-AnoGAN is trained on synthetic galaxies; those it has not seen, and galaxies with a companion, are scored

    (a) one image at a time, 500 iterations from a random z (the paper's way, but that z is moved itself and not through mu;
        timed on a few images, since each object's score is that of (b)),
    (b) many at once, 500 iterations,
    (c) with continuous batching: an image leaves when its loss no longer falls,
    (d) as (c), from the encoder's guess,

in seconds an image and AUROC; ratios of time are against (a), of AUROC against (b). A spread of 0 is that of one timing.

Keys: width=32 (networks of the speed part; 32 is the paper's size), batches=[1,16,64], iterations=20 (timed), repeats=5,
compute=float32, peer=true; result=true, result_width=16, train_steps=3000, batch=32, images=128 (of each kind), single=2
(images timed one at a time), patience=10, tolerance=0.01, most=500. Time on 2 cores: about 40 minutes, most of it training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from astroad_jax.analysis.metrics import auroc
from astroad_jax.config import Frozen
from astroad_jax.engine.feed import resident
from astroad_jax.engine.search import make_searcher
from astroad_jax.engine.train import fit
from astroad_jax.methods import fanogan, latent_search, wgan_gp
from astroad_jax.types import Plan, Search
from benchmarks import common, image_cases
from benchmarks.common import Row, row

NAME = "latent_search"
LONG = 500  # iterations of the paper
ONE = "one image at a time, 500 iterations"
ALL = "(b) many at once"


class Settings(Frozen):
    """What may be set on the command line."""

    width: int = 32
    size: int = 64
    channels: int = 1
    batches: tuple[int, ...] = (1, 16, 64)
    iterations: int = 20
    repeats: int = 5
    compute: str = "float32"
    peer: bool = True
    result: bool = True
    result_width: int = 16
    latent: int = 100
    train_steps: int = 3000
    batch: int = 32
    images: int = 128
    single: int = 2
    slots: int = 64
    patience: int = 10
    tolerance: float = 0.01
    most: int = LONG


SMOKE = {
    "width": 4, "size": 16, "batches": (1, 4), "iterations": 3, "repeats": 1, "result_width": 4, "latent": 8,
    "train_steps": 6, "batch": 8, "images": 6, "single": 1, "slots": 4, "most": 5,
}  # fmt: skip


def speed(settings: Settings) -> list[Row]:
    """Seconds an image-iteration by batch, ours and the peer's in turn."""
    made = image_cases.nets(settings.width, settings.size, settings.channels, settings.compute, latent=settings.latent)
    forward = [image_cases.macs(net, settings.size, settings.channels, settings.latent) for net in made.pair[:2]]
    flops = 2 * 2 * sum(forward)  # a multiplication and an addition, forwards and backwards to the input
    rate = common.network_rate(settings.repeats, settings.compute)
    label = f"{settings.width}-wide, {forward[0] / 1e6:.0f} + {forward[1] / 1e6:.0f} MMAC, {settings.compute}"
    rows = []
    for batch in settings.batches:
        rows += common.shown(_at(settings, made, batch, f"{label}, {batch} at once", flops, rate))
    return rows


def _at(settings: Settings, made: image_cases.Nets, batch: int, case: str, flops: float, rate: float) -> list[Row]:
    x = image_cases.galaxies(batch, settings.size, settings.channels)
    config = made.config.model_copy(update={"iterations": settings.iterations})
    search = latent_search.latent_search(made.pair, wgan_gp.trained, config)
    searcher = make_searcher(search, slots=batch, steps_per_call=settings.iterations, refill=1.0)
    calls: dict[str, Callable[[], Any]] = {"ours": lambda: searcher(made.state, x, np.arange(batch))}
    against = None
    if settings.peer and settings.compute == "float32" and common.optional_torch() is not None:
        from benchmarks import image_peers, peers

        theirs, z = image_peers.Searcher(made.pair, wgan_gp.trained(made.state), config), _start(made, batch)
        against = peers.name()
        calls["theirs"] = lambda: theirs.run(x, z, settings.iterations)
    times = common.interleaved(calls, settings.repeats)
    count = batch * settings.iterations
    each = {name: common.spread([1e3 * seconds / count for seconds in values]) for name, values in times.items()}
    options = {"peer": each.get("theirs"), "against": against, "higher_is_better": False}
    rows = [row(NAME, case, "time per image-iteration", "ms", each["ours"], **options)]
    share = common.spread([flops * count / seconds / 1e9 / rate for seconds in times["ours"]])
    return [*rows, row(NAME, case, f"share of the {settings.compute} matrix rate", "", share)]


def _start(made: image_cases.Nets, batch: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, made.pair.latent)).astype(np.float32)


def result(settings: Settings) -> list[Row]:
    """Seconds an image and AUROC of the four ways."""
    galaxies = lambda count, seed, **kind: image_cases.galaxies(  # noqa: E731
        count, settings.size, settings.channels, seed, **kind
    )
    config = fanogan.Config(width=settings.result_width, latent=settings.latent, average=0.99, code="none")
    config = config.model_copy(update={"search_rate": 0.05, "compute": settings.compute})
    shape = (settings.size, settings.size, settings.channels)
    feed = resident(
        {"x": galaxies(max(settings.batch, 8000 if settings.images > 8 else 64), 1)}, seed=0, batch_size=settings.batch
    )
    plan = Plan(int(np.prod(shape)), settings.train_steps, feed.steps_per_epoch, feed.steps_per_pass, shape=shape)
    state = fit(fanogan.build(config, plan), feed, steps_per_call=1, progress=True).state
    x = np.concatenate([galaxies(settings.images, 2), galaxies(settings.images, 3, companions=True)])
    anomalous = np.arange(len(x)) >= settings.images
    ways = _ways(settings, config, plan)
    found = {name: _timed(settings, *way, state, x) for name, way in ways.items()}
    one = _timed(settings, ways[ALL][0], 1, 1.0, state, x[: settings.single])
    rows = [row(NAME, f"(a) {ONE}", "time per image", "s", common.Spread(one[0], 0.0))]
    for name, (seconds, scores) in found.items():
        peer = {"peer": common.Spread(one[0], 0.0), "against": ONE, "higher_is_better": False}
        rows.append(row(NAME, name, "time per image", "s", common.Spread(seconds, 0.0), **peer))
        area = auroc(scores["score"], anomalous)
        base = common.Spread(auroc(found[ALL][1]["score"], anomalous), 0.0)
        peer = {} if name == ALL else {"peer": base, "against": "500 iterations for every image"}
        rows.append(row(NAME, name, "AUROC", "", common.Spread(area, 0.0), **peer))
        mean = common.Spread(float(scores["iterations"].mean()), 0.0)
        rows.append(row(NAME, name, "mean iterations", "", mean))
    return common.shown(rows)


def _ways(settings: Settings, config: fanogan.Config, plan: Plan) -> dict[str, tuple[Search, int, float]]:
    """Search, slots and refill of (b), (c) and (d)."""
    pair = wgan_gp.networks(config, plan.shape)
    ending = {"patience": settings.patience, "tolerance": settings.tolerance}
    changed = lambda **values: config.model_copy(update={"search": "latent", "iterations": LONG, **values})  # noqa: E731
    random = lambda config: latent_search.latent_search(pair, lambda state: state.gan, config)  # noqa: E731
    guided = fanogan.build(changed(**ending), plan).score
    return {
        ALL: (random(changed()), settings.slots, 1.0),
        "(c) continuous batching": (random(changed(**ending)), settings.slots, 0.25),
        "(d) continuous batching from the encoder": (guided, settings.slots, 0.25),
    }


def _timed(settings: Settings, search: Search, slots: int, refill: float, state: Any, x: np.ndarray) -> tuple[float, dict]:
    """Seconds an image, once compiled, and the scores."""
    search = search._replace(num_steps=min(search.num_steps, settings.most))
    searcher = make_searcher(search, slots=slots, steps_per_call=5, refill=refill)
    searcher(state, x[:0], np.arange(0))  # compiles, as does the trial of fewer slots
    start = time.perf_counter()
    scores = searcher(state, x, np.arange(len(x)))
    return (time.perf_counter() - start) / len(x), scores


def main(argv: Sequence[str] | None = None) -> list[Row]:
    given = common.arguments(NAME, __doc__, Settings, SMOKE, argv)
    settings: Settings = given.settings
    if settings.peer and common.optional_torch() is None:
        print("torch is not installed: rows have no peer")
    rows = speed(settings)
    return common.finish(rows + (result(settings) if settings.result else []), given)


if __name__ == "__main__":
    main()

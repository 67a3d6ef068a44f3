"""WGAN-GP training: images a second through the whole loop, against the same work in eager PyTorch.

    python -m benchmarks.gan_step [--smoke] [--json FILE] [key=value ...]

A step moves the critic on a batch, and every `n_critic`-th the generator as well (Algorithm 1 of paper 002). Ours is
`engine.train.fit` over images on the device; the peer starts from the same weights. Taken in turn. The share is that of a
large matrix product's rate, on the same device and in the type of `compute`, which the networks' products reach.

Keys: width=32 (the paper's size), size=64, channels=1, batches=[32], n_critic=5, steps=10 (timed), repeats=5,
compute=float32, peer=true. Time on 2 cores: about three minutes.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from astroad_jax.config import Frozen
from astroad_jax.engine.feed import resident
from astroad_jax.methods import wgan_gp
from astroad_jax.types import Plan
from benchmarks import common, image_cases, train_step
from benchmarks.common import Row, row

NAME = "gan_step"


class Settings(Frozen):
    """What may be set on the command line."""

    width: int = 32
    size: int = 64
    channels: int = 1
    batches: tuple[int, ...] = (32,)
    n_critic: int = 5
    steps: int = 10
    repeats: int = 5
    compute: str = "float32"
    peer: bool = True


SMOKE = {"width": 4, "size": 16, "batches": (8,), "n_critic": 2, "steps": 4, "repeats": 1}


def measured(settings: Settings, batch: int) -> list[Row]:
    """Images a second at one batch size."""
    made = image_cases.nets(settings.width, settings.size, settings.channels, settings.compute, n_critic=settings.n_critic)
    x = image_cases.galaxies(4 * batch, settings.size, settings.channels)
    feed = resident({"x": x}, seed=0, batch_size=batch, remainder="drop")
    total = settings.steps * (train_step.WARM + 2)
    shape = (settings.size, settings.size, settings.channels)
    method = wgan_gp.build(made.config, Plan(int(np.prod(shape)), total, feed.steps_per_epoch, 4, shape=shape))
    peer = _peer(settings, made, x, batch)
    mine, theirs = [], []
    for _ in range(settings.repeats):
        mine.append(train_step.ours(method, feed, batch, settings.steps).rate)
        if peer is not None:
            theirs.append(peer())
    against = None
    if peer is not None:
        from benchmarks import peers

        against = peers.name()
    case = f"wgan_gp, {settings.width}-wide, {settings.size} pixels, {settings.compute}, batch {batch}"
    spread = common.spread(theirs) if theirs else None
    rows = [row(NAME, case, "training throughput", "images/s", common.spread(mine), peer=spread, against=against)]
    floor = common.network_rate(settings.repeats, settings.compute) * 1e9 / flops(settings, made)
    share = common.spread([rate / floor for rate in mine])
    return [*rows, row(NAME, case, f"share of the {settings.compute} matrix rate", "", share)]


def flops(settings: Settings, made: image_cases.Nets) -> float:
    """Operations of a step for one image, the critic's dense head left out.

    A step of the critic: G forward for the fake image; C three times over (forward, back to the input, back to the kernels)
    on the real and on the fake image, and on the mixed one forward, back, and two products for each of both. A move of the
    generator: three times over G, and C forward and back.
    """
    g, c = (image_cases.macs(net, settings.size, settings.channels, made.pair.latent) for net in made.pair[:2])
    return 2.0 * (g + 12 * c + (3 * g + 2 * c) / settings.n_critic)


def _peer(settings: Settings, made: image_cases.Nets, x: np.ndarray, batch: int):
    """A call that trains the peer on `settings.steps` steps and returns its images a second; None without torch."""
    if not settings.peer or settings.compute != "float32" or common.optional_torch() is None:
        return None
    import time

    import torch

    from benchmarks import image_peers, peers

    trainer = image_peers.Trainer(made.pair, made.state, made.config)
    images = torch.from_numpy(x).to(peers.device()).permute(0, 3, 1, 2).contiguous()
    order = np.random.default_rng(0)

    def run() -> float:
        for timed in (False, True):
            peers.synchronise()
            start = time.perf_counter()
            losses = [trainer.step(images[order.integers(0, len(x), batch)]) for _ in range(settings.steps if timed else 2)]
            torch.stack(losses).tolist()
            peers.synchronise()
        return settings.steps * batch / (time.perf_counter() - start)

    return run


def main(argv: Sequence[str] | None = None) -> list[Row]:
    given = common.arguments(NAME, __doc__, Settings, SMOKE, argv)
    settings: Settings = given.settings
    if jax.default_backend() == "cpu" and settings.compute != "float32":
        print("bfloat16 is slow on CPU")
    rows: list[Row] = []
    for batch in settings.batches:
        rows += common.shown(measured(settings, batch))
    return common.finish(rows, given)


if __name__ == "__main__":
    main()

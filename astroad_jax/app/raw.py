"""Scores of objects as their reader gives them: the fitted scaling runs on the device, in front of the method's networks.

Only spectra are scaled by the host, on the reader's side: their infill solves equations that float32 cannot always hold.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from astroad_jax import config, preprocess
from astroad_jax.engine.score import make_scorer
from astroad_jax.preprocess import Scaler, images, samples
from astroad_jax.types import Example, Key, Method, Scores, Search, State


class Scaled(NamedTuple):
    """A method's state, and what was fitted for the scaling."""

    state: State
    params: dict[str, Any]


class _Held(NamedTuple):
    """A search's carry, with the scaled object, which is made once."""

    x: jax.Array
    flags: jax.Array
    carry: Any


def scorer(
    method: Method,
    scaler: Scaler,
    raw_shape: tuple[int, ...],
    settings: config.Run,
    mesh: Any = None,
    progress: bool = False,
) -> Callable[[State, np.ndarray, np.ndarray], dict[str, np.ndarray]]:
    """``(state, x, ids) -> scores`` for objects that `prepare` gave, in batches of the configured size.

    Where the device scales, ``flags`` are among the scores.
    """
    sizes = {"batch_size": settings.score.batch_size, "slots": settings.score.slots}
    options = {"seed": settings.train.seed, "mesh": mesh, "progress": progress, **sizes}
    if not on_device(scaler):
        return make_scorer(method, **options)
    scaler, shape = of_prepared(scaler), prepared_shape(scaler, raw_shape)
    score = make_scorer(with_scaling(method, scaler), probe=partial(samples.draw, scaler, shape), **options)
    held: list[Scaled] = []  # the last state given, with the scaling: the same object, lest it be put on the device anew

    def of_raw(state: State, x: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
        if not held or held[0].state is not state:
            held[:] = [Scaled(state, scaler.params)]
        return score(held[0], x, ids)

    return of_raw


def on_device(scaler: Scaler) -> bool:
    """Whether the scorer scales; else `prepare` does."""
    return scaler.kind != "spectrum"


def prepare(scaler: Scaler, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Objects ``(N, ...)`` as the scorer takes them, and ``(N,)`` uint32 flags of what was found wrong on the way.

    Of images it takes the pixels that the scaling looks at, no others.
    """
    if on_device(scaler):
        return images.crop(x, scaler.frame) if scaler.frame else x, np.zeros(len(x), np.uint32)
    return preprocess.apply(scaler, x)


def of_prepared(scaler: Scaler) -> Scaler:
    """The scaling of objects that `prepare` gave."""
    frame = scaler.frame
    if frame is None or not frame.crop:
        return scaler
    return scaler._replace(frame=frame._replace(height=frame.crop, width=frame.crop, crop=0))


def prepared_shape(scaler: Scaler, raw_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of an object that `prepare` gave."""
    frame = of_prepared(scaler).frame
    return raw_shape if frame is None else (frame.height, frame.width, frame.bands)


def scale(scaler: Scaler, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `prepare` gave, as the networks see it: ``(N, ...)`` scaled by the host, and the flags that are still missing."""
    if on_device(scaler):
        return preprocess.apply(of_prepared(scaler), x)
    return x, np.zeros(len(x), np.uint32)


def with_scaling(method: Method, scaler: Scaler) -> Method:
    """The method over objects that `scaler` takes and states `Scaled`; ``flags`` (`preprocess.apply`) are among its scores.

    Its stages and its other functions stay as they are; of a search there is left what scores objects.
    """

    def scaled(params: dict[str, Any], example: Example) -> tuple[jax.Array, jax.Array]:
        z, flags = preprocess.apply(scaler._replace(params=params), example["x"][None], jnp)
        return z[0], flags[0]

    if isinstance(method.score, Search):
        return method._replace(score=_search(method.score, scaled, partial(preprocess.unusable, scaler)))

    def score(key: Key, state: Scaled, example: Example) -> Scores:
        z, flags = scaled(state.params, example)
        return {**method.score(key, state.state, {"x": z}), "flags": flags}

    return method._replace(score=score)


def _search(
    search: Search,
    scaled: Callable[[dict[str, Any], Example], tuple[jax.Array, jax.Array]],
    unusable: Callable[[jax.Array], jax.Array],
) -> Search:
    """A search over objects to be scaled; one that gets no score whatever is found has ended before it begins."""

    def init(key: Key, state: Scaled, example: Example) -> _Held:
        z, flags = scaled(state.params, example)
        return _Held(z, flags, search.init(key, state.state, {"x": z}))

    def step(state: Scaled, example: Example, held: _Held) -> _Held:
        return held._replace(carry=search.step(state.state, {"x": held.x}, held.carry))

    def finish(state: Scaled, example: Example, held: _Held) -> Scores:
        return {**search.finish(state.state, {"x": held.x}, held.carry), "flags": held.flags}

    def done(held: _Held) -> jax.Array:
        return search.done(held.carry) | unusable(held.flags)

    return Search(init, step, finish, done, search.num_steps)

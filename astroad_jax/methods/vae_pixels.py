"""Where in a spectrum the strangeness lies that the variational autoencoder's scores add up."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from astroad_jax.methods.vae import Nets, VAEState
from astroad_jax.types import Example, Key, Scores


def by_pixel(nets: Nets, samples: int) -> Callable[[Key, VAEState, Example], Scores]:
    """Where in ONE object the strangeness lies: the terms of its scores, pixel by pixel, ``(F,)`` each; NaN where masked.

    ``residual`` is (object - reconstruction at the mean of the code) in units of sigma: its square is what eq. 6 averages.
    ``probability`` sums to the component of that name (where `samples` is the method's and so is the key). It has the form
    of `Method.score`: ``make_scorer(method._replace(score=by_pixel(...)))`` maps it over a catalogue.
    """

    def score(key: Key, state: VAEState, example: Example) -> Scores:
        x = example["x"][None]
        at_mean = nets.decode(state, nets.encode(state, x)[0])
        drawn = nets.likelihood.pixels(*nets.draw(key, state, x, samples))[1]
        return {"residual": nets.likelihood.pixels(x, at_mean)[0][0], "probability": jnp.mean(drawn, axis=0)}

    return score

"""What every number of an object adds to its score: gradients integrated along a straight way, for a few objects at once.

A score is a sum of terms F, each a function of the object x that starts at an object x' without strangeness (`types.Term`).
Entry i contributes, summed over the terms,

    c_i = (x_i - x'_i) * integral over a from 0 to 1 of dF/dx_i at x' + a (x - x')

which are the integrated gradients of Sundararajan, Taly & Yan 2017, "Axiomatic attribution for deep networks"
(arXiv:1703.01365), eq. 1. By their proposition 1 the contributions add up to the score less its value at the start. Where F
is a sum of squares of x - x', c_i is exactly the i-th square: a reconstruction error falls apart into those of its entries.

The integral is a sum over panels of `NODES` Gauss-Legendre nodes each; for squares, one node would do. The gradient of a
network with kinks jumps, where no rule of high order helps; but what a panel must add up to is known, the score at its end
less that at its beginning, and a panel that misses it is halved.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from astroad_jax.engine.ids import id_bits, own_key
from astroad_jax.types import Example, Key, Method, Search, State, Term

NODES = 8  # in a panel
TOLERANCE = 1e-3  # by which the contributions may miss what they should add up to, about
KINKS = 32  # panels that may each miss their part of it
DEEPEST = 12  # halvings
MOST = 1024  # panels of an object on the average, beyond which they are taken as they are
AT_ONCE = 2**22  # numbers of all panels and nodes in a compiled call
ROWS = 128  # panels in one, at most
FEW = 8  # panels for which there is a program of their own


class Shares(NamedTuple):
    """How N scores fall apart.

    Attributes
    ----------
    contribution : (N, ...) float64
        In the shape of the objects; up = makes stranger. An object's add up to ``value - base``, but for `error`.
    value : (N,) float64
        The score, as the sum of its terms.
    base : (N,) float64
        What the terms are where they start.
    """

    contribution: np.ndarray
    value: np.ndarray
    base: np.ndarray

    def error(self) -> np.ndarray:
        """(N,): by how much each sum is off, relative to the larger of score and base."""
        total = self.contribution.reshape(len(self.value), -1).sum(axis=1)
        return relative_error(total, self.value, self.base)


def relative_error(total: np.ndarray, value: np.ndarray, base: np.ndarray) -> np.ndarray:
    """|total - (value - base)| over the larger of |value| and |base|, ``(N,)``."""
    scale = np.maximum(np.maximum(np.abs(value), np.abs(base)), np.finfo(np.float32).tiny)
    return np.abs(total - (value - base)) / scale


def make_explainer(
    method: Method, *, seed: int = 0, tolerance: float = TOLERANCE
) -> Callable[[State, np.ndarray, np.ndarray, np.ndarray], Shares]:
    """Compile the contributions to a method's score.

    Parameters
    ----------
    seed : int
        That of the scores: what is random in an object's score is drawn again as it was.
    tolerance : float
        By which an object's contributions may miss what they should add up to, relative to the larger of score and base.

    Returns
    -------
    (state, x, ids, start) -> Shares
        `x` of shape ``(N, ...)``, `ids` ``(N,)``; `start` in the shape of `x`: typical objects, or, where the score is a
        search, what it rebuilt (`score.make_reconstructor`).

    Raises
    ------
    ValueError
        The score is a search that does not tell its terms.
    """
    piece = partial(_piece, _terms_of(method), jax.random.key(seed))
    panel = jax.jit(jax.vmap(piece, in_axes=(None, 0, 0, 0, 0, 0)))

    def explain(state: State, x: np.ndarray, ids: np.ndarray, start: np.ndarray) -> Shares:
        objects = x, id_bits(ids), np.asarray(start, np.float32)
        found = Shares(np.zeros(x.shape), np.zeros(len(x)), np.zeros(len(x)))
        panels = _Panels(np.arange(len(x)), np.zeros(len(x), np.float32), np.float32(1))
        seen = 0
        while len(panels.row):
            seen += len(panels.row)
            last = panels.width <= 2.0**-DEEPEST or seen > MOST * len(x)
            panels = _added(found, panels, partial(_integrated, panel, state, objects), 0.0 if last else tolerance)
        return found

    return explain


class _Panels(NamedTuple):
    """Pieces of the objects' ways, all of one width."""

    row: np.ndarray  # (P,) which object's
    left: np.ndarray  # (P,) float32, where they begin
    width: np.float32


def _added(found: Shares, panels: _Panels, integrated: Callable, tolerance: float) -> _Panels:
    """Add what the panels have come to, and give halves of those that are still too wide; none where `tolerance` is 0."""
    split = []
    most = max(1, min(ROWS, AT_ONCE // (NODES * found.contribution[0].size)))
    for first in range(0, len(panels.row), most):
        row, left = panels.row[first : first + most], panels.left[first : first + most]
        part, low, high = integrated(row, left, panels.width, FEW if len(row) <= FEW < most else most)
        if panels.width == 1:
            found.base[row], found.value[row] = low, high
        scale = np.maximum(np.abs(found.base), np.abs(found.value))[row]
        missed = np.abs(part.reshape(len(row), -1).sum(axis=1) - (high - low))
        good = ~(missed > tolerance / KINKS * scale) | (tolerance == 0)
        np.add.at(found.contribution, row[good], part[good])
        split.append((row[~good], left[~good]))
    row, left = (np.concatenate(parts) for parts in zip(*split))
    half = np.float32(panels.width / 2)
    return _Panels(np.repeat(row, 2), (left[:, None] + np.array([0, half], np.float32)[None]).reshape(-1), half)


def _integrated(
    panel: Callable,
    state: State,
    objects: tuple[np.ndarray, ...],
    row: np.ndarray,
    left: np.ndarray,
    width: np.float32,
    size: int,
) -> tuple[np.ndarray, ...]:
    """The integral over each panel ``(P, ...)``, and the score at both ends, ``(P,)`` each; float64.

    They are padded to `size`, for which there is a program.
    """
    padded = np.minimum(np.arange(size), len(row) - 1)
    rows = row[padded]
    given = (*(values[rows] for values in objects), left[padded], np.full(len(rows), width))
    return tuple(values[: len(row)].astype(np.float64) for values in jax.device_get(panel(state, *given)))


def _terms_of(method: Method) -> Callable[[Key, State, Example, jax.Array], tuple[Term, ...]]:
    """The terms of a method's score; the whole score where it does not tell them."""
    if isinstance(method.score, Search):
        if method.score.terms is None:
            raise ValueError("the score of this method is a search that does not tell its terms")
        return lambda key, state, example, start: method.score.terms(state, example, start)
    if method.terms is not None:
        return method.terms

    def whole(key: Key, state: State, example: Example, start: jax.Array) -> tuple[Term, ...]:
        return (Term(lambda x: method.score(key, state, {**example, "x": x})["score"], start),)

    return whole


def _piece(
    terms_of: Callable,
    key: Key,
    state: State,
    x: jax.Array,
    bits: jax.Array,
    start: jax.Array,
    left: jax.Array,
    width: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """ONE panel of one object, all terms together: the integral, and the score at its begin and end."""
    # Otherwise an accelerator rounds gradients more coarsely than the sums are asked to agree.
    with jax.default_matmul_precision("highest"):
        terms = terms_of(own_key(key, bits), state, {"x": x}, start)
        parts = [_along(term, x, left, width) for term in terms]
    return tuple(sum(values) for values in zip(*parts))


def _along(term: Term, x: jax.Array, left: jax.Array, width: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The same of one term."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    at = left + width * jnp.asarray((nodes + 1) / 2, jnp.float32)
    way = x - term.start
    slopes = jax.vmap(lambda a: jax.grad(term.value)(term.start + a * way))(at)
    ends = (term.value(term.start + a * way) for a in (left, left + width))
    return (way * width * jnp.tensordot(jnp.asarray(weights / 2, jnp.float32), slopes, 1), *ends)

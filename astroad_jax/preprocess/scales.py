"""The scalings themselves: what each learns from training columns, and what it does to an object.

=============  =======================================================================================
name           scaled value of x, with the statistics of its column over the training rows
=============  =======================================================================================
``quantile``   2 U - 1 in [-1, 1], U the empirical distribution function; clipped beyond the training range
``minmax``     2 (x - min) / (max - min) - 1; not clipped, so that a far outlier stays far
``standard``   (x - mean) / standard deviation
``gcn``        (x - mean) / (L2 norm of x - mean, divided by D), over the D values of the object itself
``none``       x
=============  =======================================================================================

A column that is constant in training carries no scale and becomes 0. Fitting is NumPy: sorted columns ``(B,
N)`` with NaN at the end, and the number of finite entries of each. Applying is written over an array
namespace: finite float32 objects ``(N, D)`` and statistics ``(rows, D)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from astroad_jax.preprocess.scaler import Array, Params

MAX_QUANTILES = 1000


class Scale(NamedTuple):
    """One scaling.

    Attributes
    ----------
    fit : (block (B, N), count (B,)) -> dict of (B, rows) arrays
        Statistics of sorted columns.
    apply : (params, x (N, D), xp) -> (N, D)
        The scaled objects; a function of each object and the statistics alone.
    """

    fit: Callable[[np.ndarray, np.ndarray], Params]
    apply: Callable[[Params, Array, Any], Array]


def quantiles(block: np.ndarray, count: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Linearly interpolated quantiles ``(B, len(levels))`` of the first `count` entries of sorted columns."""
    position = levels[None] * (count - 1)[:, None]
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, count[:, None] - 1)
    a, b = (np.take_along_axis(block, index, axis=1).astype(np.float64) for index in (below, above))
    return a + (b - a) * (position - below)


def limits(block: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest finite entry of sorted columns, ``(B, 1)`` each."""
    low, high = quantiles(block, count, np.array([0.0, 1.0])).T[:, :, None]
    return low, high


def _fit_quantile(block: np.ndarray, count: np.ndarray) -> Params:
    """Reference quantiles and the scaled value at each: the middle of a run of ties, -1 and 1 at the ends."""
    levels = np.linspace(0, 1, min(MAX_QUANTILES, block.shape[1]))
    reference = np.maximum.accumulate(quantiles(block, count, levels).astype(np.float32), axis=1)
    return {"quantiles": reference, "levels": np.stack([_tied_levels(column) for column in reference])}


def _tied_levels(column: np.ndarray) -> np.ndarray:
    """2 U - 1 at the sorted quantiles of one column."""
    first, last = (np.searchsorted(column, column, side=side) for side in ("left", "right"))
    levels = (first + last - 1) / max(1, len(column) - 1) - 1.0
    constant = column[0] == column[-1]
    levels[column == column[-1]] = 1.0
    levels[column == column[0]] = 0.0 if constant else -1.0
    return levels


def _quantile(params: Params, x: Array, xp: Any) -> Array:
    """Interpolate 2 U - 1 between reference quantiles, from the left and from the right, and take the mean.

    The two differ only at a value that several quantiles share, where the mean is the middle of the run: that
    is looked up. It is what scikit-learn's ``QuantileTransformer`` does for a uniform output, stretched to
    [-1, 1].
    """
    reference, levels = params["quantiles"], params["levels"]
    last = len(reference) - 1
    x = xp.clip(x, reference[:1], reference[-1:])
    index = _bracket(reference, x, xp)
    below = _pick(reference, index, xp)
    above = _pick(reference, xp.minimum(index + 1, last), xp)
    position = index.astype(xp.float32) + fraction(x, below, above, xp)
    between = xp.clip(position * xp.float32(2 / max(1, last)) - 1, -1, 1)
    return xp.where(x == below, _pick(levels, index, xp), between)


def _bracket(table: Array, x: Array, xp: Any) -> Array:
    """Index of the last entry <= x in each sorted column ``(Q, D)``; needs x >= the first. Bisection."""
    last = len(table) - 1
    index = xp.zeros(x.shape, int)
    for bit in reversed(range(last.bit_length())):
        candidate = xp.minimum(index + 2**bit, last)
        index = xp.where(_pick(table, candidate, xp) <= x, candidate, index)
    return index


def _pick(table: Array, index: Array, xp: Any) -> Array:
    """``table[index[n, d], d]``; as one flat take, which is the quick way in both libraries."""
    columns = table.shape[1]
    return xp.take(xp.reshape(table, -1), index * columns + xp.arange(columns)[None], mode="clip")


def fraction(x: Array, low: Array, high: Array, xp: Any) -> Array:
    """(x - low) / (high - low), exact at the ends, 1/2 where they coincide; halved lest a range overflows."""
    width = high / 2 - low / 2
    return xp.where(width > 0, (x / 2 - low / 2) / xp.where(width > 0, width, 1), 0.5)


def _fit_minmax(block: np.ndarray, count: np.ndarray) -> Params:
    low, high = limits(block, count)
    return {"low": low, "high": high}


def _minmax(params: Params, x: Array, xp: Any) -> Array:
    low, high = params["low"], params["high"]
    return xp.where(high > low, 2 * fraction(x, low, high, xp) - 1, 0)


def _fit_standard(block: np.ndarray, count: np.ndarray) -> Params:
    """Mean and reciprocal population standard deviation; the latter 0 for a constant column."""
    low, high = limits(block, count)
    block = block.astype(np.float64)  # NumPy's nanstd would square in float32
    mean = np.nanmean(block, axis=1, keepdims=True)
    deviation = np.sqrt(np.nanmean((block - mean) ** 2, axis=1, keepdims=True))
    # Equal numbers can have a mean that is off by rounding, so the deviation alone does not tell.
    varies = (high > low) & (deviation > np.finfo(np.float32).tiny)
    return {"mean": mean, "scale": varies / np.where(varies, deviation, 1)}


def _standard(params: Params, x: Array, xp: Any) -> Array:
    """A product, because XLA turns a division into one for some batch sizes and not for others."""
    return (x - params["mean"]) * params["scale"]


def _fit_nothing(block: np.ndarray, count: np.ndarray) -> Params:
    return {}


def _gcn(params: Params, x: Array, xp: Any) -> Array:
    """Global contrast normalisation of each object: (x - mean) / (sqrt(sum (x - mean)^2) / D).

    As DASVDD's CIFAR-10 experiments need it (Hojjati & Armanfard, section 4.1; the paper gives no formula,
    this is the one in the authors' code: the sum is over the centred image). Its pixels have a standard
    deviation of sqrt(D), not 1, and that scale enters the method's gamma. Dividing by the largest value first
    changes nothing but keeps the squares within float32.
    """
    size = xp.max(xp.abs(x), axis=1, keepdims=True)
    x = x / xp.where(size > 0, size, 1)
    centred = x - xp.mean(x, axis=1, keepdims=True)
    norm = xp.sqrt(xp.sum(centred**2, axis=1, keepdims=True))
    contrast = xp.max(x, axis=1, keepdims=True) > xp.min(x, axis=1, keepdims=True)
    return xp.where(contrast, centred / xp.where(contrast, norm / x.shape[1], 1), 0)


def _none(params: Params, x: Array, xp: Any) -> Array:
    return x


SCALES = {
    "quantile": Scale(_fit_quantile, _quantile),
    "minmax": Scale(_fit_minmax, _minmax),
    "standard": Scale(_fit_standard, _standard),
    "gcn": Scale(_fit_nothing, _gcn),
    "none": Scale(_fit_nothing, _none),
}

"""Several scores of the same objects as one."""

from __future__ import annotations

from typing import Literal

import numpy as np

from astroad_jax.errors import DataError

RULES = {"mean": np.mean, "max": np.max}


def combined_rank(*scores: np.ndarray, rule: Literal["mean", "max"] = "mean") -> np.ndarray:
    """Mean, or largest, over scores of the share of objects that an object outranks: 0 = the plainest by all of them.

    Ranks forget units and tails, so that reconstruction error and local outlier factor weigh the same whatever they
    measure; the DESI paper (Nicolaou et al.) suggests to combine the two and gives no rule. An object's fraction of one
    score is (rank - 1) / (n - 1) among the n objects that have all scores, ties sharing their mean rank; a single object
    is at 0.

    Parameters
    ----------
    *scores : (N,) float
        Up = stranger. A null score (NaN) in any of them leaves the object out of the ranking.
    rule : {"mean", "max"}
        ``mean``: strange is what all scores find strange; 1 is the strangest by all of them. ``max``: strange is what any
        of them does, as where each sees a kind of object that the others do not; each score's strangest is at 1.

    Returns
    -------
    (N,) float64
        In [0, 1]; NaN for an object that lacks a score. It depends on the other objects: it ranks one table, and is no
        score that could be compared with another table's.

    Raises
    ------
    DataError
        No scores, scores of unlike lengths, or a rule that is none.
    """
    if rule not in RULES:
        raise DataError("no such rule", expected=", ".join(RULES), got=rule, fix="choose one of these")
    from scipy.stats import rankdata

    columns = [np.asarray(score, np.float64) for score in scores]
    if not columns or any(column.ndim != 1 or len(column) != len(columns[0]) for column in columns):
        raise DataError(
            "these scores are not of the same objects",
            expected="one or more arrays of shape (N,)",
            got=f"shapes {[column.shape for column in columns]}",
            fix="join the scores by object_id first",
        )
    whole = ~np.isnan(columns).any(axis=0)
    last = max(int(whole.sum()) - 1, 1)
    combined = np.full(len(whole), np.nan)
    shares = [(rankdata(column[whole]) - 1) / last for column in columns]
    combined[whole] = RULES[rule](shares, axis=0)
    return combined

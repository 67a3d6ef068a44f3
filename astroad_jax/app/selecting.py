"""``astroad select``: the objects beyond a line, and how many false ones are to be expected among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astroad_jax.analysis import calibrate
from astroad_jax.app.bundle import Bundle, book_of
from astroad_jax.engine import catalog
from astroad_jax.errors import ConfigError, DataError


class Selection(NamedTuple):
    """Rows that were taken, strangest first, and what is to be said of them, by name."""

    table: dict[str, np.ndarray]
    measures: dict[str, Any]


def select(model: Bundle, scores: Path, *, discovery: float | None = None, alarm: float | None = None) -> Selection:
    """Take the strange objects of a score directory, by a rate of false ones.

    Parameters
    ----------
    discovery : float, optional
        Share of the objects taken that may be false, on average (Benjamini-Hochberg).
    alarm : float, optional
        Share of the inliers that may be taken, on average. One of both is given.

    Returns
    -------
    Selection
        ``expected_false`` is their number in this catalogue if all its objects were inliers (`alarm`), or at most their
        number among those taken (`discovery`); ``expected_false_interval`` tells, for `alarm`, what one calibration set
        leaves uncertain (95 %).

    Raises
    ------
    ConfigError
        Neither rate, both, or one that is none.
    MismatchError
        The scores are another model's.
    DataError
        No scores, or too few calibration rows for the rate.
    """
    rate = discovery if alarm is None else alarm
    if (discovery is None) == (alarm is None) or not 0 < rate < 1:
        expected, got = "--fdr or --rate, between 0 and 1", f"--fdr {discovery} --rate {alarm}"
        raise ConfigError("one rate is wanted", expected=expected, got=got, fix="--fdr 0.1, or --rate 0.001")
    book_of(model, scores)
    table = catalog.read_scores(scores)
    p, scored = table["p_value"], int(np.isfinite(table["p_value"]).sum())
    found = {"rows": len(p), "scored": scored, "calibration_rows": len(model.calibration)}
    taken, more = _discovered(p, scored, discovery, model) if alarm is None else _alarmed(table, scored, alarm, model)
    order = np.flatnonzero(taken)
    order = order[np.lexsort((order, -table["score"][order]))]
    return Selection({name: values[order] for name, values in table.items()}, {**found, "taken": len(order), **more})


def _discovered(p: np.ndarray, scored: int, rate: float, model: Bundle) -> tuple[np.ndarray, dict[str, Any]]:
    taken = calibrate.benjamini_hochberg(p, rate)
    least = 1 / (len(model.calibration) + 1)
    # k objects at the smallest p-value there is are taken where it is at most rate k / m
    fewest = int(np.ceil(least * scored / rate))
    found = {"false_discovery_rate": rate, "expected_false": rate * int(taken.sum()), "fewest_that_can_be_taken": fewest}
    return taken, found


def _alarmed(table: dict[str, np.ndarray], scored: int, rate: float, model: Bundle) -> tuple[np.ndarray, dict[str, Any]]:
    line = calibrate.threshold(model.calibration, rate)
    if not np.isfinite(line.value):
        raise DataError(
            "too few calibration rows for this rate",
            where="--rate",
            expected=f"at least {calibrate.rows_needed(rate)}",
            got=line.calibration_rows,
            fix="a higher rate, or a model trained with more of them (data.calibration_fraction)",
        )
    interval = [line.low * scored, line.high * scored]
    found = {"false_alarm_rate": line.rate, "threshold": line.value, "expected_false": line.rate * scored}
    return table["score"] > line.value, {**found, "expected_false_interval": interval}

"""``astroad quickstart``: the whole way on a mock survey, or on one table of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from astroad_jax import config, data
from astroad_jax.app import bundle, evaluation, inspection, scoring, training
from astroad_jax.data import mock
from astroad_jax.engine import catalog
from astroad_jax.errors import DataError


class Tour(NamedTuple):
    """What a quickstart made."""

    run: Path
    scores: Path
    report: catalog.Report
    evaluation: evaluation.Evaluation


def quickstart(path: str | None, out: Path, settings: list[str], progress: bool = False) -> Tour:
    """Train, score and evaluate one table.

    Parameters
    ----------
    path : str, optional
        The user's table; None makes a mock survey in memory.
    out : Path
        Gets ``run`` and ``scores``.
    settings : list of str
        Overrides ``table.key=value``.
    """
    asked = config.load(None, settings)
    opened = data.open_source(path, size=asked.data.size, spectra=asked.spectra) if path else None
    source = opened or data.memory("mock_survey", mock.survey())
    chosen = choose(source, settings, mocked=path is None)
    run, scores = out / "run", out / "scores"
    training.train(source, chosen, run, progress)
    model = bundle.load(run)
    report = scoring.score(model, [source], scores, progress)
    if report.quarantined:
        raise DataError("the table could not be scored", where=source.path, got="; ".join(report.quarantined.values()))
    return Tour(run, scores, report, evaluation.evaluate(model, run, scores))


def choose(source: data.Source, settings: list[str], mocked: bool) -> config.Run:
    """A configuration that suits the table: what `inspection.suggest` says of it, under what the user sets."""
    table = {"ignore": ["kind"], "anomalies": ["anomaly"]} if mocked else {}
    asked = config.override({"data": table, "train": {"epochs": 40}}, settings)
    wanted = config.parse(config.Run, asked, "command line")
    found = inspection.inspect(source, wanted.data, wanted.spectra)
    suggested = inspection.suggest(found, wanted.data, wanted.spectra).model_dump(exclude_defaults=True)
    if mocked:
        suggested["data"].pop("path")
    merged = {name: {**suggested.get(name, {}), **asked.get(name, {})} for name in config.Run.model_fields}
    merged["data"] = {**asked["data"], **suggested["data"]}
    return config.parse(config.Run, merged, "command line")

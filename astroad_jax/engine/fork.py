"""A run that begins where another one was: for longer, from before it went wrong, at another rate, for another score."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from astroad_jax import config, files
from astroad_jax.engine import checkpoint
from astroad_jax.errors import DataError, MismatchError
from astroad_jax.types import Method


class Origin(NamedTuple):
    """A sound checkpoint, and the run that it is of."""

    path: Path
    note: dict[str, Any]  # its manifest
    run: Path

    def name(self) -> dict[str, Any]:
        """What provenance says of it."""
        return {**self.note["position"], "digest": self.note["digest"]}


def find(path: Path) -> Origin:
    """A checkpoint by its own directory, or the newest one of a run by the run's.

    Raises
    ------
    DataError
        There is none.
    CorruptError
        It is damaged, or all of the run's are.
    """
    path = Path(path)
    found = checkpoint.newest(path / "checkpoints")
    if found is not None:
        return Origin(*found, path)
    if path.absolute().parent.name == "checkpoints" and path.is_dir():
        return Origin(path, checkpoint.check(path), path.absolute().parent.parent)
    raise DataError(
        "no checkpoint here",
        where=str(path),
        expected="a run directory, or one of its checkpoints",
        fix="name one of RUN/checkpoints; astroad status RUN tells the last of which nothing was complained",
    )


def check(
    origin: Origin, settings: config.Run, held: config.Run, tunable: Collection[str], fingerprint: str, method: Method
) -> None:
    """See that a run with these settings can go on from there.

    Parameters
    ----------
    held : config.Run
        The settings of the run that the checkpoint is of, completed by defaults like `settings`.
    tunable : collection of str
        Keys of the method that may be others: the `TUNABLE` of its configuration.
    fingerprint : str
        Of the data to train on.

    Raises
    ------
    MismatchError
        Other data, or settings that make another model, which are named; a training that would end before the checkpoint;
        stages before it that had another length.
    """
    free = [f"train.{key}" for key in config.Train.TUNABLE] + [f"method.{key}" for key in tunable]
    same = {"score": held.score, "data": settings.data.model_copy(update={"path": held.data.path})}  # its bytes are compared
    differences = config.differences(held, settings.model_copy(update=same))
    differing = [line for line in differences if line.partition(":")[0] not in free]
    if files.read_sealed(origin.run / "provenance.json")["data"] != fingerprint:
        differing.append("the training data")
    if differing:
        raise MismatchError(
            "a run that begins at this checkpoint would not go on with what it has learned",
            where=str(origin.path),
            expected=f"others of these keys, if any: score.*, {', '.join(free)}",
            got="; ".join(differing),
            fix="use the configuration and data of that run, or begin from nothing (without --from)",
        )
    position, stages = origin.note["position"], method.stages
    starts = list(itertools.accumulate((stage.num_steps for stage in stages), initial=0))
    stage, behind = stages[position["stage"]], origin.note["total_step"] - position["step"]
    if behind != starts[position["stage"]]:
        raise MismatchError(
            "the stages before this checkpoint had another length",
            where=str(origin.path),
            expected=f"{behind} steps before stage {position['name']!r}",
            got=f"{starts[position['stage']]}",
            fix="set their epochs (method.pretrain_epochs, say) to what they were, or begin in the first stage",
        )
    if position["step"] > stage.num_steps:
        raise MismatchError(
            "this checkpoint lies beyond the training that is asked for",
            where=str(origin.path),
            expected=f"at least {position['step']} steps of stage {position['name']!r}",
            got=f"{stage.num_steps}",
            fix="raise train.epochs, or the stage's own",
        )


def begin(origin: Origin, directory: Path) -> None:
    """Put the checkpoint, and the metrics on the way to it, into a new run's directory."""
    total = origin.note["total_step"]
    rows = (row for row in files.read_lines(origin.run / "metrics.jsonl") if row["total_step"] <= total)
    files.write_text(directory / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    checkpoint.adopt(origin.path, directory / "checkpoints")


def begin_again(origin: Origin | None, directory: Path) -> None:
    """`begin`, where a run was stopped before it had its first checkpoint.

    Raises
    ------
    MismatchError
        It is not said where; from nothing it would be another run than its provenance tells.
    """
    if origin is None:
        raise MismatchError(
            "this run begins at a checkpoint of another one, and was stopped before it had it",
            where=str(directory),
            fix="give --from again, or choose another directory",
        )
    begin(origin, directory)

"""The conversation of ``astroad rank``: what the terminal shows of an object, and what an answer means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astroad_jax.analysis import active
from astroad_jax.app import album, labels, ranking, scoring
from astroad_jax.app.bundle import Bundle
from astroad_jax.app.ranking import Objects
from astroad_jax.errors import ConfigError

PROMPT = f"label {active.LOWEST} to {active.HIGHEST} [comment], s(kip), q(uit): "
HELP = (
    f"an answer is a digit from {active.LOWEST} (of no interest) to {active.HIGHEST} (wanted), perhaps with a comment "
    "after it, in UTF-8; s passes over the object, q stops"
)


class Options(NamedTuple):
    """How a person is asked.

    Attributes
    ----------
    store : Path
        Label file.
    pictures : Path or None
        Directory for the objects' pictures; None draws none.
    every : int
        Labels between two rankings.
    top : int or None
        Objects shown at most.
    scale : {"minmax", "rank"}
    alpha : float
        See `analysis.active.relevance`.
    who : str
        Name kept with each label.
    """

    store: Path
    pictures: Path | None
    every: int = 10
    top: int | None = None
    scale: active.Scale = "minmax"
    alpha: float = 1.0
    who: str = ""


def given(text: str) -> tuple[str, int]:
    """Id and label of ``ID=VALUE``; the id may hold equals signs itself.

    Raises
    ------
    ConfigError
        Not of this form, or no label.
    """
    key, equals, value = text.rpartition("=")
    values = {str(label): label for label in (labels.WITHDRAWN, *range(active.LOWEST, active.HIGHEST + 1))}
    if not (equals and key) or value.strip() not in values:
        expected = f"ID=VALUE, the value {active.LOWEST} to {active.HIGHEST}, or {labels.WITHDRAWN} to take a label back"
        raise ConfigError("this is no label", where="--label", expected=expected, got=text, fix="such as --label 4711=5")
    return key, values[value.strip()]


def answer(text: str) -> tuple[active.Answer, str] | None:
    """What was typed: a label with its comment, skip or stop; None where it is none of these."""
    if not _is_utf8(text):
        return None
    first, _, rest = text.strip().partition(" ")
    if first.lower() in ("s", "skip") and not rest:
        return active.SKIP, ""
    if first.lower() in ("q", "quit") and not rest:
        return active.STOP, ""
    if first in map(str, range(active.LOWEST, active.HIGHEST + 1)):
        return int(first), rest.strip()
    return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a terminal's other bytes, as Python smuggles them through
        return False
    return True


def check_terminal(there: bool) -> None:
    """Refuse to ask where nobody can answer."""
    if not there:
        fix = "run it in a terminal, or give --export FILE or --label ID=VALUE, which ask nothing"
        raise ConfigError("there is nobody to ask: the input is no terminal", where="astroad rank", fix=fix)


def set_labels(objects: Objects, pairs: Sequence[tuple[str, int]], options: Options) -> None:
    """Store labels of ids as `given` has them, all or none."""
    rows = [ranking.row_of(objects, key) for key, _ in pairs]
    given = np.array([value for _, value in pairs])
    labels.append(options.store, objects.ids[rows], given, who=options.who, table=objects.numbered)


def known_labels(objects: Objects, store: Path, write: Callable[[str], None]) -> np.ndarray:
    """Labels of the objects, ``(N,)``, -1 where there is none; and a word on what there is."""
    held = labels.latest(store) if Path(store).exists() else labels.Labels(objects.ids[:0], np.zeros(0, np.int64))
    known, absent = labels.matched(held, objects.ids, str(store), objects.numbered)
    null = int(np.isnan(objects.score).sum())
    if not Path(store).exists():
        write(f"labels  {store} is not there yet: the first label makes it")
    write(f"objects {len(known)}  without a score {null}  labelled {int((known != labels.WITHDRAWN).sum())}")
    if absent:
        write(f"labels of objects that are not among these: {absent} (kept)")
    if objects.repeated:
        write(f"rows that repeat an id: {objects.repeated} (of each id the strangest row is ranked)")
    return known


def describe(objects: Objects, row: int, relevance: float, picture: Path | None = None) -> str:
    """One object in a few lines."""
    table = objects.table

    def numbers(names: Sequence[str]) -> str:
        return "  ".join(f"{name} {_number(table[name][row])}" for name in names if name in table)

    flags = int(table["flags"][row])
    reasons = [name for bit, name in scoring.FLAG_NAMES.items() if flags & bit]
    lines = [
        f"\nobject      {objects.ids[row]}",
        f"position    {_position(table, row)}",
        f"class       {table['label'][row] or '-'}" if "label" in table else "",
        f"scores      relevance {_number(relevance)}  {numbers(['score', 'p_value'])}",
        f"components  {numbers(objects.components)}" if objects.components else "",
        f"flags       {flags}" + (f": {'; '.join(reasons)}" if reasons else ""),
        f"picture     {picture}" if picture is not None else "",
    ]
    return "\n".join(line for line in lines if line)


def _position(table: dict[str, np.ndarray], row: int) -> str:
    if "ra" not in table or "dec" not in table or math.isnan(table["ra"][row]):
        return "-"
    return f"{table['ra'][row]:.6f} {table['dec'][row]:+.6f}"


def _number(value: Any) -> str:
    return "-" if math.isnan(value) else f"{value:.5g}"


def converse(
    model: Bundle,
    objects: Objects,
    label: np.ndarray,
    options: Options,
    read: Callable[[str], str],
    write: Callable[[str], None],
) -> active.Session:
    """Show the most relevant unlabelled objects one by one, and store each label before the next.

    Parameters
    ----------
    label : (N,) int
        Given before; -1 for unlabelled.
    read : (prompt) -> str
        One line of a person's; `EOFError` where there will be none.
    write : (text) -> None
    """
    now, comment = {"relevance": np.zeros(0)}, [""]
    fetch, draw = album.open_album(model, objects, options.pictures) if options.pictures is not None else (None, None)

    def rank(label: np.ndarray) -> np.ndarray:
        now["relevance"] = ranking.relevance(model, objects, label, options.scale, options.alpha)
        return active.ranked(now["relevance"], objects.ids)[: np.isfinite(objects.score).sum()]

    def ask(row: int) -> active.Answer:
        picture = draw(row) if draw is not None else None
        write(describe(objects, row, now["relevance"][row], picture))
        while True:
            try:
                found = answer(read(PROMPT))
            except EOFError:
                return active.STOP
            except UnicodeDecodeError:
                found = None
            if found is not None:
                comment[0] = found[1]
                return found[0]
            write(HELP)

    def store(row: int, value: int) -> None:
        ids = objects.ids[row : row + 1]
        given = {"who": options.who, "comment": comment[0], "table": objects.numbered}
        labels.append(options.store, ids, np.array([value]), **given)

    return active.session(rank, label, ask, store, every=options.every, limit=options.top, on_rank=fetch)

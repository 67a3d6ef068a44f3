"""Active learning: a ranking by strangeness, turned by a few labels into a ranking by what its user looks for.

The scheme is Astronomaly's (Lochner & Bassett 2021, arXiv:2010.11202), which Nicolaou et al. 2025 (arXiv:2506.17376, section
5.3) apply to the latent coordinates of spectra. Neither paper prints all of its numbers: they are those of Astronomaly's
code. A person labels objects from 0 (of no interest) to 5 (wanted). A random forest learns the label u from an object's
features; d is the distance to the nearest labelled object, over its mean over all objects::

    relevance = score * tanh(exp(alpha d) - 1 + artanh(0.1 + 0.85 u / 5))

with scores brought to 0 ... 5. Near labels the forest decides: a factor of 0.1 to 0.95. Far from all of them the factor
goes to 1 and the object keeps its own score, so that what is strange in a way nobody has seen yet still comes up.

Nothing here knows a terminal, a file or a model: features, scores, labels and callbacks only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from astroad_jax.analysis.metrics import recall_at_k
from astroad_jax.errors import DataError

UNLABELLED = -1
LOWEST, HIGHEST = 0, 5  # of labels and of converted scores
LEAST, SPAN = 0.1, 0.85  # factor of an object that lies on a label of 0, and what a label of 5 adds
SATURATED = 50.0  # beyond this exponent tanh is 1, and exp may overflow
BLOCK = 65536  # rows a thread predicts at a time
SKIP, STOP = "skip", "stop"

Scale = Literal["minmax", "rank"]
Answer = int | Literal["skip", "stop"]


def converted(score: np.ndarray, scale: Scale = "minmax") -> np.ndarray:
    """Scores on a scale from 0 (the least strange) to 5 (the strangest); what is not finite is NaN.

    Parameters
    ----------
    score : (N,) float
        Up = stranger.
    scale : {"minmax", "rank"}
        ``minmax`` is linear, as Astronomaly's ``ScoreConverter``. One extreme score then presses all others to 0;
        ``rank``, this package's own, takes the place among the scores instead (ties share the mean place).

    Returns
    -------
    (N,) float64
        2.5 for all where they are all equal, for which the source divides 0 by 0: labels alone then rank.
    """
    score = np.asarray(score, np.float64)
    finite = np.isfinite(score)
    held = score[finite]
    if scale == "rank":
        from scipy.stats import rankdata

        held = rankdata(held)
    found = np.full(len(score), np.nan)
    if held.size:
        low, high = held.min(), held.max()
        # Halved, so that the range of any two floats is one; a subnormal range is none.
        width = 0.5 * high - 0.5 * low
        found[finite] = HIGHEST * ((0.5 * held - 0.5 * low) / width if width >= np.finfo(float).tiny else 0.5)
    return found


def relevance(
    features: np.ndarray,
    score: np.ndarray,
    labels: np.ndarray,
    *,
    seed: int,
    alpha: float = 1.0,
    trees: int = 200,
    scale: Scale = "minmax",
) -> np.ndarray:
    """Scores adjusted to what has been labelled: the module's formula.

    The result depends on the objects, not on their order, bit for bit.

    Parameters
    ----------
    features : (N, D) float
        What distances are taken in and the forest learns from, latent coordinates as a rule; used as they are.
    score : (N,) float
        Up = stranger; NaN or infinite where there is none.
    labels : (N,) float
        0 to 5, -1 for unlabelled.
    seed : int
        Of the forest.
    alpha : float
        How soon a label's reach ends: more means sooner. 0: it never does.
    trees : int
        In the forest.
    scale : {"minmax", "rank"}
        How scores come to 0 ... 5: see `converted`.

    Returns
    -------
    (N,) float64
        From 0 to 5; NaN where the score is not finite. Without a label these are the converted scores. So they are for
        an object without finite features, which is near to nothing; it neither teaches the forest nor counts in the
        mean distance, and nor does one without a score. A labelled object is at distance 0, and what the forest says of
        it decides. Where all distances are 0, d is 0 for all.

    Raises
    ------
    DataError
        Arrays that do not fit each other, labels that are none, a negative alpha.
    """
    features, own, labels = np.asarray(features), converted(score, scale), np.asarray(labels, np.float64)
    _check(features, own, labels, alpha)
    usable = np.isfinite(own) & np.isfinite(features).all(axis=1)
    taught = usable & (labels != UNLABELLED)
    if not taught.any():
        return own
    with np.errstate(over="ignore"):  # beyond float32, in which the forest splits
        rows = features[usable].astype(np.float32)
    known, given = _sorted(features[taught], labels[taught])
    factor = LEAST + SPAN * _predicted(known, given, rows, seed, trees) / HIGHEST
    distance = _scaled_distance(known, features[usable])
    own[usable] *= np.tanh(np.expm1(np.minimum(alpha * distance, SATURATED)) + np.arctanh(factor))
    return own


def _check(features: np.ndarray, score: np.ndarray, labels: np.ndarray, alpha: float) -> None:
    if features.ndim != 2 or not features.shape[1] or not len(features) == len(score) == len(labels):
        raise DataError(
            "features, scores and labels do not fit each other",
            expected="(N, D), (N,), (N,), D at least 1",
            got=f"{features.shape}, {score.shape}, {labels.shape}",
            fix="give all three for the same objects",
        )
    bad = (labels != UNLABELLED) & ~((labels >= LOWEST) & (labels <= HIGHEST))
    if bad.any():
        raise DataError(
            "labels outside their range",
            where=f"row {np.flatnonzero(bad)[0]}",
            expected=f"{LOWEST} to {HIGHEST}, or {UNLABELLED} for unlabelled",
            got=f"{labels[bad][0]:g}, and {bad.sum() - 1} more",
            fix="correct or leave out these labels",
        )
    if not (np.isfinite(alpha) and alpha >= 0):
        raise DataError("alpha must be a number of at least 0", got=alpha, fix="1 is usual")


def _sorted(known: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labelled rows in an order that is their own: the forest draws its rows by their places."""
    order = np.lexsort((given, *known.T[::-1]))
    return known[order], given[order]


def _predicted(known: np.ndarray, given: np.ndarray, rows: np.ndarray, seed: int, trees: int) -> np.ndarray:
    """The forest's label of every row, ``(M,)`` in 0 ... 5.

    Threads share the rows, not the trees: sums over trees that other threads add to come out in another order each time.
    """
    from concurrent.futures import ThreadPoolExecutor

    from sklearn.ensemble import RandomForestRegressor

    with np.errstate(over="ignore"):
        forest = RandomForestRegressor(trees, random_state=seed).fit(known.astype(np.float32), given)
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    with ThreadPoolExecutor() as pool:
        return np.clip(np.concatenate(list(pool.map(forest.predict, blocks))), LOWEST, HIGHEST)


def _scaled_distance(known: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Distance of every row to the nearest labelled one, over its mean."""
    from scipy.spatial import cKDTree

    distance = cKDTree(known).query(rows, workers=-1)[0]
    mean = np.sort(distance).mean()  # sorted: a sum's last bits depend on its order
    return distance / mean if mean > 0 else np.zeros_like(distance)


def ranked(relevance: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Rows by falling relevance, ties by rising id, nulls last: ``(N,)`` int64."""
    by_id = np.argsort(ids, kind="stable")
    relevance = np.asarray(relevance, np.float64)[by_id]
    return by_id[np.argsort(np.where(np.isnan(relevance), np.inf, -relevance), kind="stable")]


class Session(NamedTuple):
    """What a labelling session came to.

    Attributes
    ----------
    labels : (N,) float64
        Those given before and now; -1 for unlabelled.
    asked, given, skipped : int
        Objects shown, labelled, and passed over.
    rankings : int
        How often the objects were ranked.
    stopped : bool
        Whether the person ended it, rather than the objects or the limit.
    """

    labels: np.ndarray
    asked: int
    given: int
    skipped: int
    rankings: int
    stopped: bool


def session(
    rank: Callable[[np.ndarray], np.ndarray],
    labels: np.ndarray,
    ask: Callable[[int], Answer],
    on_label: Callable[[int, int], None],
    *,
    every: int = 10,
    limit: int | None = None,
    on_rank: Callable[[np.ndarray], None] | None = None,
) -> Session:
    """Show objects in the order of their relevance and learn from the answers.

    Parameters
    ----------
    rank : (labels) -> rows
        All objects worth showing, the most relevant first; called at the start and after every `every` labels.
    labels : (N,) float
        Known before; -1 for unlabelled. Not changed.
    ask : (row) -> 0 ... 5, SKIP or STOP
        A skipped object does not come back in this session.
    on_label : (row, label) -> None
        Called before the next object is shown: the place to store the label.
    every : int
        Labels between two rankings.
    limit : int, optional
        Objects to show at most.
    on_rank : (rows) -> None, optional
        Called with the objects that come next, `every` of them at most: after each ranking, and again whenever those have
        been shown without another one, for some were passed over.

    Returns
    -------
    Session

    Raises
    ------
    DataError
        An answer that is none, or `every` below 1.
    """
    if every < 1:
        raise DataError("objects are ranked anew after one label at least", got=every, fix="set every to 1 or more")
    labels = np.array(labels, np.float64)
    fresh, asked, given, rankings = labels == UNLABELLED, 0, 0, 0
    most = len(labels) if limit is None else limit
    while asked < most:
        rows, rankings, new = rank(labels), rankings + 1, 0
        rows = rows[fresh[rows]][: most - asked]
        for place, row in enumerate(rows.tolist()):
            if on_rank is not None and place % every == 0:
                on_rank(rows[place : place + every])
            answer = ask(row)
            if answer == STOP:
                return Session(labels, asked + 1, given, asked - given, rankings, True)
            asked, fresh[row] = asked + 1, False
            if answer == SKIP:
                continue
            _check_answer(answer)
            on_label(row, answer)
            labels[row], given, new = answer, given + 1, new + 1
            if new == every:
                break
        else:
            break  # all that there is has been shown
    return Session(labels, asked, given, asked - given, rankings, False)


def _check_answer(answer: Answer) -> None:
    if isinstance(answer, str) or not LOWEST <= answer <= HIGHEST:
        expected = f"{LOWEST} to {HIGHEST}, {SKIP!r} or {STOP!r}"
        raise DataError("this answer is no label", expected=expected, got=answer, fix="see what `ask` returns")


class Curve(NamedTuple):
    """How a simulated expert fared; R rounds, entry 0 before any label.

    Attributes
    ----------
    labels : (R + 1,) int64
        Labels given so far.
    recall, raw_recall : (R + 1,) float64
        Share of the wanted objects among the first `top`: by relevance, and by the scores as they are.
    share, raw_share : (R + 1,) float64
        Share of wanted objects among the next `ahead` unlabelled ones: by relevance, and down the list of the scores as
        they are, from where an expert would be who has seen as many of them. NaN where none is left.
    top, ahead : int
        What they were counted in.
    """

    labels: np.ndarray
    recall: np.ndarray
    raw_recall: np.ndarray
    share: np.ndarray
    raw_share: np.ndarray
    top: int
    ahead: int


def simulate(
    features: np.ndarray,
    score: np.ndarray,
    wanted: np.ndarray,
    *,
    labels_per_round: int,
    rounds: int,
    seed: int,
    top: int = 100,
    ahead: int = 100,
    alpha: float = 1.0,
    trees: int = 200,
    scale: Scale = "minmax",
) -> Curve:
    """An expert who labels what comes up next: 5 what is wanted, 0 all else.

    Parameters
    ----------
    features : (N, D) float
    score : (N,) float
        Up = stranger.
    wanted : (N,) bool
    labels_per_round, rounds : int
        So many labels are given, then all is ranked anew; so many times, or until nothing is left.
    seed, alpha, trees, scale
        As for `relevance`.
    top, ahead : int
        Places that recall and share are counted in.

    Returns
    -------
    Curve

    Raises
    ------
    DataError
        No wanted object that has a score, sizes below 1, or what `relevance` refuses.
    """
    score, wanted = np.asarray(score, np.float64), np.asarray(wanted, bool)
    if not (wanted & np.isfinite(score)).any():
        raise DataError("no wanted object has a score", expected="at least one", got=0, fix="name a kind that is there")
    if min(labels_per_round, rounds, top, ahead) < 1:
        got = f"{labels_per_round}, {rounds}, {top}, {ahead}"
        where, fix = "labels_per_round, rounds, top, ahead", "set each to 1 or more"
        raise DataError("sizes of a simulation below 1", where=where, got=got, fix=fix)
    labels, places = np.full(len(score), float(UNLABELLED)), np.arange(len(score))
    options = {"seed": seed, "alpha": alpha, "trees": trees, "scale": scale}
    raw = converted(score, scale)
    raw_order = ranked(raw, places)[: np.isfinite(score).sum()]
    points = []
    for _ in range(rounds + 1):
        now = relevance(features, score, labels, **options)
        order = ranked(now, places)[: len(raw_order)]
        waiting, given = order[labels[order] == UNLABELLED], int((labels != UNLABELLED).sum())
        shares = _share(wanted[waiting[:ahead]]), _share(wanted[raw_order[given : given + ahead]])
        points.append((given, recall_at_k(now, wanted, top), recall_at_k(raw, wanted, top), *shares))
        if not len(waiting):
            break
        shown = waiting[:labels_per_round]
        labels[shown] = np.where(wanted[shown], HIGHEST, LOWEST)
    given, *curves = (np.array(values) for values in zip(*points))
    return Curve(given, *curves, top, ahead)


def _share(found: np.ndarray) -> float:
    return float(found.mean()) if len(found) else float("nan")

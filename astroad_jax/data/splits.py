"""Who is trained on and who is tested: splits that do not move when the table does."""

from __future__ import annotations

import hashlib

import numpy as np

from astroad_jax.errors import DataError


def stratified(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split every class by itself.

    Of n members, ``floor(n * fraction + 1/2)`` are tested, but never all: a class of one is trained on, and a
    class may be too small to be tested at all. A class's split depends on the seed, its name and its own rows
    only, so hiding one class leaves the others as they were.

    Parameters
    ----------
    labels : (N,) array
        Class of every row, numbers or text.
    fraction : float
        Share to test, between 0 and 1.
    seed : int

    Returns
    -------
    train, test : int64 arrays
        Row numbers, ascending; together every row once.

    Raises
    ------
    DataError
        A fraction that is not between 0 and 1.
    """
    _check_fraction(fraction)
    test = np.zeros(len(labels), bool)
    for members in _shuffled_classes(labels, seed):
        count = min(int(np.floor(len(members) * fraction + 0.5)), len(members) - 1)
        test[members[:count]] = True
    return np.flatnonzero(~test), np.flatnonzero(test)


def uniform(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows whatever their class, so that the drawn are to the others as new objects are.

    Calibration needs this: a stratified draw takes none of a class of a few. One row of every class stays.

    Parameters
    ----------
    labels, fraction, seed
        As for `stratified`; ``floor(N * fraction + 1/2)`` rows are drawn, less those given back.

    Returns
    -------
    rest, drawn : int64 arrays
        Row numbers, ascending; together every row once.
    """
    _check_fraction(fraction)
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, _hash("uniform", b"split")], np.uint64)))
    drawn = np.zeros(len(labels), bool)
    drawn[rng.permutation(len(labels))[: int(np.floor(len(labels) * fraction + 0.5))]] = True
    names, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    gone = np.bincount(inverse[~drawn], minlength=len(names)) == 0
    drawn[first[gone]] = False
    return np.flatnonzero(~drawn), np.flatnonzero(drawn)


def stratified_folds(labels: np.ndarray, k: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Deal every class over k folds like cards.

    Each class goes on where the one before ended, so that both the classes and the folds differ by at most
    one row. A class with fewer than k members is missing from the test part of some folds.

    Returns
    -------
    list of k (train, test)
        Row numbers, ascending; every row is tested once.

    Raises
    ------
    DataError
        k below 2 or above the number of rows.
    """
    if not 2 <= k <= len(labels):
        raise DataError("this number of folds is not possible", expected=f"2 to {len(labels)} (the rows)", got=k)
    dealt = np.concatenate(_shuffled_classes(labels, seed))
    fold = np.empty(len(labels), np.int64)
    fold[dealt] = np.arange(len(labels)) % k
    return [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(k)]


def by_id_hash(ids: np.ndarray, fraction: float, salt: str) -> np.ndarray:
    """Choose objects by their ids alone.

    The same object is chosen in whatever file, order or company it comes, and whether its id is stored as a
    number or as the same digits in text.

    Parameters
    ----------
    ids : (N,) int or str array
    fraction : float
        Expected share of the chosen, between 0 and 1.
    salt : str
        Splits with different salts are independent.

    Returns
    -------
    (N,) bool array
        True where BLAKE2b of the id, as a 64-bit fraction, is below `fraction`.

    Raises
    ------
    DataError
        Ids that are neither integers nor text, or a fraction that is not between 0 and 1.
    """
    _check_fraction(fraction)
    ids = np.asarray(ids)
    if ids.dtype.kind not in "iuU":
        raise DataError("ids must be integers or text", expected="int or str", got=str(ids.dtype))
    limit = int(fraction * 2.0**64)
    person = hashlib.blake2b(salt.encode(), digest_size=16).digest()
    return np.fromiter((_hash(str(value), person) < limit for value in ids.tolist()), bool, len(ids))


def _hash(text: str, person: bytes) -> int:
    """64 bits of BLAKE2b; `person` (at most 16 bytes) sets one use apart from another."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, person=person).digest(), "big")


def _shuffled_classes(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """Rows of each class, shuffled by the seed and the class's name."""
    names, inverse = np.unique(labels, return_inverse=True)
    classes = []
    for index, name in enumerate(names):
        key = np.array([seed, _hash(str(name), b"class")], np.uint64)
        rng = np.random.Generator(np.random.Philox(key=key))
        classes.append(rng.permutation(np.flatnonzero(inverse == index)))
    return classes


def _check_fraction(fraction: float) -> None:
    if not 0.0 < fraction < 1.0:
        raise DataError("a fraction must lie between 0 and 1", expected="0 < fraction < 1", got=fraction)

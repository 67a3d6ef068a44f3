"""A checksum of rows of a table, so that they are known again: elsewhere, in another format, in another order."""

from __future__ import annotations

import hashlib

import numpy as np

AT_ONCE = 2**26  # bytes of rows that are copied at once
BITS = 11  # of a value's 23 after its first, that do not count: the same to one part in 8192 is the same


class Checksum:
    """The sum, modulo 2^128, of BLAKE2b of every row: of its id as text, its label and its values."""

    def __init__(self) -> None:
        self.rows, self.total = 0, 0

    def add(self, ids: np.ndarray, labels: np.ndarray, x: np.ndarray, rows: np.ndarray) -> None:
        """Add some rows of a table.

        Parameters
        ----------
        ids, labels : (N,)
        x : (N, ...) float32
            As they were read, before any preprocessing.
        rows : (M,) int
            Which of them.
        """
        step = max(1, AT_ONCE // max(1, x[:1].nbytes))
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            self.total += sum(map(_of_row, ids[some].tolist(), labels[some].tolist(), _coarse(x[some])))
        self.rows += len(rows)

    def __str__(self) -> str:
        return f"{self.rows} rows of checksum {self.total % 2**128:032x}"


def _of_row(name: int | str, label: str, values: np.ndarray) -> int:
    found = hashlib.blake2b(f"{name}\0{label}\0".encode(errors="surrogatepass"), digest_size=16)
    found.update(values)
    return int.from_bytes(found.digest(), "little")


def _coarse(x: np.ndarray) -> np.ndarray:
    """(N, D) uint32: the bits of values without the last `BITS`, rounded; every NaN is one, and so is zero.

    Wavelengths are computed, and another processor may round their last bit, and so a resampled flux, otherwise.
    """
    flat = np.where(np.isnan(x), np.float32(np.nan), x + np.float32(0)).reshape(len(x), -1)
    return (flat.view(np.uint32) + np.uint32(1 << BITS >> 1)) >> np.uint32(BITS)

"""Random bits that belong to an object."""

from __future__ import annotations

import hashlib

import numpy as np


def id_bits(ids: np.ndarray) -> np.ndarray:
    """64 bits of every object id, ``(N, 2)`` uint32: integers as they are, strings by hash.

    They seed whatever is random in an object's score, so that the draw belongs to the object and not to its place.
    """
    ids = np.asarray(ids)
    if ids.dtype.kind in "iu":
        return np.ascontiguousarray(ids.astype("<i8")).view("<u4").reshape(-1, 2)
    digests = [hashlib.blake2b(str(value).encode(), digest_size=8).digest() for value in ids.tolist()]
    return np.frombuffer(b"".join(digests), "<u4").reshape(-1, 2)

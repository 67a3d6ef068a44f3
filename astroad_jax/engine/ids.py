"""Random bits that belong to an object."""

from __future__ import annotations

import hashlib

import jax
import numpy as np

from astroad_jax.types import Key


def id_bits(ids: np.ndarray) -> np.ndarray:
    """64 bits of every object id, ``(N, 2)`` uint32: integers as they are, strings by hash.

    They seed whatever is random in an object's score, so that the draw belongs to the object and not to its place.
    """
    ids = np.asarray(ids)
    if ids.dtype.kind in "iu":
        return np.ascontiguousarray(ids.astype("<i8")).view("<u4").reshape(-1, 2)
    digests = [hashlib.blake2b(str(value).encode(), digest_size=8).digest() for value in ids.tolist()]
    return np.frombuffer(b"".join(digests), "<u4").reshape(-1, 2)


def own_key(key: Key, bits: jax.Array) -> Key:
    """Key of the object with these bits, ``(2,)`` uint32."""
    return jax.random.fold_in(jax.random.fold_in(key, bits[0]), bits[1])

"""The scoring path: one object's function, mapped over tiles of fixed size.

A matrix product over 64 rows and one over 7 round differently, so a score computed batch-wise depends on the batch. Here
every object is scored inside a tile of the same fixed number of rows, whatever the batch; a batch is a number of tiles,
run by one compiled loop whose length is an argument. Scores are then bit-identical for any batch size, row order, file
split and padding on a given kind of device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from astroad_jax.engine import sharding
from astroad_jax.types import Key, Method, State

Scored = dict[str, np.ndarray]


def tile_rows() -> int:
    """Rows of a tile: few on CPU, where eight already fill the vector units; many on accelerators."""
    return 8 if jax.default_backend() == "cpu" else 1024


def id_bits(ids: np.ndarray) -> np.ndarray:
    """64 bits of every object id, ``(N, 2)`` uint32: integers as they are, strings by hash.

    They seed whatever is random in an object's score, so that the draw belongs to the object and not to its place.
    """
    ids = np.asarray(ids)
    if ids.dtype.kind in "iu":
        return np.ascontiguousarray(ids.astype("<i8")).view("<u4").reshape(-1, 2)
    digests = [hashlib.blake2b(str(value).encode(), digest_size=8).digest() for value in ids.tolist()]
    return np.frombuffer(b"".join(digests), "<u4").reshape(-1, 2)


def make_scorer(
    method: Method,
    *,
    seed: int = 0,
    batch_size: int = 4096,
    mesh: Mesh | None = None,
    tile: int | None = None,
) -> Callable[[State, np.ndarray, np.ndarray], Scored]:
    """Compile a method's score for batches.

    Parameters
    ----------
    batch_size : int
        Rows per compiled call, rounded up to whole tiles on every device. Speed and memory depend on it; scores do not.
    tile : int, optional
        Rows per tile; scores of two tile sizes may differ in the last bit.

    Returns
    -------
    (state, x, ids) -> dict of arrays
        `x` of shape ``(N, ...)``, any N; `ids` of shape ``(N,)``. Arrays of length N, ``score`` among them.
    """
    return _mapper(lambda key, state, x: method.score(key, state, {"x": x}), seed, batch_size, mesh, tile)


def make_embedder(
    method: Method, *, batch_size: int = 4096, mesh: Mesh | None = None, tile: int | None = None
) -> Callable[[State, np.ndarray, np.ndarray], Scored]:
    """Compile a method's embedding for batches: as `make_scorer`, returning ``{"embedding": (N, D)}``."""
    return _mapper(lambda key, state, x: {"embedding": method.embed(state, {"x": x})}, 0, batch_size, mesh, tile)


def make_reconstructor(
    method: Method,
    *,
    seed: int = 0,
    batch_size: int = 4096,
    mesh: Mesh | None = None,
    tile: int | None = None,
) -> Callable[[State, np.ndarray, np.ndarray], Scored]:
    """Compile a method's reconstruction for batches: as `make_scorer`, returning ``{"reconstruction": (N, ...)}``."""

    def one(key: Key, state: State, x: jax.Array) -> dict[str, jax.Array]:
        return {"reconstruction": method.reconstruct(key, state, {"x": x})}

    return _mapper(one, seed, batch_size, mesh, tile)


def _mapper(one: Callable, seed: int, batch_size: int, mesh: Mesh | None, tile: int | None) -> Callable:
    mesh = mesh if mesh is not None else sharding.make_mesh(jax.local_devices())
    tile = tile or tile_rows()
    per_device = -(-batch_size // (tile * mesh.size))
    run = _compiled(one, tile, per_device, mesh)
    key = jax.random.key(seed)

    def score(state: State, x: np.ndarray, ids: np.ndarray) -> Scored:
        bits = id_bits(ids)
        pending = [(run(key, state, *block), length) for block, length in _blocks(x, bits, tile, per_device, mesh.size)]
        parts = [{name: np.asarray(v)[:length] for name, v in out.items()} for out, length in pending]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return score


def _blocks(
    x: np.ndarray, bits: np.ndarray, tile: int, per_device: int, devices: int
) -> Iterator[tuple[tuple[np.ndarray, np.ndarray, np.int32], int]]:
    """Cut rows into batches of one compiled shape; the last is padded, and says how many tiles are in use."""
    rows = tile * per_device * devices
    for start in range(0, max(len(x), 1), rows):
        part, part_bits = x[start : start + rows], bits[start : start + rows]
        missing = rows - len(part)
        if missing:
            part = np.concatenate([part, np.zeros((missing, *x.shape[1:]), x.dtype)])
            part_bits = np.concatenate([part_bits, np.zeros((missing, 2), bits.dtype)])
        used = -(-(rows - missing) // tile) if devices == 1 else per_device
        yield (part, part_bits, np.int32(max(used, 1))), rows - missing


def _compiled(one: Callable, tile: int, per_device: int, mesh: Mesh) -> Callable:
    """The loop over a device's tiles, the same program on every device."""

    def one_tile(key: Key, state: State, x: jax.Array, bits: jax.Array) -> dict[str, jax.Array]:
        keys = jax.vmap(lambda b: jax.random.fold_in(jax.random.fold_in(key, b[0]), b[1]))(bits)
        return jax.vmap(partial(one), in_axes=(0, None, 0))(keys, state, x)

    def device(key: Key, state: State, x: jax.Array, bits: jax.Array, used: jax.Array) -> Any:
        x = x.reshape(per_device, tile, *x.shape[1:])
        bits = bits.reshape(per_device, tile, 2)
        shapes = jax.eval_shape(one_tile, key, state, x[0], bits[0])
        buffers = jax.tree.map(lambda s: jnp.zeros((per_device, *s.shape), s.dtype), shapes)

        def body(i: jax.Array, out: Any) -> Any:
            new = one_tile(key, state, x[i], bits[i])
            return jax.tree.map(lambda buffer, value: buffer.at[i].set(value), out, new)

        out = jax.lax.fori_loop(0, used, body, buffers)
        return jax.tree.map(lambda value: value.reshape(per_device * tile, *value.shape[2:]), out)

    if mesh.size == 1:
        return jax.jit(device)
    split = jax.shard_map(
        device,
        mesh=mesh,
        in_specs=(P(), P(), P("data"), P("data"), P()),
        out_specs=P("data"),
        check_vma=False,
    )
    return jax.jit(split)

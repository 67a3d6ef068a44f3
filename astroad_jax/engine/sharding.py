"""Where arrays live: one mesh with one axis, rows spread over it, parameters replicated or spread by rule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from astroad_jax.errors import ConfigError

Rules = Sequence[tuple[str, P]]


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices of all processes on the axis ``data``.

    The axis is of type Auto: with JAX's default, Explicit, a quantile over a sharded batch, a one-hot contraction and
    the slice of a sharded batch do not trace.
    """
    devices = list(devices if devices is not None else jax.devices())
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, P())


def along(mesh: Mesh, axis: int) -> NamedSharding:
    """Array axis `axis` spread over the mesh."""
    return NamedSharding(mesh, P(*[None] * axis, "data"))


def check_divides(mesh: Mesh, batch_size: int, where: str) -> None:
    """Raise `ConfigError` unless the devices can share a batch evenly."""
    if batch_size % mesh.size:
        raise ConfigError(
            "the batch does not divide evenly over the devices",
            where=where,
            expected=f"a multiple of {mesh.size}",
            got=batch_size,
            fix=f"use {-(-batch_size // mesh.size) * mesh.size}",
        )


def place_rows(mesh: Mesh, tree: Any, axis: int) -> Any:
    """Host arrays that every process holds whole -> global arrays with rows (axis `axis`) spread over the mesh.

    On a single device the arrays are handed over as they are: jit moves them, and one dispatch is saved.
    """
    if mesh.size == 1:
        return tree
    sharding = along(mesh, axis)
    whole = replicated(mesh)

    def put(array: np.ndarray) -> jax.Array:
        target = sharding if np.ndim(array) > axis else whole
        return jax.make_array_from_callback(np.shape(array), target, lambda index: array[index])

    return jax.tree.map(put, tree)


def place_whole(mesh: Mesh, tree: Any) -> Any:
    """Host arrays -> global arrays, whole on every device."""
    if mesh.size == 1:
        return jax.device_put(tree, mesh.devices.flat[0])
    sharding = replicated(mesh)

    def put(array: Any) -> jax.Array:
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree)


def leaf_name(path: Any) -> str:
    """Name of a tree's leaf, as in ``encoder/params/Dense_0/kernel``, from its path."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def state_shardings(mesh: Mesh, shapes: Any, rules: Rules = ()) -> Any:
    """Sharding of every leaf of a state.

    Parameters
    ----------
    shapes : tree of ShapeDtypeStruct
        From `jax.eval_shape`.
    rules : sequence of (regex, PartitionSpec)
        Searched in the leaf's name (see `leaf_name`); the first that matches wins, and a leaf that none matches is
        replicated.
    """

    def choose(path: Any, leaf: Any) -> NamedSharding:
        name = leaf_name(path)
        for pattern, spec in rules:
            if re.search(pattern, name) and len(spec) <= leaf.ndim:
                return NamedSharding(mesh, spec)
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(choose, shapes)


def to_host(state: Any) -> Any:
    """A state as NumPy arrays, whole on every process."""

    def whole(leaf: jax.Array) -> np.ndarray:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(leaf)
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(whole, state)


def place_state(mesh: Mesh, state: Any) -> Any:
    """A state whole on every device of the mesh, moved there only where it is not."""
    devices = set(mesh.devices.flat)

    def there(leaf: Any) -> bool:
        return isinstance(leaf, jax.Array) and leaf.sharding.device_set == devices and leaf.is_fully_replicated

    return state if all(map(there, jax.tree.leaves(state))) else place_whole(mesh, to_host(state))

"""A model as StableHLO: from weights, objects as they were read, and id bits, to scores and flags.

The functions are those of `raw.with_scaling`, so that the preprocessing is in them, but for what `raw.prepare` does: the
host crops images and scales spectra. They take any number of objects (a symbolic dimension) and serve every platform in
`PLATFORMS`. They give the bits of `engine` where they are called with as many rows and compiled with the same options. To
that end a search comes in the same three programs as there, and the key is an argument as there: XLA rounds otherwise where
programs are one, or where it knows the key.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export

from astroad_jax.app import raw
from astroad_jax.app.bundle import Bundle
from astroad_jax.engine import score, search, sharding
from astroad_jax.errors import ExportError
from astroad_jax.types import Key, Method, Search, State

PLATFORMS = ("cpu", "cuda", "tpu")
Arrays = list[jax.Array]
Opened = Callable[[Arrays], tuple[Key, State]]  # of all leaves, the key's data among them
Parts = dict[str, tuple[Callable, list[Any]]]  # of all leaves of the state and of rows, and the abstract rows


class Lowered(NamedTuple):
    """Serialized functions by name, and the weights that are the first argument of each."""

    functions: dict[str, bytes]
    weights: dict[str, np.ndarray]


def lower(model: Bundle) -> Lowered:
    """The scores of objects ``x (n, ...)`` float32, as `raw.prepare` gives them, with id bits ``(n, 2)`` uint32.

    ``scores``: ``(weights, x, bits) -> dict of (n,)``, or of a search

    - ``start``: ``(weights, slots, x, bits, new (n,) bool) -> slots``, those that are `new` begun;
    - ``search``: ``(weights, slots) -> slots, ended (n,) bool``, some iterations;
    - ``finish``: ``(weights, slots) -> dict of (n,)``,

    `slots` being a list of arrays ``(n, ...)``. `weights` is a list: the seed's key, and those arrays of the state, and of
    what the scaling has learnt, that the scores depend on; an optimiser's are left out.

    Raises
    ------
    ExportError
        JAX cannot export this model.
    """
    method, state = _whole(model)
    held, tree = jax.tree_util.tree_flatten_with_path(sharding.to_host(state))
    names, leaves = ["key", *(sharding.leaf_name(path) for path, _ in held)], [_key(model), *(leaf for _, leaf in held)]

    def opened(leaves: Arrays) -> tuple[Key, State]:
        return jax.random.wrap_key_data(leaves[0]), tree.unflatten(leaves[1:])

    parts = (_search if isinstance(method.score, Search) else _one_pass)(method, opened, leaves, _objects(model))
    used = sorted({place for function, rows in parts.values() for place in _touched(function, leaves, rows)})

    def narrowed(function: Callable) -> Callable:
        """The same, of the used leaves; the others are there as they are, and nothing looks at them."""

        def of_weights(weights: Arrays, *rows: Any) -> Any:
            given = dict(zip(used, weights))
            return function([given.get(place, leaf) for place, leaf in enumerate(leaves)], *rows)

        return of_weights

    weights = [leaves[place] for place in used]
    made = {name: _exported(name, narrowed(function), weights, *rows) for name, (function, rows) in parts.items()}
    return Lowered(made, dict(zip([names[place] for place in used], weights)))


def _whole(model: Bundle) -> tuple[Method, State]:
    """What scores objects here, and its state."""
    if not raw.on_device(model.scaler):
        return model.method, model.state
    return raw.with_scaling(model.method, raw.of_prepared(model.scaler)), raw.Scaled(model.state, model.scaler.params)


def _key(model: Bundle) -> np.ndarray:
    return np.asarray(jax.random.key_data(jax.random.key(model.settings.train.seed)))


def _objects(model: Bundle) -> list[jax.ShapeDtypeStruct]:
    """Any number of objects, and their id bits."""
    n = export.symbolic_shape("n")
    return [jax.ShapeDtypeStruct((*n, *_shape(model)), np.float32), jax.ShapeDtypeStruct((*n, 2), np.uint32)]


def _shape(model: Bundle) -> tuple[int, ...]:
    """Of an object as `raw.prepare` gives it."""
    return raw.prepared_shape(model.scaler, model.schema.raw_shape)


def _one_pass(method: Method, opened: Opened, leaves: list[np.ndarray], rows: list[Any]) -> Parts:
    whole = score.scores_of_rows(method)

    def scores(leaves: Arrays, x: jax.Array, bits: jax.Array) -> dict[str, jax.Array]:
        return whole(*opened(leaves), x, bits)

    return {"scores": (scores, rows)}


def _search(method: Method, opened: Opened, leaves: list[np.ndarray], rows: list[Any]) -> Parts:
    begin, fill, run, end = search.parts(method.score)
    slots, shape = jax.tree.flatten(jax.eval_shape(lambda leaves, *rows: begin(*opened(leaves), *rows), leaves, *rows))

    def start(leaves: Arrays, slots: Arrays, x: jax.Array, bits: jax.Array, new: jax.Array) -> Arrays:
        return jax.tree.leaves(fill(*opened(leaves), shape.unflatten(slots), x, bits, new))

    def on(leaves: Arrays, slots: Arrays) -> tuple[Arrays, jax.Array]:
        moved, ended = run(opened(leaves)[1], shape.unflatten(slots))
        return jax.tree.leaves(moved), ended

    def finish(leaves: Arrays, slots: Arrays) -> dict[str, jax.Array]:
        return end(opened(leaves)[1], shape.unflatten(slots))

    new = jax.ShapeDtypeStruct(rows[1].shape[:1], bool)
    return {"start": (start, [slots, *rows, new]), "search": (on, [slots]), "finish": (finish, [slots])}


def _touched(function: Callable, leaves: list[np.ndarray], rows: list[Any]) -> list[int]:
    """Which leaves a function looks at."""
    jaxpr = jax.make_jaxpr(function)(leaves, *rows).jaxpr
    seen = {id(var) for equation in jaxpr.eqns for var in equation.invars} | {id(var) for var in jaxpr.outvars}
    return [place for place, var in enumerate(jaxpr.invars[: len(leaves)]) if id(var) in seen]


def _exported(name: str, function: Callable, *arguments: Any) -> bytes:
    try:
        return bytes(export.export(jax.jit(function), platforms=PLATFORMS)(*arguments).serialize())
    except Exception as error:  # what cannot be lowered fails in as many ways as there are operations
        got = f"{type(error).__name__}: {error}"
        fix = "score with astroad score, and report this with the run's configuration"
        raise ExportError("JAX cannot export this model", where=name, got=got, fix=fix) from error


def platform() -> str:
    """The default back end, by the name that `PLATFORMS` has for it."""
    return {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())


def rows(model: Bundle) -> dict[str, int]:
    """How many objects each platform's scores are defined by: `score.reference_rows`, or the slots of a search."""
    if isinstance(model.method.score, Search):
        slots = model.settings.score.slots
        return {name: slots or search.default_slots(name) for name in PLATFORMS}
    return {name: score.reference_rows(name, math.prod(_shape(model))) for name in PLATFORMS}


def compiler_options(model: Bundle) -> dict[str, dict[str, str]]:
    """What `engine` compiles the scores with, by platform."""
    return {} if isinstance(model.method.score, Search) else {"cpu": score.CPU_OPTIONS}

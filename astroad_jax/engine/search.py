"""Searches for many objects at once, with no slot idle: an object that has converged leaves, the next takes its slot.

The device holds a fixed number of slots and runs one compiled program over all of them, a few iterations a call. Between
calls the host takes out what has ended and fills the slots. An object's draws are seeded by its id and its arithmetic is
that of one fixed program, so its result does not depend on its neighbours, on the order or number of the objects, on when
it came in, or on the number of devices.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from astroad_jax.engine import probes, sharding
from astroad_jax.engine.ids import id_bits, own_key
from astroad_jax.engine.probes import Probe
from astroad_jax.errors import DataError
from astroad_jax.types import Key, Search, State

Scored = dict[str, np.ndarray]
STEPS_PER_CALL = 10  # iterations between looks at what has ended
FEWER = (1, 8)  # slots on a device that are tried for a few objects
PROBES = 16  # random objects on which they must agree with the usual number, at least


class Programs(NamedTuple):
    """The parts of a search, each over all slots."""

    start: Callable[..., Any]  # (key, state, x, bits) -> slots
    fill: Callable[..., Any]  # (key, state, slots, x, bits, new) -> slots
    run: Callable[..., Any]  # (state, slots) -> slots, ended
    finish: Callable[..., Scored]  # (state, slots) -> outputs


class Slots(NamedTuple):
    """What the device holds."""

    x: jax.Array  # (S, ...)
    carry: Any  # (S, ...) each
    steps: jax.Array  # (S,) int32: iterations so far


def make_searcher(
    search: Search,
    *,
    seed: int = 0,
    slots: int = 0,
    steps_per_call: int = STEPS_PER_CALL,
    refill: float = 0.25,
    mesh: Mesh | None = None,
    progress: bool = False,
    rebuild: bool = False,
    probe: Probe | None = None,
) -> Callable[[State, np.ndarray, np.ndarray], Scored]:
    """Compile a search for many objects.

    Parameters
    ----------
    slots : int
        Objects on each device at once; 0: `default_slots`. Fewer objects get fewer slots, where a trial on random objects
        shows that their program gives the same bits.
    steps_per_call : int
        Iterations between looks at what has ended. An object that ends in between waits, its result unchanged.
    refill : float
        Share of the slots that must be free before new objects are let in (each time costs one start for all slots); 1
        waits for all of them, which is the plain, batch-by-batch search.
    mesh : Mesh, optional
        Devices that share the slots; all of this process's where none is given.
    progress : bool
        Show a bar with objects per second.
    rebuild : bool
        Also return ``reconstruction``, ``(N, ...)``: the nearest the model came.
    probe : (count) -> (count, ...) array, optional
        Objects for that trial; uniform ones in [-1, 1] where none is given.

    Returns
    -------
    (state, x, ids) -> dict of arrays
        `x` of shape ``(N, ...)``, `ids` of shape ``(N,)``. What `Search.finish` gives, and ``iterations``, each of length N.

    Raises
    ------
    ValueError
        `rebuild` for a search that cannot; a negative number of slots, no steps, or a share of them that is none.
    """
    if rebuild and search.rebuild is None:
        raise ValueError("this search does not rebuild its objects")
    if slots < 0 or steps_per_call < 1 or not 0 <= refill <= 1:
        raise ValueError(f"slots {slots}: at least 0; steps_per_call {steps_per_call}: at least 1; refill {refill}: 0 to 1")
    mesh = mesh if mesh is not None else sharding.make_mesh(jax.local_devices())
    count = (slots or default_slots()) * mesh.size
    programs = _compiled(search, steps_per_call, mesh, rebuild)
    key, agrees = jax.random.key(seed), {}

    def run(state: State, x: np.ndarray, ids: np.ndarray) -> Scored:
        if len(ids) != len(x):
            fix = "give every object one id"
            raise DataError("objects and ids differ in number", expected=f"{len(x)} ids", got=len(ids), fix=fix)
        state = sharding.place_state(mesh, state)
        start = partial(_Run, programs, key, state, mesh)
        size = _slots_for(start, agrees, x, count, mesh.size, probe)
        return start(size, max(1, round(refill * size)))(x, id_bits(ids), progress)

    return run


def default_slots(platform: str = "") -> int:
    """Objects at once on a device, of the default back end where none is given: enough to keep it busy with small images."""
    return 64 if (platform or jax.default_backend()) == "cpu" else 512


def _slots_for(
    start: Callable[..., _Run], agrees: dict[tuple, bool], x: np.ndarray, count: int, devices: int, probe: Probe | None
) -> int:
    """Number of slots: `count`, or one of `FEWER` on each device that holds all objects and gives the bits of `count`."""
    for fewer in FEWER:
        size = fewer * devices
        if not len(x) <= size < count:
            continue
        kind = (size, x.shape[1:], x.dtype.str)
        if kind not in agrees:
            found = _same_bits(start, probes.rows(probe, (count, *x.shape[1:]), x.dtype), size)
            if found is None:
                return count
            agrees[kind] = found
        if agrees[kind]:
            return size
    return count


def _same_bits(start: Callable[..., _Run], trial: tuple[np.ndarray, np.ndarray], size: int) -> bool | None:
    """Whether a program of `size` slots does to objects what that of as many slots as there are objects does, in one call.

    All that a search carries is compared, for its best loss may show a difference much later. None where this state's
    outputs can show no difference, being not finite or all alike.
    """
    x, bits = trial
    whole = start(len(x), 1)
    many = whole.one_call(x, bits)
    if not probes.telling(many):
        return None
    for first in range(0, min(max(PROBES, size), len(x)), size):
        rows = np.arange(first, first + size) % len(x)
        part = start(size, 1)
        part.one_call(x[rows], bits[rows])
        if any(found.tobytes() != kept[rows].tobytes() for found, kept in zip(part.leaves(), whole.leaves())):
            return False
    return True


class _Run:
    """One table's way through the slots."""

    def __init__(self, programs: Programs, key: Key, state: State, mesh: Mesh, count: int, refill: int):
        self.programs, self.key, self.state, self.mesh = programs, key, state, mesh
        self.count, self.refill = count, refill
        self.owner = np.full(count, -1)  # object in every slot, -1 where free
        self.slots: Slots | None = None
        self.found: dict[str, np.ndarray] = {}

    def __call__(self, x: np.ndarray, bits: np.ndarray, progress: bool) -> Scored:
        from tqdm import tqdm

        total, waiting = len(x), 0
        with tqdm(total=total, disable=not progress, unit="object", desc="search", dynamic_ncols=True, leave=False) as bar:
            while waiting < max(total, 1) or (self.owner >= 0).any():
                free = np.flatnonzero(self.owner < 0)
                if self.slots is None or (waiting < total and len(free) >= self.refill):
                    waiting = self._fill(x, bits, free, waiting)
                self.slots, ended = self.programs.run(self.state, self.slots)
                done = np.flatnonzero(np.asarray(ended) & (self.owner >= 0))
                if len(done) >= min(self.refill, (self.owner >= 0).sum()):  # taking out costs one finish for all slots
                    self._take(done, total)
                    bar.update(len(done))
                if not total:
                    break
        return self.found if total else {name: values[:0] for name, values in self._empty().items()}

    def one_call(self, x: np.ndarray, bits: np.ndarray) -> Scored:
        """What objects for all slots have come to after one call."""
        self._fill(x, bits, np.arange(self.count), 0)
        self.slots, _ = self.programs.run(self.state, self.slots)
        return self._empty()

    def leaves(self) -> list[np.ndarray]:
        """All that the slots hold."""
        return [np.asarray(leaf) for leaf in jax.tree.leaves(self.slots)]

    def _fill(self, x: np.ndarray, bits: np.ndarray, free: np.ndarray, waiting: int) -> int:
        """Put the next objects into free slots."""
        new = free[: len(x) - waiting]
        rows = np.arange(waiting, waiting + len(new))
        self.owner[new] = rows
        fresh_x = np.zeros((self.count, *x.shape[1:]), x.dtype)
        fresh_bits, mask = np.zeros((self.count, 2), np.uint32), np.zeros(self.count, bool)
        fresh_x[new], fresh_bits[new], mask[new] = x[rows], bits[rows], True
        place = partial(jax.device_put, device=NamedSharding(self.mesh, P("data")))
        arrays = (place(fresh_x), place(fresh_bits), place(mask))
        slots = self._blank(*arrays[:2]) if self.slots is None else self.slots
        self.slots = self.programs.fill(self.key, self.state, slots, *arrays)
        return waiting + len(new)

    def _blank(self, x: jax.Array, bits: jax.Array) -> Slots:
        """Empty slots, so that filling them the first time is the program that fills them later."""
        shapes = jax.eval_shape(self.programs.start, self.key, self.state, x, bits)
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.device_put(zeros, NamedSharding(self.mesh, P("data")))

    def _take(self, done: np.ndarray, total: int) -> None:
        """Finish the objects in these slots and free them."""
        if not len(done):
            return
        rows = self.owner[done]
        for name, values in jax.device_get(self.programs.finish(self.state, self.slots)).items():
            held = self.found.setdefault(name, np.zeros((total, *values.shape[1:]), values.dtype))
            held[rows] = values[done]
        self.owner[done] = -1

    def _empty(self) -> Scored:
        return jax.device_get(self.programs.finish(self.state, self.slots))


def _compiled(search: Search, steps_per_call: int, mesh: Mesh, rebuild: bool) -> Programs:
    """The same programs on every device, over its own slots."""
    start, fill, run, finish = parts(search, steps_per_call, rebuild)

    def spread(function: Callable, *shared: bool) -> Callable:
        """Whole arguments are `shared`, the others cut by slots."""
        specs = tuple(P() if whole else P("data") for whole in shared)
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P("data"), check_vma=False)

    return Programs(
        spread(start, True, True, False, False),
        jax.jit(spread(fill, True, True, False, False, False, False)),
        jax.jit(spread(run, True, False), donate_argnums=1),
        jax.jit(spread(finish, True, False)),
    )


def parts(search: Search, steps_per_call: int = STEPS_PER_CALL, rebuild: bool = False) -> Programs:
    """The programs as pure functions, for any number of slots; an export runs the same ones."""

    def start(key: Key, state: State, x: jax.Array, bits: jax.Array) -> Slots:
        def one(x: jax.Array, bits: jax.Array) -> Any:
            return search.init(own_key(key, bits), state, {"x": x})

        return Slots(x, jax.vmap(one)(x, bits), jnp.zeros(x.shape[0], jnp.int32))

    def fill(key: Key, state: State, slots: Slots, x: jax.Array, bits: jax.Array, new: jax.Array) -> Slots:
        return jax.tree.map(partial(_where, new), start(key, state, x, bits), slots)

    def running(slots: Slots) -> jax.Array:
        return (slots.steps < search.num_steps) & ~jax.vmap(search.done)(slots.carry)

    def run(state: State, slots: Slots) -> tuple[Slots, jax.Array]:
        def body(_: int, slots: Slots) -> Slots:
            on = running(slots)
            moved = jax.vmap(lambda x, carry: search.step(state, {"x": x}, carry))(slots.x, slots.carry)
            carry = jax.tree.map(partial(_where, on), moved, slots.carry)
            return slots._replace(carry=carry, steps=slots.steps + on)

        slots = jax.lax.fori_loop(0, steps_per_call, body, slots)
        return slots, ~running(slots)

    def finish(state: State, slots: Slots) -> dict[str, jax.Array]:
        found = jax.vmap(lambda x, carry: search.finish(state, {"x": x}, carry))(slots.x, slots.carry)
        if rebuild:
            again = jax.vmap(lambda x, carry: search.rebuild(state, {"x": x}, carry))
            found = {**found, "reconstruction": again(slots.x, slots.carry)}
        return {**found, "iterations": slots.steps}

    return Programs(start, fill, run, finish)


def _where(mask: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """Rows of `new` where the mask is set."""
    return jnp.where(mask.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

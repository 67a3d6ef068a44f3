"""The scoring path: one object's function, mapped over batches so that no object feels its neighbours.

A matrix product over 64 rows and one over 7 may add in another order, so a score computed batch-wise can depend on the
batch in its last bits. Here that cannot be: a table is cut into blocks of a few row counts (a ladder: `reference_rows`
times powers of two, and below it powers of two, to which what is left is padded), and a row count is used only after its
program has given, on random rows, bit for bit what the program of `reference_rows` gives; one that does not is passed over
for the next that does. That program's own rows are alike wherever they stand, as far as measured (`CPU_TILES`). The order in
which a program adds does not depend on the numbers, so what holds on the random rows holds for all. Scores are then
bit-identical for any batch size, row order, file split and padding on a given kind of device.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from astroad_jax.engine import probes, sharding
from astroad_jax.engine.ids import id_bits, own_key
from astroad_jax.engine.probes import Probe
from astroad_jax.engine.search import make_searcher
from astroad_jax.types import Key, Method, Search, State

Scored = dict[str, np.ndarray]
log = logging.getLogger(__name__)


# Random rows on which a row count must agree with the reference, in so many calls: of two orders of addition that differ, a
# single row in forty may show it.
PROBES = 2048
CALLS = (2, 64)
LARGEST = 2**26  # numbers in a block, where its objects are large: 256 MiB
# CPU matrix products seem to go by tiles of rows, and rows left over may be added in another order. Of 512 rows the last two
# were, and of 8 and 32 some, on a processor with AVX2 and without AVX-512; of multiples of 12 none were. The largest tile
# that fits counts.
CPU_TILES = (48, 24, 12)
CPU_ROWS = 10 * CPU_TILES[0]
AHEAD = 2  # blocks that the device works on while the host fetches an earlier one


# On CPU, matrix products whose order of summation is the same for most row counts, where this XLA has the choice.
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}


def reference_rows(platform: str = "", size: int = 1) -> int:
    """Row count whose program defines the scores: enough to keep the device busy, little enough for small tables.

    Parameters
    ----------
    platform : str
        The default back end where none is given.
    size : int
        Numbers in an object: of large images there are fewer, so that a block stays within `LARGEST` numbers.
    """
    fit = LARGEST // size
    if (platform or jax.default_backend()) != "cpu":
        return max(8, min(4096, _at_most(fit)))
    tile = next((tile for tile in CPU_TILES if fit >= tile), min(CPU_TILES))
    return max(tile, min(CPU_ROWS, fit // tile * tile))


def make_scorer(
    method: Method,
    *,
    seed: int = 0,
    batch_size: int = 4096,
    slots: int = 0,
    mesh: Mesh | None = None,
    progress: bool = False,
    probe: Probe | None = None,
) -> Callable[[State, np.ndarray, np.ndarray], Scored]:
    """Compile a method's score for batches.

    Parameters
    ----------
    seed : int
        Object with id bits b draws from ``fold_in(key(seed), b)``, where its score is random at all.
    batch_size : int
        Most rows per compiled call. Speed and memory depend on it; scores do not.
    slots : int
        Of a score that is a `Search`, instead of `batch_size`: see `search.make_searcher`.
    mesh : Mesh, optional
        Devices that share each batch; all of this process's where none is given.
    progress : bool
        Show how far a search is; scores in one pass are there before a bar would be.
    probe : (count) -> (count, ...) array, optional
        Objects on which row counts are compared; uniform ones in [-1, 1] where none is given, which tells little where an
        object's values lie elsewhere.

    Returns
    -------
    (state, x, ids) -> dict of arrays
        `x` of shape ``(N, ...)``, any N; `ids` of shape ``(N,)``. Arrays of length N, ``score`` among them.
    """
    if isinstance(method.score, Search):
        return make_searcher(method.score, seed=seed, slots=slots, mesh=mesh, progress=progress, probe=probe)
    return _mapper(lambda key, state, x: method.score(key, state, {"x": x}), seed, batch_size, mesh, probe)


def make_embedder(
    method: Method, *, batch_size: int = 4096, mesh: Mesh | None = None
) -> Callable[[State, np.ndarray, np.ndarray], Scored]:
    """Compile a method's embedding for batches: as `make_scorer`, returning ``{"embedding": (N, D)}``."""
    return _mapper(lambda key, state, x: {"embedding": method.embed(state, {"x": x})}, 0, batch_size, mesh)


def make_reconstructor(
    method: Method,
    *,
    seed: int = 0,
    batch_size: int = 4096,
    slots: int = 0,
    mesh: Mesh | None = None,
    progress: bool = False,
) -> Callable[[State, np.ndarray, np.ndarray], Scored]:
    """Compile a method's reconstruction for batches: as `make_scorer`, returning ``{"reconstruction": (N, ...)}``.

    Where the score is a search, its scores come with it.

    Raises
    ------
    ValueError
        The method has no decoder.
    """
    if isinstance(method.score, Search) and method.score.rebuild is not None:
        return make_searcher(method.score, seed=seed, slots=slots, mesh=mesh, progress=progress, rebuild=True)
    if method.reconstruct is None:
        raise ValueError(f"a method of stages {[stage.name for stage in method.stages]} does not reconstruct its objects")

    def one(key: Key, state: State, x: jax.Array) -> dict[str, jax.Array]:
        return {"reconstruction": method.reconstruct(key, state, {"x": x})}

    return _mapper(one, seed, batch_size, mesh)


def scores_of_rows(method: Method) -> Callable[[Key, State, jax.Array, jax.Array], dict[str, jax.Array]]:
    """A score in one pass as a pure function of batches, ``(key, state, x, bits) -> scores``, `bits` as of `ids.id_bits`.

    Called with `reference_rows` rows it gives what `make_scorer` gives.
    """
    return _mapped(lambda key, state, x: method.score(key, state, {"x": x}))


def _mapper(one: Callable, seed: int, batch_size: int, mesh: Mesh | None, probe: Probe | None = None) -> Callable:
    mesh = mesh if mesh is not None else sharding.make_mesh(jax.local_devices())
    ladder = _Ladder(_compiled(one, mesh), jax.random.key(seed), mesh.size, batch_size, probe)

    placed: list[tuple[State, State]] = []  # the last state given, and where it was put: looked at once, not every call

    def score(state: State, x: np.ndarray, ids: np.ndarray) -> Scored:
        if not placed or placed[0][0] is not state:
            placed[:] = [(state, sharding.place_state(mesh, state))]
        there, bits = placed[0][1], id_bits(ids)
        parts, pending = [], deque()
        for block, length in _blocks(x, bits, ladder.rows(there, x)):
            pending.append((ladder(there, *block), length))
            if len(pending) > AHEAD:
                parts.append(_fetched(*pending.popleft()))
        parts += [_fetched(*block) for block in pending]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return score


def _fetched(out: dict[str, jax.Array], length: int) -> Scored:
    return {name: np.asarray(values)[:length] for name, values in out.items()}


def _blocks(
    x: np.ndarray, bits: np.ndarray, rows: Callable[[int], int]
) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], int]]:
    """Cut a table into blocks of compiled row counts, the last one padded with zeros."""
    start = 0
    while start < max(len(x), 1):
        size = rows(len(x) - start)
        part, part_bits = x[start : start + size], bits[start : start + size]
        length = len(part)
        if length < size:
            part, part_bits = _padded(part, size), _padded(part_bits, size)
        yield (part, part_bits), length
        start += size


def _padded(array: np.ndarray, size: int) -> np.ndarray:
    whole = np.zeros((size, *array.shape[1:]), array.dtype)
    whole[: len(array)] = array
    return whole


class _Ladder:
    """The row counts a scoring function is compiled for, and which of them may be used.

    Parameters
    ----------
    run : (key, state, x, bits) -> dict
        The jitted function; compiles once per row count.
    devices : int
        Every device takes an equal part of a block, so row counts are multiples of this.
    most : int
        Rows of the largest block, unless the reference is larger.
    probe : (count) -> array, optional
        As in `make_scorer`.
    """

    def __init__(self, run: Callable, key: Key, devices: int, most: int, probe: Probe | None = None):
        self.run, self.key, self.devices, self.probe = run, key, devices, probe
        self.most = most
        self.agrees: dict[tuple, bool] = {}
        self.expected: dict[tuple, dict[str, np.ndarray]] = {}
        self.probed: dict[tuple, State] = {}  # the state that `expected` is of
        self.dull: dict[tuple, State] = {}  # the last state that gave NaN, or the same for all rows

    def __call__(self, state: State, x: np.ndarray, bits: np.ndarray) -> dict[str, jax.Array]:
        return self.run(self.key, state, x, bits)

    def reference(self, shape: tuple[int, ...]) -> int:
        """Rows of the program that defines the scores of objects of a shape."""
        return reference_rows(size=math.prod(shape)) * self.devices

    def rows(self, state: State, x: np.ndarray) -> Callable[[int], int]:
        """Row count of the block for what is left of a table."""
        kind = (x.shape[1:], x.dtype.str)
        reference = self.reference(x.shape[1:])
        most = min(self.most, LARGEST // math.prod(x.shape[1:]) * self.devices)

        def choose(left: int) -> int:
            if left >= reference:
                size = reference * max(1, _at_most(min(left, most) // reference))
            else:
                size = min(_power(-(-left // self.devices)) * self.devices, reference)
            while size != reference and not self._usable(state, kind, size):
                # Small sizes grow, up to the reference; sizes above it fall back on it.
                size = min(size * 2, reference) if size < reference else reference
            return size

        return choose

    def _usable(self, state: State, kind: tuple, size: int) -> bool:
        if (*kind, size) not in self.agrees:
            if kind not in self.expected and (self._dull(state, kind) or not self._telling(state, kind)):
                return False  # this state's outputs can show no difference; another state's may
            self.agrees[*kind, size] = self._compare(state, kind, size)
        return self.agrees[*kind, size]

    def _probe(self, kind: tuple) -> tuple[np.ndarray, np.ndarray]:
        """Random rows, and their id bits."""
        return probes.rows(self.probe, (self.reference(kind[0]), *kind[0]), np.dtype(kind[1]))

    def _dull(self, state: State, kind: tuple) -> bool:
        return kind in self.dull and self.dull[kind] is state

    def _telling(self, state: State, kind: tuple) -> bool:
        """Run the reference program on the probe; whether rows can be told apart by what it gives."""
        found = jax.device_get(self(state, *self._probe(kind)))
        if not probes.telling(found):
            self.dull[kind] = state
            return False
        self.expected[kind] = found
        self.probed[kind] = state
        return True

    def _compare(self, state: State, kind: tuple, size: int) -> bool:
        """Whether a row count gives the reference's bits on random rows."""
        x, bits = self._probe(kind)
        if self.probed[kind] is not state:
            self.expected[kind], self.probed[kind] = jax.device_get(self(state, x, bits)), state
        probes = min(PROBES, LARGEST // 4 // math.prod(kind[0]))
        calls = int(np.clip(probes // size, *CALLS))
        where = [(np.arange(size) + call * (size + 1)) % len(x) for call in range(calls)]  # other rows in every place
        return all(_same(self(state, x[rows], bits[rows]), self.expected[kind], rows) for rows in where)


def _same(found: dict[str, jax.Array], expected: dict[str, np.ndarray], rows: np.ndarray) -> bool:
    return all(np.asarray(found[name]).tobytes() == values[rows].tobytes() for name, values in expected.items())


def _power(number: int) -> int:
    """Smallest power of two that is no less."""
    return 1 << max(number - 1, 0).bit_length()


def _at_most(number: int) -> int:
    """Largest power of two that is no more; 0 below 1."""
    return (1 << number.bit_length()) // 2


def _mapped(one: Callable) -> Callable:
    """A one-object function mapped over rows, each with the key of its id's bits."""

    def many(key: Key, state: State, x: jax.Array, bits: jax.Array) -> dict[str, jax.Array]:
        keys = jax.vmap(lambda own: own_key(key, own))(bits)
        return jax.vmap(one, in_axes=(0, None, 0))(keys, state, x)

    return many


def _compiled(one: Callable, mesh: Mesh) -> Callable:
    """Map a one-object function over rows, the same program on every device."""
    many, options = _mapped(one), _compiler_options()
    if mesh.size == 1:
        return jax.jit(many, compiler_options=options)
    specs = (P(), P(), P("data"), P("data"))
    split = jax.shard_map(many, mesh=mesh, in_specs=specs, out_specs=P("data"), check_vma=False)
    return jax.jit(split, compiler_options=options)


@cache
def _compiler_options() -> dict[str, str] | None:
    """`CPU_OPTIONS` on a CPU whose XLA knows them.

    They only decide how many row counts pass the comparison, hence the speed of small batches; the comparison itself, and
    so the scores' independence, does not rest on them.
    """
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda x: x + 1, compiler_options=CPU_OPTIONS)(np.float32(0))
    except Exception as error:  # an unknown option's error is XLA's own, and has had several types
        log.debug("no %s in this XLA: %s", CPU_OPTIONS, error)
        return None
    return CPU_OPTIONS

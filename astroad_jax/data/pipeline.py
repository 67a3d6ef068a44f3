"""Any source -> tf.data -> `Feed`: batches are a function of the step, so that a run can resume anywhere.

Two kinds. `table_feed` gathers from arrays in memory in the order of `astroad_jax.sampling`, batch for batch
what the engine's resident feed draws. `stream_feed` reads files larger than memory through a shuffle buffer.
Both yield the GLOBAL batch in every process; the engine takes each process's share.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from astroad_jax import files, sampling
from astroad_jax.data.source import ROWS, Source
from astroad_jax.data.table import Roles, Table, stream_tables
from astroad_jax.data.tf import tensorflow
from astroad_jax.errors import DataError
from astroad_jax.types import Feed

T = TypeVar("T")
Arrays = dict[str, np.ndarray]
Transform = Callable[[Table], Mapping[str, np.ndarray]]


def table_feed(
    arrays: Mapping[str, np.ndarray],
    *,
    seed: int,
    batch_size: int,
    labels_for_balance: np.ndarray | None = None,
    remainder: sampling.Remainder = "pad",
) -> Feed:
    """Feed from arrays in memory, gathered by tf.data ahead of the step that needs them.

    Parameters
    ----------
    arrays : dict of (N, ...) arrays
        Numbers; every key appears in the batches, with ``mask`` beside them.
    seed, batch_size, remainder
        As in `sampling.batch_indices`.
    labels_for_balance : (N,) int array, optional
        Draw these classes equally often (`sampling.balanced_indices`), rows of -1 never; `passes` stay plain.

    Raises
    ------
    DataError
        Arrays that are empty, of different lengths or not numeric.
    """
    num_rows = _check_arrays(arrays)
    order = sampling.row_order(num_rows, seed=seed, batch_size=batch_size, remainder=remainder, labels=labels_for_balance)

    digest = hashlib.sha256()
    _add_arrays(digest, arrays)
    if labels_for_balance is not None:
        _add_arrays(digest, {"balance": np.asarray(labels_for_balance)})
    digest.update(json.dumps([seed, batch_size, remainder, labels_for_balance is not None]).encode())
    return Feed(
        batches=lambda start: _gathered(arrays, order.batch, batch_size, start),
        passes=lambda start: _gathered(arrays, order.plain, batch_size, start),
        batch_size=batch_size,
        steps_per_epoch=sampling.steps_per_epoch(num_rows, batch_size, remainder),
        steps_per_pass=sampling.steps_per_epoch(num_rows, batch_size),
        data={},
        fingerprint=digest.hexdigest(),
    )


def _check_arrays(arrays: Mapping[str, np.ndarray]) -> int:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise DataError("arrays of a feed must have one length, and not 0", got=lengths)
    wrong = {name: str(array.dtype) for name, array in arrays.items() if array.dtype.kind not in "biuf"}
    if wrong:
        raise DataError("arrays of a feed must be numeric", got=wrong, fix="turn labels into class numbers")
    return next(iter(lengths.values()))


def _gathered(
    arrays: Mapping[str, np.ndarray],
    order: Callable[[int], sampling.Batch],
    batch_size: int,
    start: int,
) -> Iterator[Arrays]:
    tf = tensorflow()
    # Captured as tensors, not written into the graph, which may not exceed 2 GB.
    tensors = {name: tf.convert_to_tensor(array) for name, array in arrays.items()}

    def gather(step: Any) -> dict[str, Any]:
        index, mask = tf.numpy_function(lambda number: order(int(number)), [step], (tf.int32, tf.float32), stateful=False)
        index, mask = tf.ensure_shape(index, (batch_size,)), tf.ensure_shape(mask, (batch_size,))
        return {**{name: tf.gather(tensor, index) for name, tensor in tensors.items()}, "mask": mask}

    steps = tf.data.Dataset.range(start, np.iinfo(np.int64).max)
    batches = steps.map(gather, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _until_exit(batches.prefetch(tf.data.AUTOTUNE))


_RUNNING: weakref.WeakSet[Iterator[Arrays]] = weakref.WeakSet()


def _until_exit(dataset: Any) -> Iterator[Arrays]:
    """Iterate, and stop for good before the interpreter shuts down.

    The threads of a pipeline call Python. One that is still at it when the interpreter goes waits for a lock that
    nobody gives back, and the process never ends; hence the one registry of this package.
    """
    running = (batch for batch in dataset.as_numpy_iterator())
    _RUNNING.add(running)
    return running


@atexit.register
def _stop_all() -> None:
    for running in list(_RUNNING):
        running.close()


class _Stream(NamedTuple):
    """What every pass over a streamed source needs."""

    source: Source
    roles: Roles
    transform: Transform
    seed: int
    batch_size: int
    shuffle_rows: int


def stream_feed(
    source: Source,
    roles: Roles,
    transform: Transform,
    *,
    seed: int,
    batch_size: int,
    shuffle_rows: int = ROWS,
) -> Feed:
    """Feed from a source that need not fit into memory.

    Rows pass through a buffer of `shuffle_rows` from which the next are drawn at random, afresh for every
    (seed, epoch). No more than the buffer and one chunk (at most as large) are in memory. The last batch of
    an epoch is padded with copies of its first row and masked. Resuming in the middle of an epoch reads it
    from its start.

    Parameters
    ----------
    transform : Table -> dict of (M, ...) arrays
        The rows to train on (by `splits.by_id_hash`, label, flags), preprocessed, and ``y`` where there is one; row by
        row, so that it does not matter how the file is cut into tables.

    Raises
    ------
    DataError
        A file that changed or is damaged, no row to train on, arrays of different lengths.
    """
    stream = _Stream(source, roles, transform, seed, batch_size, shuffle_rows)
    num_rows, first = _first_pass(stream)
    steps = sampling.steps_per_epoch(num_rows, batch_size)

    def batches(start: int) -> Iterator[Arrays]:
        return _prefetched(lambda: _endless(stream, steps, start), first, batch_size)

    return Feed(
        batches=batches,
        passes=batches,  # nothing is balanced here: every epoch is a plain pass
        batch_size=batch_size,
        steps_per_epoch=steps,
        steps_per_pass=steps,
        data={},
        fingerprint=_stream_fingerprint(stream, num_rows, first),
    )


def _first_pass(stream: _Stream) -> tuple[int, Arrays]:
    """Number of rows to train on, and the first of them: they show names, types and shapes."""
    num_rows, first = 0, None
    for arrays in _chunks(stream):
        num_rows += len(next(iter(arrays.values())))
        first = arrays if first is None else first
    if first is None:
        raise DataError("no row is left to train on", where=stream.source.path, fix="check labels, splits and flags")
    return num_rows, first


def _chunk_rows(stream: _Stream) -> int:
    return max(1, min(ROWS, stream.shuffle_rows))


def _chunks(stream: _Stream) -> Iterator[Arrays]:
    """Transformed rows of one pass, chunk by chunk, in file order."""
    for table in stream_tables(stream.source, stream.roles, _chunk_rows(stream)):
        arrays = {name: np.asarray(array) for name, array in stream.transform(table).items()}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise DataError("a transform must give arrays of one length", got=lengths, fix="select the same rows of each")
        if next(iter(lengths.values())):
            yield arrays


def _shuffled(chunks: Iterator[Arrays], rng: np.random.Generator, size: int) -> Iterator[Arrays]:
    """Sliding shuffle: each chunk joins the buffer, and what exceeds `size` leaves it in random order."""
    held: Arrays | None = None
    for chunk in chunks:
        pool = chunk if held is None else {name: np.concatenate([held[name], chunk[name]]) for name in chunk}
        total = len(next(iter(pool.values())))
        order = rng.permutation(total)
        leave, stay = order[: max(0, total - size)], order[max(0, total - size) :]
        held = {name: array[stay] for name, array in pool.items()}
        if len(leave):
            yield {name: array[leave] for name, array in pool.items()}
    if held is not None:
        yield held  # in random order already


def _cut(chunks: Iterator[Arrays], batch_size: int) -> Iterator[Arrays]:
    """Chunks of any size to batches of one size, the last one padded; every batch with its mask."""
    rest: Arrays = {}
    for chunk in chunks:
        pool = {name: np.concatenate([rest[name], array]) for name, array in chunk.items()} if rest else chunk
        total = len(next(iter(pool.values())))
        whole = total - total % batch_size
        for start in range(0, whole, batch_size):
            yield _batch({name: array[start : start + batch_size] for name, array in pool.items()}, batch_size)
        rest = {name: array[whole:] for name, array in pool.items()}
    if rest and len(next(iter(rest.values()))):
        yield _batch(rest, batch_size)


def _batch(rows: Arrays, batch_size: int) -> Arrays:
    count = len(next(iter(rows.values())))
    index = np.where(np.arange(batch_size) < count, np.arange(batch_size), 0)
    mask = (np.arange(batch_size) < count).astype(np.float32)
    return {**{name: array[index] for name, array in rows.items()}, "mask": mask}


def _endless(stream: _Stream, steps: int, start: int) -> Iterator[Arrays]:
    """Batches from global step `start` on, epoch after epoch."""
    epoch, skip = divmod(start, steps)
    while True:
        rng = np.random.Generator(np.random.Philox(key=[stream.seed, epoch]))
        count = 0
        for batch in _cut(_shuffled(_chunks(stream), rng, stream.shuffle_rows), stream.batch_size):
            if count >= skip:
                yield batch
            count += 1
        if count != steps:
            raise DataError(
                "this table has changed since training began",
                where=stream.source.path,
                expected=f"{steps} batches an epoch",
                got=count,
            )
        epoch, skip = epoch + 1, 0


def _prefetched(make: Callable[[], Iterator[Arrays]], first: Arrays, batch_size: int) -> Iterator[Arrays]:
    """Run an iterator of batches ahead of its consumer, in tf.data's own thread."""
    tf = tensorflow()
    signature = {name: tf.TensorSpec((batch_size, *a.shape[1:]), a.dtype) for name, a in first.items()}
    signature["mask"] = tf.TensorSpec((batch_size,), tf.float32)
    problems: list[Exception] = []

    def guarded() -> Iterator[Arrays]:
        try:
            yield from make()
        except Exception as error:  # tensorflow would turn it into one of its own: raised below as it is
            problems.append(error)

    dataset = tf.data.Dataset.from_generator(guarded, output_signature=signature)
    yield from _until_exit(dataset.prefetch(tf.data.AUTOTUNE))
    raise problems[0]  # an endless stream ends only in trouble


def _stream_fingerprint(stream: _Stream, num_rows: int, first: Arrays) -> str:
    """Identify file, options, and (by its effect on the first rows) the transform."""
    digest = hashlib.sha256(_identity(stream.source, _chunk_rows(stream)).encode())
    _add_arrays(digest, first)
    options = [
        stream.roles,
        num_rows,
        stream.seed,
        stream.batch_size,
        stream.shuffle_rows,
    ]
    digest.update(json.dumps(options).encode())
    return digest.hexdigest()


def _identity(source: Source, rows: int) -> str:
    """Digest of a source's bytes: of its file, of the files in its directory, or of its columns."""
    path = Path(source.path)
    if source.format != "memory" and path.is_file():
        return files.sha256(path)
    digest = hashlib.sha256()
    if source.format != "memory" and path.is_dir():
        digest.update(json.dumps(files.manifest(path)).encode())
        return digest.hexdigest()
    for chunk in source.chunks(rows=rows):
        _add_arrays(digest, chunk)
    return digest.hexdigest()


def _add_arrays(digest: Any, arrays: Mapping[str, np.ndarray]) -> None:
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(array.data.cast("B") if array.size and array.dtype.kind != "U" else array.tobytes())


def prefetch_to_device(iterator: Iterable[T], place: Callable[[T], Any], size: int = 2) -> Iterator[Any]:
    """Keep `size` batches on their way to the device while the one before is computed on.

    Parameters
    ----------
    iterator : iterable
        Host batches.
    place : callable
        Starts the transfer of one batch and returns at once, as ``jax.device_put`` does.
    size : int
        Batches in flight, at least 1; order is kept.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    waiting: deque[Any] = deque()
    for item in iterator:
        waiting.append(place(item))
        if len(waiting) > size:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()

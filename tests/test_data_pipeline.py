"""Pipelines: the same batches for the same step, always; whole passes; constant memory."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice

import numpy as np
import pytest

from astroad_jax import sampling
from astroad_jax.config import Data
from astroad_jax.data import find_roles, memory, open_source, read_table
from astroad_jax.data.pipeline import prefetch_to_device, stream_feed, table_feed
from astroad_jax.data.splits import by_id_hash
from astroad_jax.errors import DataError
from tests.data_files import sky, write

X = np.arange(46.0, dtype=np.float32).reshape(23, 2)
Y = (np.arange(23) % 4 == 0).astype(np.int32)
ARRAYS = {"x": X, "y": Y}


def take(feed, start, count):
    return list(islice(feed.batches(start), count))


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


class TestTableFeed:
    @pytest.mark.parametrize("remainder", ["pad", "drop"])
    @pytest.mark.parametrize("balance", [False, True])
    @pytest.mark.parametrize("start", [0, 5])
    def test_batches_are_those_of_sampling(self, remainder, balance, start):
        labels = Y if balance else None
        feed = table_feed(ARRAYS, seed=3, batch_size=5, labels_for_balance=labels, remainder=remainder)
        for step, batch in zip(range(start, start + 12), feed.batches(start)):
            if balance:
                index, mask = sampling.balanced_indices(3, step, sampling.by_class(Y), 5)
            else:
                index, mask = sampling.batch_indices(3, step, 23, 5, remainder)
            assert_same([batch], [{"x": X[index], "y": Y[index], "mask": mask}])
            assert (batch["x"].dtype, batch["y"].dtype) == (np.float32, np.int32)

    def test_an_epoch_sees_every_row_once(self):
        feed = table_feed(ARRAYS, seed=0, batch_size=5)
        assert feed.steps_per_epoch == 5
        batches = take(feed, 0, 5)
        seen = np.concatenate([batch["x"][batch["mask"] > 0, 0] for batch in batches])
        assert np.array_equal(np.sort(seen), X[:, 0])
        assert batches[-1]["mask"].tolist() == [1, 1, 1, 0, 0]

    @pytest.mark.parametrize("start", [0, 3, 5, 11])
    def test_resumes_anywhere(self, start):
        feed = table_feed(ARRAYS, seed=0, batch_size=5)
        assert_same(take(feed, start, 6), take(feed, 0, start + 6)[start:])

    @pytest.mark.parametrize("balance", [False, True])
    def test_passes_are_plain(self, balance):
        labels = Y if balance else None
        feed = table_feed(ARRAYS, seed=3, batch_size=5, labels_for_balance=labels, remainder="drop")
        assert (feed.steps_per_epoch, feed.steps_per_pass) == (4, 5)
        seen = [batch["x"][batch["mask"] > 0, 0] for batch in islice(feed.passes(5), 5)]
        assert np.array_equal(np.sort(np.concatenate(seen)), X[:, 0])

    def test_unknown_labels_take_no_part(self):
        labels = np.where(np.arange(23) % 3 == 0, -1, Y)
        feed = table_feed(ARRAYS, seed=0, batch_size=8, labels_for_balance=labels)
        assert all(np.all(batch["x"][:, 0] / 2 % 3 != 0) for batch in take(feed, 0, 10))

    def test_balance_is_exact(self):
        feed = table_feed(ARRAYS, seed=0, batch_size=8, labels_for_balance=Y)
        assert all(batch["y"].sum() == 4 for batch in take(feed, 0, 10))

    def test_fingerprint_tells_everything_apart(self):
        def fingerprint(arrays=ARRAYS, **options):
            return table_feed(arrays, **{"seed": 0, "batch_size": 5} | options).fingerprint

        others = [
            fingerprint(seed=1),
            fingerprint(batch_size=6),
            fingerprint(remainder="drop"),
            fingerprint(labels_for_balance=Y),
            fingerprint(labels_for_balance=1 - Y),
            fingerprint({"x": X + 1, "y": Y}),
            fingerprint({"x": X.astype(np.float64), "y": Y}),
            fingerprint({"x": X.reshape(23, 1, 2), "y": Y}),
            fingerprint({"x": X}),
        ]
        assert len({fingerprint(), *others}) == 10
        assert fingerprint() == fingerprint({"y": Y.copy(), "x": X.copy()})

    @pytest.mark.parametrize(
        "arrays",
        [{}, {"x": X[:0]}, {"x": X, "y": Y[:5]}, {"x": X, "name": np.array(["a"] * 23)}],
    )
    def test_arrays_that_cannot_be_fed(self, arrays):
        with pytest.raises(DataError, match="arrays of a feed"):
            table_feed(arrays, seed=0, batch_size=5)

    @pytest.mark.parametrize(("labels", "said"), [(Y[:4], "do not fit"), (np.full(23, -1), "no row has a class")])
    def test_labels_that_do_not_fit(self, labels, said):
        with pytest.raises(DataError, match=said):
            table_feed(ARRAYS, seed=0, batch_size=5, labels_for_balance=labels)


def transform(table):
    return {"x": table.x * 2, "y": np.arange(len(table.x), dtype=np.int32)}


def rows(batches):
    return np.concatenate([batch["x"][batch["mask"] > 0] for batch in batches])


def ordered(x):
    return x[np.argsort(x[:, 0])]


class Counted:
    """A source that remembers the largest chunk it was asked for."""

    def __init__(self, num_rows):
        self.largest = 0
        self.source = memory("counted", {"f": np.arange(num_rows, dtype=np.float32)})
        self.inner = self.source.chunks
        self.source = self.source._replace(chunks=self.chunks)

    def chunks(self, rows=1 << 16, columns=None):
        for chunk in self.inner(rows=rows, columns=columns):
            self.largest = max(self.largest, len(chunk["f"]))
            yield chunk


class TestStreamFeed:
    def feed(self, source, **options):
        return stream_feed(source, find_roles(source, Data()), transform, **{"seed": 0, "batch_size": 16} | options)

    @pytest.mark.parametrize("kind", ["parquet", "csv", "fits", "hdf5", "npz"])
    @pytest.mark.parametrize("shuffle_rows", [1, 10, 1000])
    def test_an_epoch_is_the_whole_file(self, tmp_path, kind, shuffle_rows):
        source = open_source(write(tmp_path, kind, sky(70)))
        roles = find_roles(source, Data(features=("amplitude", "num_obs")))
        feed = stream_feed(source, roles, transform, seed=0, batch_size=16, shuffle_rows=shuffle_rows)
        assert feed.steps_per_epoch == 5
        batches = take(feed, 0, 10)
        expected = ordered(read_table(source, roles).x * 2)
        assert np.array_equal(ordered(rows(batches[:5])), expected)
        assert np.array_equal(ordered(rows(batches[5:])), expected)
        assert all(batch["x"].shape == (16, 2) for batch in batches)
        assert batches[4]["mask"].tolist() == [1.0] * 6 + [0.0] * 10

    def test_reshuffled_every_epoch_and_seed(self):
        source = memory("m", {"f": np.arange(64.0)})
        batches = take(self.feed(source), 0, 8)
        other = take(self.feed(source, seed=1), 0, 4)
        first, second, third = rows(batches[:4]), rows(batches[4:]), rows(other)
        assert not np.array_equal(first, second)
        assert not np.array_equal(first, third)
        assert not np.array_equal(first, ordered(first))

    @pytest.mark.parametrize("start", [0, 2, 4, 5, 9, 10])
    def test_resumes_anywhere(self, start):
        feed = self.feed(memory("m", {"f": np.arange(70.0)}), shuffle_rows=20)
        assert_same(take(feed, start, 6), take(feed, 0, start + 6)[start:])

    def test_rows_that_the_transform_leaves_out(self):
        source = memory("m", {"id": np.arange(500), "f": np.arange(500.0)})
        chosen = by_id_hash(np.arange(500), 0.3, "train")

        def transform(table):
            return {"x": table.x[by_id_hash(table.ids, 0.3, "train")] * 2}

        feed = stream_feed(source, find_roles(source, Data()), transform, seed=0, batch_size=16, shuffle_rows=50)
        assert feed.steps_per_epoch == -(-chosen.sum() // 16)
        got = rows(take(feed, 0, feed.steps_per_epoch))
        assert np.array_equal(ordered(got)[:, 0], 2 * np.flatnonzero(chosen))

    def test_memory_does_not_grow_with_the_file(self):
        counted = Counted(5000)
        feed = self.feed(counted.source, shuffle_rows=100)
        take(feed, 0, feed.steps_per_epoch)
        assert counted.largest <= 100
        buffered = Counted(5000)
        held = []

        def spying(table):
            held.append(len(table.x))
            return {"x": table.x}

        feed = stream_feed(
            buffered.source,
            find_roles(buffered.source, Data()),
            spying,
            seed=0,
            batch_size=16,
            shuffle_rows=100,
        )
        held.clear()  # of the pass that counts the rows
        next(feed.batches(0))
        assert sum(held) < 2500  # the first batch needs the buffer and what prefetching runs ahead, not the file

    def test_rows_move_about_within_the_buffer(self):
        feed = self.feed(memory("m", {"f": np.arange(1000.0)}), shuffle_rows=100)
        got = rows(take(feed, 0, feed.steps_per_epoch))[:, 0] / 2
        assert np.all(got - np.arange(1000) < 200)  # nothing can come before it is read
        assert np.abs(got - np.arange(1000)).mean() > 20

    def test_fingerprint_tells_everything_apart(self, tmp_path):
        source = open_source(write(tmp_path, "parquet", sky()))
        roles = find_roles(source, Data())

        def fingerprint(source=source, roles=roles, transform=transform, **options):
            options = {"seed": 0, "batch_size": 16, "shuffle_rows": 100} | options
            return stream_feed(source, roles, transform, **options).fingerprint

        other = open_source(write(tmp_path, "parquet", sky(seed=1), name="other"))
        others = [
            fingerprint(source=other),
            fingerprint(roles=roles._replace(features=("period",))),
            fingerprint(transform=lambda table: {"x": table.x}),
            fingerprint(seed=1),
            fingerprint(batch_size=8),
            fingerprint(shuffle_rows=99),
            fingerprint(source=memory("m", sky())),
        ]
        assert len({fingerprint(), *others}) == 8
        assert fingerprint() == fingerprint()

    @pytest.mark.parametrize(
        ("transform", "said"),
        [(lambda t: {"x": t.x[:0]}, "no row is left"), (lambda t: {"x": t.x, "y": np.zeros(2)}, "one length")],
    )
    def test_transforms_that_cannot_be(self, transform, said):
        source = memory("m", {"f": np.zeros(5)})
        with pytest.raises(DataError, match=said):
            stream_feed(source, find_roles(source, Data()), transform, seed=0, batch_size=2)

    def test_trouble_in_the_stream_surfaces_as_itself(self):
        source = memory("m", {"f": np.arange(50.0)})
        damage = []

        def chunks(rows, columns=None):
            yield from source.chunks(rows=rows, columns=columns)
            if damage:
                raise damage[0]

        feed = self.feed(source._replace(chunks=chunks))
        damage.append(DataError("page 7 is damaged"))
        with pytest.raises(DataError, match="page 7"):
            take(feed, 0, 100)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["table", "stream"])
def test_a_process_ends_while_a_feed_runs(kind):
    """Threads of a pipeline that call Python must not outlive the interpreter."""
    code = f"""
import numpy as np
from astroad_jax.data import Roles, memory
from astroad_jax.data.pipeline import stream_feed, table_feed
x = np.zeros((100_000, 4), np.float32)
roles = Roles("", "", "", "", ("x",))
feeds = {{
    "table": lambda: table_feed({{"x": x}}, seed=0, batch_size=64),
    "stream": lambda: stream_feed(memory("m", {{"x": x}}), roles, lambda t: {{"x": t.x}}, seed=0, batch_size=64),
}}
running = feeds[{kind!r}]().batches(0)
print(next(running)["x"].shape)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert out.stdout.strip() == "(64, 4)"


class TestPrefetchToDevice:
    @pytest.mark.parametrize("size", [1, 2, 5, 50])
    def test_order_is_kept(self, size):
        assert list(prefetch_to_device(range(10), lambda x: x * x, size)) == [x * x for x in range(10)]

    def test_runs_ahead_by_size(self):
        placed = []
        stream = prefetch_to_device(range(10), lambda x: placed.append(x) or x, 3)
        next(stream)
        assert placed == [0, 1, 2, 3]
        next(stream)
        assert placed == [0, 1, 2, 3, 4]

    def test_size_is_checked(self):
        with pytest.raises(ValueError, match="at least 1"):
            next(prefetch_to_device([1], lambda x: x, 0))

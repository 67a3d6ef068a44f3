"""The label file: ids in their own type, nothing lost to kills or to a second writer, damage noticed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from astroad_jax.app import label_file, labels
from astroad_jax.errors import BusyError, CorruptError, DataError, MismatchError, StorageError
from tests import runs

BIG = 2**53 + 1
IDS = {
    "int64 beyond 2^53": np.array([BIG, BIG + 1, -3, 2**63 - 1]),
    "uint64 beyond 2^63": np.array([2**64 - 1, 2**63, 7, BIG], np.uint64),
    "int32": np.array([1, 2, 3, 4], np.int32),
    "text with leading zeros": np.array(["007", "7", "0", "J0123+45"]),
    "text of all sorts": np.array(["a/7.png", "é 'x' \"y\"", "=", "1e3"]),
}


def pairs(path: Path) -> dict:
    held = labels.latest(path)
    return dict(zip(held.ids.tolist(), held.label.tolist(), strict=True))


@pytest.mark.parametrize("kind", IDS)
def test_ids_keep_their_type(tmp_path, kind):
    ids, path = IDS[kind], tmp_path / "labels.sqlite"
    labels.append(path, ids, np.array([0, 5, 3, 1]))
    held = labels.latest(path)
    assert held.ids.dtype.kind == ("U" if ids.dtype.kind == "U" else "u" if ids.max() > 2**63 else "i")
    assert held.ids.tolist() == ids.tolist()
    assert held.label.tolist() == [0, 5, 3, 1]
    more = np.concatenate([ids[:2], ids[2:] if ids.dtype.kind == "U" else np.array([11, 12], ids.dtype)])
    if ids.dtype.kind == "U":
        more[2:] = ["007 ", "07"]
    found, absent = labels.matched(held, more[::-1])
    assert found.tolist() == [-1, -1, 5, 0]
    assert absent == 2


def test_history_is_kept_and_the_latest_counts(tmp_path):
    path = tmp_path / "labels.sqlite"
    labels.append(path, np.array([1, 2]), np.array([5, 0]), who="ada", at="2024-01-01T00:00:00+00:00")
    labels.append(path, np.array([1]), np.array([2]), who="bob", comment="no, a ghost 'image'")
    labels.append(path, np.array([2, 3]), np.array([-1, 4]), comment=["taken back", "é"])
    labels.append(path, np.array([], np.int64), np.array([], np.int64))
    assert pairs(path) == {1: 2, 3: 4}
    held = labels.history(path)
    assert held["number"].tolist() == [1, 2, 3, 4, 5]
    assert held["object_id"].tolist() == [1, 2, 1, 2, 3]
    assert held["label"].tolist() == [5, 0, 2, -1, 4]
    assert held["who"].tolist() == ["ada", "ada", "bob", "", ""]
    assert held["comment"].tolist() == ["", "", "no, a ghost 'image'", "taken back", "é"]
    assert held["at"][0] == "2024-01-01T00:00:00+00:00"
    assert (held["at"][1:] > "2024").all()
    import pyarrow as pa

    assert pa.table(held).num_rows == 5  # columns of any table


@pytest.mark.parametrize(
    "words",
    [
        {"who": np.str_("ada")},
        {"at": np.str_("2024-01-01T00:00:00+00:00")},
        {"comment": np.str_("double")},
        {"comment": np.array(["one", "two"])},
    ],
)
def test_strings_of_numpy_are_strings(tmp_path, words):
    """The digest of what is written is that of what is read."""
    path = tmp_path / "labels.sqlite"
    labels.append(path, np.array(["a", "b"]), np.array([5, 0]), **words)
    labels.append(path, np.array(["c"]), np.array([1]))
    held = labels.history(path)
    for name, expected in words.items():
        np.testing.assert_array_equal(held[name][:2], np.broadcast_to(expected, 2))


@pytest.mark.parametrize("ids", [np.array([], str), np.array([], int), np.array([]), []])
def test_an_empty_call_makes_no_file(tmp_path, ids):
    labels.append(tmp_path / "labels.sqlite", ids, np.array([], int))
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="no such label file"):
        labels.latest(tmp_path / "labels.sqlite")


@pytest.mark.parametrize(
    ("ids", "label", "words"),
    [
        ([1], [6], "outside their range"),
        ([1], [-2], "outside their range"),
        ([1, 2], [3, 7], "outside their range"),
        ([1], [2.5], "outside their range"),
        ([1.0], [2], "integers or text"),
        ([1, 2], [2], "one label an object"),
        (1, 2, "one label an object"),
        ([], [2], "one label an object"),
        (["\udcff.png"], [2], "UTF-8"),
    ],
)
def test_what_is_no_label_is_refused_whole(tmp_path, ids, label, words):
    path = tmp_path / "labels.sqlite"
    with pytest.raises(DataError, match=words):
        labels.append(path, np.array(ids), np.array(label))
    assert not path.exists()


@pytest.mark.parametrize("comment", [["one"], ["one", "two", "three"], []])
def test_comments_of_another_number_are_refused(tmp_path, comment):
    path = tmp_path / "labels.sqlite"
    with pytest.raises(DataError, match="comments do not fit"):
        labels.append(path, np.array([1, 2]), np.array([1, 2]), comment=comment)
    assert not path.exists()


NEGATIVE, GREAT = np.array([-1]), np.array([2**63], np.uint64)


@pytest.mark.parametrize(("first", "second"), [(NEGATIVE, GREAT), (GREAT, NEGATIVE)])
def test_integers_that_no_array_holds_together_are_refused(tmp_path, first, second):
    path = tmp_path / "labels.sqlite"
    labels.append(path, first, np.array([1]))
    labels.append(path, np.array([7]), np.array([2]))
    with pytest.raises(MismatchError, match="another type"):
        labels.append(path, second, np.array([3]))
    assert pairs(path) == {int(first[0]): 1, 7: 2}


@pytest.mark.parametrize(("first", "second"), [("/a.csv", "/b.csv"), ("/a.csv", ""), ("", "/b.csv")])
def test_row_numbers_are_those_of_one_table(tmp_path, first, second):
    path, ids = tmp_path / "labels.sqlite", np.arange(3)
    labels.append(path, ids[:1], np.array([5]), table=first)
    labels.append(path, ids[1:2], np.array([4]), table=first)
    held = labels.latest(path)
    assert held.table == first
    assert labels.matched(held, ids, table=first)[0].tolist() == [5, 4, -1]
    for call in (
        lambda: labels.append(path, ids[2:], np.array([3]), table=second),
        lambda: labels.matched(held, ids, str(path), second),
    ):
        with pytest.raises(MismatchError, match="one table only") as raised:
            call()
        for words in (str(path), first or "integer", second or "integer", "--labels", "data.id"):
            assert words in str(raised.value)
    assert pairs(path) == {0: 5, 1: 4}


@pytest.mark.parametrize(("first", "second"), [([1], ["1"]), (["1"], [1])])
def test_ids_of_another_type_are_refused(tmp_path, first, second):
    path = tmp_path / "labels.sqlite"
    labels.append(path, np.array(first), np.array([1]))
    with pytest.raises(MismatchError, match="another type"):
        labels.append(path, np.array(second), np.array([2]))
    assert pairs(path) == {first[0]: 1}
    with pytest.raises(MismatchError, match="another type"):
        labels.matched(labels.latest(path), np.array(second))


def test_matching_never_meets_as_floats():
    held = labels.Labels(np.array([2**63 + 1, BIG], np.uint64), np.array([5, 4]))
    found, absent = labels.matched(held, np.array([BIG - 1, BIG, BIG + 1]))
    assert (found.tolist(), absent) == ([-1, 4, -1], 1)
    found, absent = labels.matched(held, np.array([2**63, 2**63 + 1], np.uint64))
    assert (found.tolist(), absent) == ([-1, 5], 1)
    assert labels.matched(held, np.array([], np.int64))[1] == 2
    assert labels.matched(labels.Labels(np.array([], int), np.array([], int)), np.array(["a"]))[0].tolist() == [-1]


# Killed, crowded, damaged

WRITER = """
import sys
import numpy as np
from pathlib import Path
from astroad_jax.app import labels
for i in range(10**6):
    labels.append(Path(sys.argv[1]), np.array([i]), np.array([i % 6]))
    print(i, flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    path = tmp_path / "labels.sqlite"
    command = [sys.executable, "-c", WRITER, str(path)]
    most = 0
    for _ in range(3):
        process = subprocess.Popen(
            command, cwd=runs.ROOT, env=runs.environment(tmp_path), stdout=subprocess.PIPE, text=True, stderr=subprocess.PIPE
        )
        done = [int(process.stdout.readline()) for _ in range(5)][-1]
        process.send_signal(signal.SIGKILL)
        done = max([done, *map(int, process.communicate()[0].split())])
        held = pairs(path)
        assert set(range(done + 1)) <= set(held)
        most = max(most, done)
        assert len(held) <= most + 2  # the one on its way may be there or not
        assert all(label == key % 6 for key, label in held.items())
    labels.append(path, np.array([0]), np.array([5]))
    assert pairs(path)[0] == 5


def _write(path: str, first: int) -> None:
    for key in range(first, first + 12):
        labels.append(Path(path), np.array([key]), np.array([first % 6]))


def test_writers_at_once_lose_nothing(tmp_path):
    path = tmp_path / "labels.sqlite"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(str(path), first)) for first in (0, 101, 202)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    held = labels.history(path)
    assert held["number"].tolist() == list(range(1, 37))
    assert pairs(path) == {key: first % 6 for first in (0, 101, 202) for key in range(first, first + 12)}
    assert [each.name for each in tmp_path.iterdir()] == ["labels.sqlite"]


def test_a_file_that_stays_locked_is_busy(tmp_path, monkeypatch):
    path = tmp_path / "labels.sqlite"
    labels.append(path, np.array([1]), np.array([1]))
    monkeypatch.setattr(label_file, "PATIENCE", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BusyError, match="another process"):
        labels.append(path, np.array([2]), np.array([1]))
    assert pairs(path) == {1: 1}  # to read it is free
    other.close()
    labels.append(path, np.array([2]), np.array([1]))


def test_a_failure_halfway_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "labels.sqlite"
    labels.append(path, np.array([1]), np.array([1]))
    monkeypatch.setattr(labels, "_encoded", lambda key: key if key == 2 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        labels.append(path, np.array([2, 3]), np.array([1, 1]))
    monkeypatch.undo()
    assert pairs(path) == {1: 1}


def test_a_full_disk_is_no_damage(tmp_path, monkeypatch):
    path, verified = tmp_path / "labels.sqlite", label_file.verified
    labels.append(path, np.array([1]), np.array([1]))

    def confined(store, path):
        store.execute("PRAGMA max_page_count = 1").fetchall()  # no more pages than it has
        return verified(store, path)

    with monkeypatch.context() as patch:
        patch.setattr(label_file, "verified", confined)
        with pytest.raises(StorageError, match="full"):
            labels.append(path, np.array([2]), np.array([1]), comment="x" * 10**6)
    assert pairs(path) == {1: 1}
    labels.append(path, np.array([2]), np.array([1]))
    assert pairs(path) == {1: 1, 2: 1}


@pytest.mark.parametrize("first", [False, True])
def test_a_file_system_without_links(tmp_path, monkeypatch, first):
    """Another process may have made the file, and a label in it, in the meantime: its label stays."""
    path, link = tmp_path / "labels.sqlite", os.link

    def refused(source, target):
        if first:
            link(source, target)
            labels.append(path, np.array([1]), np.array([5]))
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refused)
    labels.append(path, np.array([2]), np.array([4]))
    labels.append(path, np.array([3]), np.array([0]))
    assert pairs(path) == {**({1: 5} if first else {}), 2: 4, 3: 0}
    assert os.listdir(tmp_path) == ["labels.sqlite"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("labels") / "labels.sqlite"
    rng = np.random.default_rng(0)
    labels.append(path, np.arange(BIG, BIG + 300), rng.integers(0, 6, 300), who="ada", comment="broad lines")
    return path.read_bytes()


def test_a_changed_byte_is_noticed_or_changes_nothing(tmp_path, whole):
    path, good = tmp_path / "labels.sqlite", tmp_path / "good.sqlite"
    good.write_bytes(whole)
    expected, rng, noticed = labels.history(good), np.random.default_rng(1), 0
    for place in rng.choice(len(whole), 120, replace=False):
        data = bytearray(whole)
        data[place] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(data))
        try:
            found = labels.history(path)
        except CorruptError:
            noticed += 1
            continue
        except (DataError, MismatchError):  # its header says that it is another kind of file
            noticed += place < 100
            continue
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
    assert noticed > 80


DAMAGE = {
    "no byte": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "all but a page": lambda data: data[:-4096],
    "another file": lambda data: b"id,label\n1,2\n" * 500,
    "zeros": lambda data: data[:4096] + bytes(len(data) - 4096),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_is_said_and_nothing_is_written(tmp_path, whole, how):
    path = tmp_path / "labels.sqlite"
    path.write_bytes(DAMAGE[how](whole))
    before = path.read_bytes()
    for call in (labels.latest, lambda path: labels.append(path, np.array([1]), np.array([1]))):
        with pytest.raises(CorruptError, match="label file is damaged") as raised:
            call(path)
        assert str(path) in str(raised.value)
    assert path.read_bytes() == before


def test_a_row_changed_by_another_hand_is_noticed(tmp_path, whole):
    path = tmp_path / "labels.sqlite"
    for change in ("UPDATE labels SET label = 5 - label WHERE number = 40", "DELETE FROM labels WHERE number = 7"):
        path.write_bytes(whole)
        with sqlite3.connect(path) as store:
            store.execute(change)
        store.close()
        with pytest.raises(CorruptError):
            labels.latest(path)


def test_files_of_others_are_left_alone(tmp_path, whole):
    path = tmp_path / "other.sqlite"
    store = sqlite3.connect(path)
    store.execute("CREATE TABLE labels (a)")
    store.commit()
    store.close()
    with pytest.raises(DataError, match="no label file"):
        labels.append(path, np.array([1]), np.array([1]))
    later = tmp_path / "later.sqlite"
    later.write_bytes(whole)
    store = sqlite3.connect(later)
    store.execute("PRAGMA user_version = 2")
    store.close()
    with pytest.raises(MismatchError, match="another version"):
        labels.latest(later)


@pytest.mark.parametrize("place", ["absent/labels.sqlite", "folder"])
def test_places_that_take_no_labels(tmp_path, place):
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError):
        labels.append(tmp_path / place, np.array([1]), np.array([1]))
    assert os.listdir(tmp_path) == ["folder"]

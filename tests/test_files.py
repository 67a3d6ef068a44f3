"""Files that are whole or absent, checksums, and the lock."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from astroad_jax import files
from astroad_jax.errors import BusyError, CorruptError, DataError

HOLD = """
import sys, time
from astroad_jax import files
with files.lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_write_replaces_only_on_success(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "first")
    with pytest.raises(TypeError), files.atomic(path) as tmp:
        tmp.write_bytes(["half"])
    assert path.read_text() == "first"
    assert names(tmp_path) == ["a.txt"]
    files.write_text(path, "second")
    assert path.read_text() == "second"
    assert names(tmp_path) == ["a.txt"]


def test_atomic_write_of_nothing_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError), files.atomic(tmp_path / "a"):
        pass
    assert names(tmp_path) == []


def test_json_round_trip_and_damage(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"b": [1, 2.5, None], "a": "é"})
    assert files.read_json(path) == {"b": [1, 2.5, None], "a": "é"}
    for damage in (b"{", b"\xff\xfe", b""):
        path.write_bytes(damage)
        with pytest.raises(CorruptError, match=r"a\.json"):
            files.read_json(path)


def test_sealed_json_notices_every_changed_value(tmp_path):
    path = tmp_path / "a.json"
    value = {"step": 120, "names": ["x", "y"], "digest": "0af3"}
    files.write_sealed(path, value)
    whole = path.read_bytes()
    for position in range(len(whole)):
        for bit in (1, 4):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :])
            try:
                assert files.read_sealed(path) == value, position  # white space
            except CorruptError as error:
                assert "a.json" in str(error)  # noqa: PT017
    for other in ({"step": 120}, [1], "seal"):
        files.write_json(path, other)
        with pytest.raises(CorruptError, match="checksum"):
            files.read_sealed(path)


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (None, []),
        (b"", []),
        (b'{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        (b'{"a": 1}\n{"a": 2', [{"a": 1}]),
        (b'{"a": 1}\n{"a": 2}', [{"a": 1}]),
        (b'{"a": 1}\n\xff\xff', [{"a": 1}]),
    ],
)
def test_torn_last_line_is_dropped(tmp_path, content, rows):
    path = tmp_path / "m.jsonl"
    if content is not None:
        path.write_bytes(content)
    assert files.read_lines(path) == rows


def test_damaged_inner_line_is_an_error(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a" 2}\n{"a": 3}\n')
    with pytest.raises(CorruptError, match=r"m\.jsonl"):
        files.read_lines(path)


def test_manifest_names_what_differs(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a", "b", "sub/c"):
        (tmp_path / name).write_text(name)
    expected = files.manifest(tmp_path)
    assert sorted(expected) == ["a", "b", "sub/c"]
    assert files.verify(tmp_path, expected) == []
    (tmp_path / "a").unlink()
    (tmp_path / "sub" / "c").write_text("C")
    (tmp_path / "new").write_text("")
    problems = files.verify(tmp_path, expected)
    assert problems == ["a is missing", "sub/c has changed", "new is not in the manifest"]


def test_lock_refuses_a_second_process_until_the_first_is_gone(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=f"process {owner.pid} on"), files.lock(tmp_path):
            pass
        owner.kill()
    (tmp_path / ".a.json.7.tmp").write_text("half written")
    assert (tmp_path / ".lock").exists()
    with files.lock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
        assert names(tmp_path) == [".lock"]  # what the dead owner left is swept up
    assert names(tmp_path) == []


def test_lock_is_not_held_twice_by_one_process(tmp_path):
    with files.lock(tmp_path):
        with pytest.raises(BusyError, match=f"process {os.getpid()} on"), files.lock(tmp_path):
            pass
        assert (tmp_path / ".lock").exists()
    with files.lock(tmp_path):
        pass


@pytest.mark.parametrize(
    "left",
    [
        {"host": socket.gethostname(), "pid": 2**22 + 1},  # dead
        {"host": socket.gethostname(), "pid": os.getpid()},  # its number went to another process: this one
        {"host": socket.gethostname()},
        "",  # killed between making and writing it
    ],
)
def test_stale_lock_is_taken_over(tmp_path, left):
    (tmp_path / ".lock").write_text(json.dumps(left) if left else "")
    with files.lock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert names(tmp_path) == []


def test_lock_of_another_host_is_never_taken(tmp_path):
    (tmp_path / ".lock").write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    with pytest.raises(BusyError, match="process 1 on elsewhere") as error, files.lock(tmp_path):
        pass
    assert str(tmp_path / ".lock") in error.value.fix
    assert (tmp_path / ".lock").exists()


def test_lock_without_support_of_the_file_system_asks_for_the_process(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    path = tmp_path / ".lock"
    for pid, free in ((2**22 + 1, True), (os.getppid(), False)):
        path.write_text(json.dumps({"host": socket.gethostname(), "pid": pid}))
        if free:
            with files.lock(tmp_path):
                pass
        else:
            with pytest.raises(BusyError), files.lock(tmp_path):
                pass


def test_lock_where_nothing_can_be_written(tmp_path):
    with pytest.raises(DataError, match="cannot write here"), files.lock(tmp_path / "absent"):
        pass


# Whole directories


def is_ours(path) -> bool:
    return names(path) == ["ours"]


def make(path, text: str = "new") -> None:
    with files.whole_directory(path, is_ours) as made:
        (made / "ours").write_text(text)


def test_a_directory_is_whole_or_absent(tmp_path):
    path = tmp_path / "deep" / "out"
    make(path)
    assert (path / "ours").read_text() == "new"
    with pytest.raises(TypeError), files.whole_directory(path, is_ours) as made:
        (made / "half").write_bytes(["half"])
    assert names(path) == ["ours"]
    make(path, "newer")
    assert (path / "ours").read_text() == "newer"
    assert names(path.parent) == ["out"]


@pytest.mark.parametrize("name", ["theirs", "ours"])
def test_a_directory_takes_no_place_that_holds_something_else(tmp_path, name):
    path = tmp_path / "out"
    path.mkdir()
    make(path)  # an empty one may be taken
    (path / name).write_text("old")
    (path / "theirs").touch()
    with pytest.raises(DataError, match="holds other things"), files.whole_directory(path, is_ours):
        pytest.fail("begun")
    with pytest.raises(DataError, match="a file"):
        make(path / "theirs")
    with pytest.raises(DataError, match="cannot write here"):
        make(path / "theirs" / "below")
    assert names(path) == ["ours", "theirs"]
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("there", [True, False])
def test_a_directory_may_be_behind_a_link(tmp_path, there):
    place = tmp_path / "disk" / "place"
    place.mkdir(parents=True)
    (tmp_path / "out").symlink_to(place)
    if not there:
        place.rmdir()
    for text in ("new", "newer"):
        make(tmp_path / "out", text)
        assert (place / "ours").read_text() == text
    assert (tmp_path / "out").is_symlink()
    assert names(place.parent) == ["place"]


def test_what_comes_while_a_directory_is_made_is_kept(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(DataError, match="theirs"), files.whole_directory(path, is_ours):
        (path / "theirs").mkdir(parents=True)
    assert names(path) == ["theirs"]


def test_a_directory_is_made_by_one_at_a_time(tmp_path):
    path = tmp_path / "out"
    with files.whole_directory(path, is_ours) as made:
        (made / "ours").touch()
        with pytest.raises(BusyError):
            make(path)
    assert names(path) == ["ours"]
    assert names(tmp_path) == ["out"]


def test_a_directory_killed_between_its_renames_is_put_back(tmp_path):
    path, hold = tmp_path / "out", tmp_path / ".out.new"
    (hold / "old").mkdir(parents=True)
    (hold / "old" / "ours").write_text("old")
    (hold / "made").mkdir()
    with files.whole_directory(path, is_ours) as made:
        assert (path / "ours").read_text() == "old"
        assert names(made) == []
        (made / "ours").write_text("new")
    assert (path / "ours").read_text() == "new"
    assert names(tmp_path) == ["out"]

"""Checkpoints: exact, and believed only when every byte is."""

from __future__ import annotations

import gc
import logging
import os
import resource
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from astroad_jax import files
from astroad_jax.engine import checkpoint
from astroad_jax.errors import CorruptError, StorageError


class State(NamedTuple):
    params: dict
    step: jax.Array
    key: jax.Array


def make(seed: int = 0) -> State:
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(4, 3)).astype(np.float32)
    kernel[0, 0] = np.nan
    params = {"kernel": jnp.asarray(kernel), "half": jnp.asarray(kernel[1], jnp.bfloat16)}
    return State(params, jnp.int32(seed), jnp.asarray(rng.integers(0, 2**32, 2, dtype=np.uint32)))


def abstract(state: State) -> State:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), state)


def save(directory, step: int, keep: int = 3):
    return checkpoint.save(directory, checkpoint.Position(0, "main", step), step, make(step), keep)


def test_the_last_one_that_seemed_right_stays(tmp_path):
    """A collapse may be noticed, and trained on through, for longer than checkpoints are kept."""
    for step in (10, 20, 30, 40, 50):
        complaints = {"gan": "mode collapse"} if step > 20 else {}
        checkpoint.save(tmp_path, checkpoint.Position(0, "gan", step), step, make(step), 2, complaints)
    assert steps(tmp_path) == [f"step_{step:09d}" for step in (20, 40, 50)]
    assert checkpoint.last_right(tmp_path).name == "step_000000020"
    assert checkpoint.newest(tmp_path)[1]["complaints"] == {"gan": "mode collapse"}
    checkpoint.save(tmp_path, checkpoint.Position(0, "gan", 60), 60, make(60), 2, {})
    assert steps(tmp_path) == [f"step_{step:09d}" for step in (50, 60)]


def steps(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two checkpoints, to be copied before they are harmed."""
    directory = tmp_path_factory.mktemp("pair")
    save(directory, 10), save(directory, 20)
    return directory


@pytest.fixture
def two(pair, tmp_path):
    return shutil.copytree(pair, tmp_path / "checkpoints")


def test_save_and_restore_exactly(two):
    path, note = checkpoint.newest(two)
    assert path.name == "step_000000020"
    assert note["position"] == {"stage": 0, "name": "main", "step": 20}
    assert note["total_step"] == 20
    state = make(20)
    again = checkpoint.restore(path, abstract(state))
    assert jax.tree.structure(again) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(state)):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert checkpoint.digest(again) == note["digest"] == checkpoint.digest(state)


def test_no_checkpoint_is_no_error(tmp_path):
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest(tmp_path / "absent") is None


def test_digest_tells_values_types_and_shapes_apart():
    x = jnp.arange(4.0)
    others = [x.at[0].set(-0.0), x.reshape(2, 2), x.astype(jnp.int32), x.view(jnp.int32)]
    assert len({checkpoint.digest({"x": array}) for array in [x, *others]}) == 5


def flip(path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1 << (position % 8)
    path.write_bytes(bytes(data))


def test_a_flipped_bit_in_any_file_is_noticed(two, caplog):
    newest = two / "step_000000020"
    rng = np.random.default_rng(0)
    for path in [p for p in sorted(newest.rglob("*")) if p.is_file() and p.stat().st_size]:
        whole, name = path.read_bytes(), path.relative_to(newest).as_posix()
        flip(path, int(rng.integers(10**6)))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found, note = checkpoint.newest(two)
        assert (found.name, note["total_step"]) == ("step_000000010", 10), name
        assert "step_000000020" in caplog.text
        assert path.name in caplog.text
        assert "going back to the checkpoint before" in caplog.text
        path.write_bytes(whole)
    assert checkpoint.newest(two)[0] == newest


def harm_truncate(path):
    data = next(p for p in sorted((path / "arrays").rglob("*")) if p.is_file() and p.stat().st_size > 8)
    os.truncate(data, data.stat().st_size // 2)


def harm_manifest_content(path):
    note = files.read_json(path / "manifest.json")
    files.write_json(path / "manifest.json", {**note, "position": {"stage": 0, "name": "main", "step": 900}})


HARMS = {
    "truncated array file": harm_truncate,
    "missing array file": lambda path: next(p for p in (path / "arrays").rglob("*") if p.is_file()).unlink(),
    "unknown file": lambda path: (path / "arrays" / "new").write_text(""),
    "missing manifest": lambda path: (path / "manifest.json").unlink(),
    "empty manifest": lambda path: (path / "manifest.json").write_text(""),
    "another manifest": lambda path: (path / "manifest.json").write_text("[1]"),
    "changed manifest": harm_manifest_content,
    "empty directory": lambda path: (shutil.rmtree(path), path.mkdir()),
    "a file in its place": lambda path: (shutil.rmtree(path), path.write_text("")),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_checkpoint_is_passed_over(two, caplog, harm):
    HARMS[harm](two / "step_000000020")
    with caplog.at_level(logging.WARNING):
        path, _ = checkpoint.newest(two)
    assert path.name == "step_000000010"
    assert "step_000000020" in caplog.text


def test_all_damaged_is_an_error_that_names_the_newest(two):
    for path in two.iterdir():
        harm_truncate(path)
    with pytest.raises(CorruptError, match="does not match its checksums") as error:
        checkpoint.newest(two)
    assert error.value.where.endswith("step_000000020")
    assert error.value.exit_code == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s._replace(step=s.step.astype(jnp.float32)), "float32"),
        (lambda s: s._replace(params={**s.params, "kernel": s.params["kernel"].T}), "[3, 4]"),
        (lambda s: s._replace(params={**s.params, "more": s.step}), "more"),
        (lambda s: s._replace(params={"kernel": s.params["kernel"]}), "half"),
    ],
)
def test_other_arrays_are_refused_not_cast(two, change, words):
    with pytest.raises(CorruptError, match="other arrays") as error:
        checkpoint.restore(two / "step_000000020", abstract(change(make(20))))
    assert words in str(error.value)


def test_leftovers_of_a_killed_write_are_ignored_and_swept(two):
    torn = two / ".step_000000030.tmp"
    shutil.copytree(two / "step_000000020", torn)
    assert checkpoint.newest(two)[0].name == "step_000000020"
    save(two, 40)
    assert steps(two) == ["step_000000010", "step_000000020", "step_000000040"]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_are_kept(tmp_path, keep):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep)
    assert steps(tmp_path) == [f"step_00000000{step}" for step in range(5 - keep, 5)]


def test_a_damaged_newer_checkpoint_never_crowds_out_a_good_one(two):
    harm_truncate(two / "step_000000020")
    assert checkpoint.newest(two)[0].name == "step_000000010"
    save(two, 15, keep=1)  # stopped by a signal between two regular checkpoints
    assert steps(two) == ["step_000000015", "step_000000020"]
    assert checkpoint.newest(two)[0].name == "step_000000015"
    save(two, 20, keep=1)
    assert steps(two) == ["step_000000020"]
    assert checkpoint.newest(two)[1]["total_step"] == 20


def test_a_write_that_fails_leaves_the_earlier_ones(two, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_sync_tree", full)
    with pytest.raises(StorageError, match="No space left"):
        save(two, 30)
    monkeypatch.undo()
    assert steps(two) == ["step_000000010", "step_000000020"]
    assert checkpoint.newest(two)[0].name == "step_000000020"
    save(two, 30)
    assert checkpoint.newest(two)[0].name == "step_000000030"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax leaves it after a failed write
def test_a_file_system_that_takes_no_more_is_one_clear_error(two, tmp_path):
    large = make(1)._replace(key=jax.random.bits(jax.random.key(0), (100_000,)))
    checkpoint.save(tmp_path / "roomy", checkpoint.Position(0, "main", 30), 30, large)  # compiles what there is to compile
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StorageError, match="could not be written") as error:
            checkpoint.save(two, checkpoint.Position(0, "main", 30), 30, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        gc.collect()
    assert str(two) in error.value.where
    assert "\n" not in error.value.got
    assert steps(two) == ["step_000000010", "step_000000020"]

"""Prepared TensorFlow data sets are read offline, exactly, and from nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from astroad_jax.config import Data
from astroad_jax.data import find_roles, open_source, partition_of, read_table, stream_tables
from astroad_jax.data.tfds import open_tfds
from astroad_jax.errors import DataError

SIZES = {"train": 11, "test": 5}


def rows(split):
    rng = np.random.default_rng(SIZES[split])
    for i in range(SIZES[split]):
        image = rng.integers(0, 256, (6, 5, 1), dtype=np.uint8)
        yield {
            "image": image,
            "label": i % 3,
            "redshift": np.float32(i / 10),
            "code": f"{i:05d}",
            "tags": [1] * i,
        }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from astroad_jax.data.tf import tensorflow

    tf = tensorflow()
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(6, 5, 1)),
            "label": tfds.features.ClassLabel(num_classes=3),
            "redshift": np.float32,
            "code": tfds.features.Text(),
            "tags": tfds.features.Sequence(tf.int64),
        }
    )
    for version in ("1.0.0", "1.10.0", "1.9.0"):
        identity = tfds.core.dataset_info.DatasetIdentity(
            name="tiny",
            version=tfds.core.Version(version),
            data_dir=str(root / "tiny" / version),
            module_name="",
        )
        info = tfds.core.DatasetInfo(builder=identity, features=features, disable_shuffling=True)
        (root / "tiny" / version).mkdir(parents=True)
        writer = tfds.core.SequentialWriter(info, max_examples_per_shard=4)
        writer.initialize_splits(list(SIZES))
        writer.add_examples({split: list(rows(split)) for split in SIZES})
        writer.close_all()
    return root


@pytest.fixture
def data_dir(folder, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    return folder


def test_reads_a_split_in_order(data_dir):
    source = open_source("tfds:tiny/train")
    assert (source.name, source.format, source.num_rows) == ("tiny-train", "tfds", 11)
    assert source.path.endswith("1.10.0")
    chunks = list(source.chunks(rows=4))
    assert [len(chunk["label"]) for chunk in chunks] == [4, 4, 3]
    got = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    expected = list(rows("train"))
    assert got["image"].dtype == np.float32
    for name in ("image", "label", "redshift", "code"):
        np.testing.assert_array_equal(got[name], np.stack([row[name] for row in expected]))
    assert len(set(got["object_id"])) == 11


def test_all_splits_follow_one_another(data_dir):
    source = open_source("tfds:tiny")
    assert source.num_rows == 16
    split = np.concatenate([chunk["split"] for chunk in source.chunks(columns=["split"])])
    assert split.tolist() == ["test"] * 5 + ["train"] * 11


def test_roles(data_dir):
    source = open_source("tfds:tiny:1.0.0/test")
    assert source.name == partition_of("tfds:tiny:1.0.0/test")
    roles = find_roles(source, Data())
    assert (roles.id, roles.label, roles.features) == ("object_id", "label", ("image",))
    table = read_table(source, roles)
    assert table.x.shape == (5, 6, 5, 1)
    assert table.label.tolist() == ["0", "1", "2", "0", "1"]
    parts = list(stream_tables(source, roles, 2))
    np.testing.assert_array_equal(np.concatenate([part.ids for part in parts]), table.ids)


def test_ragged_features_are_named(data_dir):
    with pytest.raises(DataError, match="tags"):
        next(open_source("tfds:tiny").chunks(columns=["tags"]))


def test_unknown_split(data_dir):
    with pytest.raises(DataError, match="did you mean 'train'"):
        open_source("tfds:tiny/trian")


def test_not_prepared_says_how(tmp_path):
    with pytest.raises(DataError) as caught:
        open_tfds("tfds:mnist/test", data_dir=str(tmp_path))
    assert f"t.load('mnist', data_dir='{tmp_path}')" in caught.value.fix


@pytest.mark.parametrize("damage", ["cut", "flip", "description"])
def test_damage(folder, tmp_path, damage):
    import shutil

    shutil.copytree(folder / "tiny", tmp_path / "tiny")
    version = tmp_path / "tiny/1.10.0"
    path = next(version.glob("*train*tfrecord*")) if damage != "description" else version / "features.json"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2] ^= 0x80
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="TFDS"):
        list(open_tfds("tfds:tiny/train", data_dir=str(tmp_path)).chunks())

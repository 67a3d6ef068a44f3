"""Catalogues in HATS format, scored through LSDB and Dask: what ``astroad score`` gives, however they are partitioned."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial as bound

import pytest

lsdb = pytest.importorskip("lsdb", reason="LSDB is not installed: pip install '.[test,lsdb]'")

import dask  # noqa: E402  (all that follows is for nothing without LSDB)
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from hats.catalog import TableProperties  # noqa: E402

from astroad_jax import data, errors, files, score_partition  # noqa: E402
from astroad_jax.app import bundle, hats, hats_book, hats_parts, hats_survey, partition  # noqa: E402
from tests import runs  # noqa: E402

# LSDB's own: it calls pandas 3.1 in ways that pandas 4 will not have.
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")

SETTINGS = ["method.name=vae", "method.samples=2", "train.epochs=1"]  # scores draw random numbers, by the object's id
HOLE = 7  # row of the sky that has a missing value


def sky() -> dict[str, np.ndarray]:
    columns = runs.survey()
    columns["skew"][HOLE] = np.nan
    return columns


def plain_scores(home, out, columns) -> pa.Table:
    """What ``astroad score`` gives for a table."""
    file = runs.table(out.with_suffix(".parquet"), columns)
    assert runs.astroad("score", home / "run", file, "--out", out).code == 0
    return pq.read_table(out / file.name)


def catalogue(path, columns, rows: int = 60, margin: float | None = None, **options):
    """Write a table as a catalogue in HATS format, of at most so many rows a partition where its twelve are not enough."""
    options = {"catalog_name": "sky", "drop_empty_siblings": False, "margin_threshold": margin, **options}
    made = lsdb.from_dataframe(pd.DataFrame(columns), partition_rows=rows, **options)
    checked = {"write_table_kwargs": {"write_page_checksum": True}}
    made.write_catalog(path, as_collection=margin is not None, progress_bar=False, **checked)
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two runs, and a table as a collection in HATS format, with a margin."""
    home = tmp_path_factory.mktemp("hats")
    table = runs.table(home / "train.parquet")
    for name, seed in (("run", 0), ("other", 1)):
        assert runs.train(table, home / name, *SETTINGS, f"train.seed={seed}").code == 0
    catalogue(home / "sky", sky(), rows=25, margin=3600.0 * 5)
    return home


@pytest.fixture(scope="module")
def plain(home):
    return plain_scores(home, home / "plain", sky())


@pytest.fixture(scope="module")
def frame():
    return pd.DataFrame(sky())


def parts(path) -> list:
    """The files of a catalogue's partitions."""
    return sorted(path.glob("dataset/Norder=*/Dir=*/Npix=*.parquet"))


def opened(path) -> pa.Table:
    """All rows of a catalogue of scores, as LSDB opens it."""
    found = lsdb.open_catalog(path).compute(progress_bar=False)
    assert found.index.name == "_healpix_29"
    return arrow(found)


def arrow(found) -> pa.Table:
    return pa.Table.from_pandas(found, preserve_index=False).replace_schema_metadata(None)


def same(found: pa.Table, expected: pa.Table) -> bool:
    """Whether two tables have the same columns, types, and for every id the same values to the last bit."""
    found, expected = (table.replace_schema_metadata(None).sort_by("object_id") for table in (found, expected))
    assert found.schema == expected.schema
    return found.equals(expected)


def score(home, catalog, out, **options) -> hats_book.Report:
    return hats.score_hats(home / "run", catalog, out, **options)


THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PJRT_NPROC")  # scores depend on how many


def spoilt(home, path) -> set:
    """A copy of the catalogue with a bit flipped in a partition; the ids there."""
    shutil.copytree(home / "sky" / "sky", path)
    flipped(parts(path)[2])
    return set(pq.read_table(parts(path)[2], columns=["object_id"], partitioning=None)["object_id"].to_pylist())


def rest(plain: pa.Table, lost: set) -> pa.Table:
    """The scores of all others."""
    return plain.filter(pa.compute.invert(pa.compute.is_in(plain["object_id"], pa.array(sorted(lost)))))


def known_to_worker() -> dict:
    from astroad_jax.app import partition

    heavy = [name for name in ("jax", "tensorflow", "sklearn") if name in sys.modules]
    threads = {name: os.environ.get(name) for name in THREADS}
    return {"pid": os.getpid(), "models": len(partition._held), "heavy": heavy, "threads": threads}


CLIENT = """
import logging, sys
from typer.testing import CliRunner
from astroad_jax.cli import app
ended = CliRunner().invoke(app, sys.argv[1:])
print(ended.output, sorted({"jax", "tensorflow", "sklearn"} & set(sys.modules)), ended.exit_code)
print(logging.getLevelName(logging.getLogger("distributed").level))
"""


def test_two_processes_score_as_one(home, plain, tmp_path):
    threads = {name: os.environ.get(name) for name in THREADS}
    with hats_survey.cluster(workers=2) as client:
        report = score(home, home / "sky", tmp_path / "out")
        workers = client.run(known_to_worker).values()
        words = ["hats", home / "run", home / "sky", "--out", tmp_path / "again", "--scheduler", client.scheduler.address]
        command = [sys.executable, "-c", CLIENT, *map(str, words)]
        ended = subprocess.run(command, cwd=runs.ROOT, env=runs.environment(home), capture_output=True, text=True)
        lost = spoilt(home, tmp_path / "spoilt")
        with ThreadPoolExecutor(1) as thread:  # a worker dies at work: the other does what it has not finished
            third = thread.submit(score, home, tmp_path / "spoilt", tmp_path / "third")
            while not parts(tmp_path / "third.partial") and not third.done():
                time.sleep(0.01)
            assert not third.done(), third.result()
            os.kill(min(worker["pid"] for worker in workers), signal.SIGKILL)
            third = third.result()
    assert "rows 240  scored 239  null 1  quarantined 0 partitions" in ended.stdout, ended
    assert ended.stdout.endswith("[] 0\nWARNING\n")  # nothing heavy in the client, and Dask holds its peace
    assert all(same(opened(tmp_path / name), plain) for name in ("out", "again"))
    assert same(opened(tmp_path / "third"), rest(plain, lost))
    assert (third.rows, third.lost, len(third.quarantined)) == (240 - len(lost), len(lost), 1)
    assert report[:3] == (240, 239, 1)
    assert report.quarantined == {}
    assert report.flags[1] == 1
    assert report.names[1].startswith("missing value")
    assert len({worker.pop("pid") for worker in workers} - {os.getpid()}) == 2
    assert all(worker == {"models": 1, "heavy": ["jax"], "threads": threads} for worker in workers)


def test_the_catalogue_of_scores(home, plain, tmp_path):
    report = score(home, home / "sky", tmp_path / "out")
    names = [path.name for path in parts(tmp_path / "out")]
    assert names == [path.name for path in parts(home / "sky" / "sky")]
    assert len(names) > 12  # pixels of two orders
    assert parts(home / "sky" / "sky_18000arcs")  # a margin, whose rows are not scored twice
    assert plain["object_id"].to_numpy().min() > 2**53
    assert same(opened(tmp_path / "out"), plain)
    held = TableProperties.read_from_dir(tmp_path / "out")
    assert (held.ra_column, held.dec_column, held.total_rows) == ("ra", "dec", 240)
    assert held.astroad_model == runs.digest(home / "run")
    assert json.loads(held.astroad_identity) == bundle.load(home / "run").identity()
    assert json.loads(held.astroad_flags)["1"] == report.names[1]
    assert (held.astroad_input, held.astroad_id) == (str(home / "sky"), "object_id")
    assert score(home, home / "sky", tmp_path / "out") == report  # there already
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.fixture(scope="module")
def result(home):
    """The catalogue of scores of the whole sky: to be copied, and left as it is."""
    score(home, home / "sky", home / "result")
    return home / "result"


@pytest.fixture
def copy(result, tmp_path):
    return shutil.copytree(result, tmp_path / "out")


def test_what_happens_to_the_scores_is_seen(copy):
    first, second, *_ = parts(copy)
    assert runs.astroad("verify", copy).code == 0
    truncated(first)
    second.rename(second.with_name("Npix=999.parquet"))
    (copy / "partition_info.csv").unlink()
    with open(copy / "hats.properties", "a") as properties:
        properties.write("astroad_model=another\n")
    ended = runs.astroad("verify", copy)
    assert (ended.code, "5 wrong" in ended.out) == (errors.EXIT_CORRUPT, True), ended
    told = (
        *(f"{first.name}: its content", f"{second.name}: missing"),
        "Npix=999.parquet: not in the manifest (it is none of these scores)",
        *("hats.properties: its content", "partition_info.csv: missing"),
    )
    assert [words for words in told if words not in ended.err] == []
    (copy / hats_book.NOTE).write_text("{}")
    assert runs.astroad("verify", copy).code == errors.EXIT_CORRUPT


def shortened(path) -> None:
    """Fewer rows than there were."""
    pq.write_table(pq.read_table(path, partitioning=None)[1:], path)


HARMS = {
    "a file is gone": (lambda out: (out / "partition_info.csv").unlink(), "partition_info.csv is missing"),
    "a partition is gone": (lambda out: parts(out)[0].unlink(), "Npix=0.parquet is missing"),
    "a partition is cut": (lambda out: truncated(parts(out)[0]), "magic bytes not found"),
    "a row is gone": (lambda out: shortened(parts(out)[0]), "got: 239 rows"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_damaged_scores_are_not_taken_for_done(home, copy, harm):
    spoil, words = HARMS[harm]
    spoil(copy)
    with pytest.raises(errors.CorruptError, match=words) as raised:
        score(home, home / "sky", copy)
    assert f"remove {copy}, and score again" in str(raised.value)


def test_score_files_go_elsewhere(home, copy):
    ended = runs.astroad("score", home / "run", home / "train.parquet", "--out", copy)
    assert (ended.code, "holds a catalogue of scores in HATS format" in ended.err) == (errors.EXIT_INPUT, True), ended
    (copy / "manifest.json").write_text("{}")
    assert runs.astroad("verify", copy).code == 0  # what it is has not changed


VERBS = {
    "evaluate": lambda home, out: ["evaluate", home / "run", out],
    "select": lambda home, out: ["select", home / "run", out, "--rate", "0.1"],
    "rank": lambda home, out: ["rank", out, "--run", home / "run", "--export", home / "ranking.csv"],
    "explain": lambda home, out: ["explain", home / "run", out, "--out", home / "explained"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_of_score_directories_say_what_it_is(home, result, verb):
    ended = runs.astroad(*VERBS[verb](home, result))
    assert ended.code == errors.EXIT_INPUT
    assert "this is a catalogue in HATS format" in ended.err


def test_status(home, result, tmp_path, monkeypatch):
    told = runs.astroad("status", result).out.split()
    kind = ["kind", "scores", "in", "HATS", "format", "state"]
    assert told == [*kind, "finished", "rows", "240", "null", "1", "quarantined", "0"]
    counted(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        score(home, home / "sky", tmp_path / "out")
    told = runs.astroad("status", tmp_path / "out").out.split()
    stopped = ["stopped:", "the", "same", "command", "goes", "on"]
    assert told == [*kind, *stopped, "partitions", "5", "of", str(len(parts(result))), "quarantined", "0"]
    assert runs.astroad("status", tmp_path / "out.partial").out.split() == told


def test_file_by_file_it_is_the_same(home, plain, tmp_path):
    assert runs.astroad("score", home / "run", home / "sky", "--out", tmp_path / "files").code == 0
    found = sorted((tmp_path / "files").glob("*.parquet"))
    assert len(found) == len(parts(home / "sky" / "sky"))
    assert same(pa.concat_tables([pq.read_table(path) for path in found]), plain)


def renamed(columns, **names) -> dict:
    return {names.get(name, name): values for name, values in columns.items()}


KINDS = {
    "text with leading zeros": lambda sky: sky | {"object_id": np.array([f"{i:08d}" for i in range(len(sky["ra"]))])},
    "small integers": lambda sky: sky | {"object_id": np.arange(len(sky["ra"]), dtype=np.int32)},
    "positions of other names": bound(renamed, ra="RAJ2000", dec="DEJ2000"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_positions_as_they_come(home, tmp_path, kind):
    columns = KINDS[kind](sky())
    report = score(home, catalogue(tmp_path / "sky", columns), tmp_path / "out")
    assert same(opened(tmp_path / "out"), plain_scores(home, tmp_path / "plain", columns))
    assert report.rows == 240
    held = TableProperties.read_from_dir(tmp_path / "out")
    assert (held.ra_column, held.dec_column) == ("ra", "dec")


def big_endian(frame):
    swapped = {name: frame[name].dtype.newbyteorder(">") for name in frame if frame[name].dtype.kind in "if"}
    return pd.DataFrame({name: frame[name].to_numpy().astype(swapped.get(name, object)) for name in frame})


FRAMES = {
    "of NumPy": lambda frame: frame,
    "big-endian": big_endian,
    "nullable": lambda frame: frame.convert_dtypes(),
    "of Arrow": lambda frame: frame.convert_dtypes(dtype_backend="pyarrow"),
    "of categories": lambda frame: frame.astype({"label": "category"}),
    "backwards, and with other columns": lambda frame: frame[::-1].assign(when=pd.Timestamp(0), mixed=[1, "a"] * 120),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_of_any_type(home, plain, frame, kind):
    given = FRAMES[kind](frame)
    given.index = pd.Index(np.arange(240) + 5, name="_healpix_29")
    found = partition.score_partition(given, run=home / "run")
    assert found.index.equals(given.index)
    assert same(arrow(found), plain)


IMAGES = {
    "lists": lambda values: pd.Series(values.tolist()),
    "of Arrow": lambda values: pd.Series(values.tolist(), dtype=pd.ArrowDtype(pa.list_(pa.list_(pa.float32())))),
    "of fixed length": lambda values: pd.Series(
        values.tolist(), dtype=pd.ArrowDtype(pa.list_(pa.list_(pa.float32(), 3), 2))
    ),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_arrays_in_frames(kind):
    values = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    frame = pd.DataFrame({"image": IMAGES[kind](values)})
    frame.loc[2, "image"] = None
    read = bound(data.open_frame, path="t", shapes={"image": (2, 3)})
    (chunk,) = read(frame).chunks()
    np.testing.assert_array_equal(chunk["image"], np.where(np.arange(4)[:, None, None] == 2, np.float32(np.nan), values))
    for rows in (0, 1):  # no value that would tell the shape
        (chunk,) = read(frame[2 : 2 + rows].astype(IMAGES["of Arrow"](values).dtype)).chunks()
        assert chunk["image"].shape == (rows, 2, 3)
    with pytest.raises(errors.DataError, match="differ in length"):
        list(data.open_frame(frame, "t", {"image": (2, 4)}).chunks())


def test_partitions_of_any_size(home, plain, frame):
    cuts = [0, 1, 1, 3, 120, 240]
    found = [partition.score_partition(frame[a:b], run=home / "run") for a, b in zip(cuts, cuts[1:])]
    assert [len(each) for each in found] == [1, 0, 2, 117, 120]
    assert all(each.dtypes.equals(found[0].dtypes) for each in found)
    assert same(arrow(pd.concat(found)), plain)


def test_in_a_pipeline_of_ones_own(home, plain):
    scored = lsdb.open_catalog(home / "sky").map_partitions(score_partition, run=str(home / "run"))
    with dask.config.set(scheduler="synchronous"):
        bright = scored.query("score > 0").compute(progress_bar=False)
    assert same(arrow(bright), plain.filter(pa.compute.greater(plain["score"], 0)))


def test_threads_share_one_model(home, plain, frame, tmp_path, monkeypatch):
    loaded, load = [], bundle.load
    monkeypatch.setattr(bundle, "load", lambda *arguments: loaded.append(arguments) or load(*arguments))
    shutil.copytree(home / "run", tmp_path / "run")
    pieces = [frame[start : start + 30] for start in range(0, 240, 30)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(bound(partition.score_partition, run=tmp_path / "run"), pieces))
    assert len(loaded) == 1
    assert same(arrow(pd.concat(found)), plain)


def test_a_run_that_changes_is_noticed(home, tmp_path):
    shutil.copytree(home / "run", tmp_path / "run")
    first = partition.serve(tmp_path / "run")
    assert partition.serve(tmp_path / "run") is first
    shutil.rmtree(tmp_path / "run")
    shutil.copytree(home / "other", tmp_path / "run")
    with pytest.raises(errors.MismatchError, match="the run has changed"):
        partition.serve(tmp_path / "run", fingerprint=first.fingerprint)
    assert partition.serve(tmp_path / "run").model.digest == runs.digest(home / "other") != first.model.digest


def without(*names: str):
    return {name: values for name, values in sky().items() if name not in names}


MISTAKES = {
    "nothing there": (lambda home, path: path, "cannot be opened as a catalogue"),
    "no catalogue": (lambda home, path: home / "run", "cannot be opened as a catalogue"),
    "a margin": (lambda home, path: home / "sky" / "sky_18000arcs", "cannot be opened as a catalogue"),
    "features missing": (lambda home, path: catalogue(path, without("skew", "r21")), "expected: 'skew', 'r21'"),
    "no ids": (lambda home, path: catalogue(path, without("object_id")), "has no ids"),
    "a text as feature": (lambda home, path: catalogue(path, sky() | {"skew": sky()["label"]}), "not numeric"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found_before_any_work(home, tmp_path, mistake):
    make, words = MISTAKES[mistake]
    ended = runs.astroad("hats", home / "run", make(home, tmp_path / "sky"), "--out", tmp_path / "out")
    assert ended.code == errors.EXIT_INPUT
    assert words in ended.err
    assert not [path for path in tmp_path.iterdir() if path.name != "sky"]


def truncated(path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path) -> None:
    """One bit of the values of a feature."""
    group = pq.read_metadata(path).row_group(0)
    (column,) = (group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == "skew")
    held = bytearray(path.read_bytes())
    held[column.data_page_offset + column.total_compressed_size - 3] ^= 1
    path.write_bytes(held)


def nameless(path) -> None:
    """Its first object without an id."""
    table = pq.read_table(path, partitioning=None)
    ids = pa.array(table["object_id"].to_numpy(), mask=np.arange(len(table)) == 0)
    pq.write_table(table.set_column(table.column_names.index("object_id"), "object_id", ids), path)


def emptied(path) -> None:
    pq.write_table(pq.read_table(path, partitioning=None)[:0], path)


def test_bad_partitions_are_quarantined(home, plain, tmp_path):
    shutil.copytree(home / "sky" / "sky", tmp_path / "sky")
    files_there, damages = parts(tmp_path / "sky"), (truncated, flipped, nameless, emptied)
    ids = [set(pq.read_table(path, partitioning=None)["object_id"].to_pylist()) for path in files_there[: len(damages)]]
    for damage, path in zip(damages, files_there):
        damage(path)
    words = ("hats", home / "run", tmp_path / "sky", "--out", tmp_path / "out")
    ended = runs.astroad(*words)
    assert ended.code == errors.EXIT_QUARANTINED, ended
    lost = set.union(*ids)
    assert f"rows {240 - len(lost)} " in ended.out
    assert f"quarantined 3 partitions ({len(ids[1]) + len(ids[2])} rows)" in ended.out
    for reason in ("magic bytes not found", "checksum", "cannot be the id"):
        assert reason in ended.err
    assert len(parts(tmp_path / "out")) == len(files_there) - 4
    assert same(opened(tmp_path / "out"), rest(plain, lost))
    assert runs.astroad(*words).out == ended.out  # there already, and no better


def changed(table: pa.Table, **columns: pa.DataType) -> pa.Table:
    """Columns of other types."""
    for name, kind in columns.items():
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind, safe=False))
    return table


SCHEMAS = {
    "a feature is not there": (lambda table: table.drop_columns(["skew"]), "'skew' is not there"),
    "a feature is a text": (lambda table: changed(table, skew=pa.string()), "'skew' is of string, in the catalogue of"),
    "ids are floats": (lambda table: changed(table, object_id=pa.float64()), "'object_id' is of double"),
    "ids are texts": (lambda table: changed(table, object_id=pa.string()), "'object_id' is of string"),
    "no spatial index": (lambda table: table.drop_columns(["_healpix_29"]), "'_healpix_29' is not there"),
    "types with the same values": (
        lambda table: changed(table, label=pa.dictionary(pa.int32(), pa.string()), skew=pa.float32()),
        "",
    ),
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_partition_of_another_schema(home, plain, tmp_path, schema):
    change, words = SCHEMAS[schema]
    shutil.copytree(home / "sky" / "sky", tmp_path / "sky")
    path = parts(tmp_path / "sky")[0]
    table = pq.read_table(path, partitioning=None)
    pq.write_table(change(table), path)
    report = score(home, tmp_path / "sky", tmp_path / "out")
    assert all(words in reason for reason in report.quarantined.values())
    assert (len(report.quarantined), report.lost) == ((1, len(table)) if words else (0, 0))
    assert same(opened(tmp_path / "out"), rest(plain, set(table["object_id"].to_pylist()) if words else set()))


def test_nothing_that_can_be_scored(home, tmp_path):
    shutil.copytree(home / "sky" / "sky", tmp_path / "sky")
    for path, damage in zip(parts(tmp_path / "sky"), [truncated, nameless, emptied] * 20):
        damage(path)
    with pytest.raises(errors.DataError, match="no partition of this catalogue can be scored"):
        score(home, tmp_path / "sky", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def counted(monkeypatch, action) -> list:
    """Calls for partitions, and what happens at each after the first five."""
    calls: list = []

    def call(frame, pixel, **options):
        calls.append(pixel)
        found = partition.score_partition(frame, pixel, **options)
        return found if len(calls) <= 5 else action(found)

    monkeypatch.setattr(hats_parts, "score_partition", call)
    return calls


def interrupt(found):
    raise KeyboardInterrupt


def test_the_same_call_goes_on(home, plain, tmp_path, monkeypatch):
    calls, out, partial = counted(monkeypatch, interrupt), tmp_path / "out", tmp_path / "out.partial"
    with pytest.raises(KeyboardInterrupt):
        score(home, home / "sky", out)
    assert not out.exists()
    first, second, third, *_ = calls[:5]
    (partial / "done" / f"{first.order}_{first.pixel}_done").unlink()  # as a kill between two writes leaves it
    (partial / "hists" / f"{second.order}_{second.pixel}_histogram.npz").unlink()
    truncated(next(partial.glob(f"dataset/Norder={third.order}/Dir=*/Npix={third.pixel}.parquet")))
    again = counted(monkeypatch, lambda found: found)
    report = score(home, home / "sky", out)
    assert len(again) == len(parts(out)) - 2
    assert {first, second, third} < set(again)
    assert report[:3] == (240, 239, 1)
    assert same(opened(out), plain)
    assert not partial.exists()


STOPS = {
    "adds up": (hats_book, "reconcile"),
    "drops its notes": (hats_parts, "forget_quarantined"),
}


@pytest.mark.parametrize("stop", STOPS)
def test_a_stop_after_the_last_write_loses_nothing(home, plain, tmp_path, monkeypatch, stop):
    lost = spoilt(home, tmp_path / "sky")
    where, name = STOPS[stop]
    left = [interrupt] if name == "reconcile" else [getattr(where, name), interrupt]  # the first call is before any work
    with monkeypatch.context() as patch:
        patch.setattr(where, name, lambda *given: left.pop(0)(*given) if len(left) > 1 else interrupt(given))
        with pytest.raises(KeyboardInterrupt):
            score(home, tmp_path / "sky", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    again = counted(monkeypatch, lambda found: found)
    report = score(home, tmp_path / "sky", tmp_path / "out")
    assert (again, report.lost) == ([], len(lost))
    assert same(opened(tmp_path / "out"), rest(plain, lost))
    assert runs.astroad("verify", tmp_path / "out").code == 0
    assert not (tmp_path / "out" / "done").exists()


def test_other_ids_are_other_scores(home, tmp_path, monkeypatch):
    columns = sky()
    path = catalogue(tmp_path / "sky", columns | {"other": columns["object_id"] + 1000})
    with monkeypatch.context() as patch:
        counted(patch, interrupt)
        with pytest.raises(KeyboardInterrupt):
            score(home, path, tmp_path / "out", overrides=["data.id=object_id"])
    for _ in ("begun", "done"):
        with pytest.raises(errors.MismatchError, match=r"another choice of columns(\n.*)*'other'"):
            score(home, path, tmp_path / "out", overrides=["data.id=other"])
        score(home, path, tmp_path / "out")


def test_where_the_scores_may_be(home, plain, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    report = score(home, home / "sky", tmp_path / "link")
    assert report == score(home, home / "sky", tmp_path / "link")
    assert same(opened(tmp_path / "disk"), plain)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]
    (tmp_path / "file").touch()
    with pytest.raises(errors.DataError, match="a file is in the place"):
        hats.score_hats(tmp_path / "no run", tmp_path / "no sky", tmp_path / "file")


def test_trouble_that_has_gone(home, plain, tmp_path, monkeypatch):
    """A partition that could not be looked at for a while is no other catalogue."""
    shutil.copytree(home / "sky" / "sky", tmp_path / "sky")
    bad = parts(tmp_path / "sky")[0]
    with monkeypatch.context() as patch:
        counted(patch, interrupt)
        patch.setattr(pq, "read_metadata", bound(hidden, pq.read_metadata, str(bad)))
        with pytest.raises(KeyboardInterrupt):
            score(home, tmp_path / "sky", tmp_path / "out")
    assert score(home, tmp_path / "sky", tmp_path / "out").rows == 240
    assert same(opened(tmp_path / "out"), plain)


def test_trouble_that_has_come(home, plain, tmp_path, monkeypatch):
    """A partition that was scored before is set aside as any other."""
    calls = counted(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        score(home, home / "sky", tmp_path / "out")
    (bad,) = (home / "sky" / "sky").glob(f"dataset/Norder={calls[0].order}/Dir=*/Npix={calls[0].pixel}.parquet")
    lost = set(pq.read_table(bad, columns=["object_id"], partitioning=None)["object_id"].to_pylist())
    counted(monkeypatch, lambda found: found)
    monkeypatch.setattr(pq, "read_metadata", bound(hidden, pq.read_metadata, str(bad)))
    report = score(home, home / "sky", tmp_path / "out")
    assert list(report.quarantined.values()) == ["OSError: [Errno 5] Input/output error"]
    assert same(opened(tmp_path / "out"), rest(plain, lost))


def hidden(read, bad, path, **options):
    if str(path) == bad:
        raise OSError(5, "Input/output error")
    return read(path, **options)


def test_what_belongs_to_something_else_is_left_alone(home, tmp_path, monkeypatch):
    counted(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        score(home, home / "sky", tmp_path / "out")
    with pytest.raises(errors.MismatchError, match="scores of another model"):
        hats.score_hats(home / "other", home / "sky", tmp_path / "out")
    shutil.copytree(home / "sky" / "sky", tmp_path / "sky")
    with pytest.raises(errors.MismatchError, match="scores of another catalogue"):
        score(home, tmp_path / "sky", tmp_path / "out")
    with files.lock(tmp_path / "out.partial"), pytest.raises(errors.BusyError):
        score(home, home / "sky", tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(errors.DataError, match="holds something else"):
        score(home, home / "sky", tmp_path / "mine")


def test_rows_that_get_lost_are_missed(home, tmp_path, monkeypatch):
    counted(monkeypatch, lambda found: found[1:])
    with pytest.raises(errors.CorruptError, match="rows were lost"):
        score(home, home / "sky", tmp_path / "out")
    assert not (tmp_path / "out").exists()


TROUBLES = {
    "a full disk": (OSError(28, "No space left on device"), errors.StorageError, "a worker could not write"),
    "a run that changes": (
        errors.MismatchError("the run has changed", fix="start again"),
        errors.MismatchError,
        "start again",
    ),
    "a defect": (ZeroDivisionError("by zero"), RuntimeError, "by zero"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_a_worker_raises_arrives(home, tmp_path, monkeypatch, trouble):
    raised, kind, words = TROUBLES[trouble]

    def fail(found):
        raise raised

    counted(monkeypatch, fail)
    read: list = []
    monkeypatch.setattr(hats_parts, "_batches", lambda *given: read.append(given) or iter(()))
    with pytest.raises(kind, match=words):
        score(home, home / "sky", tmp_path / "out")
    assert len(parts(tmp_path / "out.partial")) == 5
    assert bool(read) == (trouble == "a defect")  # nothing is looked for where the reason is known


def test_troubles_of_arrow_are_troubles(home, monkeypatch):
    def fail(*given):
        raise pa.ArrowNotImplementedError("a page of an encoding to come")

    path = parts(home / "sky" / "sky")[0]
    for name in ("_batches", "_differing"):
        monkeypatch.setattr(hats_parts, name, fail)
    assert "encoding to come" in hats_parts.trouble(path, False, ["skew"])
    found = hats_survey.paths_of(lsdb.open_catalog(home / "sky"), home / "sky" / "sky")
    assert "encoding to come" in hats_parts.look(next(iter(found.values())), False).trouble


def test_schedulers_that_cannot_be(home, tmp_path):
    words = ("hats", home / "run", home / "sky", "--out", tmp_path / "out", "--scheduler")
    with dask.config.set({"distributed.comm.timeouts.connect": "300ms"}):
        for address in ("tcp://127.0.0.1:1", "nonsense://a"):
            ended = runs.astroad(*words, address)
            assert (ended.code, "no scheduler answers here" in ended.err) == (errors.EXIT_INPUT, True), ended
            assert dask.base.get_scheduler() is None  # what is computed next does not wait for it
    ended = runs.astroad(*words, "tcp://127.0.0.1:1", "--workers", "2")
    assert (ended.code, "a scheduler has its own workers" in ended.err) == (errors.EXIT_INPUT, True)


def unscored(found):
    empty = {
        "score": pd.array([None] * len(found), found["score"].dtype),
        "flags": pd.array([0] * len(found), found["flags"].dtype),
    }
    return found.assign(**empty)


def test_a_null_score_has_a_flag(home, tmp_path, monkeypatch):
    counted(monkeypatch, unscored)
    with pytest.raises(errors.CorruptError, match="without score and flag"):
        score(home, home / "sky", tmp_path / "out")

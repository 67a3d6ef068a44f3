"""The same run on one device, on eight, and on two processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.conftest import ROOT

ONE_AND_EIGHT = """
import json, sys
import jax, numpy as np
from astroad_jax.engine import sharding
from astroad_jax.engine.score import make_scorer
from jax.sharding import PartitionSpec
from tests import toy
assert jax.device_count() == 8
GANS = ("fanogan-search",)
rows_of, _ = toy.mixture(100, seed=7)
result = {}
for name in sys.argv[1:]:
    rows, x = {}, toy.shaped(name, rows_of)
    for count in (1, 8):
        mesh = sharding.make_mesh(jax.devices()[:count])
        made, fitted = toy.train(name, epochs=1 if name in GANS else 3, mesh=mesh)
        state = sharding.to_host(fitted.state)
        scores = make_scorer(made, mesh=mesh, batch_size=48)(state, x, np.arange(100))["score"]
        rows[count] = ([row["loss"] for row in fitted.metrics if "loss" in row], scores.tolist())
        alone = make_scorer(made, mesh=sharding.make_mesh(jax.devices()[:1]))(state, x, np.arange(100))["score"]
        assert (alone == scores).all(), (name, count)
    result[name] = rows
rules = [("encoder/params/Dense_0/kernel$", PartitionSpec(None, "data"))]
spread = toy.train("autoencoder", epochs=3, mesh=sharding.make_mesh(), rules=rules)[1]
kernels = [layer["kernel"] for layer in spread.state.encoder["params"].values() if "kernel" in layer]
wide = [kernel for kernel in kernels if not kernel.is_fully_replicated]
result["spread"] = [[row["loss"] for row in spread.metrics], len(wide), [list(k.sharding.spec) for k in wide]]
json.dump(result, sys.stdout)
"""


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **extra}


@pytest.mark.slow
def test_eight_devices_agree_with_one():
    names = ["autoencoder", "deep_svdd-soft", "mcdsvdd", "dasvdd", "fanogan-search"]
    flags = environment(XLA_FLAGS=f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8")
    done = subprocess.run(
        [sys.executable, "-c", ONE_AND_EIGHT, *names], env=flags, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    losses, count, specs = found.pop("spread")
    assert count == 1
    assert specs == [[None, "data"]]
    assert losses == pytest.approx(found["autoencoder"]["8"][0], rel=1e-3)
    for name, rows in found.items():
        (one, scores), (eight, spread) = rows["1"], rows["8"]
        assert one[0] == pytest.approx(eight[0], rel=1e-5, abs=1e-5), name
        # from there on Adam carries the rounding of the sums over devices along
        assert one == pytest.approx(eight, rel=5e-2), name
        np.testing.assert_allclose(scores, spread, atol=0.1 * np.ptp(spread), err_msg=name)


TWO_PROCESSES = """
import sys
from astroad_jax.cli import main
sys.argv[0] = "astroad"
main()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train_command(table, out) -> list[str]:
    settings = ["train.epochs=3", "train.batch_size=64", "method.name=dasvdd", "method.hidden=[8]", "method.latent=2"]
    return [sys.executable, "-c", TWO_PROCESSES, "train", *settings, "--data", str(table), "--out", str(out)]


def cluster(command, out) -> None:
    """Run one command in two processes that know of each other."""
    port = str(free_port())
    names = {"ASTROAD_COORDINATOR": f"127.0.0.1:{port}", "ASTROAD_PROCESSES": "2"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command(out), env=environment(**names, ASTROAD_PROCESS=str(i)), **pipes) for i in range(2)]
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from astroad_jax.data import mock

    columns = {name: values for name, values in mock.survey(400).items() if name != "kind"}
    table = tmp_path / "survey.parquet"
    pq.write_table(pa.table(columns), table)
    cluster(lambda out: train_command(table, out), tmp_path / "two")
    alone = subprocess.run(
        train_command(table, tmp_path / "one"), env=environment(), capture_output=True, text=True, check=False
    )
    assert alone.returncode == 0, alone.stderr[-3000:]
    compare_metrics(tmp_path)
    score_together(tmp_path, table)


@pytest.mark.slow
def test_two_processes_stop_at_one_step(tmp_path):
    """A signal that reaches one process stops both, and the same command goes on with both."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from astroad_jax.data import mock

    columns = {name: values for name, values in mock.survey(400).items() if name != "kind"}
    pq.write_table(pa.table(columns), tmp_path / "survey.parquet")
    settings = ["method.name=autoencoder", "method.hidden=[8]", "method.latent=2", "train.log_every=8"]
    settings += ["train.steps_per_call=2", "train.epochs=1000000"]
    out = tmp_path / "run"
    command = [sys.executable, "-c", TWO_PROCESSES, "train", *settings, "--data", str(tmp_path / "survey.parquet")]
    names = {"ASTROAD_COORDINATOR": f"127.0.0.1:{free_port()}", "ASTROAD_PROCESSES": "2"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    running = [
        subprocess.Popen([*command, "--out", str(out)], env=environment(**names, ASTROAD_PROCESS=str(i)), **pipes)
        for i in range(2)
    ]
    limit = time.monotonic() + 200
    while not (out / "metrics.jsonl").exists() and all(process.poll() is None for process in running):
        assert time.monotonic() < limit
        time.sleep(0.05)
    running[1].send_signal(signal.SIGTERM)
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 4, errors[-3000:]
        assert "the same command resumes" in errors
    assert list((out / "checkpoints").glob("step_*"))


def compare_metrics(tmp_path) -> None:
    rows = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()] for run in ("one", "two")
    ]
    assert len(rows[0]) == len(rows[1])
    for one, two in zip(*rows):
        assert one.keys() == two.keys()
        if "loss" in one:
            assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)


def score_together(tmp_path, table) -> None:
    """Two processes share three files out; what they write equals one process's, byte for byte."""
    inputs = []
    for name in ("a", "b", "c"):
        inputs.append(tmp_path / f"{name}.parquet")
        inputs[-1].write_bytes(table.read_bytes())
    command = [sys.executable, "-c", TWO_PROCESSES, "score", str(tmp_path / "one"), *map(str, inputs)]
    cluster(lambda out: [*command, "--out", str(out)], tmp_path / "scores-two")
    alone = subprocess.run(
        [*command, "--out", str(tmp_path / "scores-one")], env=environment(), capture_output=True, text=True, check=False
    )
    assert alone.returncode == 0, alone.stderr[-3000:]
    for name in ("a", "b", "c"):
        one, two = ((tmp_path / f"scores-{n}" / f"{name}.parquet").read_bytes() for n in ("one", "two"))
        assert one == two
    books = [json.loads((tmp_path / f"scores-{n}" / "manifest.json").read_text()) for n in ("one", "two")]
    assert books[0]["partitions"].keys() == books[1]["partitions"].keys() == {"a", "b", "c"}

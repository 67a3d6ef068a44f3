"""Figures: written whole, the right size, the same bytes again, nothing global; and the text table."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from astroad_jax.analysis import plots, report
from astroad_jax.errors import DataError

NAN, INF = np.nan, np.inf


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def ranking(shift: float, num: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(int(10 * shift))
    positive = np.arange(num) < num // 8
    return rng.gamma(2, size=num) + shift * positive * rng.gamma(3, size=num), positive


def groups(shift: float) -> dict[str, np.ndarray]:
    scores, positive = ranking(shift)
    scores[[0, -1]] = NAN, INF
    return {"inliers": scores[~positive], "anomalies": scores[positive]}


def log_rows() -> list[dict]:
    rng = np.random.default_rng(0)
    rows = []
    for step in range(50, 1001, 50):
        noise = np.exp(rng.normal(0, 0.1, 4))
        rows.append({"stage": "pretrain", "step": step, "total_step": step, "loss": 3 / step * noise[0]})
    rows.append({"stage": "centre", "step": 1, "total_step": 1001, "rows": 5000.0})
    for step in range(50, 1001, 50):
        noise = np.exp(rng.normal(0, 0.2, 4))
        row = {"stage": "svdd", "step": step, "total_step": 1001 + step}
        rows.append(row | {"loss": (30 / step * noise).tolist(), "gap": -noise[0]})
    return rows


FIGURES = {
    "roc": lambda path: plots.roc(path, {"MCDSVDD": ranking(1.0), "autoencoder": ranking(0.4), "chance": ranking(0)}),
    "roc, no anomalies": lambda path: plots.roc(path, {"nothing": (np.arange(3), np.zeros(3, bool))}),
    "roc, nothing": lambda path: plots.roc(path, {}),
    "histogram": lambda path: plots.score_histogram(path, groups(0.8), {"1% false alarms": 6.5}, "SNIa hidden"),
    "histogram, long tail": lambda path: plots.score_histogram(
        path, {name: np.exp(scores) for name, scores in groups(0.8).items()}, {"1%": 700.0, "none": INF}
    ),
    "histogram, one value": lambda path: plots.score_histogram(path, {"a": np.ones(3), "b": np.array([NAN])}),
    "curves": lambda path: plots.training_curves(path, log_rows(), "mcdsvdd"),
    "curves, one point": lambda path: plots.training_curves(path, [{"stage": "a", "step": 1, "loss": 0.0}]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figure(name: str, tmp_path: Path):
    FIGURES[name](tmp_path / "figure.png")
    width, height = png_size(tmp_path / "figure.png")
    assert width >= 600
    assert height >= 400
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


def test_same_data_same_bytes(tmp_path: Path):
    for name in ("a.png", "b.png"):
        FIGURES["histogram"](tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_nothing_global(tmp_path: Path):
    import matplotlib as mpl

    before, loaded = dict(mpl.rcParams), "matplotlib.pyplot" in sys.modules
    FIGURES["roc"](tmp_path / "figure.png")
    assert dict(mpl.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_nothing_to_draw(tmp_path: Path):
    with pytest.raises(DataError, match="no finite score"):
        plots.score_histogram(tmp_path / "figure.png", {"a": np.array([NAN, INF])})
    with pytest.raises(DataError, match="no metric"):
        plots.training_curves(tmp_path / "figure.png", [{"stage": "a", "step": 1, "total_step": 1}])
    assert not list(tmp_path.iterdir())


def test_colours_can_be_seen_on_white():
    rgb = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in plots.COLOURS]) / 255
    assert len(set(plots.COLOURS)) == len(plots.COLOURS)
    assert (rgb @ [0.2126, 0.7152, 0.0722]).max() < 0.7


def test_table():
    rows = [
        {"method": "mcdsvdd", "auroc": 0.8581, "n": 12, "p": 1.25e-7},
        {"method": "ae", "auroc": NAN, "n": np.int64(3), "p": np.float32(1)},
        {"method": "kde", "auroc": 123456789.0},
    ]
    assert report.table(rows).splitlines() == [
        "method      auroc   n         p",
        "-------  --------  --  --------",
        "mcdsvdd     0.858  12  1.25e-07",
        "ae              -   3     1.000",
        "kde      1.23e+08",
    ]


def test_table_of_chosen_columns():
    rows = [{"a": True, "b": "x"}, {"a": None}]
    text = report.table(rows, ["b", "a", "c"], digits=1)
    assert text == "b  a     c\n-  ----  -\nx  True\n"
    assert report.table([], ["a", "bc"]) == "a  bc\n-  --"
    assert report.table([]) == "\n"

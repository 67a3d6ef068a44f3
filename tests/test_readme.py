"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import shlex

import pytest

from tests import runs
from tests.conftest import ROOT

TINY = [setting for setting in runs.TINY if "anomalies" not in setting]
README = (ROOT / "README.md").read_text()
BLOCKS = "\n".join(re.findall(r"```\n(.*?)```", README, re.DOTALL))
VERBS = re.findall(r"^astroad (.*?)(?:\s+#.*)?$", BLOCKS, re.MULTILINE)


def test_the_python_example_runs():
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(block.replace("num_steps=50 *", "num_steps=1 *").replace("progress=True", "progress=False"), names)
    assert names["scores"].shape == (5000,)


def test_the_verbs_run_as_shown(tmp_path, monkeypatch):
    """Every command line of the README, on small tables in the places that it names."""
    monkeypatch.chdir(tmp_path)
    columns = runs.survey()
    columns["label"][columns["label"] == "anomaly"] = "QSO"
    runs.table(tmp_path / "survey.parquet", columns)
    (tmp_path / "survey").mkdir()
    runs.table(tmp_path / "survey" / "a.parquet", columns)
    verbs = "inspect keys train score status verify evaluate select rank explain export quickstart"
    assert [line.split()[0] for line in VERBS] == verbs.split()
    for line in VERBS:
        words = shlex.split(line)
        if ">" in words:
            ended = runs.astroad(*words[: words.index(">")])
            (tmp_path / words[-1]).write_text(ended.out)
        elif words[0] == "quickstart":
            ended = runs.astroad(*(word.replace(".fits", ".parquet") for word in words), *TINY)
        elif words[0] == "train":
            ended = runs.astroad(*words, *TINY)
        else:
            ended = runs.astroad(*words)
        assert ended.code == 0, (line, ended)


@pytest.mark.parametrize("path", re.findall(r"\]\(([\w/]+\.md)\)", README))
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()

"""Random damage to every format: never a hang, never a bare traceback, never columns of other lengths than announced."""

from __future__ import annotations

import pytest

from tests import corruption

FORMATS = (
    "parquet", "csv", "ecsv", "fits", "hdf5", "hdf5 text", "npz", "jpeg", "desi", "sdss", "mmu", "spectra_npz",
    "pictures", "cutouts", "cube",
)  # fmt: skip
CASES = 25  # `python -m tests.corruption` does a thousand


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_files_are_read_or_refused(tmp_path, monkeypatch, format):
    monkeypatch.setenv("PYTHONPATH", str(corruption.Path(__file__).resolve().parents[1]))
    cases = 8 if format == "hdf5 text" else CASES  # some of these take as long as a hang is allowed to
    found = list(corruption.outcomes(tmp_path, format, cases))
    assert [(case, ended) for case, ended in found if ended not in (corruption.GOOD, corruption.REFUSED)] == []
    assert sum(ended == corruption.REFUSED for _, ended in found) > cases // 10


def test_every_format_is_damaged(tmp_path):
    assert set(corruption.make(tmp_path)) == set(FORMATS)

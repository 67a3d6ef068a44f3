"""What all tests share: strict JAX, no accelerator, the shared data where they are."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TQDM_DISABLE", "1")
# The suite is bound by compiling. Programs are shared between tests, workers, and the processes that tests start; and
# XLA is asked for little of its usual effort, which costs tiny programs little. `test_as_users_compile` has all of it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    CACHE = tempfile.TemporaryDirectory(prefix="astroad-xla-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE.name
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax  # noqa: E402  (the environment above must be set first)
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "standard")

ROOT = Path(__file__).resolve().parents[1]


# Files that take longest; they go first, so that no worker is left alone with one at the end.
LONG = (
    "test_devices", "test_methods", "test_resume", "test_benchmarks", "test_catalog", "test_app", "test_experiments",
    "test_export", "test_score", "test_wgan", "test_spectra_experiment", "test_image_experiments", "test_app_images",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONG)))  # stable within a file


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Directory of real data sets; tests that need it are skipped where it is absent."""
    path = Path(os.environ.get("ASTROAD_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real data at {path} (set ASTROAD_DATA)")
    return path

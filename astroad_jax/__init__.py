"""Deep anomaly detection for surveys: images, spectra and light-curve features, in JAX and Flax."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Loaded on first use, so that `astroad --help` and `import astroad_jax` cost nothing.
_PUBLIC = {
    "Method": "types",
    "Stage": "types",
    "Feed": "types",
    "METHODS": "methods",
    "build": "methods",
    "fit": "engine.train",
    "make_scorer": "engine.score",
    "score_catalog": "engine.catalog",
    "score_partition": "app.partition",
    "AstroadError": "errors",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

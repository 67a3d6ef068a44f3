"""What an export says of itself: its manifest, and the same in words."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import numpy as np

from astroad_jax import __version__, preprocess
from astroad_jax.app import lowering, raw, scoring
from astroad_jax.app.bundle import Bundle
from astroad_jax.preprocess import spectra
from astroad_jax.types import Search

FORMAT = "astroad_jax export 1"
PACKAGES = ("jax", "jaxlib", "numpy")

ONE_PASS = """
- `scores.stablehlo`: a function serialized by `jax.export` for {platforms}: `(weights, x, bits) -> columns`.
""".strip()
SEARCH = """
- `start.stablehlo`, `search.stablehlo`, `finish.stablehlo`: functions serialized by `jax.export` for {platforms}. A
  search is `start(weights, slots, x, bits, new) -> slots`, from slots of zeros with `new` all true; then
  `search(weights, slots) -> slots, ended` until all have ended; then `finish(weights, slots) -> columns`.
""".strip()
PREPARED = """
- `prepare.py`: what NumPy does to `x`, and the flags that it finds, with the arrays in `scaler.npz`; the functions take
  what it gives."""
CROPPED = """
- The functions take those pixels of an image alone that the scaling looks at: `window` in the manifest has the first
  and the end of their rows, and of their columns, which `load.py` cuts out."""

README = """# {method}: anomaly scores

Exported by astroad_jax {version}; model {digest}. It scores with jax and numpy, without that package.

    python load.py                            # are the files whole, and do the scores made at export come out again?
    python load.py objects.npz scores.npz     # x, with id and flags where there are any -> the columns below

    from load import load                     # with this directory on sys.path
    score = load()
    columns = score(x, ids)                   # any number of objects; ids are integers or strings

## What goes in

`x`, shape (N, {raw}): {objects}

`ids`, shape (N,): {ids}

`flags`, shape (N,), optional: what is known to be wrong with an object already, as below.

## What comes out

{columns}. Up is stranger. Where there is no value it is NaN, and -1 among integers{classes}. `p_value` is split-conformal:
of {calibration} held-out inliers and the object itself, the share with a score no lower. `flags` is a sum of

| flag | meaning | score |
|---|---|---|
{flags}

## What is in the files

- `manifest.json`: identity, schema, and the SHA-256 of every other file, which `load.py` compares before it reads
  any. Its own `seal` is that of its JSON without the seal.
{functions}
  `weights` is the list of the arrays in `weights.npz`, in the order of `weights` in the manifest; `bits`, (n, 2)
  uint32, is the low and the high half of an integer id of 64 bits, or BLAKE2b of a string. n is free.{prepared}
- `calibration.npz`: scores of the held-out inliers. `check.npz`: objects and their columns. `config.toml`: the
  model's configuration.

## How exact it is

Where it was exported (JAX {jax}, {platform}), every column of {trials} objects, broken ones among them, was bit for
bit that of `astroad score`, many at once and one alone. The last bits of a score depend on how many rows go through
the compiled function together, so `load.py` always sends the same number ({rows}), repeating objects where there are
fewer{options}. Another kind of device rounds otherwise, here as there: `python load.py` says by how much, and
exits with 1 where anything differs. JAX promises that versions up to six months younger than the one above read these
files; for others, export the model again from its run.
"""


def manifest(model: Bundle) -> dict[str, Any]:
    """What ``manifest.json`` holds before anything was tried."""
    schema = model.schema
    return {
        "format": FORMAT,
        "identity": model.identity(),
        "versions": {"astroad_jax": __version__} | {name: metadata.version(name) for name in PACKAGES},
        "features": list(schema.features),
        "units": list(schema.units),
        "raw_shape": list(schema.raw_shape),
        "window": _window(model.scaler),
        "shape": list(schema.shape),
        "classes": list(schema.classes),
        "flags": _flags(model.scaler),
        "null_flags": _null_flags(model.scaler),
        "rows": lowering.rows(model),
        "compiler_options": lowering.compiler_options(model),
    }


def _window(scaler: preprocess.Scaler) -> list[list[int]]:
    """First and end of the rows and columns that `raw.prepare` takes of an image; none where it takes all of an object."""
    frame = scaler.frame
    if frame is None or not frame.crop:
        return []
    firsts = [(side - frame.crop) // 2 for side in (frame.height, frame.width)]
    return [[first, first + frame.crop] for first in firsts]


def _flags(scaler: preprocess.Scaler) -> dict[str, str]:
    """Those that objects can have here, with their meaning."""
    readers = () if scaler.kind == "spectrum" else spectra.FLAG_NAMES
    return {str(bit): name for bit, name in scoring.FLAG_NAMES.items() if bit not in (scoring.DUPLICATE_ID, *readers)}


def _null_flags(scaler: preprocess.Scaler) -> int:
    """Sum of the flags that leave an object without a score."""
    bits = np.array(list(preprocess.FLAG_NAMES), np.uint32)
    return int(bits[preprocess.unusable(scaler, bits)].sum())


def readme(model: Bundle, note: dict[str, Any], trials: int) -> str:
    """``README.md``, of a manifest and how many objects were tried."""
    identity, versions = note["identity"], note["versions"]
    options = ", and compiles with the manifest's `compiler_options`" if note["compiler_options"] else ""
    return README.format(
        method=identity["method"],
        version=versions["astroad_jax"],
        jax=versions["jax"],
        digest=identity["model"][:16],
        raw=_dimensions(note["raw_shape"]),
        objects=_objects(model),
        ids=_ids(model),
        columns=", ".join(f"`{name}`" for name in note["columns"] if name != "flags"),
        classes=_classes(note),
        calibration=int((~np.isnan(model.calibration)).sum()),
        flags="\n".join(_flag_lines(note)),
        functions=(ONE_PASS if "scores" in note["functions"] else SEARCH).format(platforms=", ".join(note["rows"])),
        platform=lowering.platform(),
        prepared=PREPARED if not raw.on_device(model.scaler) else CROPPED if note["window"] else "",
        trials=trials,
        rows=", ".join(f"{count} on {name}" for name, count in note["rows"].items()),
        options=options,
    )


def _dimensions(shape: list[int]) -> str:
    return ", ".join(map(str, shape))


def _objects(model: Bundle) -> str:
    """What an object is, in words."""
    names, shape, settings = model.schema.features, model.schema.raw_shape, model.settings
    if model.scaler.kind == "spectrum":
        grid = settings.spectra
        bins = f"{grid.bins} bins from {grid.low:g} to {grid.high:g} Angstrom, {grid.frame} frame"
        return f"flux per wavelength and its inverse variance on {bins}; an inverse variance of 0 marks a bad pixel."
    if len(shape) == 1 and len(names) == shape[0]:
        units = [f" ({unit})" if unit else "" for unit in model.schema.units or [""] * len(names)]
        return "the features, unscaled, in this order: " + ", ".join(f"`{n}`{u}" for n, u in zip(names, units)) + "."
    kind = "images (height, width, bands)" if len(shape) == 3 else "arrays"
    return f"{kind} as in column `{names[0]}` of the table trained on, unscaled."


def _ids(model: Bundle) -> str:
    if isinstance(model.method.score, Search):
        return "a search starts from random numbers that belong to the object's id."
    return "where a score is random, its random numbers belong to the object's id."


def _classes(note: dict[str, Any]) -> str:
    if "nearest_class" not in note["columns"]:
        return ""
    return f"; classes are numbered from 0: {', '.join(note['classes'])}"


def _flag_lines(note: dict[str, Any]) -> list[str]:
    """Rows of the table of flags."""
    fate = {"32": "none", "128": "there; only that component is not"}
    nulls = {bit: "none" if int(bit) & note["null_flags"] else "there" for bit in note["flags"]} | fate
    return [f"| {bit} | {meaning} | {nulls[bit]} |" for bit, meaning in note["flags"].items()]

"""What ``astroad explain`` leaves behind, written as a whole or not at all.

::

    OUT/index.html          the objects with their pictures, for a browser
    OUT/summary.parquet     one row an object; summary.json is the same
    OUT/explanations.h5     all arrays, with checksums; the columns of the score files are in its group scores
    OUT/pictures/           one PNG an object
    OUT/explanation.json    SHA-256 of every file, and what they were made from
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astroad_jax import files
from astroad_jax.analysis import explain_plots
from astroad_jax.analysis.explain import Largest, largest
from astroad_jax.app import explained_page, scoring, tables
from astroad_jax.app.album import file_name
from astroad_jax.app.bundle import Bundle
from astroad_jax.app.explaining import COMPLETE, Explanation, Options, explanation
from astroad_jax.app.remarks import remark
from astroad_jax.data.store import Held, write_hdf5
from astroad_jax.errors import AstroadError

SCHEMA, BOOK = 1, "explanation.json"
FEATURES = 5  # of largest contribution that the summary names
MEANINGS = {
    "object_id": "in the type that the input has",
    "ra": "right ascension in degrees",
    "dec": "declination in degrees",
    "label": "as the input has it",
    "score": "up = stranger",
    "p_value": "split-conformal p-value of the score",
    "flags": "bits; the attribute flags of this file says what they mean",
}
FORMULA = (
    "contribution_i = sum over the terms F of the score of (x_i - s_i) * integral of dF/dx_i along the straight way from "
    "the term's start s to x: integrated gradients (Sundararajan, Taly & Yan 2017, eq. 1). A term that is how far an object "
    "is from its reconstruction starts at the reconstruction, any other at the training median (typical)."
)


class Made(NamedTuple):
    """What was written: the page, a summary of one row an object, and what both are of."""

    page: Path
    rows: list[dict[str, Any]]
    found: Explanation


def explain(
    out: Path, model: Bundle, run: Path, directories: Sequence[Path], options: Options, progress: bool = False
) -> Made:
    """Explain the strangest objects of score directories, and write it into a directory of its own.

    An earlier explanation there is replaced, once the new one is whole.

    Raises
    ------
    DataError
        The directory holds other things, or cannot be written; or as `explaining.explanation`.
    BusyError
        Another process is writing it.
    MismatchError
        Scores of another model.
    """
    with files.whole_directory(out, is_explanation) as made:
        found = explanation(model, run, directories, options, progress)
        rows = write(made, model, found)
    return Made(Path(out) / "index.html", rows, found)


def write(folder: Path, model: Bundle, found: Explanation) -> list[dict[str, Any]]:
    """Write an explanation into an empty directory, the manifest last, and return its summary."""
    (folder / "pictures").mkdir()
    pictures = [_draw(folder, found, row) for row in range(len(found.rank))]
    rows = list(summary(found, pictures))
    write_hdf5(folder / "explanations.h5", dict(arrays(found)), _notes(model, found))
    tables.write(folder / "summary.parquet", {name: np.array([row[name] for row in rows]) for name in rows[0]})
    files.write_json(folder / "summary.json", [_plain(row) for row in rows])
    files.write_text(folder / "index.html", explained_page.page(found, rows, model))
    note = {"schema": SCHEMA, "identity": model.identity(), "training": found.known.path}
    files.write_sealed(folder / BOOK, {**note, "objects": len(rows), "files": files.manifest(folder)})
    return rows


def is_explanation(directory: Path) -> bool:
    """Whether a directory holds an explanation as it was written, and nothing else."""
    try:
        return not check(directory).problems
    except (AstroadError, OSError):
        return False


class Checked(NamedTuple):
    """How many files an explanation has, and what is wrong with it: a sentence a file."""

    files: int
    problems: list[str]


def check(directory: Path) -> Checked:
    """Compare an explanation's files with their checksums.

    Raises
    ------
    CorruptError
        The checksums are damaged themselves.
    FileNotFoundError
        There are none.
    """
    directory = Path(directory)
    expected = files.read_sealed(directory / BOOK)["files"]
    own = {BOOK: files.sha256(directory / BOOK)}
    return Checked(len(expected) + 1, files.verify(directory, expected | own))


def _draw(folder: Path, found: Explanation, row: int) -> str:
    """Draw one object; the picture's place below the directory."""
    name = f"pictures/{found.rank[row]:05d}_{file_name(str(found.table['object_id'][row]))}.png"
    explain_plots.draw(folder / name, shown(found, row), f"{found.rank[row]}: {found.table['object_id'][row]}")
    return name


def shown(found: Explanation, row: int) -> explain_plots.Explained:
    """One object as it is drawn."""
    near = found.known.neighbours
    there = np.isfinite(near.distance[row])
    return explain_plots.Explained(
        found.x[row],
        found.contribution[row],
        found.typical[row],
        found.x[:0] if near.x is None else near.x[row][there],
        None if found.rebuilt is None else found.rebuilt[row],
        None if found.residual is None else found.residual[row],
        found.names,
        found.grid,
        found.rest,
        found.flux,
        found.spectra,
    )


def summary(found: Explanation, pictures: list[str]) -> Iterator[dict[str, Any]]:
    """One flat row an object: its columns in the scores, what stands out, its nearest training object, its picture."""
    top, near = largest(found.contribution, FEATURES), found.known.neighbours
    for row, picture in enumerate(pictures):
        held = {name: values[row] for name, values in found.table.items()}
        flags = int(held["flags"])
        yield {
            "rank": found.rank[row],
            **held,
            "flag_names": "; ".join(name for bit, name in scoring.FLAG_NAMES.items() if flags & bit),
            "remark": remark(found, row),
            "base": found.base[row],
            "explained": found.contribution[row].sum(),
            "complete": found.complete[row],
            **_features(found, top, row),
            **({"nearest_id": near.id[row, 0], "nearest_distance": near.distance[row, 0]} if near.id.shape[1] else {}),
            "picture": picture,
        }


def _features(found: Explanation, top: Largest, row: int) -> dict[str, Any]:
    """Names and contributions of the features that contribute most."""
    if not found.names:
        return {}
    pairs = enumerate(zip(top.entry[row], top.value[row]), start=1)
    return {key: value for i, (entry, part) in pairs for key, value in _feature(i, found.names[entry], part).items()}


def _feature(number: int, name: str, part: float) -> dict[str, Any]:
    return {f"feature_{number}": name, f"contribution_{number}": part}


def arrays(found: Explanation) -> Iterator[tuple[str, Held]]:
    """Everything that goes into the HDF5 file, in order."""
    near = found.known.neighbours
    for name, values in found.table.items():
        yield f"scores/{name}", Held(values, MEANINGS.get(name, "component of the score, or a column that goes with it"))
    yield "rank", Held(found.rank, f"among the {found.among} objects with a score, from 1")
    yield "input", Held(found.x, "objects as the model sees them, preprocessed")
    yield "contribution", Held(found.contribution, "to the score, up = makes stranger: they add up to score - base")
    yield "base", Held(found.base, "score where its explanation starts")
    yield "error", Held(found.error, "of the sum of the contributions, over the larger of score and base")
    yield "typical", Held(found.typical, "median of the training objects (of the nearest class, of distances to classes)")
    if found.rebuilt is not None:
        yield "rebuilt", Held(found.rebuilt, "what the model makes of the input")
    if found.residual is not None:
        noise = "the inverse variance" if found.spectra else "sigma"
        yield "residual", Held(found.residual, f"input - rebuilt in units of the noise, by {noise}; NaN without noise")
    if found.sigma is not None:
        yield "sigma", Held(found.sigma, f"68.27 % of the residuals of {found.noise_rows} training objects are within")
    if near.id.shape[1]:
        yield "neighbour_id", Held(near.id, "nearest training objects in the embedding, nearest first")
        yield "neighbour_distance", Held(near.distance, "Euclidean, in the embedding; NaN where there are no more")
        if near.x is not None:
            yield "neighbour_input", Held(near.x, "nearest training objects as the model sees them")
    if found.names:
        yield "feature", Held(np.array(found.names), "names along the last axis")
    if found.grid is not None:
        yield "wavelength", Held(found.grid, f"{'rest' if found.rest else 'observed'} wavelength in Angstrom, vacuum")


def _notes(model: Bundle, found: Explanation) -> dict[str, str]:
    """Attributes of the HDF5 file."""
    flags = "; ".join(f"{bit}: {name}" for bit, name in scoring.FLAG_NAMES.items())
    training = f"{found.known.path}, {found.known.rows} usable training objects"
    return {"model": model.digest, "method": model.settings.method["name"], "contribution": FORMULA,
            "complete": f"an error of at most {COMPLETE:g}", "training": training, "flags": flags}  # fmt: skip


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """JSON's own types; what is not a number is null."""
    items = {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
    return {name: None if isinstance(v, float) and not np.isfinite(v) else v for name, v in items.items()}

"""Pictures of ranked objects: fetched from their tables a few at a time, drawn one by one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from astroad_jax import files
from astroad_jax.analysis import portraits
from astroad_jax.app.bundle import Bundle
from astroad_jax.app.ranking import RESCORE, Objects, exchanged
from astroad_jax.engine.score import make_reconstructor
from astroad_jax.errors import DataError
from astroad_jax.preprocess import spectra
from astroad_jax.types import Search


def fetch(model: Bundle, objects: Objects, rows: Sequence[int]) -> dict[int, np.ndarray]:
    """Objects of some rows as the networks see them: one pass over the inputs that hold them, as far as needed."""
    wanted, found = {int(objects.place[row]): int(row) for row in rows}, {}
    for part in objects.parts:
        own = np.array(sorted(place for place in wanted if 0 <= place - part.start < part.rows), np.int64)
        start = part.start
        for chunk in part.partition.chunks() if len(own) else ():
            for place in own[(own >= start) & (own < start + len(chunk.x))].tolist():
                if chunk.columns["object_id"][place - start] != objects.ids[wanted[place]]:
                    raise exchanged(part, place - part.start)
                one = chunk.x[place - start : place - start + 1]
                found[wanted[place]] = np.array(model.scale(one)[0][0])
            start += len(chunk.x)
            if start > own[-1]:
                break
    if len(found) < len(wanted):
        where = ", ".join(part.partition.path for part in objects.parts)
        raise DataError("objects are gone from their table", where=where, got=len(wanted) - len(found), fix=RESCORE)
    return found


def open_album(
    model: Bundle, objects: Objects, folder: Path
) -> tuple[Callable[[Sequence[int]], None], Callable[[int], Path]]:
    """Pictures of objects: a function that reads some at once, and one that draws one of them, or the one it is asked for.

    Beside an object is what the model makes of it, where the method has a decoder.
    """
    folder = Path(folder)
    files.make_directory(folder, "pictures")
    held: dict[int, np.ndarray] = {}
    rebuild, around = None, axes(model)
    if model.method.reconstruct is not None and not isinstance(model.method.score, Search):
        rebuild = make_reconstructor(model.method, seed=model.settings.train.seed)

    def read(rows: Sequence[int]) -> None:
        kept = {row: held[row] for row in rows if row in held}
        held.clear()
        held.update(kept | fetch(model, objects, [row for row in rows if row not in kept]))

    def draw(row: int) -> Path:
        if row not in held:
            read([row])
        x, ids = held[row][None], objects.ids[row : row + 1]
        rebuilt = rebuild(model.state, x, ids)["reconstruction"][0] if rebuild is not None else None
        path = folder / f"{file_name(str(ids[0]))}.png"
        portraits.portrait(path, x[0], rebuilt, names=model.schema.features, title=str(ids[0]), **around)
        return path

    return read, draw


def axes(model: Bundle) -> dict[str, Any]:
    """What the axes of a spectrum's picture say: wavelengths where it was brought to the run's grid on reading.

    What else is called a spectrum has a grid of its own.
    """
    grid = model.settings.spectra
    ours = model.schema.features == ("spectrum",) and model.schema.shape == (2, grid.bins)
    flux = "flux (unit norm)" if model.scaler.kind == "spectrum" else "flux"
    return {"grid": spectra.grid_centres(grid), "frame": grid.frame, "flux": flux} if ours else {"flux": flux}


def file_name(name: str) -> str:
    """An id as a file name; one that cannot be it as it stands gets a digest, so that no two meet."""
    safe = re.sub(r"[^A-Za-z0-9._+-]", "_", name).lstrip(".")[:100]
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"

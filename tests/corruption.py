"""Files of every format, damaged at random and read in processes that may hang or die.

    python -m tests.corruption [CASES] [FORMAT ...]

prints what became of so many damaged files of each format (1,000 where no number is given).
"""

from __future__ import annotations

import collections
import json
import os
import select
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

LIMIT = 30.0  # seconds after which a reading hangs
GOOD, REFUSED = "read", "refused"


def make(folder: Path) -> dict[str, Path]:
    """A small file of every format."""
    from tests import data_files, image_files, spectra_files

    for name in ("desi", "sdss", "mmu", "npz"):
        (folder / name).mkdir(parents=True)
    columns = data_files.sky(60)
    paths = {
        kind: data_files.write(folder, kind, columns, "table") for kind in ("parquet", "csv", "ecsv", "fits", "hdf5", "npz")
    }
    paths["hdf5 text"] = _variable_text(folder / "text.hdf5", columns)
    pictures = image_files.pack([image_files.encode(image_files.picture(i)) for i in range(20)])
    np.savez(folder / "jpeg.npz", **pictures, y=np.arange(20))
    objects = spectra_files.sky(6)
    paths |= {"jpeg": folder / "jpeg.npz", "desi": spectra_files.desi(folder / "desi", objects)}
    paths["sdss"] = spectra_files.sdss(folder / "sdss", objects)[0]
    paths["mmu"] = spectra_files.mmu(folder / "mmu", objects)
    paths["spectra_npz"] = spectra_files.npz(folder / "npz", objects)
    return paths | _images(folder)


def _images(folder: Path) -> dict[str, Path]:
    """Directories of a file an object, and a cube of all objects."""
    from tests import image_files

    planes = [np.moveaxis(image_files.picture(i), -1, 0).astype(np.float32) for i in range(12)]
    kinds, layouts = ("jpeg", "png", "tiff"), ("cube", "extensions", "compressed")
    pictures = {f"{i}.{kinds[i % 3]}": image_files.encode(image_files.picture(i), kinds[i % 3]) for i in range(12)}
    cutouts = {f"{i}.fits": image_files.cutout(planes[i], layouts[i % 3]) for i in range(12)}
    return {
        "pictures": image_files.write_folder(folder / "pictures", pictures),
        "cutouts": image_files.write_folder(folder / "cutouts", cutouts),
        "cube": image_files.write_folder(folder, {"cube.fits": image_files.survey(np.stack(planes))}) / "cube.fits",
    }


def _variable_text(path: Path, columns: dict[str, np.ndarray]) -> Path:
    """HDF5 whose texts are of variable length, which no checksum covers."""
    import h5py

    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values.astype(object) if values.dtype.kind == "U" else values)
    return path


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The same bytes with one kind of damage: flips, a cut, a stretch lost, zeroed, doubled, or of noise."""
    held = bytearray(data)
    kind, start = rng.integers(6), int(rng.integers(len(held)))
    stop = min(len(held), start + int(rng.integers(1, 200)))
    if kind == 0:
        for place in rng.integers(len(held), size=int(rng.integers(1, 9))):
            held[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del held[start:]
    elif kind == 2:
        del held[start:stop]
    elif kind == 3:
        held[start:stop] = bytes(stop - start)
    elif kind == 4:
        held[start:start] = held[start:stop]
    else:
        held[start:stop] = rng.bytes(stop - start)
    return bytes(held)


def read(path: str) -> str:
    """What becomes of a file: read whole, refused with a reason, or something that must not be."""
    from astroad_jax import data
    from astroad_jax.errors import DataError
    from tests.spectra_files import GRID

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries' own, of which the user is told by errors
            source = data.open_source(path, spectra=GRID)
            rows, lost = 0, 0
            for chunk in source.chunks(17):
                lengths = {len(values) for values in chunk.values()}
                if len(lengths) != 1:
                    return f"columns of {sorted(lengths)} rows"
                rows += lengths.pop()
                lost += int(np.isnan(chunk["image"]).all((1, 2, 3)).sum()) if "image" in chunk else 0
    except DataError as error:
        return REFUSED if str(path) in str(error) else f"the error does not name the file: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if lost > 1:
        return f"{lost} images of {rows} are lost to one that is damaged"
    if source.num_rows not in (None, rows):
        return f"{rows} rows, {source.num_rows} were announced"
    return REFUSED if lost else GOOD  # an image that cannot be read is all NaN, and the others are there


class Reader:
    """A process that reads files one after another; a new one where it hangs or dies."""

    def __init__(self):
        self.process: subprocess.Popen | None = None

    def __call__(self, path: Path) -> str:
        """What becomes of a file."""
        if self.process is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
            self.process = subprocess.Popen([sys.executable, "-m", "tests.corruption", "--read"], **pipes)
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], LIMIT)[0]:
            self.close()
            return "hangs"
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.process = None
            return f"the process died, {code}"
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def outcomes(folder: Path, format: str, cases: int, seed: int = 0) -> Iterator[tuple[int, str]]:
    """Number and outcome of every case; the damaged file of one that must not be is kept in `folder`."""
    whole = make(folder / "whole")[format]
    files, reader = sorted(whole.iterdir()) if whole.is_dir() else [whole], Reader()
    try:
        for case in range(cases):
            rng = np.random.default_rng([seed, case, *format.encode()])
            file = files[case % len(files)]
            data = file.read_bytes()
            # one of a directory's files, and coadds with redshifts beside them: the damaged one takes the whole one's place
            beside = format == "desi" or whole.is_dir()
            path = file if beside else folder / f"case{case}{file.suffix}"
            path.write_bytes(damaged(data, rng))
            found = reader(whole if beside else path)
            if found not in (GOOD, REFUSED):
                (folder / f"bad_{format.replace(' ', '_')}_{case}{file.suffix}").write_bytes(path.read_bytes())
            if beside:
                path.write_bytes(data)
            else:
                path.unlink()
            yield case, found
    finally:
        reader.close()


def main() -> None:
    if sys.argv[1:] == ["--read"]:
        for line in sys.stdin:
            print(json.dumps(read(line.rstrip("\n"))), flush=True)
        return
    words = sys.argv[1:]
    cases = int(words.pop(0)) if words and words[0].isdecimal() else 1000
    folder = Path(tempfile.mkdtemp(prefix="astroad-corruption-"))
    for format in words or make(folder / "names"):
        own = folder / format.replace(" ", "_")
        counts = collections.Counter(found for _, found in outcomes(own, format, cases))
        print(f"{format}: {dict(counts)}", flush=True)
    print(f"files that came to no good end: {folder}")


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()

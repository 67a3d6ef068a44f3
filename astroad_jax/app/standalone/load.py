"""Score objects with the model in this directory. Needs jax and numpy, and nothing of the package that made it.

    python load.py                          check the files, and that the scores made at export come out again (else: exit 1)
    python load.py objects.npz scores.npz   score x (N, ...), with id (N,) and flags (N,) where there are any

    from load import load
    score = load("DIRECTORY")
    scores = score(x, ids)["score"]         # up = stranger; NaN = no score, and `flags` say why

README.md beside this file says what x is. Nothing here is pickled, and nothing is read before its SHA-256 was compared.
"""

import hashlib
import json
import runpy
import sys
import warnings
from pathlib import Path

import jax.export
import numpy as np

BAD_SCORE, BAD_COMPONENT = 32, 128  # flags


def load(directory=Path(__file__).parent):
    """Check the files, and return ``score(x, ids, flags=0) -> dict of (N,) arrays``.

    x : (N, ...) objects as they were read, in the shape that README.md says; what is masked is missing, as NaN is.
    ids : (N,) integers or strings, to which belongs what is random in a score. flags : (N,) uint32, what is known to be
    wrong already. Returned are ``score``, its components, ``p_value``, ``flags``; NaN (-1 among integers) for no value.
    """
    directory = Path(directory)
    note = read_manifest(directory)
    weights, calibration = (read_arrays(directory / f"{name}.npz") for name in ("weights", "calibration"))
    (run, rows), prepare = compiled(directory, note), preparation(directory, note)
    window = (slice(None), *(slice(*ends) for ends in note["window"]))
    weights = jax.device_put([weights[name] for name in note["weights"]])

    def block(x, bits):
        """At most `rows` objects; always as many go through the function, for its bits depend on their number."""
        with np.errstate(over="ignore", invalid="ignore"):
            x = x[window].astype(np.float64 if x.dtype.kind in "iu" else np.float32)  # so astroad_jax rounds whole numbers
            x, flags = prepare(np.ascontiguousarray(np.ma.filled(x.astype(np.float32), np.nan)))
        whole = np.arange(rows) % len(x)
        out = {name: np.asarray(values)[: len(x)] for name, values in run(weights, x[whole], bits[whole]).items()}
        return out | {"flags": out.get("flags", 0) | flags}

    def score(x, ids, flags=0):
        x, ids = np.asanyarray(x), np.asanyarray(ids)
        if not x.size or x.shape[1:] != tuple(note["raw_shape"]) or ids.shape != x.shape[:1]:
            wanted = f"expected objects (N, *{note['raw_shape']}), one or more, and ids (N,)"
            raise ValueError(f"{wanted}, got {x.shape} and {ids.shape}: bring them to that shape (see README.md)")
        bits = id_bits(ids)
        parts = [block(x[start : start + rows], bits[start : start + rows]) for start in range(0, len(x), rows)]
        out = {name: np.concatenate([part[name] for part in parts]) for name in ("score", *parts[0])}
        out["p_value"] = p_values(out["score"], calibration["score"])
        out["flags"] = out["flags"] | np.asarray(flags, np.uint32)
        return nulled(out, note["null_flags"])

    return score


def preparation(directory, note):
    """``x -> what the function takes, flags``: nothing, unless a file of this export says what."""
    if "prepare.py" not in note["files"]:
        return lambda x: (x, np.zeros(len(x), np.uint32))
    prepare = runpy.run_path(str(directory / "prepare.py"))["prepare"]  # what was hashed: an import might take a cache
    fitted = read_arrays(directory / "scaler.npz")
    return lambda x: prepare(fitted, note["null_flags"], x)


def read_manifest(directory):
    """What this export is, once every file has been compared with its checksum."""
    try:
        note = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        seal = note.pop("seal")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{directory} is no whole export: manifest.json cannot be read ({error!r})") from error
    problems = [] if hashlib.sha256(json.dumps(note).encode()).hexdigest() == seal else ["manifest.json has changed"]
    for name, digest in note["files"].items() if not problems else ():
        path = directory / name
        if Path(name).name != name or not path.is_file():
            problems.append(f"{name} is missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            problems.append(f"{name} has changed")
    if problems:
        raise ValueError(f"{directory} is damaged: {'; '.join(problems)}. Export the model again, or restore the files")
    return note


def read_arrays(path):
    """Every array of an npz."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except Exception as error:  # what is no npz, or a damaged one, fails in many ways
        raise ValueError(f"{path} cannot be read as an npz of arrays ({error}): write one by numpy.savez") from error


def compiled(directory, note):
    """``(weights, x, bits) -> columns`` for this machine's device, and how many rows it takes."""
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if platform not in note["rows"]:
        raise ValueError(f"this export is for {', '.join(note['rows'])}, and JAX runs on {platform} here: set JAX_PLATFORMS")
    rows, options = note["rows"][platform], known_options(note["compiler_options"].get(platform))
    held = {name: read_function(directory / f"{name}.stablehlo", note) for name in note["functions"]}
    run = {name: jax.jit(function.call, compiler_options=options) for name, function in held.items()}
    if "scores" in run:
        return run["scores"], rows
    slots = [np.zeros((rows, *slot.shape[1:]), slot.dtype) for slot in held["search"].in_avals[len(note["weights"]) :]]

    def search(weights, x, bits):
        found, ended = run["start"](weights, slots, x, bits, np.ones(rows, bool)), np.False_
        while not np.all(ended):
            found, ended = run["search"](weights, found)
        return run["finish"](weights, found)

    return search, rows


def read_function(path, note):
    """A function that `jax.export` has serialized."""
    try:
        return jax.export.deserialize(bytearray(path.read_bytes()))
    except Exception as error:
        made = note["versions"]["jax"]
        raise ValueError(f"JAX {jax.__version__} cannot read what JAX {made} exported: export the model again") from error


def known_options(options):
    """Compiler options, unless XLA knows them no more."""
    try:
        jax.jit(lambda x: x + 1, compiler_options=options)(np.float32(0))
    except Exception:
        warnings.warn(f"XLA does not know {options}: scores may differ in their last bits", stacklevel=4)
        return None
    return options


def id_bits(ids):
    """(N, 2) uint32: the 64 bits of integers, a hash of strings."""
    if ids.dtype.kind not in "iuUS" or np.ma.is_masked(ids):
        fix = "fill what is masked, and convert them with .astype(np.int64) or .astype(str)"
        raise ValueError(f"ids must be integers or strings, none of them masked, got {ids.dtype}: {fix}")
    ids = np.char.decode(ids, "utf-8") if ids.dtype.kind == "S" else ids
    if ids.dtype.kind in "iu":
        return np.ascontiguousarray(ids.astype("<i8")).view("<u4").reshape(-1, 2)
    digests = [hashlib.blake2b(str(value).encode(), digest_size=8).digest() for value in ids.tolist()]
    return np.frombuffer(b"".join(digests), "<u4").reshape(-1, 2)


def p_values(scores, calibration):
    """Split-conformal: (1 + how many of the n scores of held-out inliers reach this one) / (n + 1)."""
    known = np.sort(calibration[~np.isnan(calibration)].astype(np.float64))
    reached = len(known) - np.searchsorted(known, scores.astype(np.float64), side="left")
    return np.where(np.isnan(scores), np.nan, (1 + reached) / (len(known) + 1))


def nulled(out, null_flags):
    """Scores of objects that can have none are taken away, and what is not finite is flagged."""
    flags = out.pop("flags")
    null = (flags & null_flags) != 0
    bad = ~np.isfinite(out["score"]) & ~null
    flags, null = flags | np.where(bad, BAD_SCORE, 0).astype(np.uint32), null | bad
    for name, values in out.items():
        absent = null | ~np.isfinite(values)
        flags = flags | np.where(absent & ~null, BAD_COMPONENT, 0).astype(np.uint32)
        out[name] = np.where(absent, values.dtype.type(-1 if values.dtype.kind in "iu" else np.nan), values)
    return {**out, "flags": flags}


def main(words):
    """See the head of this file; whether anything differs from what it was at export."""
    if len(words) not in (0, 2):
        raise ValueError(f"expected OBJECTS.npz SCORES.npz, or nothing, got {len(words)} words: {' '.join(words)}")
    if words:
        held = read_arrays(words[0])
        if "x" not in held:
            raise ValueError(f"{words[0]} has no array x, only {list(held)}: store all objects as x (see README.md)")
        np.savez(words[1], **load()(held["x"], held.get("id", np.arange(len(held["x"]))), held.get("flags", 0)))
        return False
    score, differs = load(), False
    held = read_arrays(Path(__file__).parent / "check.npz")
    for name, values in score(held["x"], held["id"]).items():
        absent, lost = np.isnan(held[name]), values == -1 if values.dtype.kind in "iu" else np.isnan(values)
        same = np.where(absent, lost, values == held[name])
        apart = np.abs(values.astype(np.float64) - held[name])[~absent]
        print(f"{name:20s} {same.sum()} of {len(same)} objects as at export, largest difference {apart.max(initial=0):.3g}")
        differs |= not same.all()
    return differs


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (OSError, ValueError) as problem:
        sys.exit(f"error: {problem}")

"""A mock survey of variable stars that needs no download: light-curve features of known classes, and planted anomalies.

It is a stage set, not astrophysics: each class lies on a curved two-dimensional sheet in feature space, thickened by
noise, as real feature tables do; the anomalies leave the sheets in three different ways.
"""

from __future__ import annotations

import numpy as np

CLASSES = ("CEP", "DSCT", "EB", "LPV", "RRL")
KINDS = ("blend", "decorrelated", "extreme")
FEATURES = (
    "period_log10", "amplitude", "rise_fraction", "skew", "kurtosis", "eta_e", "std_g", "std_r", "colour_g_r",
    "phi21", "phi31", "r21", "r31", "psi_cs", "psi_eta", "gskew", "beyond1std", "iqr", "meanvar", "stetson_k",
)  # fmt: skip
SHEET = 2  # latent dimensions of a class
NOISE = 0.12


def survey(
    num_rows: int = 4000, anomaly_fraction: float = 0.02, missing_fraction: float = 0.002, seed: int = 0
) -> dict[str, np.ndarray]:
    """Make a catalogue.

    Parameters
    ----------
    num_rows : int
        Objects, anomalies included.
    anomaly_fraction : float
        Share of planted anomalies, in equal parts of three kinds: ``blend`` (between two classes), ``decorrelated``
        (every feature ordinary, their combination not), ``extreme`` (far out along its own sheet).
    missing_fraction : float
        Share of objects with one missing feature (NaN), as catalogues have.
    seed : int
        Everything is a function of it.

    Returns
    -------
    dict of arrays
        ``object_id`` (int64, beyond 2^53), ``ra``, ``dec`` (degrees, uniform on the sphere), ``label`` (class, or
        ``anomaly``), ``kind`` (of anomaly, else empty), and the float64 columns `FEATURES`.
    """
    rng = np.random.default_rng(seed)
    sheets = _sheets(rng)
    weights = rng.dirichlet(np.full(len(CLASSES), 4.0))
    number = rng.choice(len(CLASSES), num_rows, p=weights)
    x = _draw(rng, sheets, number)
    kind = np.full(num_rows, "", "U12")
    planted = rng.permutation(num_rows)[: round(anomaly_fraction * num_rows)]
    for name, rows in zip(KINDS, np.array_split(planted, len(KINDS))):
        x[rows] = _plant(rng, name, sheets, number[rows], x)
        kind[rows] = name
    holes = rng.permutation(num_rows)[: round(missing_fraction * num_rows)]
    x[holes, rng.integers(0, x.shape[1], len(holes))] = np.nan
    label = np.where(kind == "", np.array(CLASSES)[number], "anomaly")
    columns = {name: x[:, i] for i, name in enumerate(FEATURES)}
    return {
        "object_id": _ids(rng, num_rows),
        **_positions(rng, num_rows),
        "label": label,
        "kind": kind,
        **columns,
    }


def _sheets(rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Centre, slopes and curvature of every class."""
    d = len(FEATURES)
    return [(2.0 * rng.normal(size=d), rng.normal(size=(SHEET, d)), 0.4 * rng.normal(size=(SHEET, d))) for _ in CLASSES]


def _on_sheets(sheets: list, number: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Points at the places `u`, ``(N, SHEET)``, of the sheets of the given classes."""
    x = np.zeros((len(number), len(FEATURES)))
    for c, (centre, slope, curve) in enumerate(sheets):
        own = number == c
        x[own] = centre + u[own] @ slope + (u[own] ** 2) @ curve
    return x


def _draw(rng: np.random.Generator, sheets: list, number: np.ndarray) -> np.ndarray:
    """Objects of the given classes."""
    x = _on_sheets(sheets, number, rng.normal(size=(len(number), SHEET)))
    return x + NOISE * rng.normal(size=x.shape)


def _plant(rng: np.random.Generator, kind: str, sheets: list, number: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Anomalies of one kind, one for every entry of `number`."""
    if kind == "blend":
        other = (number + rng.integers(1, len(sheets), len(number))) % len(sheets)
        return 0.5 * (_draw(rng, sheets, number) + _draw(rng, sheets, other))
    if kind == "decorrelated":
        donors = rng.integers(0, len(x), (len(number), x.shape[1]))
        return np.take_along_axis(x, donors, axis=0)
    angle = rng.uniform(0, 2 * np.pi, len(number))
    u = 4.0 * np.stack([np.cos(angle), np.sin(angle)], -1)
    return _on_sheets(sheets, number, u)


def _ids(rng: np.random.Generator, num_rows: int) -> np.ndarray:
    return np.int64(4_000_000_000_000_000_000) + np.sort(rng.choice(10**9, num_rows, replace=False))


def _positions(rng: np.random.Generator, num_rows: int) -> dict[str, np.ndarray]:
    dec = np.degrees(np.arcsin(rng.uniform(-1, 1, num_rows)))
    return {"ra": rng.uniform(0, 360, num_rows), "dec": dec}

"""Light of the mock sky's galaxies, before any optics: Sersic profiles, spiral arms, tails, shells.

Every part is made for a whole batch at once, ``(N, W, W)`` float32. A profile is a function of the offset from its
own centre; `pixels` turns it into mean brightnesses of pixels. Sersic profiles (astropy's `Sersic2D`) are scaled by
their analytic total, so a part's flux is what was asked, less what lies outside the frame.

A pixel's mean is sampled at its centre, except near the profile's own: 9 x 9 pixels are sampled 5 x 5 times, of
these samples the 3 x 3 innermost again, and once more, down to 1/125 pixel. The flux of a profile of n = 4 and
half-light radius 2 pixels is then right to 0.5%, that of an edge-on disc a fifth of a pixel thick to 1% (a test holds
them to it). Sampled at pixel centres alone, the first may come out 20 times too bright: its cusp is that steep.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

SPLIT = 5
BOXES = (9, 3, 3)  # cells on a side that are split at each level

Columns = dict[str, np.ndarray]
Profile = Callable[[np.ndarray, np.ndarray], np.ndarray]


def sersic_b(n: np.ndarray) -> np.ndarray:
    """b of exp(-b (r / r_eff)^(1/n)) that makes r_eff hold half the light (Ciotti & Bertin 1999, eq. 18), for n >= 0.7."""
    return 2 * n - 1 / 3 + 4 / (405 * n) + 46 / (25515 * n**2) + 131 / (1148175 * n**3)


def sersic_total(n: np.ndarray) -> np.ndarray:
    """Flux of a circular Sersic profile with r_eff = 1 and brightness 1 there: 2 pi n e^b b^(-2n) Gamma(2n)."""
    log_gamma = np.reshape([math.lgamma(2 * value) for value in np.ravel(n)], np.shape(n))
    b = sersic_b(n)
    return 2 * np.pi * n * np.exp(b - 2 * n * np.log(b) + log_gamma)


def sersic(r_eff: np.ndarray, n: np.ndarray | float, q: np.ndarray, angle: np.ndarray) -> Profile:
    """Sersic profiles of unit flux.

    Parameters
    ----------
    r_eff : (N,) float
        Half-light radius along the long axis, pixels.
    n : (N,) float, or float
        Index; one for all is faster.
    q : (N,) float
        Axis ratio.
    angle : (N,) float
        Of the long axis, radians from x to y.
    """
    from astropy.modeling.models import Sersic2D

    brightness, size, flatness, turn = (_column(v) for v in (1 / (r_eff**2 * q * sersic_total(n)), r_eff, 1 - q, angle))
    # numpy takes short cuts for a single exponent of 1, so it must be single for a batch as well: same bits
    index, zero = _column(n) if np.ndim(n) else np.float32(n), np.float32(0)

    def profile(dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        light = Sersic2D.evaluate(dx, dy, brightness, size, index, zero, zero, flatness, turn)
        return light.astype(np.float32)  # astropy works out b, and with it the rest, in float64

    return profile


def render(galaxy: Columns, low: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Bulges and discs, each of unit flux, ``(N, W, W)`` float32, indexed (y, x).

    Parameters
    ----------
    galaxy : dict of (N,) float64
        As `sky_parameters` makes them, with ``x`` and ``y``.
    low : int
        Coordinate of the first pixel.
    width : int
        Pixels on a side.
    """
    g = {name: _column(value) for name, value in galaxy.items()}
    bulge = sersic(galaxy["r_bulge"], galaxy["n"], galaxy["bulge_q"], galaxy["angle"])
    disc = sersic(galaxy["r_disc"], 1.0, galaxy["disc_q"], galaxy["angle"])
    profiles = (partial(_turned, g, bulge), partial(_turned, g, partial(_structured, g, disc)))
    return tuple(pixels(profile, galaxy["x"], galaxy["y"], low, width) for profile in profiles)


def _turned(g: Columns, profile: Profile, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """A profile whose position angle changes with radius: circles turn in themselves, so flux is conserved."""
    if not g["twist"].any():
        return profile(dx, dy)
    angle = g["twist"] * np.log1p((dx**2 + dy**2) / g["r_eff"] ** 2)
    cos, sin = np.cos(angle), np.sin(angle)
    return profile(dx * cos + dy * sin, dy * cos - dx * sin)


def _structured(g: Columns, disc: Profile, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """A disc with logarithmic spiral arms and a brighter side: waves in azimuth, so flux is conserved."""
    cos, sin = np.cos(g["angle"]), np.sin(g["angle"])
    a, b = dx * cos + dy * sin, (dy * cos - dx * sin) / g["disc_q"]  # in the plane of the disc
    square = (a**2 + b**2) / g["r_disc"] ** 2 + np.float32(1e-6)
    azimuth = np.arctan2(b, a)
    inside = square / (square + np.float32(0.3))  # no structure in the very centre
    wave = g["arm_count"] * (azimuth - np.log(square) / (2 * g["pitch"])) + g["arm_phase"]
    structure = g["arms"] * np.cos(wave) + g["lopsided"] * np.cos(azimuth - g["lopsided_angle"])
    return disc(dx, dy) * (1 + inside * structure)


def tails(main: Columns, merger: Columns, low: int, width: int) -> np.ndarray:
    """Two tidal tails on opposite sides, wound one way, the second weaker; of unit flux within the canvas."""
    g, m = ({name: _column(value) for name, value in part.items()} for part in (main, merger))
    radius, azimuth = _polar(main, low, width)
    x = radius / g["r_eff"]
    along = azimuth - m["tail_angle"] - m["winding"] * (x - 1)
    sharpness = np.minimum((x / np.float32(0.3)) ** 2 / (1 + np.float32(0.15) * x**2), np.float32(60))
    light = np.exp(sharpness * (np.cos(along) - 1)) + m["tail_ratio"] * np.exp(-sharpness * (np.cos(along) + 1))
    return _unit(light * x**3 * np.exp(np.float32(-1.6) * x))


def shells(main: Columns, merger: Columns, low: int, width: int) -> np.ndarray:
    """Three arcs with sharp outer edges, on alternate sides and further and further out; of unit flux."""
    g, m = ({name: _column(value) for name, value in part.items()} for part in (main, merger))
    radius, azimuth = _polar(main, low, width)
    side = np.cos(azimuth - m["shell_angle"])
    light = np.zeros_like(radius)
    for k, edge in enumerate((1.3, 2.0, 2.9)):
        inward = radius - np.float32(edge) * g["r_eff"]  # positive outside; a pixel wide edge
        fall = np.exp(np.minimum(inward / (np.float32(0.25) * g["r_eff"]), -4 * inward))
        light += np.float32(0.7**k) * fall * np.exp(3 * ((-1) ** k * side - 1))
    return _unit(light)


def nucleus(main: Columns, merger: Columns, low: int, width: int) -> np.ndarray:
    """A second, compact, round nucleus of unit flux."""
    one = np.ones(len(main["x"]))
    profile = sersic(np.maximum(0.12 * main["r_eff"], 0.8), 1.0, one, 0 * one)
    return pixels(profile, merger["nucleus_x"], merger["nucleus_y"], low, width)


def _polar(main: Columns, low: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Radius (pixels) and azimuth of every pixel about the main galaxy."""
    axis = np.arange(low, low + width, dtype=np.float32)
    dx, dy = np.broadcast_arrays(axis - _column(main["x"]), axis[:, None] - _column(main["y"]))
    return np.sqrt(dx**2 + dy**2), np.arctan2(dy, dx)


def _unit(light: np.ndarray) -> np.ndarray:
    return light / light.sum(axis=(1, 2), keepdims=True)


def _column(values: np.ndarray) -> np.ndarray:
    """``(N,)`` to ``(N, 1, 1)`` float32."""
    return np.asarray(values, np.float32)[:, None, None]


def pixels(profile: Profile, x: np.ndarray, y: np.ndarray, low: int, width: int) -> np.ndarray:
    """Mean brightness of every pixel of a square canvas.

    Parameters
    ----------
    profile : (dx, dy) -> brightness
        Offsets ``(N, 1, A)`` and ``(N, B, 1)`` float32 from the centre; value ``(N, B, A)``.
    x, y : (N,) float64
        Centre, in coordinates that are whole numbers at pixel centres.
    low, width : int
        Coordinate of the first pixel, and pixels on a side.

    Returns
    -------
    (N, W, W) float32
        Indexed (y, x).
    """
    axis = np.arange(low, low + width)
    dx, dy = (axis - centre[:, None] for centre in (x, y))
    image = profile(dx[:, None, :].astype(np.float32), dy[:, :, None].astype(np.float32))
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    _place(image, _box(profile, column - x, row - y, 1.0, BOXES), row - low, column - low)
    return image


def _box(profile: Profile, x: np.ndarray, y: np.ndarray, cell: float, boxes: tuple[int, ...]) -> np.ndarray:
    """Means over a box of cells ``(N, K, K)`` about the cell that holds the centre and is `x`, `y` away from it."""
    count, step = boxes[0] * SPLIT, cell / SPLIT
    grid = step * (np.arange(count) - (count - 1) / 2)
    dx, dy = (offset[:, None] + grid for offset in (x, y))
    fine = profile(dx[:, None, :].astype(np.float32), dy[:, :, None].astype(np.float32))
    if len(boxes) > 1:
        rows, columns = np.abs(dy).argmin(axis=1), np.abs(dx).argmin(axis=1)
        each = np.arange(len(x))
        _place(fine, _box(profile, dx[each, columns], dy[each, rows], step, boxes[1:]), rows, columns)
    cells = fine.reshape(len(x), boxes[0], SPLIT, boxes[0], SPLIT)
    return cells.sum(axis=4).sum(axis=2) / np.float32(SPLIT**2)


def _place(image: np.ndarray, box: np.ndarray, row: np.ndarray, column: np.ndarray) -> None:
    """Put boxes ``(N, K, K)`` into images about the given middles; what falls outside is left out."""
    reach = np.arange(box.shape[1]) - box.shape[1] // 2
    rows, columns = (row[:, None] + reach)[:, :, None], (column[:, None] + reach)[:, None, :]
    inside = (rows >= 0) & (rows < image.shape[1]) & (columns >= 0) & (columns < image.shape[2])
    each, rows, columns = np.broadcast_arrays(np.arange(len(image))[:, None, None], rows, columns)
    image[each[inside], rows[inside], columns[inside]] = box[inside]

"""Lines are measured as they are, ways through a latent space go where they are said to, and the figures are drawn."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from astroad_jax.analysis import latent, latent_plots, lines, spectra_plots
from astroad_jax.errors import DataError

WAVE = np.linspace(3602, 7554, 1000)
SMALL = np.linspace(3602, 7554, 120)


def gaussian(centre: float, sigma: float, area: float, wave: np.ndarray = WAVE) -> np.ndarray:
    return area * np.exp(-0.5 * ((wave - centre) / sigma) ** 2) / (np.sqrt(2 * np.pi) * sigma)


@pytest.mark.parametrize("name", lines.LINES)
@pytest.mark.parametrize("area", [20.0, -3.0])
def test_strength_of_a_line_on_a_slope(name, area):
    line = lines.LINES[name]
    level = 2 + (WAVE - 5000) / 5000
    flux = level + sum(gaussian(centre, 2.5, area / len(line.waves)) for centre in line.waves)
    found = lines.strength(WAVE, flux[None], name)
    middle = np.interp(np.mean(line.waves), WAVE, level)
    assert found.flux[0] == pytest.approx(area, abs=0.04 * abs(area) + 0.05)
    assert found.width[0] == pytest.approx(area / middle, rel=0.05, abs=0.05)


def test_strength_is_null_where_there_is_nothing_to_measure_by():
    flux = np.stack([np.full(1000, -1.0), np.ones(1000)])
    flux[1, np.argmin(np.abs(WAVE - 6564.6))] = np.nan
    found = lines.strength(WAVE, flux, "Halpha")
    assert np.isnan(found.width).all()
    assert np.isnan(found.flux).tolist() == [False, True]
    with pytest.raises(DataError, match="do not reach"):
        lines.strength(WAVE[:700], flux[:, :700], "Halpha")


def test_wings_break_and_changes():
    old = np.where(WAVE < 4000, 0.5, 1.0)
    young, broad = 1 + gaussian(6564.6, 3.0, 50), 1 + gaussian(6564.6, 80.0, 300)
    flux = np.stack([old, young, broad])
    np.testing.assert_allclose(lines.break_4000(WAVE, flux), [2, 1, 1], rtol=1e-6)
    found = lines.wings(WAVE, flux)
    assert abs(found[:2]).max() < 0.5
    assert found[2] > 80
    (row,) = lines.changes(WAVE, flux[:1], flux[1:2])
    assert row["dimension"] == 1
    assert row["blue"] > 1.3
    assert row["Halpha high"] - row["Halpha low"] == pytest.approx(50, rel=0.02)
    (signs,) = lines.arrows([row])
    assert signs == {
        "dimension": 1, "continuum": "blue up, 4000 A weakens", r"H$\alpha$": "up", "[N II]": "-", r"H$\beta$": "-",
        "[O III]": "-", "[O II]": "-", "broadening": "no",
    }  # fmt: skip
    assert lines.arrows(lines.changes(WAVE, flux[1:2], flux[2:]))[0]["broadening"] == "yes"


@pytest.mark.parametrize(("line", "sigma"), [(6679.99, 2.0), (6365.5, 3.0), (6585.27, 3.0), (6718.29, 3.0)])
def test_wings_know_no_narrow_line(line, sigma):
    assert abs(lines.wings(WAVE, 1 + gaussian(line, sigma, 40)[None])[0]) < 0.5


UNKNOWN = {"continuum": "blue ?, red ?, 4000 A ?", "broadening": "?"}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.0, -1.0, UNKNOWN | {lines.LINES[name].label: "?" for name in lines.TABLE_1}),
        (-1.0, -2.0, UNKNOWN),
        (0.0, 0.0, UNKNOWN),
        (1.0, 0.5, {"continuum": "blue down, red down", "broadening": "no", "[N II]": "-"}),
        (1.0, 1.0, {"continuum": "-"}),
    ],
)
def test_what_cannot_be_measured_is_not_unchanged(low, high, expected):
    ends = (np.full((1, 1000), level) for level in (low, high))
    (signs,) = lines.arrows(lines.changes(WAVE, *ends))
    assert signs | expected == signs


@pytest.mark.parametrize(
    ("at", "z", "text"),
    [(6564.6, 0.1, r"H$\alpha$"), (5780 / 1.2, 0.2, "cameras meet"), (6900.0, 0.2, "sky?"), (5400.0, 0.0, " A observed")],
)
def test_remark_names_what_lies_where_the_residual_is(at, z, text):
    pulls = np.where(np.abs(WAVE - at) < 20, -gaussian(at, 4, 200), 0.5)
    pulls[::50] = np.nan
    pulls[np.argmin(np.abs(WAVE - at))] = -20
    ((where, said),) = lines.remark(WAVE, pulls, z).items()
    assert where == pytest.approx(at, abs=5)
    assert text in said


def test_traversals_share_their_middle_and_move_one_dimension():
    codes = np.random.default_rng(0).normal([0, 3], [1, 2], (500, 2))
    path = latent.traversal(codes, 5, (0.1, 0.9))
    assert path.shape == (2, 5, 2)
    np.testing.assert_allclose(path[:, 2], np.stack([codes.mean(0)] * 2), rtol=1e-5)
    np.testing.assert_allclose(path[0, :, 1], codes[:, 1].mean(), rtol=1e-5)
    np.testing.assert_allclose(path[1, [0, -1], 1], np.quantile(codes[:, 1], (0.1, 0.9)), rtol=1e-5)


def test_track_goes_evenly_and_finds_the_nearest():
    codes = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), -1).reshape(-1, 2)
    way = latent.track(codes, np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0]]), stations=5, nearest=2)
    np.testing.assert_allclose(way.places, [[0, 0], [2, 0], [4, 0], [4, 2], [4, 4]])
    np.testing.assert_allclose(codes[way.rows[:, 0]], way.places)
    assert way.rows.shape == (5, 2)


def test_spine_follows_a_bent_cloud():
    rng = np.random.default_rng(1)
    x = rng.uniform(-3, 3, 4000)
    spine = latent.spine(np.stack([x, 0.3 * x**2 + 0.05 * rng.normal(size=4000)], 1), corners=5)
    np.testing.assert_allclose(spine[:, 1], 0.3 * spine[:, 0] ** 2, atol=0.15)
    assert (np.diff(spine[:, 0]) > 0.5).all()


def test_stack_leaves_out_masked_pixels():
    flux, ivar = np.array([[1.0, 5, 7], [3, 9, 7]]), np.array([[1.0, 1, 0], [9, 0, 0]])
    np.testing.assert_array_equal(latent.stack(flux, ivar), [2, 5, np.nan])


NAN = np.full((3, 2), np.nan)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: latent.traversal(np.zeros((5, 2)), steps=4), "odd number"),
        (lambda: latent.traversal(NAN), "leave out flagged"),
        (lambda: latent.traversal(np.zeros((0, 3))), "N at least 1"),
        (lambda: latent.traversal(np.zeros(3)), r"got: shape \(3,\)"),
        (lambda: latent.track(np.zeros((5, 2)), np.zeros((2, 2))), "a way"),
        (lambda: latent.track(np.zeros((5, 3)), np.eye(2)), "a way"),
        (lambda: latent.spine(np.zeros((5, 2))), "no length"),
        (lambda: latent.spine(np.array([[0.0, 0.0], [1.0, 1.0]])), "wider quantiles"),
        (lambda: latent.spine(np.array([[0.0, 0.0]] * 200 + [[1.0, 1.0]])), "no length"),
        (lambda: latent.spine(np.zeros((1, 2))), "no length"),
    ],
)
def test_ways_that_cannot_be_gone(call, named):
    with pytest.raises(DataError, match=named) as error:
        call()
    assert error.value.fix


def test_a_spine_of_two_objects_takes_all_of_the_cloud():
    np.testing.assert_allclose(latent.spine(np.array([[0.0, 0], [1, 1], [2, 2]]), 2, (0, 0.99)), [[0, 0], [1, 1]])


def spectra(count: int = 3, wave: np.ndarray = SMALL) -> np.ndarray:
    flux = 0.03 + gaussian(6564.6, 20, 4, wave) + 0.002 * np.random.default_rng(2).normal(size=(count, len(wave)))
    ivar = np.full_like(flux, 0.002**-2)
    ivar[:, 10:14] = 0
    return np.stack([flux, ivar], axis=1)


CODES = np.random.default_rng(3).normal(size=(80, 3))
GROUPS = np.array(["GALAXY"] * 60 + ["STAR"] * 20)
TRACK = latent.track(CODES[:, :2], np.array([[-1.0, 0], [1, 0]]), 3, 4)
FIGURES = {
    "corner": lambda path: latent_plots.corner(path, CODES, GROUPS, "codes"),
    "traversals": lambda path: latent_plots.traversals(path, SMALL, np.stack([spectra(3)[:, 0]] * 3)),
    "tracks": lambda path: latent_plots.tracks(path, CODES[:, :2], SMALL, {"B": (TRACK, spectra()[:, 0])}, (1, 2)),
    "reconstructions": lambda path: spectra_plots.reconstructions(
        path, SMALL, spectra(1), spectra(1)[:, 0], ["a"], [r"H$\alpha$, [N II], [S II]"]
    ),
    "strangest": lambda path: spectra_plots.strangest(
        path, SMALL, spectra(2), spectra(2)[:, 0], ["a", "b"], [{6564.0: "here"}, {9000.0: "nowhere", 3650.0: "masked"}]
    ),
    "strangest, one line dwarfs the rest": lambda path: spectra_plots.strangest(
        path, SMALL, spectra(1) + [[gaussian(5000, 20, 90, SMALL), 0 * SMALL]], spectra(1)[:, 0], ["a"]
    ),
    "strangest, all masked": lambda path: spectra_plots.strangest(
        path, SMALL, spectra(1) * [[[1], [0]]], spectra(1)[:, 0], ["a"], [{5000.0: "nothing known"}]
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figure(name, tmp_path):
    FIGURES[name](tmp_path / "figure.png")
    data = (tmp_path / "figure.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    assert width >= 500
    assert height >= 250
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


@pytest.mark.parametrize(
    ("draw", "named"),
    [
        (lambda path: latent_plots.corner(path, CODES[:, :1], GROUPS), "corner"),
        (lambda path: latent_plots.corner(path, CODES, GROUPS[:5]), "corner"),
        (lambda path: latent_plots.corner(path, np.full((80, 3), np.nan), GROUPS), "finite row"),
        (lambda path: latent_plots.corner(path, CODES[:0], GROUPS[:0]), "corner"),
        (lambda path: latent_plots.traversals(path, SMALL, np.full((2, 3, 120), np.nan)), "cannot be drawn"),
        (lambda path: latent_plots.tracks(path, CODES[:, :2], SMALL, {}, (1, 2)), "no track"),
        (lambda path: spectra_plots.strangest(path, SMALL, spectra(0), spectra(0)[:, 0], []), "cannot be drawn"),
        (lambda path: spectra_plots.reconstructions(path, WAVE, spectra(2), spectra(2)[:, 0], []), "cannot be drawn"),
    ],
)
def test_what_cannot_be_drawn_is_said(draw, named, tmp_path):
    with pytest.raises(DataError, match=named) as error:
        draw(tmp_path / "figure.png")
    assert error.value.fix
    assert not list(tmp_path.iterdir())


@pytest.fixture
def drawn(monkeypatch):
    """Figures that the two modules save."""
    figures = []
    for module in (spectra_plots, latent_plots):
        monkeypatch.setattr(module, "save", lambda figure, path: figures.append(figure))
    return figures


BIN = 700  # of `WAVE`, far from all lines
SHAPES = {
    "line of a few bins": (gaussian(WAVE[BIN], 2.0, 10), 0),
    "line between two bins": (gaussian(WAVE[BIN] + 2, 1.2, 10), 0),
    "absorption": (gaussian(WAVE[BIN], 3.0, -5), 0),
    "single pixel up": (2.0 * (np.arange(1000) == BIN), 1),
    "single pixel down": (-2.0 * (np.arange(1000) == BIN), 1),
    "single pixel beside a line": (2.0 * (np.arange(1000) == BIN) + gaussian(5000, 4, 3), 1),
    "single pixel no further than twice the rest": (0.08 * (np.arange(1000) == BIN), 0),
    "nothing": (np.zeros(1000), 0),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_lines_are_shown_whole_and_what_is_cut_is_marked(shape, drawn, tmp_path):
    extra, clipped = SHAPES[shape]
    flux = 1 + 0.02 * np.random.default_rng(0).normal(size=1000) + extra
    x = np.stack([flux, np.full(1000, 2500.0)])[None]
    spectra_plots.strangest(tmp_path / "s.png", WAVE, x, np.ones((1, 1000)), ["a"])
    spectra_plots.reconstructions(tmp_path / "r.png", WAVE, x, np.ones((1, 1000)), ["a"], [])
    for figure in drawn:
        axes = figure.axes[0]
        low, high = axes.get_ylim()
        beyond = (flux < low) | (flux > high)
        assert beyond.sum() == clipped == beyond[BIN]
        marks = [line.get_xdata() for line in axes.lines if line.get_marker() in ("^", "v") and len(line.get_xdata())]
        assert [list(each) for each in marks] == ([[WAVE[BIN]]] if clipped else [])
        assert high - low < 1.3 * np.ptp(flux[~beyond])


@pytest.mark.parametrize(
    ("count", "lost", "expected"),
    [(60, 0, ["GALAXY (n = 60)"]), (60, 5, ["GALAXY (55 of 60 shown)"]), (6500, 0, ["GALAXY (2,167 of 6,500 shown)"])],
)
def test_corner_says_how_many_it_shows(count, lost, expected, drawn, tmp_path):
    codes = np.random.default_rng(0).normal(size=(count + 20, 2))
    codes[:lost, 1] = np.nan
    latent_plots.corner(tmp_path / "c.png", codes, ["GALAXY"] * count + ["STAR"] * 20)
    texts = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert texts == [*expected, "STAR (n = 20)"]


def test_a_group_without_a_finite_code_is_in_the_legend(drawn, tmp_path):
    codes = np.concatenate([CODES[:60], np.full((20, 3), np.nan)])
    latent_plots.corner(tmp_path / "c.png", codes, GROUPS)
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["GALAXY (n = 60)", "STAR (0 of 20 shown)"]


def test_masked_pixels_are_gaps():
    flux = spectra_plots.gapped(SMALL, spectra())
    assert np.isnan(flux[:, 10:14]).all()
    assert np.isfinite(flux[:, 14:]).all()

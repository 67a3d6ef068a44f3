"""Why an object is strange: contributions against closed forms, and ``astroad explain`` from run and scores to its page."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

from astroad_jax import data, errors, files
from astroad_jax.analysis import explain, explain_plots
from astroad_jax.app import bundle, explained, explained_page, explaining, known, scoring, streaming, training
from astroad_jax.app.checksum import Checksum
from astroad_jax.app.split import TRAIN, hash_parts
from astroad_jax.data.store import Held, read_hdf5, write_hdf5
from astroad_jax.engine import catalog, score
from astroad_jax.engine.ensemble import Best, keep_best
from astroad_jax.engine.explain import make_explainer
from astroad_jax.engine.score import make_embedder, make_scorer
from astroad_jax.types import Method, Search, Term
from tests import runs, spectra_files
from tests.test_app_images import sky as images

RNG = np.random.default_rng(0)
TOP, NEAR, ROWS = 2, 3, 4


@pytest.fixture(scope="module", autouse=True)
def one_program():
    """Whatever is computed for objects is so in blocks of `ROWS`: one program each, and none to compare it with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "reference_rows", lambda platform="", size=1: ROWS)
        yield


# Contributions against closed forms

MATRIX = RNG.normal(size=(5, 5))
KINK = jnp.asarray(RNG.normal(size=5), jnp.float32)


def quadratic(x, half):
    return x @ half @ x


FORMS = {
    # score, and its contributions on the way from b to x
    "linear": (lambda x: x @ MATRIX[0], lambda x, b: MATRIX[0] * (x - b)),
    "squares": (lambda x: jnp.sum((x - 1) ** 2), lambda x, b: (x - b) * (x + b - 2)),
    "quadratic": (lambda x: quadratic(x, MATRIX), lambda x, b: (x - b) * ((MATRIX + MATRIX.T) @ (x + b)) / 2),
    "product": (lambda x: x[0] * x[1] * x[2], None),
    "kinked": (lambda x: jnp.maximum(x @ KINK, 0.1) * x[1], None),
}


def scored_by(function) -> Method:
    return Method((), lambda key, state, example: {"score": function(example["x"])}, lambda state, example: example["x"])


@pytest.mark.parametrize("form", FORMS)
def test_contributions_of_a_known_function(form):
    function, expected = FORMS[form]
    x, start = np.random.default_rng(1).normal(size=(2, 7, 5)).astype(np.float32)
    assert ((x @ KINK > 0.1) != (start @ KINK > 0.1)).sum() > 2
    shares = make_explainer(scored_by(function))(None, x, np.arange(7), start)
    np.testing.assert_allclose(shares.value, [function(each) for each in x], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(shares.base, [function(each) for each in start], rtol=1e-5, atol=1e-6)
    assert (shares.error() < 1e-3).all()
    if expected is not None:
        np.testing.assert_allclose(shares.contribution, [expected(*pair) for pair in zip(x, start)], rtol=1e-4, atol=1e-5)


def test_terms_start_where_they_say():
    """A part that is a distance to the reconstruction falls apart into its squares, whatever is typical."""
    x, typical = RNG.normal(size=(2, 70, 2, 3)).astype(np.float32)

    def terms(key, state, example, typical):
        rebuilt = state * example["x"]
        return Term(lambda x: jnp.sum((x - rebuilt) ** 2), rebuilt), Term(lambda x: 3 * jnp.sum(x), typical)

    method = scored_by(lambda x: jnp.sum((0.5 * x) ** 2) + 3 * jnp.sum(x))._replace(terms=terms)
    shares = make_explainer(method)(jnp.float32(0.5), x, np.arange(70), typical)
    np.testing.assert_allclose(shares.contribution, 0.25 * x**2 + 3 * (x - typical), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shares.base, 3 * typical.sum((1, 2)), rtol=1e-4, atol=1e-5)


def test_terms_are_those_of_the_best_state():
    x = RNG.normal(size=(3, 4)).astype(np.float32)

    def terms(key, state, example, typical):
        return (Term(lambda x: state * jnp.sum(x**2), typical),)

    search = Search(*[lambda *given: None] * 4, num_steps=1, terms=lambda *given: terms(None, *given))
    plain = scored_by(lambda x: x[0])._replace(terms=terms)
    held = Best(state=jnp.float32(9), best=jnp.float32(2), value=0, at=0, step=0)
    for method in (plain, plain._replace(score=search)):
        shares = make_explainer(keep_best(method, 1))(held, x, np.arange(3), 0 * x)
        np.testing.assert_allclose(shares.contribution, 2 * x**2, rtol=1e-5)


def test_a_search_that_does_not_tell_its_terms_is_refused():
    search = Search(*[lambda *given: None] * 4, num_steps=1)
    with pytest.raises(ValueError, match="terms"):
        make_explainer(Method((), search, lambda state, example: example["x"]))


# Arrays


def test_noise_is_sigma_whatever_the_outliers():
    draws = RNG.normal(scale=[1.0, 3.0], size=(4000, 2))
    draws[:40] *= 1e6
    assert explain.noise(draws) == pytest.approx([1, 3], rel=0.05)
    draws[:50, 0], draws[:, 1] = np.nan, np.inf
    found = explain.noise(draws)
    assert found[0] == pytest.approx(1, rel=0.05)
    assert np.isnan(found[1])
    with pytest.raises(errors.DataError, match="no residuals"):
        explain.noise(np.zeros((0, 3)))


def test_without_noise_there_is_no_sigma():
    x, rebuilt = np.array([[3.0, 1.0, 2.0]]), np.array([[1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(explain.in_sigma(x, rebuilt, np.array([0.5, 0, np.nan])), [[4, np.nan, np.nan]])


def test_largest_contributions():
    found = explain.largest(np.array([[[1.0, -3], [0, 2]], [[0, 0], [0, 0]]]), 3)
    assert found.entry[0].tolist() == [1, 3, 0]
    assert found.value[0].tolist() == [-3, 2, 1]
    assert found.share.tolist() == [[-0.5, pytest.approx(1 / 3), pytest.approx(1 / 6)], [0, 0, 0]]


@pytest.mark.parametrize("most", [0, 1, 4, 60])
def test_neighbours_are_those_of_brute_force(monkeypatch, most):
    monkeypatch.setattr(explain, "BLOCK", 7)
    codes, others = RNG.normal(size=(5, 3)), RNG.normal(size=(50, 3))
    others[20] = codes[2]  # the object itself, under its own id
    ids, x = np.array([f"id{i:03d}" for i in range(50)]), RNG.normal(size=(50, 2)).astype(np.float32)
    same = np.zeros((5, 50), bool)
    same[2, 20] = True
    held = explain.no_neighbours(5, most, ids, (2,))
    for rows in (slice(0, 30), slice(30, 50)):
        held = explain.nearer(held, codes, others[rows], ids[rows], x[rows], same[:, rows])
    apart = np.where(same, np.inf, np.linalg.norm(codes[:, None] - others, axis=2))
    order = np.argsort(apart, axis=1)[:, :most]
    for row, places in enumerate(order):
        there = places[np.isfinite(apart[row, places])]
        assert held.id[row, : len(there)].tolist() == ids[there].tolist()
        np.testing.assert_allclose(held.distance[row, : len(there)], apart[row, there])
        np.testing.assert_array_equal(held.x[row, : len(there)], x[there])
        assert np.isnan(held.distance[row, len(there) :]).all()


# Files


def test_hdf5_keeps_types_has_checksums_and_is_the_same_twice(tmp_path):
    import h5py

    arrays = {
        "id": Held(np.array([2**63, 5], np.uint64), "ids"),
        "name": Held(np.array(["007", "é"])),
        "flag": Held(np.array([True, False])),
        "x": Held(RNG.normal(size=(2, 3000)).astype(np.float32), "numbers"),
        "group/x": Held(np.zeros((0, 3))),
    }
    for name in "ab":
        write_hdf5(tmp_path / f"{name}.h5", arrays, {"model": "é"})
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    found, notes = read_hdf5(tmp_path / "a.h5")
    assert notes == {"model": "é"}
    assert set(found) == set(arrays)
    for name, held in arrays.items():
        np.testing.assert_array_equal(found[name].values, held.values)
        assert found[name].values.dtype.kind == held.values.dtype.kind
        assert found[name].meaning == held.meaning
    with h5py.File(tmp_path / "a.h5") as file:
        assert all(file[name].fletcher32 for name, held in arrays.items() if held.values.size)
        offset = file["x"].id.get_chunk_info(0).byte_offset
    data = bytearray((tmp_path / "a.h5").read_bytes())
    data[offset + 100] ^= 1
    (tmp_path / "a.h5").write_bytes(bytes(data))
    with pytest.raises(errors.DataError, match="cannot be read as HDF5"):
        read_hdf5(tmp_path / "a.h5")
    with pytest.raises(errors.DataError, match="cannot be stored"):
        write_hdf5(tmp_path / "c.h5", {"x": Held(np.array([None]))}, {})
    assert not (tmp_path / "c.h5").exists()


# The verb, on tables, images and spectra


class Home(NamedTuple):
    """A run, scores, and their explanation."""

    folder: Path
    model: bundle.Bundle
    arrays: dict[str, np.ndarray]
    notes: dict[str, str]

    @property
    def out(self) -> Path:
        return self.folder / "explained"

    def explain(self, *words) -> runs.Outcome:
        return runs.astroad("explain", self.folder / "run", self.folder / "scores", *words)

    def explained(self, out: Path, *ids: str) -> explained.Made:
        """The same without the command line."""
        return explained.explain(out, self.model, self.folder / "run", [self.folder / "scores"], explaining.Options(ids=ids))


def explain_all(folder: Path, trained: Path, scored: Path, *settings: str, words: tuple = ()) -> Home:
    assert runs.astroad("train", "--data", trained, "--out", folder / "run", *TINY, *settings).code == 0
    assert runs.astroad("score", folder / "run", scored, "--out", folder / "scores").code == 0
    home = Home(folder, bundle.load(folder / "run"), {}, {})
    ended = home.explain("--top", TOP, "--neighbours", NEAR, "--out", home.out, *words)
    assert ended.code == 0, ended
    assert f"page      {home.out / 'index.html'}" in ended.out
    held, notes = read_hdf5(home.out / "explanations.h5")
    return home._replace(arrays={name: each.values for name, each in held.items()}, notes=notes)


TINY = [
    "method.latent=2", "train.batch_size=32", "train.epochs=1", "train.steps_per_call=1", "train.log_every=2",
    "data.calibration_fraction=0.2", f"score.batch_size={ROWS}",
]  # fmt: skip
DENSE = ["method.hidden=[]", "method.norm=false"]
MCDSVDD = ["method.name=mcdsvdd", "method.hidden=[8]", "method.pretrain_epochs=1"]
TABLE = [*DENSE, "preprocess.scale=standard", 'data.ignore=["kind"]', "data.anomalies=anomaly"]


def table(folder: Path, *settings: str, write: Callable[..., Path]) -> Home:
    """The third object is odd in one feature, and the fifth lacks one."""
    columns = runs.survey()
    trained = runs.table(folder / "train.parquet", columns)
    columns["kurtosis"][3], columns["skew"][5] = 1e4, np.nan
    return explain_all(folder, trained, write(folder, columns), *TABLE, *settings)


def one_table(folder: Path, columns: dict[str, np.ndarray]) -> Path:
    return runs.table(folder / "sky.parquet", columns)


def two_tables(folder: Path, columns: dict[str, np.ndarray]) -> Path:
    """A directory of tables, each of every other row."""
    for start, name in enumerate("ab"):
        (folder / "sky").mkdir(exist_ok=True)
        runs.table(folder / "sky" / f"{name}.parquet", {key: values[start::2] for key, values in columns.items()})
    return folder / "sky"


def pictures(folder: Path, *settings: str) -> Home:
    np.savez(folder / "sky.npz", **images(60))
    sky = folder / "sky.npz"
    return explain_all(folder, sky, sky, "data.anomalies=double", *settings, words=("--noise-rows", 20))


def spectra(folder: Path) -> Home:
    objects = spectra_files.sky(60)
    flux = objects.flux(spectra_files.FULL)
    ivar = spectra_files.ivar_of(flux)
    ivar[:, 300:360] = 0
    sky = spectra_files.npz(folder, objects, flux=flux.astype(np.float32), ivar=ivar.astype(np.float32))
    chosen = ["spectra.bins=40", "method.name=vae", "method.likelihood=ivar", "method.hidden=[]", "method.samples=0"]
    return explain_all(folder, sky, sky, *chosen)


HOMES = {
    "autoencoder": lambda folder: table(folder, "method.name=autoencoder", write=one_table),
    "mcdsvdd": lambda folder: table(folder, *MCDSVDD, write=two_tables),
    "images": lambda folder: pictures(folder, *DENSE, "method.name=autoencoder"),
    "spectra": spectra,
}
MADE: dict[str, Home] = {}


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    """Each made once, when it is first asked for."""

    def home(name: str) -> Home:
        if name not in MADE:
            MADE[name] = HOMES[name](tmp_path_factory.mktemp(name))
        return MADE[name]

    yield home
    MADE.clear()


def strangest(scores: dict[str, np.ndarray], count: int) -> np.ndarray:
    return np.argsort(np.where(np.isnan(scores["score"]), np.inf, -scores["score"]), kind="stable")[:count]


@pytest.mark.parametrize("name", HOMES)
def test_the_strangest_are_explained_and_nothing_is_left_over(homes, name):
    home = homes(name)
    scores, held = catalog.read_scores(home.folder / "scores"), home.arrays
    order = strangest(scores, TOP)
    for column, values in scores.items():
        np.testing.assert_array_equal(held[f"scores/{column}"], values[order], err_msg=column)
        assert held[f"scores/{column}"].dtype.kind == values.dtype.kind
    assert held["rank"].tolist() == [1, 2]
    assert held["input"].shape == held["contribution"].shape == (TOP, *home.model.schema.shape)
    total, score = held["contribution"].reshape(TOP, -1).sum(1), held["scores/score"]
    largest = np.maximum(np.abs(score), np.abs(held["base"]))
    assert (np.abs(total - (score - held["base"])) <= 2e-3 * largest).all()
    assert (held["error"] <= 2e-3).all()
    assert home.notes["model"] == home.model.digest
    ids = bundle.load_arrays(home.folder / "run" / "split.npz")["train"]
    assert np.isin(held["neighbour_id"], ids).all()
    assert not (held["neighbour_id"] == held["scores/object_id"][:, None]).any()


@pytest.mark.parametrize("name", HOMES)
def test_neighbours_are_the_nearest_that_trained(homes, name):
    home = homes(name)
    parts = bundle.load_arrays(home.folder / "run" / "split.npz")
    rows = list(known.training_rows(home.model, home.folder / "run", parts, str(parts["table"])))
    x, ids = (np.concatenate([getattr(part, field) for part in rows]) for field in ("x", "ids"))
    assert sorted(ids.tolist()) == sorted(parts["train"].tolist())
    embed = make_embedder(home.model.method)
    codes, own = (
        embed(home.model.state, *given)["embedding"] for given in ((x, ids), take(home, "input", "scores/object_id"))
    )
    apart = np.linalg.norm(own[:, None].astype(float) - codes[None], axis=2)
    apart[home.arrays["scores/object_id"][:, None] == ids[None]] = np.inf
    nearest = np.sort(apart, axis=1)[:, :NEAR]
    np.testing.assert_allclose(home.arrays["neighbour_distance"], nearest, rtol=1e-4, atol=1e-6)
    places = np.searchsorted(np.sort(ids), home.arrays["neighbour_id"])
    np.testing.assert_array_equal(home.arrays["neighbour_input"], x[np.argsort(ids)][places])


def take(home: Home, *names: str) -> tuple[np.ndarray, ...]:
    return tuple(home.arrays[name] for name in names)


@pytest.mark.parametrize("name", HOMES)
def test_page_pictures_and_summaries_agree(homes, name):
    home = homes(name)
    assert files.read_sealed(home.out / "explanation.json")["identity"] == home.model.identity()
    rows, plain = pq.read_table(home.out / "summary.parquet").to_pylist(), files.read_json(home.out / "summary.json")
    assert [list(row) for row in rows] == [list(row) for row in plain]
    page = (home.out / "index.html").read_text()
    links = [unquote(link) for link in re.findall(r'(?:src|href)="([^"]+)"', page)]
    assert sorted(set(links)) == sorted(row["picture"] for row in rows)
    for row, other, number in zip(rows, plain, range(TOP)):
        assert row["object_id"] == other["object_id"] == home.arrays["scores/object_id"][number].item()
        assert row["score"] == pytest.approx(other["score"]) == home.arrays["scores/score"][number]
        assert (row["complete"], row["rank"]) == (True, number + 1)
        assert (home.out / row["picture"]).read_bytes().startswith(b"\x89PNG")
        assert (home.out / row["picture"]).stat().st_size > 5000
        assert row["nearest_id"] == home.arrays["neighbour_id"][number, 0].item()
        for text in (row["remark"], str(row["object_id"]), f"{row['score']:.6g}", str(row["nearest_id"])):
            assert text in unescape(page)


@pytest.fixture
def copied(homes, tmp_path) -> Path:
    return shutil.copytree(homes("autoencoder").out, tmp_path / "e")


def test_a_sound_explanation_is_known(copied):
    ended = runs.astroad("verify", copied)
    assert ended.code == 0, ended
    assert f"explanation, {5 + TOP} checked, 0 wrong" in ended.out
    assert explained.is_explanation(copied)


@pytest.mark.parametrize("name", ["summary.json", "explanation.json", "other.txt"])
def test_damage_to_an_explanation_is_seen(copied, name):
    """A changed file, changed checksums, and a file that nobody wrote down."""
    path = copied / name
    path.write_text(path.read_text().replace("1", "2") if path.exists() else "mine")
    ended = runs.astroad("verify", copied)
    assert ended.code == errors.EXIT_CORRUPT
    assert str(copied) in ended.err
    assert name in ended.err
    assert not explained.is_explanation(copied)


@pytest.mark.parametrize("name", ["autoencoder", "mcdsvdd"])
def test_a_planted_odd_feature_comes_first(homes, name):
    home = homes(name)
    first = pq.read_table(home.out / "summary.parquet").to_pylist()[0]
    assert first["object_id"] == runs.survey()["object_id"][3]
    assert first["feature_1"] == "kurtosis"
    assert first["remark"].startswith("kurtosis +")
    names = home.arrays["feature"].tolist()
    assert first["contribution_1"] == home.arrays["contribution"][0, names.index("kurtosis")]
    assert first["contribution_1"] > 0.9 * first["score"]
    assert not np.isin(runs.survey()["object_id"][5], home.arrays["scores/object_id"])


def test_a_reconstruction_error_falls_apart_into_its_squares(homes):
    x, rebuilt, found = take(homes("autoencoder"), "input", "rebuilt", "contribution")
    np.testing.assert_allclose(found, (x - rebuilt) ** 2 / x.shape[1], rtol=1e-4, atol=1e-7)
    assert (homes("autoencoder").arrays["base"] == 0).all()


def test_the_typical_object_is_the_median_of_the_nearest_class(homes):
    home = homes("mcdsvdd")
    parts = bundle.load_arrays(home.folder / "run" / "split.npz")
    (rows,) = known.training_rows(home.model, home.folder / "run", parts, str(parts["table"]))
    nearest = home.arrays["scores/nearest_class"].astype(int)
    expected = [np.median(rows.x[rows.y == c], axis=0) for c in nearest]
    np.testing.assert_allclose(home.arrays["typical"], expected, rtol=1e-6)
    distance = make_scorer(home.model.method)(home.model.state, home.arrays["typical"], np.arange(TOP))
    at_own = distance["nearest_class"] == nearest
    np.testing.assert_allclose(home.arrays["base"][at_own], distance["score"][at_own], rtol=1e-4)


def test_residuals_of_images_are_in_units_of_the_usual_residual(homes):
    home = homes("images")
    x, rebuilt, sigma, found = take(home, "input", "rebuilt", "sigma", "residual")
    assert sigma.shape == home.model.schema.shape
    assert (sigma > 0).all()
    np.testing.assert_allclose(found, (x - rebuilt) / sigma[None], rtol=1e-5)
    row = pq.read_table(home.out / "summary.parquet").to_pylist()[0]
    value, place = np.abs(found[0]).max(), np.unravel_index(np.abs(found[0]).argmax(), found[0].shape)
    assert f"{value:.1f} sigma at row {place[0]}, column {place[1]}, band {place[2]}" in row["remark"]
    assert "20 training objects" in (home.out / "index.html").read_text()


def test_residuals_of_spectra_are_in_units_of_their_own_noise(homes):
    home = homes("spectra")
    x, rebuilt, found, grid = take(home, "input", "rebuilt", "residual", "wavelength")
    flux, ivar = x.astype(np.float64).swapaxes(0, 1)
    expected = np.where(ivar > 0, (flux - rebuilt[:, 0]) * np.sqrt(np.maximum(ivar, 0)), np.nan)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    flux, weight = home.arrays["contribution"].swapaxes(0, 1)
    np.testing.assert_allclose(flux, np.nan_to_num(found) ** 2 / len(grid), rtol=1e-4, atol=1e-7)
    assert (weight == 0).all()
    assert np.isnan(found).any()
    assert "sigma" not in home.arrays
    assert "sigma at" in pq.read_table(home.out / "summary.parquet").to_pylist()[0]["remark"]


def test_a_search_is_explained_from_what_it_rebuilds(homes, tmp_path):
    """A score that is an optimisation: the nearest brightness, and how far the object is from it."""

    def difference(x, rebuilt):
        return jnp.sum(jnp.abs(x - rebuilt))

    search = Search(
        lambda key, state, example: jnp.zeros(()),
        lambda state, example, level: level + 0.5 * jnp.mean(example["x"] - level),
        lambda state, example, level: {"score": difference(example["x"], level), "residual": level},
        lambda level: jnp.zeros((), bool),
        8,
        lambda state, example, level: jnp.full_like(example["x"], level),
        lambda state, example, rebuilt: (Term(lambda x: difference(x, rebuilt), rebuilt),),
    )
    home = homes("images")
    model = home.model._replace(method=home.model.method._replace(score=search, reconstruct=None, terms=None))
    scoring.score(model, [home.folder / "sky.npz"], tmp_path / "scores")
    options = explaining.Options(top=1)
    _, rows, found = explained.explain(tmp_path / "e", model, home.folder / "run", [tmp_path / "scores"], options)
    np.testing.assert_allclose(found.contribution, np.abs(found.x - found.rebuilt), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.rebuilt.std((1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose([row["explained"] for row in rows], [row["score"] for row in rows], rtol=1e-5)
    assert (found.noise_rows, found.base.tolist()) == (len(found.known.sample[1]), [0])
    held, _ = read_hdf5(tmp_path / "e" / "explanations.h5")
    assert held["scores/residual"].values.shape == (1,)
    assert held["residual"].values.shape == found.x.shape


# What is asked for, and what is refused


def test_objects_by_their_ids(homes, tmp_path):
    home = homes("autoencoder")
    scores = catalog.read_scores(home.folder / "scores")
    chosen = scores["object_id"][strangest(scores, 3)][[2, 0]]
    words = [word for key in chosen for word in ("--id", key)]
    ended = home.explain(*words, "--neighbours", 0, "--noise-rows", 0, "--out", tmp_path / "e")
    assert ended.code == 0, ended
    held, _ = read_hdf5(tmp_path / "e" / "explanations.h5")
    assert held["rank"].values.tolist() == [1, 3]
    assert held["scores/object_id"].values.tolist() == chosen[::-1].tolist()
    assert not {"residual", "sigma", "neighbour_id"} & set(held)
    assert (tmp_path / "e" / "index.html").exists()


def test_an_earlier_explanation_is_replaced_and_other_things_are_not(homes, tmp_path):
    home = homes("autoencoder")
    out = shutil.copytree(home.out, tmp_path / "e")
    assert home.explain("--top", 1, "--neighbours", 0, "--noise-rows", 0, "--out", out).code == 0
    assert len(list((out / "pictures").iterdir())) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e"]
    before = runs.contents(out)
    (out / "notes.txt").write_text("mine")
    for place in (out, home.folder / "scores", home.folder / "run"):
        kept = files.manifest(place)
        with pytest.raises(errors.DataError, match="holds other things"):
            home.explained(place)
        assert files.manifest(place) == kept
    assert {**before, "notes.txt": b"mine"} == runs.contents(out)


def test_a_place_in_use_is_refused(homes, tmp_path):
    home = homes("autoencoder")
    with files.whole_directory(tmp_path / "e", explained.is_explanation), pytest.raises(errors.BusyError):
        home.explained(tmp_path / "e")


@pytest.fixture
def moved(homes, tmp_path):
    """A copy of the run with scores of a copy of its table, either of which may be spoilt."""
    home = homes("autoencoder")
    shutil.copytree(home.folder / "run", tmp_path / "run")
    shutil.copytree(home.folder / "scores", tmp_path / "scores")
    for name in ("train", "sky"):
        shutil.copy(home.folder / f"{name}.parquet", tmp_path)
    stamped(home._replace(folder=tmp_path))
    held = bundle.load_arrays(tmp_path / "run" / "split.npz")
    bundle.save_arrays(tmp_path / "run" / "split.npz", **{**held, "table": np.array(str(tmp_path / "train.parquet"))})
    bundle.seal(tmp_path / "run")
    return home._replace(folder=tmp_path)


def other(path: Path) -> None:
    runs.table(path, runs.survey(seed=5))


def objects_of(home: Home, **changes: np.ndarray) -> None:
    """The training table overwritten: the same rows by their ids, but for the changes."""
    runs.table(home.folder / "train.parquet", runs.survey(**changes))


def retell(home: Home, kind: str) -> dict[str, np.ndarray]:
    """``split.npz`` as it is where the training table has ids, has none, or is streamed."""
    path, run = home.folder / "train.parquet", home.folder / "run"
    if kind == "numbered":
        runs.table(path, without_ids(runs.survey()))
    if kind != "named":
        source, settings = data.open_source(path), home.model.settings
        roles = data.find_roles(source, settings.data)
        where = {"table": np.array(str(path)), "numbered": np.array(not roles.id)}
        seen = streaming.survey(source, roles, settings) if kind == "streamed" else training._load(source, roles, settings)
        bundle.save_arrays(run / "split.npz", **where, checksum=np.array(seen.checksum), **getattr(seen, "ids", {}))
        bundle.seal(run)
    return bundle.load_arrays(run / "split.npz")


def without_ids(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values for name, values in columns.items() if name != "object_id"}


def exchanged(home: Home) -> None:
    other(home.folder / "sky.parquet")
    stamped(home)


def stamped(home: Home) -> None:
    """The manifest says that the table beside the scores is the one that was scored, as it is now."""
    book = files.read_sealed(home.folder / "scores" / "manifest.json")
    sky = scoring.partition(home.model, home.folder / "sky.parquet")
    book["partitions"]["sky"] |= {"input": sky.path, "stamp": sky.stamp}
    files.write_sealed(home.folder / "scores" / "manifest.json", book)


OTHER = "not the table that trained the model"
SPOILT = {
    "scored table gone": (lambda home: (home.folder / "sky.parquet").unlink(), [], "not where it was"),
    "scored table changed": (lambda home: other(home.folder / "sky.parquet"), [], "has changed since it was scored"),
    "scored objects exchanged": (exchanged, [], "not the one that was scored"),
    "training table gone": (lambda home: (home.folder / "train.parquet").unlink(), [], "--training"),
    "training table changed": (lambda home: other(home.folder / "train.parquet"), [], OTHER),
    "training objects exchanged": (lambda home: objects_of(home, skew=np.ones(runs.ROWS)), [], OTHER),
    "streamed table changed": (
        lambda home: (retell(home, "streamed"), other(home.folder / "train.parquet")),
        [],
        OTHER,
    ),
    "numbered table changed": (
        lambda home: (retell(home, "numbered"), runs.table(home.folder / "train.parquet", without_ids(runs.survey(seed=5)))),
        [],
        OTHER,
    ),
    "no such object": (lambda home: None, ["12"], "no object here has this id"),
    "object without a score": (
        lambda home: None,
        [str(runs.survey()["object_id"][5])],
        "without a score cannot be explained",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_what_cannot_be_explained_is_refused_and_leaves_nothing(moved, case):
    spoil, ids, expected = SPOILT[case]
    spoil(moved)
    with pytest.raises(errors.DataError) as raised:
        moved.explained(moved.out, *ids)
    assert expected in str(raised.value)
    assert not moved.out.exists()
    assert not list(moved.folder.glob(".*"))


def test_a_refusal_is_told_and_is_an_error_of_the_input(moved):
    (moved.folder / "train.parquet").unlink()
    ended = moved.explain("--out", moved.out)
    assert ended.code == errors.EXIT_INPUT, ended
    assert "--training" in ended.err
    assert "Traceback" not in ended.err


def test_the_training_table_may_be_elsewhere(moved):
    (moved.folder / "train.parquet").rename(moved.folder / "moved.parquet")
    ended = moved.explain("--top", 1, "--noise-rows", 0, "--out", moved.out, "--training", moved.folder / "moved.parquet")
    assert ended.code == 0, ended
    held, _ = read_hdf5(moved.out / "explanations.h5")
    np.testing.assert_array_equal(held["neighbour_id"].values[:, :NEAR], moved.arrays["neighbour_id"][:1])


def test_scores_of_another_model_are_refused(moved):
    book = files.read_sealed(moved.folder / "scores" / "manifest.json")
    book["identity"]["model"] = "0" * 64
    files.write_sealed(moved.folder / "scores" / "manifest.json", book)
    ended = moved.explain("--out", moved.out)
    assert ended.code == errors.EXIT_INPUT
    assert "another model" in ended.err


@pytest.mark.parametrize("kind", ["named", "numbered", "streamed"])
def test_a_training_table_is_known_again(moved, kind):
    """In another place and format, and where objects have ids in another order; of other objects it is not the same."""
    parts, columns, path = retell(moved, kind), runs.survey(), moved.folder / "elsewhere.npz"

    def trained(columns: dict[str, np.ndarray]) -> list:
        np.savez(path, **(without_ids(columns) if kind == "numbered" else columns))
        rows = known.training_rows(moved.model, moved.folder / "run", parts, str(path))
        return np.concatenate([each.ids for each in rows]).tolist()

    part = hash_parts(columns["object_id"], columns["label"], moved.model.settings)
    expected = columns["object_id"][part == TRAIN] if kind == "streamed" else parts["train"]
    assert trained(columns) == expected.tolist()
    backwards = {name: values[::-1] for name, values in columns.items()}
    if kind != "numbered":
        assert trained(backwards) == expected[::-1].tolist()
    wrong = [backwards] if kind == "numbered" else []
    wrong += [{**columns, name: np.roll(columns[name], 1)} for name in ("skew", "label")]
    for each in wrong:
        with pytest.raises(errors.DataError, match=OTHER):
            trained(each)


def test_a_checksum_is_of_rows_in_any_order_and_of_all_that_they_hold(monkeypatch):
    ids, labels, x = np.arange(9) + 2**60, np.array(list("abcdefghi")), RNG.normal(size=(9, 3, 2)).astype(np.float32)
    x[1, 0, 0], x[2, 1, 1] = np.nan, 0

    def told(ids=ids, labels=labels, x=x, parts=(range(9),)) -> str:
        found = Checksum()
        for rows in parts:
            found.add(ids, labels, x, np.array(rows))
        return str(found)

    def changed(place: tuple[int, ...], value: float) -> np.ndarray:
        return np.where(np.arange(x.size).reshape(x.shape) == np.ravel_multi_index(place, x.shape), np.float32(value), x)

    whole = told()
    assert whole.startswith("9 rows of checksum ")
    monkeypatch.setattr("astroad_jax.app.checksum.AT_ONCE", 50)
    assert whole == told(parts=[[8, 3], [], [0, 1, 2, 4, 5, 6, 7]]) == told(ids.astype(str), labels.astype("U9"))
    assert whole == told(x=np.nextafter(x, np.float32(9))) == told(x=changed((2, 1, 1), -0.0))
    others = [told(parts=[range(8)]), told(ids[::-1]), told(labels=labels[::-1]), told(x=x[::-1]), told(x=x[:, ::-1])]
    others += [
        told(x=changed((5, 2, 0), 1.001 * x[5, 2, 0])),
        told(x=changed((1, 0, 0), 0)),
        told(ids + (ids == ids[4]) * 9),
    ]
    assert len({whole, *others}) == 1 + len(others)


def test_a_row_number_is_only_the_same_object_in_the_same_table(moved):
    """An object of another table that has the row number of a training object may be its neighbour."""
    run, parts = moved.folder / "run", bundle.load_arrays(moved.folder / "run" / "split.npz")
    bundle.save_arrays(run / "split.npz", **{**parts, "numbered": np.array(True)})
    ids, now = parts["train"][:1], str(shutil.copy(str(parts["table"]), moved.folder / "moved.parquet"))
    for path, expected in ((str(parts["table"]), False), (now, False), (str(moved.folder / "sky.parquet"), True)):
        wanted = known.Wanted(np.zeros((1, 2), np.float32), ids, np.array([path]))
        found = known.survey(moved.model, run, wanted, neighbours=len(parts["train"]), sample=0, table=now)
        assert (ids[0] in found.neighbours.id[0, np.isfinite(found.neighbours.distance[0])]) == expected


@pytest.fixture(scope="module")
def found(homes) -> explaining.Explanation:
    home = homes("autoencoder")
    return explaining.explanation(home.model, home.folder / "run", [home.folder / "scores"], explaining.Options(top=1))


def test_names_from_data_are_text_on_the_page(homes, found, tmp_path):
    evil = np.array(['<script>alert("x")</script>&amp;'])
    found = found._replace(table={**found.table, "object_id": evil, "label": evil}, names=("<b>$x$",) * 20)
    (row,) = explained.write(tmp_path, homes("autoencoder").model, found)
    page = (tmp_path / "index.html").read_text()
    assert "<script" not in page
    assert "<b>" not in page
    assert unescape(page).count(evil[0]) == 3
    assert row["picture"] == unquote(re.findall(r'src="([^"]+)"', page)[0])
    assert (tmp_path / row["picture"]).exists()
    assert json.loads((tmp_path / "summary.json").read_text())[0]["object_id"] == evil[0]


def test_contributions_that_do_not_add_up_are_told(homes, found):
    found = found._replace(error=np.array([0.5]))
    (row,) = rows = list(explained.summary(found, ["it.png"]))
    assert not row["complete"]
    assert "miss the score by 50.0%" in explained_page.page(found, rows, homes("autoencoder").model)


# Pictures

SPECTRUM = np.stack([RNG.normal(1, 0.1, 300), np.where(np.arange(300) % 50, 4.0, 0.0)])
OBJECTS = {
    "one far off": (np.array([0.5, -3, 1e5, 0.1]), {"names": list("abc$"), "near": 2.0}),
    "many features": (RNG.normal(size=152), {"names": [f"feature {i}" for i in range(152)]}),
    "image": (RNG.uniform(-1, 1, (12, 12, 3)), {}),
    "one band": (RNG.uniform(-1, 1, (12, 12, 1)), {}),
    "observed spectrum": (SPECTRUM, {"grid": np.linspace(3600, 9000, 300), "spectrum": True, "rest": False}),
    "masked spectrum": (np.stack([SPECTRUM[0], np.zeros(300)]), {"spectrum": True}),
    "line": (RNG.normal(size=64), {"names": ["flux"]}),
    "light curves": (RNG.normal(size=(2, 40)), {}),
}


@pytest.mark.parametrize(
    ("kind", "bare"),
    [*((kind, False) for kind in OBJECTS), ("one far off", True), ("image", True), ("observed spectrum", True)],
)
def test_pictures_of_any_object(tmp_path, kind, bare):
    x, options = OBJECTS[kind][0], dict(OBJECTS[kind][1])
    residual = np.where(np.arange(x.shape[-1]) == 2, np.nan, 7.0) + np.zeros(x.shape)
    rebuilt = {} if bare else {"rebuilt": 0.9 * x, "residual": residual[0] if options.get("spectrum") else residual}
    usual = options.pop("near", x) * np.ones_like(x)
    near = x[None][:0] if bare else np.stack([usual + 0.1, usual, usual, usual])
    shown = explain_plots.Explained(x, 0 * x if bare else x**3, 0 * x, near, **rebuilt, **options)
    explain_plots.draw(tmp_path / "p.png", shown, "$7")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "p.png").stat().st_size > 5000


def test_contributions_of_another_shape_are_refused(tmp_path):
    shown = explain_plots.Explained(np.zeros(3), np.zeros(4), np.zeros(3), np.zeros((0, 3)), names="abc")
    with pytest.raises(errors.DataError, match="another shape"):
        explain_plots.draw(tmp_path / "p.png", shown)

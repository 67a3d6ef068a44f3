"""Objects scored as their reader gives them: the device's scaling is the host's, and no object feels its neighbours."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from astroad_jax import config, preprocess
from astroad_jax.app import raw
from astroad_jax.engine.score import make_scorer
from astroad_jax.preprocess import samples
from astroad_jax.types import Search
from tests import toy

ROWS = 203
# variant, scaling, policy for missing values: one pass and searches, features and images
CASES = [
    ("autoencoder", "quantile", "flag"), ("autoencoder", "quantile", "lowest"), ("dasvdd", "minmax", "median"),
    ("vae", "standard", "flag"), ("autoencoder", "gcn", "median"), ("conv_autoencoder", "asinh", "flag"),
    ("fanogan", "linear", "median"), ("wgan_gp", "asinh", "flag"),
]  # fmt: skip


def settings(name: str, scale: str, nan: str, batch_size: int = 4096) -> config.Run:
    slots = 16 if name == "wgan_gp" else 0
    return config.Run(
        method=toy.VARIANTS[name],
        preprocess=config.Preprocess(scale=scale, nan=nan),
        score=config.Score(batch_size=batch_size, slots=slots),
    )


@functools.cache
def started(name: str, scale: str, nan: str):
    """A method with the state it starts from, a scaling of objects far from [-1, 1], and some of them, a few broken."""
    batches = toy.feed(name)
    made, state = toy.method(name, batches, 1), None
    batch = jax.tree.map(lambda column: column[: toy.BATCH], batches.data)
    for stage in made.stages:
        state = jax.jit(stage.init)(jax.random.key(0), batch, state)
    sky = 1000 + 300 * toy.shaped(name, toy.mixture()[0])
    scaler = preprocess.fit(sky, settings(name, scale, nan).preprocess)
    x = samples.draw(scaler, toy.shape(name), ROWS, seed=1, broken=True)
    return made, jax.device_get(state), scaler, x


@pytest.mark.parametrize(("name", "scale", "nan"), CASES)
def test_raw_objects_score_as_those_that_the_host_scaled(name, scale, nan):
    made, state, scaler, x = started(name, scale, nan)
    own = settings(name, scale, nan)
    found = raw.scorer(made, scaler, toy.shape(name), own)(state, raw.prepare(scaler, x)[0], np.arange(ROWS))
    z, flags = preprocess.apply(scaler, x)
    np.testing.assert_array_equal(found.pop("flags"), flags)
    assert len(set(flags.tolist())) > 3
    np.testing.assert_array_equal(raw.scale(scaler, x)[0], z)
    expected = make_scorer(made, seed=own.train.seed, slots=own.score.slots)(state, z, np.arange(ROWS))
    sound = ~preprocess.unusable(scaler, flags)
    assert sound.sum() > ROWS - samples.BROKEN
    assert set(found) == set(expected)
    # a search goes where rounding sends it, so that only its start is close
    many = isinstance(made.score, Search)
    np.testing.assert_allclose(found["score"][sound], expected["score"][sound], rtol=1e-2 if many else 2e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "scale", "nan"), CASES)
def test_raw_scores_are_the_same_bits_in_any_company(name, scale, nan):
    made, state, scaler, x = started(name, scale, nan)
    ids = np.arange(ROWS) + 2**60
    expected = raw.scorer(made, scaler, toy.shape(name), settings(name, scale, nan))(state, x, ids)
    assert np.ptp(expected["score"][np.isfinite(expected["score"])]) > 0
    for batch_size in (1, 96):
        order = np.random.default_rng(batch_size).permutation(ROWS)[: 40 if isinstance(made.score, Search) else ROWS]
        scorer = raw.scorer(made, scaler, toy.shape(name), settings(name, scale, nan, batch_size))
        found = scorer(state, x[order], ids[order])
        for part, values in expected.items():
            np.testing.assert_array_equal(found[part], values[order], err_msg=part)


def test_another_state_gives_other_scores():
    """The last state is remembered, to put it on the device once; another one must not be taken for it."""
    made, state, scaler, x = started("autoencoder", "quantile", "flag")
    scorer = raw.scorer(made, scaler, toy.shape("autoencoder"), settings("autoencoder", "quantile", "flag"))
    first = scorer(state, x, np.arange(ROWS))["score"]
    other = scorer(jax.tree.map(lambda leaf: leaf * 2, state), x, np.arange(ROWS))["score"]
    assert (first != other).mean() > 0.9
    np.testing.assert_array_equal(scorer(state, x, np.arange(ROWS))["score"], first)


def test_spectra_are_scaled_by_the_host():
    sky = toy.shaped("vae-ivar", toy.mixture()[0])
    scaler = preprocess.fit(sky, config.Preprocess(scale="spectrum"))
    x, flags = raw.prepare(scaler, sky[:5])
    z, expected = preprocess.apply(scaler, sky[:5])
    np.testing.assert_array_equal(x, z)
    np.testing.assert_array_equal(flags, expected)
    again, none = raw.scale(scaler, x)
    assert again is x
    assert not none.any()


@pytest.mark.parametrize("scale", ["quantile", "minmax", "standard", "gcn", "none"])
def test_samples_lie_where_training_objects_do(scale):
    """So that two programs can be told apart by their scores: most values are moved to neither end."""
    x = 1000 + 300 * toy.mixture()[0]
    scaler = preprocess.fit(x, config.Preprocess(scale=scale))
    z, flags = preprocess.apply(scaler, samples.draw(scaler, (toy.WIDTH,), 200))
    assert not preprocess.unusable(scaler, flags).any()
    assert (np.abs(np.diff(z, axis=0)) > 0).mean() > 0.9
    broken = preprocess.apply(scaler, samples.draw(scaler, (toy.WIDTH,), 200, broken=True))[1]
    assert preprocess.unusable(scaler, broken).sum() >= 3


@pytest.mark.parametrize("scale", ["linear", "asinh"])
def test_images_are_cropped_before_they_reach_the_device(scale):
    name = "conv_autoencoder"
    made, state, *_ = started(name, "asinh", "flag")
    rng = np.random.default_rng(0)
    sky = 1000 + 300 * rng.normal(size=(60, 20, 24, 1)).astype(np.float32)
    scaler = preprocess.fit(sky, config.Preprocess(scale=scale, crop=12, size=toy.WIDTH))
    sky[0, 0, 0], sky[1, 9, 9] = np.nan, np.nan  # only the second is looked at
    x, _ = raw.prepare(scaler, sky)
    assert x.shape[1:] == raw.prepared_shape(scaler, sky.shape[1:]) == (12, 12, 1)
    z, flags = preprocess.apply(scaler, sky)
    own = settings(name, scale, "flag")
    found = raw.scorer(made, scaler, sky.shape[1:], own)(state, x, np.arange(60))
    np.testing.assert_array_equal(found["flags"], flags)
    assert flags[1] & preprocess.scaler.NAN_INPUT
    assert not flags[0] & preprocess.scaler.NAN_INPUT
    np.testing.assert_array_equal(raw.scale(scaler, x)[0], z)
    sound = flags == 0
    np.testing.assert_allclose(found["score"][sound], make_scorer(made)(state, z, np.arange(60))["score"][sound], rtol=2e-4)


def test_numbers_too_small_to_be_normal_are_0_on_both_sides():
    x = np.zeros((50, toy.WIDTH), np.float32)
    x[:, 1:] = np.linspace(0, 1, 50)[:, None]
    for scale in ("quantile", "gcn", "standard"):
        scaler = preprocess.fit(x, config.Preprocess(scale=scale))
        small = np.repeat(np.float32([[1e-40, -1e-42, 0, 1e-39, 0.5, 0.5, 1e-45, 0.1]]), 4, axis=0)
        small[1] = 1e-40
        scaled = jax.jit(lambda x, scaler=scaler: preprocess.apply(scaler, x, jax.numpy))
        for ours, theirs in zip(scaled(small), preprocess.apply(scaler, small)):
            np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=scale)

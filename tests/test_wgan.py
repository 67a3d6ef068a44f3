"""WGAN-GP against its equations, and the search on what the generator can and cannot make."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from astroad_jax.engine.feed import resident
from astroad_jax.engine.score import make_scorer
from astroad_jax.engine.search import make_searcher
from astroad_jax.engine.train import fit
from astroad_jax.errors import ConfigError
from astroad_jax.methods import build, configure, latent_search, wgan_gp
from astroad_jax.methods.losses import descend
from astroad_jax.nets import conv2d
from astroad_jax.types import Plan, Search

TINY = {"latent": 6, "width": 4, "most": 16, "critic_dense": 8, "n_critic": 2, "iterations": 40, "mu_width": 8}


def images(count: int = 48) -> np.ndarray:
    """Round blobs of random place and width, ``(N, 8, 8, 1)`` in [-1, 1]."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(8.0)] * 2, indexing="ij"))
    at, width = rng.uniform(2.5, 5, (count, 2, 1, 1)), rng.uniform(1, 2, (count, 1, 1))
    blobs = np.exp(-((grid - at) ** 2).sum(1) / (2 * width**2))
    return (2 * blobs - 1)[..., None].astype(np.float32)


def made(**changes):
    config = wgan_gp.Config(**{**TINY, **changes})
    plan = Plan(64, num_steps=8, steps_per_epoch=3, steps_per_pass=3, shape=(8, 8, 1))
    return wgan_gp.build(config, plan), wgan_gp.networks(config, (8, 8, 1))


@pytest.fixture(scope="module")
def trained():
    method, pair = made(search="latent", search_rate=0.05)
    fitted = fit(method, resident({"x": images()}, seed=0, batch_size=16), steps_per_call=4, log_every=1)
    return method, pair, fitted


def test_critic_loss_is_equation_4(trained):
    _, pair, fitted = trained
    params = fitted.state.critic["params"]
    x, fake = jnp.asarray(images(4)), jnp.asarray(images(9)[5:])
    mix, mask = jnp.array([0.1, 0.5, 0.9, 0.3]).reshape(4, 1, 1, 1), jnp.array([1.0, 1.0, 1.0, 0.0])
    value = lambda image: pair.critic.apply({"params": params}, image[None])[0]  # noqa: E731
    norms = [jnp.linalg.norm(jax.grad(value)(m * a + (1 - m) * b)) for a, b, m in zip(x, fake, mix)][:3]
    real, made_up = (np.mean([float(value(image)) for image in kind[:3]]) for kind in (x, fake))
    expected = made_up - real + 10 * np.mean([(float(norm) - 1) ** 2 for norm in norms])
    found, aux = wgan_gp.critic_loss(pair.critic, 10.0, params, x, fake, mix, mask)
    assert float(found) == pytest.approx(expected, rel=1e-4)
    assert float(aux["wasserstein"]) == pytest.approx(real - made_up, rel=1e-4)
    assert float(aux["slope"]) == pytest.approx(np.mean(norms), rel=1e-4)


class Smooth(nn.Module):
    """A critic without kinks: across one, the penalty jumps, and differences say nothing about its gradient."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(conv2d.Features((3, 4), last=4, activation="tanh")(x).reshape(x.shape[0], -1))[:, 0]


def test_gradient_of_the_penalty_by_differences():
    x, fake = jnp.asarray(images(3)), jnp.asarray(images(8)[5:])
    mix, mask = jnp.full((3, 1, 1, 1), 0.4), jnp.ones(3)
    params = Smooth().init(jax.random.key(0), x)["params"]
    loss = jax.jit(lambda p: wgan_gp.critic_loss(Smooth(), 10.0, p, x, fake, mix, mask)[0])
    gradient = jax.grad(loss)(params)
    rng = np.random.default_rng(0)
    towards = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params)
    slope = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(towards)))
    moved = [loss(jax.tree.map(lambda p, d, s=s: p + s * 3e-3 * d, params, towards)) for s in (1, -1)]
    assert float(slope) == pytest.approx(float(moved[0] - moved[1]) / 6e-3, rel=2e-2)


def test_the_generator_moves_every_other_step(trained):
    method, _, _ = trained
    stage, batch = method.stages[0], {"x": jnp.asarray(images(16))}
    state = jax.jit(stage.init)(jax.random.key(0), batch, None)
    kernel = lambda state: np.asarray(state.generator["params"]["Dense_0"]["kernel"])  # noqa: E731
    moved = []
    for number in range(4):
        new, metrics = jax.jit(stage.step)(jax.random.key(number), state, batch)
        moved.append(not np.array_equal(kernel(new), kernel(state)))
        state = new
        assert all(np.isfinite(float(value)) for value in metrics.values())
    assert moved == [False, True, False, True]
    jax.tree.map(np.testing.assert_array_equal, state.average, state.generator)  # no average was asked for


def test_average_follows_the_generator_and_forgets_where_it_began():
    method, _ = made(average=0.75, n_critic=1)
    stage, batch = method.stages[0], {"x": jnp.asarray(images(16))}
    state = jax.jit(stage.init)(jax.random.key(0), batch, None)
    step, expected = jax.jit(stage.step), None
    for number in range(4):
        state, _ = step(jax.random.key(number), state, batch)
        decay = min(0.75, number / (number + 10))
        new = state.generator["params"]
        expected = new if not number else jax.tree.map(lambda a, g, d=decay: d * a + (1 - d) * g, expected, new)
    near = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(near, state.average["params"], expected)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_losses_are_equations_6_to_8(trained, reduction):
    _, pair, fitted = trained
    x, z = jnp.asarray(images(1)[0]), jnp.linspace(-1, 1, 6)
    features = pair.critic.apply(fitted.state.critic, x[None], method="features")[0]
    found = latent_search.losses(pair, wgan_gp.trained(fitted.state), x, features, z, 0.7, reduction)
    fake = pair.generator.apply(fitted.state.average, z[None])
    gather = np.sum if reduction == "sum" else np.mean
    residual = gather(np.abs(np.asarray(x - fake[0])))
    feature = gather(np.abs(np.asarray(features - pair.critic.apply(fitted.state.critic, fake, method="features")[0])))
    assert found == pytest.approx((0.7 * residual + 0.3 * feature, residual, feature), rel=1e-5)


@pytest.mark.parametrize("form", ["mu", "latent"])
def test_what_the_generator_can_make_scores_lower(trained, form):
    _, pair, fitted = trained
    method, _ = made(search=form, search_rate=0.05, iterations=120)
    z = jax.random.normal(jax.random.key(5), (6, pair.latent))
    can = np.asarray(pair.generator.apply(fitted.state.average, z))
    rng = np.random.default_rng(0)
    cannot = np.tanh(can + rng.normal(size=can.shape)).astype(np.float32)
    searcher = make_searcher(method.score, slots=6)
    low = searcher(fitted.state, can, np.arange(6))["score"]
    high = searcher(fitted.state, cannot, np.arange(6))["score"]
    assert low.max() < 0.5 * high.min()


def test_the_best_iteration_counts(trained):
    """Scores never rise with more iterations, and are those of a search by hand."""
    method, pair, fitted = trained
    state, x, ids = fitted.state, images(3), np.arange(3)
    search = method.score
    runs = [make_searcher(search._replace(num_steps=n), slots=3)(state, x, ids)["score"] for n in (1, 10, 40)]
    assert (runs[1] <= runs[0]).all()
    assert (runs[2] <= runs[1]).all()
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 2), 0)
    carry = search.init(key, state, {"x": x[2]})
    z, features = carry.moved, carry.features
    import optax

    tx = optax.adam(0.05, 0.5, 0.9)
    opt, seen = tx.init(z), []
    value = jax.jit(
        jax.value_and_grad(lambda z: latent_search.losses(pair, wgan_gp.trained(state), x[2], features, z, 0.7, "sum").total)
    )
    for _ in range(10):
        loss, gradient = value(z)
        seen.append(float(loss))
        z, opt = descend(tx, gradient, opt, z)
    assert runs[1][2] == pytest.approx(min(seen), rel=1e-4)


def test_a_search_that_no_longer_falls_ends(trained):
    _, _, fitted = trained
    method, _ = made(search="latent", patience=3, tolerance=0.05, iterations=200)
    found = make_scorer(method)(fitted.state, images(5), np.arange(5))
    assert found["iterations"].max() < 200
    assert found["iterations"].min() >= 4


class Seeing(nn.Module):
    """A critic's features without kinks."""

    def setup(self):
        self.layers = conv2d.Features((3, 4), last=4, activation="tanh")

    def __call__(self, x):
        return self.features(x).sum(-1)

    def features(self, x):
        return self.layers(x).reshape(x.shape[0], -1)


def smooth_search(form: str):
    """A search through networks without kinks for an image that is brighter than any that can be made, everywhere."""
    pair = latent_search.Pair(conv2d.Generator(1, (4, 3), activation="tanh"), Seeing(), 5)
    x = jnp.full((8, 8, 1), 3.0)
    keys = jax.random.split(jax.random.key(1), 2)
    state = latent_search.Trained(pair.generator.init(keys[0], jnp.zeros((1, 5))), pair.critic.init(keys[1], x[None]))
    config = latent_search.Config(search=form, search_beta1=0.5, mu_width=4)
    search = latent_search.latent_search(pair, lambda state: state, config)
    carry = search.init(jax.random.key(0), state, {"x": x})
    carry = carry._replace(features=jnp.full_like(carry.features, 9.0))
    mu = latent_search.Mu(4, 5)

    def loss(moved) -> float:
        z = moved if form == "latent" else mu.apply(moved, carry.noise)
        return float(latent_search.losses(pair, state, x, carry.features, z, 0.7, "sum").total)

    return search.step(state, {"x": x}, carry), carry.moved, loss


@pytest.mark.parametrize("form", ["mu", "latent"])
def test_gradient_of_the_search_by_differences(form):
    """What Adam is given in the first iteration: half of it is its first moment."""
    after, moved, loss = smooth_search(form)
    gradient = jax.tree.map(lambda moment: 2 * moment, after.opt[0].mu)
    rng = np.random.default_rng(0)
    for _ in range(3):
        towards = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), moved)
        slope = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(towards)))
        ends = [loss(jax.tree.map(lambda p, d, s=s: p + s * 1e-2 * d, moved, towards)) for s in (1, -1)]
        assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=2e-2, abs=2e-2)
    assert any(float(jnp.abs(leaf).max()) > 0.1 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("form", ["mu", "latent"])
def test_continuous_batching_is_the_plain_search(trained, form):
    """Through networks, of images that end at different times; and one image is the same in every slot."""
    _, _, fitted = trained
    method, _ = made(search=form, search_rate=0.05, patience=3, tolerance=0.02, iterations=60)
    x, ids = images(13), np.arange(13)
    plain = make_searcher(method.score, slots=4, refill=1.0, rebuild=True)(fitted.state, x, ids)
    assert len(np.unique(plain["iterations"])) > 3
    for options in ({"refill": 0.25}, {"refill": 0.25, "steps_per_call": 3}):
        found = make_searcher(method.score, slots=4, rebuild=True, **options)(fitted.state, x, ids)
        jax.tree.map(np.testing.assert_array_equal, found, plain)
    same = make_searcher(method.score, slots=4)(fitted.state, np.stack([x[0]] * 4), np.zeros(4, int))
    assert all(len({value.tobytes() for value in values}) == 1 for values in same.values())


def test_half_precision_steps_and_searches_near_single(trained):
    _, _, fitted = trained
    options = {"search": "latent", "search_rate": 0.05, "iterations": 20}
    batch, ids = {"x": jnp.asarray(images(16))}, np.arange(6)
    found = {}
    for compute in ("float32", "bfloat16"):
        method, _ = made(compute=compute, **options)
        state, metrics = jax.jit(method.stages[0].step)(jax.random.key(0), fitted.state, batch)
        jax.tree.map(lambda new, old: np.testing.assert_equal(new.dtype, old.dtype), state, fitted.state)
        found[compute] = (metrics, make_searcher(method.score, slots=6)(fitted.state, images(6), ids)["score"])
    for name, value in found["float32"][0].items():
        assert float(found["bfloat16"][0][name]) == pytest.approx(float(value), rel=5e-2, abs=5e-2), name
    np.testing.assert_allclose(found["bfloat16"][1], found["float32"][1], rtol=0.1)
    assert not np.array_equal(found["bfloat16"][1], found["float32"][1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wgan_gp", "ganomaly"])
def test_a_step_and_a_score_at_the_size_of_galaxy10(name):
    values = {"name": name, "width": 1, "most": 4, "latent": 4}
    values |= {"iterations": 2, "search": "latent", "n_critic": 1} if name == "wgan_gp" else {}
    method = build(configure(values), Plan(256 * 256 * 3, 1, 1, 1, shape=(256, 256, 3)))
    rng = np.random.default_rng(0)
    batch = {"x": jnp.asarray(rng.uniform(-1, 1, (2, 256, 256, 3)), jnp.float32), "mask": jnp.ones(2)}
    state = None
    for stage in method.stages:
        state = jax.jit(stage.init)(jax.random.key(0), batch, state)
        state, metrics = jax.jit(stage.step)(jax.random.key(1), state, batch)
        assert all(np.isfinite(value) for value in metrics.values())
    if isinstance(method.score, Search):
        score = make_searcher(method.score, slots=2)(state, np.asarray(batch["x"]), np.arange(2))["score"]
    else:
        key = jax.random.key(2)
        score = jax.jit(jax.vmap(lambda x: method.score(key, state, {"x": x})["score"]))(batch["x"])
    assert np.isfinite(score).all()
    assert score[0] != score[1]


@pytest.mark.parametrize("shape", [(16,), (16, 8, 1), (20, 20, 1)])
def test_objects_that_are_no_square_images(shape):
    with pytest.raises(ConfigError, match="square images"):
        wgan_gp.build(wgan_gp.Config(**TINY), Plan(1, 1, 1, 1, shape=shape))


class Falling(nn.Module):
    """A generator of one pixel whose brightness is z."""

    @nn.compact
    def __call__(self, z):
        scale = self.param("scale", nn.initializers.ones, ())
        return scale * z[:, None, None, :1]


class Blind(nn.Module):
    """A critic that sees nothing."""

    @nn.compact
    def __call__(self, x):
        return self.features(x)[:, 0]

    def features(self, x):
        return jnp.zeros((x.shape[0], 1))


def pixel_search(value, **options):
    pair = latent_search.Pair(Falling(), Blind(), 1)
    config = latent_search.Config(search="latent", **{"search_rate": 0.01, "iterations": 200, **options})
    state = latent_search.Trained({"params": {"scale": jnp.ones(())}}, {})
    search = latent_search.latent_search(pair, lambda state: state, config, lambda state, x: jnp.zeros(1))
    x = np.full((1, 1, 1, 1), value, np.float32)
    return make_searcher(search, slots=1, steps_per_call=1, rebuild=True)(state, x, np.arange(1))


def test_a_loss_that_falls_slowly_is_followed():
    """0.5 % an iteration is less than the tolerance; ten of them are more."""
    found = pixel_search(2.0, patience=10, tolerance=0.02)
    assert found["iterations"][0] > 150
    ended = pixel_search(2.0, patience=10, tolerance=0.9)
    assert ended["iterations"][0] == 11


def test_the_last_iteration_where_that_is_asked_for():
    best, last = (pixel_search(0.0025, iterations=40, keep=keep) for keep in ("best", "last"))
    assert best["score"][0] <= last["score"][0]
    assert last["score"][0] > 0


def test_an_object_without_a_finite_loss_has_no_score():
    found = pixel_search(np.nan)
    assert np.isnan(found["score"]).all()
    assert np.isnan(found["reconstruction"]).all()
    assert found["iterations"][0] < 5


def test_mu_does_not_start_from_a_guess():
    pair = latent_search.Pair(Falling(), Blind(), 1)
    with pytest.raises(ConfigError, match="noise"):
        latent_search.latent_search(pair, lambda state: state, latent_search.Config(), lambda state, x: x)

"""Every method's equations against a plain NumPy reading of them, and gradients against finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from astroad_jax.engine.train import fit
from astroad_jax.methods import build, configure, dasvdd, deep_svdd, losses, vae
from astroad_jax.nets import forward
from astroad_jax.nets.dense import MLP
from astroad_jax.types import Plan
from tests import toy

RNG = np.random.default_rng(0)
X = RNG.normal(size=(10, 6)).astype(np.float32)
MASK = (np.arange(10) < 7).astype(np.float32)


def test_masked_mean_is_the_mean_of_real_rows():
    values = RNG.normal(size=10).astype(np.float32)
    np.testing.assert_allclose(losses.masked_mean(values, MASK), values[:7].mean(), rtol=1e-6)
    assert losses.masked_mean(values, np.zeros(10, np.float32)) == 0.0


def test_mean_squares_and_distance():
    y = RNG.normal(size=(10, 2, 3)).astype(np.float32)
    np.testing.assert_allclose(losses.mean_squares(X.reshape(10, 2, 3), y), ((X - y.reshape(10, 6)) ** 2).mean(1), rtol=1e-6)
    np.testing.assert_allclose(losses.squared_distance(X, np.ones(6, np.float32)), ((X - 1) ** 2).sum(1), rtol=1e-6)


def test_kl_closed_form_against_monte_carlo():
    mean, log_var = np.array([[0.5, -1.0]], np.float32), np.array([[0.2, -0.7]], np.float32)
    z = mean + np.exp(log_var / 2) * RNG.normal(size=(400_000, 2))
    log_q = -0.5 * (((z - mean) ** 2) / np.exp(log_var) + log_var)
    sampled = (log_q + 0.5 * z**2).sum(1).mean()
    np.testing.assert_allclose(vae.kl_to_standard_normal(mean, log_var)[0], sampled, rtol=1e-2)
    assert vae.kl_to_standard_normal(np.zeros((1, 3)), np.zeros((1, 3)))[0] == 0.0


@pytest.mark.parametrize("q", [0.0, 0.25, 0.9, 1.0])
def test_masked_quantile_is_numpys(q):
    values = RNG.normal(size=10).astype(np.float32)
    np.testing.assert_allclose(deep_svdd.masked_quantile(values, MASK, q), np.quantile(values[:7], q), rtol=1e-5)


def test_soft_boundary_radius_minimises_equation_1():
    """The (1 - nu) quantile of the distances is where R^2 + mean(max(0, d - R^2)) / nu is least."""
    distances, nu = RNG.exponential(size=2001), 0.1
    objective = lambda r2: r2 + np.maximum(0, distances - r2).mean() / nu  # noqa: E731
    best = np.quantile(distances, 1 - nu)
    assert all(objective(best) <= objective(best + delta) for delta in (-0.2, -0.01, 0.01, 0.2))


def test_equation_3_under_balanced_and_plain_batches():
    """Row weights give sum_j 1/N_j sum_i d_ij, divided by the number of classes."""
    y = np.array([0, 0, 0, 0, 0, 1, 1, 2, 2, 2])
    member = np.eye(3, dtype=np.float32)[y]
    distance = RNG.exponential(size=10).astype(np.float32)
    by_class = np.mean([distance[y == j].mean() for j in range(3)])
    weights = deep_svdd._row_weights(jnp.asarray(member), balanced=False)
    np.testing.assert_allclose((weights * distance).sum(), by_class, rtol=1e-6)
    balanced = deep_svdd._row_weights(jnp.asarray(np.eye(3, dtype=np.float32)[np.arange(9) % 3]), balanced=True)
    np.testing.assert_allclose(balanced, np.full(9, 1 / 9), rtol=1e-6)


def test_centres_are_class_means_of_codes():
    made, fitted = toy.train("mcdsvdd", epochs=2)
    stages = made.stages[:2]
    batches = toy.feed("mcdsvdd")
    pretrained = fit(made._replace(stages=stages[:1]), batches, seed=3).state
    centred = fit(made._replace(stages=stages), batches, seed=3).state
    x, y = toy.mixture()
    encoder = MLP((16, 12, 4), norm=True, last_bias=False, weights="small")
    codes = np.asarray(forward(encoder, pretrained.encoder, x))
    expected = np.stack([codes[y == j].mean(0) for j in range(3)])
    np.testing.assert_allclose(centred.total / centred.count[:, None], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(centred.count, np.bincount(y))
    assert made.stages[1].plain


def test_mcdsvdd_score_is_the_distance_to_the_nearest_centre():
    made, fitted = toy.train("mcdsvdd", epochs=2)
    x, _ = toy.mixture(5)
    for row in x:
        code = np.asarray(made.embed(fitted.state, {"x": row}))
        distances = ((code - np.asarray(fitted.state.centres)) ** 2).sum(1)
        scores = made.score(jax.random.key(0), fitted.state, {"x": row})
        np.testing.assert_allclose(scores["score"], distances.min(), rtol=1e-4)
        assert scores["nearest_class"] == distances.argmin()


def test_centre_epsilon_keeps_components_off_zero():
    state = deep_svdd.CentreState({}, jnp.array([[0.02, -0.02, 3.0, 0.0]]), jnp.array([1.0]))
    np.testing.assert_allclose(deep_svdd._centres(state, 0.1), [[0.1, -0.1, 3.0, 0.1]])


def test_gamma_is_equation_6():
    """Against NumPy, network by network, row by row."""
    batches = toy.feed("dasvdd")
    made = toy.method("dasvdd", batches, epochs=1)
    stage = made.stages[0]
    x, _ = toy.mixture()
    state = fit(made._replace(stages=(stage,)), batches, seed=5).state
    np.testing.assert_array_equal(state.count, np.full(10, len(x)))
    encoder = MLP((16, 12, 4), last="leaky_relu", weights="torch")
    decoder = MLP((12, 16, 8), weights="torch")
    z = np.asarray(forward(encoder, state.encoder, x))
    error = ((x - np.asarray(forward(decoder, state.decoder, z))) ** 2).mean(1)
    radius = (z**2).sum(1)
    np.testing.assert_allclose(state.ratio[-1] / state.count[-1], (error / radius).mean(), rtol=1e-4)
    np.testing.assert_allclose(state.error[-1] / state.radius[-1], error.mean() / radius.mean(), rtol=1e-4)
    np.testing.assert_allclose(dasvdd.gamma_from(state, "mean_of_ratios"), np.mean(state.ratio / state.count), rtol=1e-6)
    np.testing.assert_allclose(dasvdd.gamma_from(state, "ratio_of_means"), np.mean(state.error / state.radius), rtol=1e-6)


@pytest.mark.parametrize("loop", ["paper", "published"])
def test_dasvdd_step_against_numpy(loop):
    """One whole step: which rows see which update, and what moves the centre."""
    config = configure({**toy.VARIANTS["dasvdd"], "gamma": 0.5, "loop": loop, "kappa": 0.75, "weight_decay": 0.0})
    stage = build(config, Plan(8, 10, 2, 2, 1)).stages[0]
    x, _ = toy.mixture(16)
    batch = {"x": x, "mask": np.ones(16, np.float32)}
    before = stage.init(jax.random.key(0), batch, None)
    after, metrics = stage.step(jax.random.key(1), before, batch)
    encoder, decoder = MLP((16, 12, 4), last="leaky_relu"), MLP((12, 16, 8))

    def loss(params, centre):
        z = encoder.apply({"params": params[0]}, x[:12])
        error = jnp.mean((x[:12] - decoder.apply({"params": params[1]}, z)) ** 2)
        radius = jnp.sum((z - centre[None]) ** 2, -1)
        return error + 0.5 * (radius[0] if loop == "published" else radius.mean())

    params = (before.encoder["params"], before.decoder["params"])
    np.testing.assert_allclose(metrics["loss"], loss(params, before.centre), rtol=1e-5)
    gradient, leaked = jax.grad(loss, argnums=(0, 1))(params, before.centre)
    updates, _ = optax.adam(3e-3).update(gradient, optax.adam(3e-3).init(params), params)
    expected = optax.apply_updates(params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), expected[0], after.encoder["params"])
    z = encoder.apply({"params": after.encoder["params"]}, x[12:])
    pull = 2 / 4 * (before.centre - z.mean(0))
    total = pull + leaked if loop == "published" else pull
    z = encoder.apply({"params": before.encoder["params"]}, x)
    error = jnp.mean((x - decoder.apply({"params": before.decoder["params"]}, z)) ** 2)
    held = error + 0.5 * jnp.sum((z - before.centre[None]) ** 2, -1).mean()
    np.testing.assert_allclose(stage.validate(before, batch), held, rtol=1e-5)
    # AdaGrad's first step has size 1 in every component
    np.testing.assert_allclose(after.centre, before.centre - np.sign(total), atol=1e-4)


def test_adagrad_with_decay_against_its_recurrence():
    tx = dasvdd.centre_optimiser(1.0, 0.1)
    value, total, state = np.array([3.0, -2.0], np.float32), np.zeros(2), tx.init(jnp.zeros(2))
    mine = jnp.asarray(value)
    for step in range(5):
        gradient = np.array([0.3 * step + 0.1, -1.0])
        total += gradient**2
        value = value - 1.0 / (1 + 0.1 * step) * gradient / np.sqrt(total)
        mine, state = losses.descend(tx, jnp.asarray(gradient, jnp.float32), state, mine)
    np.testing.assert_allclose(mine, value, rtol=1e-5)


def test_weight_decay_is_the_gradient_of_half_lambda_theta_squared():
    tx = losses.adam_l2(0.1, 0.5)
    params, zero = jnp.array([2.0, -4.0]), jnp.zeros(2)
    mine, _ = losses.descend(tx, zero, tx.init(params), params)
    plain = optax.adam(0.1)
    theirs, _ = losses.descend(plain, 0.5 * params, plain.init(params), params)
    np.testing.assert_allclose(mine, theirs, rtol=1e-6)


LOSSES = {
    "mean squares": lambda x: losses.mean_squares(x, jnp.tanh(x)).sum(),
    "distance": lambda x: losses.squared_distance(x, jnp.ones(x.shape[-1])).sum(),
    "divergence": lambda x: vae.kl_to_standard_normal(x, jnp.sin(x)).sum(),
    "masked": lambda x: losses.masked_mean(losses.squared_distance(x, 0.0), jnp.asarray(MASK)),
}


@pytest.mark.parametrize("name", list(LOSSES))
def test_gradients_against_finite_differences(name):
    check_grads(LOSSES[name], (jnp.asarray(X),), order=1, modes=["rev"], atol=2e-2, rtol=2e-2)


def test_sum_and_mean_errors_give_one_ranking():
    """With gamma by eq. 6, averaging the error over features instead of summing scales the score and nothing else."""
    x, _ = toy.mixture(128)
    batch = {"x": x, "mask": np.ones(128, np.float32)}
    scores = {}
    for error in ("mean", "sum"):
        config = configure({**toy.VARIANTS["dasvdd"], "error": error, "gamma_runs": 2})
        made = build(config, Plan(8, 1, 1, 1, 1))
        tune = made.stages[0].init(jax.random.key(0), batch, None)
        for i in range(2):
            tune, _ = made.stages[0].step(jax.random.key(i), tune, batch)
        state = made.stages[1].init(jax.random.key(2), batch, tune)
        scores[error] = np.array([made.score(jax.random.key(0), state, {"x": row})["score"] for row in x[:20]])
    np.testing.assert_allclose(scores["sum"], 8 * scores["mean"], rtol=1e-4)

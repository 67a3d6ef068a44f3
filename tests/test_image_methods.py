"""GANomaly, f-AnoGAN and the convolutional autoencoder against their equations; images turned; collapse reported."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from astroad_jax import config
from astroad_jax.engine import checkpoint, rundir
from astroad_jax.engine.score import make_reconstructor, make_scorer
from astroad_jax.engine.search import make_searcher
from astroad_jax.engine.train import Hooks, Saved, fit
from astroad_jax.errors import ConfigError, DivergedError
from astroad_jax.methods import configure, conv_autoencoder, fanogan, ganomaly, wgan_gp
from astroad_jax.methods.augment import augmented, dihedral
from astroad_jax.methods.variety import collapsed, one_for_all, variety
from astroad_jax.nets import conv2d
from tests import toy

SHAPE = toy.shape("ganomaly")


def rows(count: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(toy.shaped("ganomaly", toy.mixture(count, seed)[0]))


@pytest.fixture(scope="module")
def adversaries():
    nets = ganomaly.networks(configure(toy.VARIANTS["ganomaly"]), SHAPE)
    _, fitted = toy.train("ganomaly", epochs=2)
    return nets, fitted.state


@pytest.mark.parametrize("matched", ["features", "outputs"])
def test_generator_loss_is_the_three_losses(adversaries, matched):
    nets, state = adversaries
    x, mask = rows(6), jnp.array([1.0, 1, 1, 1, 1, 0])
    params = tuple(variables["params"] for variables in state[:3])
    total, (parts, _) = ganomaly.generator_loss(nets, ganomaly.Weights(2.0, 30.0, 5.0), matched, state, params, x, mask)
    train = {"train": True, "mask": mask, "mutable": ["batch_stats"]}
    code = nets.encoder.apply(state.encoder, x, **train)[0]
    rebuilt = nets.decoder.apply(state.decoder, code, **train)[0]
    again = nets.again.apply(state.again, rebuilt, **train)[0]
    if matched == "features":
        f = [nets.critic.apply(state.critic, images, method="features", **train)[0] for images in (x, rebuilt)]
    else:
        f = [jax.nn.sigmoid(nets.critic.apply(state.critic, images, **train)[0])[:, None] for images in (x, rebuilt)]
    real = slice(0, 5)
    expected = {
        "adversarial": np.mean(np.square(f[0] - f[1])[real]),
        "context": np.mean(np.abs(x - rebuilt)[real]),
        "encoder": np.mean(np.square(code - again)[real]),
    }
    assert parts == pytest.approx(expected, rel=1e-4)
    assert float(total) == pytest.approx(np.dot([2, 30, 5], list(expected.values())), rel=1e-4)


def test_feature_matching_gradient_by_differences(adversaries):
    """Of the first loss alone, along a random direction; the last layer of the decoder, where nothing has a kink."""
    nets, state = adversaries
    x, mask = rows(6), jnp.ones(6)
    params = tuple(variables["params"] for variables in state[:3])
    last = max(params[1], key=lambda name: int(name.rpartition("_")[2]) if name.startswith("Conv") else -1)

    def loss(bias: jax.Array) -> jax.Array:
        decoder = {**params[1], last: {**params[1][last], "bias": bias}}
        changed = (params[0], decoder, params[2])
        weights = ganomaly.Weights(1.0, 0.0, 0.0)
        return ganomaly.generator_loss(nets, weights, "features", state, changed, x, mask)[0]

    bias = params[1][last]["bias"]
    slope = jax.jit(jax.grad(loss))(bias)
    value, step = jax.jit(loss), 1e-2
    numeric = [(float(value(bias + step * e)) - float(value(bias - step * e))) / (2 * step) for e in np.eye(len(bias))]
    np.testing.assert_allclose(slope, numeric, rtol=3e-2, atol=1e-5)


def test_critic_loss_is_half_a_cross_entropy(adversaries):
    nets, state = adversaries
    x, fake, mask = rows(4), rows(4, seed=3)[::-1], jnp.ones(4)
    loss, _ = ganomaly.critic_loss(nets, state.critic, state.critic["params"], x, fake, mask)
    said = [
        nets.critic.apply(state.critic, images, train=True, mask=mask, mutable=["batch_stats"])[0] for images in (x, fake)
    ]
    expected = -0.5 * np.mean(np.log(jax.nn.sigmoid(said[0])) + np.log(1 - jax.nn.sigmoid(said[1])))
    assert float(loss) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("score_by", ["sum", "squares"])
def test_ganomaly_score_is_between_the_codes(adversaries, score_by):
    nets, state = adversaries
    x = rows(3)
    code = nets.encoder.apply(state.encoder, x)
    again = nets.again.apply(state.again, nets.decoder.apply(state.decoder, code))
    made = ganomaly.ganomaly(nets, None, score_by=score_by)
    scores = [made.score(None, state, {"x": image})["score"] for image in x]
    apart = np.asarray(code - again)
    expected = np.abs(apart).sum(1) if score_by == "sum" else (apart**2).mean(1)
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


@pytest.fixture(scope="module")
def mapped():
    made, fitted = toy.train("fanogan", epochs=8)
    pair = wgan_gp.networks(configure(toy.VARIANTS["fanogan"]), SHAPE)
    return made, pair, fitted.state


def test_fanogan_score_is_both_residuals(mapped):
    made, pair, state = mapped
    x = rows(3)
    z = jnp.stack([made.embed(state, {"x": image}) for image in x])
    rebuilt = pair.generator.apply(state.gan.generator, z)
    f = [pair.critic.apply(state.gan.critic, images, method="features") for images in (x, rebuilt)]
    image = np.mean(np.square(x - rebuilt), axis=(1, 2, 3))
    feature = np.mean(np.square(f[0] - f[1]), axis=1)
    found = make_scorer(made._replace(score=made.score))(state, np.asarray(x), np.arange(3))
    np.testing.assert_allclose(found["residual"], image, rtol=1e-4)
    np.testing.assert_allclose(found["feature"], feature, rtol=1e-4)
    np.testing.assert_allclose(found["score"], image + 1.0 * feature, rtol=1e-4)
    again = make_reconstructor(made)(state, np.asarray(x), np.arange(3))["reconstruction"]
    np.testing.assert_allclose(again, rebuilt, atol=1e-5)


def test_encoder_stage_descends_on_its_loss(mapped):
    made, pair, state = mapped
    x, mask = rows(16), jnp.ones(16)
    stage = made.stages[1]
    _, metrics = jax.jit(stage.step)(jax.random.key(0), state, {"x": x, "mask": mask})
    z = jnp.stack([made.embed(state, {"x": image}) for image in x])
    found = fanogan.residuals(pair, state.gan, x, z)
    assert float(metrics["loss"]) == pytest.approx(float(found.image.mean() + found.feature.mean()), rel=1e-4)


def test_a_search_from_the_encoder_starts_where_the_encoder_says(mapped):
    _, pair, state = mapped
    made, _ = toy.train("fanogan-search", epochs=1)
    x = rows(4)
    search = made.score
    carry = search.init(jax.random.key(0), state, {"x": x[0]})
    np.testing.assert_allclose(carry.z, made.embed(state, {"x": x[0]}), rtol=1e-6)
    runs = [
        make_searcher(search._replace(num_steps=n), slots=4, rebuild=True)(state, np.asarray(x), np.arange(4))
        for n in (1, 30)
    ]
    assert (runs[1]["score"] < runs[0]["score"]).all()
    apart = [np.abs(run["reconstruction"] - np.asarray(x)).sum((1, 2, 3)) for run in runs]
    np.testing.assert_allclose(apart[1], runs[1]["residual"], rtol=1e-4)


def test_residual_statistics_against_scipy():
    from scipy import stats

    r = np.random.default_rng(0).gamma(2.0, size=(6, 5, 2)).astype(np.float32)
    found = conv_autoencoder.residual_statistics(jnp.asarray(r))
    expected = {
        "mse": np.mean(r**2),
        "mad": stats.median_abs_deviation(r, axis=None),
        "skewness": stats.skew(r, axis=None),
        "maximum": r.max(),
    }
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, rel=1e-4)
    for level in (0.0, 0.1, 0.3, 0.5):
        flat = conv_autoencoder.residual_statistics(jnp.full((16, 16), level))
        assert float(flat["skewness"]) == 0
    assert np.isnan(conv_autoencoder.residual_statistics(jnp.array([0.1, jnp.nan, 0.3]))["skewness"])


@pytest.mark.parametrize("statistic", ["mse", "mad", "skewness", "maximum"])
def test_the_statistic_asked_for_is_the_score(statistic):
    values = {**toy.VARIANTS["conv_autoencoder"], "statistic": statistic}
    made = conv_autoencoder.build(configure(values), toy.plan("conv_autoencoder", toy.feed("conv_autoencoder"), 1))
    state = made.stages[0].init(jax.random.key(0), {"x": rows(4)}, None)
    found = made.score(jax.random.key(0), state, {"x": rows(1)[0]})
    assert float(found["score"]) == abs(float(found[statistic]))


def test_turned_images_are_the_eight_symmetries():
    image = jnp.arange(9.0).reshape(3, 3, 1)
    turned = np.asarray(dihedral(jax.random.key(0), jnp.tile(image, (400, 1, 1, 1))))[..., 0]
    seen, counts = np.unique(turned.reshape(400, 9), axis=0, return_counts=True)
    plain = np.asarray(image)[..., 0]
    expected = {np.rot90(side, k).tobytes() for side in (plain, plain.T) for k in range(4)}
    assert {row.tobytes() for row in seen} == expected
    assert counts.min() > 25  # of 50 each


def test_augmented_training_sees_turned_images_and_resumes_the_same():
    batches = toy.feed("conv_autoencoder")
    plain = toy.method("conv_autoencoder", batches, epochs=1)
    turning = augmented(plain, SHAPE)
    runs = [fit(made, batches, seed=3, steps_per_call=n) for made, n in ((plain, 2), (turning, 2), (turning, 5))]
    weights = [np.asarray(jax.tree.leaves(run.state)[0]) for run in runs]
    assert not np.array_equal(weights[0], weights[1])
    np.testing.assert_array_equal(weights[1], weights[2])
    with pytest.raises(ConfigError, match="square"):
        augmented(plain, (8,))


VARIETY = [0.1, 0.5, 0.9, 0.04, 0.03, 0.5, 0.02, 0.02, 0.02, 0.02]


def watched(caplog, start: int, history: list[dict]) -> list[str]:
    """What is said of a training whose variety goes as `VARIETY`, taken up at a step."""
    batches = toy.feed("wgan_gp")
    made = toy.method("wgan_gp", batches, epochs=1)

    def step(key, state, batch):
        values = jnp.asarray(VARIETY, jnp.float32)[state.step]
        return state._replace(step=state.step + 1), {"loss": jnp.ones(()), "variety": values}

    stage = made.stages[0]._replace(step=step)
    example = {"x": rows(toy.BATCH), "mask": jnp.ones(toy.BATCH)}
    state = jax.tree.map(jnp.copy, jax.jit(stage.init)(jax.random.key(0), example, None))  # no buffer twice: it is donated
    state = state._replace(step=jnp.asarray(start, jnp.int32))
    resume = (lambda index, abstract: Saved(0, start, state)) if start else (lambda index, abstract: None)
    noted = []
    hooks = Hooks(lambda rows: None, lambda *at: noted.append((at[2], bool(at[5]))), resume, 0, history=lambda: history)
    fit(made._replace(stages=(stage,)), batches, log_every=1, steps_per_call=1, checkpoint_every=1, hooks=hooks)
    assert noted == [(step + 1, VARIETY[step] < 0.09) for step in range(start, len(VARIETY))]
    return [record.getMessage() for record in caplog.records if "mode collapse" in record.getMessage()]


def test_collapse_is_reported_once(caplog):
    told = watched(caplog, 0, [])
    assert len(told) == 2
    assert "step 4" in told[0]
    assert "step 7" in told[1]


def test_collapse_is_known_after_a_resumed_run_by_what_was_before(caplog):
    history = [{"stage": "wgan", "variety": value} for value in VARIETY[:3]]
    assert len(watched(caplog, 3, history)) == 2


@pytest.mark.parametrize(
    ("variety", "step", "told"), [(0.003, 40, False), (0.003, 50, True), (0.003, 900, True), (0.2, 900, False)]
)
def test_a_generator_that_was_never_various_is_reported(variety, step, told):
    rows = [{"variety": variety, "step": step} for step in range(10, step + 1, 10)]
    assert bool(collapsed(rows, begun=50)) == told
    assert bool(one_for_all(rows, begun=50)) == told


@pytest.mark.parametrize(("name", "stage"), [("ganomaly", 0), ("fanogan", 1)])
def test_an_autoencoder_that_rebuilds_one_image_is_reported(name, stage):
    """Weights of 0 before the last layer: the same image for all."""
    made, fitted = toy.train(name, epochs=2)
    batch = {"x": rows(toy.BATCH), "mask": jnp.ones(toy.BATCH)}
    step, watch = jax.jit(made.stages[stage].step), made.stages[stage].watch
    broken = "decoder" if name == "ganomaly" else "encoder"
    dead = jax.tree.map(jnp.zeros_like, getattr(fitted.state, broken))
    for state, told in ((fitted.state, False), (fitted.state._replace(**{broken: dead}), True)):
        _, metrics = step(jax.random.key(0), state, batch)
        row = {key: float(value) for key, value in metrics.items()}
        assert (row["variety"] < 1e-3) == told
        assert not watch([{**row, "step": 499}])
        assert ("mode collapse" in watch([{**row, "step": 500, "variety": row["variety"] if told else 0.5}])) == told


def test_variety_is_a_ratio_of_spreads():
    rng = np.random.default_rng(0)
    real, mask = rng.normal(size=(9, 4, 4, 2)).astype(np.float32), np.array([1] * 7 + [0] * 2, np.float32)
    made = 0.3 * real + 2
    made[7:] = 99  # padding
    assert float(variety(made, real, mask)) == pytest.approx(0.3, rel=1e-4)
    assert float(variety(np.ones_like(real), real, mask)) == 0
    assert np.isfinite(variety(made, np.ones_like(real), mask))


def test_divergence_leaves_checkpoints_that_can_be_used(tmp_path):
    """Saved after every step, the generator's first move included, by which its parameters overflow."""
    batches = toy.feed("wgan_gp")
    values = {**toy.VARIANTS["wgan_gp"], "learning_rate": 1e30}
    made = toy.build(configure(values), toy.plan("wgan_gp", batches, 2))
    opened = rundir.open_run(tmp_path / "run", config.Run(method=values), batches)
    with opened as hooks, pytest.raises(DivergedError, match="diverged"):
        fit(made, batches, log_every=1, steps_per_call=1, checkpoint_every=1, hooks=hooks)
    path, _ = checkpoint.newest(tmp_path / "run" / "checkpoints")
    example = {"x": rows(toy.BATCH), "mask": jnp.ones(toy.BATCH)}
    state = checkpoint.restore(path, rundir.abstract_state(made, example))
    assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(state))


def test_a_state_with_nan_is_not_saved(tmp_path):
    batches = toy.feed("autoencoder")
    settings = config.Run(method={"name": "autoencoder"})
    with rundir.open_run(tmp_path / "run", settings, batches) as hooks:
        hooks.on_checkpoint(0, "main", 1, 1, {"best": jnp.float32(jnp.inf), "w": jnp.ones(3)}, {})
        with pytest.raises(DivergedError, match=r"(?s)NaN.*step 2.*\['w'\]") as caught:
            hooks.on_checkpoint(0, "main", 2, 2, {"best": jnp.float32(1), "w": jnp.array([1, jnp.nan])}, {})
    assert "earlier checkpoints" in str(caught.value)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*")] == ["step_000000001"]


def test_a_discriminator_that_has_won_is_reported():
    assert not ganomaly.overcome([{"critic": 0.3}])
    assert "discriminator" in ganomaly.overcome([{"critic": 0.3}, {"critic": 1e-7}])


def test_a_generator_that_would_never_move_is_refused():
    with pytest.raises(ConfigError, match="never move"):
        toy.build(configure({**toy.VARIANTS["wgan_gp"], "n_critic": 99}), toy.plan("wgan_gp", toy.feed("wgan_gp"), 1))


def test_bias_gradients_are_summed_in_float32():
    """32 x 64 x 64 numbers of one sign: a bfloat16 sum would stop at 256 of them."""
    layer = conv2d.Conv(2, dtype=jnp.bfloat16)
    x = jnp.ones((8, 32, 32, 1))
    params = layer.init(jax.random.key(0), x)
    gradient = jax.grad(lambda p: layer.apply(p, x).astype(jnp.float32).sum())(params)
    np.testing.assert_allclose(gradient["params"]["bias"], x.size, rtol=1e-3)
    with pytest.raises(ValueError, match="odd kernel"):
        conv2d.Conv(2, size=4).init(jax.random.key(0), x)

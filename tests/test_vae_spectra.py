"""The variational autoencoder on spectra: the DESI paper's equations against NumPy, masked pixels, the plateau rule."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import norm

from astroad_jax.engine.checkpoint import digest
from astroad_jax.engine.ensemble import keep_best
from astroad_jax.engine.feed import resident, with_valid
from astroad_jax.engine.score import make_reconstructor, make_scorer
from astroad_jax.engine.train import Fitted, Hooks, Saved, fit
from astroad_jax.errors import ConfigError
from astroad_jax.methods import build, configure, likelihoods, plateau, vae, vae_pixels
from astroad_jax.methods.coherent import coherent, sums
from astroad_jax.nets import forward
from astroad_jax.types import Feed, Method, Plan

PIXELS, BATCH = 8, 16
UNIT = PIXELS**-0.5  # flux in which the networks reckon
RNG = np.random.default_rng(0)
TINY = {"name": "vae", "likelihood": "ivar", "hidden": (6,), "latent": 2, "plateau": 0, "samples": 4, "dropout": 0.0}
PLAN = Plan(2 * PIXELS, 12, 2, 2, shape=(2, PIXELS))


def spectra(rows: int = 32, seed: int = 0) -> np.ndarray:
    """Unit-norm spectra ``(N, 2, 8)`` of S/N about 20, a fifth of whose pixels are masked."""
    rng = np.random.default_rng(seed)
    flux = 1 + 0.3 * rng.normal(size=(rows, 1)) * np.linspace(-1, 1, PIXELS) + 0.05 * rng.normal(size=(rows, PIXELS))
    length = np.linalg.norm(flux, axis=1, keepdims=True)
    ivar = np.where(rng.uniform(size=flux.shape) < 0.2, 0, (20 * length) ** 2 * rng.uniform(0.5, 2, flux.shape))
    return np.stack([flux / length, ivar], axis=1).astype(np.float32)


class Started(NamedTuple):
    """Networks, method, the state they start from (its decoder moved off zero), and the compiled functions."""

    nets: vae.Nets
    made: Method
    state: vae.VAEState
    step: Callable
    validate: Callable
    score: Callable


@cache
def started(**options) -> Started:
    config = configure({**TINY, **options})
    made, nets = build(config, PLAN), vae.nets_of(config, PLAN)
    stage = made.stages[0]
    state = jax.jit(stage.init)(jax.random.key(1), {"x": spectra(BATCH)}, None)
    state = state._replace(decoder=jax.tree.map(lambda leaf: leaf + 0.1, state.decoder))
    return Started(nets, made, state, jax.jit(stage.step), jax.jit(stage.validate), make_scorer(made))


def batch(**columns) -> dict[str, np.ndarray]:
    return {"x": spectra(BATCH), "mask": np.ones(BATCH, np.float32), **columns}


def by_hand(x: np.ndarray, out: np.ndarray, kind: str) -> np.ndarray:
    """-log p of spectra, pixel by pixel in a loop, from scipy's normal density."""
    costs = np.zeros(len(x))
    for row, (flux, ivar) in enumerate(x.astype(np.float64)):
        for pixel in np.flatnonzero(ivar > 0):
            if kind == "ivar":
                sigma = ivar[pixel] ** -0.5
                constant = norm.logpdf(0, scale=sigma)
            else:
                sigma, constant = np.sqrt(1e-4**2 + UNIT**2 * np.exp(out[row, PIXELS + pixel])), 0.0
            costs[row] -= norm.logpdf(flux[pixel], UNIT * out[row, pixel], sigma) - constant
    return costs


# Equations


@pytest.mark.parametrize("kind", ["ivar", "learnt"])
def test_networks_see_and_give_differences_from_the_mean_spectrum(kind):
    """Of unmasked pixels and real rows: whatever stands elsewhere does not count. The fixed likelihood has no such mean."""
    likelihood = vae.LIKELIHOODS[kind](configure({**TINY, "likelihood": kind}))
    x, mask = spectra(BATCH), (np.arange(BATCH) < 11).astype(np.float32)
    x[:, 0] = np.where(x[:, 1] > 0, x[:, 0], 1e30)
    x[11:, 0] = np.nan
    expected = [row[weight > 0].mean() / UNIT for row, weight in zip(x[:11, 0].T.astype(np.float64), x[:11, 1].T)]
    np.testing.assert_allclose(likelihood.centre(x, mask), expected, rtol=1e-5)
    nets, _, state, *_ = started(likelihood=kind, hidden=())
    np.testing.assert_allclose(state.centre, likelihood.centre(spectra(BATCH), np.ones(BATCH, np.float32)), rtol=1e-6)
    layer, at = state.encoder["params"]["Dense_0"], np.stack([UNIT * state.centre, np.ones(PIXELS)])[None]
    np.testing.assert_allclose(nets.encode(state, at.astype(np.float32))[0][0], layer["bias"][:2], atol=1e-5)
    zero = jax.tree.map(jnp.zeros_like, state._replace(centre=state.centre))._replace(centre=state.centre)
    rebuilt = nets.likelihood.rebuilt(spectra(1), nets.decode(zero, jnp.zeros((1, 2))))
    np.testing.assert_allclose(rebuilt[0, 0], UNIT * state.centre, rtol=1e-6)
    assert not likelihoods.fixed().centre(spectra(2), np.ones(2)).any()


def test_networks_stay_alive_on_pixels_of_one_sign():
    """Thirty updates at the default rate leave most units of the first layer at work."""
    pixels = 300
    rng = np.random.default_rng(3)
    flux = 1 + 0.2 * rng.normal(size=(64, 1)) * np.linspace(-1, 1, pixels) + 0.02 * rng.normal(size=(64, pixels))
    flux /= np.linalg.norm(flux, axis=1, keepdims=True)
    x = np.stack([flux, np.full(flux.shape, 2500.0 * pixels)], axis=1).astype(np.float32)
    plan = Plan(2 * pixels, 30, 30, 30, shape=(2, pixels))
    config = configure({**TINY, "hidden": (64, 32), "weights": "glorot"})
    made, nets = build(config, plan), vae.nets_of(config, plan)
    state = fit(made, resident({"x": x}, seed=0, batch_size=64), steps_per_call=30, log_every=30).state
    first = jax.tree.map(np.asarray, state.encoder["params"]["Dense_0"])
    alive = (np.asarray(nets.seen(state, x)) @ first["kernel"] + first["bias"] > 0).any(axis=0)
    assert alive.mean() > 0.8


@pytest.mark.parametrize("kind", ["ivar", "learnt"])
def test_negative_evidence_lower_bound_against_numpy(kind):
    """One training loss: -log p at draws of the code, plus the divergence, averaged over real rows."""
    nets, _, state, step, validate, _ = started(likelihood=kind, beta=0.7, draws=3)
    given = batch(mask=(np.arange(BATCH) < 11).astype(np.float32))
    key = jax.random.key(5)
    _, metrics = step(key, state, given)
    heads = forward(nets.encoder, state.encoder, given["x"][:, 0] / np.float32(UNIT) - state.centre[None])
    mean, log_var = np.split(np.asarray(heads, np.float64), 2, axis=1)
    noise = np.asarray(jax.random.normal(key, (3, *mean.shape)))
    cost = [
        by_hand(given["x"], np.asarray(nets.decode(state, jnp.asarray(mean + np.exp(log_var / 2) * e, jnp.float32))), kind)
        for e in noise
    ]
    kl = 0.5 * (mean**2 + np.exp(log_var) - 1 - log_var).sum(1)
    np.testing.assert_allclose(metrics["loss"], (np.mean(cost, 0) + 0.7 * kl)[:11].mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["kl"], kl[:11].mean(), rtol=1e-4)
    out = np.asarray(nets.decode(state, jnp.asarray(mean, jnp.float32)))
    expected = (by_hand(given["x"], out, kind) + 0.7 * kl)[:11].mean()
    np.testing.assert_allclose(validate(state, given), expected, rtol=1e-4)


@pytest.mark.parametrize("kind", ["ivar", "learnt"])
def test_weighted_mse_is_equation_6(kind):
    """Divided by all pixels, as in the paper."""
    _, made, state, _, _, score = started(likelihood=kind)
    x, ids = spectra(5), np.arange(5)
    scores = score(state, x, ids)
    rebuilt = make_reconstructor(made)(state, x, ids)["reconstruction"]
    assert rebuilt.shape == x.shape
    np.testing.assert_array_equal(rebuilt[:, 1], x[:, 1])
    expected = [
        sum(w * (a - b) ** 2 for a, w, b in zip(flux, ivar, other)) / PIXELS for (flux, ivar), (other, _) in zip(x, rebuilt)
    ]
    np.testing.assert_allclose(scores["weighted_mse"], expected, rtol=1e-4)
    np.testing.assert_array_equal(scores["score"], scores["weighted_mse"])
    np.testing.assert_allclose(scores["unmasked"], (x[:, 1] > 0).mean(1), rtol=1e-6)


def test_probability_converges_to_the_closed_form_of_a_linear_decoder():
    """E over z ~ N(m, S) of |A z + b - x|^2 ivar / 2 is that at m plus the trace of A' ivar A S, halved."""
    nets, made, state, *_ = started(hidden=(), latent=3, samples=100_000, score_by="probability")
    kernel, bias = (UNIT * np.asarray(state.decoder["params"]["Dense_0"][name], np.float64) for name in ("kernel", "bias"))
    x = spectra(1, seed=3)
    mean, log_var = (np.asarray(part[0], np.float64) for part in nets.encode(state, x))
    difference, ivar = mean @ kernel + bias + UNIT * np.asarray(state.centre) - x[0, 0], x[0, 1]
    expected = 0.5 * (ivar * (difference**2 + np.exp(log_var) @ kernel**2)).sum()
    scores = jax.jit(made.score)(jax.random.key(0), state, {"x": x[0]})
    np.testing.assert_allclose(scores["score"], expected, rtol=1e-2)
    assert scores["score"] == scores["probability"]


@pytest.mark.parametrize("kind", ["ivar", "learnt"])
def test_pixels_add_up_to_the_scores(kind):
    """The terms of an object's scores, mapped over a catalogue by the same engine."""
    nets, made, state, _, _, score = started(likelihood=kind)
    x, ids = spectra(6), np.arange(6) + 7
    whole = score(state, x, ids)
    parts = make_scorer(made._replace(score=vae_pixels.by_pixel(nets, 4)))(state, x, ids)
    masked = x[:, 1] == 0
    for values in parts.values():
        np.testing.assert_array_equal(np.isnan(values), masked)
    np.testing.assert_allclose(np.nansum(parts["residual"] ** 2, axis=1) / PIXELS, whole["weighted_mse"], rtol=1e-4)
    np.testing.assert_allclose(np.nansum(parts["probability"], axis=1), whole["probability"], rtol=1e-4)
    rebuilt = make_reconstructor(made)(state, x, ids)["reconstruction"]
    by_numpy = (x[:, 0] - rebuilt[:, 0]) * np.sqrt(np.where(masked, np.nan, x[:, 1]))
    np.testing.assert_allclose(by_numpy, parts["residual"], rtol=1e-3, atol=1e-3)


# Residuals that hang together


@pytest.mark.parametrize("kind", ["ivar", "learnt"])
def test_coherent_is_the_largest_signal_to_noise_of_a_window(kind):
    _, made, state, _, _, score = started(likelihood=kind, windows=(3, 5))
    x, ids = spectra(6), np.arange(6)
    found = score(state, x, ids)["coherent"]
    residual = x[:, 0] - make_reconstructor(made)(state, x, ids)["reconstruction"][:, 0]
    expected = [
        max(
            abs(np.sum(w[a : a + width] * d[a : a + width])) / max(np.sqrt(np.sum(w[a : a + width])), 1e-9)
            for width in (3, 5)
            for a in range(PIXELS - width + 1)
        )
        for d, w in zip(residual.astype(np.float64), x[:, 1].astype(np.float64))
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_coherent_hears_a_step_that_the_mean_square_does_not():
    """600 pixels, of which 200 are half a standard deviation too bright, among noise."""
    noise = np.random.default_rng(0).normal(size=(500, 600))
    step = noise[:50].copy()
    step[:, 200:400] += 0.5
    both, ivar = np.concatenate([noise, step]), np.ones((550, 600))
    score = np.asarray(coherent(jnp.asarray(both, jnp.float32), jnp.asarray(ivar, jnp.float32), (60, 150)))
    assert score[500:].min() > np.quantile(score[:500], 0.9)
    assert np.median(score[500:]) == pytest.approx(0.5 * np.sqrt(150) + 0.8, abs=0.5)
    error = (both**2).mean(1)
    assert np.median(error[500:]) < np.quantile(error[:500], 0.97)


def held(pixels: int, width: int) -> np.ndarray:
    """Which pixels ``(pixels, windows)`` are in which window."""
    return np.asarray(sums(jnp.eye(pixels), width))


@pytest.mark.parametrize("width", [1, 2, 7, 8, 40, 60, 63, 100])
def test_windows_are_whole_and_cover_every_pixel(width):
    found = held(100, width)
    assert set(found.ravel()) <= {0.0, 1.0}
    np.testing.assert_array_equal(found.sum(0), width)
    assert found.any(1).all()
    assert (np.abs(np.diff(found, axis=0)).sum(0) + found[0] + found[-1] == 2).all()  # of pixels side by side
    assert found[-1, -1] == 1


@pytest.mark.parametrize("width", [8, 60, 150])
def test_as_many_pixels_as_a_window_has_are_nearly_all_in_one(width):
    found = held(1000, width)
    for start in range(1000 - width + 1):
        assert found[start : start + width].sum(0).max() >= 7 / 8 * width


def test_a_masked_window_counts_for_nothing_and_large_weights_do_not_overflow():
    difference, weight = np.zeros((3, 20), np.float32), np.ones((3, 20), np.float32)
    difference[:2, 12] = 3.0
    weight[1, 10:] = 0.0
    weight[2], difference[2, 4] = 1.5e38, 1e-18
    found = np.asarray(coherent(jnp.asarray(difference), jnp.asarray(weight), (5,)))
    expected = 3 / np.sqrt(5), 0.0, 1e-18 * np.sqrt(1.5e38) / np.sqrt(5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert coherent(jnp.zeros((1, 20)), jnp.zeros((1, 20)), (5,)) == 0
    wide = [coherent(jnp.asarray(difference), jnp.asarray(weight), (width,)) for width in (20, 500)]
    np.testing.assert_array_equal(*wide)


def test_windows_that_cannot_be():
    with pytest.raises(ConfigError, match="windows"):
        configure({**TINY, "windows": (1,)})


def test_windows_are_for_spectra():
    with pytest.raises(ConfigError, match="windows are for spectra"):
        configure({"name": "vae", "windows": (3,)})
    config = configure({**TINY, "likelihood": "learnt", "windows": (3,)})
    with pytest.raises(ConfigError, match="windows are for spectra"):
        build(config, Plan(6, 12, 2, 2, shape=(6,)))
    made = build(configure({**TINY, "likelihood": "learnt"}), Plan(6, 12, 2, 2, shape=(6,)))
    state = jax.jit(made.stages[0].init)(jax.random.key(1), {"x": np.ones((4, 6), np.float32)}, None)
    assert "coherent" not in made.score(jax.random.key(0), state, {"x": np.ones(6, np.float32)})


# Masked pixels


@pytest.mark.parametrize("kind", ["ivar", "learnt"])
@pytest.mark.parametrize("value", [1e6, -1e30])
def test_what_stands_in_a_masked_pixel_is_without_weight(kind, value):
    """Bit for bit, in the cost and its gradient, the score and its parts, for an encoder that does not see the pixel.

    The encoder does see it: that is what infilling is for. Here its weights for that pixel are zero.
    """
    nets, _, state, step, validate, score = started(likelihood=kind)
    first = state.encoder["params"]["Dense_0"]
    blind = {**state.encoder["params"], "Dense_0": {**first, "kernel": first["kernel"].at[3].set(0.0)}}
    state = state._replace(encoder={"params": blind})

    @jax.jit
    @jax.value_and_grad
    def cost(params, x):
        codes, _ = nets.encode(state, x)
        return nets.likelihood.cost(x, forward(nets.decoder, {"params": params}, codes)).sum()

    results = []
    for filler in (0.25, value):
        x = spectra(BATCH)
        x[:, 1, 3], x[:, 0, 3] = 0.0, filler
        after, metrics = step(jax.random.key(2), state, batch(x=x))
        scores = score(state, x, np.arange(BATCH))
        parts = after.decoder["params"], metrics, scores, validate(state, batch(x=x))
        results.append([cost(state.decoder["params"], x), *parts])
    for a, b in zip(*map(jax.tree.leaves, results)):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("ivar", [0.0, -1.0, np.nan])
def test_a_spectrum_without_a_good_pixel_has_no_score(ivar):
    """Not the lowest score there is; and its neighbours are none the worse, in training neither."""
    *_, state, step, _, score = started()
    x = spectra(BATCH)
    expected = score(state, x[:4], np.arange(4))
    x[2, 1] = ivar
    found = score(state, x[:4], np.arange(4))
    others = [0, 1, 3]
    for name in ("score", "weighted_mse", "probability", "coherent"):
        assert np.isnan(found[name][2])
        np.testing.assert_array_equal(found[name][others], expected[name][others])
    assert found["unmasked"][2] == 0
    after, metrics = step(jax.random.key(0), state, batch(x=x))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after, metrics)))


# The paper's network


def test_the_papers_network_is_the_default_of_spectra():
    """The 1,000 at the head of the paper's list is the input."""
    config = configure({"name": "vae", "likelihood": "ivar"})
    made = build(config, Plan(2000, 10, 2, 2, shape=(2, 1000)))
    state = jax.eval_shape(made.stages[0].init, jax.random.key(0), {"x": np.zeros((4, 2, 1000), np.float32)}, None)
    for part, widths in {"encoder": (1000, 800, 600, 500, 300, 20), "decoder": (10, 300, 500, 600, 800, 1000)}.items():
        layers = getattr(state, part)["params"]
        assert set(getattr(state, part)) == {"params"}
        kernels = [layers[f"Dense_{i}"]["kernel"].shape for i in range(5)]
        assert kernels == list(zip(widths, widths[1:]))
    assert (config.dropout, config.activation, config.output, config.plateau, config.learning_rate) == (
        *(0.2, "relu", "none", 5),
        1e-3,
    )
    assert configure({"name": "vae", "likelihood": "ivar", "latent": 6}).hidden == (800, 600, 500, 300)
    plain = configure({"name": "vae"})
    assert (plain.dropout, plain.plateau, plain.score_by, plain.hidden) == (0, 0, None, (512, 256, 128))


@pytest.mark.parametrize(
    ("options", "shape", "words"),
    [
        ({}, (8,), "no inverse variance"),
        ({}, (8, 8, 1), "no inverse variance"),
        ({"likelihood": "fixed", "score_by": "probability"}, (8,), "score_by"),
        ({"likelihood": "fixed", "samples": 0}, (8,), "samples"),
        ({"sigma": 0.5}, (2, 8), "sigma"),
        ({"sigma_floor": 1e-3}, (2, 8), "sigma_floor"),
        ({"likelihood": "fixed", "sigma_floor": 1e-3}, (8,), "sigma_floor"),
        ({"samples": 0, "score_by": "probability"}, (2, 8), "samples"),
        ({"likelihood": "iva"}, (2, 8), "likelihood"),
        ({"dropout": 1.0}, (2, 8), "dropout"),
    ],
)
def test_what_cannot_be_built_is_said(options, shape, words):
    with pytest.raises(ConfigError, match=words):
        build(configure({**TINY, **options}), Plan(int(np.prod(shape)), 4, 2, 2, shape=shape))


def test_dropout_is_for_training_alone():
    """Scores are those of the network without it; training losses vary with the key beyond what the drawn codes do."""
    made, plain = started(dropout=0.5), started()
    state, x = plain.state, spectra(4)
    for a, b in zip(*(m.score(state, x, np.arange(4)).values() for m in (made, plain))):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(made.validate(state, batch()), plain.validate(state, batch()))
    dropped, whole = (m.step(jax.random.key(3), state, batch())[1]["loss"] for m in (made, plain))
    assert dropped != whole


# The plateau rule


def by_rule(losses: list[float], patience: int, factor: float = 0.1) -> list[float]:
    """Learning rate factor after each epoch: the rule in the paper's words."""
    rate, best, since, rates = 1.0, np.inf, 0, []
    for loss in losses:
        best, since = (loss, 0) if loss < best else (best, since + 1)
        if since == patience:
            rate, since = rate * factor, 0
        rates.append(rate)
    return rates


@pytest.mark.parametrize(
    "losses", [[5, 4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3], [-1, -2, -2, -1.9, -2.1, 0, 0, 0], [1, np.nan] * 4]
)
def test_plateau_rule_against_a_simulation(losses):
    tx = plateau.scaled(optax.sgd(1.0))
    state, rates = tx.init(jnp.zeros(2)), []
    for loss in losses:
        state = plateau.judged(state, jnp.float32(loss), patience=3, factor=0.1)
        updates, state = tx.update(jnp.ones(2), state, jnp.zeros(2))
        rates.append(-float(updates[0]))
    np.testing.assert_allclose(rates, by_rule(losses, 3), rtol=1e-5)
    assert min(rates) < 1


EPOCHS = 9


@cache
def table(held_out: bool) -> Feed:
    valid = {"x": spectra(24, seed=1)} if held_out else None
    return resident({"x": spectra(40)}, seed=0, batch_size=BATCH, valid=valid)


def trained(feed: Feed, hooks: Hooks = Hooks(), select: bool = False, **options) -> Fitted:  # noqa: B008
    """A run at a learning rate so high that the losses do not fall for long; three steps an epoch."""
    values = configure({**TINY, "plateau": 2, "learning_rate": 1.0})
    made = build(values, PLAN._replace(num_steps=3 * EPOCHS, steps_per_epoch=3))
    return fit(keep_best(made, 3) if select else made, feed, seed=2, log_every=1, hooks=hooks, **options)


@pytest.mark.parametrize("held_out", [True, False])
def test_plateau_sees_the_loss_once_an_epoch(held_out):
    """The rate after every update, against the rule applied to the logged losses."""
    rows = trained(table(held_out)).metrics
    assert table(held_out).steps_per_epoch == 3
    by_epoch = np.array([row["loss"] for row in rows]).reshape(-1, 3) @ [0.4, 0.4, 0.2]  # the last batch is half padding
    losses = [row["validation"] for row in rows][2::3] if held_out else by_epoch
    assert ("validation" in rows[0]) == held_out
    rates = by_rule(list(losses), 2)
    assert rates[-1] < 1
    during = [1.0, *rates[:-1]]  # lowered at an epoch's last update, not before
    expected = np.stack([during, during, rates], axis=1).ravel()
    np.testing.assert_allclose([row["rate"] for row in rows], expected, rtol=1e-5)


@pytest.mark.parametrize("select", [False, True])
def test_a_run_resumed_on_a_plateau_is_the_same_to_the_bit(select):
    """In the middle of an epoch too; and with the held-out rows handed on by the selection of the best state."""
    kept = {}

    def keep(stage, name, step, total, state, complaints):
        kept[step] = jax.device_get(state)

    whole = trained(table(True), Hooks(on_checkpoint=keep), select, checkpoint_every=1)
    since = {step: int((held.state if select else held).opt.since) for step, held in kept.items()}
    middle = next(step for step, epochs in since.items() if step % 3 == 1 and epochs == 1)

    def resume(index, abstract):
        return Saved(index, middle, jax.device_put(kept[middle]))

    again = trained(table(True), Hooks(resume=resume), select, steps_per_call=5)
    assert digest(again.state) == digest(whole.state)
    assert again.metrics == whole.metrics[middle:]
    assert again.metrics[-1]["rate"] < 1


def test_a_streamed_feed_may_have_held_out_rows():
    """`with_valid` gives any feed what `resident` gives: same rows, same rates."""
    x, feed = spectra(40), table(False)

    def rows(start):
        return ({"x": x[b["index"]], "mask": b["mask"]} for b in feed.batches(start))

    streamed = with_valid(feed._replace(batches=rows, data={}), {"x": spectra(24, seed=1)})
    assert streamed.fingerprint != feed.fingerprint
    assert digest(trained(streamed).state) == digest(trained(table(True)).state)


def test_learnt_likelihood_of_plain_vectors():
    """No inverse variance: every number weighs 1, and the weighted error is the plain one."""
    x = RNG.normal(size=(5, 6)).astype(np.float32)
    out = RNG.normal(size=(5, 12)).astype(np.float32)
    found = likelihoods.learnt(0.1)
    sigma = np.sqrt(0.01 + np.exp(out[:, 6:]))
    np.testing.assert_allclose(found.cost(x, out), -norm.logpdf(x, out[:, :6], sigma).sum(1), rtol=1e-4)
    np.testing.assert_allclose(found.error(x, out), ((x - out[:, :6]) ** 2).mean(1), rtol=1e-5)
    np.testing.assert_array_equal(found.rebuilt(x, out), out[:, :6])


def test_pixels_of_a_fixed_width_add_up_to_its_cost():
    likelihood = likelihoods.fixed(0.5)
    x, out = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    residual, cost = likelihood.pixels(x, out)
    np.testing.assert_allclose(residual, (x - out) / 0.5, rtol=1e-6)
    np.testing.assert_allclose(cost.sum(1), likelihood.cost(x, out), rtol=1e-5)

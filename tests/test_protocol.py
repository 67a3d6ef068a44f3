"""Trainings side by side are the trainings themselves."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from astroad_jax.analysis.protocol import Case, Training, run
from astroad_jax.engine.ensemble import Best, best_of, keep_best, member, stack
from astroad_jax.engine.feed import members, resident
from astroad_jax.engine.train import fit
from astroad_jax.errors import ConfigError, DataError
from astroad_jax.methods import build, configure
from astroad_jax.sampling import row_order
from astroad_jax.types import Plan

TINY = {"hidden": (6,), "latent": 2}
METHODS = {
    "vae": TINY,
    "mcdsvdd": {**TINY, "pretrain_epochs": 1},
}


def case(number: int, classes: int = 2, rows: int = 40) -> Case:
    rng = np.random.default_rng(number)
    y = (np.arange(rows) % classes).astype(np.int32)
    x = (rng.normal(size=(rows, 5)) + y[:, None]).astype(np.float32)
    test = rng.normal(size=(12, 5)).astype(np.float32)
    return Case(f"case {number}", number, x, y, test, np.arange(12) < 3, x[:8] + 0.1, y[:8])


def outcomes(name: str, cases: list[Case], count: int, select: int = 1) -> dict[str, dict[str, np.ndarray]]:
    training = Training(epochs=3, batch_size=16, members=count, select_every=select, progress=False)
    config = configure({"name": name, **METHODS[name]})
    return {o.case.name: o.scores for o in run(cases, lambda plan: build(config, plan), training)}


@pytest.mark.parametrize("name", ["vae", "mcdsvdd"])
def test_companions_and_order_do_not_matter(name):
    cases = [case(0), case(1), case(2, classes=3)]
    alone = outcomes(name, cases, 1)
    together = outcomes(name, cases[::-1], 3)
    assert set(alone) == set(together) == {own.name for own in cases}
    for own in cases:
        assert set(alone[own.name]) == set(together[own.name])
        for part, values in alone[own.name].items():
            np.testing.assert_allclose(together[own.name][part], values, rtol=5e-3, atol=1e-4, err_msg=part)
    assert not np.allclose(alone["case 0"]["score"], alone["case 1"]["score"])


def test_a_class_without_rows_is_nowhere_near():
    """A centre at the origin for a class that nobody belongs to would draw the faintest objects to it."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 4)).astype(np.float32), (np.arange(64) % 2).astype(np.int32)
    feed = resident({"x": x, "y": y}, seed=0, batch_size=32)
    method = build(configure({"name": "mcdsvdd", **METHODS["mcdsvdd"]}), Plan(4, 4, 2, 2, num_classes=3))
    state = fit(method, feed).state
    scores = jax.vmap(lambda row: method.score(jax.random.key(0), state, {"x": row}))(x)
    assert np.isfinite(scores["score"]).all()
    assert set(np.unique(scores["nearest_class"])) <= {0, 1}


@pytest.mark.parametrize("every", [1, 3, 1000])
def test_the_best_state_is_kept_and_the_last_counts(every):
    own = case(5)
    feed = resident({"x": own.x, "y": own.y}, seed=0, batch_size=20, valid={"x": own.x_valid, "y": own.y_valid})
    base = build(configure({"name": "autoencoder", **TINY}), Plan(5, 8, 2, 2))
    seen: list[float] = []
    stage = base.stages[0]

    def validate(state, batch):
        value = stage.validate(state, batch)
        jax.debug.callback(lambda v: seen.append(float(v)), value)
        return value

    method = keep_best(base._replace(stages=(stage._replace(validate=validate),)), every)
    state = fit(method, feed).state
    jax.effects_barrier()
    assert isinstance(state, Best)
    assert float(state.value) == min(seen[-len(range(every, 8, every)) - 1 :])
    valid = {**feed.data["valid"], "mask": np.ones(8, np.float32)}
    assert float(stage.validate(best_of(state), valid)) == pytest.approx(float(state.value), rel=1e-5)
    assert int(state.at) > 0


def test_members_of_a_stack():
    state = {"a": np.arange(6).reshape(3, 2), "b": np.arange(3)}
    assert member(state, 1)["a"].tolist() == [2, 3]
    assert member(state, 1)["b"] == 1


def test_stacked_states_start_like_their_members():
    base = build(configure({"name": "autoencoder", **TINY}), Plan(5, 1, 1, 1))
    keys = jax.vmap(jax.random.key)(np.arange(3, dtype=np.uint32))
    batch = {"x": np.ones((3, 4, 5), np.float32), "mask": np.ones((3, 4), np.float32)}
    whole = stack(base).stages[0].init(keys, batch, None)
    for m in range(3):
        alone = base.stages[0].init(jax.random.key(m), {"x": batch["x"][m], "mask": batch["mask"][m]}, None)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), member(whole, m), alone)
    key, example = jax.random.key(9), {"x": np.linspace(-1, 1, 5, dtype=np.float32)}
    together = stack(base)
    scores, codes = together.score(key, whole, example)["score"], together.embed(whole, example)
    rebuilt = together.reconstruct(key, whole, example)
    for m in range(3):
        own = member(whole, m)
        np.testing.assert_allclose(scores[m], base.score(key, own, example)["score"], rtol=1e-5)
        np.testing.assert_allclose(codes[m], base.embed(own, example), rtol=1e-5)
        np.testing.assert_allclose(rebuilt[m], base.reconstruct(key, own, example), rtol=1e-5)


def test_plain_passes_of_members_show_every_row_once():
    rows = [np.arange(10), np.arange(10, 33)]
    feed = members(rows, {"x": np.zeros((33, 2), np.float32)}, batch_size=8, seeds=[0, 1])
    for epoch in range(2):
        passes = feed.passes(epoch * feed.steps_per_pass)
        batches = [next(passes) for _ in range(feed.steps_per_pass)]
        for m, own in enumerate(rows):
            shown = np.concatenate([batch["index"][m][batch["mask"][m] > 0] for batch in batches])
            assert sorted(shown.tolist()) == own.tolist()


def test_balanced_batches_need_a_class():
    with pytest.raises(DataError, match="no row has a class"):
        resident({"x": np.zeros((4, 2)), "y": np.full(4, -1)}, seed=0, batch_size=2, balance=True)
    with pytest.raises(DataError, match="do not fit"):
        row_order(5, seed=0, batch_size=2, labels=np.zeros(3, int))


def test_a_soft_boundary_that_would_never_be_set():
    config = configure({"name": "deep_svdd", "soft_boundary": True, **TINY})
    with pytest.raises(ConfigError, match="never be set"):
        build(config, Plan(5, num_steps=20, steps_per_epoch=4, steps_per_pass=4))


def test_a_feed_that_ends_early_is_an_error():
    feed = resident({"x": np.zeros((32, 5), np.float32)}, seed=0, batch_size=16)
    short = feed._replace(batches=lambda start: (batch for batch, _ in zip(feed.batches(start), range(3))))
    with pytest.raises(DataError, match="feed ended before"):
        fit(build(configure({"name": "autoencoder", **TINY}), Plan(5, 8, 2, 2)), short)

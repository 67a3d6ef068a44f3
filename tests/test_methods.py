"""The conformance test: what the loop and the scorer rely on, for every method and every variant of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
import pytest

from astroad_jax.config import Frozen
from astroad_jax.engine import checkpoint
from astroad_jax.engine.explain import make_explainer
from astroad_jax.engine.score import make_embedder, make_reconstructor, make_scorer
from astroad_jax.engine.train import Fitted, Hooks, Saved, fit, pick
from astroad_jax.methods import METHODS, build, configure
from astroad_jax.types import Method, Plan, Search, Stage
from tests import toy

NAMES = list(toy.VARIANTS)
AGAINST_RECONSTRUCTION = {"autoencoder", "vae", "vae-ivar", "conv_autoencoder", "wgan_gp", "fanogan", "fanogan-search"}


class Trained(NamedTuple):
    name: str
    method: Method
    fitted: Fitted
    saved: dict[int, tuple[int, str, int, Any]]  # total step -> stage, its name, step in it and state, on the way
    jitted: list[tuple[Callable, Callable]]  # init and step of every stage, compiled once for all tests

    def walk(self, batch: dict, steps: int) -> Iterator[tuple[Stage, Any, dict]]:
        """Run a few steps of every stage on one batch."""
        state = None
        for number, (stage, (init, step)) in enumerate(zip(self.method.stages, self.jitted)):
            state = init(jax.random.key(number), batch, state)
            for i in range(steps):
                state, metrics = step(jax.random.key(i), state, batch)
            yield stage, state, metrics


@pytest.fixture(scope="module", params=NAMES)
def trained(request) -> Trained:
    saved: dict[int, tuple[int, str, int, Any]] = {}

    def keep(stage: int, name: str, step: int, total: int, state: Any, complaints: Any) -> None:
        saved[total] = (stage, name, step, jax.device_get(state))

    options = {"checkpoint_every": 11 * toy.feed(request.param).steps_per_epoch, "hooks": Hooks(on_checkpoint=keep)}
    made, fitted = toy.train(request.param, **options)
    jitted = [(jax.jit(stage.init), jax.jit(stage.step)) for stage in made.stages]
    return Trained(request.param, made, fitted, saved, jitted)


def test_method_contract(trained):
    made = trained.method
    assert isinstance(made, Method)
    assert made.stages
    assert all(isinstance(stage, Stage) for stage in made.stages)
    assert len({stage.name for stage in made.stages}) == len(made.stages)
    assert all(stage.num_steps > 0 for stage in made.stages)


def test_init_needs_only_shapes(trained):
    name, made, fitted, *_ = trained
    batches = toy.feed(name)
    batch = pick(batches.data, next(batches.batches(0)))
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), np.asarray(a).dtype), dict(batch))
    state = None
    for stage in made.stages:
        state = jax.eval_shape(stage.init, jax.random.key(0), shapes, state)
    assert jax.tree.structure(state) == jax.tree.structure(fitted.state)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), state) == jax.tree.map(lambda a: (a.shape, a.dtype), fitted.state)


@pytest.mark.parametrize("name", ["mcdsvdd", "dasvdd"])
def test_each_stage_is_traced_once(name):
    batches = toy.feed(name)
    traces = []

    def counting(stage: Stage) -> Stage:
        def step(key, state, batch):
            traces.append(stage.name)
            return stage.step(key, state, batch)

        return stage._replace(step=step)

    made = toy.method(name, batches, epochs=3)
    made = made._replace(stages=tuple(counting(stage) for stage in made.stages))
    fit(made, batches, steps_per_call=7, log_every=5, checkpoint_every=10)
    # eval_shape of the metrics and the compiled loop: both belong to one tracing of the call
    assert {traces.count(stage.name) for stage in made.stages} == {2}


def test_training_improves(trained):
    name, _, fitted, *_ = trained
    last = fitted.metrics[-1]["stage"]
    losses = [row["loss"] for row in fitted.metrics if row["stage"] == last]
    assert losses[-1] < 0.8 * losses[0], name


def test_planted_outlier_is_strange(trained):
    name, made, fitted, *_ = trained
    x, _ = toy.mixture(400, seed=9)
    both = toy.shaped(name, np.concatenate([x, toy.outliers()]))
    scores = make_scorer(made)(fitted.state, both, np.arange(len(both)))["score"]
    assert np.isfinite(scores).all()
    assert (scores[400:] > np.quantile(scores[:400], 0.99)).all()


@pytest.mark.parametrize("batch_size", [1, 7, 96, 4096])
def test_score_belongs_to_the_object_alone(trained, batch_size):
    name, made, fitted, *_ = trained
    x = toy.shaped(name, toy.mixture(203, seed=4)[0])
    ids = np.arange(203) + 2**60
    reference = make_scorer(made, batch_size=64)(fitted.state, x, ids)
    order = np.random.default_rng(batch_size).permutation(203)
    shuffled = make_scorer(made, batch_size=batch_size)(fitted.state, x[order], ids[order])
    for part, values in reference.items():
        np.testing.assert_array_equal(shuffled[part], values[order], err_msg=part)


def test_contributions_add_up_to_the_score(trained):
    name, made, fitted, *_ = trained
    x = toy.shaped(name, np.concatenate([toy.mixture(2, seed=9)[0], toy.outliers()[:2]]))
    ids = np.arange(len(x)) + 2**60
    scores = make_scorer(made, slots=len(x))(fitted.state, x, ids)["score"]
    if isinstance(made.score, Search):
        start = make_reconstructor(made, slots=len(x))(fitted.state, x, ids)["reconstruction"]
    else:
        start = np.broadcast_to(np.median(toy.shaped(name, toy.mixture(100)[0]), axis=0), x.shape)
    shares = make_explainer(made)(fitted.state, x, ids, start)
    np.testing.assert_allclose(shares.value, scores, rtol=1e-4)
    assert (shares.error() < 5e-3).all()
    assert (np.abs(shares.contribution).reshape(len(x), -1).max(axis=1) > 0).all()
    if name in AGAINST_RECONSTRUCTION:  # where the explanation starts, nothing is strange
        assert (np.abs(shares.base) <= 1e-5 * shares.value).all()


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_constant_input_leaves_everything_finite(trained, value):
    batch = {
        "x": np.full((toy.BATCH, *toy.shape(trained.name)), value, np.float32),
        "y": np.zeros(toy.BATCH, np.int32),
        "mask": np.ones(toy.BATCH, np.float32),
    }
    for stage, state, _ in trained.walk(batch, steps=3):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)), stage.name


def test_padding_changes_nothing(trained):
    """A batch with masked rows of nonsense trains as the same batch with other nonsense."""
    x, y = toy.mixture(toy.BATCH, seed=5)
    mask = (np.arange(toy.BATCH) < 40).astype(np.float32)
    results = []
    for filler in (0.0, 0.7):
        filled = toy.shaped(trained.name, np.where(mask[:, None] > 0, x, np.float32(filler)))
        batch = {"x": filled, "y": y, "mask": mask}
        results.append([(state, metrics) for _, state, metrics in trained.walk(batch, steps=2)])
    for a, b in zip(*map(jax.tree.leaves, results)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_resumed_run_equals_unbroken_run(trained, tmp_path):
    """From the last checkpoint but one, in calls of another length."""
    name, made, fitted, saved, _ = trained
    batches, total = toy.feed(name), sorted(saved)[-2]
    stage, stage_name, step, state = saved[total]
    checkpoint.save(tmp_path, checkpoint.Position(stage, stage_name, step), total, state, keep=1)

    def resume(index, abstract):
        return Saved(index, step, checkpoint.restore(tmp_path / f"step_{total:09d}", abstract))

    options = {"seed": 3, "log_every": batches.steps_per_epoch, "steps_per_call": 5}
    again = fit(made, batches, hooks=Hooks(resume=resume, resume_stage=stage), **options)
    assert checkpoint.digest(again.state) == checkpoint.digest(fitted.state)
    assert again.metrics == [row for row in fitted.metrics if row["total_step"] > total]


def test_frozen_parts_stay_frozen(trained):
    x, y = toy.mixture(toy.BATCH)
    batch = {"x": toy.shaped(trained.name, x), "y": y, "mask": np.ones(toy.BATCH, np.float32)}
    before = trained.fitted.state
    after, _ = trained.jitted[-1][1](jax.random.key(0), before, batch)
    frozen = {"mcdsvdd": ["centres"], "deep_svdd": ["centres"], "dasvdd": ["gamma"], "fanogan": ["gan"]}
    fields = frozen.get(trained.name.partition("-")[0], []) + (["centre"] if trained.name == "dasvdd-fixed" else [])
    for field in fields:
        jax.tree.map(np.testing.assert_array_equal, getattr(after, field), getattr(before, field))
    assert checkpoint.digest(after) != checkpoint.digest(before)


def test_embedding_and_reconstruction(trained):
    name, made, fitted, *_ = trained
    x = toy.shaped(name, toy.mixture(20, seed=2)[0])
    codes = make_embedder(made)(fitted.state, x, np.arange(20))["embedding"]
    width = 4 * 4 * 8 if name == "wgan_gp" else 4  # the critic's features, or the code
    assert codes.shape == (20, width)
    assert np.isfinite(codes).all()
    if made.reconstruct is not None or isinstance(made.score, Search):
        rebuilt = make_reconstructor(made)(fitted.state, x, np.arange(20))["reconstruction"]
        assert rebuilt.shape == x.shape


@pytest.mark.parametrize("name", list(METHODS))
def test_default_configuration_builds(name):
    shape = (64, 64, 3) if name in toy.IMAGE_METHODS else (152,)
    made = build(configure({"name": name}), Plan(int(np.prod(shape)), 10, 5, 5, 3, shape=shape))
    batch = {"x": np.zeros((4, *shape), np.float32), "y": np.zeros(4, np.int32), "mask": np.ones(4, np.float32)}
    state = None
    for stage in made.stages:
        state = jax.eval_shape(stage.init, jax.random.key(0), batch, state)
    scores = jax.eval_shape(_scored(made), jax.random.key(0), state, {"x": np.zeros(shape, np.float32)})
    assert scores["score"].shape == ()


@pytest.mark.parametrize("name", list(toy.VARIANTS))
def test_tunable_keys_leave_the_arrays_of_every_stage_as_they_are(name):
    """A run may begin at a checkpoint of another in which they differ; the rest of a method's keys are what it is."""
    batches, values = toy.feed(name), configure(toy.VARIANTS[name])
    batch = pick(batches.data, next(batches.batches(0)))

    def arrays(config: Frozen) -> list:
        made, states = build(config, toy.plan(name, batches, 9)), [None]
        for stage in made.stages:
            states.append(jax.eval_shape(stage.init, jax.random.key(0), batch, states[-1]))
        return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(states)]

    expected, others = arrays(values), {key: other(values, key) for key in values.TUNABLE}
    if name not in toy.SPECTRA:
        others = {key: value for key, value in others.items() if key not in ("windows", "score_by")}  # of spectra alone
    assert all(value != getattr(values, key) for key, value in others.items())
    for key, value in others.items():
        assert arrays(values.model_copy(update={key: value})) == expected, key
    assert "learning_rate" in others
    assert not {"latent", "width", "hidden", "norm", "compute", "code", "likelihood"} & set(others)


def other(values: Frozen, key: str) -> object:
    """Another value of a key."""
    value, kinds = getattr(values, key), get_args(type(values).model_fields[key].annotation)
    if isinstance(value, bool | str):
        return next(kind for kind in kinds if kind != value)
    if key == "score_by":
        return "weighted_mse"
    if isinstance(value, tuple):
        return (*value, 3)
    return 1 if value is None or value == 0 else value / 2 if isinstance(value, float) else value + 1


def _scored(made: Method) -> Callable:
    """A method's score; of a search, one iteration."""
    search = made.score
    if not isinstance(search, Search):
        return search

    def score(key, state, example):
        carry = search.step(state, example, search.init(key, state, example))
        assert search.done(carry).shape == ()
        return search.finish(state, example, carry)

    return score
